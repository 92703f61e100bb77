package client

import (
	"context"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
)

// MapGRPC says what to ask for a gRPC call. Method is the full method
// ("/package.Service/Method"); message is the request of a unary call and nil
// for a streaming one, which is decided once, when it opens. It must take the
// agent from something that was verified (the peer's certificate, a checked
// token), never from metadata that the agent writes itself.
//
// [ErrUnauthenticated] is answered UNAUTHENTICATED and [ErrUnguarded] goes
// through without a decision; any other error, or a nil request, is answered
// INVALID_ARGUMENT.
type MapGRPC func(ctx context.Context, method string, message any) (*authzv1.AuthorizeRequest, error)

// errorDomain is the domain of the ErrorInfo detail (google.rpc.ErrorInfo).
const errorDomain = "kelpie"

// UnaryServerInterceptor asks before each unary call reaches its handler.
//
// What may not go through is answered UNAUTHENTICATED (the identity or
// credential does not hold), PERMISSION_DENIED (DENY, REQUIRE_APPROVAL),
// RESOURCE_EXHAUSTED (a limit is reached), INVALID_ARGUMENT (malformed) or
// UNAVAILABLE (no decision could be made), with an ErrorInfo whose reason is
// the decision's and, where waiting helps, a RetryInfo. The decision's id goes
// into the header [DecisionIDHeader].
func UnaryServerInterceptor(a Authorizer, m MapGRPC) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, message any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		req, err := m(ctx, info.FullMethod, message)
		ctx, refused := guard(ctx, a, req, err)
		header := decisionHeader(ctx, refused)
		if len(header) > 0 {
			// It fails only where the header is out already, which it is not here.
			_ = grpc.SetHeader(ctx, header)
		}
		if refused != nil {
			return nil, refused.grpcError()
		}
		return handler(ctx, message)
	}
}

// StreamServerInterceptor asks once before a streaming call reaches its handler,
// and answers as [UnaryServerInterceptor] does. The messages on the stream are
// not asked about.
func StreamServerInterceptor(a Authorizer, m MapGRPC) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		req, err := m(stream.Context(), info.FullMethod, nil)
		ctx, refused := guard(stream.Context(), a, req, err)
		header := decisionHeader(ctx, refused)
		if len(header) > 0 {
			_ = stream.SetHeader(header) // As above.
		}
		if refused != nil {
			return refused.grpcError()
		}
		return handler(srv, &guardedStream{ServerStream: stream, ctx: ctx})
	}
}

// guardedStream carries the decision in its context.
type guardedStream struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // grpc.ServerStream hands its context out by method.
}

func (s *guardedStream) Context() context.Context { return s.ctx }

func decisionHeader(ctx context.Context, refused *refusal) metadata.MD {
	id := ""
	if refused != nil {
		id = refused.ID
	} else if d, ok := DecisionFromContext(ctx); ok {
		id = d.ID()
	}
	if id == "" {
		return nil
	}
	return metadata.Pairs(DecisionIDHeader, id)
}

func (r *refusal) grpcError() error {
	info := &errdetails.ErrorInfo{
		// AIP-193 wants reasons in UPPER_SNAKE_CASE.
		Reason:   strings.ToUpper(r.Reason),
		Domain:   errorDomain,
		Metadata: map[string]string{"decision": r.Decision},
	}
	if r.ID != "" {
		info.Metadata["decision_id"] = r.ID
	}
	if digest := r.Response.GetApproval().GetDigest(); digest != "" {
		info.Metadata["approval_digest"] = digest
	}
	details := []protoadapt.MessageV1{protoadapt.MessageV1Of(info)}
	if r.RetryAfter > 0 {
		retry := &errdetails.RetryInfo{RetryDelay: durationpb.New(r.RetryAfter)}
		details = append(details, protoadapt.MessageV1Of(retry))
	}
	message := r.Message
	if message == "" {
		message = strings.TrimSpace(r.Decision + " " + r.Reason)
	}
	st := status.New(r.Kind.grpc(), message)
	if detailed, err := st.WithDetails(details...); err == nil {
		st = detailed
	}
	return st.Err()
}
