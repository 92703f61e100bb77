package policy

import (
	"slices"
	"strings"
)

const (
	scopePrefix = "scopes/"
	grantPrefix = "grants/"
	rolePrefix  = "roles/"
)

// show notes which members of parameters the audit may show for a rule. The order
// makes no other policy.
func (c *compiler) show(rule string, paths []string) {
	if paths = sortedSet(paths); len(paths) == 0 {
		return
	}
	if c.s.shown == nil {
		c.s.shown = map[string][]string{}
	}
	c.s.shown[rule] = paths
}

// canonShown writes what is shown to the end of the canonical form. A policy that
// shows nothing has the version that it had before there was such a thing.
func (c *compiler) canonShown() {
	if c.s.shown == nil {
		return
	}
	c.canon.text("audit_parameters")
	c.canon.number(int64(len(c.s.shown)))
	for _, rule := range sortedKeys(c.s.shown) {
		c.canon.text(rule)
		c.canon.list(c.s.shown[rule])
	}
}

// AuditParameters are the members of a call's parameters that the audit may show,
// as paths, sorted: those that the rules that made the decision list. Nil: none.
func (s *Snapshot) AuditParameters(matched []string) []string {
	if s.shown == nil {
		return nil
	}
	var all []string
	for _, rule := range matched {
		if strings.HasPrefix(rule, grantPrefix) || strings.HasPrefix(rule, rolePrefix) {
			rule = scopePrefix + rule[strings.LastIndexByte(rule, '/')+1:]
		}
		all = append(all, s.shown[rule]...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}
