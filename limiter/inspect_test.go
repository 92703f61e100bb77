package limiter_test

import (
	"errors"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/limiter/limitertest"
)

func TestMemoryInspects(t *testing.T) {
	t.Parallel()
	report := limitertest.RunInspector(t, limitertest.Driver{
		Open: func(tb testing.TB, clock func() time.Time) limiter.Limiter {
			tb.Helper()
			return newMemory(tb, limiter.MemoryConfig{Clock: clock, Shards: 4})
		},
	})
	const cases = 8
	if report.Ran != cases || limitertest.InspectorCases() != cases || len(report.LeftOut) != 0 {
		t.Fatalf("%d of %d cases ran and %v were left out, want %d and none", report.Ran, limitertest.InspectorCases(), report.LeftOut, cases)
	}
}

// What was forgotten gives its room back, and a closed limiter tells nothing.
func TestMemoryForgetMakesRoom(t *testing.T) {
	t.Parallel()
	m := newMemory(t, limiter.MemoryConfig{MaxKeys: 2})
	for _, key := range []string{"a1:x1", "a1:x2"} {
		if _, err := takeOne(m, hourly(9), key); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := takeOne(m, hourly(9), "b"); !errors.Is(err, limiter.ErrFull) {
		t.Fatalf("%v, want the table to be full", err)
	}
	if n, err := m.Forget(t.Context(), []byte("a1:x"), nil); n != 2 || err != nil || m.Len() != 0 || m.Evictions() != 0 {
		t.Errorf("forgot %d, %v; %d left, %d evicted", n, err, m.Len(), m.Evictions())
	}
	if _, err := takeOne(m, hourly(9), "b"); err != nil {
		t.Error(err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Forget(t.Context(), []byte("b"), nil); !errors.Is(err, limiter.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}
