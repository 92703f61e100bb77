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
		{status(pdp.FoundGranted), pdp.Allow, pdp.CheckPass, pdp.ReasonOKGrant},
		{status(pdp.FoundBreakGlass), pdp.Allow, pdp.CheckPass, pdp.ReasonOKBreakglass},
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

// TestExplainTellsTheLimits: what the row of the limits says, and that it never
// contradicts the decision.
func TestExplainTellsTheLimits(t *testing.T) {
	t.Parallel()
	two := limited("  a-rate: {rate: 60/minute, burst: 2, per: [agent]}\n  b-quota: {quota: 3/hour, per: [agent]}\n  c-shadow: {quota: 9/day, per: [agent], shadow: true}\n")
	cost := limited("  spend: {quota: 10/day, per: [agent], count: cost}\n")
	outside := with(readNote, func(r *pdp.Request) { r.SourceIP = "192.0.2.1" })
	for _, tc := range []struct {
		name, policy string
		// before is how often the request is sent first.
		before int
		req    *pdp.Request
		change []func(*pdp.Config)
		want   pdp.Check
	}{
		{"fresh", two, 0, readNote, nil, pdp.Check{
			Outcome: pdp.CheckPass, Rules: []string{"limits/a-rate", "limits/b-quota"}, Detail: "a-rate: 2 of 2 left; b-quota: 3 of 3 left",
		}},
		{"one was spent", two, 1, readNote, nil, pdp.Check{
			Outcome: pdp.CheckPass, Rules: []string{"limits/a-rate", "limits/b-quota"}, Detail: "a-rate: 1 of 2 left; b-quota: 2 of 3 left",
		}},
		{"the burst is spent", two, 2, readNote, nil, pdp.Check{
			Outcome: pdp.CheckDeny, Reason: pdp.ReasonRateLimited, Rules: []string{"limits/a-rate"}, Detail: "a-rate is reached; free in 1s",
		}},
		{"both are spent", limited("  a-rate: {rate: 60/minute, burst: 2, per: [agent]}\n  b-quota: {quota: 2/hour, per: [agent]}\n"), 2, readNote, nil, pdp.Check{
			Outcome: pdp.CheckDeny, Reason: pdp.ReasonQuotaExhausted, Rules: []string{"limits/b-quota", "limits/a-rate"},
			Detail: "b-quota is reached; free in 1h0m0s; a-rate is reached; free in 1s",
		}},
		{"a cost that never fits", cost, 0, with(readNote, func(r *pdp.Request) { r.Cost = 11 }), nil, pdp.Check{
			Outcome: pdp.CheckDeny, Reason: pdp.ReasonCostExceedsLimit, Rules: []string{"limits/spend"},
			Detail: "spend can never give more than 10, and the call costs more",
		}},
		{"an approval is outstanding", notesPolicy, 0, deleteNote, nil, pdp.Check{
			Outcome: pdp.CheckPass, Rules: []string{"limits/calls"}, Detail: "once approved: calls: 5 of 5 left",
		}},
		{"the policy denies", notesPolicy, 0, outside, nil, pdp.Check{
			Outcome: pdp.CheckSkipped, Detail: "not looked at: an earlier check denies",
		}},
		{
			"what was revoked has limits all the same", notesPolicy, 0, readNote,
			[]func(*pdp.Config){func(c *pdp.Config) { c.Revocations = revocations{"reader": pdp.ReasonAgentRevoked} }},
			pdp.Check{Outcome: pdp.CheckPass, Rules: []string{"limits/calls"}, Detail: "calls: 5 of 5 left"},
		},
		{
			"the limiter is down", notesPolicy, 0, readNote,
			[]func(*pdp.Config){breakLimiter(&brokenLimiter{broken: func([]limiter.Call) error { return errDown }})},
			pdp.Check{
				Outcome: pdp.CheckDeny, Reason: pdp.ReasonDependencyUnavailable, Rules: []string{"limits/calls"},
				Detail: "Something that this decision needs cannot be asked; try again later.",
			},
		},
		{
			"the limiter is down and may be", limited("  lenient: {rate: 60/minute, per: [agent], on_unavailable: allow}\n"), 0, readNote,
			[]func(*pdp.Config){breakLimiter(&brokenLimiter{broken: func([]limiter.Call) error { return errDown }})},
			pdp.Check{
				Outcome: pdp.CheckPass,
				Detail:  "the limit lenient could not be asked and was left out, as its on_unavailable says",
			},
		},
		{
			"a condition that cannot be evaluated", limited("  odd: {rate: 60/minute, per: [agent], match: {when: 'context.size > 1'}}\n"), 0, readNote, nil,
			pdp.Check{
				Outcome: pdp.CheckDeny, Reason: pdp.ReasonConditionFailed, Rules: []string{"limits/odd"},
				Detail: "the condition of a limit cannot be evaluated",
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, tc.policy, tc.change...)
			for range tc.before {
				f.want(t, tc.req, pdp.Allow, pdp.ReasonOK)
			}
			out := explain(t, f, tc.req)
			got := checkNamed(t, &out, "limits")
			tc.want.Name = "limits"
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("limits (-want +got):\n%s", diff)
			}
			if got.Outcome == pdp.CheckDeny && out.Decision.WouldBe == pdp.Allow {
				t.Error("the limits deny and the decision would be ALLOW")
			}
			if dec := f.ask(t, tc.req); dec.Verdict != out.Decision.WouldBe || dec.Reason != out.Decision.Reason {
				t.Errorf("explained %v %s, decided %v %s", out.Decision.WouldBe, out.Decision.Reason, dec.Verdict, dec.Reason)
			}
		})
	}
}

// TestExplainAnIdentityThatIsRefused: an id that the policy knows does not make
// a refused credential pass.
func TestExplainAnIdentityThatIsRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t, notesPolicy, identify(func(r *pdp.Request) (pdp.Identity, error) {
		return pdp.Identity{Agent: r.Agent, Denied: pdp.ReasonTokenInvalid}, nil
	}))
	out := explain(t, f, readNote)
	if c := checkNamed(t, &out, "identity"); c.Outcome != pdp.CheckDeny || c.Reason != out.Decision.Reason {
		t.Errorf("identity: %+v beside %s", c, out.Decision.Reason)
	}
	if c := checkNamed(t, &out, "limits"); c.Outcome != pdp.CheckSkipped {
		t.Errorf("limits: %+v, want them skipped", c)
	}
}
