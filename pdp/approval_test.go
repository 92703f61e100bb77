package pdp_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kelpie-authz/kelpie/pdp"
)

// approvals answers what it is told to, and remembers what it was asked.
type approvals struct {
	answers
	panicked               error
	mu                     sync.Mutex
	finds, opens, consumes int
	last                   pdp.ApprovalAsk
}

type answers struct {
	find, open, consume          pdp.ApprovalStatus
	findErr, openErr, consumeErr error
}

func (a *approvals) Find(_ context.Context, ask *pdp.ApprovalAsk) (pdp.ApprovalStatus, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.finds++
	a.last = *ask
	if a.panicked != nil {
		panic(a.panicked)
	}
	return a.find, a.findErr
}

func (a *approvals) Open(_ context.Context, ask *pdp.ApprovalAsk) (pdp.ApprovalStatus, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.opens++
	a.last = *ask
	return a.open, a.openErr
}

func (a *approvals) Consume(_ context.Context, ask *pdp.ApprovalAsk, _ pdp.ApprovalStatus) (pdp.ApprovalStatus, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.consumes++
	a.last = *ask
	return a.consume, a.consumeErr
}

func keep(a *approvals) func(*pdp.Config) { return func(c *pdp.Config) { c.Approvals = a } }

func status(found pdp.ApprovalFound) pdp.ApprovalStatus {
	return pdp.ApprovalStatus{Found: found, ID: "ap-1", ExpiresAt: testStart.Add(time.Minute)}
}

func TestWithoutAStoreTheAnswerCarriesDigestAndRules(t *testing.T) {
	t.Parallel()
	f := newFixture(t, notesPolicy)
	dec := f.want(t, deleteNote, pdp.RequireApproval, pdp.ReasonApprovalRequired, "approvals/deletes")
	if dec.Approval == nil || len(dec.Approval.Digest) != 64 {
		t.Fatalf("approval %+v, want one with a digest", dec.Approval)
	}
	want := &pdp.Approval{
		Digest: dec.Approval.Digest,
		Rules:  []pdp.ApprovalRequirement{{Rule: "approvals/deletes", Groups: []string{"security"}, Quorum: 2}},
	}
	if diff := cmp.Diff(want, dec.Approval); diff != "" {
		t.Errorf("approval (-want +got):\n%s", diff)
	}
	if again := f.ask(t, deleteNote); again.Approval.Digest != dec.Approval.Digest {
		t.Error("the same call has another digest the second time")
	}
}

// What binds is what the request says of the call; what changes from one try
// to the next does not.
func TestWhatAnApprovalBinds(t *testing.T) {
	t.Parallel()
	f := newFixture(t, notesPolicy)
	base := with(payBill, func(r *pdp.Request) {
		r.Subject, r.Tool, r.ParametersJSON, r.Cost = "user@example.com", pdp.Tool{Server: "s", Name: "n"}, []byte(`{"amount":82000}`), 2
		r.Context = map[string]any{"channel": "email", "other": "x"}
	})
	digestOf := func(change func(*pdp.Request)) string {
		dec := f.ask(t, with(base, change))
		if dec.Verdict != pdp.RequireApproval {
			t.Fatalf("%v %s, want REQUIRE_APPROVAL", dec.Verdict, dec.Reason)
		}
		return dec.Approval.Digest
	}
	want := digestOf(func(*pdp.Request) {})
	for name, change := range map[string]func(*pdp.Request){
		"request_id":         func(r *pdp.Request) { r.RequestID = "r-2" },
		"source_ip":          func(r *pdp.Request) { r.SourceIP = "10.9.9.9" },
		"session_id":         func(r *pdp.Request) { r.SessionID = "s" },
		"run_id":             func(r *pdp.Request) { r.RunID = "s" },
		"gateway":            func(r *pdp.Request) { r.Gateway = "g" },
		"a context not read": func(r *pdp.Request) { r.Context = map[string]any{"channel": "email"} },
		"spelling":           func(r *pdp.Request) { r.ParametersJSON = []byte(" {\"amount\" : 8.2e4}\n") },
	} {
		if digestOf(change) != want {
			t.Errorf("%s changes the digest", name)
		}
	}
	seen := map[string]string{want: "base"}
	for name, change := range map[string]func(*pdp.Request){
		"subject":     func(r *pdp.Request) { r.Subject = "other@example.com" },
		"resource":    func(r *pdp.Request) { r.Resource = "bank/loan" },
		"tool server": func(r *pdp.Request) { r.Tool.Server = "t" },
		"tool name":   func(r *pdp.Request) { r.Tool.Name = "t" },
		"amount":      func(r *pdp.Request) { r.ParametersJSON = []byte(`{"amount":820000}`) },
		"text amount": func(r *pdp.Request) { r.ParametersJSON = []byte(`{"amount":"82000"}`) },
		"parameters":  func(r *pdp.Request) { r.ParametersJSON = nil },
		"cost":        func(r *pdp.Request) { r.Cost = 3 },
	} {
		d := digestOf(change)
		if other, same := seen[d]; same {
			t.Errorf("%s and %s have one digest", name, other)
		}
		seen[d] = name
	}
}

func TestApprovalLifecycle(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		store   answers
		id      string
		verdict pdp.Verdict
		reason  pdp.Reason
		opens   int
		uses    int
		// spent is whether the call was charged.
		spent bool
	}{
		{"opened now", answers{open: status(pdp.FoundOpened)}, "", pdp.RequireApproval, pdp.ReasonApprovalRequired, 1, 0, false},
		{"opened by another meanwhile", answers{open: status(pdp.FoundPending)}, "", pdp.RequireApproval, pdp.ReasonApprovalPending, 1, 0, false},
		{"pending", answers{find: status(pdp.FoundPending)}, "", pdp.RequireApproval, pdp.ReasonApprovalPending, 0, 0, false},
		{"too many pending", answers{open: status(pdp.FoundQuota)}, "", pdp.Deny, pdp.ReasonApprovalQuota, 1, 0, false},
		{"approved", answers{find: status(pdp.FoundApproved), consume: status(pdp.FoundApproved)}, "", pdp.Allow, pdp.ReasonOKApproved, 0, 1, true},
		{"approved, by id", answers{find: status(pdp.FoundApproved), consume: status(pdp.FoundApproved)}, "ap-1", pdp.Allow, pdp.ReasonOKApproved, 0, 1, true},
		{"a standing grant", answers{find: status(pdp.FoundGranted), consume: status(pdp.FoundGranted)}, "", pdp.Allow, pdp.ReasonOKGrant, 0, 1, true},
		{"a grant used up", answers{find: status(pdp.FoundGrantExhausted)}, "", pdp.Deny, pdp.ReasonGrantExhausted, 0, 0, false},
		{"denied", answers{find: status(pdp.FoundDenied)}, "", pdp.Deny, pdp.ReasonApprovalDenied, 0, 0, false},
		{"denied, by id", answers{find: status(pdp.FoundDenied)}, "ap-1", pdp.Deny, pdp.ReasonApprovalDenied, 0, 0, false},
		{"expired", answers{find: status(pdp.FoundExpired)}, "ap-1", pdp.Deny, pdp.ReasonApprovalExpired, 0, 0, false},
		{"consumed", answers{find: status(pdp.FoundConsumed)}, "ap-1", pdp.Deny, pdp.ReasonApprovalConsumed, 0, 0, false},
		{"another call's", answers{find: status(pdp.FoundMismatch)}, "ap-1", pdp.Deny, pdp.ReasonApprovalBindingMismatch, 0, 0, false},
		{"an unknown id opens nothing", answers{open: status(pdp.FoundOpened)}, "ap-9", pdp.Deny, pdp.ReasonApprovalBindingMismatch, 0, 0, false},
		{"the race for it is lost", answers{find: status(pdp.FoundApproved), consume: status(pdp.FoundConsumed)}, "", pdp.Deny, pdp.ReasonApprovalConsumed, 0, 1, false},
		{"it expires at the last moment", answers{find: status(pdp.FoundApproved), consume: status(pdp.FoundExpired)}, "", pdp.Deny, pdp.ReasonApprovalExpired, 0, 1, false},
		{"the store asks again", answers{find: status(pdp.FoundApproved), consume: status(pdp.FoundPending)}, "", pdp.RequireApproval, pdp.ReasonApprovalPending, 0, 1, false},
		{"nonsense from the store", answers{find: status(99)}, "", pdp.Deny, pdp.ReasonInternalError, 0, 0, false},
		{"nonsense after the charge", answers{find: status(pdp.FoundApproved)}, "", pdp.Deny, pdp.ReasonInternalError, 0, 1, false},
		{"find fails", answers{findErr: errDown}, "", pdp.Deny, pdp.ReasonDependencyUnavailable, 0, 0, false},
		{"open fails", answers{openErr: errDown}, "", pdp.Deny, pdp.ReasonDependencyUnavailable, 1, 0, false},
		{"consume fails", answers{find: status(pdp.FoundApproved), consumeErr: errDown}, "", pdp.Deny, pdp.ReasonDependencyUnavailable, 0, 1, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			store := &approvals{answers: tc.store}
			f := newFixture(t, notesPolicy, keep(store))
			dec := f.want(t, with(deleteNote, func(r *pdp.Request) { r.ApprovalID = tc.id }), tc.verdict, tc.reason)
			if len(dec.Matched) == 0 || dec.Matched[0] != "approvals/deletes" {
				t.Errorf("matched %v, want the approval rule first", dec.Matched)
			}
			if store.opens != tc.opens || store.consumes != tc.uses {
				t.Errorf("opened %d times and consumed %d times, want %d and %d", store.opens, store.consumes, tc.opens, tc.uses)
			}
			wantLeft(t, f, "cleaner", 5-map[bool]int64{true: 1}[tc.spent])
			if tc.verdict == pdp.RequireApproval && (dec.Approval == nil || dec.Approval.ID != "ap-1" || dec.Approval.State != pdp.ApprovalPending) {
				t.Errorf("approval %+v, want the pending ap-1", dec.Approval)
			}
			if f.panics.Load() != 0 {
				t.Error("a panic")
			}
		})
	}
}

func wantLeft(tb testing.TB, f *fixture, agent string, n int64) {
	tb.Helper()
	dec := f.ask(tb, with(call(agent, "read", "notes/1"), func(r *pdp.Request) { r.DryRun = true }))
	if len(dec.Limits) == 0 || dec.Limits[0].Remaining != n {
		tb.Errorf("limits %+v, want %d left", dec.Limits, n)
	}
}

func TestAllowNamesTheRulesThatWereMet(t *testing.T) {
	t.Parallel()
	f := newFixture(t, notesPolicy, keep(&approvals{answers: answers{find: status(pdp.FoundApproved), consume: status(pdp.FoundApproved)}}))
	f.want(t, deleteNote, pdp.Allow, pdp.ReasonOKApproved, "approvals/deletes", "grants/cleaner/notes.delete")
}

func TestWhatTheStoreIsAsked(t *testing.T) {
	t.Parallel()
	store := &approvals{answers: answers{open: status(pdp.FoundOpened)}}
	f := newFixture(t, notesPolicy, keep(store))
	dec := f.want(t, with(deleteNote, func(r *pdp.Request) { r.Subject = "user@example.com" }), pdp.RequireApproval, pdp.ReasonApprovalRequired)
	got := store.last
	if got.Digest != dec.Approval.Digest || got.Expires != 10*time.Minute || got.UseWithin != 3*time.Minute ||
		got.Agent != "cleaner" || got.Subject != "user@example.com" || got.DecisionID != dec.ID || !got.Now.Equal(testStart) ||
		got.Risk != "delete" || len(got.Requirements) != 1 {
		t.Errorf("asked %+v", got)
	}
}

// A limit that refuses must not burn the approval.
func TestLimitsComeBeforeConsumption(t *testing.T) {
	t.Parallel()
	store := &approvals{answers: answers{find: status(pdp.FoundApproved), consume: status(pdp.FoundApproved)}}
	f := newFixture(t, notesPolicy, keep(store))
	for range 5 {
		f.want(t, call("cleaner", "read", "notes/1"), pdp.Allow, pdp.ReasonOK)
	}
	f.want(t, deleteNote, pdp.Deny, pdp.ReasonRateLimited, "limits/calls")
	if store.consumes != 0 {
		t.Error("the approval was consumed by a call that a limit refused")
	}
}

// A DENY goes before approvals: the store is not even asked.
func TestDenyGoesBeforeApproval(t *testing.T) {
	t.Parallel()
	store := &approvals{answers: answers{find: status(pdp.FoundApproved), consume: status(pdp.FoundApproved)}}
	f := newFixture(t, notesPolicy, keep(store))
	f.want(t, with(deleteNote, func(r *pdp.Request) { r.SourceIP = "192.0.2.1" }), pdp.Deny, pdp.ReasonIPNotAllowed)
	f.want(t, call("reader", "delete", "notes/1"), pdp.Deny, pdp.ReasonInsufficientScope)
	f.want(t, with(call("reader", "read", "notes/1"), func(r *pdp.Request) { r.ApprovalID = "ap-1" }), pdp.Allow, pdp.ReasonOK)
	if store.finds != 0 {
		t.Errorf("the store was asked %d times", store.finds)
	}
}

func TestDryRunOpensAndConsumesNothing(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		find   pdp.ApprovalStatus
		would  pdp.Verdict
		reason pdp.Reason
	}{
		{pdp.ApprovalStatus{}, pdp.RequireApproval, pdp.ReasonApprovalRequired},
		{status(pdp.FoundApproved), pdp.Allow, pdp.ReasonOKApproved},
	} {
		store := &approvals{answers: answers{find: tc.find, open: status(pdp.FoundOpened), consume: status(pdp.FoundApproved)}}
		f := newFixture(t, notesPolicy, keep(store))
		dec := f.ask(t, with(deleteNote, func(r *pdp.Request) { r.DryRun = true }))
		if dec.Verdict != pdp.VerdictNone || dec.WouldBe != tc.would || dec.Reason != tc.reason {
			t.Errorf("got %v, would be %v %s; want %v %s", dec.Verdict, dec.WouldBe, dec.Reason, tc.would, tc.reason)
		}
		if store.opens+store.consumes != 0 {
			t.Error("a dry run changed the store")
		}
	}
}

func TestEndedContextInTheStoreIsNoDecision(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(context.Background())
	store := &cancelling{cancel: cancel}
	f := newFixture(t, notesPolicy, func(c *pdp.Config) { c.Approvals = store })
	var dec pdp.Decision
	if err := f.svc.Authorize(ctx, deleteNote, &dec); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want the context's", err)
	}
	wantLeft(t, f, "cleaner", 5)
}

// cancelling ends the context while the approval is being consumed.
type cancelling struct {
	approvals
	cancel func()
}

func (c *cancelling) Find(context.Context, *pdp.ApprovalAsk) (pdp.ApprovalStatus, error) {
	return status(pdp.FoundApproved), nil
}

func (c *cancelling) Consume(ctx context.Context, _ *pdp.ApprovalAsk, _ pdp.ApprovalStatus) (pdp.ApprovalStatus, error) {
	c.cancel()
	return pdp.ApprovalStatus{}, ctx.Err()
}
