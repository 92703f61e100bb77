package limiter_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/limiter/limitertest"
)

func newLedger(tb testing.TB, cfg limiter.MemoryLedgerConfig) *limiter.MemoryLedger {
	tb.Helper()
	l, err := limiter.NewMemoryLedger(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return l
}

func TestMemoryLedgerConforms(t *testing.T) {
	t.Parallel()
	report := limitertest.RunLedger(t, limitertest.LedgerDriver{
		Open: func(tb testing.TB, clock func() time.Time) limiter.Ledger {
			tb.Helper()
			return newLedger(tb, limiter.MemoryLedgerConfig{Clock: clock})
		},
	})
	const cases = 10
	if report.Ran != cases || limitertest.LedgerCases() != cases || len(report.LeftOut) != 0 {
		t.Fatalf("%d of %d cases ran and %v were left out, want %d and none", report.Ran, limitertest.LedgerCases(), report.LeftOut, cases)
	}
}

func TestMemoryLedgerConfig(t *testing.T) {
	t.Parallel()
	for _, cfg := range []limiter.MemoryLedgerConfig{{MaxRecords: -1}, {MaxBytes: -1}} {
		if _, err := limiter.NewMemoryLedger(cfg); err == nil {
			t.Errorf("NewMemoryLedger(%+v) succeeded", cfg)
		}
	}
	if err := newLedger(t, limiter.MemoryLedgerConfig{}).Keep(t.Context(), "d", nil, time.Hour); err != nil {
		t.Errorf("with the time of the machine: %v", err)
	}
}

// A full ledger forgets nothing that has not expired, and has room again for
// whatever has.
func TestMemoryLedgerFull(t *testing.T) {
	t.Parallel()
	clock := limitertest.NewClock(time.Date(2026, time.June, 17, 12, 0, 0, 0, time.UTC))
	l := newLedger(t, limiter.MemoryLedgerConfig{Clock: clock.Now, MaxRecords: 3})
	for i, ttl := range []time.Duration{3 * time.Second, time.Second, 2 * time.Second} {
		if err := l.Keep(t.Context(), fmt.Sprint(i), []byte("r"), ttl); err != nil {
			t.Fatal(err)
		}
	}
	for second := range 4 {
		err := l.Keep(t.Context(), fmt.Sprint("more", second), []byte("r"), time.Hour)
		if full := errors.Is(err, limiter.ErrLedgerFull); full != (second == 0) {
			t.Errorf("after %ds: %v", second, err)
		}
		if l.Len() != 3 {
			t.Errorf("after %ds: %d records, want 3", second, l.Len())
		}
		clock.Advance(time.Second)
	}
}

func TestMemoryLedgerBytes(t *testing.T) {
	t.Parallel()
	clock := limitertest.NewClock(time.Date(2026, time.June, 17, 12, 0, 0, 0, time.UTC))
	l := newLedger(t, limiter.MemoryLedgerConfig{Clock: clock.Now, MaxBytes: 100})
	for round := range 3 {
		if err := l.Keep(t.Context(), "d", make([]byte, 79), time.Minute); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if got, err := l.Mark(t.Context(), "d", "settled", []byte("0123456789")); err != nil || len(got) != 10 {
			t.Fatalf("round %d: %q, %v", round, got, err)
		}
		if err := l.Keep(t.Context(), "e", []byte("234"), time.Minute); !errors.Is(err, limiter.ErrLedgerFull) {
			t.Errorf("round %d: %v, want the ledger to be full", round, err)
		}
		if _, err := l.Mark(t.Context(), "d", "more", make([]byte, 10)); !errors.Is(err, limiter.ErrLedgerFull) {
			t.Errorf("round %d: %v, want the ledger to be full", round, err)
		}
		clock.Advance(time.Minute)
	}
}
