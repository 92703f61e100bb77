package grpcapi

import (
	"math"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
	"github.com/kelpie-authz/kelpie/pdp"
)

// Most answers hold no more than these; they come in one piece of memory.
const (
	fewRules  = 2
	fewLimits = 3
)

// answer is a response with room for what it usually holds.
type answer struct {
	response   authzv1.AuthorizeResponse
	rules      [fewRules]string
	limits     [fewLimits]authzv1.LimitStatus
	limitPtrs  [fewLimits]*authzv1.LimitStatus
	resets     [fewLimits]durationpb.Duration
	retryAfter durationpb.Duration
}

func newAnswer() *answer { return new(answer) }

// fill copies the decision, whose slices are reused, into the fresh answer.
func (a *answer) fill(d *pdp.Decision) {
	r := &a.response
	r.Decision = decisionOf(d.Verdict)
	r.Reason = reasonOf(d.Reason)
	r.Message = d.Message
	r.DecisionId = d.ID
	r.PolicyVersion = d.PolicyVersion
	r.RequestId = d.RequestID
	r.Matched = append(a.rules[:0], d.Matched...)
	r.NextAction = nextOf(d.Next)
	if d.RetryAfter > 0 {
		setDuration(&a.retryAfter, d.RetryAfter)
		r.RetryAfter = &a.retryAfter
	}
	a.fillLimits(d.Limits)
	r.RequiredScopes = slices.Clone(d.RequiredScopes)
	r.Warnings = slices.Clone(d.Warnings)
	for _, s := range d.Shadow {
		r.Shadow = append(r.Shadow, &authzv1.ShadowOutcome{
			Rule: s.Rule, Decision: decisionOf(s.Verdict), Reason: reasonOf(s.Reason),
		})
	}
	r.WouldBe = decisionOf(d.WouldBe)
	if d.Approval != nil {
		r.Approval = approvalOf(d.Approval)
	}
}

func (a *answer) fillLimits(limits []pdp.LimitStatus) {
	if len(limits) == 0 {
		return
	}
	ptrs := a.limitPtrs[:0]
	for i := range limits {
		in := &limits[i]
		var out *authzv1.LimitStatus
		var reset *durationpb.Duration
		if i < fewLimits {
			out, reset = &a.limits[i], &a.resets[i]
		} else {
			out, reset = new(authzv1.LimitStatus), new(durationpb.Duration)
		}
		setDuration(reset, in.Reset)
		out.Name, out.Limit, out.Remaining, out.Reset_ = in.Name, wireCount(in.Limit), wireCount(in.Remaining), reset
		ptrs = append(ptrs, out)
	}
	a.response.Limits = ptrs
}

func approvalOf(a *pdp.Approval) *authzv1.Approval {
	out := &authzv1.Approval{Id: a.ID, State: approvalStateOf(a.State), Digest: a.Digest}
	if !a.ExpiresAt.IsZero() {
		out.ExpiresAt = timestamppb.New(a.ExpiresAt)
	}
	for i := range a.Rules {
		rule := &a.Rules[i]
		out.Requirements = append(out.Requirements, &authzv1.ApprovalRequirement{
			Rule: rule.Rule, Groups: slices.Clone(rule.Groups), Quorum: uint32(min(max(rule.Quorum, 0), math.MaxUint32)),
		})
	}
	return out
}

// What this build does not know becomes UNSPECIFIED, which clients take for a
// DENY.

func decisionOf(v pdp.Verdict) authzv1.Decision {
	if v > pdp.RequireApproval {
		return authzv1.Decision_DECISION_UNSPECIFIED
	}
	return authzv1.Decision(v)
}

func nextOf(n pdp.NextAction) authzv1.NextAction {
	if n > pdp.NextWait {
		return authzv1.NextAction_NEXT_ACTION_UNSPECIFIED
	}
	return authzv1.NextAction(n)
}

func approvalStateOf(s pdp.ApprovalState) authzv1.ApprovalState {
	if s > pdp.ApprovalConsumed {
		return authzv1.ApprovalState_APPROVAL_STATE_UNSPECIFIED
	}
	return authzv1.ApprovalState(s)
}

func outcomeOf(o pdp.CheckOutcome) authzv1.CheckOutcome {
	if o > pdp.CheckSkipped {
		return authzv1.CheckOutcome_CHECK_OUTCOME_UNSPECIFIED
	}
	return authzv1.CheckOutcome(o)
}

// reasons is the enum by the names that the core uses.
//
//nolint:gochecknoglobals // A constant table; Go has no constant maps.
var reasons = func() map[pdp.Reason]authzv1.Reason {
	byName := make(map[pdp.Reason]authzv1.Reason, len(authzv1.Reason_value))
	for name, number := range authzv1.Reason_value {
		if number != 0 {
			byName[pdp.Reason(strings.ToLower(strings.TrimPrefix(name, "REASON_")))] = authzv1.Reason(number)
		}
	}
	return byName
}()

func reasonOf(r pdp.Reason) authzv1.Reason { return reasons[r] }

// wireCount is for counts, which are never negative.
func wireCount(n int64) int64 { return max(n, 0) }

func setDuration(out *durationpb.Duration, d time.Duration) {
	out.Seconds, out.Nanos = int64(d/time.Second), int32(d%time.Second)
}
