package obs_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	otelcodes "go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kelpie-authz/kelpie/internal/obs"
	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/limiter/limitertest"
	"github.com/kelpie-authz/kelpie/pdp"
)

// traced is a Tracing whose spans can be looked at.
type traced struct {
	*obs.Tracing

	spans    *tracetest.InMemoryExporter
	provider *sdktrace.TracerProvider
}

func newTraced(tb testing.TB, sampler sdktrace.Sampler) *traced {
	tb.Helper()
	spans := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans), sdktrace.WithSampler(sampler))
	tb.Cleanup(func() { _ = provider.Shutdown(context.Background()) })
	return &traced{obs.NewTracing(provider), spans, provider}
}

// call runs f as a unary call is run, and returns its span.
func (tr *traced) call(t *testing.T, f func(ctx context.Context) error) tracetest.SpanStub {
	t.Helper()
	handle := tr.handler(func(_ any, ctx context.Context, _ func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		return nil, f(ctx)
	})
	_, _ = handle(nil, t.Context(), nil, nil) // Its error is what f said.
	return tr.span(t, "test.Service/Do")
}

func (tr *traced) span(t *testing.T, name string) tracetest.SpanStub {
	t.Helper()
	all := tr.spans.GetSpans()
	for i := range all {
		if all[i].Name == name {
			return all[i]
		}
	}
	t.Fatalf("no span %s", name)
	return tracetest.SpanStub{}
}

// handler registers a method with what Services returns and gives the handler back.
func (tr *traced) handler(f grpc.MethodHandler) grpc.MethodHandler {
	var got registrar
	tr.Services(&got).RegisterService(&grpc.ServiceDesc{
		ServiceName: "test.Service", Methods: []grpc.MethodDesc{{MethodName: "Do", Handler: f}},
	}, nil)
	return got.desc.Methods[0].Handler
}

type registrar struct{ desc *grpc.ServiceDesc }

func (r *registrar) RegisterService(desc *grpc.ServiceDesc, _ any) { r.desc = desc }

func attrs(s tracetest.SpanStub) map[string]any {
	out := map[string]any{}
	for _, a := range s.Attributes {
		out[string(a.Key)] = a.Value.AsInterface()
	}
	return out
}

func aRecord() *pdp.Record {
	return &pdp.Record{
		DecisionID: "id-1", Agent: "reader", Action: "read", Resource: "secret/resource", Subject: "s@example.com",
		Verdict: pdp.Allow, Reason: pdp.ReasonOK, PolicyVersion: "v1",
	}
}

// sink is a recorder that says err.
type sink struct{ err error }

func (s sink) Record(context.Context, *pdp.Record) error { return s.err }

func TestSpanOfADecision(t *testing.T) {
	t.Parallel()
	full := errors.New("full")
	for name, tc := range map[string]struct {
		change func(*pdp.Record)
		failed error
		want   map[string]any
		not    []string
	}{
		"allowed": {want: map[string]any{
			"kelpie.decision": "ALLOW", "kelpie.reason": "ok", "kelpie.decision_id": "id-1", "kelpie.policy_version": "v1",
			"kelpie.agent": "reader", "kelpie.action": "read", "rpc.method": "test.Service/Do",
		}, not: []string{"kelpie.dry_run", "kelpie.decisions"}},
		"a dry run": {change: func(r *pdp.Record) { r.DryRun = true }, want: map[string]any{"kelpie.dry_run": true}},
		"not kept":  {failed: full, want: map[string]any{"kelpie.decision": "DENY", "kelpie.reason": "audit_unavailable"}},
		"malformed": {
			change: func(r *pdp.Record) {
				r.Verdict, r.Reason, r.Agent, r.Action = pdp.Deny, pdp.ReasonParametersInvalid, "tok", "en"
			},
			want: map[string]any{"kelpie.decision": "DENY", "kelpie.reason": "parameters_invalid"}, not: []string{"kelpie.agent", "kelpie.action"},
		},
		"nobody": {
			change: func(r *pdp.Record) { r.Verdict, r.Reason = pdp.Deny, pdp.ReasonAgentUnknown },
			want:   map[string]any{"kelpie.action": "read"}, not: []string{"kelpie.agent"},
		},
		"no UTF-8, and long": {
			change: func(r *pdp.Record) { r.Agent = "\xff" + strings.Repeat("a", 300) },
			want:   map[string]any{"kelpie.agent": "\uFFFD" + strings.Repeat("a", 255)},
		},
		"settled": {
			change: func(r *pdp.Record) { r.Change = &pdp.Change{Kind: pdp.ChangeSettled, As: "somebody"} },
			want:   map[string]any{"kelpie.change": "settle", "kelpie.decision_id": "id-1", "kelpie.agent": "reader"}, not: []string{"kelpie.decision", "kelpie.decisions"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr := newTraced(t, sdktrace.AlwaysSample())
			rec := aRecord()
			if tc.change != nil {
				tc.change(rec)
			}
			span := tr.call(t, func(ctx context.Context) error {
				if err := tr.Recorder(sink{tc.failed}).Record(ctx, rec); !errors.Is(err, tc.failed) {
					t.Errorf("the recorder said %v", err)
				}
				return nil
			})
			got := attrs(span)
			for key, want := range tc.want {
				if got[key] != want {
					t.Errorf("%s is %v, want %v", key, got[key], want)
				}
			}
			for _, key := range tc.not {
				if _, there := got[key]; there {
					t.Errorf("%s is %v, want none", key, got[key])
				}
			}
			for _, secret := range []string{"secret/resource", "s@example.com", "somebody"} {
				if strings.Contains(fmt.Sprint(got), secret) {
					t.Errorf("%s is in %v", secret, got)
				}
			}
		})
	}
}

func TestSpanOfABatch(t *testing.T) {
	t.Parallel()
	tr := newTraced(t, sdktrace.AlwaysSample())
	got := attrs(tr.call(t, func(ctx context.Context) error {
		for i := range 5 {
			rec := aRecord()
			if i > 2 {
				rec.Verdict, rec.Reason = pdp.Deny, pdp.ReasonRateLimited
			}
			if err := tr.Recorder(sink{}).Record(ctx, rec); err != nil {
				return err
			}
		}
		return nil
	}))
	if got["kelpie.decisions"] != int64(5) || got["kelpie.decisions.allow"] != int64(3) || got["kelpie.decisions.deny"] != int64(2) || got["kelpie.decision"] != nil {
		t.Errorf("attributes %v", got)
	}
}

// The text of an error, and the value of a panic, can be anything.
func TestSpanOfAFailure(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		f    func(context.Context) error
		code string
		bad  bool
	}{
		"unavailable": {func(context.Context) error { return status.Error(codes.Unavailable, "secret") }, "UNAVAILABLE", true},
		"malformed":   {func(context.Context) error { return status.Error(codes.InvalidArgument, "secret") }, "INVALID_ARGUMENT", false},
		"gone":        {func(context.Context) error { return fmt.Errorf("secret: %w", context.Canceled) }, "CANCELLED", false},
		"panic":       {func(context.Context) error { panic("secret") }, "INTERNAL", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr := newTraced(t, sdktrace.AlwaysSample())
			span := func() tracetest.SpanStub {
				defer func() { _ = recover() }()
				return tr.call(t, tc.f)
			}()
			if name == "panic" {
				span = tr.span(t, "test.Service/Do")
			}
			if got := attrs(span)["rpc.response.status_code"]; got != tc.code || (span.Status.Code == otelcodes.Error) != tc.bad {
				t.Errorf("code %v, status %v", got, span.Status)
			}
			if text := fmt.Sprintf("%+v", span); strings.Contains(text, "secret") {
				t.Errorf("the text is in the span: %s", text)
			}
		})
	}
}

// A wrapped limiter is as good as the one inside, while each call has a span.
func TestTracedLimiterConforms(t *testing.T) {
	t.Parallel()
	var names sync.Map
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(namesOf{&names}))
	t.Cleanup(func() { _ = provider.Shutdown(context.Background()) })
	tracing := obs.NewTracing(provider)
	driver := limitertest.Driver{Open: func(tb testing.TB, clock func() time.Time) limiter.Limiter {
		tb.Helper()
		wrapped := tracing.Limiter(newMemory(tb, clock), "memory")
		inspector, ok := wrapped.(limiter.Inspector)
		if !ok {
			tb.Fatal("the wrapped limiter is no Inspector")
		}
		return spanned{wrapped, inspector, provider.Tracer("test")}
	}}
	if report := limitertest.Run(t, driver); report.Ran != limitertest.Cases() {
		t.Errorf("%d cases ran of %d", report.Ran, limitertest.Cases())
	}
	if report := limitertest.RunInspector(t, driver); report.Ran != limitertest.InspectorCases() {
		t.Errorf("%d cases of inspectors ran of %d", report.Ran, limitertest.InspectorCases())
	}
	for _, name := range []string{"limiter.take", "limiter.peek", "limiter.refund"} {
		if _, ok := names.Load(name); !ok {
			t.Errorf("no span %s", name)
		}
	}
}

// namesOf is an exporter that keeps what spans are called.
type namesOf struct{ names *sync.Map }

func (n namesOf) ExportSpans(_ context.Context, spans []sdktrace.ReadOnlySpan) error {
	for _, s := range spans {
		n.names.Store(s.Name(), true)
	}
	return nil
}

func (namesOf) Shutdown(context.Context) error { return nil }

func newMemory(tb testing.TB, clock func() time.Time) *limiter.Memory {
	tb.Helper()
	memory, err := limiter.NewMemory(limiter.MemoryConfig{Clock: clock})
	if err != nil {
		tb.Fatal(err)
	}
	return memory
}

// What was asked, and what came of it.
func TestSpansOfALimiter(t *testing.T) {
	t.Parallel()
	tr := newTraced(t, sdktrace.AlwaysSample())
	lim := tr.Limiter(newMemory(t, nil), "memory")
	charge := limiter.Charge{
		Limit: &limiter.Limit{Name: "l", Kind: limiter.KindRate, Count: 2, Burst: 2, Period: time.Hour}, Key: []byte("key"), Cost: limiter.Unit,
	}
	calls := make([]limiter.Call, 3)
	for i := range calls {
		calls[i].Charges = []limiter.Charge{charge}
	}
	tr.call(t, func(ctx context.Context) error {
		n, err := lim.Take(ctx, calls, limiter.StopNever)
		if n != 3 || err != nil || calls[2].Result.Admitted {
			t.Errorf("Take: %d, %v, %v", n, err, calls[2].Result)
		}
		again := calls[1].Result.Receipt.Clone()
		return errors.Join(lim.Debit(ctx, &again), lim.Refund(ctx, &calls[0].Result.Receipt), lim.Peek(ctx, calls[:1]))
	})
	for name, want := range map[string]map[string]any{
		"limiter.take":   {"kelpie.limiter.calls": int64(3), "kelpie.limiter.limits": int64(3), "kelpie.limiter.admitted": int64(2)},
		"limiter.debit":  {"kelpie.limiter.limits": int64(1)},
		"limiter.refund": {"kelpie.limiter.limits": int64(1)},
		"limiter.peek":   {"kelpie.limiter.calls": int64(1), "kelpie.limiter.limits": int64(1), "kelpie.limiter.admitted": int64(0)},
	} {
		span := tr.span(t, name)
		want["kelpie.limiter.driver"] = "memory"
		if got := attrs(span); !maps.Equal(got, want) || span.Status.Code != otelcodes.Unset {
			t.Errorf("%s: %v, status %v, want %v", name, got, span.Status, want)
		}
		if span.Parent.SpanID() != tr.span(t, "test.Service/Do").SpanContext.SpanID() {
			t.Errorf("%s is not below its call", name)
		}
	}
}

// spanned gives each call of the suite a span.
type spanned struct {
	limiter.Limiter
	limiter.Inspector

	tracer trace.Tracer
}

func (s spanned) in(ctx context.Context, f func(context.Context)) {
	ctx, span := s.tracer.Start(ctx, "call")
	defer span.End()
	f(ctx)
}

func (s spanned) Take(ctx context.Context, calls []limiter.Call, stop limiter.Stop) (n int, err error) {
	s.in(ctx, func(ctx context.Context) { n, err = s.Limiter.Take(ctx, calls, stop) })
	return n, err
}

func (s spanned) Peek(ctx context.Context, calls []limiter.Call) (err error) {
	s.in(ctx, func(ctx context.Context) { err = s.Limiter.Peek(ctx, calls) })
	return err
}

func (s spanned) Refund(ctx context.Context, r *limiter.Receipt) (err error) {
	s.in(ctx, func(ctx context.Context) { err = s.Limiter.Refund(ctx, r) })
	return err
}

func (s spanned) Debit(ctx context.Context, r *limiter.Receipt) (err error) {
	s.in(ctx, func(ctx context.Context) { err = s.Limiter.Debit(ctx, r) })
	return err
}

// faulty is a limiter that fails, and no Inspector.
type faulty struct {
	limiter.Limiter
	err error
}

func (f faulty) Take(context.Context, []limiter.Call, limiter.Stop) (int, error) { return 0, f.err }

func TestSpanOfALimitersFailure(t *testing.T) {
	t.Parallel()
	for class, err := range map[string]error{
		"unavailable": fmt.Errorf("redis://u:secret@host: %w", limiter.ErrUnavailable), "full": limiter.ErrFull, "closed": limiter.ErrClosed,
		"invalid_charge": &limiter.ChargeError{Err: errors.New("secret")}, "canceled": context.Canceled,
		"deadline_exceeded": context.DeadlineExceeded, "other": errors.New("secret"),
	} {
		tr := newTraced(t, sdktrace.AlwaysSample())
		lim := tr.Limiter(faulty{err: err}, "redis")
		if _, ok := lim.(limiter.Inspector); ok {
			t.Error("the wrapper made an Inspector up")
		}
		tr.call(t, func(ctx context.Context) error {
			if _, got := lim.Take(ctx, make([]limiter.Call, 3), limiter.StopNever); !errors.Is(got, err) {
				t.Errorf("Take said %v, want %v", got, err)
			}
			return nil
		})
		span := tr.span(t, "limiter.take")
		got := attrs(span)
		if got["error.type"] != class || got["kelpie.limiter.calls"] != int64(3) || got["kelpie.limiter.admitted"] != int64(0) ||
			span.Status.Code != otelcodes.Error || span.Parent.SpanID() != tr.span(t, "test.Service/Do").SpanContext.SpanID() {
			t.Errorf("%s: %v, %v", class, got, span.Status)
		}
		if strings.Contains(fmt.Sprintf("%+v", span), "secret") {
			t.Errorf("%s: the error's text is in the span", class)
		}
	}
	if newTraced(t, sdktrace.AlwaysSample()).Limiter(nil, "memory") != nil {
		t.Error("no limiter became one")
	}
}

// brittle is a limiter that panics.
type brittle struct{ limiter.Limiter }

func (brittle) Take(context.Context, []limiter.Call, limiter.Stop) (int, error) { panic("secret") }

func TestSpanOfALimitersPanic(t *testing.T) {
	t.Parallel()
	tr := newTraced(t, sdktrace.AlwaysSample())
	lim := tr.Limiter(brittle{}, "memory")
	tr.call(t, func(ctx context.Context) error {
		defer func() {
			if recover() == nil {
				t.Error("the panic was kept back")
			}
		}()
		_, err := lim.Take(ctx, nil, limiter.StopNever)
		return err
	})
	if text := fmt.Sprintf("%+v", tr.span(t, "limiter.take")); strings.Contains(text, "secret") {
		t.Errorf("what it panicked with is in the span: %s", text)
	}
}

// What nobody sees is not made.
//
//nolint:paralleltest // Allocations cannot be counted beside other tests.
func TestNoSpans(t *testing.T) {
	memory := newMemory(t, nil)
	for name, tc := range map[string]struct {
		sampler sdktrace.Sampler
		ctx     func(*traced) context.Context
	}{
		"work of no call": {sdktrace.AlwaysSample(), func(*traced) context.Context { return t.Context() }},
		"a caller's span alone": {sdktrace.AlwaysSample(), func(*traced) context.Context {
			return trace.ContextWithRemoteSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
				TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1}, TraceFlags: trace.FlagsSampled,
			}))
		}},
		"not sampled": {sdktrace.NeverSample(), func(tr *traced) context.Context {
			inner, _ := tr.handler(func(_ any, ctx context.Context, _ func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				return ctx, nil
			})(nil, t.Context(), nil, nil)
			return inner.(context.Context)
		}},
	} {
		tr := newTraced(t, tc.sampler)
		ctx := tc.ctx(tr)
		lim, rec := tr.Limiter(memory, "memory"), aRecord()
		recorder := tr.Recorder(sink{})
		allocs := testing.AllocsPerRun(100, func() {
			_, _ = lim.Take(ctx, nil, limiter.StopNever)
			_ = recorder.Record(ctx, rec)
			_, end := tr.Decision(ctx)
			end(nil)
		})
		if spans := tr.spans.GetSpans(); len(spans) != 0 || allocs != 0 {
			t.Errorf("%s: %d spans, %v allocations", name, len(spans), allocs)
		}
	}
}
