package server //nolint:testpackage // The context is not exported.

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/tap"
)

func TestBoundLeavesTheCallersDeadline(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	if got, end := bound(ctx, time.Second); got != ctx {
		t.Error("another context")
	} else {
		end()
	}
}

// The limit counts from the first that waits, and ends who waits and who
// derived from it alike.
func TestBoundEndsWhoWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, end := bound(t.Context(), time.Second)
		defer end()
		<-time.After(time.Minute) // A fake minute: nobody has waited yet.
		if ctx.Err() != nil {
			t.Fatal("ended before anybody waited")
		}
		child, cancel := context.WithCancel(ctx)
		defer cancel()
		began := time.Now()
		<-child.Done()
		if waited := time.Since(began); waited != time.Second {
			t.Errorf("waited %v", waited)
		}
		if !errors.Is(ctx.Err(), context.DeadlineExceeded) || !errors.Is(child.Err(), context.DeadlineExceeded) {
			t.Errorf("errors %v and %v", ctx.Err(), child.Err())
		}
	})
}

func TestBoundEndsWithItsCall(t *testing.T) {
	t.Parallel()
	waited, end := bound(t.Context(), time.Hour)
	done := waited.Done()
	end()
	<-done
	if !errors.Is(waited.Err(), context.Canceled) {
		t.Error(waited.Err())
	}
	late, end := bound(t.Context(), time.Hour)
	end()
	if !errors.Is(late.Err(), context.Canceled) {
		t.Error(late.Err())
	}
	<-late.Done()

	parent, cancel := context.WithCancel(context.WithValue(t.Context(), slotKey{}, "v"))
	ctx, end := bound(parent, time.Hour)
	defer end()
	if ctx.Value(slotKey{}) != "v" {
		t.Error("the value is hidden")
	}
	if _, ok := ctx.Deadline(); !ok || ctx.Value(slotKey{}) != "v" {
		t.Error("no deadline, or the value is hidden")
	}
	cancel()
	<-ctx.Done()
	if !errors.Is(ctx.Err(), context.Canceled) {
		t.Error(ctx.Err())
	}
}

// A call that says so takes longer than others, and gives its place back while
// it waits; what is no call of ours is left alone.
func TestWaiting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newInFlight(1, []string{"/s/m"}, time.Now, func() {})
		ctx, err := f.tap(t.Context(), &tap.Info{FullMethodName: "/s/m"})
		if err != nil {
			t.Fatal(err)
		}
		place := begin(ctx)
		ctx, end := bound(ctx, time.Second)
		defer end()
		held := Waiting(context.WithValue(ctx, t, 1), time.Minute)
		if f.busy() != 1 {
			t.Error("the place is free before the call is held")
		}
		held()
		held()
		if place.release(); f.busy() != 0 {
			t.Errorf("%d places are taken", f.busy())
		}
		began := time.Now()
		<-ctx.Done()
		if took := time.Since(began); took != time.Minute+time.Second {
			t.Errorf("took %v", took)
		}
		Waiting(ctx, time.Minute)() // Its time has begun, and is over.
		Waiting(t.Context(), time.Minute)()
	})
}
