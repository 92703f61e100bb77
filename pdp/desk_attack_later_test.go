package pdp_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/store"
)

// The rows of the table of attacks on approvals that are about what changes
// between the yes and its use, and about too much of it.

func TestAttackExpiryRace(t *testing.T) {
	t.Parallel()
	const pending, use = 10 * time.Minute, 3 * time.Minute
	for _, tc := range []struct {
		name  string
		after time.Duration
		ok    bool
	}{{"t-1", -1, true}, {"t", 0, false}, {"t+1", 1, false}} {
		t.Run("approve at "+tc.name, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t, 1)
			id := o.opened(t, removeNote)
			o.clock.advance(pending + tc.after)
			if tc.ok {
				o.yes(t, id, lead)
				o.want(t, byID(removeNote, id), pdp.Allow, pdp.ReasonOKApproved)
				return
			}
			o.refused(t, id, lead, pdp.ErrApprovalDecided)
			if _, err := o.desk.Deny(t.Context(), &pdp.Ballot{ApprovalID: id, Person: lead, Reason: "x"}); !errors.Is(err, pdp.ErrApprovalDecided) {
				t.Errorf("a no: %v", err)
			}
			o.want(t, byID(removeNote, id), pdp.Deny, pdp.ReasonApprovalExpired)
			o.want(t, removeNote, pdp.RequireApproval, pdp.ReasonApprovalRequired)
		})
		t.Run("consume at "+tc.name, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t, 1)
			id := o.approved(t, removeNote, lead)
			o.clock.advance(use + tc.after)
			if tc.ok {
				o.want(t, byID(removeNote, id), pdp.Allow, pdp.ReasonOKApproved)
				return
			}
			o.want(t, byID(removeNote, id), pdp.Deny, pdp.ReasonApprovalExpired)
			o.want(t, removeNote, pdp.RequireApproval, pdp.ReasonApprovalRequired)
		})
	}
	t.Run("the time is over between the limits and the use", func(t *testing.T) {
		t.Parallel()
		o := newOffice(t, 1)
		id := o.approved(t, removeNote, lead)
		found, ask := o.findDirect(t, removeNote, id)
		o.clock.advance(use)
		if used, err := o.desk.Consume(t.Context(), ask, found); err != nil || used.Found != pdp.FoundExpired {
			t.Errorf("%+v %v, want it expired", used, err)
		}
	})
}

// findDirect finds an approval as a service does, for tests of what comes between
// Find and Consume.
func (o *office) findDirect(tb testing.TB, req *pdp.Request, id string) (pdp.ApprovalStatus, *pdp.ApprovalAsk) {
	tb.Helper()
	row := o.store.row(id)
	ask := &pdp.ApprovalAsk{ID: id, Digest: row.Digest, Agent: row.Agent, Subject: row.Subject, Request: req, DecisionID: "d"}
	for _, r := range row.Requirements {
		need, ok := o.source.Snapshot().Requirement(r.Rule)
		if !ok {
			tb.Fatalf("no %s", r.Rule)
		}
		ask.Requirements = append(ask.Requirements, need)
	}
	found, err := o.desk.Find(context.Background(), ask)
	if err != nil || found.Found != pdp.FoundApproved {
		tb.Fatalf("find: %+v %v", found, err)
	}
	return found, ask
}

func TestAttackApproveThenChangeTheWorldBeforeUse(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		change func(*testing.T, *office, string)
		req    func(*pdp.Request)
		// named and plain are the answers by id and without.
		named, plain pdp.Reason
	}{
		{"suspend", func(t *testing.T, o *office, _ string) {
			t.Helper()
			o.edit(t, "cleaner: {owner", "cleaner: {suspended: true, owner")
		}, nil, pdp.ReasonAgentSuspended, pdp.ReasonAgentSuspended},
		{"source address", nil, func(r *pdp.Request) { r.SourceIP = "192.0.2.1" }, pdp.ReasonIPNotAllowed, pdp.ReasonIPNotAllowed},
		{"the grant is gone", func(t *testing.T, o *office, _ string) {
			t.Helper()
			o.edit(t, "cleaner: {owner: team@example.com, scopes: [notes.delete, pay, wipe]", "cleaner: {owner: team@example.com, scopes: [pay, wipe]")
		}, nil, pdp.ReasonInsufficientScope, pdp.ReasonInsufficientScope},
		{"a deny rule", func(t *testing.T, o *office, _ string) {
			t.Helper()
			o.edit(t, "limits:", "deny:\n  all: {match: {actions: [delete]}}\nlimits:")
		}, nil, pdp.ReasonActionDenied, pdp.ReasonActionDenied},
		{"the rule is changed", func(t *testing.T, o *office, _ string) {
			t.Helper()
			o.edit(t, "use_within: 3m", "use_within: 4m")
		}, nil, pdp.ReasonApprovalDenied, pdp.ReasonApprovalRequired},
		{"the rule is another", func(t *testing.T, o *office, _ string) {
			t.Helper()
			o.edit(t, "  deletes: {match", "  removals: {match")
		}, nil, pdp.ReasonApprovalDenied, pdp.ReasonApprovalRequired},
		{"one rule more", func(t *testing.T, o *office, _ string) {
			t.Helper()
			o.edit(t, "  pays: {match", "  besides: {match: {actions: [delete]}, approvers: [board]}\n  pays: {match")
		}, nil, pdp.ReasonApprovalBindingMismatch, pdp.ReasonApprovalRequired},
		{"the approver is gone", func(t *testing.T, o *office, _ string) {
			t.Helper()
			o.edit(t, "security: {members: [lead@example.com, ", "security: {members: [")
		}, nil, pdp.ReasonApprovalDenied, pdp.ReasonApprovalRequired},
		{"revoked by hand", func(t *testing.T, o *office, id string) {
			t.Helper()
			if r, err := o.desk.Cancel(t.Context(), &pdp.Ballot{ApprovalID: id, Person: oncall, Reason: "x"}); err != nil || r.State != pdp.ApprovalRevoked {
				t.Fatalf("%+v %v", r, err)
			}
		}, nil, pdp.ReasonApprovalDenied, pdp.ReasonApprovalRequired},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t, 2)
			id := o.approved(t, removeNote, lead)
			req := removeNote
			if tc.req != nil {
				req = with(req, tc.req)
			}
			if tc.change != nil {
				tc.change(t, o, id)
			}
			if dec := o.ask(t, byID(req, id)); dec.Verdict == pdp.Allow || dec.Reason != tc.named {
				t.Errorf("by id: %v %s, want %s", dec.Verdict, dec.Reason, tc.named)
			}
			if dec := o.ask(t, req); dec.Verdict == pdp.Allow || dec.Reason != tc.plain {
				t.Errorf("by itself: %v %s, want %s", dec.Verdict, dec.Reason, tc.plain)
			}
		})
	}
}

// A reload, or a group that changes, can come after Find.
func TestAttackApproveThenChangeBetweenFindAndConsume(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(*testing.T, *office, string, *pdp.ApprovalAsk)
		want   pdp.ApprovalFound
	}{
		"the policy is edited": {func(t *testing.T, o *office, _ string, _ *pdp.ApprovalAsk) {
			t.Helper()
			o.edit(t, "use_within: 3m", "use_within: 4m")
		}, pdp.FoundDenied},
		"the approver left the group": {func(_ *testing.T, _ *office, _ string, ask *pdp.ApprovalAsk) {
			ask.Requirements[0].Approvers = []string{"oncall@example.com"}
		}, pdp.FoundPending},
		"a requirement is missing": {func(_ *testing.T, _ *office, _ string, ask *pdp.ApprovalAsk) {
			ask.Requirements = nil
		}, pdp.FoundPending},
		"the votes were taken out by hand": {func(_ *testing.T, o *office, id string, _ *pdp.ApprovalAsk) {
			o.store.change(id, func(a *store.Approval) { a.Votes = nil })
		}, pdp.FoundPending},
		"the votes were put in by hand": {func(_ *testing.T, o *office, id string, _ *pdp.ApprovalAsk) {
			o.store.change(id, func(a *store.Approval) {
				a.Votes = []store.Vote{{Voter: "mallory@example.com", How: pdp.KnownByOIDC, Yes: true, Rule: "approvals/deletes"}}
			})
		}, pdp.FoundPending},
		"it is another call's by now": {func(_ *testing.T, o *office, id string, _ *pdp.ApprovalAsk) {
			o.store.change(id, func(a *store.Approval) { a.Digest = "other" })
		}, pdp.FoundMismatch},
		"it is another agent's by now": {func(_ *testing.T, o *office, id string, _ *pdp.ApprovalAsk) {
			o.store.change(id, func(a *store.Approval) { a.Agent = "sweeper" })
		}, pdp.FoundMismatch},
		"it was pruned": {func(_ *testing.T, o *office, _ string, _ *pdp.ApprovalAsk) {
			o.store.set(func() { o.store.rows = nil })
		}, pdp.FoundMismatch},
		"it was revoked": {func(t *testing.T, o *office, id string, _ *pdp.ApprovalAsk) {
			t.Helper()
			if _, err := o.desk.Cancel(t.Context(), &pdp.Ballot{ApprovalID: id, Person: oncall}); err != nil {
				t.Fatal(err)
			}
		}, pdp.FoundDenied},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t, 1)
			id := o.approved(t, removeNote, lead)
			found, ask := o.findDirect(t, removeNote, id)
			tc.change(t, o, id, ask)
			used, err := o.desk.Consume(t.Context(), ask, found)
			if err != nil || used.Found != tc.want {
				t.Errorf("%+v %v, want %d", used, err, tc.want)
			}
		})
	}
}

// A revocation and a use at the same moment: one of them wins.
func TestAttackRevokedWhileItIsUsed(t *testing.T) {
	t.Parallel()
	for range 50 {
		o := newOffice(t, 2)
		id := o.approved(t, removeNote, lead)
		var dec pdp.Decision
		var cancelled error
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := o.svcs[0].Authorize(context.Background(), byID(removeNote, id), &dec); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			_, cancelled = o.desks[1].Cancel(context.Background(), &pdp.Ballot{ApprovalID: id, Person: oncall})
		})
		wg.Wait()
		if (dec.Verdict == pdp.Allow) == (cancelled == nil) {
			t.Fatalf("%v %s, and the revocation: %v", dec.Verdict, dec.Reason, cancelled)
		}
	}
}

func TestAttackFloodOfApprovals(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 2)
	var wg sync.WaitGroup
	var mu sync.Mutex
	reasons := map[pdp.Reason]int{}
	for i := range 1000 {
		wg.Go(func() {
			var dec pdp.Decision
			err := o.svcs[i%2].Authorize(context.Background(), call("cleaner", "delete", fmt.Sprint("notes/", i)), &dec)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
			}
			reasons[dec.Reason]++
		})
	}
	wg.Wait()
	if reasons[pdp.ReasonApprovalRequired] != 10 || reasons[pdp.ReasonApprovalQuota] != 990 {
		t.Errorf("%v, want 10 opened and 990 refused", reasons)
	}
	// Another agent is not touched by it.
	o.want(t, call("sweeper", "delete", "notes/1"), pdp.RequireApproval, pdp.ReasonApprovalRequired)
	// At most 30 an hour, however fast they are decided.
	opened := 10
	for i := range 40 {
		list, _, err := o.desk.List(t.Context(), pdp.ApprovalFilter{Agent: "cleaner", State: pdp.ApprovalPending})
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range list {
			o.no(t, a.ID, lead)
		}
		if dec := o.ask(t, call("cleaner", "delete", fmt.Sprint("notes/again/", i))); dec.Verdict == pdp.RequireApproval {
			opened++
		} else if dec.Reason != pdp.ReasonApprovalQuota {
			t.Fatalf("%v %s", dec.Verdict, dec.Reason)
		}
	}
	if opened != 30 {
		t.Errorf("%d opened within the hour, want 30", opened)
	}
	o.clock.advance(time.Hour)
	o.want(t, call("cleaner", "delete", "notes/later"), pdp.RequireApproval, pdp.ReasonApprovalRequired)
}

// The same call again and again is one approval, also if many ask at once.
func TestAttackFloodOfOneCall(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 3)
	reasons := o.race(t, 64, func(i int) *pdp.Request {
		return with(removeNote, func(r *pdp.Request) { r.RequestID = fmt.Sprint(i) })
	})
	if reasons[pdp.ReasonApprovalRequired] != 1 || reasons[pdp.ReasonApprovalPending] != 63 || len(o.store.rows) != 1 {
		t.Errorf("%v with %d approvals, want one", reasons, len(o.store.rows))
	}
}

func TestAttackForeignHandWritesAnApproval(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1)
	id := o.opened(t, removeNote)
	o.store.change(id, func(a *store.Approval) { a.State, a.UseBy = store.Approved, o.clock.now().Add(time.Hour) })
	o.want(t, byID(removeNote, id), pdp.RequireApproval, pdp.ReasonApprovalPending)
	o.store.change(id, func(a *store.Approval) { a.State = 99 })
	o.want(t, byID(removeNote, id), pdp.Deny, pdp.ReasonApprovalBindingMismatch)
}
