package policy

import (
	"fmt"
	"math"
	"time"

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
		l.lease(path, limit, limit)
		if limit.GetMatch() != nil {
			l.reached(SeverityWarning, path, limit.GetMatch())
		}
	}
}

// ownLeases looks at the leases that agents' own entries ask for.
func (l *linter) ownLeases() {
	for _, key := range sortedKeys(l.doc.GetAgents()) {
		own := l.doc.GetAgents()[key].GetLimits()
		for _, name := range sortedKeys(own) {
			of := own[name]
			if kinds(of) == 0 {
				of = l.doc.GetLimits()[name]
			}
			l.lease([]string{"agents", key, "limits", name}, own[name], of)
		}
	}
}

// lease tells of a lease that an entry asks for and that gains little or nothing,
// as the limit is that the entry takes its kind of.
func (l *linter) lease(path []string, entry, of *policyv1.Limit) {
	if !entry.GetLease() {
		return
	}
	if why, fix := idleLease(of); why != "" {
		l.add(SeverityNote, "idle-lease", sub(path, "lease"), why, fix)
	}
}

const (
	// worthLease is how long a lease has to be to outweigh round trips of a
	// millisecond or two.
	worthLease = 10 * time.Millisecond
	// leaseRate is how much a rate or burst has to be above so that it gives more
	// than one unit in half of the longest lease, which is what is taken ahead.
	leaseRate = int64(2 * time.Second / longestLease)
)

// idleLease tells why a lease of a rate gains little or nothing, and what to do;
// nothing if it is worth it, or of no rate.
func idleLease(doc *policyv1.Limit) (why, fix string) {
	spec := LimitSpec{Kind: LimitRate}
	var err error
	if spec.Count, spec.Period, err = parseRate(doc.GetRate()); err != nil {
		return "", ""
	}
	spec.Burst, _ = burst(doc, &spec)
	perSecond := float64(spec.Count) / spec.Period.Seconds()
	life, _ := lease(&spec)
	switch {
	case perSecond <= float64(leaseRate) || life >= worthLease && spec.Burst <= leaseRate:
		return "the rate gives no more than one unit in half a lease, so that only units of a burst are taken ahead",
			fmt.Sprintf("remove lease, or write a rate above %d/second and a burst above %d", leaseRate, leaseRate)
	case life < worthLease:
		// A lease is a tenth of the time in which the burst comes back.
		enough := max(leaseRate+1, int64(math.Ceil(perSecond*10*worthLease.Seconds())))
		why = fmt.Sprintf("the burst comes back so fast that a lease is %v, hardly more than a round trip to Redis", life.Round(100*time.Microsecond))
		if life == 0 {
			why = "the burst comes back so fast that a lease is over in less than 1ms: nothing is taken ahead"
		}
		return why, fmt.Sprintf("remove lease, or write a burst of at least %d", enough)
	default:
		return "", ""
	}
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
