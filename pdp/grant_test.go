package pdp_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/store"
)

// payOf is payRent of another amount, to somebody.
func payOf(amount, to string) *pdp.Request {
	return with(payRent, func(r *pdp.Request) {
		r.ParametersJSON = fmt.Appendf(nil, `{"amount":%s,"to":%s}`, amount, to)
		r.Cost = 2
	})
}

const landlord = `{"name":"landlord","tags":["a","b"]}`

// stands makes a standing grant beside the yes to a call.
func (o *office) stands(tb testing.TB, req *pdp.Request, p pdp.Person, terms pdp.StandingTerms) (approval, grant string) {
	tb.Helper()
	id := o.opened(tb, req)
	if _, err := o.desk.Approve(context.Background(), &pdp.Ballot{ApprovalID: id, Person: p, Standing: &terms}); err != nil || terms.Made == "" {
		tb.Fatalf("made %q, %v", terms.Made, err)
	}
	return id, terms.Made
}

func upTo(most float64) pdp.StandingTerms {
	return pdp.StandingTerms{Uses: 3, Bounds: []pdp.GrantBound{{Name: "amount", Max: new(most), Min: new(1.0)}}}
}

// What the approver wrote bounds the cost, also below that of the call he saw.
func TestStandingGrantThatIsCheaper(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1)
	terms := upTo(100000)
	terms.MaxCost = 1.5
	_, grant := o.stands(t, payOf("82000", landlord), controller, terms) // of cost 2
	o.want(t, payOf("82000", landlord), pdp.Allow, pdp.ReasonOKApproved)
	for _, cost := range []float64{1.6, 2} {
		req := payOf("5", landlord)
		req.Cost = cost
		if dec := o.ask(t, req); dec.Verdict == pdp.Allow || o.store.row(grant).Grant.Uses != 0 {
			t.Errorf("cost %v: %v %s", cost, dec.Verdict, dec.Reason)
		}
	}
	req := payOf("5", landlord)
	req.Cost = 1.5
	o.want(t, req, pdp.Allow, pdp.ReasonOKGrant)
}

// Of parameters that are an empty object there can be a grant too.
func TestStandingGrantOfNoParameters(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1)
	empty := with(payRent, func(r *pdp.Request) { r.ParametersJSON = []byte(`{}`) })
	o.stands(t, empty, controller, pdp.StandingTerms{Uses: 3})
	o.want(t, empty, pdp.Allow, pdp.ReasonOKApproved)
	o.want(t, empty, pdp.Allow, pdp.ReasonOKGrant)
	none := with(payRent, func(r *pdp.Request) { r.ParametersJSON = nil })
	o.want(t, none, pdp.RequireApproval, pdp.ReasonApprovalRequired)
}

// Whoever takes the yes back takes back the grants that he made with it.
func TestStandingGrantGoesWithItsYes(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1)
	id, grant := o.stands(t, payOf("82000", landlord), controller, upTo(100000))
	_, other := o.stands(t, with(payOf("1", landlord), func(r *pdp.Request) { r.Resource = "bank/other" }), controller, upTo(100000))
	if _, err := o.desk.Cancel(t.Context(), &pdp.Ballot{ApprovalID: id, Person: lead}); err != nil {
		t.Fatal(err)
	}
	if got := o.store.row(grant); got.State != store.Revoked || got.EndedBy != lead.Name {
		t.Errorf("the grant is %s by %q", got.State, got.EndedBy)
	}
	if got := o.store.row(other).State; got != store.Approved {
		t.Errorf("another's grant is %s", got)
	}
	o.want(t, payOf("5", landlord), pdp.RequireApproval, pdp.ReasonApprovalRequired)
}

// Also where it is taken back while the grant is being made.
func TestStandingGrantWhoseYesIsTakenBackMeanwhile(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1)
	id := o.opened(t, payOf("82000", landlord))
	var once sync.Once
	o.rec.fail = func(r *pdp.Record) error {
		if r.Event != nil && r.Event.Kind == pdp.ApprovalMet {
			once.Do(func() {
				o.rec.mu.Unlock() // The record of the yes is being written.
				defer o.rec.mu.Lock()
				if _, err := o.desk.Cancel(context.Background(), &pdp.Ballot{ApprovalID: id, Person: lead, Reason: "no"}); err != nil {
					t.Error(err)
				}
			})
		}
		return nil
	}
	terms := upTo(100000)
	if _, err := o.desk.Approve(t.Context(), &pdp.Ballot{ApprovalID: id, Person: controller, Standing: &terms}); !errors.Is(err, pdp.ErrApprovalDecided) {
		t.Errorf("the approver is told %v", err)
	}
	o.want(t, payOf("5", landlord), pdp.RequireApproval, pdp.ReasonApprovalRequired)
}

// What was approved once goes through so many times more, within bounds, and no
// limit is charged for what does not.
func TestStandingGrant(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1)
	id, grant := o.stands(t, payOf("82000", landlord), controller, upTo(100000))
	o.want(t, payOf("82000", landlord), pdp.Allow, pdp.ReasonOKApproved)
	for i, amount := range []string{"82000", "1", "99999.5"} {
		dec := o.want(t, payOf(amount, landlord), pdp.Allow, pdp.ReasonOKGrant)
		if row := o.store.row(grant); row.Grant.Uses != i+1 || row.Used.DecisionID != dec.ID {
			t.Errorf("after use %d: %+v", i+1, row)
		}
	}
	o.want(t, payOf("5", landlord), pdp.RequireApproval, pdp.ReasonApprovalRequired)
	if row := o.store.row(grant); row.State != store.Consumed || row.Grant.From != id {
		t.Errorf("after all uses: %+v", row)
	}
	o.wantEvents(t, "opened", "vote", "approved", "standing", "consumed", "grant_used", "grant_used", "grant_used", "opened")
	o.want(t, byID(payOf("5", landlord), grant), pdp.Deny, pdp.ReasonApprovalBindingMismatch)
}

// Whatever is not within the bounds is another call, and asks.
func TestStandingGrantIsBound(t *testing.T) {
	t.Parallel()
	from := payOf("82000", landlord)
	for name, change := range map[string]func(r *pdp.Request){
		"above":          func(r *pdp.Request) { r.ParametersJSON = []byte(`{"amount":100001,"to":` + landlord + `}`) },
		"a little above": func(r *pdp.Request) { r.ParametersJSON = []byte(`{"amount":100000.5,"to":` + landlord + `}`) },
		"below":          func(r *pdp.Request) { r.ParametersJSON = []byte(`{"amount":0,"to":` + landlord + `}`) },
		"a text":         func(r *pdp.Request) { r.ParametersJSON = []byte(`{"amount":"5","to":` + landlord + `}`) },
		"a list":         func(r *pdp.Request) { r.ParametersJSON = []byte(`{"amount":[5],"to":` + landlord + `}`) },
		"nothing":        func(r *pdp.Request) { r.ParametersJSON = []byte(`{"amount":null,"to":` + landlord + `}`) },
		"left out":       func(r *pdp.Request) { r.ParametersJSON = []byte(`{"to":` + landlord + `}`) },
		"another member": func(r *pdp.Request) {
			r.ParametersJSON = []byte(`{"amount":5,"to":{"name":"mallory","tags":["a","b"]}}`)
		},
		"an inner one": func(r *pdp.Request) {
			r.ParametersJSON = []byte(`{"amount":5,"to":{"name":"landlord","tags":["a","c"]}}`)
		},
		"one more":               func(r *pdp.Request) { r.ParametersJSON = []byte(`{"amount":5,"to":` + landlord + `,"x":1}`) },
		"one in another's place": func(r *pdp.Request) { r.ParametersJSON = []byte(`{"amount":5,"too":` + landlord + `}`) },
		"none at all":            func(r *pdp.Request) { r.ParametersJSON = nil },
		"empty":                  func(r *pdp.Request) { r.ParametersJSON = []byte(`{}`) },
		"another resource":       func(r *pdp.Request) { r.Resource = "bank/other" },
		"another subject":        func(r *pdp.Request) { r.Subject = "ann@example.com" },
		"another agent":          func(r *pdp.Request) { r.Agent = "sweeper" },
		"dearer":                 func(r *pdp.Request) { r.Cost = 2.5 },
		"another tool":           func(r *pdp.Request) { r.Tool.Name = "transfer" },
		"another server":         func(r *pdp.Request) { r.Tool.Server = "elsewhere" },
		"another channel":        func(r *pdp.Request) { r.Context = map[string]any{"channel": "chat"} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t, 1)
			_, grant := o.stands(t, from, controller, upTo(100000))
			o.want(t, from, pdp.Allow, pdp.ReasonOKApproved)
			dec := o.ask(t, with(from, change))
			if dec.Verdict == pdp.Allow || o.store.row(grant).Grant.Uses != 0 {
				t.Errorf("%v %s, %+v", dec.Verdict, dec.Reason, o.store.row(grant).Grant)
			}
			o.want(t, payOf("7", landlord), pdp.Allow, pdp.ReasonOKGrant) // It stands.
		})
	}
}

// No change of any member that is not free goes through, however it is made.
func TestStandingGrantByAnyChange(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1)
	o.stands(t, payOf("82000", landlord), controller, pdp.StandingTerms{Uses: 1000, Bounds: []pdp.GrantBound{{Name: "amount", Max: new(100.0)}}})
	o.want(t, payOf("82000", landlord), pdp.Allow, pdp.ReasonOKApproved)
	rapid.Check(t, func(r *rapid.T) {
		text := rapid.StringMatching(`[a-z"{}\[\],:0-9]{0,12}`).Draw(r, "name")
		amount := rapid.IntRange(-1000, 1000).Draw(r, "amount")
		raw := fmt.Sprintf(`{"amount":%d,"to":{"name":%q,"tags":["a","b"]}}`, amount, text)
		dec := o.ask(t, with(payRent, func(req *pdp.Request) { req.ParametersJSON, req.Cost = []byte(raw), 2 }))
		if within := text == "landlord" && amount <= 100; (dec.Reason == pdp.ReasonOKGrant) != within {
			r.Fatalf("%s: %v %s", raw, dec.Verdict, dec.Reason)
		}
	})
}

// What it was made under has to hold still at each use.
func TestStandingGrantThatEnds(t *testing.T) {
	t.Parallel()
	pay := payOf("5", landlord)
	for name, tc := range map[string]struct {
		then func(t *testing.T, o *office, grant string)
		want pdp.Reason
	}{
		"the rule was edited": {func(t *testing.T, o *office, _ string) {
			t.Helper()
			o.edit(t, "approvers: [finance]}", "approvers: [finance], use_within: 1m}")
		}, pdp.ReasonApprovalRequired},
		"its maker is out": {func(t *testing.T, o *office, _ string) {
			t.Helper()
			o.edit(t, "members: [controller@example.com, lead@example.com]", "members: [lead@example.com]")
		}, pdp.ReasonApprovalRequired},
		"another rule came": {func(t *testing.T, o *office, _ string) {
			t.Helper()
			o.edit(t, `resources: ["bank/large/**"]`, `resources: ["bank/**"]`)
		}, pdp.ReasonApprovalRequired},
		"the agent is suspended": {func(t *testing.T, o *office, _ string) {
			t.Helper()
			o.edit(t, "cleaner: {owner", "cleaner: {suspended: true, owner")
		}, pdp.ReasonAgentSuspended},
		"a deny rule came": {func(t *testing.T, o *office, _ string) {
			t.Helper()
			o.edit(t, "limits:", "deny:\n  no: {match: {actions: [pay]}}\nlimits:")
		}, pdp.ReasonActionDenied},
		"the scope is gone": {func(t *testing.T, o *office, _ string) {
			t.Helper()
			o.edit(t, "cleaner: {owner: team@example.com, scopes: [notes.delete, pay, wipe]", "cleaner: {owner: team@example.com, scopes: [notes.delete, wipe]")
		}, pdp.ReasonInsufficientScope},
		"it is delete now": {func(t *testing.T, o *office, _ string) {
			t.Helper()
			o.edit(t, `pay: {actions: [pay], resources: ["bank/**"]}`, `pay: {actions: [pay], resources: ["bank/**"], risk: delete}`)
		}, pdp.ReasonApprovalRequired},
		"a moment before its end": {func(t *testing.T, o *office, _ string) { t.Helper(); o.clock.advance(8*time.Hour - time.Nanosecond) }, pdp.ReasonOKGrant},
		"at its end":              {func(t *testing.T, o *office, _ string) { t.Helper(); o.clock.advance(8 * time.Hour) }, pdp.ReasonApprovalRequired},
		"somebody revoked it": {func(t *testing.T, o *office, grant string) {
			t.Helper()
			if r, err := o.desk.Cancel(t.Context(), &pdp.Ballot{ApprovalID: grant, Person: controller}); err != nil || r.State != pdp.ApprovalRevoked {
				t.Errorf("%+v, %v", r, err)
			}
		}, pdp.ReasonApprovalRequired},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t, 1)
			_, grant := o.stands(t, payOf("82000", landlord), controller, upTo(100000))
			o.want(t, payOf("82000", landlord), pdp.Allow, pdp.ReasonOKApproved)
			tc.then(t, o, grant)
			if dec := o.ask(t, pay); dec.Reason != tc.want {
				t.Errorf("%v %s, want %s", dec.Verdict, dec.Reason, tc.want)
			}
		})
	}
}

// Who may make one, of what, and how it is written.
func TestStandingGrantIsRefused(t *testing.T) {
	t.Parallel()
	pay := payOf("82000", landlord)
	secret := payOf("82000", `{"api_key":"hunter2"}`)
	board := with(pay, func(r *pdp.Request) { r.Resource = "bank/board/x" })
	fine := pdp.StandingTerms{Uses: 1}
	nan := 0.0
	nan /= nan
	for name, tc := range map[string]struct {
		call  *pdp.Request
		by    pdp.Person
		terms pdp.StandingTerms
		want  string
	}{
		"of risk delete":         {removeNote, lead, fine, "a yes of its own each time"},
		"of risk delete by name": {call("cleaner", "wipe", "disks/1"), lead, fine, "a yes of its own each time"},
		"of several":             {board, controller, fine, "one person cannot allow others"},
		"of a secret":            {secret, controller, fine, "hold a secret"},
		"no uses":                {pay, controller, pdp.StandingTerms{}, "write 1 to 1000"},
		"many uses":              {pay, controller, pdp.StandingTerms{Uses: 1001}, "write 1 to 1000"},
		"for long":               {pay, controller, pdp.StandingTerms{Uses: 1, Within: 721 * time.Hour}, "at most 720h"},
		"another resource":       {pay, controller, pdp.StandingTerms{Uses: 1, Resource: "bank/other"}, "does not match"},
		"no pattern":             {pay, controller, pdp.StandingTerms{Uses: 1, Resource: "bank//"}, "does not match"},
		"a star for this alone":  {with(pay, func(r *pdp.Request) { r.Resource = "bank/*" }), controller, fine, "write the pattern that you mean"},
		"a bound that is none":   {pay, controller, pdp.StandingTerms{Uses: 1, Bounds: []pdp.GrantBound{{Name: "amount", Max: &nan}}}, "is no number"},
		"a bound without end":    {pay, controller, pdp.StandingTerms{Uses: 1, Bounds: []pdp.GrantBound{{Name: "amount", Min: new(math.Inf(-1))}}}, "is no number"},
		"a cost without end":     {pay, controller, pdp.StandingTerms{Uses: 1, MaxCost: math.Inf(1)}, "not a positive number"},
		"a secret for a name":    {payOf("1,\"ghp_abcdefghijklmnopqrstuvwxyz0123456789\":1", landlord), controller, fine, "hold a secret"},
		"one within":             {payOf("1", `{"ghp_abcdefghijklmnopqrstuvwxyz0123456789":1}`), controller, fine, "hold a secret"},
		"no such member":         {pay, controller, pdp.StandingTerms{Uses: 1, Bounds: []pdp.GrantBound{{Name: "sum", Any: true}}}, "do not have at their top"},
		"an inner member":        {pay, controller, pdp.StandingTerms{Uses: 1, Bounds: []pdp.GrantBound{{Name: "to.name", Any: true}}}, "do not have at their top"},
		"twice":                  {pay, controller, pdp.StandingTerms{Uses: 1, Bounds: []pdp.GrantBound{{Name: "to", Any: true}, {Name: "to", Any: true}}}, "twice"},
		"no bound":               {pay, controller, pdp.StandingTerms{Uses: 1, Bounds: []pdp.GrantBound{{Name: "amount"}}}, "needs any, or min or max"},
		"two bounds":             {pay, controller, pdp.StandingTerms{Uses: 1, Bounds: []pdp.GrantBound{{Name: "amount", Any: true, Max: new(1.0)}}}, "needs any, or min or max"},
		"no number":              {pay, controller, pdp.StandingTerms{Uses: 1, MaxCost: nan}, "not a positive number"},
		"of nobody's group":      {pay, oncall, fine, "none of the groups"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t, 1)
			id := o.opened(t, tc.call)
			terms := tc.terms
			_, err := o.desk.Approve(t.Context(), &pdp.Ballot{ApprovalID: id, Person: tc.by, Standing: &terms})
			if err == nil || !strings.Contains(err.Error(), tc.want) || terms.Made != "" {
				t.Errorf("made %q, %v", terms.Made, err)
			}
			if row := o.store.row(id); row.State != store.Pending {
				t.Errorf("the yes counts, and its terms do not: %+v", row)
			}
		})
	}
}

// An agent can ask for a resource that has a star in it. That is no pattern of
// whoever approves it, unless he writes it as one.
func TestStandingGrantOfAStar(t *testing.T) {
	t.Parallel()
	star := with(payOf("82000", landlord), func(r *pdp.Request) { r.Resource = "bank/*" })
	other := with(star, func(r *pdp.Request) { r.Resource = "bank/gas" })
	o := newOffice(t, 1)
	id := o.opened(t, star)
	terms := pdp.StandingTerms{Uses: 3}
	if _, err := o.desk.Approve(t.Context(), &pdp.Ballot{ApprovalID: id, Person: controller, Standing: &terms}); err == nil || terms.Made != "" {
		t.Errorf("made %q, %v", terms.Made, err)
	}
	o.want(t, other, pdp.RequireApproval, pdp.ReasonApprovalRequired)
	o = newOffice(t, 1)
	o.stands(t, star, controller, pdp.StandingTerms{Uses: 3, Resource: "bank/*"})
	o.want(t, other, pdp.Allow, pdp.ReasonOKGrant)
}

// What looks like a secret is kept nowhere, also where it is a member's name.
func TestShapeKeepsNoSecret(t *testing.T) {
	t.Parallel()
	const secret = "ghp_abcdefghijklmnopqrstuvwxyz0123456789"
	o := newOffice(t, 1)
	id := o.opened(t, payOf(`1,"`+secret+`":true`, landlord))
	if raw := string(o.store.row(id).Shown); strings.Contains(raw, secret) {
		t.Errorf("kept: %s", raw)
	}
}

// A pattern of resources, a higher cost, and a member that is free.
func TestStandingGrantThatIsWide(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1)
	o.stands(t, payOf("82000", landlord), controller, pdp.StandingTerms{
		Uses: 10, Within: time.Hour, Resource: "bank/*", MaxCost: 5, Bounds: []pdp.GrantBound{{Name: "to", Any: true}},
	})
	o.want(t, payOf("82000", landlord), pdp.Allow, pdp.ReasonOKApproved)
	wide := with(payOf("82000", `"anybody"`), func(r *pdp.Request) { r.Resource, r.Cost = "bank/gas", 5 })
	o.want(t, wide, pdp.Allow, pdp.ReasonOKGrant)
	o.want(t, with(wide, func(r *pdp.Request) { r.Resource = "bank/gas/x" }), pdp.RequireApproval, pdp.ReasonApprovalRequired)
	o.want(t, with(wide, func(r *pdp.Request) { r.Cost = 5.01 }), pdp.RequireApproval, pdp.ReasonApprovalRequired)
	o.clock.advance(time.Hour)
	o.want(t, wide, pdp.RequireApproval, pdp.ReasonApprovalRequired)
}

// The same yes again makes no second grant, and nobody votes on a grant.
// A group of the provider says nothing of who has left it: a long grant counts by the
// name of who made it, or there is none.
func TestStandingGrantOfAGroup(t *testing.T) {
	t.Parallel()
	const before, group = "members: [controller@example.com, lead@example.com]", "members: [lead@example.com, controller@example.com, \"oidc-group:payers\"]"
	zoe := pdp.Person{Name: "zoe@example.com", How: pdp.KnownByOIDC, Groups: []string{"payers"}}
	named := pdp.Person{Name: controller.Name, How: pdp.KnownByOIDC, Groups: []string{"payers"}}
	terms := func(within time.Duration) *pdp.StandingTerms {
		return &pdp.StandingTerms{Uses: 9, Within: within, Bounds: []pdp.GrantBound{{Name: "amount", Any: true}}}
	}
	o := newOffice(t, 1)
	o.edit(t, before, group)
	id := o.opened(t, payOf("82000", landlord))
	_, err := o.desk.Approve(t.Context(), &pdp.Ballot{ApprovalID: id, Person: zoe, Standing: terms(8*time.Hour + 1)})
	if invalid := (&pdp.InvalidError{}); !errors.As(err, &invalid) || invalid.Field != "standing.within" {
		t.Fatalf("by one of a group, for long: %v", err)
	}
	if got := o.store.row(id).State; got != store.Pending {
		t.Errorf("the call is %s after that", got)
	}
	if _, err := o.desk.Approve(t.Context(), &pdp.Ballot{ApprovalID: id, Person: zoe, Standing: terms(8 * time.Hour)}); err != nil {
		t.Fatalf("by one of a group, for 8 hours: %v", err)
	}
	o.want(t, payOf("1", landlord), pdp.Allow, pdp.ReasonOKGrant)

	o = newOffice(t, 1)
	o.edit(t, before, group)
	id = o.opened(t, payOf("82000", landlord))
	long := terms(720 * time.Hour)
	if _, err := o.desk.Approve(t.Context(), &pdp.Ballot{ApprovalID: id, Person: named, Standing: long}); err != nil {
		t.Fatalf("by one who is named, for long: %v", err)
	}
	o.want(t, payOf("1", landlord), pdp.Allow, pdp.ReasonOKGrant)
	if votes := o.store.row(long.Made).Votes; len(votes) != 1 || votes[0].Groups != nil {
		t.Errorf("it counts by more than the name: %+v", votes)
	}
	o.edit(t, before, "members: [lead@example.com, \"oidc-group:payers\"]")
	if dec := o.ask(t, payOf("1", landlord)); dec.Verdict == pdp.Allow {
		t.Errorf("by one who is named no more: %s", dec.Reason)
	}
}

func TestStandingGrantIsMadeOnce(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1)
	id, grant := o.stands(t, payOf("82000", landlord), controller, upTo(5))
	terms := upTo(5)
	if _, err := o.desk.Approve(t.Context(), &pdp.Ballot{ApprovalID: id, Person: controller, Standing: &terms}); !errors.Is(err, pdp.ErrApprovalDecided) || terms.Made != "" {
		t.Errorf("made %q, %v", terms.Made, err)
	}
	o.refused(t, grant, lead, pdp.ErrApprovalDecided)
	list, _, err := o.desk.List(t.Context(), pdp.ApprovalFilter{})
	if err != nil || len(list) != 2 || list[0].Grant == nil || list[0].Grant.MaxUses != 3 || list[1].Grant != nil {
		t.Errorf("%+v, %v", list, err)
	}
	dry := with(payOf("5", landlord), func(r *pdp.Request) { r.DryRun = true })
	if dec := o.ask(t, dry); dec.WouldBe != pdp.Allow || o.store.row(grant).Grant.Uses != 0 {
		t.Errorf("a dry run: %+v, %d uses", dec, o.store.row(grant).Grant.Uses)
	}
}

// However many callers and replicas use it at once, it is used as often as it may.
func TestStandingGrantAtOnce(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 3)
	terms := upTo(100)
	terms.Uses = 5
	o.stands(t, payOf("82000", landlord), controller, terms)
	o.want(t, payOf("82000", landlord), pdp.Allow, pdp.ReasonOKApproved)
	var used, other atomic.Int64
	var group sync.WaitGroup
	for i := range 64 {
		group.Go(func() {
			var dec pdp.Decision
			req := payOf(fmt.Sprint(i+1), landlord)
			if err := o.svcs[i%len(o.svcs)].Authorize(context.Background(), req, &dec); err != nil {
				t.Error(err)
			}
			if dec.Verdict == pdp.Allow {
				used.Add(1)
			} else {
				other.Add(1)
			}
		})
	}
	group.Wait()
	if used.Load() != 5 || other.Load() != 59 {
		t.Errorf("%d of 64 went through by a grant of 5 uses", used.Load())
	}
}

// A grant whose making was cut short, or that the store cannot vouch for, is none.
func TestStandingGrantInDoubt(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1)
	_, grant := o.stands(t, payOf("82000", landlord), controller, upTo(100))
	o.want(t, payOf("82000", landlord), pdp.Allow, pdp.ReasonOKApproved)
	row := o.store.row(grant)
	o.store.set(func() { o.store.doubted = true })
	o.want(t, payOf("5", landlord), pdp.RequireApproval, pdp.ReasonApprovalRequired)
	if err := o.desk.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	o.clock.advance(time.Minute)
	if err := o.desk.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if now := o.store.row(grant); now.State != store.Cancelled || row.Grant.Uses != 0 {
		t.Errorf("%+v", now)
	}
	broken := newOffice(t, 1)
	id := broken.opened(t, payOf("82000", landlord))
	broken.rec.fail = func(r *pdp.Record) error {
		if r.Event != nil && r.Event.Kind == pdp.ApprovalStanding {
			return errDown
		}
		return nil
	}
	terms := upTo(100)
	if _, err := broken.desk.Approve(t.Context(), &pdp.Ballot{ApprovalID: id, Person: controller, Standing: &terms}); !errors.Is(err, pdp.ErrUnrecorded) || terms.Made != "" {
		t.Errorf("made %q, %v", terms.Made, err)
	}
	broken.want(t, payOf("82000", landlord), pdp.Allow, pdp.ReasonOKApproved)
	broken.want(t, payOf("5", landlord), pdp.RequireApproval, pdp.ReasonApprovalRequired)
}

// What the local admin allowed counts no more once approvers are known better.
func TestStandingGrantOfTheLocalAdmin(t *testing.T) {
	t.Parallel()
	var verified atomic.Bool
	o := newOffice(t, 1, func(c *pdp.DeskConfig) { c.Verified = verified.Load })
	o.stands(t, payOf("82000", landlord), local("controller@example.com"), upTo(100))
	o.want(t, payOf("82000", landlord), pdp.Allow, pdp.ReasonOKApproved)
	o.want(t, payOf("5", landlord), pdp.Allow, pdp.ReasonOKGrant)
	verified.Store(true)
	o.want(t, payOf("6", landlord), pdp.RequireApproval, pdp.ReasonApprovalRequired)
}
