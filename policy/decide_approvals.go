package policy

import "slices"

// judgeApprovals judges the approval rules and the guardrail, and tells
// whether the call needs nobody's yes.
func (s *Snapshot) judgeApprovals(c *Call, v *Verdict) bool {
	st := &v.state
	st.lacking, st.failing = st.lacking[:0], st.failing[:0]
	for _, i := range st.rules {
		number := int(i) - len(s.deny)
		if number < 0 || number >= len(s.approvals) {
			continue
		}
		r := &s.rules[i]
		if r.shadow || !st.note(r.id, r.match.when.evaluate(c)) {
			continue
		}
		v.Requirements = append(v.Requirements, s.approvals[number])
		if when := r.match.when; when != nil {
			v.ContextRead = append(v.ContextRead, when.context...)
			v.ContextWhole = v.ContextWhole || when.whole
		}
	}
	if !st.pass(v) {
		v.forgetApproval()
		return false
	}
	if len(v.Requirements) == 0 && v.Risk >= RiskDelete && !st.unattended() {
		v.Requirements = append(v.Requirements, s.guardrail)
	}
	if len(v.Requirements) == 0 {
		return true
	}
	s.requireApproval(c, v)
	return false
}

// unattended tells whether a satisfied grant waives the guardrail.
func (st *verdictState) unattended() bool {
	return slices.ContainsFunc(st.held, func(h heldGrant) bool { return h.unattended && h.satisfied() })
}

// requireApproval asks for the requirements to be met, unless the humans could
// not see what they would say yes to.
func (s *Snapshot) requireApproval(c *Call, v *Verdict) {
	if p := c.Parameters.State; p == ParametersTruncated || p == ParametersNotSeen {
		for i := range v.Requirements {
			if !v.Requirements[i].PathOnly {
				v.Matched = append(v.Matched, v.Requirements[i].Rule)
			}
		}
		if len(v.Matched) > 0 {
			v.forgetApproval()
			v.deny(ReasonParametersUnavailable)
			return
		}
	}
	for i := range v.Requirements {
		v.Matched = append(v.Matched, v.Requirements[i].Rule)
	}
	slices.Sort(v.ContextRead)
	v.ContextRead = slices.Compact(v.ContextRead)
	v.Outcome, v.Reason = OutcomeApproval, ReasonApprovalRequired
}

func (v *Verdict) forgetApproval() {
	v.Requirements, v.ContextRead, v.ContextWhole = v.Requirements[:0], v.ContextRead[:0], false
}
