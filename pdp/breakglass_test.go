package pdp_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/store"
)

var (
	fire    = oidc("fire@example.com")
	captain = pdp.Person{Name: "captain@example.com", How: pdp.KnownByMTLS}
	byGroup = pdp.Person{Name: "zoe@example.com", How: pdp.KnownByOIDC, Groups: []string{"staff", "emergency"}}
)

// stationPolicy is deskPolicy with people who may break the glass.
var stationPolicy = strings.Replace(deskPolicy, "approvers:\n",
	"approvers:\n  breakglass: {members: [fire@example.com, captain@example.com, cleaner, \"oidc-group:emergency\"]}\n", 1)

// change puts another policy of the station in force.
func (o *office) change(tb testing.TB, was, is string) {
	tb.Helper()
	if !strings.Contains(stationPolicy, was) {
		tb.Fatalf("the policy has no %q", was)
	}
	o.source.p.Store(compile(tb, strings.Replace(stationPolicy, was, is, 1)))
}

// newStation is an office whose policy has people who may break the glass.
func newStation(tb testing.TB, change ...func(*pdp.DeskConfig)) *office {
	tb.Helper()
	o := newOffice(tb, 1, change...)
	o.source.p.Store(compile(tb, stationPolicy))
	return o
}

func (o *office) breaks(tb testing.TB, order pdp.BreakGlassOrder) *pdp.ApprovalRecord {
	tb.Helper()
	if order.Agent == "" {
		order.Agent = "cleaner"
	}
	order.Reason, order.Ticket = "the site is down", "INC-7"
	r, err := o.desk.BreakGlass(context.Background(), &order)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// Calls that would wait go through while the glass is broken, of any risk, and no
// longer; somebody else reviews it afterwards.
func TestBreakGlass(t *testing.T) {
	t.Parallel()
	o := newStation(t)
	r := o.breaks(t, pdp.BreakGlassOrder{Person: fire})
	if r.State != pdp.ApprovalApproved || !r.ExpiresAt.Equal(testStart.Add(15*time.Minute)) || r.Grant.BreakGlass.Ticket != "INC-7" {
		t.Errorf("%+v", r)
	}
	o.want(t, removeNote, pdp.Allow, pdp.ReasonOKBreakglass)
	o.want(t, removeNote, pdp.Allow, pdp.ReasonOKBreakglass)
	o.want(t, payRent, pdp.Allow, pdp.ReasonOKBreakglass)
	o.want(t, call("sweeper", "delete", "notes/1"), pdp.RequireApproval, pdp.ReasonApprovalRequired)
	o.wantEvents(t, "breakglass", "breakglass_used", "breakglass_used", "breakglass_used", "opened")
	review := func(p pdp.Person) (*pdp.ApprovalRecord, error) {
		return o.desk.ReviewBreakGlass(t.Context(), &pdp.Ballot{ApprovalID: r.ID, Person: p, Reason: "it was right"})
	}
	if _, err := review(captain); !errors.As(err, new(*pdp.InvalidError)) {
		t.Errorf("reviewed while it lasts: %v", err)
	}
	o.clock.advance(15*time.Minute - 1)
	o.want(t, removeNote, pdp.Allow, pdp.ReasonOKBreakglass)
	o.clock.advance(1)
	o.want(t, removeNote, pdp.RequireApproval, pdp.ReasonApprovalRequired)
	for name, p := range map[string]pdp.Person{"who broke it": fire, "under another spelling": oidc("FIRE+x@example.com"), "the local admin": local("captain@example.com"), "a stranger": lead} {
		if _, err := review(p); !errors.Is(err, pdp.ErrNotEligible) {
			t.Errorf("reviewed by %s: %v", name, err)
		}
	}
	got, err := review(captain)
	if err != nil || got.Grant.BreakGlass.ReviewedBy != captain.Name || got.Grant.Uses != 4 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := review(byGroup); !errors.Is(err, pdp.ErrApprovalDecided) {
		t.Errorf("reviewed twice: %v", err)
	}
}

// Those who watch over it see how many emergencies there are.
func TestBreakGlassIsCounted(t *testing.T) {
	t.Parallel()
	o := newStation(t)
	o.opened(t, call("sweeper", "delete", "notes/9"))
	want := func(n int) {
		t.Helper()
		if err := o.desk.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := o.desk.Tally().BreakGlass; got != n {
			t.Errorf("%d emergencies, want %d", got, n)
		}
	}
	want(0)
	r := o.breaks(t, pdp.BreakGlassOrder{Person: fire})
	o.breaks(t, pdp.BreakGlassOrder{Person: captain, Agent: "sweeper"})
	want(2)
	if _, err := o.desk.Cancel(t.Context(), &pdp.Ballot{ApprovalID: r.ID, Person: captain}); err != nil {
		t.Error(err)
	}
	want(1)
	o.clock.advance(15 * time.Minute)
	want(0)
}

// Who may not break it, and what is not written well, opens nothing.
func TestBreakGlassIsRefused(t *testing.T) {
	t.Parallel()
	fine := pdp.BreakGlassOrder{Person: fire, Agent: "cleaner", Reason: "r", Ticket: "t"}
	for name, tc := range map[string]struct {
		change func(o *pdp.BreakGlassOrder)
		want   string
	}{
		"the local admin":     {func(o *pdp.BreakGlassOrder) { o.Person = local("fire@example.com") }, "the admin token does not say who has it"},
		"a stranger":          {func(o *pdp.BreakGlassOrder) { o.Person = lead }, "not in the approver group breakglass"},
		"somebody unknown":    {func(o *pdp.BreakGlassOrder) { o.Person.How = "slack" }, "known by a certificate"},
		"the agent":           {func(o *pdp.BreakGlassOrder) { o.Person = oidc("cleaner") }, "is the agent itself"},
		"no agent":            {func(o *pdp.BreakGlassOrder) { o.Agent = "" }, "agent is missing"},
		"an unknown agent":    {func(o *pdp.BreakGlassOrder) { o.Agent = "cleaner2" }, "not one that the policy has"},
		"no reason":           {func(o *pdp.BreakGlassOrder) { o.Reason = "" }, "reason is missing"},
		"no ticket":           {func(o *pdp.BreakGlassOrder) { o.Ticket = "" }, "ticket is missing"},
		"for long":            {func(o *pdp.BreakGlassOrder) { o.Within = time.Hour + 1 }, "at most 1h"},
		"backwards":           {func(o *pdp.BreakGlassOrder) { o.Within = -1 }, "at most 1h"},
		"no action's pattern": {func(o *pdp.BreakGlassOrder) { o.Action = "a//b" }, "action is no pattern"},
		"no resource's":       {func(o *pdp.BreakGlassOrder) { o.Resource = "a//b" }, "resource is no pattern"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, order := newStation(t), fine
			tc.change(&order)
			if r, err := o.desk.BreakGlass(t.Context(), &order); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%+v, %v", r, err)
			}
			o.want(t, removeNote, pdp.RequireApproval, pdp.ReasonApprovalRequired)
		})
	}
	o := newOffice(t, 1) // without the group
	if _, err := o.desk.BreakGlass(t.Context(), &fine); !errors.Is(err, pdp.ErrNotEligible) {
		t.Errorf("without a group: %v", err)
	}
}

// It stands in for the yes, and overrides no refusal of whatever kind.
func TestBreakGlassOverridesNoDenial(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		do   func(t *testing.T, o *office, r *pdp.ApprovalRecord)
		call *pdp.Request
		want pdp.Reason
	}{
		"suspended": {func(t *testing.T, o *office, _ *pdp.ApprovalRecord) {
			t.Helper()
			o.change(t, "cleaner: {owner", "cleaner: {suspended: true, owner")
		}, removeNote, pdp.ReasonAgentSuspended},
		"network": {nil, with(removeNote, func(r *pdp.Request) { r.SourceIP = "192.0.2.1" }), pdp.ReasonIPNotAllowed},
		"a deny rule": {func(t *testing.T, o *office, _ *pdp.ApprovalRecord) {
			t.Helper()
			o.change(t, "limits:", "deny:\n  no: {match: {actions: [delete]}}\nlimits:")
		}, removeNote, pdp.ReasonActionDenied},
		"no scope": {nil, call("cleaner", "sing", "notes/1"), pdp.ReasonNoMatchingScope},
		"a scope that it was not given": {func(t *testing.T, o *office, _ *pdp.ApprovalRecord) {
			t.Helper()
			o.change(t, "cleaner: {owner: team@example.com, scopes: [notes.delete, pay", "cleaner: {owner: team@example.com, scopes: [pay")
		}, removeNote, pdp.ReasonInsufficientScope},
		"a grant's condition": {func(t *testing.T, o *office, _ *pdp.ApprovalRecord) {
			t.Helper()
			o.change(t, "cleaner: {owner: team@example.com, scopes: [notes.delete, pay, wipe]", "cleaner: {owner: team@example.com, grants: [{scope: notes.delete, when: 'context.shift == \"night\"'}]")
		}, with(removeNote, func(r *pdp.Request) { r.Context = map[string]any{"shift": "day"} }), pdp.ReasonConditionFailed},
		"an unknown agent": {nil, call("nobody", "delete", "notes/1"), pdp.ReasonAgentUnknown},
		"a limit": {func(t *testing.T, o *office, _ *pdp.ApprovalRecord) {
			t.Helper()
			o.change(t, "burst: 600", "burst: 1")
			o.want(t, removeNote, pdp.Allow, pdp.ReasonOKBreakglass)
		}, removeNote, pdp.ReasonRateLimited},
		"cost": {nil, with(removeNote, func(r *pdp.Request) { r.ParametersState = pdp.ParametersNotSeen }), pdp.ReasonParametersUnavailable},
		"taken back": {func(t *testing.T, o *office, r *pdp.ApprovalRecord) {
			t.Helper()
			if _, err := o.desk.Cancel(t.Context(), &pdp.Ballot{ApprovalID: r.ID, Person: captain}); err != nil {
				t.Error(err)
			}
		}, removeNote, pdp.ReasonApprovalRequired},
		"who broke it is out": {func(t *testing.T, o *office, _ *pdp.ApprovalRecord) {
			t.Helper()
			o.change(t, "members: [fire@example.com, captain", "members: [captain")
		}, removeNote, pdp.ReasonApprovalRequired},
		"he acts for himself": {nil, with(removeNote, func(r *pdp.Request) { r.Subject = "Fire@example.com" }), pdp.ReasonApprovalRequired},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newStation(t)
			r := o.breaks(t, pdp.BreakGlassOrder{Person: fire})
			if tc.do != nil {
				tc.do(t, o, r)
			}
			if dec := o.ask(t, tc.call); dec.Verdict == pdp.Allow || dec.Reason != tc.want {
				t.Errorf("%v %s, want %s", dec.Verdict, dec.Reason, tc.want)
			}
		})
	}
	// A human's no to exactly this call holds.
	o := newStation(t)
	o.no(t, o.opened(t, removeNote), lead)
	o.breaks(t, pdp.BreakGlassOrder{Person: fire})
	o.want(t, removeNote, pdp.Deny, pdp.ReasonApprovalDenied)
	o.want(t, call("cleaner", "delete", "notes/2"), pdp.Allow, pdp.ReasonOKBreakglass)
	o = newStation(t)
	o.no(t, o.opened(t, removeNote), lead)
	o.breaks(t, pdp.BreakGlassOrder{Person: fire, Within: time.Hour})
	o.clock.advance(31 * time.Minute) // A no is asked about again then, and holds here.
	o.want(t, removeNote, pdp.RequireApproval, pdp.ReasonApprovalRequired)
	o.want(t, removeNote, pdp.RequireApproval, pdp.ReasonApprovalPending)
	o.want(t, call("cleaner", "delete", "notes/2"), pdp.Allow, pdp.ReasonOKBreakglass)
}

// One person does not keep it broken: somebody else has to have looked before he
// does it again.
func TestBreakGlassOnceMore(t *testing.T) {
	t.Parallel()
	o := newStation(t)
	r := o.breaks(t, pdp.BreakGlassOrder{Person: fire, Within: time.Minute})
	order := pdp.BreakGlassOrder{Person: oidc("Fire@example.com"), Agent: "cleaner", Reason: "r", Ticket: "t"}
	o.change(t, "members: [fire@example.com,", "members: [fire@example.com, Fire@example.com,")
	for range 2 {
		if _, err := o.desk.BreakGlass(t.Context(), &order); !errors.Is(err, pdp.ErrNotEligible) || !strings.Contains(err.Error(), r.ID) {
			t.Errorf("once more: %v", err)
		}
		o.clock.advance(time.Hour)
	}
	o.breaks(t, pdp.BreakGlassOrder{Person: fire, Agent: "sweeper"})
	o.breaks(t, pdp.BreakGlassOrder{Person: captain, Within: time.Minute})
	if _, err := o.desk.ReviewBreakGlass(t.Context(), &pdp.Ballot{ApprovalID: r.ID, Person: captain, Reason: "it was right"}); err != nil {
		t.Error(err)
	}
	o.breaks(t, pdp.BreakGlassOrder{Person: fire})
}

// It can be for some actions and resources, and by somebody of a group.
func TestBreakGlassThatIsNarrow(t *testing.T) {
	t.Parallel()
	o := newStation(t)
	o.breaks(t, pdp.BreakGlassOrder{Person: byGroup, Action: "delete", Resource: "notes/*", Within: time.Hour})
	o.want(t, removeNote, pdp.Allow, pdp.ReasonOKBreakglass)
	o.want(t, call("cleaner", "delete", "notes/1/x"), pdp.RequireApproval, pdp.ReasonApprovalRequired)
	o.want(t, payRent, pdp.RequireApproval, pdp.ReasonApprovalRequired)
	o.clock.advance(time.Hour)
	o.want(t, removeNote, pdp.RequireApproval, pdp.ReasonApprovalRequired)
	o = newStation(t)
	o.breaks(t, pdp.BreakGlassOrder{Person: fire, Action: "delete"})
	o.want(t, payRent, pdp.RequireApproval, pdp.ReasonApprovalRequired)
	o.want(t, removeNote, pdp.Allow, pdp.ReasonOKBreakglass)
}

// What cannot be recorded is not broken, and a yes that stands goes first.
func TestBreakGlassIsRecorded(t *testing.T) {
	t.Parallel()
	var broken atomic.Bool
	o := newStation(t)
	o.rec.fail = func(r *pdp.Record) error {
		if broken.Load() && r.Event != nil && (r.Event.Kind == pdp.ApprovalBreakGlass || r.Event.Kind == pdp.ApprovalBreakGlassUsed) {
			return errDown
		}
		return nil
	}
	broken.Store(true)
	if _, err := o.desk.BreakGlass(t.Context(), &pdp.BreakGlassOrder{Person: fire, Agent: "cleaner", Reason: "r", Ticket: "t"}); !errors.Is(err, pdp.ErrUnrecorded) {
		t.Errorf("%v", err)
	}
	o.want(t, removeNote, pdp.RequireApproval, pdp.ReasonApprovalRequired)
	broken.Store(false)
	r := o.breaks(t, pdp.BreakGlassOrder{Person: fire})
	o.approved(t, call("sweeper", "delete", "notes/9"), lead)
	broken.Store(true)
	o.want(t, removeNote, pdp.Deny, pdp.ReasonAuditUnavailable)
	broken.Store(false)
	o.want(t, removeNote, pdp.Allow, pdp.ReasonOKBreakglass)
	if row := o.store.row(r.ID); row.State != store.Approved || row.Grant.BreakGlass.Reason != "the site is down" {
		t.Errorf("%+v", row)
	}
}
