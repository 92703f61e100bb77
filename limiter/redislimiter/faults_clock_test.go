package redislimiter_test

import (
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/limiter"
)

// A clock that steps back gives nothing, and one that steps ahead no more than
// the time it shows.
func TestClockSteps(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	begin := time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)
	var clock atomic.Int64 // since begin
	now := func() time.Time { return begin.Add(time.Duration(clock.Load())) }
	cfg := at(r.URL())
	cfg.Clock = now
	replicas := []limiter.Limiter{started(t, cfg), started(t, cfg), started(t, cfg)}
	rate := perSecond(10, 100)
	window := &limiter.Limit{Name: "window", Kind: limiter.KindWindow, Count: 100, Period: 10 * time.Second}
	quota := &limiter.Limit{Name: "quota", Kind: limiter.KindQuota, Count: 100, Calendar: limiter.CalendarHour}
	limits := []*limiter.Limit{rate, window, quota}
	random := rand.New(rand.NewPCG(seed(t), 0))
	turns := 400
	if full() {
		turns = 10_000
	}
	taken, high, back := make([]int, len(limits)), time.Duration(0), 0
	for i, limit := range limits { // the clock's first reading, before which nothing counts
		take(t, replicas[0], units(limit, "k-"+limit.Name, 1))
		taken[i]++
	}
	for range turns {
		step := time.Duration(random.Int64N(int64(10*time.Second))) - 5*time.Second
		if step < 0 {
			back++
		}
		clock.Add(int64(step))
		high = max(high, time.Duration(clock.Load()))
		for i, limit := range limits {
			for range 1 + random.IntN(40) {
				l := replicas[random.IntN(len(replicas))]
				if take(t, l, units(limit, "k-"+limit.Name, 1)).Admitted {
					taken[i]++
				}
			}
		}
	}
	spans := high.Seconds()
	bounds := []int{100 + int(10*spans), 100 * (2 + int(high/window.Period)), 100 * (1 + int(now().Sub(begin)/time.Hour+high/time.Hour))}
	for i, limit := range limits {
		t.Logf("%s: %d admitted, by what the clock showed at its furthest (%v) at most %d; %d of %d steps went back", limit.Name, taken[i], high.Round(time.Second), bounds[i], back, turns)
		if taken[i] > bounds[i] || taken[i] < 100 {
			t.Errorf("%s: %d admitted, want 100 to %d", limit.Name, taken[i], bounds[i])
		}
	}
}
