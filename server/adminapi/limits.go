package adminapi

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/kelpie-authz/kelpie/gen/kelpie/admin/v1"
	"github.com/kelpie-authz/kelpie/pdp"
)

// Limits shows and resets limits; *pdp.Service does.
type Limits interface {
	ShowLimits(ctx context.Context, agent string) (limits []pdp.AgentLimit, more int, err error)
	ResetLimits(ctx context.Context, agent, limit, as string) (buckets int, err error)
}

// ShowLimits tells how the limits of one agent stand.
func (a *API) ShowLimits(ctx context.Context, in *adminv1.ShowLimitsRequest) (*adminv1.ShowLimitsResponse, error) {
	if err := a.limitsReady(in); err != nil {
		return nil, err
	}
	limits, more, err := a.limits.ShowLimits(ctx, in.GetAgent())
	if err != nil {
		return nil, limitsError(err)
	}
	out := &adminv1.ShowLimitsResponse{More: count(more)}
	for i := range limits {
		l := &limits[i]
		one := &adminv1.AgentLimit{
			Name: l.Name, Limit: l.Limit, Remaining: l.Remaining, Reset_: durationpb.New(l.Reset), Shadow: l.Shadow,
		}
		for _, d := range l.Dimensions {
			one.Dimensions = append(one.Dimensions, &adminv1.LimitDimension{Name: d.Name, Value: strings.ToValidUTF8(d.Value, "\uFFFD")})
		}
		out.Limits = append(out.Limits, one)
	}
	return out, nil
}

// ResetLimits forgets what was charged to limits of one agent.
func (a *API) ResetLimits(ctx context.Context, in *adminv1.ResetLimitsRequest) (*adminv1.ResetLimitsResponse, error) {
	if err := a.limitsReady(in); err != nil {
		return nil, err
	}
	n, err := a.limits.ResetLimits(ctx, in.GetAgent(), in.GetLimit(), in.GetAs())
	if err != nil {
		return nil, limitsError(err)
	}
	return &adminv1.ResetLimitsResponse{Buckets: count(n)}, nil
}

// limitsReady refuses what this build cannot do, and a request that says more
// than this build knows: it could mean less to be reset.
func (a *API) limitsReady(in proto.Message) error {
	if a.limits == nil {
		return status.Error(codes.Unimplemented, "this server keeps no limits")
	}
	if raw := in.ProtoReflect().GetUnknown(); len(raw) > 0 {
		number, _, _ := protowire.ConsumeTag(raw)
		return status.Error(codes.Unimplemented, fmt.Sprintf("field %d is not known to this build; leave it out", number))
	}
	return nil
}

func limitsError(err error) error {
	var invalid *pdp.InvalidError
	switch {
	case errors.As(err, &invalid):
		return status.Error(codes.InvalidArgument, invalid.Field+" is malformed: "+invalid.Why)
	case errors.Is(err, pdp.ErrNoSuchAgent):
		return status.Error(codes.NotFound, "agent is not known to the policy; check the id")
	case errors.Is(err, pdp.ErrNoSuchLimit):
		return status.Error(codes.NotFound, "limit is none of the policy's; check the name, or leave it out for all")
	case errors.Is(err, pdp.ErrCannotInspect):
		return status.Error(codes.Unimplemented, pdp.ErrCannotInspect.Error())
	case errors.Is(err, pdp.ErrNoPolicy):
		return status.Error(codes.Unavailable, "no policy is loaded yet")
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	default:
		return status.Error(codes.Unavailable, err.Error())
	}
}
