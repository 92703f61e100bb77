package policy_test

import (
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"

	policyv1 "github.com/kelpie-authz/kelpie/gen/kelpie/policy/v1"
)

// dice is a source of choices: the given bytes first, then numbers that
// follow from them, so that a fuzzer's mutations change few choices at a time
// and every policy can be made again from its bytes.
type dice struct {
	data []byte
	rest *rand.Rand
}

func newDice(data []byte) *dice {
	sum := fnv.New64a()
	sum.Write(data)
	return &dice{data: data, rest: rand.New(rand.NewPCG(sum.Sum64(), uint64(len(data))))}
}

// below returns a number from 0 to n-1.
func (d *dice) below(n int) int {
	if len(d.data) == 0 {
		return d.rest.IntN(n)
	}
	b := d.data[0]
	d.data = d.data[1:]
	return int(b) % n
}

// chance is true about percent times in a hundred.
func (d *dice) chance(percent int) bool { return d.below(100) < percent }

func pick[T any](d *dice, from []T) T { return from[d.below(len(from))] }

// some picks at least one and at most n, without repetition.
func some[T comparable](d *dice, from []T, n int) []T {
	var out []T
	seen := map[T]bool{}
	for range 1 + d.below(n) {
		if x := pick(d, from); !seen[x] {
			seen[x] = true
			out = append(out, x)
		}
	}
	return out
}

// Few names and shared prefixes, so that patterns meet, overlap and just miss.
var (
	randomActionWords = []string{
		"get", "list", "pulls", "merge", "delete", "deleteLead", "bulk_delete", "wipe", "HTTPDelete", "admin",
		"users", "update", "Delete", "42", "a", "ab", "undelete", "getAndSet", "sudo", "read",
	}
	randomActionPatterns = []string{"*", "**", "*", "**", "get*", "*elete*", "a*", "*b", "pulls", "p*s", "*_*"}
	randomPathWords      = []string{"a", "b", "ab", "c", "aXb", "a.b", "a", "b", "A", "é", "a%20b"}
	randomAgentWords     = []string{"a", "b", "ab", "c", "aXb", "é"}
	randomPathPatterns   = []string{"*", "**", "*", "**", "a*", "*b", "a*b", "*X*"}
	randomAgentIDs       = []string{"bot", "bot/a", "bot/b", "bot/a/b", "x//y", "x/a/y", "boat", "b", "other", "b*", "bot/*", "Bot", "a//b"}
	randomAgentKeys      = []string{
		"bot", "bot/a", "bot/b", "x//y", "boat", "other", "bot/*", "bot/**", "b*", "bo*", "*", "**", "*/a", "bot/*/b",
		"bo*/*", "x/**", "**/b", "bo*t", "bot/**/b", "b*/a", "x/*/y", "x//*", "**/y", "a/**",
	}
	randomScopeNames    = []string{"s0", "s1", "s2", "s3", "s4"}
	randomRoleNames     = []string{"r0", "r1"}
	randomNetworkNames  = []string{"n0", "n1", "n2"}
	randomGroupNames    = []string{"g0", "g1", "g2"}
	randomLimitNames    = []string{"l0", "l1", "l2", "l3"}
	randomRuleNames     = []string{"d0", "d1", "d2", "d3"}
	randomHumans        = []string{"ann@example.com", "bob@example.com", "cy@example.com"}
	randomRisks         = []string{"read", "write", "delete", "admin"}
	randomCIDRs         = []string{"10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "0.0.0.0/0", "fd00::/8", "fd00:8::/32", "::/0", "192.0.2.0/24"}
	randomAddresses     = []string{"", "10.1.2.3", "10.1.9.9", "10.2.0.1", "::ffff:10.1.2.3", "::ffff:192.0.2.7", "fd00:8::1", "fd00:9::1", "2001:db8::1", "192.0.2.7"}
	randomDimensionSets = [][]string{
		{"agent"},
		{"agent"},
		{"all"},
		{"agent", "action"},
		{"agent", "resource"},
		{"agent", "subject", "session_id"},
		{"tool"},
		{"tool", "agent"},
		{"run_id"},
		{"action", "resource"},
		{"session_id", "run_id"},
		{"agent", "call"},
		{"call", "session_id", "agent"},
	}
	randomConditions = []string{
		"true", "false", `agent.startsWith("bot")`, `agent == "bot/a"`, `parameters.amount > 100`, `parameters.amount > 4.5`,
		`has(parameters.amount) && parameters.amount > 3`, `context.flag == true`, `context.n == 1`, `context.missing.x == 1`,
		`source_ip == "10.1.2.3"`, `source_ip == ""`, `now < timestamp("2026-06-01T00:00:00Z")`, `subject == "u"`,
		`resource == "a/b" || parameters.x == "y"`, `size(action) / size(subject) > 0`, `context.parameters == "p"`,
		`false && parameters.x == 1`, `context.list.exists(e, e == "a")`, `"a" in context.list`, `parameters == {}`,
		`type(parameters.amount) == int`, `parameters.list[0] == 1`, `resource.contains("b")`, `action != "get" && size(context) == 0`, `context["flag"] == true`, `"n" in context && context.n == 1`,
	}
	randomFaultyPatterns   = []string{"a//b", "/a", "a**", "a/../b", "a/"}
	randomFaultyConditions = []string{"parameters.amount >", "nobody == 1", `agent + 1 == 2`, `"text"`}
)

// randomPolicy makes a policy. Most are valid; where one is not, naiveFaults says so.
func randomPolicy(d *dice) *policyv1.Policy {
	g := &randomGenerator{dice: d, scopeNames: randomScopeNames, ruleNames: randomRuleNames, times: 1}
	if d.chance(10) {
		g.faulty = pick(d, randomFaults)
	}
	if d.chance(2) {
		g.scopeNames, g.ruleNames, g.times = randomManyScopes, randomManyRules, 40
	}
	doc := &policyv1.Policy{
		Scopes: map[string]*policyv1.Scope{}, Networks: map[string]*policyv1.Network{}, Roles: map[string]*policyv1.Role{},
		Agents: map[string]*policyv1.Agent{}, Limits: map[string]*policyv1.Limit{}, Approvers: map[string]*policyv1.ApproverGroup{},
		Approvals: map[string]*policyv1.ApprovalRule{}, Deny: map[string]*policyv1.DenyRule{},
	}
	g.doc = doc
	for _, name := range some(d, g.scopeNames, 6*g.times) {
		doc.Scopes[name] = g.scope()
	}
	for _, name := range some(d, randomNetworkNames, 3) {
		doc.Networks[name] = &policyv1.Network{Cidrs: some(d, randomCIDRs, 3)}
	}
	for _, name := range some(d, randomGroupNames, 3) {
		if d.chance(90) {
			doc.Approvers[name] = &policyv1.ApproverGroup{Members: some(d, randomHumans, 3)}
		}
	}
	for _, name := range some(d, randomRoleNames, 2) {
		doc.Roles[name] = &policyv1.Role{Scopes: g.names(g.scopeNames, g.hasScope, 2*g.times), Grants: g.grants(2)}
	}
	g.agents()
	for range d.below(3*g.times + 1) {
		doc.Limits["l"+strconv.Itoa(d.below(4*g.times))] = g.limit(true)
	}
	for _, key := range slices.Sorted(maps.Keys(doc.GetAgents())) {
		g.ownLimits(doc.GetAgents()[key])
	}
	g.chosenBeside()
	g.rules()
	return doc
}

var (
	randomManyScopes = randomNumbered("s", 150)
	randomManyRules  = randomNumbered("d", 140)
)

func randomNumbered(prefix string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = prefix + strconv.Itoa(i)
	}
	return out
}

type randomGenerator struct {
	*dice
	doc    *policyv1.Policy
	faulty string // the one fault that is put in, or ""
	// Some policies are large, so that tables and sets grow past one word.
	scopeNames, ruleNames []string
	times                 int
}

// randomFaults are what may be wrong with a policy, one at a time.
var randomFaults = []string{"name", "pattern", "condition", "risk reason", "per", "kinds", "bind", "agent pattern", "chosen", "call", "lease"}

// fault is true at most once, at a place that the dice choose.
func (g *randomGenerator) fault(what string) bool {
	if g.faulty != what || !g.chance(40) {
		return false
	}
	g.faulty = ""
	return true
}

func (g *randomGenerator) hasScope(name string) bool   { return g.doc.GetScopes()[name] != nil }
func (g *randomGenerator) hasRole(name string) bool    { return g.doc.GetRoles()[name] != nil }
func (g *randomGenerator) hasNetwork(name string) bool { return g.doc.GetNetworks()[name] != nil }
func (g *randomGenerator) hasGroup(name string) bool   { return g.doc.GetApprovers()[name] != nil }

// names picks up to n defined names, or rarely one that is not.
func (g *randomGenerator) names(from []string, defined func(string) bool, n int) []string {
	var out []string
	for _, name := range some(g.dice, from, n) {
		if defined(name) {
			out = append(out, name)
		}
	}
	if g.fault("name") {
		out = append(out, "nowhere")
	}
	return out
}
