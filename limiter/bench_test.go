package limiter_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/limiter"
)

func wideRate(name string) *limiter.Limit {
	return &limiter.Limit{Name: name, Kind: limiter.KindRate, Count: 1_000_000, Burst: 1_000_000, Period: time.Second}
}

func charges(n int, limits []*limiter.Limit, agent int) []limiter.Charge {
	cs := make([]limiter.Charge, n)
	for i := range cs {
		cs[i] = limiter.Charge{
			Limit: limits[i],
			Key:   fmt.Appendf(nil, "6:limit%d12:agent-%06d", i, agent),
			Cost:  limiter.Unit,
		}
	}
	return cs
}

func benchLimits() []*limiter.Limit {
	return []*limiter.Limit{
		wideRate("per-agent"),
		{Name: "window", Kind: limiter.KindWindow, Count: 1_000_000_000, Period: time.Second},
		{Name: "quota", Kind: limiter.KindQuota, Count: 1_000_000_000, Calendar: limiter.CalendarDay},
	}
}

func newMemory(tb testing.TB, cfg limiter.MemoryConfig) *limiter.Memory {
	tb.Helper()
	m, err := limiter.NewMemory(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

func BenchmarkTake(b *testing.B) {
	for _, n := range []int{1, 2, 3} {
		b.Run(fmt.Sprintf("charges=%d", n), func(b *testing.B) {
			m := newMemory(b, limiter.MemoryConfig{})
			calls := []limiter.Call{{Charges: charges(n, benchLimits(), 1)}}
			ctx := context.Background()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := m.Take(ctx, calls, limiter.StopNever); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkTakeParallel(b *testing.B) {
	for _, n := range []int{1, 3} {
		b.Run(fmt.Sprintf("charges=%d", n), func(b *testing.B) {
			m := newMemory(b, limiter.MemoryConfig{})
			var worker atomic.Int64
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				w := int(worker.Add(1))
				calls := make([]limiter.Call, 64)
				for i := range calls {
					calls[i].Charges = charges(n, benchLimits(), w*1000+i)
				}
				ctx := context.Background()
				for i := 0; pb.Next(); i++ {
					if _, err := m.Take(ctx, calls[i%64:i%64+1], limiter.StopNever); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

func BenchmarkTakeHotKeyParallel(b *testing.B) {
	m := newMemory(b, limiter.MemoryConfig{})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		calls := []limiter.Call{{Charges: charges(1, benchLimits(), 1)}}
		for pb.Next() {
			if _, err := m.Take(context.Background(), calls, limiter.StopNever); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func BenchmarkTakeDenied(b *testing.B) {
	m := newMemory(b, limiter.MemoryConfig{})
	limit := &limiter.Limit{Name: "slow", Kind: limiter.KindRate, Count: 1, Burst: 1, Period: 24 * time.Hour}
	calls := []limiter.Call{{Charges: []limiter.Charge{{Limit: limit, Key: []byte("k"), Cost: limiter.Unit}}}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.Take(context.Background(), calls, limiter.StopNever); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkTakeMillionKeys charges a million buckets in turn: what it costs
// when neither the bucket nor its map entry is in the CPU's caches.
func BenchmarkTakeMillionKeys(b *testing.B) {
	const agents = 1_000_000
	m := newMemory(b, limiter.MemoryConfig{MaxKeys: agents})
	limit := &limiter.Limit{Name: "calls", Kind: limiter.KindRate, Count: 1000, Burst: 1_000_000, Period: time.Hour}
	key := make([]byte, 0, 64)
	calls := []limiter.Call{{Charges: []limiter.Charge{{Limit: limit, Cost: limiter.Unit}}}}
	take := func(agent int) {
		key = fmt.Appendf(key[:0], "5:calls12:agent-%06d", agent)
		calls[0].Charges[0].Key = key
		if _, err := m.Take(context.Background(), calls, limiter.StopNever); err != nil {
			b.Fatal(err)
		}
	}
	for i := range agents {
		take(i)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		take(i * 7919 % agents)
	}
}
