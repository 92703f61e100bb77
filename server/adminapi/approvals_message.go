package adminapi

import (
	"errors"
	"fmt"
	"strings"

	"buf.build/go/protovalidate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	approvalv1 "github.com/kelpie-authz/kelpie/gen/kelpie/approval/v1"
	"github.com/kelpie-authz/kelpie/pdp"
)

// listed is an approval without what a list has no room for: with a thousand of
// them an answer would be larger than clients take.
func listed(r *pdp.ApprovalRecord) *approvalv1.Approval {
	out := approvalOf(r)
	out.Details, out.Recent = nil, ""
	for _, need := range out.GetRequirements() {
		need.Approvers = nil
	}
	return out
}

// approvalOf is a record as the API has it.
func approvalOf(r *pdp.ApprovalRecord) *approvalv1.Approval {
	out := &approvalv1.Approval{
		Id: text(r.ID), Digest: text(r.Digest), State: stateOf(r.State), Version: r.Version,
		Agent: text(r.Agent), Owner: text(r.Owner), Subject: text(r.Subject), Action: text(r.Action), Resource: text(r.Resource),
		Risk: text(r.Risk), Gateway: text(r.Gateway), DecisionId: text(r.DecisionID), PolicyVersion: text(r.PolicyVersion),
		Recent: text(r.Recent), OpenedAt: timestamp(r.OpenedAt), ExpiresAt: timestamp(r.ExpiresAt), EndedAt: timestamp(r.EndedAt),
		EndedBy: text(r.EndedBy), Why: text(r.Why), UsedBy: text(r.UsedBy), Partial: r.Partial, Masked: r.Masked,
	}
	if g := r.Grant; g != nil {
		out.Grant = &approvalv1.StandingGrant{From: text(g.From), Resource: text(g.Resource), MaxCost: g.MaxCost, MaxUses: count(g.MaxUses), Uses: count(g.Uses)}
		if glass := g.BreakGlass; glass != nil {
			out.Grant.BreakGlass = &approvalv1.BreakGlassState{
				Action: text(glass.Action), Reason: text(glass.Reason), Ticket: text(glass.Ticket), ReviewedBy: text(glass.ReviewedBy), Review: text(glass.Review),
				ReviewedAt: timestamp(glass.ReviewedAt), ReviewBy: timestamp(glass.ReviewBy),
			}
		}
		for _, b := range g.Bounds {
			out.Grant.Bounds = append(out.Grant.Bounds, &approvalv1.Bound{Name: text(b.Name), Any: b.Any, Min: b.Min, Max: b.Max})
		}
	}
	for i := range r.Details {
		d := &r.Details[i]
		out.Details = append(out.Details, &approvalv1.Detail{Name: text(d.Name), Value: text(d.Value), Unverified: d.Unverified})
	}
	for i := range r.Requirements {
		n := &r.Requirements[i]
		out.Requirements = append(out.Requirements, &approvalv1.Requirement{
			Rule: text(n.Rule), Groups: texts(n.Groups), Quorum: count(n.Quorum), Yes: count(n.Yes), Approvers: texts(n.Approvers),
		})
	}
	for i := range r.Votes {
		v := &r.Votes[i]
		out.Votes = append(out.Votes, &approvalv1.Vote{
			Voter: text(v.Voter), Yes: v.Yes, Rule: text(v.Rule), Reason: text(v.Reason), At: timestamp(v.At),
		})
	}
	return out
}

// standingOf reads what a yes allows besides; nil: nothing.
func standingOf(in *approvalv1.Standing) (*pdp.StandingTerms, error) {
	if in == nil {
		return nil, nil //nolint:nilnil // There is none.
	}
	if w := in.GetWithin(); w != nil && (!w.IsValid() || w.AsDuration() <= 0) {
		return nil, status.Error(codes.InvalidArgument, "standing.within is no duration; write one such as 1h, or leave it out")
	}
	terms := &pdp.StandingTerms{Uses: int(in.GetUses()), Within: in.GetWithin().AsDuration(), Resource: in.GetResource(), MaxCost: in.GetMaxCost()}
	for _, b := range in.GetBounds() {
		terms.Bounds = append(terms.Bounds, pdp.GrantBound{Name: b.GetName(), Any: b.GetAny(), Min: b.Min, Max: b.Max})
	}
	return terms, nil
}

// stateOf converts by number, which a test holds; a state that the wire has no
// word for is not told.
func stateOf(s pdp.ApprovalState) approvalv1.ApprovalState {
	if _, known := approvalv1.ApprovalState_name[int32(s)]; !known {
		return approvalv1.ApprovalState_APPROVAL_STATE_UNSPECIFIED
	}
	return approvalv1.ApprovalState(s)
}

// text is what protobuf takes for one: an answer with other bytes would not be
// sent at all.
func text(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

func texts(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = text(s)
	}
	return out
}

// checkRequest refuses a request that says more than this build knows, since it
// could mean something else, and one that breaks the rules of its fields.
func checkRequest(in proto.Message) error {
	if raw := in.ProtoReflect().GetUnknown(); len(raw) > 0 {
		number, _, _ := protowire.ConsumeTag(raw)
		return status.Error(codes.Unimplemented, fmt.Sprintf("field %d is not known to this build; leave it out", number))
	}
	err := protovalidate.Validate(in)
	var refused *protovalidate.ValidationError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused) && len(refused.Violations) > 0:
		return status.Error(codes.InvalidArgument, violation(refused.Violations[0]))
	default:
		return status.Error(codes.Internal, "the request could not be checked")
	}
}

// violation says what is wrong with a field, and what to do.
func violation(v *protovalidate.Violation) string {
	field := protovalidate.FieldPathString(v.Proto.GetField())
	switch v.Proto.GetRuleId() {
	case "string.min_bytes":
		return field + " is missing; write it"
	case "string.max_bytes":
		return fmt.Sprintf("%s is longer than %v bytes; shorten it", field, v.RuleValue)
	case "uint32.lte":
		return fmt.Sprintf("%s is above %v; write less", field, v.RuleValue)
	case "enum.defined_only":
		return field + " is unknown; write one that an approval can have, or leave it out"
	default:
		return field + ": " + v.Proto.GetMessage()
	}
}
