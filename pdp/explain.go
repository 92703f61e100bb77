package pdp

import (
	"context"

	"github.com/kelpie-authz/kelpie/policy"
)

// The names of the checks, in the order in which they are judged.
const (
	checkIdentity   = "identity"
	checkSuspension = "suspension"
	checkRevocation = "revocation"
	checkCredential = "credential"
	checkNetwork    = "network"
	checkDeny       = "deny"
	checkScope      = "scope"
	checkApproval   = "approval"
	checkLimits     = "limits"
	checkConsume    = "consume"
	checkAudit      = "audit"
)

// Explain judges every check of a call, whether or not an earlier one failed,
// and fills out. It spends nothing, opens nothing and records nothing.
//
// The decision has the form of a dry run, with the verdict in WouldBe and no
// id: an explanation must not open a door, and there is no record to look up.
// Errors are those of Authorize.
func (s *Service) Explain(ctx context.Context, req *Request, out *Explanation) error {
	dry := *req
	dry.DryRun = true
	out.Checks, out.Risk = out.Checks[:0], ""
	c := new(loneCall)
	j := &c.judgment
	err := s.open(ctx, j)
	if err == nil {
		err = s.explain(ctx, c, &dry, out)
	}
	if err != nil {
		out.Decision.reset()
		out.Checks = out.Checks[:0]
	}
	return err
}

func (s *Service) explain(ctx context.Context, c *loneCall, dry *Request, out *Explanation) error {
	j := &c.judgment
	if bad := s.begin(ctx, j, dry, &out.Decision); bad != nil {
		return bad
	}
	if err := s.judge(ctx, j, c.calls[:]); err != nil {
		return err
	}
	if err := s.explainChecks(ctx, c, out); err != nil {
		return err
	}
	out.Decision.ID = ""
	out.Decision.WouldBe = j.reached
	return nil
}

func (s *Service) explainChecks(ctx context.Context, c *loneCall, out *Explanation) error {
	j := &c.judgment
	defer s.contain(ctx, j)
	if j.id.Agent == "" {
		out.Checks = append(out.Checks, Check{
			Name: checkIdentity, Outcome: CheckDeny, Reason: j.dec.Reason, Detail: "the agent's identity was not established",
		})
		for _, name := range []string{
			checkSuspension, checkRevocation, checkCredential, checkNetwork, checkDeny, checkScope, checkApproval, checkLimits,
		} {
			out.Checks = append(out.Checks, skipped(name, "needs the agent's identity"))
		}
		out.Checks = append(out.Checks, s.explainConsume(j), explainAudit())
		return nil
	}
	checks, risk := j.snap.Explain(&j.call)
	out.Risk = risk.String()
	limits, err := s.explainLimits(ctx, c, checks)
	if err != nil {
		return err
	}
	out.Checks = append(out.Checks,
		policyCheck(checks, checkIdentity, Check{Name: checkIdentity, Outcome: CheckPass, Detail: "the agent is known"}),
		policyCheck(checks, checkSuspension, skipped(checkSuspension, "the agent is not known")),
		s.explainRevocation(j),
		skipped(checkCredential, "credentials are not checked by this build"),
		policyCheck(checks, checkNetwork, skipped(checkNetwork, "the agent is not known")),
		policyCheck(checks, checkDeny, skipped(checkDeny, "the agent is not known")),
		policyCheck(checks, checkScope, skipped(checkScope, "the agent is not known")),
		s.explainApproval(j, checks),
		limits,
		s.explainConsume(j),
		explainAudit(),
	)
	return nil
}

func skipped(name, why string) Check { return Check{Name: name, Outcome: CheckSkipped, Detail: why} }

func explainAudit() Check { return skipped(checkAudit, "an explanation is not recorded") }

// policyCheck finds the policy's check of that name; fallback if it has none.
func policyCheck(checks []policy.Check, name string, fallback Check) Check {
	for i := range checks {
		if c := &checks[i]; c.Name == name {
			return Check{Name: name, Outcome: outcomeOf(c.Status), Reason: c.Reason, Rules: c.Rules, Detail: c.Detail}
		}
	}
	return fallback
}

func outcomeOf(s policy.Status) CheckOutcome {
	switch s {
	case policy.StatusPass:
		return CheckPass
	case policy.StatusDeny:
		return CheckDeny
	case policy.StatusApproval:
		return CheckRequireApproval
	default:
		return CheckSkipped
	}
}

func (s *Service) explainRevocation(j *judgment) Check {
	if s.cfg.Revocations == nil {
		return skipped(checkRevocation, "revocations are not checked by this build")
	}
	if r := s.revoked(j); r != "" {
		return Check{Name: checkRevocation, Outcome: CheckDeny, Reason: r, Detail: "revoked"}
	}
	return Check{Name: checkRevocation, Outcome: CheckPass, Detail: "nothing of this agent is revoked"}
}

// explainApproval adds to what the policy asks for where the approval stands.
func (s *Service) explainApproval(j *judgment, checks []policy.Check) Check {
	check := policyCheck(checks, checkApproval, skipped(checkApproval, "the agent is not known"))
	if check.Outcome != CheckRequireApproval {
		return check
	}
	switch {
	case j.found.Found == FoundApproved || j.found.Found == FoundGranted:
		check.Outcome, check.Reason = CheckPass, j.granted
		check.Detail = "every yes that is needed is there"
	case j.reached == Deny && j.found.Found != FoundNone:
		check.Outcome, check.Reason = CheckDeny, j.dec.Reason
		check.Detail = j.dec.Message
	}
	return check
}

// explainLimits looks at the limits also where Authorize would not come to
// them. Which limits match depends on the grants, so a call that the policy
// denies has only what the policy itself says of its limits.
func (s *Service) explainLimits(ctx context.Context, c *loneCall, checks []policy.Check) (Check, error) {
	j := &c.judgment
	check := policyCheck(checks, checkLimits, skipped(checkLimits, "no limit matches"))
	if out := j.verdict.Outcome; out != policy.OutcomeAllow && out != policy.OutcomeApproval {
		return check, nil
	}
	answer, reached, warned := j.dec, j.reached, new(Decision)
	j.dec, j.reached = warned, VerdictNone
	defer func() { j.dec, j.reached = answer, reached }()
	s.findLimits(j, &c.calls[0])
	if j.reached == VerdictNone {
		if err := s.peek(ctx, c); err != nil {
			return Check{}, err
		}
	}
	if j.reached == VerdictNone {
		check.Outcome, check.Reason = CheckPass, ""
		if check.Detail == "" {
			check.Detail = "every limit has room"
		}
		return check, nil
	}
	check.Outcome, check.Reason, check.Rules, check.Detail = CheckDeny, j.dec.Reason, j.dec.Matched, j.dec.Message
	return check, nil
}

func (s *Service) peek(ctx context.Context, c *loneCall) error {
	j := &c.judgment
	if err := s.take(ctx, j, c.calls[:]); err != nil {
		if err := s.withoutUnavailable(ctx, j, c.calls[:], err); err != nil || j.reached != VerdictNone {
			return err
		}
	}
	s.checkLimits(j, &c.calls[0].Result)
	return nil
}

func (s *Service) explainConsume(j *judgment) Check {
	switch {
	case s.cfg.Approvals == nil:
		return skipped(checkConsume, "approvals are not kept by this build")
	case j.granted != ReasonOK:
		return skipped(checkConsume, "an explanation does not use the approval")
	default:
		return skipped(checkConsume, "there is no approval to use")
	}
}
