package obs

import (
	"context"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
)

// Services returns a registrar that registers with next, and makes a span of
// each call of what is registered: from before its message is decoded until its
// answer is made. Calls that no handler sees (shed ones) have none.
//
// It tells otelgrpc's stats handler what grpc would tell it, and less: only what
// goes into spans, and of an error its code, since the handler would copy its text.
func (t *Tracing) Services(next grpc.ServiceRegistrar) grpc.ServiceRegistrar {
	return &tracedServices{next: next, tracing: t}
}

type tracedServices struct {
	next    grpc.ServiceRegistrar
	tracing *Tracing
}

// RegisterService implements grpc.ServiceRegistrar.
func (s *tracedServices) RegisterService(desc *grpc.ServiceDesc, impl any) {
	traced := *desc
	traced.Methods = make([]grpc.MethodDesc, len(desc.Methods))
	for i, m := range desc.Methods {
		traced.Methods[i] = grpc.MethodDesc{MethodName: m.MethodName, Handler: s.tracing.unary("/"+desc.ServiceName+"/"+m.MethodName, m.Handler)}
	}
	traced.Streams = make([]grpc.StreamDesc, len(desc.Streams))
	for i, m := range desc.Streams {
		traced.Streams[i] = m
		traced.Streams[i].Handler = s.tracing.stream("/"+desc.ServiceName+"/"+m.StreamName, m.Handler)
	}
	s.next.RegisterService(&traced, impl)
}

func (t *Tracing) unary(method string, next grpc.MethodHandler) grpc.MethodHandler {
	info := &stats.RPCTagInfo{FullMethodName: method}
	return func(srv any, ctx context.Context, dec func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
		ctx, s := t.begin(ctx, info, false)
		err := errPanicked
		defer func() { t.end(ctx, s, err) }()
		var out any
		out, err = next(srv, ctx, dec, interceptor)
		return out, err
	}
}

func (t *Tracing) stream(method string, next grpc.StreamHandler) grpc.StreamHandler {
	info := &stats.RPCTagInfo{FullMethodName: method}
	return func(srv any, stream grpc.ServerStream) error {
		ctx, s := t.begin(stream.Context(), info, true)
		err := errPanicked
		defer func() { t.end(ctx, s, err) }()
		err = next(srv, tracedStream{ServerStream: stream, ctx: ctx})
		return err
	}
}

// errPanicked is how a call ends that never came back.
var errPanicked = status.Error(codes.Internal, "")

// begin starts the span of a call. What it returns is nil if nobody will see it.
func (t *Tracing) begin(ctx context.Context, info *stats.RPCTagInfo, stream bool) (context.Context, *seen) {
	ctx = t.door.TagRPC(ctx, info)
	if !recorded(ctx) {
		return ctx, nil
	}
	if p, ok := peer.FromContext(ctx); ok && p.LocalAddr != nil {
		t.door.HandleRPC(ctx, &stats.InHeader{LocalAddr: p.LocalAddr})
	}
	s := &seen{stream: stream}
	return context.WithValue(ctx, seenKey{}, s), s
}

func (t *Tracing) end(ctx context.Context, s *seen, err error) {
	if s != nil {
		s.tell(trace.SpanFromContext(ctx))
	}
	t.door.HandleRPC(ctx, &stats.End{Error: bare(err)})
}

type tracedStream struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // A stream is how grpc hands a context on.
}

// Context implements grpc.ServerStream.
func (s tracedStream) Context() context.Context { return s.ctx }
