package policytest

import (
	"slices"
	"strings"

	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/policy"
)

// Coverage says what of the policy no test exercised, sorted. A rule is
// exercised by a call that it decided, granted, charged or would have decided in
// shadow; a scope by one of its grants.
type Coverage struct {
	// Scopes are names; the others are rule ids.
	Scopes    Part
	Grants    Part
	Deny      Part
	Approvals Part
	Limits    Part
	Routes    Part
}

// Part is one kind of rule: how many there are, and which of them no test exercised.
type Part struct {
	Total   int
	Missing []string
}

// Parts lists the parts with their names, in the order to show them.
func (c *Coverage) Parts() []struct {
	Name string
	Part
} {
	return []struct {
		Name string
		Part
	}{
		{"scopes", c.Scopes},
		{"grants", c.Grants},
		{"deny rules", c.Deny},
		{"approval rules", c.Approvals},
		{"limits", c.Limits},
		{"http routes", c.Routes},
	}
}

// exercised gathers the ids of the rules that did something.
type exercised struct{ rules map[string]bool }

func newExercised() *exercised { return &exercised{rules: map[string]bool{}} }

// answer notes what one answer tells; checks may be nil.
func (x *exercised) answer(d *pdp.Decision, checks []pdp.Check) {
	for _, rule := range d.Matched {
		x.rules[rule] = true
	}
	for _, s := range d.Shadow {
		x.rules[s.Rule] = true
	}
	for _, l := range d.Limits {
		x.rules["limits/"+l.Name] = true
	}
	if d.Verdict != pdp.Allow && d.Verdict != pdp.RequireApproval {
		return
	}
	// What granted a call that waits for a human is told by Explain alone.
	for _, c := range checks {
		if c.Name == "scope" && c.Outcome == pdp.CheckPass {
			for _, rule := range c.Rules {
				x.rules[rule] = true
			}
		}
	}
}

// route notes the route that made a call of an HTTP request.
func (x *exercised) route(id string) {
	if id != "" {
		x.rules[id] = true
	}
}

func (x *exercised) coverage(s *policy.Snapshot) Coverage {
	var c Coverage
	scopes := map[string]bool{}
	for _, id := range s.RuleIDs() {
		kind, rest, _ := strings.Cut(id, "/")
		part := c.partOf(kind)
		if part == nil {
			continue
		}
		part.Total++
		if !x.rules[id] {
			part.Missing = append(part.Missing, id)
		} else if part == &c.Grants {
			// grants/AGENT/SCOPE: an agent's id may hold slashes, a scope's name none.
			scopes[rest[strings.LastIndexByte(rest, '/')+1:]] = true
		}
	}
	for _, name := range s.ScopeNames() {
		c.Scopes.Total++
		if !scopes[name] {
			c.Scopes.Missing = append(c.Scopes.Missing, name)
		}
	}
	for _, id := range s.HTTP().RouteIDs() {
		c.Routes.Total++
		if !x.rules[id] {
			c.Routes.Missing = append(c.Routes.Missing, id)
		}
	}
	for _, part := range []*Part{&c.Scopes, &c.Grants, &c.Deny, &c.Approvals, &c.Limits, &c.Routes} {
		slices.Sort(part.Missing)
	}
	return c
}

func (c *Coverage) partOf(kind string) *Part {
	switch kind {
	case "grants", "roles":
		return &c.Grants
	case "deny":
		return &c.Deny
	case "approvals":
		return &c.Approvals
	case "limits":
		return &c.Limits
	default:
		return nil // Built-in rules are not the policy's to test.
	}
}
