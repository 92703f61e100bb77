package policy

import (
	"slices"
	"strings"
	"time"
)

// Document is one file of the policy directory.
type Document struct {
	// Name is the file's name, for error positions.
	Name string
	// Data is the file's content.
	Data []byte
}

// Snapshot is one compiled policy. It is immutable, and safe for any number of
// goroutines. The zero value is not usable; Compile makes one.
type Snapshot struct {
	version string

	exact    map[string]*agent
	patterns *trie // of agent keys with a star; values are indices into keyed
	keyed    []*agent

	scopes   []scope // sorted by name
	coverage scopeIndex
	networks *networkTable
	roles    []*role // sorted by name

	// rules are the deny rules, the approval rules and the common limits, in
	// this order, each sorted by name. Their numbers are indices here.
	rules     []rule
	index     ruleIndex
	deny      []denial      // by number
	approvals []Requirement // by number - len(deny)
	limits    []*limitRule  // by number - len(deny) - len(approvals)
	guardrail Requirement
	fallback  *limitRule
	specs     []*LimitSpec

	http *HTTP // nil: the policy says nothing of HTTP requests

	// groups are the members of the approver groups, by name.
	groups map[string][]string

	// shown has the members of parameters that the audit may show, by the id of a
	// rule, or scopes/NAME; nil: none are.
	shown map[string][]string
}

// agent is what one key of agents holds.
type agent struct {
	key       string
	owner     string
	networks  *networkSet
	grants    grants
	roles     []*role
	limits    []*limitRule // its own, sorted by name
	suspended bool
}

// role is a named bundle of grants; agents share it.
type role struct {
	name   string
	grants grants
	// ids are those of grants.plain and then of grants.special.
	ids []string
}

// grants are what one agent or role holds.
type grants struct {
	// plain are the scopes held without any condition, sorted.
	plain []uint32
	// special are the other grants, sorted by scope.
	special []grant
}

// grant is a scope held under a condition, for a time, unattended or in shadow.
type grant struct {
	scope      uint32
	when       *condition
	until      time.Time // zero: for ever
	unattended bool
	shadow     bool
}

type scope struct {
	name string
	risk scopeRisk
}

// rule is what deny rules, approval rules and limits have in common.
type rule struct {
	id     string
	match  match
	shadow bool
}

type denial struct{ message string }

// match says which calls a rule is about. The zero value is about all.
type match struct {
	agents, actions, resources *patternSet // nil: any
	risk                       riskSet
	when                       *condition
}

// static tells whether all but the condition holds.
func (m *match) static(c *Call, risk, verb Risk, w *walk) bool {
	return m.risk.match(risk, verb) &&
		(m.agents == nil || m.agents.match(c.Agent, w)) &&
		(m.actions == nil || m.actions.match(c.Action, w)) &&
		(m.resources == nil || m.resources.match(c.Resource, w))
}

// Version is a hash of what was compiled, in 32 hexadecimal digits. Comments,
// order, file names and other ways to write the same policy do not change it.
func (s *Snapshot) Version() string { return s.version }

// Counts is how much a snapshot holds. Limits are the common ones.
type Counts struct{ Agents, Scopes, Deny, Approvals, Limits int }

// Counts says how much the snapshot holds.
func (s *Snapshot) Counts() Counts {
	return Counts{
		Agents: len(s.exact) + len(s.keyed), Scopes: len(s.scopes),
		Deny: len(s.deny), Approvals: len(s.approvals), Limits: len(s.limits),
	}
}

// HasAgent tells whether an id falls under a key of agents.
func (s *Snapshot) HasAgent(id string) bool {
	var w walk
	return s.findAgent(id, &w) != nil
}

// LimitSpecs are all limits of the snapshot, by Index: the common ones, those
// of agents, and builtin/default. The caller must not change them.
func (s *Snapshot) LimitSpecs() []*LimitSpec { return s.specs }

// ScopeNames are the names of all scopes, sorted.
func (s *Snapshot) ScopeNames() []string {
	names := make([]string, len(s.scopes))
	for i := range s.scopes {
		names[i] = s.scopes[i].name
	}
	return names
}

// ScopeOfGrant is the scope that a grant's id (grants/AGENT/SCOPE or
// roles/ROLE/SCOPE) is about, and "" for any other rule's id.
func ScopeOfGrant(id string) string {
	if !strings.HasPrefix(id, "grants/") && !strings.HasPrefix(id, "roles/") {
		return ""
	}
	return id[strings.LastIndexByte(id, '/')+1:]
}

// RuleIDs are the ids of all grants (grants/AGENT/SCOPE, roles/ROLE/SCOPE),
// deny rules, approval rules and limits, those of agents too, sorted, each
// once. The built-in ones are not among them.
func (s *Snapshot) RuleIDs() []string {
	var ids []string
	for i := range s.rules {
		ids = append(ids, s.rules[i].id)
	}
	for _, r := range s.roles {
		ids = append(ids, r.ids...)
	}
	add := func(a *agent) {
		for _, id := range a.grants.plain {
			ids = append(ids, s.ownID(a, id))
		}
		for i := range a.grants.special {
			ids = append(ids, s.ownID(a, a.grants.special[i].scope))
		}
		for _, own := range a.limits {
			ids = append(ids, own.spec.ID)
		}
	}
	for _, a := range s.exact {
		add(a)
	}
	for _, a := range s.keyed {
		add(a)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

const ownGrants = "grants/"

// ownID is the id of an agent's own grant.
func (s *Snapshot) ownID(a *agent, scope uint32) string {
	return ownGrants + a.key + "/" + s.scopes[scope].name
}
