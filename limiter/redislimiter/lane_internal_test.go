package redislimiter

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kelpie-authz/kelpie/limiter"
)

// TestLaneDropsLate: where a server is slow and yet in time, a job waits for as
// long as an exchange may take, and no longer.
func TestLaneDropsLate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const slow, patience = 150 * time.Millisecond, 100 * time.Millisecond
		sent := 0
		l := &lane{width: 1, length: 10, patience: patience, send: func(batch []*job) {
			sent += len(batch)
			time.Sleep(slow) //nolint:forbidigo // The bubble's clock.
		}}
		ask := func(after time.Duration) <-chan error {
			out := make(chan error, 1)
			time.AfterFunc(after, func() { out <- l.do(&job{wake: make(chan []*job, 1)}) })
			return out
		}
		first, late, fresh := ask(0), ask(10*time.Millisecond), ask(100*time.Millisecond)
		if err := <-first; err != nil {
			t.Errorf("the first: %v", err)
		}
		if err := <-late; !errors.Is(err, limiter.ErrUnavailable) {
			t.Errorf("one that waited for %v: %v, want ErrUnavailable", slow-10*time.Millisecond, err)
		}
		if err := <-fresh; err != nil {
			t.Errorf("one that waited for %v: %v", slow-100*time.Millisecond, err)
		}
		if sent != 2 {
			t.Errorf("%d jobs were sent, want 2", sent)
		}
	})
}

// TestLanePanic: a panic in a batch reaches its leader, and the others get an
// error instead of waiting for ever.
func TestLanePanic(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		batches := 0
		l := &lane{width: 1, length: 10, send: func(batch []*job) {
			batches++
			time.Sleep(time.Millisecond) //nolint:forbidigo // The bubble's clock.
			if len(batch) > 1 {
				panic("a fault")
			}
		}}
		errs := make(chan error, 4)
		ask := func() {
			defer func() {
				if v := recover(); v != nil {
					errs <- errPanic
				}
			}()
			errs <- l.do(&job{wake: make(chan []*job, 1)})
		}
		for range 4 {
			go ask()
		}
		failed := 0
		for range 4 {
			if err := <-errs; errors.Is(err, errPanic) {
				failed++
			}
		}
		if failed != 3 || batches != 2 {
			t.Errorf("%d of 4 failed in %d batches, want 3 in 2", failed, batches)
		}
		if err := l.do(&job{wake: make(chan []*job, 1)}); err != nil {
			t.Errorf("after the panic: %v", err)
		}
	})
}
