package grpcapi

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
	"github.com/kelpie-authz/kelpie/pdp"
)

// Settle says what an allowed call cost in the end.
func (a *API) Settle(ctx context.Context, in *authzv1.SettleRequest) (*authzv1.SettleResponse, error) {
	gateway, err := a.cfg.Standing(ctx)
	if err != nil {
		return nil, err
	}
	if f := unknownField(in, ""); f != nil {
		return nil, a.refuse(f)
	}
	if in.Actual == nil {
		// A forgotten field must not give the whole cost back.
		return nil, a.refuse(malformed("actual", "is missing; write what the call cost, 0 if nothing"))
	}
	got, err := a.cfg.Decider.Settle(ctx, gateway, in.GetDecisionId(), in.GetActual())
	if err != nil {
		return nil, a.mapSettleError(err)
	}
	return &authzv1.SettleResponse{
		Estimated: got.Estimated, Actual: got.Actual, Limits: changesOf(got.Limits), Already: got.Already,
	}, nil
}

// Release says that an allowed call is over.
func (a *API) Release(ctx context.Context, in *authzv1.ReleaseRequest) (*authzv1.ReleaseResponse, error) {
	gateway, err := a.cfg.Standing(ctx)
	if err != nil {
		return nil, err
	}
	if f := unknownField(in, ""); f != nil {
		return nil, a.refuse(f)
	}
	got, err := a.cfg.Decider.Release(ctx, gateway, in.GetDecisionId())
	if err != nil {
		return nil, a.mapSettleError(err)
	}
	return &authzv1.ReleaseResponse{Limits: changesOf(got.Limits), Already: got.Already}, nil
}

func changesOf(list []pdp.LimitChange) []*authzv1.LimitChange {
	var out []*authzv1.LimitChange
	for _, c := range list {
		out = append(out, &authzv1.LimitChange{Name: c.Name, GivenBack: c.GivenBack, Charged: c.Charged})
	}
	return out
}

// mapSettleError words what pdp says when it settled or released nothing.
func (a *API) mapSettleError(err error) error {
	var invalid *pdp.InvalidError
	var settled *pdp.SettledError
	switch {
	case errors.As(err, &invalid):
		return a.mapError(err, "")
	case errors.As(err, &settled):
		return status.Error(codes.FailedPrecondition, settled.Error())
	case errors.Is(err, pdp.ErrNotKept):
		return status.Error(codes.NotFound, pdp.ErrNotKept.Error())
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	default:
		return status.Error(codes.Unavailable,
			"it is not known what was done: something that it needs cannot be asked; send the same again, nothing is done twice")
	}
}
