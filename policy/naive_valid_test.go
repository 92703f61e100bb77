package policy_test

import (
	"fmt"
	"slices"
	"strings"

	policyv1 "github.com/kelpie-authz/kelpie/gen/kelpie/policy/v1"
)

// naiveFaults are the compile errors of the classes that the random
// policies can hold; empty for a policy that must compile.
func naiveFaults(doc *policyv1.Policy) []string {
	f := &naiveChecker{doc: doc}
	f.names()
	f.scopes()
	f.agents()
	for name, rule := range doc.GetDeny() {
		f.match("deny/"+name, rule.GetMatch())
	}
	for name, rule := range doc.GetApprovals() {
		f.approval("approvals/"+name, rule)
	}
	for name, limit := range doc.GetLimits() {
		f.limit("limits/"+name, limit)
	}
	return f.faults
}

type naiveChecker struct {
	doc    *policyv1.Policy
	faults []string
}

func (f *naiveChecker) faultf(where, format string, args ...any) {
	f.faults = append(f.faults, where+": "+fmt.Sprintf(format, args...))
}

func (f *naiveChecker) names() {
	reserved := []string{"any", "all", "builtin"}
	for _, name := range reserved {
		if f.doc.GetScopes()[name] != nil || f.doc.GetNetworks()[name] != nil || f.doc.GetRoles()[name] != nil || f.doc.GetApprovers()[name] != nil {
			f.faultf(name, "reserved")
		}
	}
}

func (f *naiveChecker) patterns(where, kind string, patterns []string) {
	for _, pattern := range patterns {
		if fault := naivePatternFault(pattern, kind); fault != "" {
			f.faultf(where, "%s pattern %q: %s", kind, pattern, fault)
		}
	}
}

func (f *naiveChecker) scopes() {
	for name, scope := range f.doc.GetScopes() {
		where := "scopes/" + name
		f.patterns(where, "action", scope.GetActions())
		f.patterns(where, "resource", scope.GetResources())
		lower := scope.GetRisk() != "" && naiveRiskOf(scope.GetRisk()) < naiveVerbRisk(scope)
		if lower != (scope.GetRiskReason() != "") {
			f.faultf(where, "risk %q, reason %q, verbs say %v", scope.GetRisk(), scope.GetRiskReason(), naiveVerbRisk(scope))
		}
	}
}

func (f *naiveChecker) holds(where string, scopes []string, grants []*policyv1.Grant) {
	for _, scope := range scopes {
		if f.doc.GetScopes()[scope] == nil {
			f.faultf(where, "scope %q is not defined", scope)
		}
	}
	for _, grant := range grants {
		if f.doc.GetScopes()[grant.GetScope()] == nil {
			f.faultf(where, "scope %q is not defined", grant.GetScope())
		}
		f.when(where, grant.GetWhen())
	}
}

func (f *naiveChecker) when(where, expr string) {
	if expr == "" {
		return
	}
	if _, err := naiveCompile(expr); err != nil {
		f.faultf(where, "%v", err)
	}
}

func (f *naiveChecker) agents() {
	for name, role := range f.doc.GetRoles() {
		f.holds("roles/"+name, role.GetScopes(), role.GetGrants())
	}
	for key, agent := range f.doc.GetAgents() {
		where := "agents/" + key
		f.patterns(where, "agent", []string{key})
		f.holds(where, agent.GetScopes(), agent.GetGrants())
		for _, role := range agent.GetRoles() {
			if f.doc.GetRoles()[role] == nil {
				f.faultf(where, "role %q is not defined", role)
			}
		}
		for _, network := range agent.GetNetworks() {
			if network != "any" && f.doc.GetNetworks()[network] == nil {
				f.faultf(where, "network %q is not defined", network)
			}
		}
		for name, own := range agent.GetLimits() {
			f.ownLimit(where+"/limits/"+name, name, own)
		}
		for other := range f.doc.GetAgents() {
			if key < other && naiveAmbiguous(key, other) {
				f.faultf(where, "ambiguous with %q", other)
			}
		}
	}
}

func naiveAmbiguous(a, b string) bool {
	return a != b && strings.Contains(a, "*") && strings.Contains(b, "*") &&
		len(naiveLiteralPrefix(a)) == len(naiveLiteralPrefix(b)) && naiveAgentsMeet(a, b)
}

func (f *naiveChecker) ownLimit(where, name string, own *policyv1.Limit) {
	common := f.doc.GetLimits()[name]
	if common == nil {
		common = &policyv1.Limit{Per: []string{"agent"}}
	}
	if naiveKinds(own) > 1 {
		f.faultf(where, "two kinds")
		return
	}
	limit := naiveOverlay(common, own)
	f.limit(where, limit)
	if !slices.Contains(limit.GetPer(), "agent") {
		f.faultf(where, "an own entry without agent in its per")
	}
}

func (f *naiveChecker) limit(where string, limit *policyv1.Limit) {
	if naiveKinds(limit) != 1 {
		f.faultf(where, "not one kind")
	}
	if len(limit.GetPer()) == 0 {
		f.faultf(where, "per is not written")
	}
	if slices.Contains(limit.GetPer(), "all") && len(limit.GetPer()) > 1 {
		f.faultf(where, "all beside another dimension")
	}
	if slices.Contains(limit.GetPer(), "call") && !slices.Contains(limit.GetPer(), "agent") {
		f.faultf(where, "call without agent")
	}
	if limit.GetLease() && limit.GetRate() == "" && limit.GetQuota() == "" {
		f.faultf(where, "a lease of neither a rate nor a quota")
	}
	if naiveChosen(limit) && !limit.GetShadow() && f.doc.GetLimits()["base"] == nil {
		f.faultf(where, "the caller chooses a dimension, and no limit per agent is beside it")
	}
	if limit.GetMatch() != nil {
		f.match(where, limit.GetMatch())
	}
}

// naiveChosen tells whether a limit is over dimensions that the caller
// chooses. It needs one per agent beside it, which the random policies call
// base: enforced, and about every call.
func naiveChosen(limit *policyv1.Limit) bool {
	return slices.ContainsFunc(limit.GetPer(), func(dimension string) bool {
		return slices.Contains([]string{"session_id", "run_id", "tool", "subject"}, dimension)
	})
}

func (f *naiveChecker) match(where string, match *policyv1.Match) {
	f.patterns(where, "action", match.GetActions())
	f.patterns(where, "resource", match.GetResources())
	f.patterns(where, "agent", match.GetAgents())
	f.when(where, match.GetWhen())
	for _, pattern := range match.GetAgents() {
		met := false
		for key := range f.doc.GetAgents() {
			met = met || naiveAgentsMeet(pattern, key)
		}
		if !met {
			f.faultf(where, "no agent can meet %q", pattern)
		}
	}
}

func (f *naiveChecker) approval(where string, rule *policyv1.ApprovalRule) {
	f.match(where, rule.GetMatch())
	humans := map[string]bool{}
	for _, name := range rule.GetApprovers() {
		group := f.doc.GetApprovers()[name]
		if group == nil {
			f.faultf(where, "approver group %q is not defined", name)
		}
		for _, member := range group.GetMembers() {
			humans[member] = true
		}
	}
	if int(rule.GetQuorum()) > len(humans) {
		f.faultf(where, "quorum of %d among %d", rule.GetQuorum(), len(humans))
	}
	if (rule.GetBind() == "") != (rule.GetBindReason() == "") {
		f.faultf(where, "bind and bind_reason belong together")
	}
}
