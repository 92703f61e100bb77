package policy_test

import (
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	policyv1 "github.com/kelpie-authz/kelpie/gen/kelpie/policy/v1"
)

// randomNow is the instant around which random grants end and calls are made.
var randomNow = time.Date(2026, 5, 31, 23, 59, 59, 0, time.UTC)

func (g *randomGenerator) joined(words, patterns []string, separators string, depth, wild int) string {
	var b strings.Builder
	for i := range 1 + g.below(depth) {
		if i > 0 {
			b.WriteByte(separators[g.below(len(separators))])
		}
		if g.chance(wild) {
			b.WriteString(pick(g.dice, patterns))
		} else {
			b.WriteString(pick(g.dice, words))
		}
	}
	return b.String()
}

func (g *randomGenerator) action() string {
	if g.chance(15) {
		return "**"
	}
	return g.joined(randomActionWords, randomActionPatterns, "../", 3, 45)
}

func (g *randomGenerator) resource() string {
	if g.fault("pattern") {
		return pick(g.dice, randomFaultyPatterns)
	}
	if g.chance(30) {
		return "**"
	}
	return g.joined(randomPathWords, randomPathPatterns, "/", 4, 50)
}

func listOf(n int, next func() string) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = next()
	}
	return out
}

func (g *randomGenerator) scope() *policyv1.Scope {
	s := &policyv1.Scope{Actions: listOf(1+g.below(2), g.action), Resources: listOf(1+g.below(2), g.resource)}
	if g.chance(40) {
		s.Risk = pick(g.dice, randomRisks)
		if naiveRiskOf(s.GetRisk()) < naiveVerbRisk(s) {
			s.RiskReason = "agreed"
		}
		if g.fault("risk reason") {
			s.RiskReason = map[bool]string{true: "", false: "for nothing"}[s.GetRiskReason() != ""]
		}
	}
	return s
}

func (g *randomGenerator) when(percent int) string {
	if g.fault("condition") {
		return pick(g.dice, randomFaultyConditions)
	}
	if g.chance(percent) {
		return pick(g.dice, randomConditions)
	}
	return ""
}

func (g *randomGenerator) grants(n int) []*policyv1.Grant {
	var out []*policyv1.Grant
	scopes := g.names(g.scopeNames, g.hasScope, n*g.times)
	if len(scopes) > 0 && g.chance(25) {
		scopes = append(scopes, scopes[0]) // one scope granted twice
	}
	for _, scope := range scopes {
		grant := &policyv1.Grant{Scope: scope, When: g.when(50), Shadow: g.chance(20)}
		if g.chance(25) {
			grant.Until = timestamppb.New(randomNow.Add(time.Duration(g.below(5)-2) * 500 * time.Millisecond))
		}
		if g.chance(25) {
			grant.Unattended = "agreed"
		}
		out = append(out, grant)
	}
	return out
}

func (g *randomGenerator) agents() {
	for _, key := range some(g.dice, randomAgentKeys, 6) {
		ambiguous := false
		for other := range g.doc.GetAgents() {
			ambiguous = ambiguous || naiveAmbiguous(key, other)
		}
		if ambiguous && !g.fault("agent pattern") {
			continue
		}
		agent := &policyv1.Agent{Owner: "ops@example.com", Suspended: g.chance(5), Networks: []string{"any"}}
		if g.chance(50) {
			agent.Networks = g.names(randomNetworkNames, g.hasNetwork, 2)
		}
		if len(agent.GetNetworks()) == 0 {
			agent.Networks = []string{"any"}
		}
		if g.chance(60) {
			agent.Scopes = g.names(g.scopeNames, g.hasScope, 3*g.times)
		}
		if g.chance(70) {
			agent.Grants = g.grants(3)
		}
		if g.chance(50) {
			agent.Roles = g.names(randomRoleNames, g.hasRole, 2)
		}
		g.doc.Agents[key] = agent
	}
}

func (g *randomGenerator) ownLimits(agent *policyv1.Agent) {
	if !g.chance(40) {
		return
	}
	agent.Limits = map[string]*policyv1.Limit{}
	for range 1 + g.below(2) {
		name := pick(g.dice, randomLimitNames)
		own := g.limit(false)
		common := g.doc.GetLimits()[name]
		if common == nil && naiveKinds(own) == 0 {
			own.Rate = "7/minute"
		}
		if (common == nil && len(own.GetPer()) > 0) || (common != nil && len(naiveShared(own.GetPer(), common.GetPer())) == 0) {
			own.Per = []string{"agent", "action"}
		}
		agent.Limits[name] = own
	}
}

// naiveShared is the per that an own entry results in, if it holds agent.
func naiveShared(own, common []string) []string {
	per := common
	if len(own) > 0 {
		per = own
	}
	if slices.Contains(per, "agent") {
		return per
	}
	return nil
}

func (g *randomGenerator) limit(common bool) *policyv1.Limit {
	l := &policyv1.Limit{Shadow: g.chance(15)}
	if common || g.chance(60) {
		g.kind(l)
	}
	if (common && !g.fault("per")) || (!common && g.chance(30)) {
		l.Per = pick(g.dice, randomDimensionSets)
		if naiveChosen(l) && !g.chance(40) {
			l.Per = []string{"agent", "resource"}
		}
	}
	if g.fault("call") {
		l.Per = []string{"call", "resource"}
	}
	if g.chance(40) {
		l.Match = g.match()
	}
	if g.chance(20) {
		l.Count = pick(g.dice, []string{"calls", "cost"})
	}
	if g.chance(30) {
		l.OnUnavailable = pick(g.dice, []string{"deny", "allow", "local_share"})
	}
	if l.GetRate() != "" || l.GetQuota() != "" {
		l.Lease = g.chance(25)
	}
	if g.fault("lease") {
		l.Rate, l.Quota, l.Timezone, l.Burst, l.Window, l.Concurrency, l.Hold, l.Lease = "", "", "", nil, "5/1m", nil, nil, true
	}
	if g.fault("kinds") {
		l.Rate, l.Window, l.Burst = "1/second", "1/1h", nil
	}
	return l
}

// chosenBeside sees to an enforced limit per agent beside those over what the
// caller chooses, or leaves it out for once.
func (g *randomGenerator) chosenBeside() {
	if g.fault("chosen") {
		g.doc.Limits = map[string]*policyv1.Limit{"l0": {Rate: "1/second", Per: []string{"agent", "session_id"}}}
		for _, agent := range g.doc.GetAgents() {
			agent.Limits = nil
		}
		return
	}
	chosen := false
	for _, limit := range g.doc.GetLimits() {
		chosen = chosen || naiveChosen(limit)
	}
	for _, agent := range g.doc.GetAgents() {
		for _, limit := range agent.GetLimits() {
			chosen = chosen || naiveChosen(limit)
		}
	}
	if chosen {
		g.doc.Limits["base"] = &policyv1.Limit{Rate: "60/minute", Per: []string{"agent"}}
	}
}

func (g *randomGenerator) kind(l *policyv1.Limit) {
	switch g.below(4) {
	case 0:
		l.Rate = pick(g.dice, []string{"10/minute", "1/second", "60/hour", "3/day"})
		if g.chance(50) {
			l.Burst = new(uint32(1 + g.below(9)))
		}
	case 1:
		l.Window = pick(g.dice, []string{"100/1h", "5/90s"})
	case 2:
		l.Quota = pick(g.dice, []string{"50/day", "7/week", "9/month"})
		l.Timezone = pick(g.dice, []string{"", "UTC", "Europe/Berlin"})
	default:
		l.Concurrency = new(uint32(1 + g.below(4)))
		if g.chance(50) {
			l.Hold = durationpb.New(90 * time.Second)
		}
	}
}

func (g *randomGenerator) match() *policyv1.Match {
	m := &policyv1.Match{}
	if g.chance(30) {
		m.Agents = some(g.dice, randomAgentKeys, 2)
		if !g.met(m.GetAgents()) && !g.fault("agent pattern") {
			m.Agents = []string{"**"}
		}
	}
	if g.times > 1 { // many rules, each about little, so that not every call meets one
		m.Actions = []string{g.joined(randomActionWords, randomActionPatterns, "../", 3, 20)}
		m.Resources = []string{g.joined(randomPathWords, randomPathPatterns, "/", 4, 20)}
	}
	if g.times == 1 && g.chance(45) {
		m.Actions = listOf(1+g.below(2), g.action)
	}
	if g.times == 1 && g.chance(45) {
		m.Resources = listOf(1+g.below(2), g.resource)
	}
	if g.chance(30) {
		m.Risk = some(g.dice, randomRisks, 2)
	}
	m.When = g.when(45)
	if len(m.GetAgents())+len(m.GetActions())+len(m.GetResources())+len(m.GetRisk()) == 0 && m.GetWhen() == "" {
		m.Resources = []string{"a/**"}
	}
	return m
}

// met tells whether the agents made so far meet every pattern; rules come after agents.
func (g *randomGenerator) met(patterns []string) bool {
	for _, pattern := range patterns {
		found := false
		for key := range g.doc.GetAgents() {
			found = found || naiveAgentsMeet(pattern, key)
		}
		if !found {
			return false
		}
	}
	return true
}

func (g *randomGenerator) rules() {
	for range g.below(2*g.times + 1) {
		g.doc.Deny[pick(g.dice, g.ruleNames)] = &policyv1.DenyRule{
			Match: g.match(), Shadow: g.chance(30), Message: pick(g.dice, []string{"", "no", "never"}),
		}
	}
	if len(g.doc.GetApprovers()) == 0 {
		return
	}
	for range g.below(3*g.times + 1) {
		groups := g.names(randomGroupNames, g.hasGroup, 2)
		if len(groups) == 0 {
			continue
		}
		rule := &policyv1.ApprovalRule{Match: g.match(), Approvers: groups, Shadow: g.chance(30)}
		if g.chance(40) {
			rule.Quorum = new(uint32(1))
		}
		if g.chance(4) {
			rule.Quorum = new(uint32(1 + g.below(4)))
		}
		if g.chance(45) {
			rule.Bind, rule.BindReason = "path_only", "agreed"
		}
		if g.fault("bind") {
			rule.BindReason = map[bool]string{true: "", false: "for nothing"}[rule.GetBindReason() != ""]
		}
		if g.chance(30) {
			rule.Expires, rule.UseWithin = durationpb.New(time.Hour), durationpb.New(time.Minute)
		}
		g.doc.Approvals[pick(g.dice, g.ruleNames)] = rule
	}
}
