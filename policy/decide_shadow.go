package policy

import (
	"slices"
	"strings"
)

// judgeShadows notes what rules in shadow would have answered, each by itself.
func (s *Snapshot) judgeShadows(c *Call, v *Verdict) {
	st := &v.state
	for _, i := range st.rules {
		r := &s.rules[i]
		if !r.shadow || int(i) >= len(s.deny)+len(s.approvals) {
			continue
		}
		hit, reason := OutcomeDeny, ReasonActionDenied
		if int(i) >= len(s.deny) {
			hit, reason = OutcomeApproval, ReasonApprovalRequired
		}
		v.addShadow(r.id, r.match.when.evaluate(c), hit, reason)
	}
	named := false
	for i := range st.held {
		if !st.held[i].shadow {
			continue
		}
		if !named {
			s.nameGrants(st)
			named = true
		}
		v.addShadow(st.held[i].id, st.held[i].result, OutcomeAllow, ReasonOK)
	}
	if len(v.Shadow) > 1 {
		slices.SortFunc(v.Shadow, compareShadows)
		v.Shadow = slices.Compact(v.Shadow)
	}
}

func compareShadows(a, b ShadowOutcome) int {
	if n := strings.Compare(a.Rule, b.Rule); n != 0 {
		return n
	}
	if n := int(a.Outcome) - int(b.Outcome); n != 0 {
		return n
	}
	return strings.Compare(string(a.Reason), string(b.Reason))
}

func (v *Verdict) addShadow(id string, o outcome, hit Outcome, reason Reason) {
	switch o {
	case isTrue:
	case isLacking:
		hit, reason = OutcomeDeny, ReasonParametersUnavailable
	case isFailing:
		hit, reason = OutcomeDeny, ReasonConditionFailed
	case isFalse:
		return
	}
	v.Shadow = append(v.Shadow, ShadowOutcome{Rule: id, Outcome: hit, Reason: reason})
}
