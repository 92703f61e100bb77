package pdp

import (
	"context"
	"errors"

	"github.com/kelpie-authz/kelpie/store"
)

// Find implements [Approvals].
func (d *Desk) Find(ctx context.Context, ask *ApprovalAsk) (ApprovalStatus, error) {
	if ask.ID != "" && !isApprovalID(ask.ID) {
		return ApprovalStatus{Found: FoundMismatch}, nil
	}
	v, err := d.view()
	if err != nil {
		return ApprovalStatus{}, err
	}
	s, err := d.find(ctx, ask, &v)
	if err != nil || s.Found != FoundNone && s.Found != FoundPending {
		return s, err
	}
	// Nobody has to be waited for where a standing grant allows the call, whether or
	// not it names its own approval.
	g, err := d.granted(ctx, ask, &v)
	if err != nil || g == nil {
		return s, err
	}
	found := FoundGranted
	if g.Grant.BreakGlass != nil {
		found = FoundBreakGlass
	}
	return ApprovalStatus{Found: found, ID: g.ID, ExpiresAt: g.UseBy}, nil
}

// find finds the approval of a call.
func (d *Desk) find(ctx context.Context, ask *ApprovalAsk, v *view) (ApprovalStatus, error) {
	a, err := d.named(ctx, ask)
	if errors.Is(err, store.ErrNotFound) {
		return nothingFor(ask), nil
	}
	if err != nil {
		return ApprovalStatus{}, err
	}
	if ask.ID != "" && !sameCaller(a, ask) {
		// Another's approval is left as it is, and nothing is told of it.
		return ApprovalStatus{Found: FoundMismatch}, nil
	}
	write := ask.Request == nil || !ask.Request.DryRun
	a, err = d.bring(ctx, a, v, write)
	if err == nil {
		a, err = d.confirmed(ctx, a, ask, v, write)
	}
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nothingFor(ask), nil
	case err != nil:
		return ApprovalStatus{}, err
	case ask.ID != "":
		return d.foundByID(a, ask, v), nil
	default:
		return d.foundByCall(a, ask, v), nil
	}
}

func (d *Desk) named(ctx context.Context, ask *ApprovalAsk) (*store.Approval, error) {
	if ask.ID != "" {
		return d.cfg.Store.Get(ctx, ask.ID)
	}
	return d.cfg.Store.ByDigest(ctx, ask.Digest)
}

// nothingFor is the answer where there is no approval.
func nothingFor(ask *ApprovalAsk) ApprovalStatus {
	if ask.ID != "" {
		return ApprovalStatus{Found: FoundMismatch}
	}
	return ApprovalStatus{Found: FoundNone}
}

// sameCaller tells whether the approval is of the one who asks, for what he
// asks. The digest says the rest.
func sameCaller(a *store.Approval, ask *ApprovalAsk) bool {
	call := ask.Request
	return a.Agent == ask.Agent && a.Subject == ask.Subject &&
		(call == nil || a.Action == call.Action && a.Resource == call.Resource)
}

// foundByID answers for the approval that the call names, whatever became of it.
func (d *Desk) foundByID(a *store.Approval, ask *ApprovalAsk, v *view) ApprovalStatus {
	s := statusOf(a)
	switch {
	case a.Digest != ask.Digest && a.State == store.Superseded:
		// The rules are part of the digest: one asked under others is told by what
		// became of it.
	case a.Digest != ask.Digest:
		return ApprovalStatus{Found: FoundMismatch}
	case d.retried(a, ask, v):
		s.Found = FoundApproved
	}
	return s
}

// foundByCall answers for the newest approval of exactly this call. One that
// has ended is none, save that a no holds for a while.
func (d *Desk) foundByCall(a *store.Approval, ask *ApprovalAsk, v *view) ApprovalStatus {
	s := statusOf(a)
	switch a.State {
	case store.Pending, store.Approved:
		return s
	case store.Denied:
		if until := a.EndedAt.Add(deniedFor); v.now.Before(until) {
			s.ExpiresAt = until
			return s
		}
	case store.Consumed:
		if d.retried(a, ask, v) {
			s.Found = FoundApproved
			return s
		}
	case store.Expired, store.Cancelled, store.Superseded, store.Revoked:
	}
	return ApprovalStatus{Found: FoundNone}
}

// statusOf is the answer for an approval that was brought to where it stands.
func statusOf(a *store.Approval) ApprovalStatus {
	s := ApprovalStatus{ID: a.ID, ExpiresAt: deadlineOf(a)}
	switch a.State {
	case store.Pending:
		s.Found = FoundPending
	case store.Approved:
		s.Found = FoundApproved
	case store.Consumed:
		s.Found = FoundConsumed
	case store.Expired:
		s.Found = FoundExpired
	case store.Denied, store.Cancelled, store.Superseded, store.Revoked:
		s.Found = FoundDenied
	default:
		// A state of a later release: nothing that anybody may go by.
		s.Found = FoundMismatch
	}
	return s
}

// confirmed looks again at whether every yes of an approved one counts by the
// requirements of this call. If not, the humans are asked again.
func (d *Desk) confirmed(ctx context.Context, a *store.Approval, ask *ApprovalAsk, v *view, write bool) (*store.Approval, error) {
	if a.State != store.Approved || a.Digest != ask.Digest {
		return a, nil
	}
	e := electorateOf(a, ask.Requirements, v.verified)
	e.risk = ask.Risk // Its scope may say more of it than it did when it was asked.
	kept, met := e.count(a.Votes)
	if met {
		return a, nil
	}
	next := v.reopened(a, kept, "a yes does not count any more")
	next.Risk = ask.Risk
	if !write {
		return next, nil
	}
	if err := d.swap(ctx, next, v.now, eventOf(next)); err != nil {
		if again(err) {
			return d.load(ctx, a.ID, v)
		}
		return nil, err
	}
	return next, nil
}

// Open implements [Approvals].
func (d *Desk) Open(ctx context.Context, ask *ApprovalAsk) (ApprovalStatus, error) {
	v, err := d.view()
	if err != nil {
		return ApprovalStatus{}, err
	}
	a, err := d.asked(ask, &v)
	if errors.Is(err, errUnshowable) {
		return ApprovalStatus{Found: FoundUnshowable}, nil
	}
	if err != nil {
		return ApprovalStatus{}, err
	}
	found, opened, err := d.cfg.Store.Open(ctx, a, store.OpenLimits{
		Pending: maxPendingApprovals, Hourly: maxHourlyApprovals, Span: hourlySpan, Denied: deniedFor, Now: v.now,
	})
	switch {
	case errors.Is(err, store.ErrQuota):
		return ApprovalStatus{Found: FoundQuota}, nil
	case err != nil:
		return ApprovalStatus{}, err
	case opened:
		if err := d.happened(ctx, found, v.now, &ApprovalEvent{Kind: ApprovalOpened}); err != nil {
			return ApprovalStatus{}, err
		}
		return ApprovalStatus{Found: FoundOpened, ID: found.ID, ExpiresAt: found.ExpiresAt}, nil
	}
	// Somebody was faster.
	if found, err = d.bring(ctx, found, &v, true); err == nil {
		found, err = d.confirmed(ctx, found, ask, &v, true)
	}
	if err != nil {
		return ApprovalStatus{}, err
	}
	return statusOf(found), nil
}

// asked is the new approval of a call.
func (d *Desk) asked(ask *ApprovalAsk, v *view) (*store.Approval, error) {
	id := d.cfg.NewID()
	shown, err := shownOf(ask, id)
	if err != nil {
		return nil, err
	}
	a := &store.Approval{
		ID: id, Digest: ask.Digest, State: store.Pending,
		Agent: ask.Agent, Subject: ask.Subject, Risk: ask.Risk, DecisionID: ask.DecisionID, PolicyVersion: ask.PolicyVersion,
		Shown: shown, OpenedAt: v.now, ExpiresAt: v.now.Add(ask.Expires), UseWithin: ask.UseWithin,
	}
	if call := ask.Request; call != nil {
		a.Action, a.Resource, a.Gateway = call.Action, call.Resource, call.Gateway
	}
	for i := range ask.Requirements {
		r := &ask.Requirements[i]
		a.Requirements = append(a.Requirements, store.Requirement{Rule: r.Rule, Version: r.Version, Groups: r.Groups, Quorum: r.Quorum})
	}
	return a, nil
}

// Consume implements [Approvals].
func (d *Desk) Consume(ctx context.Context, ask *ApprovalAsk, found ApprovalStatus) (ApprovalStatus, error) {
	if found.Found == FoundGranted || found.Found == FoundBreakGlass {
		return d.consumeGrant(ctx, ask, found.ID)
	}
	for range swapTries {
		s, err := d.consume(ctx, ask, found.ID)
		switch {
		case err == nil:
			return s, nil
		case errors.Is(err, store.ErrNotFound):
			return ApprovalStatus{Found: FoundMismatch}, nil
		case !again(err):
			return ApprovalStatus{}, err
		}
	}
	return ApprovalStatus{}, errBusy
}

// consume tries once. The clock and the policy are looked at anew: the limits
// may have taken a while.
func (d *Desk) consume(ctx context.Context, ask *ApprovalAsk, id string) (ApprovalStatus, error) {
	v, err := d.view()
	if err != nil {
		return ApprovalStatus{}, err
	}
	a, err := d.load(ctx, id, &v)
	if err != nil {
		return ApprovalStatus{}, err
	}
	if !sameCaller(a, ask) {
		return ApprovalStatus{Found: FoundMismatch}, nil
	}
	if a, err = d.confirmed(ctx, a, ask, &v, true); err != nil {
		return ApprovalStatus{}, err
	}
	s := d.foundByID(a, ask, &v)
	if s.Found != FoundApproved || a.State != store.Approved {
		return s, nil
	}
	next := v.ended(a, store.Consumed, "", "")
	next.Used = &store.Use{DecisionID: ask.DecisionID, At: v.now}
	if call := ask.Request; call != nil {
		next.Used.Gateway, next.Used.RequestID = call.Gateway, call.RequestID
	}
	return s, d.swap(ctx, next, v.now, eventOf(next))
}

// retried tells whether the call is the one that used the approval, sent again
// by a gateway that may.
func (d *Desk) retried(a *store.Approval, ask *ApprovalAsk, v *view) bool {
	call, used := ask.Request, a.Used
	if d.cfg.MayRetry == nil || call == nil || used == nil || a.State != store.Consumed || a.Digest != ask.Digest {
		return false
	}
	return call.RequestID != "" && call.RequestID == used.RequestID &&
		call.Gateway != "" && call.Gateway == used.Gateway &&
		v.now.Before(used.At.Add(retryWindow)) && d.cfg.MayRetry(call.Gateway)
}
