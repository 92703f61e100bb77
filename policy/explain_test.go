package policy_test

import (
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/kelpie-authz/kelpie/policy"
)

const approvalPolicy = `
scopes:
  gone: {actions: [delete], resources: ["a/**"]}
  pay: {actions: [pay], resources: ["**"]}
agents:
  bot: {owner: o@example.com, networks: [any], scopes: [gone, pay]}
  trial:
    owner: o@example.com
    networks: [any]
    grants: [{scope: pay, shadow: true, when: "context.on"}, {scope: pay, shadow: true}]
approvers:
  sec: {members: [s@example.com, t@example.com]}
  fin: {members: [t@example.com, f@example.com]}
approvals:
  big: {match: {actions: [pay], when: "parameters.n > 10 && context.team == 'x'"}, approvers: [fin, sec], quorum: 3, expires: 1h}
  path: {match: {resources: ["p/**"], when: "has(context.a) || size(context) > 0 || true"}, approvers: [fin], use_within: 1m, bind: path_only, bind_reason: public}
  trial: {match: {actions: [pay], resources: ["p/**"]}, approvers: [sec], shadow: true}
deny:
  trial: {match: {resources: ["p/x/**"], when: "context.team == 'y'"}, shadow: true}
`

func TestApprovalRequirements(t *testing.T) {
	t.Parallel()
	s := compile(t, approvalPolicy)
	params := complete(map[string]any{"n": int64(11)})
	hidden := policy.Parameters{State: policy.ParametersTruncated}
	big := policy.Requirement{
		Rule: "approvals/big", Groups: []string{"fin", "sec"}, Approvers: []string{"f@example.com", "s@example.com", "t@example.com"},
		Quorum: 3, Expires: time.Hour, UseWithin: 5 * time.Minute,
	}
	path := policy.Requirement{
		Rule: "approvals/path", Groups: []string{"fin"}, Approvers: []string{"f@example.com", "t@example.com"},
		Quorum: 1, Expires: 15 * time.Minute, UseWithin: time.Minute, PathOnly: true,
	}
	guardrail := policy.Requirement{
		Rule: "builtin/destructive", Approvers: big.Approvers, Quorum: 1, Expires: 15 * time.Minute, UseWithin: 5 * time.Minute,
	}
	trialApproval := policy.ShadowOutcome{Rule: "approvals/trial", Outcome: policy.OutcomeApproval, Reason: policy.ReasonApprovalRequired}
	tests := map[string]struct {
		call policy.Call
		want policy.Verdict
	}{
		"one rule, and the members of the context that it reads": {
			policy.Call{Agent: "bot", Action: "pay", Resource: "a", Parameters: params, Context: map[string]any{"team": "x", "other": 1.0}},
			policy.Verdict{
				Outcome: policy.OutcomeApproval, Reason: policy.ReasonApprovalRequired, Risk: policy.RiskWrite, Matched: []string{"approvals/big"},
				Grants: []string{"grants/bot/pay"}, Requirements: []policy.Requirement{big}, ContextRead: []string{"team"},
			},
		},
		"two rules, one of which reads the whole context": {
			policy.Call{Agent: "bot", Action: "pay", Resource: "p/x", Parameters: params, Context: map[string]any{"team": "x"}},
			policy.Verdict{
				Outcome: policy.OutcomeApproval, Reason: policy.ReasonApprovalRequired, Risk: policy.RiskWrite,
				Matched: []string{"approvals/big", "approvals/path"}, Grants: []string{"grants/bot/pay"},
				Requirements: []policy.Requirement{big, path}, ContextRead: []string{"a", "team"}, ContextWhole: true,
				Shadow: []policy.ShadowOutcome{trialApproval},
			},
		},
		"the rule that cannot be evaluated goes before the one that matches": {
			policy.Call{Agent: "bot", Action: "pay", Resource: "p", Parameters: hidden, Context: map[string]any{"team": "x"}},
			policy.Verdict{
				Reason: policy.ReasonParametersUnavailable, Outcome: policy.OutcomeDeny, Risk: policy.RiskWrite, Matched: []string{"approvals/big"},
				Grants: []string{"grants/bot/pay"}, Shadow: []policy.ShadowOutcome{trialApproval},
			},
		},
		"the guardrail wants to see the parameters": {
			policy.Call{Agent: "bot", Action: "delete", Resource: "a/b", Parameters: hidden},
			policy.Verdict{
				Reason: policy.ReasonParametersUnavailable, Outcome: policy.OutcomeDeny, Risk: policy.RiskDelete,
				Matched: []string{"builtin/destructive"}, Grants: []string{"grants/bot/gone"},
			},
		},
		"the guardrail": {
			policy.Call{Agent: "bot", Action: "delete", Resource: "a/b"},
			policy.Verdict{
				Reason: policy.ReasonApprovalRequired, Outcome: policy.OutcomeApproval, Risk: policy.RiskDelete,
				Matched: []string{"builtin/destructive"}, Grants: []string{"grants/bot/gone"}, Requirements: []policy.Requirement{guardrail},
			},
		},
		"grants in shadow": {
			policy.Call{Agent: "trial", Action: "pay", Resource: "p/x/y", Context: map[string]any{"team": "y"}},
			policy.Verdict{
				Reason: policy.ReasonInsufficientScope, Outcome: policy.OutcomeDeny, Risk: policy.RiskWrite, RequiredScopes: []string{"pay"},
				Shadow: []policy.ShadowOutcome{
					trialApproval,
					{Rule: "deny/trial", Outcome: policy.OutcomeDeny, Reason: policy.ReasonActionDenied},
					{Rule: "grants/trial/pay", Outcome: policy.OutcomeAllow, Reason: policy.ReasonOK},
					{Rule: "grants/trial/pay", Outcome: policy.OutcomeDeny, Reason: policy.ReasonConditionFailed},
				},
			},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := policy.Verdict{}
			s.Decide(&tt.call, &v)
			for _, q := range v.Requirements {
				if len(q.Version) != 32 {
					t.Errorf("%s has version %q", q.Rule, q.Version)
				}
			}
			ignore := cmpopts.IgnoreFields(policy.Requirement{}, "Version")
			if diff := gocmp.Diff(tt.want, v, cmpopts.EquateEmpty(), cmpopts.IgnoreUnexported(policy.Verdict{}), ignore); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestRequirementVersion changes a rule, and holds the version of what it asks for to it.
func TestRequirementVersion(t *testing.T) {
	t.Parallel()
	version := func(old, with string) string {
		t.Helper()
		if strings.Count(approvalPolicy, old) != 1 {
			t.Fatalf("%q stands %d times in the policy", old, strings.Count(approvalPolicy, old))
		}
		c := policy.Call{
			Agent: "bot", Action: "pay", Resource: "a", Parameters: complete(map[string]any{"n": int64(12)}), Context: map[string]any{"team": "x"},
		}
		v := &policy.Verdict{}
		compile(t, strings.Replace(approvalPolicy, old, with, 1)).Decide(&c, v)
		if len(v.Requirements) != 1 {
			t.Fatalf("%s: %s", with, v.Reason)
		}
		return v.Requirements[0].Version
	}
	base := version("quorum: 3", "quorum: 3")
	for _, same := range [][2]string{
		{"[fin, sec]", "[sec, fin]"},
		{"expires: 1h", "expires: 60m"},
		{"[t@example.com, f@", "[f@example.com, t@example.com, f@"},
		{"actions: [pay], when", `actions: [pay], when`},
		{"use_within: 1m", "use_within: 2m"},
		{"deny:", "deny:\n  more: {match: {actions: [x]}}"},
	} {
		if version(same[0], same[1]) != base {
			t.Errorf("%q changes the rule's version", same[1])
		}
	}
	for _, other := range [][2]string{
		{"quorum: 3", "quorum: 2"},
		{"expires: 1h", "expires: 2h"},
		{"expires: 1h", "use_within: 1m, expires: 1h"},
		{"n > 10", "n > 11"},
		{"f@example.com]", "g@example.com]"},
		{"actions: [pay], when", `actions: [pay, paid], when`},
		{"expires: 1h", "expires: 1h, bind: path_only, bind_reason: x"},
	} {
		if version(other[0], other[1]) == base {
			t.Errorf("%q leaves the rule's version", other[1])
		}
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	type step struct {
		Name   string
		Status policy.Status
		Reason policy.Reason
		Rules  []string
	}
	s := revops(t)
	tests := map[string]struct {
		call policy.Call
		want []step
	}{
		"an unknown agent": {
			policy.Call{Agent: "nobody", Action: "read", Resource: "salesforce/leads"},
			[]step{
				{"identity", policy.StatusDeny, policy.ReasonAgentUnknown, nil},
				{"suspension", policy.StatusSkipped, "", nil},
				{"network", policy.StatusSkipped, "", nil},
				{"deny", policy.StatusSkipped, "", nil},
				{"scope", policy.StatusSkipped, "", nil},
				{"approval", policy.StatusSkipped, "", nil},
				{"limits", policy.StatusSkipped, "", nil},
			},
		},
		"everything at once": {
			policy.Call{Agent: "old-importer", Action: "export", Resource: "salesforce/leads"},
			[]step{
				{"identity", policy.StatusPass, "", nil},
				{"suspension", policy.StatusDeny, policy.ReasonAgentSuspended, nil},
				{"network", policy.StatusDeny, policy.ReasonIPNotAllowed, nil},
				{"deny", policy.StatusDeny, policy.ReasonActionDenied, []string{"deny/no-bulk-export"}},
				{"scope", policy.StatusDeny, policy.ReasonInsufficientScope, nil},
				{"approval", policy.StatusPass, "", nil},
				{"limits", policy.StatusSkipped, "", nil},
			},
		},
		"an approval": {
			policy.Call{Agent: "data-cleaner", Action: "delete", Resource: "salesforce/leads/1"},
			[]step{
				{"identity", policy.StatusPass, "", nil},
				{"suspension", policy.StatusPass, "", nil},
				{"network", policy.StatusDeny, policy.ReasonIPNotAllowed, nil},
				{"deny", policy.StatusPass, "", nil},
				{"scope", policy.StatusPass, "", []string{"grants/data-cleaner/leads.delete"}},
				{"approval", policy.StatusApproval, policy.ReasonApprovalRequired, []string{"approvals/destructive"}},
				{"limits", policy.StatusSkipped, "", nil},
			},
		},
		"an approval that cannot be judged": {
			policy.Call{Agent: "refund-bot", Action: "create", Resource: "stripe/refunds"},
			[]step{
				{"identity", policy.StatusPass, "", nil},
				{"suspension", policy.StatusPass, "", nil},
				{"network", policy.StatusDeny, policy.ReasonIPNotAllowed, nil},
				{"deny", policy.StatusPass, "", nil},
				{"scope", policy.StatusPass, "", []string{"grants/refund-bot/refunds.create"}},
				{"approval", policy.StatusDeny, policy.ReasonParametersUnavailable, []string{"approvals/large-refunds"}},
				{"limits", policy.StatusSkipped, "", nil},
			},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			checks, risk := s.Explain(&tt.call)
			var got []step
			for _, c := range checks {
				got = append(got, step{c.Name, c.Status, c.Reason, c.Rules})
				if c.Detail == "" {
					t.Errorf("the check %s has no detail", c.Name)
				}
			}
			if diff := gocmp.Diff(tt.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
			v := &policy.Verdict{}
			s.Decide(&tt.call, v)
			if risk != v.Risk {
				t.Errorf("risk %v, and Decide says %v", risk, v.Risk)
			}
		})
	}
}
