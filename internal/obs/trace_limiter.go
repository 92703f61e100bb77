package obs

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/kelpie-authz/kelpie/limiter"
)

// Limiter returns a limiter that has next do everything, and makes a span of
// each Take, Peek, Refund and Debit in a call whose span is recorded. It is a
// [limiter.Inspector] if next is one. Driver is what the spans call next; "redis"
// or "memory". A nil next stays nil.
func (t *Tracing) Limiter(next limiter.Limiter, driver string) limiter.Limiter {
	if next == nil {
		return nil
	}
	l := &tracedLimiter{Limiter: next, tracer: t.tracer, driver: attrDriver.String(driver)}
	if inspector, ok := next.(limiter.Inspector); ok {
		return &inspectedLimiter{tracedLimiter: l, Inspector: inspector}
	}
	return l
}

// The attributes of a limiter's span.
const (
	attrDriver   = attribute.Key("kelpie.limiter.driver")
	attrCalls    = attribute.Key("kelpie.limiter.calls")
	attrLimits   = attribute.Key("kelpie.limiter.limits")
	attrAdmitted = attribute.Key("kelpie.limiter.admitted")
	attrError    = attribute.Key("error.type")
)

type tracedLimiter struct {
	limiter.Limiter

	tracer trace.Tracer
	driver attribute.KeyValue
}

type inspectedLimiter struct {
	*tracedLimiter
	limiter.Inspector
}

var (
	_ limiter.Limiter   = (*inspectedLimiter)(nil)
	_ limiter.Inspector = (*inspectedLimiter)(nil)
)

// Take implements limiter.Limiter.
func (l *tracedLimiter) Take(ctx context.Context, calls []limiter.Call, stop limiter.Stop) (int, error) {
	if !recorded(ctx) {
		return l.Limiter.Take(ctx, calls, stop)
	}
	ctx, span := l.tracer.Start(ctx, "limiter.take", trace.WithAttributes(l.driver, attrCalls.Int(len(calls)), attrLimits.Int(charges(calls))))
	defer func() { span.End() }() // Deferred itself, End would write a panic's value into the span.
	n, err := l.Limiter.Take(ctx, calls, stop)
	span.SetAttributes(attrAdmitted.Int(admitted(calls)))
	return n, ended(span, err)
}

// Peek implements limiter.Limiter.
func (l *tracedLimiter) Peek(ctx context.Context, calls []limiter.Call) error {
	if !recorded(ctx) {
		return l.Limiter.Peek(ctx, calls)
	}
	ctx, span := l.tracer.Start(ctx, "limiter.peek", trace.WithAttributes(l.driver, attrCalls.Int(len(calls)), attrLimits.Int(charges(calls))))
	defer func() { span.End() }()
	err := l.Limiter.Peek(ctx, calls)
	span.SetAttributes(attrAdmitted.Int(admitted(calls)))
	return ended(span, err)
}

// Refund implements limiter.Limiter.
func (l *tracedLimiter) Refund(ctx context.Context, r *limiter.Receipt) error {
	return l.change(ctx, "limiter.refund", r, l.Limiter.Refund)
}

// Debit implements limiter.Limiter.
func (l *tracedLimiter) Debit(ctx context.Context, r *limiter.Receipt) error {
	return l.change(ctx, "limiter.debit", r, l.Limiter.Debit)
}

func (l *tracedLimiter) change(ctx context.Context, name string, r *limiter.Receipt, do func(context.Context, *limiter.Receipt) error) error {
	if !recorded(ctx) {
		return do(ctx, r)
	}
	ctx, span := l.tracer.Start(ctx, name, trace.WithAttributes(l.driver, attrLimits.Int(len(r.Taken))))
	defer func() { span.End() }()
	return ended(span, do(ctx, r))
}

// recorded tells whether ctx has a span that somebody will see: one that was not
// sampled, and work that belongs to no call, cost no more than this.
func recorded(ctx context.Context) bool { return trace.SpanFromContext(ctx).IsRecording() }

// charges is how many limits the calls ask, each counted for each call.
func charges(calls []limiter.Call) int {
	n := 0
	for i := range calls {
		n += len(calls[i].Charges)
	}
	return n
}

func admitted(calls []limiter.Call) int {
	n := 0
	for i := range calls {
		if calls[i].Result.Admitted {
			n++
		}
	}
	return n
}

// ended notes err in the span, and hands it on.
func ended(span trace.Span, err error) error {
	if err != nil {
		fail(span, limiterFault(err))
	}
	return err
}

func fail(span trace.Span, class string) {
	span.SetAttributes(attrError.String(class))
	span.SetStatus(codes.Error, class)
}

// limiterFault is the class of an error of a limiter.
func limiterFault(err error) string {
	switch {
	case errors.Is(err, limiter.ErrUnavailable):
		return "unavailable"
	case errors.Is(err, limiter.ErrFull):
		return "full"
	case errors.Is(err, limiter.ErrClosed):
		return "closed"
	case errors.Is(err, limiter.ErrInvalidCharge):
		return "invalid_charge"
	case errors.Is(err, context.Canceled):
		return "canceled"
	case errors.Is(err, context.DeadlineExceeded):
		return "deadline_exceeded"
	default:
		return "other"
	}
}
