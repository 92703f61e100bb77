package adminapi

import (
	"context"
	"errors"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	approvalv1 "github.com/kelpie-authz/kelpie/gen/kelpie/approval/v1"
	"github.com/kelpie-authz/kelpie/pdp"
)

// Approvals implements approvalv1.ApprovalServiceServer over a desk. It is safe
// for concurrent use if the desk is.
type Approvals struct {
	approvalv1.UnimplementedApprovalServiceServer

	// Draining ends every Watch once it is closed. Set it before the service is
	// registered; nil: each lasts until its caller ends it.
	Draining <-chan struct{}

	desk   pdp.ApprovalDesk
	person func(context.Context) (pdp.Person, error)
}

// NewApprovals returns a service over a desk. Person says who the caller is; it
// is asked for each call, behind the listener's own credential. An error of it
// that is no gRPC status is UNAUTHENTICATED with its text. Of a local admin the
// name is left out: the request has it.
//
// Nil desk: every RPC is UNIMPLEMENTED. Nil person: nobody is known, and every
// RPC is UNAUTHENTICATED.
func NewApprovals(desk pdp.ApprovalDesk, person func(context.Context) (pdp.Person, error)) *Approvals {
	return &Approvals{desk: desk, person: person}
}

// LocalAdmin is the person behind each call of a listener that the admin token
// alone opens.
func LocalAdmin(context.Context) (pdp.Person, error) { return pdp.Person{How: pdp.LocalAdmin}, nil }

// List implements approvalv1.ApprovalServiceServer.
func (a *Approvals) List(ctx context.Context, in *approvalv1.ListRequest) (*approvalv1.ListResponse, error) {
	if _, err := a.caller(ctx, in); err != nil {
		return nil, err
	}
	list, next, err := a.desk.List(ctx, pdp.ApprovalFilter{
		All: in.GetAll(), State: pdp.ApprovalState(in.GetState()), //nolint:gosec // A state that was checked to be one.
		Agent: in.GetAgent(), Limit: int(in.GetLimit()), After: in.GetAfter(),
	})
	if err != nil {
		return nil, approvalError(err)
	}
	out := &approvalv1.ListResponse{Next: next, Approvals: make([]*approvalv1.Approval, len(list))}
	for i := range list {
		out.Approvals[i] = listed(&list[i])
	}
	return out, nil
}

// Get implements approvalv1.ApprovalServiceServer.
func (a *Approvals) Get(ctx context.Context, in *approvalv1.GetRequest) (*approvalv1.GetResponse, error) {
	if _, err := a.caller(ctx, in); err != nil {
		return nil, err
	}
	r, err := a.desk.Get(ctx, in.GetId())
	if err != nil {
		return nil, approvalError(err)
	}
	return &approvalv1.GetResponse{Approval: approvalOf(r)}, nil
}

// Approve implements approvalv1.ApprovalServiceServer.
func (a *Approvals) Approve(ctx context.Context, in *approvalv1.ApproveRequest) (*approvalv1.ApproveResponse, error) {
	terms, err := standingOf(in.GetStanding())
	if err != nil {
		return nil, err
	}
	r, err := a.cast(ctx, in, &pdp.Ballot{VoteID: in.GetVoteId(), Standing: terms}, pdp.ApprovalDesk.Approve)
	if err != nil {
		return nil, err
	}
	out := &approvalv1.ApproveResponse{Approval: approvalOf(r)}
	if terms != nil {
		out.Standing = text(terms.Made)
	}
	return out, nil
}

// Deny implements approvalv1.ApprovalServiceServer.
func (a *Approvals) Deny(ctx context.Context, in *approvalv1.DenyRequest) (*approvalv1.DenyResponse, error) {
	r, err := a.cast(ctx, in, &pdp.Ballot{VoteID: in.GetVoteId()}, pdp.ApprovalDesk.Deny)
	if err != nil {
		return nil, err
	}
	return &approvalv1.DenyResponse{Approval: approvalOf(r)}, nil
}

// Cancel implements approvalv1.ApprovalServiceServer.
func (a *Approvals) Cancel(ctx context.Context, in *approvalv1.CancelRequest) (*approvalv1.CancelResponse, error) {
	r, err := a.cast(ctx, in, &pdp.Ballot{}, pdp.ApprovalDesk.Cancel)
	if err != nil {
		return nil, err
	}
	return &approvalv1.CancelResponse{Approval: approvalOf(r)}, nil
}

// BreakGlass implements approvalv1.ApprovalServiceServer.
func (a *Approvals) BreakGlass(ctx context.Context, in *approvalv1.BreakGlassRequest) (*approvalv1.BreakGlassResponse, error) {
	p, err := a.caller(ctx, in)
	if err != nil {
		return nil, err
	}
	if w := in.GetWithin(); w != nil && (!w.IsValid() || w.AsDuration() <= 0) {
		return nil, status.Error(codes.InvalidArgument, "within is no duration; write one such as 15m, or leave it out")
	}
	r, err := a.desk.BreakGlass(ctx, &pdp.BreakGlassOrder{
		Person: p, Agent: in.GetAgent(), Action: in.GetAction(), Resource: in.GetResource(), Within: in.GetWithin().AsDuration(),
		Reason: in.GetReason(), Ticket: in.GetTicket(),
	})
	if err != nil {
		return nil, approvalError(err)
	}
	return &approvalv1.BreakGlassResponse{Approval: approvalOf(r)}, nil
}

// ReviewBreakGlass implements approvalv1.ApprovalServiceServer.
func (a *Approvals) ReviewBreakGlass(
	ctx context.Context, in *approvalv1.ReviewBreakGlassRequest,
) (*approvalv1.ReviewBreakGlassResponse, error) {
	p, err := a.caller(ctx, in)
	if err != nil {
		return nil, err
	}
	if p.Local() {
		return nil, status.Error(codes.PermissionDenied, "the admin token does not say who has it; an emergency is reviewed by who is known by a certificate or an identity provider")
	}
	r, err := a.desk.ReviewBreakGlass(ctx, &pdp.Ballot{ApprovalID: in.GetId(), Person: p, Reason: in.GetReason()})
	if err != nil {
		return nil, approvalError(err)
	}
	return &approvalv1.ReviewBreakGlassResponse{Approval: approvalOf(r)}, nil
}

// Watch implements approvalv1.ApprovalServiceServer.
func (a *Approvals) Watch(in *approvalv1.WatchRequest, stream approvalv1.ApprovalService_WatchServer) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	if _, err := a.caller(ctx, in); err != nil {
		return err
	}
	defer a.endWith(cancel)()
	var unsent error
	err := a.desk.Watch(ctx, func(r *pdp.ApprovalRecord) bool {
		if in.GetAgent() == "" || in.GetAgent() == r.Agent {
			unsent = stream.Send(&approvalv1.WatchResponse{Approval: approvalOf(r)})
		}
		return unsent == nil
	})
	switch {
	case unsent != nil:
		return unsent //nolint:wrapcheck // It is a gRPC status already.
	case stream.Context().Err() == nil && ctx.Err() != nil:
		return status.Error(codes.Unavailable, "the server is stopping; watch again")
	case err == nil:
		return nil
	default:
		return approvalError(err)
	}
}

// endWith calls cancel at a drain, unless what it returns is called before.
func (a *Approvals) endWith(cancel context.CancelFunc) (stop func()) {
	ended, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-a.Draining:
			cancel()
		case <-ended:
		}
	}()
	return func() {
		close(ended)
		<-done
	}
}

// word is what the requests that say something have in common.
type word interface {
	proto.Message
	GetId() string
	GetAs() string
	GetReason() string
}

// cast hands one word to the desk.
func (a *Approvals) cast(
	ctx context.Context, in word, ballot *pdp.Ballot,
	say func(pdp.ApprovalDesk, context.Context, *pdp.Ballot) (*pdp.ApprovalRecord, error),
) (*pdp.ApprovalRecord, error) {
	p, err := a.caller(ctx, in)
	if err != nil {
		return nil, err
	}
	if p, err = named(p, in.GetAs()); err != nil {
		return nil, err
	}
	ballot.ApprovalID, ballot.Person, ballot.Reason = in.GetId(), p, in.GetReason()
	r, err := say(a.desk, ctx, ballot)
	if err != nil {
		return nil, approvalError(err)
	}
	return r, nil
}

// caller is who asks. It refuses what this build cannot do and what is malformed.
func (a *Approvals) caller(ctx context.Context, in proto.Message) (pdp.Person, error) {
	if a.desk == nil {
		return pdp.Person{}, status.Error(codes.Unimplemented, "this server keeps no approvals")
	}
	if a.person == nil {
		return pdp.Person{}, status.Error(codes.Unauthenticated, "this server knows no approvers")
	}
	p, err := a.person(ctx)
	if err == nil && p.How == "" {
		err = errors.New("it is not known who you are")
	}
	if err != nil {
		if _, ok := status.FromError(err); !ok {
			err = status.Error(codes.Unauthenticated, err.Error())
		}
		return pdp.Person{}, err
	}
	return p, checkRequest(in)
}

// named gives a local admin the name that he says, and nobody else another one.
func named(p pdp.Person, as string) (pdp.Person, error) {
	switch {
	case p.Local() && as == "":
		return p, status.Error(codes.InvalidArgument, "as is missing: the admin token does not say who decides; write the name, as the policy's approvers have it")
	case p.Local():
		p.Name = as
	case as != "":
		return p, status.Errorf(codes.InvalidArgument, "as is given, and you are known as %s; leave it out", p.Name)
	}
	return p, nil
}

// approvalError translates what a desk says.
func approvalError(err error) error {
	// What could not be recorded besides is another line, and in the server's log.
	text, _, _ := strings.Cut(err.Error(), "\n")
	var invalid *pdp.InvalidError
	switch {
	case errors.As(err, &invalid):
		why := invalid.Why
		if rest, ok := strings.CutPrefix(why, "person "); ok {
			why = "as " + rest // The wire's name of it.
		}
		return status.Error(codes.InvalidArgument, why)
	case errors.Is(err, pdp.ErrNoSuchApproval):
		return status.Error(codes.NotFound, pdp.ErrNoSuchApproval.Error()+"; see `kelpie approvals list --all`")
	case errors.Is(err, pdp.ErrApprovalDecided):
		return status.Error(codes.FailedPrecondition, text)
	case errors.Is(err, pdp.ErrNotEligible):
		return status.Error(codes.PermissionDenied, text)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	case errors.Is(err, pdp.ErrNoPolicy):
		return status.Error(codes.Unavailable, "no policy is loaded yet; try again")
	case errors.Is(err, pdp.ErrUnrecorded):
		return status.Error(codes.Unavailable, "it could not be recorded; see how the approval stands, and try again: "+text)
	default:
		return status.Error(codes.Unavailable, "the approvals cannot be asked now; try again: "+text)
	}
}
