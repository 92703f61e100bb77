package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	policyv1 "github.com/kelpie-authz/kelpie/gen/kelpie/policy/v1"
)

func (l *linter) agents() {
	held := l.byAgent()
	for _, key := range sortedKeys(l.doc.GetAgents()) {
		agent, path := l.doc.GetAgents()[key], []string{"agents", key}
		if literalPrefix(key) == "" {
			l.add(SeverityWarning, "wildcard-agent", path, "every id that nobody listed is this agent", "begin the pattern with what your agents' ids begin with")
		}
		if agent.GetSuspended() {
			l.add(SeverityNote, "suspended-agent", sub(path, "suspended"), "every call of this agent is denied", "remove the agent once nobody needs its entry")
		}
		if len(held[key]) == 0 {
			l.add(SeverityNote, "idle-agent", path, "the agent holds no scope: it is known, and every call is denied", "grant it a scope, or remove it")
		}
		l.agentNetworks(path, agent.GetNetworks())
		l.grants(path, agent.GetGrants())
		l.plainBesideConditional(held[key])
		for _, h := range held[key] {
			l.destructive(h)
			if rule := covering(l.denials[h.scope], key); rule != "" {
				l.add(SeverityNote, "denied-grant", h.path, fmt.Sprintf("%s denies every call under %s", rule, h.scope), "remove the grant, unless it is meant to stay denied")
			}
		}
		if !agent.GetSuspended() && len(held[key]) > 0 && !l.isLimited(key, agent, held[key]) {
			l.add(SeverityWarning, "builtin-limit-only", path, "only builtin/default limits this agent, at 60/minute", "add a limit with agent in its per, for all agents or in this entry")
		}
	}
	l.missingApprovers()
}

func (l *linter) byAgent() map[string][]holding {
	held := make(map[string][]holding, len(l.doc.GetAgents()))
	for start := 0; start < len(l.holdings); {
		end := start + 1
		for end < len(l.holdings) && l.holdings[end].agent == l.holdings[start].agent {
			end++
		}
		held[l.holdings[start].agent] = l.holdings[start:end]
		start = end
	}
	return held
}

func (l *linter) agentNetworks(path, names []string) {
	i := slices.Index(names, "any")
	if i < 0 {
		return
	}
	at := sub(path, "networks", strconv.Itoa(i))
	if len(names) > 1 {
		l.add(SeverityWarning, "any-beside-networks", at, "any admits every address, so that the other networks say nothing", "remove any, or the others")
		return
	}
	l.add(SeverityNote, "network-any", at, "the agent may call from every address, and without one", "name networks once you know where it runs")
}

// endsSoon is how far ahead the end of a grant is worth knowing.
const endsSoon = 30 * 24 * time.Hour

// grants judges the grants of an agent or role by themselves.
func (l *linter) grants(path []string, grants []*policyv1.Grant) {
	for i, grant := range grants {
		at := sub(path, "grants", strconv.Itoa(i))
		if grant.GetShadow() {
			l.add(SeverityNote, "shadow-rule", sub(at, "shadow"), "the grant is only reported, not enforced", "remove shadow once the reports are as expected")
		}
		if grant.GetUntil() == nil {
			continue
		}
		switch until := grant.GetUntil().AsTime(); {
		case !l.now.Before(until):
			l.add(SeverityWarning, "grant-over", sub(at, "until"), "the grant ended at "+until.Format(time.RFC3339), "remove it, or write a later end")
		case until.Sub(l.now) <= endsSoon:
			l.add(SeverityNote, "grant-ends-soon", sub(at, "until"), "the grant ends within 30 days, at "+until.Format(time.RFC3339), "write a later end if it is still needed")
		}
	}
}

// plainBesideConditional notes conditions and ends that restrict nothing,
// since the agent holds the same scope plainly.
func (l *linter) plainBesideConditional(held []holding) {
	for _, h := range held {
		restricted := h.grant.GetWhen() != "" || h.grant.GetUntil() != nil
		if h.grant == nil || !restricted || h.grant.GetShadow() || h.grant.GetUnattended() != "" {
			continue
		}
		for _, other := range held {
			if other.scope == h.scope && other.grant == nil {
				from := "the agent's scopes"
				if other.role != "" {
					from = "role " + other.role
				}
				l.add(SeverityWarning, "idle-condition", h.path, fmt.Sprintf("%s gives %s without condition, so that this grant restricts nothing", from, h.scope),
					"remove the plain grant, or this one")
				break
			}
		}
	}
}

// isDestructive tells whether the scope's own risk is delete or admin, and the
// grant is one that counts.
func (l *linter) isDestructive(h holding) bool {
	return riskOfScope(l.doc.GetScopes()[h.scope]).risk >= RiskDelete && !h.grant.GetShadow() && !l.isOver(h.grant)
}

func (l *linter) isOver(grant *policyv1.Grant) bool {
	return grant.GetUntil() != nil && !l.now.Before(grant.GetUntil().AsTime())
}

func (l *linter) destructive(h holding) {
	if !l.isDestructive(h) {
		return
	}
	what := fmt.Sprintf("the agent holds %s, whose risk is %s", h.scope, riskOfScope(l.doc.GetScopes()[h.scope]).risk)
	gate := covering(l.gates[h.scope], h.agent)
	switch {
	case gate != "":
		l.add(SeverityNote, "destructive-grant", h.path, what+"; "+gate+" gates it", "remove the grant if the agent can do without")
	case h.grant.GetUnattended() != "":
		l.add(SeverityNote, "destructive-grant", h.path, what+"; no human is asked: "+strings.TrimSpace(h.grant.GetUnattended()), "remove unattended once the reason is gone")
	case covering(l.denials[h.scope], h.agent) != "":
		// A denied grant is noted as such.
	default:
		l.add(SeverityWarning, "destructive-grant", h.path, what+"; no approval rule of yours gates it, only builtin/destructive does",
			"remove the grant, or write an approval rule that says who is asked")
	}
}

func (l *linter) missingApprovers() {
	if len(l.doc.GetApprovers()) > 0 {
		return
	}
	for _, h := range l.holdings {
		if l.isDestructive(h) && h.grant.GetUnattended() == "" {
			l.add(SeverityWarning, "no-approvers", h.path, fmt.Sprintf("calls under %s wait for a human, and no approvers are configured", h.scope), "add a group under approvers")
			return
		}
	}
}

// isLimited tells whether an enforced limit with agent in its per could match
// a call of the agent.
func (l *linter) isLimited(key string, agent *policyv1.Agent, held []holding) bool {
	for name, own := range agent.GetLimits() {
		if laid := laidOver(l.doc.GetLimits()[name], own, l.src.isWritten("agents", key, "limits", name, "shadow")); l.bounds(laid, key, held) {
			return true
		}
	}
	for name, limit := range l.doc.GetLimits() {
		if _, replaced := agent.GetLimits()[name]; !replaced && l.bounds(limit, key, held) {
			return true
		}
	}
	return false
}

func (l *linter) bounds(limit *policyv1.Limit, key string, held []holding) bool {
	if limit.GetShadow() || !slices.Contains(limit.GetPer(), "agent") {
		return false
	}
	m := limit.GetMatch()
	return m == nil || meetAny(m.GetAgents(), []string{key}, agentPattern) &&
		slices.ContainsFunc(held, func(h holding) bool { return meetsScope(m, l.doc.GetScopes()[h.scope]) })
}
