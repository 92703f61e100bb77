package cli

import (
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
	"github.com/kelpie-authz/kelpie/pdp"
)

// The enums of pdp stand in the order of the wire's, which a test checks, so
// that they convert by number.

// fromProto is the call as pdp takes it.
func fromProto(req *authzv1.AuthorizeRequest) *pdp.Request {
	out := &pdp.Request{
		Agent: req.GetAgent(), Action: req.GetAction(), Resource: req.GetResource(), SourceIP: req.GetSourceIp(),
		RequestID: req.GetRequestId(), Subject: req.GetSubject(), SessionID: req.GetSessionId(), RunID: req.GetRunId(),
		Tool:           pdp.Tool{Server: req.GetTool().GetServer(), Name: req.GetTool().GetName()},
		ParametersJSON: req.GetParametersJson(),
		Cost:           req.GetCost(), DryRun: req.GetDryRun(),
		Gateway: "kelpie",
	}
	out.ParametersState = pdp.ParametersState(req.GetParametersState()) //nolint:gosec // Made by this package: in range.
	if req.GetContext() != nil {
		out.Context = req.GetContext().AsMap()
	}
	return out
}

// decisionToProto is the answer as the API has it.
func decisionToProto(d *pdp.Decision) *authzv1.AuthorizeResponse {
	resp := &authzv1.AuthorizeResponse{
		Decision: authzv1.Decision(d.Verdict), Reason: reasonToProto(d.Reason), Message: d.Message, DecisionId: d.ID,
		PolicyVersion: d.PolicyVersion, Matched: d.Matched, NextAction: authzv1.NextAction(d.Next),
		RequiredScopes: d.RequiredScopes, Warnings: d.Warnings, WouldBe: authzv1.Decision(d.WouldBe),
		RequestId: d.RequestID, Approval: approvalToProto(d.Approval),
	}
	if d.RetryAfter > 0 {
		resp.RetryAfter = durationpb.New(d.RetryAfter)
	}
	for _, l := range d.Limits {
		status := &authzv1.LimitStatus{Name: l.Name, Limit: l.Limit, Remaining: l.Remaining}
		if l.Reset > 0 {
			status.Reset_ = durationpb.New(l.Reset)
		}
		resp.Limits = append(resp.Limits, status)
	}
	for _, s := range d.Shadow {
		resp.Shadow = append(resp.Shadow, &authzv1.ShadowOutcome{
			Rule: s.Rule, Decision: authzv1.Decision(s.Verdict), Reason: reasonToProto(s.Reason),
		})
	}
	return resp
}

func approvalToProto(a *pdp.Approval) *authzv1.Approval {
	if a == nil {
		return nil
	}
	out := &authzv1.Approval{Id: a.ID, State: authzv1.ApprovalState(a.State), Digest: a.Digest}
	if a.ExpiresAt != (time.Time{}) {
		out.ExpiresAt = timestamppb.New(a.ExpiresAt)
	}
	for _, r := range a.Rules {
		out.Requirements = append(out.Requirements, &authzv1.ApprovalRequirement{
			Rule: r.Rule, Groups: r.Groups, Quorum: uint32(r.Quorum), //nolint:gosec // A count of people.
		})
	}
	return out
}

func reasonToProto(r pdp.Reason) authzv1.Reason {
	if r == "" {
		return authzv1.Reason_REASON_UNSPECIFIED
	}
	return authzv1.Reason(authzv1.Reason_value["REASON_"+strings.ToUpper(string(r))])
}

func explanationToProto(e *pdp.Explanation) *authzv1.ExplainResponse {
	return &authzv1.ExplainResponse{
		Response: decisionToProto(&e.Decision), Checks: checksToProto(e.Checks), Risk: e.Risk,
	}
}

func checksToProto(checks []pdp.Check) []*authzv1.Check {
	out := make([]*authzv1.Check, len(checks))
	for i, c := range checks {
		out[i] = &authzv1.Check{
			Name: c.Name, Outcome: authzv1.CheckOutcome(c.Outcome), Reason: reasonToProto(c.Reason),
			Rules: c.Rules, Detail: c.Detail,
		}
	}
	return out
}
