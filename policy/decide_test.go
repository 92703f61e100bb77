package policy_test

import (
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/kelpie-authz/kelpie/policy"
)

func compile(t *testing.T, text string) *policy.Snapshot {
	t.Helper()
	s, err := policy.Compile([]policy.Document{{Name: "policy.yaml", Data: []byte(text)}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func revops(t *testing.T) *policy.Snapshot {
	t.Helper()
	text, err := os.ReadFile("../examples/revops/policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return compile(t, string(text))
}

// said is what the tables compare of a verdict.
type said struct {
	Outcome policy.Outcome
	Reason  policy.Reason
	Risk    policy.Risk
	Matched []string
	Scopes  []string
}

func ask(s *policy.Snapshot, c policy.Call) said {
	v := &policy.Verdict{}
	s.Decide(&c, v)
	return said{v.Outcome, v.Reason, v.Risk, v.Matched, v.RequiredScopes}
}

func complete(values map[string]any) policy.Parameters {
	return policy.Parameters{State: policy.ParametersComplete, Raw: []byte("{}"), Values: values}
}

func TestRevops(t *testing.T) {
	t.Parallel()
	s := revops(t)
	inside, outside := netip.MustParseAddr("10.8.0.5"), netip.MustParseAddr("203.0.113.9")
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	tests := map[string]struct {
		call policy.Call
		want said
	}{
		"a grant through a role, in an address of IPv6 form": {
			policy.Call{Agent: "data-cleaner", Action: "read", Resource: "salesforce/leads/42", SourceIP: netip.MustParseAddr("::ffff:10.8.0.5")},
			said{policy.OutcomeAllow, policy.ReasonOK, policy.RiskRead, []string{"roles/sales-reader/leads.read"}, nil},
		},
		"the agent's own grant": {
			policy.Call{Agent: "lead-router", Action: "update", Resource: "salesforce/leads/42/owner", SourceIP: inside},
			said{policy.OutcomeAllow, policy.ReasonOK, policy.RiskWrite, []string{"grants/lead-router/leads.assign"}, nil},
		},
		"a pattern key": {
			policy.Call{Agent: "spiffe://prod.example/ns/agents/sa/x", Action: "list", Resource: "salesforce/leads", SourceIP: inside},
			said{policy.OutcomeAllow, policy.ReasonOK, policy.RiskRead, []string{"grants/spiffe://prod.example/ns/agents/sa/*/leads.read"}, nil},
		},
		"a stranger": {
			policy.Call{Agent: "nobody", Action: "deleteLead", Resource: "salesforce/leads/42", SourceIP: inside},
			said{policy.OutcomeDeny, policy.ReasonAgentUnknown, policy.RiskDelete, nil, nil},
		},
		"suspension goes before the network": {
			policy.Call{Agent: "old-importer", Action: "read", Resource: "salesforce/leads/42", SourceIP: outside},
			said{policy.OutcomeDeny, policy.ReasonAgentSuspended, policy.RiskRead, nil, nil},
		},
		"the network goes before deny rules": {
			policy.Call{Agent: "data-cleaner", Action: "export", Resource: "salesforce/leads", SourceIP: outside},
			said{policy.OutcomeDeny, policy.ReasonIPNotAllowed, policy.RiskWrite, nil, nil},
		},
		"an absent address is in no network": {
			policy.Call{Agent: "data-cleaner", Action: "read", Resource: "salesforce/leads"},
			said{policy.OutcomeDeny, policy.ReasonIPNotAllowed, policy.RiskRead, nil, nil},
		},
		"anywhere": {
			policy.Call{Agent: "status-page", Action: "read", Resource: "salesforce/leads"},
			said{policy.OutcomeAllow, policy.ReasonOK, policy.RiskRead, []string{"roles/sales-reader/leads.read"}, nil},
		},
		"deny rules go before scopes": {
			policy.Call{Agent: "lead-router", Action: "export", Resource: "salesforce/leads", SourceIP: inside},
			said{policy.OutcomeDeny, policy.ReasonActionDenied, policy.RiskWrite, []string{"deny/no-bulk-export"}, nil},
		},
		"a scope the agent lacks": {
			policy.Call{Agent: "lead-router", Action: "delete", Resource: "salesforce/leads/42", SourceIP: inside},
			said{policy.OutcomeDeny, policy.ReasonInsufficientScope, policy.RiskDelete, nil, []string{"leads.delete"}},
		},
		"no scope at all": {
			policy.Call{Agent: "lead-router", Action: "update", Resource: "salesforce/leads/42", SourceIP: inside},
			said{policy.OutcomeDeny, policy.ReasonNoMatchingScope, policy.RiskWrite, nil, nil},
		},
		"a condition that is false": {
			policy.Call{Agent: "ticket-triage", Action: "create", Resource: "zendesk/tickets/9/comments", SourceIP: inside, Context: map[string]any{"channel": "chat"}},
			said{policy.OutcomeDeny, policy.ReasonConditionFailed, policy.RiskWrite, []string{"grants/ticket-triage/tickets.reply"}, nil},
		},
		"a condition without what it reads": {
			policy.Call{Agent: "ticket-triage", Action: "create", Resource: "zendesk/tickets/9/comments", SourceIP: inside},
			said{policy.OutcomeDeny, policy.ReasonConditionFailed, policy.RiskWrite, []string{"grants/ticket-triage/tickets.reply"}, nil},
		},
		"a delete": {
			policy.Call{Agent: "data-cleaner", Action: "delete", Resource: "salesforce/leads/42", SourceIP: inside},
			said{policy.OutcomeApproval, policy.ReasonApprovalRequired, policy.RiskDelete, []string{"approvals/destructive"}, nil},
		},
		"an unattended delete": {
			policy.Call{Agent: "cache-janitor", Action: "delete", Resource: "salesforce/leads/42", SourceIP: inside},
			said{policy.OutcomeAllow, policy.ReasonOK, policy.RiskDelete, []string{"grants/cache-janitor/leads.delete"}, nil},
		},
		"administration": {
			policy.Call{Agent: "org-admin", Action: "users.create", Resource: "salesforce/org", SourceIP: inside},
			said{policy.OutcomeApproval, policy.ReasonApprovalRequired, policy.RiskAdmin, []string{"approvals/destructive"}, nil},
		},
		"a small refund": {
			policy.Call{Agent: "refund-bot", Action: "create", Resource: "stripe/refunds", SourceIP: inside, Parameters: complete(map[string]any{"amount": int64(82)})},
			said{policy.OutcomeAllow, policy.ReasonOK, policy.RiskWrite, []string{"grants/refund-bot/refunds.create"}, nil},
		},
		"a large refund": {
			policy.Call{Agent: "refund-bot", Action: "create", Resource: "stripe/refunds", SourceIP: inside, Parameters: complete(map[string]any{"amount": 820.5})},
			said{policy.OutcomeApproval, policy.ReasonApprovalRequired, policy.RiskWrite, []string{"approvals/large-refunds"}, nil},
		},
		"a refund of nobody knows how much": {
			policy.Call{Agent: "refund-bot", Action: "create", Resource: "stripe/refunds", SourceIP: inside},
			said{policy.OutcomeDeny, policy.ReasonParametersUnavailable, policy.RiskWrite, []string{"approvals/large-refunds"}, nil},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.call.Now = now
			if diff := cmp.Diff(tt.want, ask(s, tt.call), cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

const riskPolicy = `
scopes:
  pulls: {actions: ["pulls.*"], resources: ["repo/**"]}
  tame: {actions: ["pulls.*"], resources: ["repo/tame/**"], risk: read, risk_reason: a sandbox}
  raised: {actions: [get], resources: ["vault/**"], risk: admin}
  words: {actions: ["*"], resources: ["words/**"], risk: write, risk_reason: only words}
  plainwords: {actions: [deleteLead, bulk_delete, wipe, HTTPDelete, read], resources: ["words/**"]}
  low: {actions: [delete], resources: ["low/**"], risk: write, risk_reason: soft delete}
  high: {actions: [delete], resources: ["low/**"]}
agents:
  bot: {owner: o@example.com, networks: [any], scopes: [pulls, raised, plainwords, low, high]}
  both: {owner: o@example.com, networks: [any], scopes: [pulls, tame]}
  one: {owner: o@example.com, networks: [any], scopes: [high]}
  waived:
    owner: o@example.com
    networks: [any]
    scopes: [low]
    grants: [{scope: high, unattended: agreed}, {scope: pulls, unattended: agreed, shadow: true}]
`

func TestRiskOfCalls(t *testing.T) {
	t.Parallel()
	s := compile(t, riskPolicy)
	tests := []struct {
		agent, action, resource string
		risk                    policy.Risk
		outcome                 policy.Outcome
	}{
		{"bot", "pulls.merge", "repo/a", policy.RiskWrite, policy.OutcomeAllow},
		{"bot", "pulls.get", "repo/a", policy.RiskWrite, policy.OutcomeAllow},
		{"bot", "pulls.delete", "repo/a", policy.RiskDelete, policy.OutcomeApproval},
		{"bot", "pulls.deleteLead", "repo/a", policy.RiskDelete, policy.OutcomeApproval},
		{"bot", "pulls.admin", "repo/a", policy.RiskAdmin, policy.OutcomeApproval},
		{"bot", "get", "vault/a", policy.RiskAdmin, policy.OutcomeApproval},
		{"bot", "deleteLead", "words/a", policy.RiskDelete, policy.OutcomeApproval},
		{"bot", "bulk_delete", "words/a", policy.RiskDelete, policy.OutcomeApproval},
		{"bot", "wipe", "words/a", policy.RiskDelete, policy.OutcomeApproval},
		{"bot", "HTTPDelete", "words/a", policy.RiskDelete, policy.OutcomeApproval},
		{"bot", "read", "words/a", policy.RiskDelete, policy.OutcomeApproval}, // the scope's highest verb
		{"bot", "delete", "low/a", policy.RiskWrite, policy.OutcomeAllow},     // the lowest of two, by its written reason
		{"one", "delete", "low/a", policy.RiskDelete, policy.OutcomeApproval},
		{"both", "pulls.delete", "repo/tame/a", policy.RiskRead, policy.OutcomeAllow},
		{"both", "pulls.delete", "repo/a", policy.RiskDelete, policy.OutcomeApproval},
		{"waived", "delete", "low/a", policy.RiskWrite, policy.OutcomeAllow},
		{"waived", "pulls.delete", "repo/a", policy.RiskDelete, policy.OutcomeDeny}, // a grant in shadow is not held
	}
	for _, tt := range tests {
		got := ask(s, policy.Call{Agent: tt.agent, Action: tt.action, Resource: tt.resource})
		if got.Risk != tt.risk || got.Outcome != tt.outcome {
			t.Errorf("%s %s %s: risk %v, outcome %v (%s), want %v, %v", tt.agent, tt.action, tt.resource, got.Risk, got.Outcome, got.Reason, tt.risk, tt.outcome)
		}
	}
}

// TestAnswersAreOfOneCall asks in turn for what fills every part of a verdict,
// and holds each answer to that of a fresh verdict.
func TestAnswersAreOfOneCall(t *testing.T) {
	t.Parallel()
	s := revops(t)
	ip := netip.MustParseAddr("10.8.0.5")
	calls := []policy.Call{
		{Agent: "data-cleaner", Action: "delete", Resource: "salesforce/leads/42", SourceIP: ip},
		{Agent: "data-cleaner", Action: "export", Resource: "salesforce/leads", SourceIP: ip},
		{Agent: "lead-router", Action: "delete", Resource: "salesforce/leads/42", SourceIP: ip},
		{Agent: "refund-bot", Action: "create", Resource: "stripe/refunds", SourceIP: ip, Parameters: complete(map[string]any{"amount": int64(1)})},
		{Agent: "nobody", Action: "read", Resource: "a"},
	}
	reused, set := &policy.Verdict{}, &policy.LimitSet{}
	for i := range 3 * len(calls) * len(calls) {
		c := calls[(i*i+i/3)%len(calls)]
		fresh, freshSet := &policy.Verdict{}, &policy.LimitSet{}
		s.Decide(&c, reused)
		s.Limits(&c, reused, set)
		s.Decide(&c, fresh)
		s.Limits(&c, fresh, freshSet)
		if diff := cmp.Diff(fresh, reused, cmpopts.EquateEmpty(), cmpopts.IgnoreUnexported(policy.Verdict{})); diff != "" {
			t.Fatal(diff)
		}
		if diff := cmp.Diff(freshSet, set, cmpopts.EquateEmpty(), cmpopts.IgnoreUnexported(policy.LimitSet{}, time.Location{})); diff != "" {
			t.Fatal(diff)
		}
	}
}
