package policy

import (
	"fmt"
	"strings"
)

// Explain judges all checks up to the approval rules, each as if those before
// it had passed, in the order of Decide, and gives the call's risk. An unknown
// agent has nothing that could be judged further: all checks after identity
// are skipped. Limits are skipped too, since their state is not the policy's.
func (s *Snapshot) Explain(c *Call) ([]Check, Risk) {
	v := &Verdict{}
	v.reset(s)
	if !s.prepare(c, v) {
		checks := []Check{{
			Name: "identity", Status: StatusDeny, Reason: ReasonAgentUnknown,
			Detail: "no key under agents is this id, and no pattern among them matches it",
		}}
		for _, name := range []string{"suspension", "network", "deny", "scope", "approval", "limits"} {
			checks = append(checks, Check{Name: name, Detail: "the agent is not known"})
		}
		return checks, v.Risk
	}
	a := v.state.agent
	return []Check{
		{Name: "identity", Status: StatusPass, Detail: fmt.Sprintf("the agent falls under the key %s", quote(a.key))},
		s.explainSuspension(a),
		s.explainNetwork(a, c),
		s.explainDeny(c, v),
		s.explainScopes(v),
		s.explainApprovals(c, v),
		{Name: "limits", Detail: "limits are not the policy's state"},
	}, v.Risk
}

func (s *Snapshot) explainSuspension(a *agent) Check {
	if a.suspended {
		return Check{Name: "suspension", Status: StatusDeny, Reason: ReasonAgentSuspended, Detail: "the agent is suspended"}
	}
	return Check{Name: "suspension", Status: StatusPass, Detail: "the agent is not suspended"}
}

func (s *Snapshot) explainNetwork(a *agent, c *Call) Check {
	from := "the call without an address"
	if c.SourceIP.IsValid() {
		from = c.SourceIP.Unmap().String()
	}
	switch {
	case a.networks.any:
		return Check{Name: "network", Status: StatusPass, Detail: "the agent may call from anywhere"}
	case s.networks.admits(a.networks, c.SourceIP):
		return Check{Name: "network", Status: StatusPass, Detail: from + " lies in a network of the agent"}
	default:
		return Check{Name: "network", Status: StatusDeny, Reason: ReasonIPNotAllowed, Detail: from + " lies in no network of the agent"}
	}
}

// clear makes a verdict ready for the next check, as if no check had failed.
func (v *Verdict) clear() {
	v.Reason, v.Matched = "", nil
}

func (s *Snapshot) explainDeny(c *Call, v *Verdict) Check {
	defer v.clear()
	if s.judgeDeny(c, v) {
		return Check{Name: "deny", Status: StatusPass, Detail: "no deny rule matches"}
	}
	detail := "a deny rule matches"
	if v.Reason != ReasonActionDenied {
		detail = "the condition of a deny rule cannot be evaluated"
	}
	return Check{Name: "deny", Status: StatusDeny, Reason: v.Reason, Rules: v.Matched, Detail: detail}
}

func (s *Snapshot) explainScopes(v *Verdict) Check {
	defer v.clear()
	if s.judgeScopes(v) {
		return Check{Name: "scope", Status: StatusPass, Rules: v.Grants, Detail: "a grant covers the call"}
	}
	check := Check{Name: "scope", Status: StatusDeny, Reason: v.Reason, Rules: v.Matched}
	switch v.Reason {
	case ReasonNoMatchingScope:
		check.Detail = "no scope of the policy covers the call"
	case ReasonInsufficientScope:
		check.Detail = "the agent holds none of the scopes that cover the call: " + strings.Join(v.RequiredScopes, ", ")
	default:
		check.Detail = "the condition of every grant that covers the call is false or cannot be evaluated"
	}
	return check
}

func (s *Snapshot) explainApprovals(c *Call, v *Verdict) Check {
	if s.judgeApprovals(c, v) {
		return Check{Name: "approval", Status: StatusPass, Detail: fmt.Sprintf("no approval is needed at risk %s", v.Risk)}
	}
	check := Check{Name: "approval", Status: StatusDeny, Reason: v.Reason, Rules: v.Matched}
	switch {
	case v.Outcome == OutcomeApproval:
		check.Status = StatusApproval
		check.Detail = fmt.Sprintf("a human has to say yes at risk %s", v.Risk)
	case len(v.state.lacking)+len(v.state.failing) > 0:
		check.Detail = "the condition of an approval rule cannot be evaluated"
	default:
		check.Detail = "an approval is needed, and the parameters it would bind were not seen whole"
	}
	return check
}
