package pdp

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kelpie-authz/kelpie/limiter"
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

// Explain judges every check of a call, also those behind one that failed, and
// fills out. It spends nothing, opens nothing and records nothing.
//
// The limits are skipped only where the policy denies, since which of them
// match depends on the grants. Behind an outstanding approval they are judged
// as they stand now; the decision does not look at them until it is approved.
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
	if err := s.checks(ctx, j, &c.calls[0]); err != nil {
		return err
	}
	looked := j.reached == VerdictNone || j.set.Reason != ""
	if j.reached == VerdictNone {
		if err := s.charge(ctx, j, c.calls[:]); err != nil {
			return err
		}
	}
	if err := s.explainChecks(ctx, c, looked, out); err != nil {
		return err
	}
	out.Decision.ID = ""
	out.Decision.WouldBe = j.reached
	return nil
}

// explainChecks fills the list. looked says that the decision came to the
// limits.
func (s *Service) explainChecks(ctx context.Context, c *loneCall, looked bool, out *Explanation) error {
	j := &c.judgment
	defer s.contain(ctx, j)
	if policy.CheckAgent(j.id.Agent) != nil {
		s.explainNobody(j, out)
		return nil
	}
	checks, risk := j.snap.Explain(&j.call)
	out.Risk = risk.String()
	limits, err := s.explainLimits(ctx, c, looked)
	if err != nil {
		return err
	}
	out.Checks = append(out.Checks,
		explainIdentity(j, checks),
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

// explainNobody is for a call of which it is not known whose it is.
func (s *Service) explainNobody(j *judgment, out *Explanation) {
	out.Checks = append(out.Checks, Check{
		Name: checkIdentity, Outcome: CheckDeny, Reason: j.dec.Reason, Detail: "the agent's identity was not established",
	})
	for _, name := range []string{
		checkSuspension, checkRevocation, checkCredential, checkNetwork, checkDeny, checkScope, checkApproval, checkLimits,
	} {
		out.Checks = append(out.Checks, skipped(name, "needs the agent's identity"))
	}
	out.Checks = append(out.Checks, s.explainConsume(j), explainAudit())
}

// explainIdentity is the identifier's word first, and then the policy's.
func explainIdentity(j *judgment, checks []policy.Check) Check {
	if j.id.Denied != "" {
		return Check{Name: checkIdentity, Outcome: CheckDeny, Reason: j.id.Denied, Detail: adviceFor(j.id.Denied).message}
	}
	return policyCheck(checks, checkIdentity, Check{Name: checkIdentity, Outcome: CheckPass, Detail: "the agent is known"})
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
	case j.found.Found == FoundApproved || j.found.Found == FoundGranted || j.found.Found == FoundBreakGlass:
		check.Outcome, check.Reason = CheckPass, j.granted
		if check.Detail = "every yes that is needed is there"; j.found.Found == FoundBreakGlass {
			check.Detail = "somebody broke the glass: no yes is needed"
		}
	case j.reached == Deny && j.found.Found != FoundNone:
		check.Outcome, check.Reason = CheckDeny, j.dec.Reason
		check.Detail = j.dec.Message
	}
	return check
}

// explainLimits says how the limits stand. Where the decision came to them it
// says what the decision saw. Where an approval is outstanding, or something
// was revoked, they can be judged all the same. Which limits match depends on
// the grants, so of a call that the policy denies there is nothing to judge.
func (s *Service) explainLimits(ctx context.Context, c *loneCall, looked bool) (Check, error) {
	j := &c.judgment
	if looked {
		return limitsCheck(j, &c.calls[0].Result), nil
	}
	if out := j.verdict.Outcome; out != policy.OutcomeAllow && out != policy.OutcomeApproval {
		return skipped(checkLimits, "not looked at: an earlier check denies"), nil
	}
	answer, reached := j.dec, j.reached
	j.dec, j.reached = new(Decision), VerdictNone
	defer func() { j.dec, j.reached = answer, reached }()
	s.findLimits(j, &c.calls[0])
	if j.reached == VerdictNone {
		if err := s.peek(ctx, c); err != nil {
			return Check{}, err
		}
	}
	check := limitsCheck(j, &c.calls[0].Result)
	if reached == RequireApproval {
		check.Detail = "once approved: " + check.Detail
	}
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

// limitsCheck puts into words what was found of the limits.
func limitsCheck(j *judgment, res *limiter.Result) Check {
	if j.reached != Deny {
		return limitsPass(j, res)
	}
	check := Check{Name: checkLimits, Outcome: CheckDeny, Reason: j.dec.Reason, Rules: slices.Clone(j.dec.Matched)}
	switch j.dec.Reason {
	case ReasonRateLimited, ReasonQuotaExhausted, ReasonCostExceedsLimit, ReasonLoopDetected:
		check.Detail = lackingText(j, res)
	case ReasonConditionFailed, ReasonParametersUnavailable:
		check.Detail = "the condition of a limit cannot be evaluated"
	default:
		check.Detail = j.dec.Message
	}
	return check
}

func limitsPass(j *judgment, res *limiter.Result) Check {
	check := Check{Name: checkLimits, Outcome: CheckPass}
	var texts []string
	for i, spec := range j.specs {
		if spec.Shadow || i >= len(res.Limits) {
			continue
		}
		st := &res.Limits[i]
		check.Rules = append(check.Rules, spec.ID)
		texts = append(texts, fmt.Sprintf("%s: %d of %d left", spec.Name, wholeUnits(st.Remaining), wholeUnits(st.Limit)))
	}
	check.Detail = strings.Join(append(texts, j.dec.Warnings...), "; ")
	return check
}

// lackingText names the limits that lack in the order of matched, the one that
// waits longest first.
func lackingText(j *judgment, res *limiter.Result) string {
	var texts []string
	for _, id := range j.dec.Matched {
		for i, spec := range j.specs {
			if spec.ID != id {
				continue
			}
			st := &res.Limits[i]
			text := fmt.Sprintf("%s is reached; free in %v", spec.Name, readable(st.RetryAfter))
			if st.Never {
				text = fmt.Sprintf("%s can never give more than %d, and the call costs more", spec.Name, wholeUnits(st.Limit))
			}
			texts = append(texts, text)
		}
	}
	return strings.Join(texts, "; ")
}

// readable rounds a wait up to what a person cares about.
func readable(d time.Duration) time.Duration {
	unit := time.Millisecond
	if d > 10*time.Second {
		unit = time.Second
	}
	return (d + unit - 1).Truncate(unit)
}

func (s *Service) explainConsume(j *judgment) Check {
	switch {
	case s.cfg.Approvals == nil:
		return skipped(checkConsume, "no approvals are kept here; ask a server")
	case j.granted != ReasonOK:
		return skipped(checkConsume, "an explanation does not use the approval")
	default:
		return skipped(checkConsume, "there is no approval to use")
	}
}
