package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"google.golang.org/grpc"

	"github.com/kelpie-authz/kelpie/internal/obs"
	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/server/grpcapi"
)

// traceFlushTimeout is how long the last spans may take to leave.
const traceFlushTimeout = 3 * time.Second

// traces are the parts that make and export spans. A nil one is no traces, and
// then its methods return what they are given.
type traces struct {
	spans     *obs.Tracing
	provider  *sdktrace.TracerProvider
	collector *collector
}

// buildTraces makes them if the environment names a collector. The rest of the
// OTEL_ variables is read by the SDK, and checked before: it goes on with a
// default where it does not understand one.
func (a *App) buildTraces(ctx context.Context) error {
	settings, err := readTraceSettings(os.Getenv)
	if err != nil || settings == nil {
		return err
	}
	about, err := resource.New(ctx,
		resource.WithAttributes(semconv.ServiceName("kelpie"), semconv.ServiceVersion(a.deps.Version)),
		resource.WithHost(), resource.WithTelemetrySDK(), resource.WithFromEnv())
	if err != nil {
		return fmt.Errorf("traces: OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	count := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kelpie_trace_spans_total",
		Help: "Spans by what came of them: ended, exported, lost (the collector did not take them); the rest of those that ended waits, or was dropped because too many waited.",
	}, []string{"state"})
	if err := a.register(count); err != nil {
		return err
	}
	collector, err := newCollector(settings, a.tellTraces(), count.WithLabelValues("exported"), count.WithLabelValues("lost"))
	if err != nil {
		return err
	}
	exporter, err := otlptrace.New(ctx, collector)
	if err != nil {
		return errors.Join(fmt.Errorf("traces: %w", err), collector.Stop(ctx))
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithResource(about),
		sdktrace.WithSpanProcessor(countedSpans{sdktrace.NewBatchSpanProcessor(exporter), count.WithLabelValues("ended")}),
	)
	a.traces = &traces{spans: obs.NewTracing(provider), provider: provider, collector: collector}
	a.limits.limiter = a.traces.spans.Limiter(a.limits.limiter, a.limits.driver())
	a.limits.fallback = a.traces.spans.Limiter(a.limits.fallback, "memory")
	a.log.InfoContext(ctx, "traces are exported", slog.String("to", settings.host))
	if settings.gzip {
		a.log.WarnContext(ctx, "traces are exported as they are: gzip is not linked in, so that no caller can send it",
			slog.String("key", "OTEL_EXPORTER_OTLP_COMPRESSION"))
	}
	return nil
}

// tellTraces returns what logs failures to export, one line a minute.
func (a *App) tellTraces() func(why string, spans int) {
	var (
		mu   sync.Mutex
		told time.Time
		lost int
	)
	return func(why string, spans int) {
		mu.Lock()
		defer mu.Unlock()
		lost += spans
		if now := a.deps.Now(); told.IsZero() || now.Sub(told) >= time.Minute {
			a.log.Warn("traces could not be exported; decisions do not wait for them", slog.String("error", why), slog.Int("spans", lost))
			told, lost = now, 0
		}
	}
}

// countedSpans is a processor that counts what it is given.
type countedSpans struct {
	sdktrace.SpanProcessor
	ended prometheus.Counter
}

// OnEnd implements sdktrace.SpanProcessor.
func (c countedSpans) OnEnd(s sdktrace.ReadOnlySpan) {
	c.ended.Inc()
	c.SpanProcessor.OnEnd(s)
}

func (t *traces) recorder(next pdp.Recorder) pdp.Recorder {
	if t == nil {
		return next
	}
	return t.spans.Recorder(next)
}

func (t *traces) services(next grpc.ServiceRegistrar) grpc.ServiceRegistrar {
	if t == nil {
		return next
	}
	return t.spans.Services(next)
}

// decider gives the door for streams a span per decision.
func (t *traces) decider(next grpcapi.Decider) grpcapi.Decider {
	if t == nil {
		return next
	}
	return tracedDecider{next, t.spans}
}

type tracedDecider struct {
	grpcapi.Decider
	spans *obs.Tracing
}

// Authorize implements grpcapi.Decider.
func (d tracedDecider) Authorize(ctx context.Context, req *pdp.Request, dec *pdp.Decision) (err error) {
	ctx, end := d.spans.Decision(ctx)
	defer func() { end(err) }()
	return d.Decider.Authorize(ctx, req, dec)
}

// close exports what waits, and gives up after traceFlushTimeout or when hurry is closed.
// What is lost then is no error: nothing was decided by it.
func (t *traces) close(ctx context.Context, hurry <-chan struct{}) {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), traceFlushTimeout)
	defer cancel()
	go func() {
		select {
		case <-hurry:
			cancel()
		case <-ctx.Done():
		}
	}()
	_ = t.provider.Shutdown(ctx) // What was not exported was told and counted by the collector.
	t.collector.close()
	// The processor may still hand over what it has, which fails at once now.
	select {
	case <-t.collector.stopped:
	case <-time.After(time.Second):
	}
}
