package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"
)

const (
	// maxReceive is what grpc takes in before it cuts a caller off without
	// naming a field. It is above the bounds of every field, so that a caller
	// who errs by a little is told what is too large.
	maxReceive = 8 << 20
	// maxCall is how long a call may take whose caller set no nearer deadline.
	maxCall = 10 * time.Second
	// maxStreams bounds the calls and streams of one connection.
	maxStreams = 1024
	// maxHeaderBytes bounds a call's metadata: a token and what proxies add.
	maxHeaderBytes = 64 << 10
	// minPing is how often a client may ping; faster ones are disconnected.
	minPing = 10 * time.Second
	// pingAfter finds dead connections; a peer that answers no ping within
	// pingTimeout is gone.
	pingAfter   = time.Minute
	pingTimeout = 20 * time.Second
)

// GRPCConfig is what a gRPC server is made from.
type GRPCConfig struct {
	// Logger gets errors, never calls: the record of a decision is its own log. Needed.
	Logger *slog.Logger
	// Metrics counts calls; needed. Two servers may share it.
	Metrics *GRPCMetrics
	// Credentials are from [Credentials]. Needed.
	Credentials credentials.TransportCredentials
	// MaxReceive bounds a message in bytes; 0: 8 MiB.
	MaxReceive int
	// Unary and Stream run after the built-in interceptors.
	Unary  []grpc.UnaryServerInterceptor
	Stream []grpc.StreamServerInterceptor
	// Counted are the full names of the unary methods of which at most
	// MaxInFlight calls are accepted at a time; the rest are shed. With
	// neither set, nothing is shed.
	Counted     []string
	MaxInFlight int
	// Answers are unary methods, by full name, that answer where others fail:
	// what a call gets in place of the gRPC error, also one that no handler saw.
	// The function returns the method's response, never nil, and is called by
	// many goroutines at once.
	Answers map[string]func(error) any
	// Undecodable tells whether a message that could not be decoded goes to
	// its handler all the same, emptied by this function. Nil: none does.
	Undecodable func(v any) bool
}

// GRPC is a gRPC server with bounds, interceptors, health and reflection.
// Register services on it as on a grpc.Server.
type GRPC struct {
	*grpc.Server
	// Health tells the standing of each service; all are SERVING from
	// registration until Drain.
	Health *health.Server

	log      *slog.Logger
	metrics  *GRPCMetrics
	inFlight *inFlight
	answers  map[string]func(error) any
	draining chan struct{}
}

// GRPCMetrics are the metrics of gRPC servers.
type GRPCMetrics struct {
	calls  *callMetrics
	panics prometheus.Counter
	// Calls that no handler saw.
	shed, undecodable, oversized, expired prometheus.Counter
}

// NewGRPCMetrics registers the metrics with reg.
func NewGRPCMetrics(reg prometheus.Registerer) (*GRPCMetrics, error) {
	refused := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kelpie_grpc_refused_total",
		Help: "Calls refused before any handler saw them: shed (overload), undecodable (not protobuf, or invalid UTF-8), " +
			"oversized (more than 8 MiB), expired (the deadline had passed on arrival).",
	}, []string{"why"})
	calls, err := newCallMetrics(reg)
	if err != nil {
		return nil, err
	}
	m := &GRPCMetrics{
		calls: calls,
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kelpie_panics_total",
			Help: "Panics outside a decision, each answered INTERNAL.",
		}),
		shed:        refused.WithLabelValues("shed"),
		undecodable: refused.WithLabelValues("undecodable"),
		oversized:   refused.WithLabelValues("oversized"),
		expired:     refused.WithLabelValues("expired"),
	}
	for _, c := range []prometheus.Collector{m.panics, refused} {
		if err := reg.Register(c); err != nil {
			return nil, errors.Join(errors.New("register gRPC metrics"), err)
		}
	}
	return m, nil
}

// NewGRPC returns a server with health and reflection on it.
func NewGRPC(cfg GRPCConfig) *GRPC {
	s := &GRPC{
		Health:   health.NewServer(),
		log:      cfg.Logger,
		metrics:  cfg.Metrics,
		answers:  cfg.Answers,
		draining: make(chan struct{}),
	}
	stream := append([]grpc.StreamServerInterceptor{
		recovery.StreamServerInterceptor(recovery.WithRecoveryHandlerContext(s.recovered)),
		s.endWatches,
	}, cfg.Stream...)
	opts := []grpc.ServerOption{
		grpc.Creds(cfg.Credentials),
		grpc.ChainUnaryInterceptor(cfg.Unary...),
		grpc.ChainStreamInterceptor(stream...),
		grpc.MaxRecvMsgSize(cmp.Or(cfg.MaxReceive, maxReceive)),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.ConnectionTimeout(10 * time.Second),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPing, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingAfter, Timeout: pingTimeout}),
		grpc.NumStreamWorkers(uint32(64 * runtime.GOMAXPROCS(0))), //nolint:gosec // A small positive number.
	}
	if cfg.MaxInFlight > 0 && len(cfg.Counted) > 0 {
		s.inFlight = newInFlight(cfg.MaxInFlight, cfg.Counted, time.Now, s.metrics.shed.Inc)
		for method := range cfg.Answers {
			s.inFlight.answers[method] = true
		}
		opts = append(opts, grpc.InTapHandle(s.inFlight.tap))
	}
	if cfg.Undecodable != nil {
		opts = append(opts, grpc.ForceServerCodecV2(newCodec(cfg.Undecodable, s.metrics.undecodable.Inc)))
	}
	s.Server = grpc.NewServer(opts...)
	healthpb.RegisterHealthServer(s.Server, s.Health)
	reflection.Register(s.Server)
	return s
}

// InFlight is how many calls hold a slot.
func (s *GRPC) InFlight() int {
	if s.inFlight == nil {
		return 0
	}
	return s.inFlight.busy()
}

// RegisterService implements grpc.ServiceRegistrar. Each unary method is
// bounded before its message is decoded, and the service's health is SERVING.
func (s *GRPC) RegisterService(desc *grpc.ServiceDesc, impl any) {
	wrapped := *desc
	wrapped.Methods = make([]grpc.MethodDesc, len(desc.Methods))
	for i, m := range desc.Methods {
		wrapped.Methods[i] = grpc.MethodDesc{MethodName: m.MethodName, Handler: s.guard(desc.ServiceName, m)}
	}
	wrapped.Streams = make([]grpc.StreamDesc, len(desc.Streams))
	for i, m := range desc.Streams {
		wrapped.Streams[i] = m
		wrapped.Streams[i].Handler = s.guardStream(desc.ServiceName, m)
	}
	s.Server.RegisterService(&wrapped, impl)
	s.Health.SetServingStatus(desc.ServiceName, healthpb.HealthCheckResponse_SERVING)
}

type methodHandler = func(srv any, ctx context.Context, dec func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error)

// guard does what has to be done before the message is decoded, which no
// interceptor can: the deadline is looked at, and what cannot be decoded is
// counted. It recovers too, since it has a deferred function anyway and an
// interceptor would cost each call two allocations.
func (s *GRPC) guard(service string, m grpc.MethodDesc) methodHandler {
	metrics := s.metrics.calls.of("unary", service, m.MethodName)
	answer := s.answers["/"+service+"/"+m.MethodName]
	return func(srv any, ctx context.Context, dec func(any) error, interceptor grpc.UnaryServerInterceptor) (out any, err error) {
		metrics.started.Inc()
		place := begin(ctx)
		if err := s.unheard(ctx, place != nil); err != nil {
			place.release()
			return metrics.failed(answer, err)
		}
		ctx, end := bound(ctx, maxCall)
		defer func() {
			if p := recover(); p != nil {
				out, err = nil, s.recovered(ctx, p)
			}
			end()
			place.release()
			if err != nil {
				s.logError(ctx, m.MethodName, err)
				out, err = metrics.failed(answer, err)
				return
			}
			metrics.ended(nil)
			metrics.sent.Inc()
		}()
		return m.Handler(srv, ctx, func(v any) error {
			if err := dec(v); err != nil {
				return s.decoded(err)
			}
			place.arrived()
			metrics.received.Inc()
			return nil
		}, interceptor)
	}
}

// unheard is why a call is not looked at: it was shed, or its deadline passed.
// One that has a slot was not shed.
func (s *GRPC) unheard(ctx context.Context, hasSlot bool) error {
	if !hasSlot {
		if err, shed := ctx.Value(shedKey{}).(error); shed {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		s.metrics.expired.Inc()
		return status.FromContextError(err).Err()
	}
	return nil
}

// guardStream counts a stream's messages and logs how it failed.
func (s *GRPC) guardStream(service string, m grpc.StreamDesc) grpc.StreamHandler {
	metrics := s.metrics.calls.of("bidi_stream", service, m.StreamName)
	return func(srv any, stream grpc.ServerStream) error {
		metrics.started.Inc()
		err := m.Handler(srv, &countedStream{ServerStream: stream, server: s, metrics: metrics})
		metrics.ended(err)
		if err != nil {
			s.logError(stream.Context(), m.StreamName, err)
		}
		return err //nolint:wrapcheck // It is a gRPC status already.
	}
}

// decoded counts a failure to read a call's message. grpc has answered it by then.
func (s *GRPC) decoded(err error) error {
	switch status.Code(err) {
	case codes.ResourceExhausted:
		s.metrics.oversized.Inc()
	case codes.Internal:
		s.metrics.undecodable.Inc()
	}
	return err
}

func (s *GRPC) recovered(ctx context.Context, p any) error {
	s.metrics.panics.Inc()
	s.log.LogAttrs(ctx, slog.LevelError, "panic outside a decision", slog.String("type", fmt.Sprintf("%T", p)), slog.String("stack", string(debug.Stack())))
	return status.Error(codes.Internal, "the server failed in this one call; no decision was made")
}

// logError says at error what is the server's fault, at warn what an operator
// has to mend, and at debug what is the caller's.
func (s *GRPC) logError(ctx context.Context, method string, err error) {
	level := slog.LevelError
	switch status.Code(err) {
	case codes.InvalidArgument, codes.Canceled, codes.DeadlineExceeded, codes.NotFound:
		level = slog.LevelDebug
	case codes.Unimplemented, codes.PermissionDenied, codes.Unauthenticated, codes.ResourceExhausted, codes.Unavailable:
		level = slog.LevelWarn
	}
	s.log.LogAttrs(ctx, level, "call failed", slog.String("method", method), slog.String("gateway", Gateway(ctx)),
		slog.String("code", status.Code(err).String()), slog.String("error", status.Convert(err).Message()))
}

// Draining is closed when streams should end.
func (s *GRPC) Draining() <-chan struct{} { return s.draining }

// SetServing reports how a service, and the server as a whole, stands. After
// NotServing it changes nothing.
func (s *GRPC) SetServing(serving bool, service string) {
	standing := healthpb.HealthCheckResponse_NOT_SERVING
	if serving {
		standing = healthpb.HealthCheckResponse_SERVING
	}
	s.Health.SetServingStatus(service, standing)
	s.Health.SetServingStatus("", standing)
}

// NotServing reports NOT_SERVING for every service from now on, and goes on serving.
func (s *GRPC) NotServing() { s.Health.Shutdown() }

// Drain ends streams, refuses new calls, and waits until those under way are
// answered; when ctx ends first, they are cut off, and the error says so. Call
// it once.
func (s *GRPC) Drain(ctx context.Context) error {
	s.NotServing()
	close(s.draining)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.GracefulStop()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		s.Stop()
		<-done
		return errors.New("drain: calls under way were cut off because they took too long")
	}
}

// endWatches ends the streams of health watchers at a drain, which would
// otherwise hold up the stop for ever.
func (s *GRPC) endWatches(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if !strings.HasPrefix(info.FullMethod, "/grpc.health.") {
		return next(srv, stream)
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-s.draining:
			cancel()
		case <-ended:
		}
	}()
	return next(srv, contextStream{ServerStream: stream, ctx: ctx})
}

type contextStream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context implements grpc.ServerStream.
func (s contextStream) Context() context.Context { return s.ctx }
