package notify

import (
	"testing"
	"time"
)

func TestBackoff(t *testing.T) {
	t.Parallel()
	for attempts, want := range map[int]time.Duration{
		-1: time.Second, 0: time.Second, 1: time.Second, 2: 2 * time.Second, 5: 16 * time.Second, 12: 2048 * time.Second,
		13: time.Hour, 100: time.Hour,
	} {
		if got := Backoff(attempts, 0.5); got != want {
			t.Errorf("after %d tries %v, want %v", attempts, got, want)
		}
		if least, most := Backoff(attempts, 0), Backoff(attempts, 1); least != want/2 || most != want+want/2 {
			t.Errorf("after %d tries from %v to %v", attempts, least, most)
		}
		if Backoff(attempts, -3) != want/2 || Backoff(attempts, 7) != want+want/2 {
			t.Error("jitter is not bounded")
		}
	}
}

func TestBreaker(t *testing.T) {
	t.Parallel()
	now := time.Unix(0, 0)
	var b breaker
	for range breakAfter - 1 {
		b.failed(now)
		if !b.open(now).IsZero() {
			t.Fatal("open too soon")
		}
	}
	// It opens, and each failure of the one try that is let through doubles the time.
	for _, want := range []time.Duration{30 * time.Second, time.Minute, 2 * time.Minute, 4 * time.Minute, 5 * time.Minute, 5 * time.Minute} {
		b.failed(now)
		if until := b.open(now); until.Sub(now) != want {
			t.Errorf("open until %v, want %v", until.Sub(now), want)
		}
		now = now.Add(want)
		if !b.open(now).IsZero() {
			t.Error("no try is let through after it")
		}
	}
	b.succeeded()
	b.failed(now)
	if !b.open(now).IsZero() {
		t.Error("a success does not close it")
	}
	b.pause(now.Add(time.Minute))
	if b.open(now).IsZero() {
		t.Error("a pause that was asked for is not kept")
	}
}
