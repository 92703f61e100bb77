package server //nolint:testpackage // The slots are not exported.

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
)

// A sweep frees only calls that ended before a handler had them, and no slot
// is ever given back twice.
func TestSweep(t *testing.T) {
	t.Parallel()
	now := time.Unix(100, 0)
	shed := 0
	f := newInFlight(3, []string{"/s/m"}, func() time.Time { return now }, func() { shed++ })
	info := &tap.Info{FullMethodName: "/s/m"}
	admit := func(ctx context.Context) context.Context {
		t.Helper()
		got, err := f.tap(ctx, info)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	ended, cancel := context.WithCancel(t.Context())
	waiting, begun, lost := admit(t.Context()), admit(ended), admit(ended)
	held := begin(begun)
	cancel()
	if got := admit(t.Context()); f.busy() != 3 || begin(got) == nil {
		t.Errorf("%d slots are taken", f.busy())
	}
	if _, err := f.tap(t.Context(), info); status.Code(err) != codes.ResourceExhausted || shed != 1 {
		t.Errorf("the call beyond: %v, %d shed", err, shed)
	}
	begin(lost).release() // Its handler comes late and finds the slot gone.
	if f.busy() != 3 {
		t.Errorf("%d slots are taken after a late handler", f.busy())
	}
	held.release()
	held.release()
	if f.busy() != 2 {
		t.Errorf("%d slots are taken after one was given back", f.busy())
	}
	if _, err := f.tap(t.Context(), &tap.Info{FullMethodName: "/other/m"}); err != nil || f.busy() != 2 {
		t.Errorf("another method: %v, %d", err, f.busy())
	}
	if begin(t.Context()) != nil || begin(waiting) == nil {
		t.Error("begin finds the wrong slot")
	}
}

// Whoever sends headers and keeps the message back loses the slot once others
// need it; a call whose message has come keeps its own.
func TestSweepOfUnsentMessages(t *testing.T) {
	t.Parallel()
	now := time.Unix(100, 0)
	f := newInFlight(2, []string{"/s/m"}, func() time.Time { return now }, func() {})
	info := &tap.Info{FullMethodName: "/s/m"}
	slots := make([]*slot, 2)
	for i := range slots {
		ctx, err := f.tap(t.Context(), info)
		if err != nil {
			t.Fatal(err)
		}
		slots[i] = begin(ctx)
	}
	slots[0].arrived()
	for range 2 {
		if _, err := f.tap(t.Context(), info); status.Code(err) != codes.ResourceExhausted {
			t.Fatalf("a slot was lost too early: %v", err)
		}
		now = now.Add(unreadPatience)
	}
	now = now.Add(sweepEvery)
	if _, err := f.tap(t.Context(), info); err != nil {
		t.Errorf("the slot of an unsent message is still held: %v", err)
	}
	if slots[0].released.Load() || !slots[1].released.Load() {
		t.Errorf("released %v, %v; want only the one without a message", slots[0].released.Load(), slots[1].released.Load())
	}
}
