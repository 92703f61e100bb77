package sqlitejournal_test

import (
	"path/filepath"
	"testing"

	"github.com/kelpie-authz/kelpie/limiter"
)

// BenchmarkTake charges one bucket of a quota, with a file and without one.
func BenchmarkTake(b *testing.B) {
	l := &limiter.Limit{Name: "quota", Kind: limiter.KindQuota, Count: 1_000_000_000, Calendar: limiter.CalendarMonth}
	for _, name := range []string{"memory", "kept"} {
		b.Run(name, func(b *testing.B) {
			m, err := limiter.NewMemory(limiter.MemoryConfig{})
			if err != nil {
				b.Fatal(err)
			}
			var lim limiter.Limiter = m
			if name == "kept" {
				k, err := limiter.NewKept(b.Context(), m, open(b, filepath.Join(b.TempDir(), "quotas.db")))
				if err != nil {
					b.Fatal(err)
				}
				lim = k
			}
			defer func() { _ = lim.Close() }()
			calls := []limiter.Call{{Charges: []limiter.Charge{{Limit: l, Key: []byte("bot"), Cost: limiter.Unit}}}}
			for b.Loop() {
				calls[0].Result.Reset()
				if _, err := lim.Take(b.Context(), calls, limiter.StopNever); err != nil || !calls[0].Result.Admitted {
					b.Fatal(err, calls[0].Result.Admitted)
				}
			}
		})
	}
}
