package limiter_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"
	"testing/synctest"
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
	const cases = 45
	if report.Ran != cases || limitertest.Cases() != cases || len(report.LeftOut) != 0 {
		t.Fatalf("%d of %d cases ran and %v were left out, want %d and none", report.Ran, limitertest.Cases(), report.LeftOut, cases)
	}
}

func hourly(burst int64) *limiter.Limit {
	return &limiter.Limit{Name: "hourly", Kind: limiter.KindRate, Count: burst, Burst: burst, Period: time.Hour}
}

// takeOne charges one unit of l and returns the error.
func takeOne(m *limiter.Memory, l *limiter.Limit, key string) (limiter.Result, error) {
	calls := []limiter.Call{{Charges: []limiter.Charge{{Limit: l, Key: []byte(key), Cost: limiter.Unit}}}}
	_, err := m.Take(context.Background(), calls, limiter.StopNever)
	return calls[0].Result, err
}

func TestMemoryConfig(t *testing.T) {
	t.Parallel()
	for _, cfg := range []limiter.MemoryConfig{{MaxKeys: -1}, {Shards: -1}, {Shards: 3}, {Shards: 1 << 17}} {
		if _, err := limiter.NewMemory(cfg); err == nil {
			t.Errorf("NewMemory(%+v) succeeded", cfg)
		}
	}
}

// TestMemoryFull: a full table refuses new buckets, serves the old ones, and
// forgets none that is in use; when one is idle there is room again.
func TestMemoryFull(t *testing.T) {
	t.Parallel()
	clock := limitertest.NewClock(time.Date(2026, time.June, 17, 12, 0, 0, 0, time.UTC))
	const keys = 100
	m := newMemory(t, limiter.MemoryConfig{Clock: clock.Now, MaxKeys: keys, Shards: 8})
	l := hourly(2)
	for i := range keys {
		if _, err := takeOne(m, l, fmt.Sprint(i)); err != nil {
			t.Fatalf("key %d: %v", i, err)
		}
	}
	for i := range 3 * keys {
		if _, err := takeOne(m, l, fmt.Sprint("new ", i)); !errors.Is(err, limiter.ErrFull) {
			t.Fatalf("new key %d: %v, want ErrFull", i, err)
		}
	}
	if res, err := takeOne(m, l, "7"); err != nil || !res.Admitted {
		t.Fatalf("known key: %+v, %v", res, err)
	}
	if res, err := takeOne(m, l, "7"); err != nil || res.Admitted {
		t.Fatalf("known key beyond its burst: %+v, %v", res, err)
	}
	if m.Len() != keys || m.Evictions() != 0 {
		t.Fatalf("%d keys, %d evictions; want %d, 0", m.Len(), m.Evictions(), keys)
	}
	// A call that needs two new buckets gets both or none.
	clock.Advance(30 * time.Minute) // all but key 7 are full again
	if res, err := takeOne(m, l, "newcomer"); err != nil || !res.Admitted {
		t.Fatalf("after half an hour: %+v, %v", res, err)
	}
	if m.Len() != 2 || m.Evictions() != keys-1 {
		t.Fatalf("%d keys, %d evictions; want 2, %d", m.Len(), m.Evictions(), keys-1)
	}
	if res, err := takeOne(m, l, "7"); err != nil || !res.Admitted || res.Limits[0].Remaining != 0 {
		t.Fatalf("the key in use was forgotten: %+v, %v", res, err)
	}
}

// TestMemoryFullNeedsAll: with room for one bucket, a call that needs two
// fails and leaves nothing behind, and one that needs the same one twice fits.
func TestMemoryFullNeedsAll(t *testing.T) {
	t.Parallel()
	m := newMemory(t, limiter.MemoryConfig{MaxKeys: 1})
	l := hourly(5)
	charge := func(keys ...string) error {
		var charges []limiter.Charge
		for _, k := range keys {
			charges = append(charges, limiter.Charge{Limit: l, Key: []byte(k), Cost: limiter.Unit})
		}
		_, err := m.Take(context.Background(), []limiter.Call{{Charges: charges}}, limiter.StopNever)
		return err
	}
	if err := charge("a", "b"); !errors.Is(err, limiter.ErrFull) || m.Len() != 0 {
		t.Fatalf("two new buckets: %v with %d kept; want ErrFull and none", err, m.Len())
	}
	if err := charge("a", "a"); err != nil || m.Len() != 1 {
		t.Fatalf("one new bucket twice: %v with %d kept", err, m.Len())
	}
}

// TestMemoryBatchFull: the calls before the one that found no room are judged
// and charged, and counted.
func TestMemoryBatchFull(t *testing.T) {
	t.Parallel()
	m := newMemory(t, limiter.MemoryConfig{MaxKeys: 2})
	calls := make([]limiter.Call, 4)
	for i := range calls {
		calls[i].Charges = []limiter.Charge{{Limit: hourly(5), Key: []byte{byte(i)}, Cost: limiter.Unit}}
	}
	n, err := m.Take(context.Background(), calls, limiter.StopNever)
	if n != 2 || !errors.Is(err, limiter.ErrFull) || !calls[1].Result.Admitted || calls[2].Result.Admitted {
		t.Fatalf("Take = %d, %v with %+v; want 2, ErrFull", n, err, calls[2].Result)
	}
}

// TestMemoryForgetsIdle: charges sweep what is idle, without Sweep and without
// a full table, so a day of passing agents does not pile up.
func TestMemoryForgetsIdle(t *testing.T) {
	t.Parallel()
	clock := limitertest.NewClock(time.Date(2026, time.June, 17, 0, 0, 0, 0, time.UTC))
	m := newMemory(t, limiter.MemoryConfig{Clock: clock.Now, Shards: 4})
	limits := []*limiter.Limit{
		{Name: "rate", Kind: limiter.KindRate, Count: 60, Burst: 60, Period: time.Minute},
		{Name: "window", Kind: limiter.KindWindow, Count: 60, Period: time.Minute},
		{Name: "quota", Kind: limiter.KindQuota, Count: 60, Calendar: limiter.CalendarMinute},
		{Name: "slots", Kind: limiter.KindConcurrency, Count: 60, Hold: time.Minute},
	}
	most := 0
	for i := range 20_000 {
		clock.Advance(100 * time.Millisecond)
		if _, err := takeOne(m, limits[i%4], fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
		most = max(most, m.Len())
	}
	// 600 charges a minute, each in use for up to a minute and a sixteenth.
	if most > 2000 {
		t.Errorf("%d buckets were kept at once, want about 600 and less than 2,000", most)
	}
	clock.Advance(time.Hour)
	if m.Sweep(); m.Len() != 0 || m.Evictions() != 20_000 {
		t.Errorf("%d buckets, %d evictions after Sweep; want 0, 20,000", m.Len(), m.Evictions())
	}
}

// TestMemorySweptQuotaIsNotEnteredAgain: yesterday's bucket is gone, the clock
// steps back to yesterday, and yesterday's quota does not start anew.
func TestMemorySweptQuotaIsNotEnteredAgain(t *testing.T) {
	t.Parallel()
	clock := limitertest.NewClock(time.Date(2026, time.June, 17, 23, 59, 0, 0, time.UTC))
	m := newMemory(t, limiter.MemoryConfig{Clock: clock.Now, Shards: 1})
	l := &limiter.Limit{Name: "daily", Kind: limiter.KindQuota, Count: 1, Calendar: limiter.CalendarDay}
	if res, err := takeOne(m, l, "k"); err != nil || !res.Admitted {
		t.Fatalf("first: %+v, %v", res, err)
	}
	clock.Advance(2 * time.Minute)
	if n := m.Sweep(); n != 1 {
		t.Fatalf("swept %d, want 1", n)
	}
	clock.Advance(-2 * time.Minute)
	if res, err := takeOne(m, l, "k"); err != nil || !res.Admitted || res.Limits[0].Reset != 24*time.Hour+time.Minute {
		t.Fatalf("back in yesterday: %+v, %v; want today's quota", res, err)
	}
	clock.Advance(2 * time.Minute)
	if res, err := takeOne(m, l, "k"); err != nil || res.Admitted {
		t.Fatalf("today: %+v, %v; want denied, as today's unit was given", res, err)
	}
}

// TestMemoryBound: what very many buckets take, and that it comes back.
//
//nolint:paralleltest // It measures the heap, which parallel tests would change.
func TestMemoryBound(t *testing.T) {
	keys := 200_000
	if os.Getenv("KELPIE_PROOF") == "full" {
		keys = 1_000_000
	}
	clock := limitertest.NewClock(time.Date(2026, time.June, 17, 12, 0, 0, 0, time.UTC))
	heap := func() int64 {
		runtime.GC()
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return int64(s.HeapAlloc)
	}
	m := newMemory(t, limiter.MemoryConfig{Clock: clock.Now, MaxKeys: keys})
	before := heap()
	l := hourly(100)
	key := make([]byte, 0, 32)
	calls := []limiter.Call{{Charges: []limiter.Charge{{Limit: l, Cost: limiter.Unit}}}}
	for i := range 2 * keys {
		key = fmt.Appendf(key[:0], "6:hourly13:agent-%07d", i)
		calls[0].Charges[0].Key = key
		if _, err := m.Take(context.Background(), calls, limiter.StopNever); (err != nil) != (i >= keys) {
			t.Fatalf("key %d: %v", i, err)
		}
	}
	per := (heap() - before) / int64(keys)
	t.Logf("%d bytes per bucket of a rate with a key of 27 bytes", per)
	if per > 300 {
		t.Errorf("%d bytes per bucket, want at most 300", per)
	}
	clock.Advance(time.Hour)
	m.Sweep()
	if left := heap() - before; left > 1<<20 || m.Len() != 0 {
		t.Errorf("%d bytes and %d buckets after all were idle", left, m.Len())
	}
	runtime.KeepAlive(m)
}

// TestTakeDoesNotAllocate on the hot path: known keys, reused calls.
//
//nolint:paralleltest // testing.AllocsPerRun counts what the whole process allocates.
func TestTakeDoesNotAllocate(t *testing.T) {
	m := newMemory(t, limiter.MemoryConfig{})
	limits := append(benchLimits(), &limiter.Limit{Name: "slots", Kind: limiter.KindConcurrency, Count: 100, Hold: time.Hour})
	for n := 1; n <= len(limits); n++ {
		calls := []limiter.Call{{Charges: charges(n, limits, 1)}, {Charges: charges(n, limits, 2)}}
		take := func() {
			if _, err := m.Take(context.Background(), calls, limiter.StopNever); err != nil {
				t.Fatal(err)
			}
		}
		for range 200 { // the list of holds grows until it is full
			take()
		}
		if got := testing.AllocsPerRun(200, take); got != 0 {
			t.Errorf("%v allocations with %d charges, want none", got, n)
		}
	}
}

// TestMemoryRealClock: the default clock and what the others run on agree.
func TestMemoryRealClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, limiter.MemoryConfig{})
		l := &limiter.Limit{Name: "r", Kind: limiter.KindRate, Count: 1, Burst: 1, Period: time.Minute}
		if res, err := takeOne(m, l, "k"); err != nil || !res.Admitted {
			t.Fatalf("first: %+v, %v", res, err)
		}
		res, err := takeOne(m, l, "k")
		if err != nil || res.Admitted || res.Limits[0].RetryAfter != time.Minute {
			t.Fatalf("second: %+v, %v", res, err)
		}
		<-time.After(res.Limits[0].RetryAfter) // the bubble's clock: nobody waits
		if res, err := takeOne(m, l, "k"); err != nil || !res.Admitted {
			t.Fatalf("after the wait: %+v, %v", res, err)
		}
	})
}

func ExampleMemory() {
	lim, err := limiter.NewMemory(limiter.MemoryConfig{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer lim.Close()
	perDay := &limiter.Limit{Name: "euros", Kind: limiter.KindRate, Count: 1, Burst: 1, Period: 24 * time.Hour}
	calls := []limiter.Call{{Charges: []limiter.Charge{
		{Limit: perDay, Key: []byte("5:euros11:lead-router"), Cost: 600_000}, // 0.60
	}}}
	for range 2 {
		if _, err := lim.Take(context.Background(), calls, limiter.StopNever); err != nil {
			fmt.Println(err)
			return
		}
		st := calls[0].Result.Limits[0]
		fmt.Println(calls[0].Result.Admitted, st.RetryAfter.Round(time.Hour))
	}
	// Output:
	// true 0s
	// false 5h0m0s
}
