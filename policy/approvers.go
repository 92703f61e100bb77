package policy

import (
	"slices"
	"strings"
)

// Requirement is what the approval rule of an id (approvals/N or
// builtin/destructive) asks for, and whether the policy has such a rule. One in
// shadow has another version than it had before.
func (s *Snapshot) Requirement(rule string) (Requirement, bool) {
	if rule == guardrailID {
		return s.guardrail, true
	}
	i, found := slices.BinarySearchFunc(s.approvals, rule, func(r Requirement, id string) int {
		return strings.Compare(r.Rule, id)
	})
	if !found {
		return Requirement{}, false
	}
	return s.approvals[i], true
}

// Owner is who answers for an agent, as the policy names him; "" for an agent
// that the policy does not know.
func (s *Snapshot) Owner(agent string) string {
	var w walk
	if a := s.findAgent(agent, &w); a != nil {
		return a.owner
	}
	return ""
}
