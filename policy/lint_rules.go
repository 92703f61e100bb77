package policy

import (
	"fmt"

	policyv1 "github.com/kelpie-authz/kelpie/gen/kelpie/policy/v1"
)

func (l *linter) denyRules() {
	names := sortedKeys(l.doc.GetDeny())
	for _, name := range names {
		rule, path := l.doc.GetDeny()[name], []string{"deny", name}
		l.shadow(path, rule.GetShadow())
		if isEverything(rule.GetMatch()) {
			l.add(SeverityWarning, "deny-everything", sub(path, "match"), "the rule refuses every call", "say which calls, or suspend the agents")
		}
		for _, other := range names {
			wide := l.doc.GetDeny()[other]
			if other == name || wide.GetShadow() || rule.GetShadow() || !coversMatch(wide.GetMatch(), rule.GetMatch()) {
				continue
			}
			if other > name && coversMatch(rule.GetMatch(), wide.GetMatch()) {
				continue // told at the other one
			}
			l.add(SeverityWarning, "covered-deny", path, fmt.Sprintf("deny/%s refuses every call that this rule would", other), "remove one of them")
			break
		}
		l.reached(SeverityNote, path, rule.GetMatch())
	}
}

func (l *linter) approvalRules() {
	for _, name := range sortedKeys(l.doc.GetApprovals()) {
		rule, path := l.doc.GetApprovals()[name], []string{"approvals", name}
		l.shadow(path, rule.GetShadow())
		if rule.GetBind() != "" {
			l.add(SeverityNote, "path-only", sub(path, "bind"), "a yes holds whatever the parameters are: "+rule.GetBindReason(), "remove bind once the gateway passes parameters on")
		}
		denied := false
		for _, other := range sortedKeys(l.doc.GetDeny()) {
			if deny := l.doc.GetDeny()[other]; !deny.GetShadow() && coversMatch(deny.GetMatch(), rule.GetMatch()) {
				l.add(SeverityWarning, "denied-approval", path, fmt.Sprintf("deny/%s refuses every call that this rule gates", other), "remove one of them, or narrow the deny rule")
				denied = true
				break
			}
		}
		if !denied {
			l.reached(SeverityWarning, path, rule.GetMatch())
		}
	}
}

func (l *linter) limits() {
	for _, name := range sortedKeys(l.doc.GetLimits()) {
		limit, path := l.doc.GetLimits()[name], []string{"limits", name}
		l.shadow(path, limit.GetShadow())
		if limit.GetOnUnavailable() == "allow" {
			l.add(SeverityNote, "open-limit", sub(path, "on_unavailable"), "while the limit cannot be asked, each replica admits up to the whole limit by itself", "write deny or local_share where the sum of all replicas matters")
		}
		if limit.GetLease() && idleLease(limit) {
			l.add(SeverityNote, "idle-lease", sub(path, "lease"), "the limit gives too little in the time of a lease for units to be taken ahead", "remove lease, or give the rate more: at least 20/second with a burst of as many")
		}
		if limit.GetMatch() != nil {
			l.reached(SeverityWarning, path, limit.GetMatch())
		}
	}
}

// idleLease tells whether a rate gives no more than one unit in half a lease,
// which is what a replica takes ahead.
func idleLease(doc *policyv1.Limit) bool {
	spec := LimitSpec{Kind: LimitRate}
	var err error
	if spec.Count, spec.Period, err = parseRate(doc.GetRate()); err != nil {
		return false
	}
	spec.Burst, _ = burst(doc, &spec)
	life, _ := lease(&spec)
	return float64(spec.Count)*float64(life)/2 <= float64(spec.Period)
}

func (l *linter) shadow(path []string, shadow bool) {
	if shadow {
		l.add(SeverityNote, "shadow-rule", sub(path, "shadow"), "the rule is only reported, not enforced", "remove shadow once the reports are as expected")
	}
}

func isEverything(m *policyv1.Match) bool {
	return len(m.GetAgents())+len(m.GetActions())+len(m.GetResources())+len(m.GetRisk()) == 0 && m.GetWhen() == ""
}

// reached notes a rule that no grant could ever bring a call to. A deny rule
// of that kind still guards against grants to come.
func (l *linter) reached(severity Severity, path []string, m *policyv1.Match) {
	meeting := map[string]bool{}
	for _, h := range l.holdings {
		met, known := meeting[h.scope]
		if !known {
			met = meetsScope(m, l.doc.GetScopes()[h.scope])
			meeting[h.scope] = met
		}
		if met && meetAny(m.GetAgents(), []string{h.agent}, agentPattern) {
			return
		}
	}
	l.add(severity, "unreached-rule", path, "no grant allows a call that this rule is about", "correct its match, or remove it")
}
