package server

import (
	"context"
	"sync"
	"time"
)

// bounded is a context that ends after a limit of its own. The limit counts
// from the first time that somebody asks for the deadline or waits: a call
// that is decided in memory never does, and reading the clock and starting and
// stopping a timer would cost as much as deciding.
type bounded struct {
	context.Context
	limit time.Duration

	mu     sync.Mutex // guards limit too
	inner  context.Context
	cancel context.CancelFunc
	ended  bool
}

// bound gives a context without a deadline one, and returns the function that
// ends it. A caller's own deadline is left alone, since it is the nearer one
// for all but those who want to wait for ever.
func bound(ctx context.Context, limit time.Duration) (context.Context, func()) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	b := &bounded{Context: ctx, limit: limit}
	return b, b.end
}

// Deadline implements context.Context.
func (b *bounded) Deadline() (time.Time, bool) { return b.started().Deadline() }

// Done implements context.Context.
func (b *bounded) Done() <-chan struct{} { return b.started().Done() }

// Err implements context.Context.
func (b *bounded) Err() error {
	b.mu.Lock()
	inner, ended := b.inner, b.ended
	b.mu.Unlock()
	switch {
	case inner != nil:
		return inner.Err()
	case b.Context.Err() != nil:
		return b.Context.Err()
	case ended:
		return context.Canceled
	default:
		return nil
	}
}

// boundedKey finds the context itself.
type boundedKey struct{}

// Value implements context.Context. It asks the started context, if there is
// one, so that contexts made from this one find how it is cancelled.
func (b *bounded) Value(key any) any {
	if key == (boundedKey{}) {
		return b
	}
	b.mu.Lock()
	inner := b.inner
	b.mu.Unlock()
	if inner != nil {
		return inner.Value(key)
	}
	return b.Context.Value(key)
}

func (b *bounded) started() context.Context {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.inner == nil {
		b.inner, b.cancel = context.WithTimeout(b.Context, b.limit)
		if b.ended {
			b.cancel()
		}
	}
	return b.inner
}

// longer lets the call take so much more, unless its time has begun.
func (b *bounded) longer(more time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.inner == nil {
		b.limit += more
	}
}

// Waiting lets a call of a [GRPC] server, which ctx is of, take so much longer
// than others where its caller set no deadline: call it before anything waits.
// What it returns gives the call's place among those in flight back, for a call
// that waits and works on nothing; it may be called more than once. A ctx of
// something else is left as it is.
func Waiting(ctx context.Context, most time.Duration) (held func()) {
	if b, ok := ctx.Value(boundedKey{}).(*bounded); ok {
		b.longer(most)
	}
	place, _ := ctx.Value(slotKey{}).(*slot)
	return place.release
}

func (b *bounded) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	if b.cancel != nil {
		b.cancel()
	}
}
