package main

import (
	"context"
	"fmt"

	ratelimitcommonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
)

// callersPerConn spreads callers over connections as a gateway's pool would.
const callersPerConn = 32

// dialAll connects as many callers as the job has. next hands out a connection
// for each caller in turn.
func dialAll(j *job) (next func() *grpc.ClientConn, done func(), err error) {
	var conns []*grpc.ClientConn
	done = func() {
		for _, c := range conns {
			c.Close()
		}
	}
	for range (j.Callers + callersPerConn - 1) / callersPerConn {
		conn, err := grpc.NewClient(j.Server, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			done()
			return nil, nil, fmt.Errorf("dial %s: %w", j.Server, err)
		}
		conns = append(conns, conn)
	}
	caller := 0
	next = func() *grpc.ClientConn {
		caller++
		return conns[caller%len(conns)]
	}
	return next, done, nil
}

// fewPrefix is what the names of agents begin with that have few calls.
const fewPrefix = "few/"

// agentOf is the agent of a question, which says what limits it has.
func (j *job) agentOf(key int) string {
	if j.Bounds == few {
		return fmt.Sprintf("%s%d", fewPrefix, key)
	}
	return agentKey("", key)
}

// question is what Kelpie and the empty service are asked.
func (j *job) question(key int) *authzv1.AuthorizeRequest {
	return &authzv1.AuthorizeRequest{Agent: j.agentOf(key), Action: "read", Resource: "things/42", SourceIp: "10.8.0.5"}
}

func openAuthorize(_ context.Context, j *job) (opened, error) {
	next, done, err := dialAll(j)
	if err != nil {
		return opened{}, err
	}
	caller := func() ask {
		client := authzv1.NewAuthorizationServiceClient(next())
		return func(ctx context.Context, key int) (bool, error) {
			resp, err := client.Authorize(ctx, j.question(key))
			if err != nil {
				return false, err
			}
			switch {
			case resp.GetDecision() == authzv1.Decision_DECISION_ALLOW:
				return true, nil
			case resp.GetReason() == authzv1.Reason_REASON_RATE_LIMITED:
				return false, nil
			}
			return false, fmt.Errorf("the answer is %v, %s", resp.GetDecision(), resp.GetReason())
		}
	}
	return opened{caller: caller, close: done}, nil
}

// descriptorKey is the key of the one descriptor that envoyproxy/ratelimit is asked with.
func (b bounds) descriptorKey() string {
	if b == few {
		return "few"
	}
	return "agent"
}

func openRateLimit(_ context.Context, j *job) (opened, error) {
	next, done, err := dialAll(j)
	if err != nil {
		return opened{}, err
	}
	caller := func() ask {
		client := ratelimitv3.NewRateLimitServiceClient(next())
		return func(ctx context.Context, key int) (bool, error) {
			resp, err := client.ShouldRateLimit(ctx, &ratelimitv3.RateLimitRequest{
				Domain: domain,
				Descriptors: []*ratelimitcommonv3.RateLimitDescriptor{{
					Entries: []*ratelimitcommonv3.RateLimitDescriptor_Entry{{Key: j.Bounds.descriptorKey(), Value: j.agentOf(key)}},
				}},
			})
			if err != nil {
				return false, err
			}
			switch resp.GetOverallCode() {
			case ratelimitv3.RateLimitResponse_OK:
				return true, nil
			case ratelimitv3.RateLimitResponse_OVER_LIMIT:
				return false, nil
			default:
				return false, fmt.Errorf("the answer is %v", resp.GetOverallCode())
			}
		}
	}
	return opened{caller: caller, close: done}, nil
}
