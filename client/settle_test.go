package client_test

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kelpie-authz/kelpie/client"
	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
)

func TestSettleAndRelease(t *testing.T) {
	t.Parallel()
	refusal := status.Error(codes.NotFound, "nothing to settle or release")
	addr := start(t, &fakeServer{
		settle: func(_ context.Context, req *authzv1.SettleRequest) (*authzv1.SettleResponse, error) {
			if req.GetDecisionId() != "d" || req.Actual == nil {
				return nil, refusal
			}
			return &authzv1.SettleResponse{Estimated: 3, Actual: req.GetActual()}, nil
		},
		release: func(_ context.Context, req *authzv1.ReleaseRequest) (*authzv1.ReleaseResponse, error) {
			if req.GetDecisionId() != "d" {
				return nil, refusal
			}
			return &authzv1.ReleaseResponse{Already: true}, nil
		},
	})
	c := dial(t, addr)
	for _, actual := range []float64{0, 2.5} {
		if got, err := c.Settle(t.Context(), "d", actual); err != nil || got.GetActual() != actual || got.GetEstimated() != 3 {
			t.Errorf("settle to %v: %v, %v", actual, got, err)
		}
	}
	if got, err := c.Release(t.Context(), "d"); err != nil || !got.GetAlready() {
		t.Errorf("release: %v, %v", got, err)
	}
	if _, err := c.Settle(t.Context(), "x", 1); status.Code(err) != codes.NotFound {
		t.Errorf("settle: %v", err)
	}
	if _, err := c.Release(t.Context(), "x"); status.Code(err) != codes.NotFound {
		t.Errorf("release: %v", err)
	}
}

func TestSettleHasADeadline(t *testing.T) {
	t.Parallel()
	addr := start(t, &fakeServer{
		settle: func(ctx context.Context, _ *authzv1.SettleRequest) (*authzv1.SettleResponse, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		},
		release: func(ctx context.Context, _ *authzv1.ReleaseRequest) (*authzv1.ReleaseResponse, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		},
	})
	c := dial(t, addr, client.WithTimeout(20*time.Millisecond))
	if _, err := c.Settle(t.Context(), "d", 1); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("settle: %v", err)
	}
	if _, err := c.Release(t.Context(), "d"); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("release: %v", err)
	}
}
