package policy_test

import (
	"slices"
	"strings"

	policyv1 "github.com/kelpie-authz/kelpie/gen/kelpie/policy/v1"
	"github.com/kelpie-authz/kelpie/policy"
)

// naivePolicy judges calls by the merged documents, without any preparation.
type naivePolicy struct{ doc *policyv1.Policy }

type naiveRequirement struct {
	Rule      string
	Groups    []string
	Approvers []string
	Quorum    int
	Expires   string
	UseWithin string
	PathOnly  bool
}

type naiveVerdict struct {
	Outcome      policy.Outcome
	Reason       policy.Reason
	Message      string
	Risk         policy.Risk
	Matched      []string
	Grants       []string
	Required     []string
	Requirements []naiveRequirement
	Shadow       []policy.ShadowOutcome
	ContextRead  []string
	ContextWhole bool
}

// naiveGrant is one grant that the agent's key brings, with its id.
type naiveGrant struct {
	id     string
	grant  *policyv1.Grant
	result naiveResult
}

func naiveSorted(list []string) []string {
	slices.Sort(list)
	return slices.Compact(list)
}

// agentOf finds the winning key: the exact id, else the longest literal prefix.
func (n naivePolicy) agentOf(id string) (string, *policyv1.Agent) {
	winner := ""
	var found *policyv1.Agent
	for key, agent := range n.doc.GetAgents() {
		if !strings.Contains(key, "*") {
			if key == id {
				return key, agent
			}
			continue
		}
		if naiveMatchPath(key, id) && (found == nil || len(naiveLiteralPrefix(key)) > len(naiveLiteralPrefix(winner))) {
			winner, found = key, agent
		}
	}
	return winner, found
}

func (n naivePolicy) admits(agent *policyv1.Agent, c *policy.Call) bool {
	for _, name := range agent.GetNetworks() {
		if name == "any" {
			return true
		}
		for _, cidr := range n.doc.GetNetworks()[name].GetCidrs() {
			if naiveContains(cidr, c.SourceIP) {
				return true
			}
		}
	}
	return false
}

func naiveCovers(scope *policyv1.Scope, c *policy.Call) bool {
	action := slices.ContainsFunc(scope.GetActions(), func(p string) bool { return naiveMatchAction(p, c.Action) })
	resource := slices.ContainsFunc(scope.GetResources(), func(p string) bool { return naiveMatchPath(p, c.Resource) })
	return action && resource
}

// grantsOf are all unexpired grants of the agent that cover the call, judged.
func (n naivePolicy) grantsOf(key string, agent *policyv1.Agent, c *policy.Call) []naiveGrant {
	var all []naiveGrant
	add := func(prefix string, scopes []string, grants []*policyv1.Grant) {
		for _, scope := range scopes {
			all = append(all, naiveGrant{id: prefix + "/" + scope, grant: &policyv1.Grant{Scope: scope}})
		}
		for _, grant := range grants {
			all = append(all, naiveGrant{id: prefix + "/" + grant.GetScope(), grant: grant})
		}
	}
	add("grants/"+key, agent.GetScopes(), agent.GetGrants())
	for _, role := range agent.GetRoles() {
		add("roles/"+role, n.doc.GetRoles()[role].GetScopes(), n.doc.GetRoles()[role].GetGrants())
	}
	var covering []naiveGrant
	for _, g := range all {
		until := g.grant.GetUntil()
		if until != nil && !c.Now.Before(until.AsTime()) {
			continue
		}
		if naiveCovers(n.doc.GetScopes()[g.grant.GetScope()], c) {
			g.result = naiveWhen(g.grant.GetWhen(), c)
			covering = append(covering, g)
		}
	}
	return covering
}

// riskOf a call, from the grants in force that are satisfied.
func (n naivePolicy) riskOf(grants []naiveGrant, c *policy.Call) policy.Risk {
	verb := naiveVerbClass(c.Action)
	lowest := policy.RiskNone
	for _, g := range grants {
		if g.grant.GetShadow() || g.result != naiveTrue {
			continue
		}
		scope := n.doc.GetScopes()[g.grant.GetScope()]
		risk := naiveScopeRisk(scope)
		if scope.GetRiskReason() == "" {
			risk = max(risk, verb)
		}
		if lowest == policy.RiskNone || risk < lowest {
			lowest = risk
		}
	}
	if lowest == policy.RiskNone {
		return verb
	}
	return lowest
}

// naiveMatch judges a match: nil holds always.
func naiveMatch(m *policyv1.Match, c *policy.Call, risk policy.Risk) naiveResult {
	if m == nil {
		return naiveTrue
	}
	if len(m.GetAgents()) > 0 && !slices.ContainsFunc(m.GetAgents(), func(p string) bool { return naiveMatchPath(p, c.Agent) }) {
		return naiveFalse
	}
	if len(m.GetActions()) > 0 && !slices.ContainsFunc(m.GetActions(), func(p string) bool { return naiveMatchAction(p, c.Action) }) {
		return naiveFalse
	}
	if len(m.GetResources()) > 0 && !slices.ContainsFunc(m.GetResources(), func(p string) bool { return naiveMatchPath(p, c.Resource) }) {
		return naiveFalse
	}
	if len(m.GetRisk()) > 0 && !slices.Contains(m.GetRisk(), risk.String()) &&
		!slices.Contains(m.GetRisk(), naiveVerbClass(c.Action).String()) {
		return naiveFalse
	}
	return naiveWhen(m.GetWhen(), c)
}

// naiveFailure is the reason of conditions that could not be evaluated:
// parameters_unavailable if any lacked them.
func naiveFailure(results map[string]naiveResult) (policy.Reason, []string) {
	var lacking, failed []string
	for id, result := range results {
		if result == naiveLacks {
			lacking = append(lacking, id)
		} else {
			failed = append(failed, id)
		}
	}
	if len(lacking) == 0 {
		return policy.ReasonConditionFailed, naiveSorted(failed)
	}
	lacking = naiveSorted(lacking)
	return policy.ReasonParametersUnavailable, append(lacking[:1:1], naiveSorted(append(lacking[1:], failed...))...)
}

func (n naivePolicy) decide(c *policy.Call) naiveVerdict {
	key, agent := n.agentOf(c.Agent)
	if agent == nil {
		return naiveVerdict{Outcome: policy.OutcomeDeny, Reason: policy.ReasonAgentUnknown, Risk: naiveVerbClass(c.Action)}
	}
	grants := n.grantsOf(key, agent, c)
	v := naiveVerdict{Risk: n.riskOf(grants, c)}
	if agent.GetSuspended() {
		return v.deny(policy.ReasonAgentSuspended, nil)
	}
	if !n.admits(agent, c) {
		return v.deny(policy.ReasonIPNotAllowed, nil)
	}
	v.Shadow = n.shadows(grants, c, v.Risk)
	if done := n.denyRules(&v, c); done {
		return v
	}
	if done := n.scopes(&v, grants, c); done {
		return v
	}
	if done := n.approvals(&v, grants, c); done {
		return v
	}
	v.Outcome, v.Reason, v.Matched = policy.OutcomeAllow, policy.ReasonOK, v.Grants
	return v
}

func (v naiveVerdict) deny(reason policy.Reason, matched []string) naiveVerdict {
	v.Outcome, v.Reason, v.Matched = policy.OutcomeDeny, reason, matched
	return v
}

func (n naivePolicy) denyRules(v *naiveVerdict, c *policy.Call) bool {
	var matched []string
	failed := map[string]naiveResult{}
	for name, rule := range n.doc.GetDeny() {
		if rule.GetShadow() {
			continue
		}
		switch result := naiveMatch(rule.GetMatch(), c, v.Risk); result {
		case naiveTrue:
			matched = append(matched, "deny/"+name)
		case naiveErrs, naiveLacks:
			failed["deny/"+name] = result
		case naiveFalse:
		}
	}
	if len(matched) > 0 {
		*v = v.deny(policy.ReasonActionDenied, naiveSorted(matched))
		v.Message = n.doc.GetDeny()[strings.TrimPrefix(v.Matched[0], "deny/")].GetMessage()
		return true
	}
	if len(failed) > 0 {
		*v = v.deny(naiveFailure(failed))
		return true
	}
	return false
}

func (n naivePolicy) scopes(v *naiveVerdict, grants []naiveGrant, c *policy.Call) bool {
	var covering []string
	for name, scope := range n.doc.GetScopes() {
		if naiveCovers(scope, c) {
			covering = append(covering, name)
		}
	}
	failed := map[string]naiveResult{}
	held := false
	for _, g := range grants {
		switch {
		case g.grant.GetShadow():
		case g.result == naiveTrue:
			held = true
			v.Grants = naiveSorted(append(v.Grants, g.id))
		default:
			held = true
			failed[g.id] = max(failed[g.id], map[bool]naiveResult{true: naiveLacks, false: naiveFalse}[g.result == naiveLacks])
		}
	}
	switch {
	case len(covering) == 0:
		*v = v.deny(policy.ReasonNoMatchingScope, nil)
	case !held:
		*v = v.deny(policy.ReasonInsufficientScope, nil)
		v.Required = naiveSorted(covering)
	case len(v.Grants) == 0:
		*v = v.deny(naiveFailure(failed))
	default:
		return false
	}
	return true
}

func (n naivePolicy) approvals(v *naiveVerdict, grants []naiveGrant, c *policy.Call) bool {
	failed := map[string]naiveResult{}
	for name, rule := range n.doc.GetApprovals() {
		if rule.GetShadow() {
			continue
		}
		switch result := naiveMatch(rule.GetMatch(), c, v.Risk); result {
		case naiveTrue:
			v.Requirements = append(v.Requirements, n.requirement(name, rule))
			members, whole := naiveContextRead(rule.GetMatch().GetWhen())
			v.ContextRead = naiveSorted(append(v.ContextRead, members...))
			v.ContextWhole = v.ContextWhole || whole
		case naiveErrs, naiveLacks:
			failed["approvals/"+name] = result
		case naiveFalse:
		}
	}
	if len(failed) > 0 {
		v.Requirements, v.ContextRead, v.ContextWhole = nil, nil, false
		*v = v.deny(naiveFailure(failed))
		return true
	}
	unattended := slices.ContainsFunc(grants, func(g naiveGrant) bool {
		return !g.grant.GetShadow() && g.result == naiveTrue && g.grant.GetUnattended() != ""
	})
	if len(v.Requirements) == 0 && v.Risk >= policy.RiskDelete && !unattended {
		v.Requirements = []naiveRequirement{{
			Rule: "builtin/destructive", Approvers: n.members(nil), Quorum: 1, Expires: "15m0s", UseWithin: "5m0s",
		}}
	}
	if len(v.Requirements) == 0 {
		return false
	}
	slices.SortFunc(v.Requirements, func(a, b naiveRequirement) int { return strings.Compare(a.Rule, b.Rule) })
	var matched, unbound []string
	for _, r := range v.Requirements {
		matched = append(matched, r.Rule)
		if !r.PathOnly {
			unbound = append(unbound, r.Rule)
		}
	}
	hidden := c.Parameters.State == policy.ParametersTruncated || c.Parameters.State == policy.ParametersNotSeen
	if hidden && len(unbound) > 0 {
		v.Requirements, v.ContextRead, v.ContextWhole = nil, nil, false
		*v = v.deny(policy.ReasonParametersUnavailable, unbound)
		return true
	}
	v.Outcome, v.Reason, v.Matched = policy.OutcomeApproval, policy.ReasonApprovalRequired, matched
	return true
}

// members are the distinct members of the groups, of all groups if none is named.
func (n naivePolicy) members(groups []string) []string {
	var members []string
	for name, group := range n.doc.GetApprovers() {
		if len(groups) == 0 || slices.Contains(groups, name) {
			members = append(members, group.GetMembers()...)
		}
	}
	return naiveSorted(members)
}

func (n naivePolicy) requirement(name string, rule *policyv1.ApprovalRule) naiveRequirement {
	r := naiveRequirement{
		Rule: "approvals/" + name, Groups: naiveSorted(slices.Clone(rule.GetApprovers())),
		Approvers: n.members(rule.GetApprovers()), Quorum: 1, Expires: "15m0s", UseWithin: "5m0s",
		PathOnly: rule.GetBind() == "path_only",
	}
	if rule.Quorum != nil {
		r.Quorum = int(rule.GetQuorum())
	}
	if rule.GetExpires() != nil {
		r.Expires = rule.GetExpires().AsDuration().String()
	}
	if rule.GetUseWithin() != nil {
		r.UseWithin = rule.GetUseWithin().AsDuration().String()
	}
	return r
}

// shadows are what the rules in shadow would have answered, each by itself.
func (n naivePolicy) shadows(grants []naiveGrant, c *policy.Call, risk policy.Risk) []policy.ShadowOutcome {
	var out []policy.ShadowOutcome
	add := func(rule string, result naiveResult, outcome policy.Outcome, reason policy.Reason) {
		switch result {
		case naiveTrue:
			out = append(out, policy.ShadowOutcome{Rule: rule, Outcome: outcome, Reason: reason})
		case naiveLacks:
			out = append(out, policy.ShadowOutcome{Rule: rule, Outcome: policy.OutcomeDeny, Reason: policy.ReasonParametersUnavailable})
		case naiveErrs:
			out = append(out, policy.ShadowOutcome{Rule: rule, Outcome: policy.OutcomeDeny, Reason: policy.ReasonConditionFailed})
		case naiveFalse:
		}
	}
	for name, rule := range n.doc.GetDeny() {
		if rule.GetShadow() {
			add("deny/"+name, naiveMatch(rule.GetMatch(), c, risk), policy.OutcomeDeny, policy.ReasonActionDenied)
		}
	}
	for name, rule := range n.doc.GetApprovals() {
		if rule.GetShadow() {
			add("approvals/"+name, naiveMatch(rule.GetMatch(), c, risk), policy.OutcomeApproval, policy.ReasonApprovalRequired)
		}
	}
	for _, g := range grants {
		if g.grant.GetShadow() {
			add(g.id, g.result, policy.OutcomeAllow, policy.ReasonOK)
		}
	}
	return out
}
