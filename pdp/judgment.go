package pdp

import (
	"context"
	"runtime/debug"
	"slices"
	"time"

	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/policy"
)

// retryFault is when to come back after something of ours failed.
const retryFault = time.Second

// judgment is one call on its way through the checks. Its buffers are reused;
// its zero value is ready for Service.open.
type judgment struct {
	req     *Request
	dec     *Decision
	snap    *policy.Snapshot
	table   *limitTable
	now     time.Time
	arrived time.Duration

	id      Identity
	call    policy.Call
	verdict policy.Verdict
	set     policy.LimitSet
	ask     ApprovalAsk
	found   ApprovalStatus
	// specs has the limit of each charge, in the same order.
	specs []*policy.LimitSpec
	// charged is the call that holds what was taken; nil if nothing was.
	charged *limiter.Call
	// alone is what the Fallback judged; nil until it has to.
	alone  *aloneCall
	outage Outage
	// settles says that something can be said of the charges after the decision.
	settles bool
	// ledgerDown says that the ledger is known not to answer.
	ledgerDown bool

	// reached is the verdict; VerdictNone while no check has settled it. It
	// goes into the answer only when it is recorded, so that a call that ends
	// half way leaves an answer without a verdict.
	reached Verdict
	// granted is the reason of an ALLOW: ok, ok_approved or ok_grant.
	granted   Reason
	malformed bool
	// unmapped says that nothing tells what the call is: only agent and address are judged.
	unmapped bool
	// together says that it is judged with others of a batch, before any of them
	// is charged.
	together bool
	// spoiled means that a panic left the buffers in an unknown state.
	spoiled bool
	rec     Record
	ipText  []byte
}

// open takes the clock reading, the snapshot and the context's word that
// somebody still waits for the answer.
func (s *Service) open(ctx context.Context, j *judgment) error {
	if s.cfg.Elapsed != nil {
		j.arrived = s.cfg.Elapsed()
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	j.snap = s.cfg.Policy.Snapshot()
	if j.snap == nil {
		return ErrNoPolicy
	}
	j.table = s.limitTable(j.snap)
	j.now = s.cfg.Now()
	return nil
}

// begin starts on one request after open. The error is that of a malformed
// request. The judgment is new, or was released since its last request.
func (s *Service) begin(ctx context.Context, j *judgment, req *Request, dec *Decision) *InvalidError {
	s.assign(j, req, dec)
	return s.validateContained(ctx, j)
}

// assign makes the judgment one of this request, of which nothing is checked yet.
func (s *Service) assign(j *judgment, req *Request, dec *Decision) {
	j.req, j.dec = req, dec
	j.id, j.found, j.charged = Identity{}, ApprovalStatus{}, nil
	j.alone, j.outage, j.settles, j.ledgerDown = nil, OutageNone, false, false
	j.verdict.Risk = policy.RiskNone
	j.reached, j.granted, j.malformed, j.unmapped, j.together = VerdictNone, ReasonOK, false, false, false
	dec.reset()
	dec.ID = s.newID(j.now)
	dec.PolicyVersion = j.snap.Version()
	dec.RequestID = req.RequestID
}

func (s *Service) validateContained(ctx context.Context, j *judgment) *InvalidError {
	defer s.contain(ctx, j)
	bad := s.validate(j.req, &j.call, j.unmapped)
	j.call.Now = j.now
	return bad
}

// release drops what belongs to the caller, so that a pooled judgment keeps no
// request alive.
func (j *judgment) release() {
	j.req, j.dec, j.snap, j.table, j.charged, j.alone = nil, nil, nil, nil, nil, nil
	j.call = policy.Call{}
	j.id, j.found = Identity{}, ApprovalStatus{}
	j.ask = ApprovalAsk{}
	j.rec = Record{}
	clear(j.specs)
	j.specs = j.specs[:0]
}

// reset empties the decision and keeps its buffers.
func (d *Decision) reset() {
	matched, limits, scopes, warnings, shadow := d.Matched[:0], d.Limits[:0], d.RequiredScopes[:0], d.Warnings[:0], d.Shadow[:0]
	*d = Decision{} // by itself, so that it is cleared in place
	d.Matched, d.Limits, d.RequiredScopes, d.Warnings, d.Shadow = matched, limits, scopes, warnings, shadow
}

// settle fixes verdict and reason, with what the reason tells the caller.
func (s *Service) settle(j *judgment, v Verdict, r Reason, matched []string) {
	a := adviceFor(r)
	j.reached = v
	j.dec.Reason, j.dec.Message, j.dec.Next = r, a.message, a.next
	j.dec.Matched = append(j.dec.Matched[:0], matched...)
	j.dec.RetryAfter = 0
	if a.next == NextRetry {
		j.dec.RetryAfter = s.jittered(retryFault)
	}
}

func (s *Service) deny(j *judgment, r Reason, matched []string) { s.settle(j, Deny, r, matched) }

// jittered never comes back shorter: an answer that sends a caller back too
// early is a wrong answer, whatever the injected function does.
func (s *Service) jittered(d time.Duration) time.Duration { return max(d, s.cfg.Jitter(d)) }

func (s *Service) refuseMalformed(j *judgment, bad *InvalidError) {
	j.malformed = true
	s.deny(j, ReasonParametersInvalid, nil)
	j.dec.Message = "The request is malformed: " + bad.Why + "."
}

// judge takes one well-formed call through all checks but the record. An error
// means that no decision was made.
func (s *Service) judge(ctx context.Context, j *judgment, calls []limiter.Call) error {
	if j.reached != VerdictNone {
		return nil
	}
	if err := s.checks(ctx, j, &calls[0]); err != nil || j.reached != VerdictNone {
		return err
	}
	return s.charge(ctx, j, calls)
}

// checks runs everything before limits, and finds the charges.
func (s *Service) checks(ctx context.Context, j *judgment, call *limiter.Call) error {
	defer s.contain(ctx, j)
	if err := s.checkIdentity(ctx, j); err != nil || j.reached != VerdictNone {
		return err
	}
	s.checkPolicy(j)
	if j.reached != VerdictNone {
		return nil
	}
	if err := s.checkApproval(ctx, j); err != nil || j.reached != VerdictNone {
		return err
	}
	s.findLimits(j, call)
	return nil
}

// checkIdentity establishes who calls.
func (s *Service) checkIdentity(ctx context.Context, j *judgment) error {
	if s.cfg.Identifier == nil {
		j.id = Identity{Agent: j.req.Agent, Subject: j.req.Subject}
		return nil
	}
	id, err := s.cfg.Identifier.Identify(ctx, j.req, j.now)
	switch {
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		s.deny(j, ReasonDependencyUnavailable, nil)
	case id.Denied != "":
		s.deny(j, id.Denied, nil)
	case policy.CheckAgent(id.Agent) != nil:
		s.deny(j, ReasonUnauthenticatedIdentity, nil)
	}
	j.id = id
	j.call.Agent, j.call.Subject = id.Agent, id.Subject
	return nil
}

// checkPolicy asks the policy for everything that it decides alone. What was
// revoked stands between suspension and network in the order of the checks, so
// it gives way only to the checks before it.
func (s *Service) checkPolicy(j *judgment) {
	v := &j.verdict
	if j.unmapped {
		j.snap.DecideUnmapped(&j.call, v)
	} else {
		j.snap.Decide(&j.call, v)
	}
	for _, sh := range v.Shadow {
		j.dec.Shadow = append(j.dec.Shadow, ShadowOutcome{Rule: sh.Rule, Verdict: verdictOf(sh.Outcome), Reason: sh.Reason})
	}
	known := v.Reason != ReasonAgentUnknown && v.Reason != ReasonAgentSuspended
	if r := s.revoked(j); r != "" && known {
		s.deny(j, r, nil)
		return
	}
	switch v.Outcome {
	case policy.OutcomeAllow, policy.OutcomeApproval:
	case policy.OutcomeDeny:
		s.deny(j, v.Reason, v.Matched)
		j.dec.RequiredScopes = append(j.dec.RequiredScopes, v.RequiredScopes...)
		if v.Message != "" {
			j.dec.Message = v.Message
		}
	default:
		s.deny(j, ReasonInternalError, nil)
	}
}

// revoked returns why agent or subject may do nothing any more, or "".
func (s *Service) revoked(j *judgment) Reason {
	if s.cfg.Revocations == nil {
		return ""
	}
	return s.cfg.Revocations.Revoked(&j.id, j.now)
}

func verdictOf(o policy.Outcome) Verdict {
	switch o {
	case policy.OutcomeAllow:
		return Allow
	case policy.OutcomeApproval:
		return RequireApproval
	default:
		return Deny
	}
}

// allow settles a call that passed every check, and names what it rests on.
func (s *Service) allow(j *judgment) {
	if j.granted == ReasonOK {
		s.settle(j, Allow, ReasonOK, j.verdict.Matched)
		return
	}
	s.settle(j, Allow, j.granted, j.verdict.Matched)
	j.dec.Matched = append(j.dec.Matched, j.verdict.Grants...)
}

// contain turns a panic in one call into DENY internal_error and gives back
// what the call had taken. It must be deferred itself: recover works nowhere
// deeper.
func (s *Service) contain(ctx context.Context, j *judgment) {
	value := recover()
	if value == nil {
		return
	}
	j.spoiled = true
	s.deny(j, ReasonInternalError, nil)
	j.dec.RequiredScopes, j.dec.Approval = j.dec.RequiredScopes[:0], nil
	s.tellPanic(j.dec.ID, value)
	s.refund(ctx, j)
}

func (s *Service) tellPanic(id string, value any) {
	if s.cfg.Panicked != nil {
		s.cfg.Panicked(id, value, debug.Stack())
	}
}

// refund gives back what was taken. What cannot be given back stays charged,
// which admits less and never more.
func (s *Service) refund(ctx context.Context, j *judgment) {
	call := j.charged
	j.charged = nil
	if call != nil {
		s.refundReceipt(ctx, j, s.cfg.Limiter, &call.Result.Receipt)
	}
	if j.alone != nil {
		s.refundReceipt(ctx, j, s.cfg.Fallback, &j.alone.calls[0].Result.Receipt)
	}
}

func (s *Service) refundReceipt(ctx context.Context, j *judgment, lim limiter.Limiter, taken *limiter.Receipt) {
	if taken.Empty() {
		return
	}
	// What they said of the limits is no longer so.
	j.dec.Limits = j.dec.Limits[:0]
	defer func() {
		if value := recover(); value != nil {
			j.spoiled = true
			s.tellPanic(j.dec.ID, value)
		}
	}()
	// The caller may have gone; its charges go back all the same.
	if err := lim.Refund(context.WithoutCancel(ctx), taken); err != nil {
		j.dec.Warnings = append(j.dec.Warnings, "the limits could not be refunded and stay charged")
	}
}

// record writes the record and then, and only then, the verdict into the
// answer. Behind it is kept what can be settled later.
func (s *Service) record(ctx context.Context, j *judgment) {
	j.fillRecord(s.latency(j))
	s.conclude(ctx, j, s.recorded(ctx, j))
}

// conclude makes the answer of a judgment that was recorded, or was not.
func (s *Service) conclude(ctx context.Context, j *judgment, recorded bool) {
	if !recorded && j.reached == Allow {
		s.deny(j, ReasonAuditUnavailable, nil)
		s.refund(ctx, j)
	}
	if j.req.DryRun {
		j.dec.WouldBe = j.reached
		return
	}
	j.dec.Verdict = j.reached
	if j.settles {
		s.keep(ctx, j)
	}
}

// recorded reports whether the record was kept.
func (s *Service) recorded(ctx context.Context, j *judgment) bool {
	defer func() {
		if value := recover(); value != nil {
			j.spoiled = true
			s.tellPanic(j.dec.ID, value)
		}
	}()
	return s.cfg.Recorder.Record(ctx, &j.rec) == nil
}

// sortShadow keeps the outcomes in the order of their rules when limits add
// to those of the policy.
func sortShadow(out []ShadowOutcome) {
	slices.SortStableFunc(out, func(a, b ShadowOutcome) int {
		switch {
		case a.Rule < b.Rule:
			return -1
		case a.Rule > b.Rule:
			return 1
		default:
			return 0
		}
	})
}
