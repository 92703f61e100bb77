package server //nolint:testpackage // The context is not exported.

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
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
