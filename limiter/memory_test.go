package limiter_test

import (
	"testing"
	"time"
	_ "time/tzdata"

	"go.uber.org/goleak"

	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/limiter/limitertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMemoryConforms(t *testing.T) {
	t.Parallel()
	report := limitertest.Run(t, limitertest.Driver{
		Open: func(tb testing.TB, clock func() time.Time) limiter.Limiter {
			tb.Helper()
			return newMemory(tb, limiter.MemoryConfig{Clock: clock, Shards: 4})
		},
	})
	const cases = 42
	if report.Ran != cases || limitertest.Cases() != cases || len(report.LeftOut) != 0 {
		t.Fatalf("%d of %d cases ran and %v were left out, want %d and none", report.Ran, limitertest.Cases(), report.LeftOut, cases)
	}
}
