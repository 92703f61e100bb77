package pdp

import (
	"context"
	"errors"

	"github.com/kelpie-authz/kelpie/policy"
)

// checkApproval settles a call that needs a human's yes, unless the yes is
// there.
func (s *Service) checkApproval(ctx context.Context, j *judgment) error {
	if !needsApproval(j) {
		return nil
	}
	if j.together && s.cfg.Approvals != nil {
		return errInTurn
	}
	if err := j.fillAsk(); err != nil {
		s.deny(j, ReasonInternalError, j.verdict.Matched)
		return nil //nolint:nilerr // The fault is answered: doubt is a DENY.
	}
	if s.cfg.Approvals == nil {
		s.requireApproval(j, ReasonApprovalRequired)
		return nil
	}
	found, err := s.findApproval(ctx, j)
	if err != nil {
		return s.approvalsDown(ctx, j, err)
	}
	j.found = found
	s.meetApproval(j)
	return nil
}

func needsApproval(j *judgment) bool { return j.verdict.Outcome == policy.OutcomeApproval }

// fillAsk builds what the store is asked, with the digest. Only a call that
// needs an approval pays for it.
func (j *judgment) fillAsk() error {
	v := &j.verdict
	binding := j.binding()
	digest, err := binding.Digest()
	if err != nil {
		return err
	}
	j.ask = ApprovalAsk{
		ID: j.req.ApprovalID, Digest: digest, Requirements: v.Requirements,
		Now: j.now, DecisionID: j.dec.ID, Risk: v.Risk.String(), PolicyVersion: j.dec.PolicyVersion,
		Agent: j.call.Agent, Subject: j.call.Subject, Request: j.req, Binding: binding,
	}
	for i := range v.Requirements {
		r := &v.Requirements[i]
		if i == 0 || r.Expires < j.ask.Expires {
			j.ask.Expires = r.Expires
		}
		if i == 0 || r.UseWithin < j.ask.UseWithin {
			j.ask.UseWithin = r.UseWithin
		}
	}
	return nil
}

func (j *judgment) binding() *Binding {
	v := &j.verdict
	b := &Binding{
		Agent: j.call.Agent, Subject: j.call.Subject, Action: j.call.Action, Resource: j.call.Resource,
		ToolServer: j.call.Tool.Server, ToolName: j.call.Tool.Name,
		ParametersState: j.call.Parameters.State, ParametersRaw: j.call.Parameters.Raw,
		Cost: j.req.Cost, Context: j.call.Context,
		Rules: make([]BoundRule, 0, len(v.Requirements)),
	}
	if at := &j.req.Origin; at.Route != "" {
		b.HTTPMethod, b.HTTPRoute = at.Method, at.Route
		b.HTTPHost, _ = policy.NormalHost(at.Host) // It has a route, so it is one.
	}
	if !v.ContextWhole {
		b.Context = make(map[string]any, len(v.ContextRead))
		for _, name := range v.ContextRead {
			if member, ok := j.call.Context[name]; ok {
				b.Context[name] = member
			}
		}
	}
	for i := range v.Requirements {
		b.Rules = append(b.Rules, BoundRule{Rule: v.Requirements[i].Rule, Version: v.Requirements[i].Version})
	}
	return b
}

// findApproval looks for the approval, and opens one if there is none. A dry
// run opens nothing, and neither does an id: it names one that there is or
// none at all.
func (s *Service) findApproval(ctx context.Context, j *judgment) (ApprovalStatus, error) {
	found, err := s.cfg.Approvals.Find(ctx, &j.ask)
	if err != nil || found.Found != FoundNone {
		return found, err
	}
	if j.ask.ID != "" {
		return ApprovalStatus{Found: FoundMismatch}, nil
	}
	if j.req.DryRun {
		return ApprovalStatus{Found: FoundOpened}, nil
	}
	return s.cfg.Approvals.Open(ctx, &j.ask)
}

// approvalsDown settles a call whose approval could not be asked about, or about
// which something could not be recorded.
func (s *Service) approvalsDown(ctx context.Context, j *judgment, failed error) error {
	if ended := ctx.Err(); ended != nil {
		return ended
	}
	reason := ReasonDependencyUnavailable
	if errors.Is(failed, ErrUnrecorded) {
		reason = ReasonAuditUnavailable
	}
	s.deny(j, reason, j.verdict.Matched)
	return nil
}

// meetApproval lets a call with a yes go on to the limits, and settles every
// other.
func (s *Service) meetApproval(j *judgment) {
	switch j.found.Found {
	case FoundApproved:
		j.granted = ReasonOKApproved
	case FoundGranted:
		j.granted = ReasonOKGrant
	case FoundBreakGlass:
		j.granted = ReasonOKBreakglass
	case FoundOpened:
		s.requireApproval(j, ReasonApprovalRequired)
	case FoundPending:
		s.requireApproval(j, ReasonApprovalPending)
	default:
		s.denyApproval(j, j.found.Found)
	}
}

func (s *Service) denyApproval(j *judgment, found ApprovalFound) {
	reason := ReasonInternalError
	switch found {
	case FoundDenied:
		reason = ReasonApprovalDenied
	case FoundExpired:
		reason = ReasonApprovalExpired
	case FoundConsumed:
		reason = ReasonApprovalConsumed
	case FoundMismatch:
		reason = ReasonApprovalBindingMismatch
	case FoundGrantExhausted:
		reason = ReasonGrantExhausted
	case FoundQuota:
		reason = ReasonApprovalQuota
	case FoundUnshowable:
		s.deny(j, ReasonParametersUnavailable, j.verdict.Matched)
		j.dec.Message = "A human must approve this call, and it has more or longer members than one can be shown; send fewer."
		return
	case FoundNone, FoundOpened, FoundPending, FoundApproved, FoundGranted, FoundBreakGlass:
		// No answer to what was asked: the store contradicts itself.
	}
	s.deny(j, reason, j.verdict.Matched)
}

func (s *Service) requireApproval(j *judgment, r Reason) {
	s.settle(j, RequireApproval, r, j.verdict.Matched)
	a := &Approval{
		ID: j.found.ID, Digest: j.ask.Digest, ExpiresAt: j.found.ExpiresAt,
		Rules: make([]ApprovalRequirement, 0, len(j.verdict.Requirements)),
	}
	if j.found.ID != "" {
		a.State = ApprovalPending
	}
	for i := range j.verdict.Requirements {
		r := &j.verdict.Requirements[i]
		a.Rules = append(a.Rules, ApprovalRequirement{Rule: r.Rule, Groups: r.Groups, Quorum: r.Quorum})
	}
	j.dec.Approval = a
}

// consumeApproval uses the approval after the limits were charged, so that a
// call that a limit refuses does not burn it. Whoever loses the race for it
// gets the charges back.
func (s *Service) consumeApproval(ctx context.Context, j *judgment) error {
	if j.granted == ReasonOK || j.req.DryRun {
		return nil
	}
	used, err := s.cfg.Approvals.Consume(ctx, &j.ask, j.found)
	switch {
	case err != nil:
		s.refund(ctx, j)
		return s.approvalsDown(ctx, j, err)
	case used.Found == FoundApproved || used.Found == FoundGranted || used.Found == FoundBreakGlass:
		return nil
	case used.Found == FoundPending:
		// The store does not trust that the yes is unused, and asks again.
		s.refund(ctx, j)
		s.requireApproval(j, ReasonApprovalPending)
		return nil
	default:
		s.refund(ctx, j)
		s.denyApproval(j, used.Found)
		return nil
	}
}
