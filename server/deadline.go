package server

import (
	"context"
	"sync"
	"time"
)

// bounded is a context that ends at a deadline of its own. Its timer is
// started by the first Done: a call that is decided in memory never waits for
// anything, and starting and stopping a timer would cost more than deciding.
type bounded struct {
	context.Context
	deadline time.Time

	mu     sync.Mutex
	inner  context.Context
	cancel context.CancelFunc
	ended  bool
}

// bound returns a context that ends no later than limit from now, and the
// function that ends it. A context that ends sooner is returned as it is.
func bound(ctx context.Context, limit time.Duration) (context.Context, func()) {
	deadline := time.Now().Add(limit)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		return ctx, func() {}
	}
	b := &bounded{Context: ctx, deadline: deadline}
	return b, b.end
}

// Deadline implements context.Context.
func (b *bounded) Deadline() (time.Time, bool) { return b.deadline, true }

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
	case ended:
		return context.Canceled
	case b.Context.Err() != nil:
		return b.Context.Err()
	case !time.Now().Before(b.deadline):
		return b.started().Err()
	default:
		return nil
	}
}

// Value implements context.Context. It asks the started context, if there is
// one, so that contexts made from this one find how it is cancelled.
func (b *bounded) Value(key any) any {
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
		b.inner, b.cancel = context.WithDeadline(b.Context, b.deadline)
		if b.ended {
			b.cancel()
		}
	}
	return b.inner
}

func (b *bounded) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	if b.cancel != nil {
		b.cancel()
	}
}
