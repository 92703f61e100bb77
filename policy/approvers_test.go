package policy_test

import (
	"strings"
	"testing"

	"github.com/kelpie-authz/kelpie/policy"
)

const groupsPolicy = `
scopes: {s: {actions: [read], resources: ["**"]}}
agents: {bot: {owner: o@example.com, networks: [any], scopes: [s]}}
limits: {calls: {rate: 10/minute, per: [agent]}}
approvers:
  named: {members: [ann@example.com, bob@example.com]}
  group: {members: ["oidc-group:security"]}
approvals:
  big: {match: {actions: [read]}, approvers: [group], quorum: 3}
`

func TestAmongApprovers(t *testing.T) {
	t.Parallel()
	list := []string{"ann@example.com", "oidc-group:security"}
	for name, tc := range map[string]struct {
		who    string
		groups []string
		want   bool
	}{
		"named":                       {"ann@example.com", nil, true},
		"another case":                {"Ann@example.com", nil, false},
		"not named":                   {"bob@example.com", nil, false},
		"in the group":                {"bob@example.com", []string{"staff", "security"}, true},
		"in another":                  {"bob@example.com", []string{"securit", "security2", "oidc-group:security"}, false},
		"named as the group":          {"oidc-group:security", nil, false},
		"named as it, and in it":      {"oidc-group:security", []string{"security"}, false},
		"nobody":                      {"", nil, false},
		"nobody, of the group's name": {"security", nil, false},
	} {
		if got := policy.AmongApprovers(list, tc.who, tc.groups); got != tc.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// Nobody knows how many are in a group of the identity provider, so its rules may
// ask for any number; rules of people who are named may not.
func TestGroupsOfTheProvider(t *testing.T) {
	t.Parallel()
	compiled := func(text string) (*policy.Snapshot, error) {
		return policy.Compile([]policy.Document{{Name: "p.yaml", Data: []byte(text)}})
	}
	snap, err := compiled(groupsPolicy)
	if err != nil {
		t.Fatal(err)
	}
	if !snap.Approver("zoe@example.com", []string{"security"}) || !snap.Approver("bob@example.com", nil) || snap.Approver("zoe@example.com", []string{"staff"}) {
		t.Error("the wrong ones are approvers")
	}
	if _, err := compiled(strings.Replace(groupsPolicy, "[group], quorum: 3", "[named], quorum: 3", 1)); err == nil || !strings.Contains(err.Error(), "the groups have 2 distinct members") {
		t.Errorf("a quorum of three among two: %v", err)
	}
	if _, err := compiled(strings.Replace(groupsPolicy, "oidc-group:security", "oidc-group:", 1)); err == nil || !strings.Contains(err.Error(), "stands without its name; write oidc-group:security") {
		t.Errorf("a group without a name: %v", err)
	}
	before, _ := snap.Requirement("approvals/big")
	other, err := compiled(strings.Replace(groupsPolicy, "oidc-group:security", "oidc-group:secure", 1))
	if err != nil {
		t.Fatal(err)
	}
	if after, _ := other.Requirement("approvals/big"); before.Version == after.Version || snap.Version() == other.Version() {
		t.Error("another group is the same rule")
	}
}
