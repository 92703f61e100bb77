package policy_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/kelpie-authz/kelpie/policy"
)

const shownPolicy = `
scopes:
  pay: {actions: [create], resources: ["pay/**"], audit_parameters: [amount, items.*.sku]}
  see: {actions: [read], resources: ["**"]}
roles: {clerk: {scopes: [pay]}}
agents: {bot: {owner: o@example.com, networks: [any], scopes: [pay, see], roles: [clerk]}}
approvers: {fin: {members: [f@example.com]}}
approvals: {big: {match: {resources: ["pay/**"]}, approvers: [fin], audit_parameters: [currency, amount]}}
deny: {no: {match: {resources: ["pay/no"]}, audit_parameters: [why]}}
limits: {calls: {rate: 10/minute, per: [agent]}}
`

func TestAuditParameters(t *testing.T) {
	t.Parallel()
	compiled := func(text string) (*policy.Snapshot, error) {
		return policy.Compile([]policy.Document{{Name: "p.yaml", Data: []byte(text)}})
	}
	snap, err := compiled(shownPolicy)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ matched, want []string }{
		"by a grant":       {[]string{"grants/bot/pay"}, []string{"amount", "items.*.sku"}},
		"by a role":        {[]string{"roles/clerk/pay"}, []string{"amount", "items.*.sku"}},
		"by several":       {[]string{"approvals/big", "grants/bot/pay", "grants/bot/see"}, []string{"amount", "currency", "items.*.sku"}},
		"by a deny rule":   {[]string{"deny/no"}, []string{"why"}},
		"by another scope": {[]string{"grants/bot/see"}, nil},
		"by the guardrail": {[]string{"builtin/destructive"}, nil},
		"by nothing":       {nil, nil},
	} {
		if got := snap.AuditParameters(tc.matched); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
	other, err := compiled(strings.Replace(shownPolicy, "[currency, amount]", "[currency]", 1))
	if err != nil {
		t.Fatal(err)
	}
	before, _ := snap.Requirement("approvals/big")
	after, _ := other.Requirement("approvals/big")
	if snap.Version() == other.Version() || before.Version != after.Version {
		t.Error("what is shown is part of the policy, and no part of what was approved")
	}
	same, err := compiled(strings.Replace(shownPolicy, "[currency, amount]", "[amount, currency, amount]", 1))
	if err != nil || same.Version() != snap.Version() {
		t.Errorf("the order makes another policy, %v", err)
	}
	for _, bad := range []string{`""`, `"a."`, `".a"`, `"a..b"`, `"a\\b"`, `"` + strings.Repeat("a.", 16) + `a"`} {
		if _, err := compiled(strings.Replace(shownPolicy, "[currency, amount]", "["+bad+"]", 1)); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}
