package pdp_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/pdp"
)

var checkNames = []string{
	"identity", "suspension", "revocation", "credential", "network", "deny", "scope", "approval", "limits", "consume", "audit",
}

func explain(tb testing.TB, f *fixture, req *pdp.Request) pdp.Explanation {
	tb.Helper()
	var out pdp.Explanation
	if err := f.svc.Explain(context.Background(), req, &out); err != nil {
		tb.Fatal(err)
	}
	var names []string
	for _, c := range out.Checks {
		names = append(names, c.Name)
		if c.Outcome == pdp.CheckUnspecified || (c.Outcome == pdp.CheckSkipped && c.Detail == "") {
			tb.Errorf("check %+v does not say what it found", c)
		}
	}
	if diff := cmp.Diff(checkNames, names); diff != "" {
		tb.Errorf("checks (-want +got):\n%s", diff)
	}
	if out.Decision.Verdict != pdp.VerdictNone || out.Decision.ID != "" {
		tb.Errorf("an explanation could open a door: %+v", out.Decision)
	}
	return out
}

func TestExplainJudgesEveryCheck(t *testing.T) {
	t.Parallel()
	const (
		pass, deny, appr, skip = pdp.CheckPass, pdp.CheckDeny, pdp.CheckRequireApproval, pdp.CheckSkipped
	)
	for _, tc := range []struct {
		name   string
		req    *pdp.Request
		would  pdp.Verdict
		reason pdp.Reason
		want   map[string]pdp.CheckOutcome
		rules  map[string]string
	}{
		{
			"allowed", readNote, pdp.Allow, pdp.ReasonOK,
			map[string]pdp.CheckOutcome{"identity": pass, "suspension": pass, "revocation": skip, "credential": skip, "network": pass, "deny": pass, "scope": pass, "approval": pass, "limits": pass, "consume": skip, "audit": skip},
			map[string]string{"scope": "grants/reader/notes.read"},
		},
		{
			"denied by several", with(call("reader", "read", "notes/locked/1"), func(r *pdp.Request) { r.SourceIP = "192.0.2.1" }), pdp.Deny, pdp.ReasonIPNotAllowed,
			map[string]pdp.CheckOutcome{"network": deny, "deny": deny, "scope": pass},
			map[string]string{"deny": "deny/locked"},
		},
		{
			"a human is needed", deleteNote, pdp.RequireApproval, pdp.ReasonApprovalRequired,
			map[string]pdp.CheckOutcome{"scope": pass, "approval": appr, "limits": pass},
			map[string]string{"approval": "approvals/deletes"},
		},
		{
			"unseen parameters", with(deleteNote, func(r *pdp.Request) { r.ParametersState = pdp.ParametersNotSeen }), pdp.Deny, pdp.ReasonParametersUnavailable,
			map[string]pdp.CheckOutcome{"scope": pass, "approval": deny},
			nil,
		},
		{
			"suspended", call("retired", "read", "notes/1"), pdp.Deny, pdp.ReasonAgentSuspended,
			map[string]pdp.CheckOutcome{"identity": pass, "suspension": deny, "network": pass, "scope": pass},
			nil,
		},
		{
			"unknown", call("ghost", "read", "notes/1"), pdp.Deny, pdp.ReasonAgentUnknown,
			map[string]pdp.CheckOutcome{"identity": deny, "limits": skip},
			nil,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, notesPolicy)
			out := explain(t, f, tc.req)
			if out.Decision.WouldBe != tc.would || out.Decision.Reason != tc.reason {
				t.Errorf("would be %v %s, want %v %s", out.Decision.WouldBe, out.Decision.Reason, tc.would, tc.reason)
			}
			for _, c := range out.Checks {
				if want, ok := tc.want[c.Name]; ok && c.Outcome != want {
					t.Errorf("%s: %+v, want outcome %d", c.Name, c, want)
				}
				if want, ok := tc.rules[c.Name]; ok && (len(c.Rules) == 0 || c.Rules[0] != want) {
					t.Errorf("%s: rules %v, want %s", c.Name, c.Rules, want)
				}
			}
			if n := len(f.rec.taken()); n != 0 {
				t.Errorf("%d records of an explanation", n)
			}
		})
	}
}

func checkNamed(tb testing.TB, out *pdp.Explanation, name string) pdp.Check {
	tb.Helper()
	for _, c := range out.Checks {
		if c.Name == name {
			return c
		}
	}
	tb.Fatalf("no check %s", name)
	return pdp.Check{}
}

func TestExplainSpendsNothingAndSeesTheLimits(t *testing.T) {
	t.Parallel()
	f := newFixture(t, notesPolicy)
	for range 20 {
		explain(t, f, readNote)
	}
	f.wantRoom(t, 5)
	for range 5 {
		f.want(t, readNote, pdp.Allow, pdp.ReasonOK)
		f.want(t, call("cleaner", "read", "notes/1"), pdp.Allow, pdp.ReasonOK)
	}
	out := explain(t, f, readNote)
	if c := checkNamed(t, &out, "limits"); c.Outcome != pdp.CheckDeny || c.Reason != pdp.ReasonRateLimited || !cmp.Equal(c.Rules, []string{"limits/calls"}) {
		t.Errorf("limits: %+v, want DENY rate_limited by limits/calls", c)
	}
	if out.Decision.WouldBe != pdp.Deny || out.Decision.Reason != pdp.ReasonRateLimited {
		t.Errorf("would be %v %s", out.Decision.WouldBe, out.Decision.Reason)
	}
	// Behind an approval that is outstanding the limits are judged all the same.
	out = explain(t, f, deleteNote)
	if c := checkNamed(t, &out, "limits"); c.Outcome != pdp.CheckDeny {
		t.Errorf("limits behind an approval: %+v, want DENY", c)
	}
	if out.Decision.WouldBe != pdp.RequireApproval || out.Decision.Approval == nil || len(out.Decision.Limits) != 0 {
		t.Errorf("the decision changed with the look at the limits: %+v", out.Decision)
	}
}

func TestExplainTellsTheRisk(t *testing.T) {
	t.Parallel()
	f := newFixture(t, notesPolicy)
	for req, want := range map[*pdp.Request]string{readNote: "read", deleteNote: "delete"} {
		if out := explain(t, f, req); out.Risk != want {
			t.Errorf("%s: risk %q, want %q", req.Action, out.Risk, want)
		}
	}
}

func TestExplainWithAStore(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		find    pdp.ApprovalStatus
		would   pdp.Verdict
		outcome pdp.CheckOutcome
		reason  pdp.Reason
	}{
		{pdp.ApprovalStatus{}, pdp.RequireApproval, pdp.CheckRequireApproval, pdp.ReasonApprovalRequired},
		{status(pdp.FoundApproved), pdp.Allow, pdp.CheckPass, pdp.ReasonOKApproved},
		{status(pdp.FoundDenied), pdp.Deny, pdp.CheckDeny, pdp.ReasonApprovalDenied},
	} {
		store := &approvals{answers: answers{find: tc.find, open: status(pdp.FoundOpened), consume: status(pdp.FoundApproved)}}
		f := newFixture(t, notesPolicy, keep(store))
		out := explain(t, f, deleteNote)
		if c := checkNamed(t, &out, "approval"); c.Outcome != tc.outcome || c.Reason != tc.reason {
			t.Errorf("approval: %+v, want outcome %d %s", c, tc.outcome, tc.reason)
		}
		if out.Decision.WouldBe != tc.would {
			t.Errorf("would be %v, want %v", out.Decision.WouldBe, tc.would)
		}
		if store.opens+store.consumes != 0 {
			t.Error("an explanation changed the store")
		}
	}
}

func TestExplainSeams(t *testing.T) {
	t.Parallel()
	f := newFixture(t, notesPolicy,
		identify(func(r *pdp.Request) (pdp.Identity, error) {
			if r.Agent == "ghost" {
				return pdp.Identity{Denied: pdp.ReasonTokenInvalid}, nil
			}
			return pdp.Identity{Agent: r.Agent}, nil
		}),
		func(c *pdp.Config) { c.Revocations = revocations{"reader": pdp.ReasonAgentRevoked} })
	out := explain(t, f, readNote)
	if c := checkNamed(t, &out, "revocation"); c.Outcome != pdp.CheckDeny || c.Reason != pdp.ReasonAgentRevoked {
		t.Errorf("revocation: %+v", c)
	}
	if c := checkNamed(t, &out, "scope"); c.Outcome != pdp.CheckPass {
		t.Errorf("scope behind a revocation: %+v, want it judged", c)
	}
	out = explain(t, f, deleteNote)
	if c := checkNamed(t, &out, "revocation"); c.Outcome != pdp.CheckPass {
		t.Errorf("revocation: %+v", c)
	}
	out = explain(t, f, call("ghost", "read", "notes/1"))
	if c := checkNamed(t, &out, "identity"); c.Outcome != pdp.CheckDeny || c.Reason != pdp.ReasonTokenInvalid {
		t.Errorf("identity: %+v", c)
	}
	if c := checkNamed(t, &out, "scope"); c.Outcome != pdp.CheckSkipped {
		t.Errorf("scope without an identity: %+v, want it skipped", c)
	}
}

func TestExplainOfTheMalformedAndOfPanics(t *testing.T) {
	t.Parallel()
	f := newFixture(t, notesPolicy)
	out := pdp.Explanation{Decision: pdp.Decision{WouldBe: pdp.Allow}}
	var bad *pdp.InvalidError
	if err := f.svc.Explain(context.Background(), call("reader", "read", "/x"), &out); !errors.As(err, &bad) || bad.Field != "resource" {
		t.Errorf("error %v, want one of resource", err)
	}
	if out.Decision.WouldBe != pdp.VerdictNone || len(out.Checks) != 0 {
		t.Errorf("something is left: %+v", out)
	}
	f = newFixture(t, notesPolicy, breakLimiter(&brokenLimiter{broken: func([]limiter.Call) error { panic(errDown) }}))
	if err := f.svc.Explain(context.Background(), readNote, &out); err != nil || out.Decision.WouldBe != pdp.Deny || out.Decision.Reason != pdp.ReasonInternalError {
		t.Errorf("after a panic: would be %v %s, %v", out.Decision.WouldBe, out.Decision.Reason, err)
	}
}
