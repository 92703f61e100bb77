package policy_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	policyv1 "github.com/kelpie-authz/kelpie/gen/kelpie/policy/v1"
	"github.com/kelpie-authz/kelpie/policy"
)

// ruleIDs are the ids of all grants, rules and limits of the policy.
func (n naivePolicy) ruleIDs() []string {
	var ids []string
	held := func(prefix string, scopes []string, grants []*policyv1.Grant) {
		for _, scope := range scopes {
			ids = append(ids, prefix+"/"+scope)
		}
		for _, grant := range grants {
			ids = append(ids, prefix+"/"+grant.GetScope())
		}
	}
	for key, agent := range n.doc.GetAgents() {
		held("grants/"+key, agent.GetScopes(), agent.GetGrants())
		for name := range agent.GetLimits() {
			ids = append(ids, "limits/"+name)
		}
	}
	for name, role := range n.doc.GetRoles() {
		held("roles/"+name, role.GetScopes(), role.GetGrants())
	}
	for name := range n.doc.GetDeny() {
		ids = append(ids, "deny/"+name)
	}
	for name := range n.doc.GetApprovals() {
		ids = append(ids, "approvals/"+name)
	}
	for name := range n.doc.GetLimits() {
		ids = append(ids, "limits/"+name)
	}
	return naiveSorted(ids)
}

// checkVersions compiles the same policy in another shape, which must have the
// same version, and one that means something else, which must not.
func checkVersions(t testing.TB, d *dice, doc *policyv1.Policy, snapshot *policy.Snapshot) {
	t.Helper()
	if !d.chance(15) {
		return
	}
	turned, _ := proto.Clone(doc).(*policyv1.Policy)
	for _, scope := range turned.GetScopes() {
		slices.Reverse(scope.GetActions())
		slices.Reverse(scope.GetResources())
		scope.Description = "in other words"
	}
	for _, agent := range turned.GetAgents() {
		slices.Reverse(agent.GetScopes())
		slices.Reverse(agent.GetGrants())
		slices.Reverse(agent.GetRoles())
		slices.Reverse(agent.GetNetworks())
	}
	for _, rule := range turned.GetApprovals() {
		slices.Reverse(rule.GetApprovers())
	}
	same, err := policy.Compile(randomDocuments(t, d, turned))
	if err != nil {
		t.Fatalf("compile in another order: %v", err)
	}
	if same.Version() != snapshot.Version() {
		t.Fatalf("order changes the version\n%s", randomText(randomDocuments(t, d, doc)))
	}
	changed, _ := proto.Clone(doc).(*policyv1.Policy)
	what := change(d, changed)
	other, err := policy.Compile(randomDocuments(t, d, changed))
	if err == nil && other.Version() == snapshot.Version() {
		t.Fatalf("%s does not change the version\n%s", what, randomText(randomDocuments(t, d, doc)))
	}
}

// change makes the policy mean something else, and says how.
func change(d *dice, doc *policyv1.Policy) string {
	key := pick(d, slices.Sorted(maps.Keys(doc.GetAgents())))
	agent := doc.GetAgents()[key]
	scope := doc.GetScopes()[pick(d, slices.Sorted(maps.Keys(doc.GetScopes())))]
	switch d.below(6) {
	case 0:
		agent.Suspended = !agent.GetSuspended()
		return "suspended of " + key
	case 1:
		agent.Limits = map[string]*policyv1.Limit{"changed": {Rate: "1234/hour"}}
		return "a limit of " + key
	case 2:
		scope.Resources = append(scope.GetResources(), "changed/**")
		return "the resources of a scope"
	case 3:
		if doc.GetDeny() == nil {
			doc.Deny = map[string]*policyv1.DenyRule{}
		}
		doc.Deny["changed"] = &policyv1.DenyRule{Match: &policyv1.Match{When: `agent == "` + strings.Repeat("x", 1+d.below(9)) + `"`}}
		return "a deny rule"
	case 4:
		for _, rule := range doc.GetDeny() {
			rule.Shadow = !rule.GetShadow()
			return "the shadow of a deny rule"
		}
		fallthrough
	default:
		agent.Grants = append(agent.GetGrants(), &policyv1.Grant{
			Scope: slices.Sorted(maps.Keys(doc.GetScopes()))[0], When: `subject == "changed"`,
		})
		return "a grant of " + key
	}
}
