package obs

import (
	"context"
	"errors"
	"strings"
	"sync"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/attribute"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/kelpie-authz/kelpie/pdp"
)

// Tracing makes spans: one of each call over gRPC, one of each message of a
// stream that is decided, and one of each thing that the limiter is asked. It
// wraps what it looks at, so that a server without traces has none of it. A
// span never holds a resource, parameters, a credential, where a store is, or
// the text of an error. It is safe for concurrent use.
type Tracing struct {
	tracer trace.Tracer
	door   stats.Handler
}

// NewTracing returns one whose spans are made by provider. A caller's W3C
// traceparent is the parent of its call's span; nothing global is read or set.
func NewTracing(provider trace.TracerProvider) *Tracing {
	return &Tracing{
		tracer: provider.Tracer("github.com/kelpie-authz/kelpie"),
		door: otelgrpc.NewServerHandler(
			otelgrpc.WithTracerProvider(provider),
			otelgrpc.WithPropagators(propagation.TraceContext{}),
			otelgrpc.WithMeterProvider(metricnoop.NewMeterProvider()), // Calls are counted by server.
		),
	}
}

// The attributes of Kelpie's own.
const (
	attrDecision      = attribute.Key("kelpie.decision")
	attrReason        = attribute.Key("kelpie.reason")
	attrDecisionID    = attribute.Key("kelpie.decision_id")
	attrPolicyVersion = attribute.Key("kelpie.policy_version")
	attrAgent         = attribute.Key("kelpie.agent")
	attrAction        = attribute.Key("kelpie.action")
	attrDryRun        = attribute.Key("kelpie.dry_run")
	attrDecisions     = attribute.Key("kelpie.decisions")
	attrChange        = attribute.Key("kelpie.change")
)

// Recorder returns a recorder that has next keep each record, and tells the
// span of the call about it.
func (t *Tracing) Recorder(next pdp.Recorder) pdp.Recorder {
	return pdp.Observe(next, func(ctx context.Context, rec *pdp.Record, err error) {
		if s, ok := ctx.Value(seenKey{}).(*seen); ok {
			s.add(rec, err)
		}
	})
}

// Decision is called around each single decision. For one of a stream it starts a span,
// since the stream's own lives as long as the stream; elsewhere the
// call's span is enough. The function ends it, with what the decision failed of.
func (t *Tracing) Decision(ctx context.Context) (context.Context, func(error)) {
	s, ok := ctx.Value(seenKey{}).(*seen)
	if !ok || !s.stream {
		return ctx, func(error) {}
	}
	ctx, span := t.tracer.Start(ctx, "decision")
	if !span.IsRecording() {
		return ctx, func(error) {}
	}
	one := &seen{above: s}
	return context.WithValue(ctx, seenKey{}, one), func(err error) {
		one.tell(span)
		if err != nil {
			fail(span, fault(err))
		}
		span.End()
	}
}

// seen is what was recorded under one span.
type seen struct {
	stream bool
	above  *seen // That of the stream's span; else nil.

	mu     sync.Mutex
	first  []attribute.KeyValue // Of the first record.
	counts [verdicts]int
}

type seenKey struct{}

// add takes what the caller is answered, as Recorder.count does.
// Of an approval it takes nothing: the decision that asks for it or uses it says
// all that a span needs.
func (s *seen) add(rec *pdp.Record, failed error) {
	if rec.Event != nil {
		return
	}
	verdict, reason := rec.Verdict, rec.Reason
	if failed != nil && verdict == pdp.Allow {
		verdict, reason = pdp.Deny, pdp.ReasonAuditUnavailable
	}
	s.mu.Lock()
	if s.first == nil && !s.stream {
		s.first = attributesOf(rec, verdict, reason)
	}
	if rec.Change == nil && int(verdict) < verdicts {
		s.counts[verdict]++
	}
	s.mu.Unlock()
	if s.above != nil {
		s.above.add(rec, failed)
	}
}

// tell sets the attributes of the one decision, or how many of each kind there
// were: a batch of 1,000 is one span.
func (s *seen) tell(span trace.Span) {
	s.mu.Lock()
	defer s.mu.Unlock()
	total := 0
	for _, n := range s.counts {
		total += n
	}
	if total <= 1 && !s.stream {
		span.SetAttributes(s.first...)
		return
	}
	span.SetAttributes(attrDecisions.Int(total))
	for verdict, n := range s.counts {
		if n > 0 {
			span.SetAttributes(attribute.Int(string(attrDecisions)+"."+strings.ToLower(pdp.Verdict(verdict).String()), n))
		}
	}
}

func attributesOf(rec *pdp.Record, verdict pdp.Verdict, reason pdp.Reason) []attribute.KeyValue {
	list := make([]attribute.KeyValue, 0, 8)
	text := func(key attribute.Key, value string) {
		if value != "" {
			list = append(list, key.String(readable(value)))
		}
	}
	text(attrDecisionID, rec.DecisionID)
	if rec.Change != nil {
		text(attrAgent, rec.Agent)
		text(attrChange, rec.Change.Kind.String())
		return list
	}
	text(attrDecision, verdict.String())
	text(attrReason, string(reason))
	text(attrPolicyVersion, rec.PolicyVersion)
	switch rec.Reason {
	case pdp.ReasonParametersInvalid, pdp.ReasonHeaderMismatch, pdp.ReasonUnauthenticatedIdentity, pdp.ReasonUnknownMethod:
		// Nothing was established: what stands there may be anything, a token in the wrong place too.
	case pdp.ReasonAgentUnknown:
		text(attrAction, rec.Action)
	default:
		text(attrAgent, rec.Agent)
		text(attrAction, rec.Action)
	}
	if rec.DryRun {
		list = append(list, attrDryRun.Bool(true))
	}
	return list
}

// maxAttribute bounds a text of an attribute, in bytes.
const maxAttribute = 256

// readable makes a text fit for protobuf: one that is not UTF-8 would keep all
// spans that are exported with it from leaving.
func readable(text string) string {
	if len(text) > maxAttribute {
		text = text[:maxAttribute]
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

// fault is the class of an error, which is all that a span says of it: texts
// can hold addresses and what a caller wrote.
func fault(err error) string {
	var invalid *pdp.InvalidError
	switch {
	case errors.As(err, &invalid):
		return "invalid"
	case errors.Is(err, pdp.ErrNoPolicy):
		return "no_policy"
	default:
		return limiterFault(err)
	}
}

// bare is err as gRPC answers it, without its text.
func bare(err error) error {
	if err == nil {
		return nil
	}
	s, ok := status.FromError(err)
	if !ok {
		s = status.FromContextError(err)
	}
	return status.Error(s.Code(), "")
}
