package policytest_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kelpie-authz/kelpie/internal/policytest"
	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/policy"
)

const notes = `
scopes:
  notes.read: {actions: [read], resources: ["notes/**"]}
  notes.delete: {actions: [delete], resources: ["notes/*"]}
  notes.pin: {actions: [pin], resources: ["notes/*"]}
  org.admin: {actions: [admin], resources: [org]}
networks:
  here: {cidrs: [10.0.0.0/8]}
roles:
  reader: {scopes: [notes.read]}
agents:
  helper:
    owner: you@example.com
    roles: [reader]
    scopes: [notes.delete]
    grants:
      - {scope: notes.pin, until: 2030-01-01T00:00:00Z}
    networks: [here]
  tester:
    owner: you@example.com
    scopes: [org.admin]
    networks: [here]
limits:
  per-agent: {rate: 60/minute, burst: 3, per: [agent]}
  unused: {quota: 5/day, per: [all], match: {actions: [never]}}
approvers:
  owners: {members: [you@example.com]}
approvals:
  deletes: {match: {risk: [delete]}, approvers: [owners]}
deny:
  no-drafts: {match: {resources: ["notes/drafts/**"]}}
  never: {match: {actions: [never]}}
`

func compile(t *testing.T, text string) *policy.Snapshot {
	t.Helper()
	s, err := policy.Compile([]policy.Document{{Name: "policy.yaml", Data: []byte(text)}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func parse(t *testing.T, text string) []policy.Test {
	t.Helper()
	tests, err := policy.ParseTests(policy.Document{Name: "a_test.yaml", Data: []byte(text)})
	if err != nil {
		t.Fatal(err)
	}
	return tests
}

var noon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

func run(t *testing.T, policyText, tests string) *policytest.Report {
	t.Helper()
	report, err := policytest.Run(t.Context(), policytest.Config{
		Snapshot: compile(t, policyText), Now: noon,
		Files: []policytest.File{{Name: "a_test.yaml", Tests: parse(t, tests)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return report
}

const (
	read   = "request: {agent: helper, action: read, resource: notes/1, source_ip: 10.0.0.1}"
	erase  = "request: {agent: helper, action: delete, resource: notes/1, source_ip: 10.0.0.1}"
	pin    = "request: {agent: helper, action: pin, resource: notes/1, source_ip: 10.0.0.1}"
	org    = "request: {agent: helper, action: admin, resource: org, source_ip: 10.0.0.1}"
	broken = "request: {agent: helper, action: read, resource: notes//1, source_ip: 10.0.0.1}"
)

// Each test is run with its expectation, which must hold, and then with every
// other decision in its place, which must not.
func TestOutcomes(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, body, decision, more string }{
		{"a grant", read, "allow", "reason: ok, matched: [roles/reader/notes.read]"},
		{"nobody answers an approval", erase, "require_approval", "reason: approval_required, matched: [approvals/deletes]"},
		{"every yes", "approval: approved\n    " + erase, "allow", "reason: ok_approved"},
		{"an approval that is pending", "approval: pending\n    " + erase, "require_approval", "reason: approval_pending"},
		{"a no", "approval: denied\n    " + erase, "deny", "reason: approval_denied"},
		{"an approval that lapsed", "approval: expired\n    " + erase, "deny", "reason: approval_expired"},
		{"a yes where none is needed", "approval: approved\n    " + read, "allow", "reason: ok"},
		{"a no where none is needed", "approval: denied\n    " + read, "allow", "reason: ok"},
		{"an approval opened by one is not seen by the next", "repeat: 2\n    " + erase, "require_approval", "reason: approval_required"},
		{"each repetition has its own yes", "repeat: 3\n    approval: approved\n    " + erase, "allow", "reason: ok_approved"},
		{"a yes does not lift a limit", "repeat: 4\n    approval: approved\n    " + erase, "deny", "reason: rate_limited"},
		{"within the burst", "repeat: 3\n    " + read, "allow", ""},
		{"over the burst", "repeat: 4\n    " + read, "deny", "reason: rate_limited, matched: [limits/per-agent]"},
		{"before charges", "before:\n      - {" + read + ", repeat: 3}\n    " + read, "deny", "reason: rate_limited"},
		{"before that waits charges nothing", "before:\n      - {" + erase + ", repeat: 9}\n    " + read, "allow", ""},
		{"before with a yes charges", "before:\n      - {" + erase + ", repeat: 3, approval: approved}\n    " + read, "deny", "reason: rate_limited"},
		{"before the end of a grant", "now: 2029-12-31T23:59:59Z\n    " + pin, "allow", ""},
		{"at the end of a grant", "now: 2030-01-01T00:00:00Z\n    " + pin, "deny", "reason: insufficient_scope, required_scopes: [notes.pin]"},
		{"at the time of the run", pin, "allow", ""},
		{"another's scope", org, "deny", "reason: insufficient_scope, required_scopes: [org.admin]"},
		{"malformed", broken, "deny", "reason: parameters_invalid"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for _, decision := range []string{"allow", "deny", "require_approval"} {
				expect := "decision: " + decision
				if decision == tt.decision && tt.more != "" {
					expect += ", " + tt.more
				}
				r := run(t, notes, "tests:\n  - name: x\n    "+tt.body+"\n    expect: {"+expect+"}\n").Results[0]
				if r.Passed() != (decision == tt.decision) {
					t.Errorf("expecting %s: passed %v, got %+v, failures %q", expect, r.Passed(), r.Got, r.Failures)
				}
				if len(r.Checks) == 0 {
					t.Error("no checks led there")
				}
			}
		})
	}
}

func TestFailuresSayWhatCame(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, body, expect, want string }{
		{"decision", read, "decision: deny", "decision: expected deny, came allow"},
		{"reason", read, "decision: allow, reason: ok_grant", "reason: expected ok_grant, came ok"},
		{
			"matched", read, "decision: allow, matched: [deny/no-drafts]",
			"matched: expected deny/no-drafts among the rules, came roles/reader/notes.read",
		},
		{
			"required_scopes", org, "decision: deny, required_scopes: [notes.pin]",
			"required_scopes: expected notes.pin, came org.admin",
		},
		{"a reason that is none", read, "decision: allow, reason: okay", `expect.reason: there is no reason "okay"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			report := run(t, notes, "tests:\n  - name: x\n    "+tt.body+"\n    expect: {"+tt.expect+"}\n")
			if diff := cmp.Diff([]string{tt.want}, report.Results[0].Failures); diff != "" {
				t.Errorf("failures (-want +got):\n%s", diff)
			}
			if report.Failed() != 1 {
				t.Errorf("Failed() = %d, want 1", report.Failed())
			}
		})
	}
}

// What a gateway would be refused for must not pass for enforced in a test.
func TestFieldsThatAreNotEnforced(t *testing.T) {
	t.Parallel()
	for _, field := range []string{"actor_chain: [a]", "tool: {name: t, definition_digest: d}"} {
		request := "request: {agent: helper, action: read, resource: notes/1, source_ip: 10.0.0.1, " + field + "}"
		for _, body := range []string{request, "before:\n      - {" + request + "}\n    " + read} {
			r := run(t, notes, "tests:\n  - name: x\n    "+body+"\n    expect: {decision: allow}\n").Results[0]
			if r.Passed() || !strings.Contains(strings.Join(r.Failures, ""), "UNIMPLEMENTED") {
				t.Errorf("%s: failures %q", body, r.Failures)
			}
		}
	}
}

func TestChecksLeadToTheAnswer(t *testing.T) {
	t.Parallel()
	r := run(t, notes, "tests:\n  - name: x\n    repeat: 4\n    "+read+"\n    expect: {decision: allow}\n").Results[0]
	last := map[string]pdp.CheckOutcome{}
	for _, c := range r.Checks {
		last[c.Name] = c.Outcome
	}
	if last["limits"] != pdp.CheckDeny || last["scope"] != pdp.CheckPass {
		t.Errorf("checks %+v; want limits to deny, as it did the fourth time", r.Checks)
	}
}

func TestCoverage(t *testing.T) {
	t.Parallel()
	c := run(t, notes, "tests:\n"+
		"  - name: a\n    "+read+"\n    expect: {decision: allow}\n"+
		"  - name: b\n    "+erase+"\n    expect: {decision: require_approval}\n"+
		// A call that another check stopped exercised no grant.
		"  - name: c\n    request: {agent: tester, action: admin, resource: org, source_ip: 203.0.113.9}\n"+
		"    expect: {decision: deny}\n"+
		"  - name: d\n    request: {agent: helper, action: read, resource: notes/drafts/1, source_ip: 10.0.0.1}\n"+
		"    expect: {decision: deny}\n").Coverage
	want := policytest.Coverage{
		Scopes: policytest.Part{Total: 4, Missing: []string{"notes.pin", "org.admin"}},
		Grants: policytest.Part{
			Total: 4, Missing: []string{"grants/helper/notes.pin", "grants/tester/org.admin"},
		},
		Deny:      policytest.Part{Total: 2, Missing: []string{"deny/never"}},
		Approvals: policytest.Part{Total: 1},
		Limits:    policytest.Part{Total: 2, Missing: []string{"limits/unused"}},
	}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Errorf("coverage (-want +got):\n%s", diff)
	}
}

func TestRevops(t *testing.T) {
	t.Parallel()
	dir := filepath.Join("..", "..", "examples", "revops")
	rules, err := os.ReadFile(filepath.Join(dir, "policy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	tests, err := os.ReadFile(filepath.Join(dir, "revops_test.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	report := run(t, string(rules), string(tests))
	for _, r := range report.Results {
		if !r.Passed() {
			t.Errorf("%s: %q", r.Name, r.Failures)
		}
	}
	if n := len(report.Results); n != 33 {
		t.Errorf("%d tests ran, want 33", n)
	}
}

func TestRunNeedsItsParts(t *testing.T) {
	t.Parallel()
	if _, err := policytest.Run(t.Context(), policytest.Config{Now: noon}); err == nil {
		t.Error("ran without a snapshot")
	}
	if _, err := policytest.Run(t.Context(), policytest.Config{Snapshot: compile(t, notes)}); err == nil {
		t.Error("ran without a clock")
	}
}

func TestRunStopsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := policytest.Run(ctx, policytest.Config{
		Snapshot: compile(t, notes), Now: noon,
		Files: []policytest.File{{Name: "a_test.yaml", Tests: parse(t, "tests:\n  - name: x\n    "+read+"\n    expect: {decision: allow}\n")}},
	})
	if err == nil {
		t.Error("ran on after the end of its context")
	}
}
