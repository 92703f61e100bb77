package obs_test

import (
	"context"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/kelpie-authz/kelpie/internal/obs"
	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/pdp"
)

// nowhere is an exporter that takes all.
type nowhere struct{}

func (nowhere) ExportSpans(context.Context, []sdktrace.ReadOnlySpan) error { return nil }
func (nowhere) Shutdown(context.Context) error                             { return nil }

// BenchmarkCall is what traces add to a call that asks a limiter in this process for one
// limit: its span, the limiter's and the attributes, without the export itself.
func BenchmarkCall(b *testing.B) {
	b.Run("off", func(b *testing.B) { benchmarkCall(b, nil) })
	b.Run("not_sampled", func(b *testing.B) { benchmarkCall(b, sdktrace.NeverSample()) })
	b.Run("sampled", func(b *testing.B) { benchmarkCall(b, sdktrace.AlwaysSample()) })
}

func benchmarkCall(b *testing.B, sampler sdktrace.Sampler) {
	b.Helper()
	var lim limiter.Limiter = newMemory(b, nil)
	var recorder pdp.Recorder = sink{}
	var services registrar
	register := grpc.ServiceRegistrar(&services)
	if sampler != nil {
		provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(nowhere{}), sdktrace.WithSampler(sampler))
		b.Cleanup(func() { _ = provider.Shutdown(context.Background()) })
		tracing := obs.NewTracing(provider)
		lim, recorder, register = tracing.Limiter(lim, "memory"), tracing.Recorder(recorder), tracing.Services(register)
	}
	limit := &limiter.Limit{Name: "l", Kind: limiter.KindRate, Count: 1e9, Burst: 1e9, Period: time.Second}
	calls := []limiter.Call{{Charges: []limiter.Charge{{Limit: limit, Key: []byte("key"), Cost: limiter.Unit}}}}
	rec := aRecord()
	register.RegisterService(&grpc.ServiceDesc{ServiceName: "test.Service", Methods: []grpc.MethodDesc{{
		MethodName: "Do",
		Handler: func(_ any, ctx context.Context, _ func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			if _, err := lim.Take(ctx, calls, limiter.StopNever); err != nil {
				return nil, err
			}
			return nil, recorder.Record(ctx, rec)
		},
	}}}, nil)
	handler := services.desc.Methods[0].Handler
	ctx := metadata.NewIncomingContext(b.Context(), metadata.Pairs("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := handler(nil, ctx, nil, nil); err != nil {
			b.Fatal(err)
		}
	}
}
