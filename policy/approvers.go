package policy

import (
	"errors"
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

// BreakGlassGroup is the name of the approver group whose members may break the
// glass. No approval rule need name it.
const BreakGlassGroup = "breakglass"

// GroupMember is what a member of an approver group begins with that stands for all
// who are in a group of the identity provider: oidc-group:security.
const GroupMember = "oidc-group:"

// openEnded tells whether a list of approvers has members whose number is not known.
func openEnded(approvers []string) bool {
	return slices.ContainsFunc(approvers, func(name string) bool { return strings.HasPrefix(name, GroupMember) })
}

// Approver tells whether somebody, who is in groups by his identity provider, is in
// any approver group of the policy.
func (s *Snapshot) Approver(name string, groups []string) bool {
	return AmongApprovers(s.guardrail.Approvers, name, groups)
}

// AmongApprovers tells whether a list of approvers has somebody of a name, who is in
// groups by his identity provider. A name that reads as a group's is nobody's.
func AmongApprovers(approvers []string, name string, groups []string) bool {
	if strings.HasPrefix(name, GroupMember) {
		return false
	}
	return slices.Contains(approvers, name) || slices.ContainsFunc(groups, func(group string) bool {
		return slices.Contains(approvers, GroupMember+group)
	})
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

// InGroup tells whether somebody, who is in groups by his identity provider, is in
// an approver group of the policy.
func (s *Snapshot) InGroup(group, name string, groups []string) bool {
	return AmongApprovers(s.groups[group], name, groups)
}

// MatchAction tells whether an action pattern of the policy language matches an
// action. The error says what is wrong with the pattern.
func MatchAction(pattern, action string) (bool, error) {
	return matches(pattern, action, actionPattern)
}

// MatchResource tells whether a resource pattern of the policy language matches a
// resource. The error says what is wrong with the pattern.
func MatchResource(pattern, resource string) (bool, error) {
	return matches(pattern, resource, resourcePattern)
}

func matches(pattern, text string, kind patternKind) (bool, error) {
	if message, fix := patternFault(pattern, kind); message != "" {
		return false, errors.New(message + "; " + fix)
	}
	t := newTrie(kind == actionPattern)
	t.insert(pattern, 0)
	var w walk
	return len(t.find(text, &w, nil)) > 0, nil
}
