package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	policyv1 "github.com/kelpie-authz/kelpie/gen/kelpie/policy/v1"
)

func (l *linter) scopes() {
	used := l.grantedScopes()
	for _, name := range sortedKeys(l.doc.GetScopes()) {
		scope, path := l.doc.GetScopes()[name], []string{"scopes", name}
		if !used[name] {
			l.add(SeverityWarning, "unused-scope", path, "no agent and no role has this scope", "grant it, or remove it")
		}
		l.scopeOfEverything(path, scope)
		l.redundant(sub(path, "actions"), scope.GetActions(), actionPattern)
		l.redundant(sub(path, "resources"), scope.GetResources(), resourcePattern)
		if scope.GetRiskReason() != "" {
			l.add(SeverityNote, "lowered-risk", sub(path, "risk"), fmt.Sprintf("counts as %s, less than its actions say: %s", scope.GetRisk(), scope.GetRiskReason()),
				"remove risk and risk_reason once the reason is gone")
		}
	}
}

// grantedScopes are the scopes that some agent holds or some role has.
func (l *linter) grantedScopes() map[string]bool {
	used := map[string]bool{}
	for _, h := range l.holdings {
		used[h.scope] = true
	}
	for _, role := range l.doc.GetRoles() {
		for _, name := range role.GetScopes() {
			used[name] = true
		}
		for _, grant := range role.GetGrants() {
			used[grant.GetScope()] = true
		}
	}
	return used
}

// scopeOfEverything notes patterns that leave nothing out.
func (l *linter) scopeOfEverything(path []string, scope *policyv1.Scope) {
	severity := SeverityWarning
	if scope.GetRisk() != "" {
		severity = SeverityNote
	}
	for i, pattern := range scope.GetActions() {
		if isAllStars(pattern) {
			l.add(severity, "wildcard-actions", sub(path, "actions", strconv.Itoa(i)), quote(pattern)+" is every action, deletion and administration too",
				"name the actions, or write risk: admin to say that it is meant")
		}
	}
	for i, pattern := range scope.GetResources() {
		if isAllStars(pattern) {
			l.add(SeverityWarning, "wildcard-resources", sub(path, "resources", strconv.Itoa(i)), quote(pattern)+" is every resource, also of systems yet to come",
				"begin it with the system it is meant for, such as salesforce/**")
		}
	}
}

// redundant notes patterns of a list that another one of it covers.
func (l *linter) redundant(path, list []string, kind patternKind) {
	for i, pattern := range list {
		for j, other := range list {
			if i != j && covers(other, pattern, kind) && (j < i || !covers(pattern, other, kind)) {
				l.add(SeverityNote, "covered-pattern", sub(path, strconv.Itoa(i)), fmt.Sprintf("%s is covered by %s", quote(pattern), quote(other)), "remove it")
				break
			}
		}
	}
}

func (l *linter) networks() {
	used := map[string]bool{}
	for _, agent := range l.doc.GetAgents() {
		for _, name := range agent.GetNetworks() {
			used[name] = true
		}
	}
	for _, name := range sortedKeys(l.doc.GetNetworks()) {
		path := []string{"networks", name}
		if !used[name] {
			l.add(SeverityWarning, "unused-network", path, "no agent calls from this network", "name it in an agent's networks, or remove it")
		}
		for i, cidr := range l.doc.GetNetworks()[name].GetCidrs() {
			if message := wideCIDR(cidr); message != "" {
				l.add(SeverityWarning, "wide-cidr", sub(path, "cidrs", strconv.Itoa(i)), message, "write the prefixes that your workloads have, or networks: [any] if every address is meant")
			}
		}
	}
}

// The shortest prefixes that a network is likely to mean: what one
// organisation can have been given, IPv4 and IPv6.
const (
	shortestIPv4 = 8
	shortestIPv6 = 24
)

func wideCIDR(cidr string) string {
	prefix, err := netip.ParsePrefix(cidr)
	if err != nil {
		return ""
	}
	shortest := shortestIPv6
	if prefix.Addr().Is4() {
		shortest = shortestIPv4
	}
	if prefix.Bits() >= shortest {
		return ""
	}
	return fmt.Sprintf("%s is shorter than /%d: more than one organisation's addresses", cidr, shortest)
}

func (l *linter) roles() {
	used := map[string]bool{}
	for _, agent := range l.doc.GetAgents() {
		for _, name := range agent.GetRoles() {
			used[name] = true
		}
	}
	for _, name := range sortedKeys(l.doc.GetRoles()) {
		path, role := []string{"roles", name}, l.doc.GetRoles()[name]
		if !used[name] {
			l.add(SeverityWarning, "unused-role", path, "no agent holds this role", "name it in an agent's roles, or remove it")
		}
		l.grants(path, role.GetGrants())
	}
}

// approverGroups notes groups that nobody asks. Where the guardrail may ask
// any configured approver, a group without a rule still has a say, and the one that
// breaks the glass has its use without any.
func (l *linter) approverGroups() {
	guardrail := false
	for _, h := range l.holdings {
		guardrail = guardrail || l.isDestructive(h) && covering(l.gates[h.scope], h.agent) == "" && h.grant.GetUnattended() == ""
	}
	for _, name := range sortedKeys(l.doc.GetApprovers()) {
		named := name == BreakGlassGroup
		for _, rule := range l.doc.GetApprovals() {
			named = named || slices.Contains(rule.GetApprovers(), name)
		}
		switch {
		case named:
		case guardrail:
			l.add(SeverityNote, "unused-approvers", []string{"approvers", name}, "no approval rule names this group; only builtin/destructive asks it, as any approver",
				"name it in an approval rule")
		default:
			l.add(SeverityWarning, "unused-approvers", []string{"approvers", name}, "no approval rule names this group", "name it in an approval rule, or remove it")
		}
	}
}
