package pdp_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/store"
)

func TestDeskNeedsItsParts(t *testing.T) {
	t.Parallel()
	rec := pdp.RecorderFunc(func(context.Context, *pdp.Record) error { return nil })
	for name, cfg := range map[string]pdp.DeskConfig{
		"Store":    {Policy: &source{}, Recorder: rec},
		"Policy":   {Store: newMemoryApprovals(), Recorder: rec},
		"Recorder": {Store: newMemoryApprovals(), Policy: &source{}},
	} {
		if _, err := pdp.NewDesk(cfg); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
	}
	desk, err := pdp.NewDesk(pdp.DeskConfig{Store: newMemoryApprovals(), Policy: &source{}, Recorder: rec})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := desk.Find(t.Context(), &pdp.ApprovalAsk{Digest: "d"}); !errors.Is(err, pdp.ErrNoPolicy) {
		t.Errorf("without a policy: %v", err)
	}
}

func TestAYesIsGoodForOneCall(t *testing.T) {
	t.Parallel()
	for name, ask := range map[string]func(id string) *pdp.Request{
		"by id":     func(id string) *pdp.Request { return byID(removeNote, id) },
		"by itself": func(string) *pdp.Request { return removeNote },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t, 1)
			id := o.opened(t, removeNote)
			o.want(t, ask(id), pdp.RequireApproval, pdp.ReasonApprovalPending)
			r := o.yes(t, id, lead)
			if r.State != pdp.ApprovalApproved || !r.ExpiresAt.Equal(testStart.Add(3*time.Minute)) || len(r.Votes) != 1 {
				t.Errorf("after the yes: %+v", r)
			}
			dec := o.want(t, ask(id), pdp.Allow, pdp.ReasonOKApproved, "approvals/deletes", "grants/cleaner/notes.delete")
			o.want(t, byID(removeNote, id), pdp.Deny, pdp.ReasonApprovalConsumed)
			again := o.opened(t, removeNote)
			if again == id {
				t.Error("the id came twice")
			}
			row := o.store.row(id)
			if row.Used == nil || row.Used.DecisionID != dec.ID || row.State != store.Consumed {
				t.Errorf("stored %+v, want it used by %s", row, dec.ID)
			}
			o.wantEvents(t, "opened", "vote", "approved", "consumed", "opened")
			o.want(t, removeNote, pdp.RequireApproval, pdp.ReasonApprovalPending)
		})
	}
}

func TestWhatIsRecordedOfAnApproval(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1)
	first := o.want(t, removeNote, pdp.RequireApproval, pdp.ReasonApprovalRequired)
	o.clock.advance(time.Second)
	o.yes(t, first.Approval.ID, lead)
	used := o.want(t, with(removeNote, func(r *pdp.Request) { r.Gateway, r.RequestID = "edge", "r-9" }), pdp.Allow, pdp.ReasonOKApproved)
	var got []pdp.Record
	for _, r := range o.rec.taken() {
		if r.Event != nil {
			got = append(got, r)
		}
	}
	record := func(after time.Duration, decision string, e pdp.ApprovalEvent) pdp.Record {
		return pdp.Record{
			Time: testStart.Add(after), DecisionID: decision, Agent: "cleaner", Action: "delete", Resource: "notes/1", Risk: "delete",
			PolicyVersion: first.PolicyVersion, ApprovalID: first.Approval.ID, ApprovalDigest: first.Approval.Digest, Event: &e,
		}
	}
	want := []pdp.Record{
		record(0, first.ID, pdp.ApprovalEvent{Kind: pdp.ApprovalOpened}),
		record(time.Second, first.ID, pdp.ApprovalEvent{Kind: pdp.ApprovalVoted, Actor: "lead@example.com", How: "oidc", Yes: true}),
		record(time.Second, first.ID, pdp.ApprovalEvent{Kind: pdp.ApprovalMet, Actor: "lead@example.com", How: "oidc"}),
		record(time.Second, used.ID, pdp.ApprovalEvent{Kind: pdp.ApprovalUsed}),
	}
	want[3].Gateway, want[3].RequestID = "edge", "r-9"
	for i, version := range []int64{1, 1, 2, 3} {
		want[i].ApprovalVersion, want[i].ApprovalExpires = version, o.store.row(first.Approval.ID).UseBy
	}
	want[0].ApprovalExpires = first.Approval.ExpiresAt
	want[1].Event.VoteID = got[1].Event.VoteID
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" || len(got[1].Event.VoteID) != 32 {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A word that others come before is recorded once, and again only if it does not
// count after all.
func TestAVoteThatOthersComeBefore(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1)
	id := o.opened(t, with(payRent, func(r *pdp.Request) { r.Resource = "bank/large/x" }))
	before := func(n int, change func(*store.Approval)) {
		o.store.beforeSwap = func(a *store.Approval) {
			if n--; n >= 0 {
				o.store.change(a.ID, change)
			}
		}
	}
	before(3, func(*store.Approval) {})
	o.yes(t, id, lead)
	o.wantEvents(t, "opened", "vote")
	before(1, func(a *store.Approval) { a.State, a.EndedAt = store.Denied, o.clock.now() })
	o.refused(t, id, controller, pdp.ErrApprovalDecided)
	o.wantEvents(t, "vote", "vote!")
	again := o.opened(t, removeNote)
	before(1000, func(*store.Approval) {})
	if r, err := o.desk.Approve(t.Context(), &pdp.Ballot{ApprovalID: again, Person: lead}); err == nil {
		t.Errorf("%+v, want to give up", r)
	}
	o.wantEvents(t, "opened", "vote", "vote!")
}

func TestOneNoEndsIt(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1)
	id := o.opened(t, removeNote)
	var bad *pdp.InvalidError
	if _, err := o.desk.Deny(t.Context(), &pdp.Ballot{ApprovalID: id, Person: lead}); !errors.As(err, &bad) || bad.Field != "reason" {
		t.Errorf("a no without a reason: %v", err)
	}
	if r := o.no(t, id, lead); r.State != pdp.ApprovalDenied || r.Why != "not today" || r.EndedBy != "lead@example.com" {
		t.Errorf("after the no: %+v", r)
	}
	o.refused(t, id, oncall, pdp.ErrApprovalDecided)
	o.want(t, byID(removeNote, id), pdp.Deny, pdp.ReasonApprovalDenied)
	o.clock.advance(30*time.Minute - 1)
	o.want(t, removeNote, pdp.Deny, pdp.ReasonApprovalDenied)
	o.clock.advance(1)
	o.want(t, byID(removeNote, id), pdp.Deny, pdp.ReasonApprovalDenied)
	o.opened(t, removeNote)
	o.wantEvents(t, "opened", "vote", "denied", "vote!", "opened")
}

func TestWhoSaidYesMaySayNoWhileItIsPending(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1)
	id := o.opened(t, with(payRent, func(r *pdp.Request) { r.Resource = "bank/large/rent" }))
	if r := o.yes(t, id, lead); r.State != pdp.ApprovalPending {
		t.Errorf("%s after one yes of two", r.State)
	}
	if r := o.no(t, id, lead); r.State != pdp.ApprovalDenied {
		t.Errorf("%s after his no", r.State)
	}
}

// Each reason has a call of its own.
func TestReasonsOfAnIDThatIsNotUsable(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1)
	theirs := o.approved(t, call("sweeper", "delete", "notes/1"), lead)
	another := o.approved(t, call("cleaner", "delete", "notes/2"), lead)
	expired := o.opened(t, call("cleaner", "delete", "notes/3"))
	o.clock.advance(10 * time.Minute)
	unused := o.approved(t, call("cleaner", "delete", "notes/4"), lead)
	o.clock.advance(3 * time.Minute)
	cancelled := o.opened(t, call("cleaner", "delete", "notes/5"))
	revoked := o.approved(t, call("cleaner", "delete", "notes/6"), lead)
	foreign := o.opened(t, call("sweeper", "delete", "notes/7"))
	o.store.change(foreign, func(a *store.Approval) { a.Requirements[0].Version = "of another policy" })
	superseded := o.opened(t, call("cleaner", "delete", "notes/8"))
	o.store.change(superseded, func(a *store.Approval) { a.Requirements[0].Version, a.Digest = "of another policy", "and so another" })
	for _, id := range []string{cancelled, revoked} {
		if _, err := o.desk.Cancel(t.Context(), &pdp.Ballot{ApprovalID: id, Person: oncall}); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		name, id, resource string
		want               pdp.Reason
	}{
		{"unknown", "apr_00000000000000000000000000000000", "notes/1", pdp.ReasonApprovalBindingMismatch},
		{"malformed", "apr_1", "notes/1", pdp.ReasonApprovalBindingMismatch},
		{"no id at all", "x' OR 1=1", "notes/1", pdp.ReasonApprovalBindingMismatch},
		{"in capitals", strings.ToUpper(another), "notes/2", pdp.ReasonApprovalBindingMismatch},
		{"another agent's", theirs, "notes/1", pdp.ReasonApprovalBindingMismatch},
		{"another agent's, and superseded", foreign, "notes/7", pdp.ReasonApprovalBindingMismatch},
		{"superseded", superseded, "notes/8", pdp.ReasonApprovalDenied},
		{"another call's", another, "notes/1", pdp.ReasonApprovalBindingMismatch},
		{"another call's, and over", expired, "notes/1", pdp.ReasonApprovalBindingMismatch},
		{"not decided in time", expired, "notes/3", pdp.ReasonApprovalExpired},
		{"not used in time", unused, "notes/4", pdp.ReasonApprovalExpired},
		{"cancelled", cancelled, "notes/5", pdp.ReasonApprovalDenied},
		{"revoked", revoked, "notes/6", pdp.ReasonApprovalDenied},
	} {
		if dec := o.ask(t, byID(call("cleaner", "delete", tc.resource), tc.id)); dec.Verdict != pdp.Deny || dec.Reason != tc.want {
			t.Errorf("%s: %v %s, want DENY %s", tc.name, dec.Verdict, dec.Reason, tc.want)
		}
	}
	if n := len(o.store.rows); n != 8 {
		t.Errorf("%d approvals, want the 8 that were asked for without an id", n)
	}
	if row := o.store.row(foreign); row.State != store.Pending {
		t.Errorf("another agent's became %s by being named", row.State)
	}
}

func TestDryRunChangesNothing(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1)
	dry := func(req *pdp.Request) pdp.Decision {
		return o.ask(t, with(req, func(r *pdp.Request) { r.DryRun = true }))
	}
	if dec := dry(removeNote); dec.WouldBe != pdp.RequireApproval || len(o.store.rows) != 0 {
		t.Errorf("%+v, %d opened", dec, len(o.store.rows))
	}
	id := o.approved(t, removeNote, lead)
	before := o.store.row(id)
	if dec := dry(removeNote); dec.WouldBe != pdp.Allow {
		t.Errorf("%+v", dec)
	}
	o.store.set(func() { o.store.doubted = true })
	if dec := dry(removeNote); dec.WouldBe != pdp.RequireApproval {
		t.Errorf("%+v", dec)
	}
	o.store.set(func() { o.store.doubted = false })
	o.clock.advance(3 * time.Minute)
	if dec := dry(byID(removeNote, id)); dec.WouldBe != pdp.Deny || dec.Reason != pdp.ReasonApprovalExpired {
		t.Errorf("%+v", dec)
	}
	if diff := cmp.Diff(before, o.store.row(id)); diff != "" {
		t.Errorf("stored (-before +after):\n%s", diff)
	}
}

// A store that may have lost its last writes is not believed that a yes is
// unused.
func TestAnUnsureYesIsAskedForAgain(t *testing.T) {
	t.Parallel()
	for name, do := range map[string]func(*testing.T, *office, string){
		"find": func(t *testing.T, o *office, _ string) {
			t.Helper()
			o.want(t, removeNote, pdp.RequireApproval, pdp.ReasonApprovalPending)
		},
		"find by id": func(t *testing.T, o *office, id string) {
			t.Helper()
			o.want(t, byID(removeNote, id), pdp.RequireApproval, pdp.ReasonApprovalPending)
		},
		"list": func(t *testing.T, o *office, _ string) {
			t.Helper()
			list, _, err := o.desk.List(t.Context(), pdp.ApprovalFilter{})
			if err != nil || len(list) != 1 || list[0].State != pdp.ApprovalPending || len(list[0].Votes) != 0 {
				t.Errorf("%+v %v", list, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t, 1)
			id := o.approved(t, removeNote, lead)
			o.clock.advance(time.Minute)
			o.store.set(func() { o.store.doubted = true })
			do(t, o, id)
			row := o.store.row(id)
			if row.State != store.Pending || len(row.Votes) != 0 || !row.ExpiresAt.Equal(o.clock.now().Add(10*time.Minute)) {
				t.Errorf("stored %+v, want it pending for 10 minutes, without votes", row)
			}
			o.store.set(func() { o.store.doubted = false })
			o.yes(t, id, lead)
			o.want(t, removeNote, pdp.Allow, pdp.ReasonOKApproved)
			o.wantEvents(t, "opened", "vote", "approved", "reopened", "vote", "approved", "consumed")
		})
	}
}

// The doubt can come between Find and Consume.
func TestAYesThatBecomesUnsureAtTheLastMoment(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1)
	id := o.approved(t, removeNote, lead)
	o.store.beforeSwap = func(a *store.Approval) {
		if a.State == store.Consumed {
			o.store.set(func() { o.store.doubted = true })
		}
	}
	o.want(t, removeNote, pdp.RequireApproval, pdp.ReasonApprovalPending)
	if row := o.store.row(id); row.State != store.Pending {
		t.Errorf("stored %s, want pending", row.State)
	}
}

// A store that failed after it did what it was asked to: the yes is gone, and no
// call went through.
func TestAFailureWhileItIsUsedAllowsNothing(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1)
	id := o.approved(t, removeNote, lead)
	o.store.swapErr = store.ErrUnavailable
	o.want(t, removeNote, pdp.Deny, pdp.ReasonDependencyUnavailable)
	o.want(t, byID(removeNote, id), pdp.Deny, pdp.ReasonApprovalConsumed)
	o.store.set(func() { o.store.err = store.ErrUnavailable })
	o.want(t, removeNote, pdp.Deny, pdp.ReasonDependencyUnavailable)
	o.want(t, byID(removeNote, id), pdp.Deny, pdp.ReasonDependencyUnavailable)
	if _, err := o.desk.Get(t.Context(), id); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("get: %v", err)
	}
}

// What cannot be recorded does not count, and lets no call through.
func TestWhatIsNotRecordedDoesNotCount(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1)
	id := o.opened(t, removeNote)
	full := func(kind pdp.ApprovalEventKind) {
		o.rec.mu.Lock()
		defer o.rec.mu.Unlock()
		o.rec.fail = func(r *pdp.Record) error {
			if r.Event != nil && r.Event.Kind == kind {
				return errDown
			}
			return nil
		}
	}
	full(pdp.ApprovalVoted)
	if _, err := o.desk.Approve(t.Context(), &pdp.Ballot{ApprovalID: id, Person: lead}); !errors.Is(err, pdp.ErrUnrecorded) || !errors.Is(err, errDown) {
		t.Errorf("a yes that is not recorded: %v", err)
	}
	if row := o.store.row(id); row.State != store.Pending || len(row.Votes) != 0 {
		t.Errorf("stored %+v, want no vote", row)
	}
	full(pdp.ApprovalUsed)
	o.yes(t, id, lead)
	o.want(t, removeNote, pdp.Deny, pdp.ReasonAuditUnavailable)
	full(pdp.ApprovalOpened)
	o.want(t, call("cleaner", "delete", "notes/2"), pdp.Deny, pdp.ReasonAuditUnavailable)
	// What happened all the same is recorded once that works, in its order, and once.
	full(pdp.ApprovalUsed)
	o.rec.mu.Lock()
	o.rec.records = nil
	o.rec.mu.Unlock()
	if err := o.desk.Sweep(t.Context()); !errors.Is(err, errDown) {
		t.Errorf("while it cannot be recorded: %v", err)
	}
	full(pdp.ApprovalEventNone)
	o.want(t, byID(removeNote, id), pdp.Deny, pdp.ReasonApprovalConsumed)
	for range 2 {
		if err := o.desk.Sweep(t.Context()); err != nil {
			t.Error(err)
		}
	}
	o.wantEvents(t, "consumed", "opened")
	o.want(t, call("cleaner", "delete", "notes/2"), pdp.RequireApproval, pdp.ReasonApprovalPending)
}

func TestARefusedVoteIsRecorded(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1)
	id := o.opened(t, removeNote)
	o.refused(t, id, oidc("mallory@example.com"), pdp.ErrNotEligible)
	recs := o.rec.taken()
	last := recs[len(recs)-1]
	want := &pdp.ApprovalEvent{
		Kind: pdp.ApprovalVoted, Actor: "mallory@example.com", How: pdp.KnownByOIDC, Yes: true, VoteID: last.Event.VoteID, Failed: true,
		Cause: "this person may not decide it: mallory@example.com is in none of the groups that may decide it",
	}
	if diff := cmp.Diff(want, last.Event); diff != "" || last.ApprovalID != id || last.Agent != "cleaner" || last.Verdict != pdp.VerdictNone {
		t.Errorf("%+v\n%s", last, diff)
	}
}

func TestUsedByAGatewayThatMayRetry(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 2, func(c *pdp.DeskConfig) { c.MayRetry = func(g string) bool { return g == "edge" } })
	ask := func(gateway, requestID, approvalID string) *pdp.Request {
		return with(removeNote, func(r *pdp.Request) { r.Gateway, r.RequestID, r.ApprovalID = gateway, requestID, approvalID })
	}
	id := o.approved(t, removeNote, lead)
	o.want(t, ask("edge", "r-1", id), pdp.Allow, pdp.ReasonOKApproved)
	o.want(t, ask("edge", "r-1", id), pdp.Allow, pdp.ReasonOKApproved)
	o.want(t, ask("edge", "r-1", ""), pdp.Allow, pdp.ReasonOKApproved)
	var dec pdp.Decision
	if err := o.svcs[1].Authorize(t.Context(), ask("edge", "r-1", id), &dec); err != nil || dec.Verdict != pdp.Allow {
		t.Errorf("over the other replica: %v %s %v", dec.Verdict, dec.Reason, err)
	}
	for name, req := range map[string]*pdp.Request{
		"another request": ask("edge", "r-2", id),
		"no request id":   ask("edge", "", id),
		"another gateway": ask("proxy", "r-1", id),
		"no gateway":      ask("", "r-1", id),
	} {
		if dec := o.ask(t, req); dec.Reason != pdp.ReasonApprovalConsumed {
			t.Errorf("%s: %v %s, want it consumed", name, dec.Verdict, dec.Reason)
		}
	}
	changed := with(ask("edge", "r-1", id), func(r *pdp.Request) { r.Cost = 2 })
	o.want(t, changed, pdp.Deny, pdp.ReasonApprovalBindingMismatch)
	o.clock.advance(30 * time.Second)
	o.want(t, ask("edge", "r-1", id), pdp.Deny, pdp.ReasonApprovalConsumed)

	second := o.approved(t, removeNote, lead)
	o.want(t, ask("proxy", "r-1", second), pdp.Allow, pdp.ReasonOKApproved)
	o.want(t, ask("proxy", "r-1", second), pdp.Deny, pdp.ReasonApprovalConsumed)
	third := o.approved(t, with(removeNote, func(r *pdp.Request) { r.Resource = "notes/3" }), lead)
	empty := with(ask("edge", "", third), func(r *pdp.Request) { r.Resource = "notes/3" })
	o.want(t, empty, pdp.Allow, pdp.ReasonOKApproved)
	o.want(t, empty, pdp.Deny, pdp.ReasonApprovalConsumed)
}
