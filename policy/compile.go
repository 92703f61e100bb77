package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	policyv1 "github.com/kelpie-authz/kelpie/gen/kelpie/policy/v1"
)

// Compile merges, checks and compiles documents. The error is an [Errors] with
// every fault that was found. The same documents, in any order, always give
// the same snapshot.
func Compile(docs []Document) (*Snapshot, error) {
	r := &report{}
	src := load(docs, r)
	s := compileSource(src, r)
	if err := r.err(); err != nil {
		return nil, err
	}
	return s, nil
}

// compileSource compiles what was loaded, and notes every fault. The snapshot
// is only worth using if the report stayed empty.
func compileSource(src *source, r *report) *Snapshot {
	c := &compiler{src: src, doc: src.policy, r: r, s: &Snapshot{}, met: map[string]bool{}}
	conds, err := newConditions()
	if err != nil {
		r.add(position{}, "", err.Error(), "")
		return nil
	}
	c.conds = conds
	c.names()
	c.compileScopes()
	c.compileNetworks()
	c.compileRoles()
	c.compileDeny()
	c.compileApprovals()
	c.compileLimits()
	c.compileAgents()
	c.indexRules()
	c.checkMatchAgents()
	c.compileHTTP()
	c.canonShown()
	c.s.version = c.canon.sum()
	return c.s
}

// compiler is the state of one compilation.
type compiler struct {
	src   *source
	doc   *policyv1.Policy
	r     *report
	s     *Snapshot
	conds *conditions
	canon canonical

	scopes   map[string]uint32
	networks map[string]uint32
	roles    map[string]*role

	matches   []placedMatch
	met       map[string]bool            // patterns of match.agents that some agent meets
	limitDocs map[string]*policyv1.Limit // the common limits without a fault of kind or per

	limitMatches map[string]encodedMatch
	shared       shared
}

// placedMatch is a match that is still to be compared with all agents.
type placedMatch struct {
	rule   string
	path   []string
	agents []string
}

// fault notes what is wrong at a place of the documents.
func (c *compiler) fault(rule string, path []string, message, fix string) {
	c.r.add(c.src.at(path...), rule, message, fix)
}

// sortedKeys are the keys of a map in order: nothing may depend on Go's.
func sortedKeys[T any](m map[string]T) []string { return slices.Sorted(maps.Keys(m)) }

// sub appends steps to a path without touching it.
func sub(path []string, steps ...string) []string {
	return append(slices.Clip(path), steps...)
}

// number is an index as tries and lists hold it. No policy has as many of
// anything as would not fit: its documents would be larger than any memory.
func number(i int) uint32 { return uint32(i) } //nolint:gosec // see above

// sortedSet is a list as a set: sorted, each once.
func sortedSet(list []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(list)))
}

// names refuses names that mean something of their own where names are
// referred to: networks: [any] must not be somebody's network.
func (c *compiler) names() {
	check := func(section string, names []string) {
		for _, name := range names {
			switch name {
			case "any", "all", "builtin":
				c.fault(section+"/"+name, []string{section, name}, fmt.Sprintf("the name %s is reserved", name), "write another name")
			}
		}
	}
	check("scopes", sortedKeys(c.doc.GetScopes()))
	check("networks", sortedKeys(c.doc.GetNetworks()))
	check("roles", sortedKeys(c.doc.GetRoles()))
	check("approvers", sortedKeys(c.doc.GetApprovers()))
}

// undefined notes a name that nothing in a section defines.
func undefined[T any](c *compiler, rule string, path []string, section, name string, known map[string]T) {
	fix := fmt.Sprintf("define it under %s", section)
	if near := nearest(name, sortedKeys(known)); near != "" {
		fix = fmt.Sprintf("write %s, or %s", near, fix)
	}
	c.fault(rule, path, fmt.Sprintf("%s is not defined under %s", quote(name), section), fix)
}

// goodPatterns checks patterns, and returns those that can be used as a set.
func (c *compiler) goodPatterns(rule string, path []string, kind patternKind, patterns []string) []string {
	good := make([]string, 0, len(patterns))
	for i, p := range patterns {
		if message, fix := patternFault(p, kind); message != "" {
			c.fault(rule, sub(path, fmt.Sprint(i)), message, fix)
			continue
		}
		good = append(good, p)
	}
	slices.Sort(good)
	return slices.Compact(good)
}

// when compiles a condition, and notes what is wrong with it.
func (c *compiler) when(rule string, path []string, text string) *condition {
	cond, err := c.conds.compile(text)
	if err != nil {
		c.fault(rule, path, err.Error(), "write a CEL expression over agent, subject, action, resource, source_ip, now, parameters and context that gives true or false")
	}
	return cond
}

// match compiles a match and writes its canonical form.
func (c *compiler) match(rule string, path []string, m *policyv1.Match, canon *canonical) (match, patterns) {
	texts := patterns{
		agents:    c.goodPatterns(rule, sub(path, "agents"), agentPattern, m.GetAgents()),
		actions:   c.goodPatterns(rule, sub(path, "actions"), actionPattern, m.GetActions()),
		resources: c.goodPatterns(rule, sub(path, "resources"), resourcePattern, m.GetResources()),
	}
	if len(texts.agents) > 0 {
		c.matches = append(c.matches, placedMatch{rule, sub(path, "agents"), m.GetAgents()})
	}
	out := match{
		agents:    c.shared.set(agentPattern, texts.agents),
		actions:   c.shared.set(actionPattern, texts.actions),
		resources: c.shared.set(resourcePattern, texts.resources),
		risk:      newRiskSet(m.GetRisk()),
		when:      c.when(rule, sub(path, "when"), m.GetWhen()),
	}
	canon.list(texts.agents)
	canon.list(texts.actions)
	canon.list(texts.resources)
	canon.number(int64(out.risk))
	canon.condition(out.when)
	return out, texts
}

// patterns are a match's patterns as sets of texts.
type patterns struct{ agents, actions, resources []string }

// shared keeps one of each of what many rules and agents have alike.
type shared struct {
	sets     map[string]*patternSet
	owners   map[string]string
	networks map[string]*networkSet
	roles    map[string][]*role
	plain    map[string][]uint32
	limits   map[string]*limitRule
	specs    map[LimitSpec]*LimitSpec

	locations map[string]*time.Location
}

// set returns the one set of these patterns; nil if there are none.
func (s *shared) set(kind patternKind, patterns []string) *patternSet {
	if len(patterns) == 0 {
		return nil
	}
	key := kind.String() + "\x00" + strings.Join(patterns, "\x00")
	if set, ok := s.sets[key]; ok {
		return set
	}
	if s.sets == nil {
		s.sets = map[string]*patternSet{}
	}
	set := newPatternSet(kind, patterns)
	s.sets[key] = set
	return set
}
