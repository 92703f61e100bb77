package policy

import (
	"slices"
	"strings"
)

// Limits finds the limits that match a call and the bucket of each; v is what
// Decide of the same snapshot said of the same call. It is asked where the
// call is allowed, or its approval was given. Like Decide it is pure.
func (s *Snapshot) Limits(c *Call, v *Verdict, set *LimitSet) {
	st := &v.state
	if st.snapshot != s {
		panic("policy: Limits is asked about a verdict of another snapshot")
	}
	set.Charges, set.Matched, set.Reason, set.buf = set.Charges[:0], set.Matched[:0], "", set.buf[:0]
	if st.agent == nil {
		return
	}
	s.matchLimits(c, v)
	set.Reason, set.Matched = st.failure(set.Matched)
	if set.Reason != "" {
		return
	}
	bounded := false
	for _, l := range st.limits {
		// One per call bounds nobody who varies his calls.
		bounded = bounded || !l.spec.Shadow && l.per&(perAgent|perCall) == perAgent
	}
	if !bounded {
		st.limits = append(st.limits, s.fallback)
	}
	slices.SortFunc(st.limits, func(a, b *limitRule) int { return strings.Compare(a.spec.ID, b.spec.ID) })
	st.keys, st.digested = st.keys[:0], false
	for _, l := range st.limits {
		var span keySpan
		set.buf, span = l.appendKey(set.buf, c, st)
		st.keys = append(st.keys, span)
	}
	// The buffer has stopped moving.
	for i, l := range st.limits {
		k := st.keys[i]
		set.Charges = append(set.Charges, LimitCharge{
			Spec: l.spec, Key: set.buf[k.start:k.end:k.end], Home: k.home, Slot: k.slot,
		})
	}
}

// matchLimits finds the limits whose match holds: the common ones but for
// those that the agent has an own entry of, and its own.
func (s *Snapshot) matchLimits(c *Call, v *Verdict) {
	st := &v.state
	st.limits = st.limits[:0]
	st.lacking, st.failing = st.lacking[:0], st.failing[:0]
	for _, i := range st.rules {
		number := int(i) - len(s.deny) - len(s.approvals)
		if number < 0 {
			continue
		}
		if l := s.limits[number]; !st.agent.overrides(l.name) {
			st.noteLimit(l, c)
		}
	}
	for _, l := range st.agent.limits {
		if l.match.static(c, v.Risk, st.verb, &st.walk) {
			st.noteLimit(l, c)
		}
	}
}

// noteLimit judges the condition of a limit. That of one in shadow alters
// nothing where it cannot be evaluated.
func (st *verdictState) noteLimit(l *limitRule, c *Call) {
	o := l.match.when.evaluate(c)
	if o.failed() && l.spec.Shadow {
		return
	}
	if st.note(l.spec.ID, o) {
		st.limits = append(st.limits, l)
	}
}

// overrides tells whether the agent has an own limit of this name.
func (a *agent) overrides(name string) bool {
	if len(a.limits) == 0 {
		return false
	}
	_, found := slices.BinarySearchFunc(a.limits, name, func(l *limitRule, name string) int { return strings.Compare(l.name, name) })
	return found
}
