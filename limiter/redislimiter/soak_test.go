package redislimiter_test

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/internal/testkit"
	"github.com/kelpie-authz/kelpie/limiter"
)

// grace is how long a value stays after it is idle.
const grace = 60 * time.Second

// touch charges one unit of limits of so many agents, a thousand at a time.
func touch(tb testing.TB, l limiter.Limiter, limits []*limiter.Limit, name func(int) string, n int) {
	tb.Helper()
	const batch = 1000
	calls := make([]limiter.Call, batch)
	for first := 0; first < n; first += batch {
		for i := range calls {
			home := name(first + i)
			calls[i].Charges = calls[i].Charges[:0]
			for _, limit := range limits {
				calls[i].Charges = append(calls[i].Charges, limiter.Charge{
					Limit: limit, Key: []byte(home + limit.Name), Home: len(home), Slot: len(home), Cost: limiter.Unit,
				})
			}
		}
		if done, err := l.Take(context.Background(), calls, limiter.StopNever); done != batch || err != nil {
			tb.Fatalf("%d, %v", done, err)
		}
		for i := range calls {
			if !calls[i].Result.Admitted {
				tb.Fatalf("%s was denied at its first call", name(first+i))
			}
		}
	}
}

func memoryOf(tb testing.TB, r *testkit.Redis) int64 {
	tb.Helper()
	n, err := strconv.ParseInt(r.Info(tb, "used_memory"), 10, 64)
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

// lifetimes are the shortest and the longest that values of a prefix live from
// now on; below zero is for ever.
const lifetimes = `local least, most = 1e15, -1e15
for _, key in ipairs(redis.call('KEYS', ARGV[1])) do
  local t = redis.call('PTTL', key)
  least, most = math.min(least, t), math.max(most, t)
end
return {least, most}`

// TestMemoryPerAgent: what an agent that came once costs, and that nothing of it
// stays: each value ends by itself soon after it is idle.
func TestMemoryPerAgent(t *testing.T) { //nolint:tparallel // One at a time, as each fills a Redis.
	t.Parallel()
	n := 20_000
	if full() {
		n = 1_000_000
	}
	rate := func(name string, period time.Duration) *limiter.Limit {
		return &limiter.Limit{Name: name, Kind: limiter.KindRate, Count: 10, Burst: 10, Period: period}
	}
	agent := func(i int) string { return fmt.Sprintf("agent/%021d", i) } // 27 bytes
	for _, c := range []struct {
		name   string
		limits []*limiter.Limit
		most   int64         // bytes of one agent
		idle   time.Duration // how long until all that it was charged is given back
	}{
		{"one rate", []*limiter.Limit{rate("/s", time.Second)}, 300, 100 * time.Millisecond},
		{"three rates", []*limiter.Limit{rate("/s", time.Second), rate("/m", time.Minute), rate("/h", time.Hour)}, 450, 6 * time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := startRedis(t)
			cfg := at(server.URL())
			l := started(t, cfg)
			take(t, l, units(c.limits[0], "warm", 1))
			server.Do(t, "debug", "set-active-expire", "0") // nothing goes while it is counted
			before := memoryOf(t, server)
			start := time.Now()
			touch(t, l, c.limits, agent, n)
			took := time.Since(start)
			each := (memoryOf(t, server) - before) / int64(n)
			if each > c.most || each < 50 {
				t.Errorf("%d bytes of an agent, want at most %d", each, c.most)
			}
			got, _ := server.Do(t, "eval", lifetimes, 0, cfg.Prefix+":1:*").([]any)
			least, _ := got[0].(int64)
			most, _ := got[1].(int64)
			t.Logf("%d agents with %s each, touched in %v: %d bytes of Redis an agent; the values end in %d to %d ms", n, c.name, took.Round(time.Millisecond), each, least, most)
			// One that has ended already, and is not looked at, has none.
			if longest := (c.idle + grace + time.Second).Milliseconds(); most > longest || most < grace.Milliseconds()/2 {
				t.Errorf("a value ends in %d ms, want at most %d", most, longest)
			}
			if least == -1 {
				t.Error("a value never ends")
			}
			server.Do(t, "debug", "set-active-expire", "1")
			if full() && c.idle < time.Second {
				empties(t, server, cfg.Prefix, memoryOf(t, server))
			}
		})
	}
}

// empties waits until nothing of a prefix is left, and memory with it.
func empties(t *testing.T, server *testkit.Redis, prefix string, filled int64) {
	t.Helper()
	client := server.Client(t)
	deadline := time.NewTimer(2 * grace)
	defer deadline.Stop()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for left := int64(-1); left != 0; {
		select {
		case <-deadline.C:
			t.Fatalf("%d keys are left after %v", left, 2*grace)
		case <-tick.C:
		}
		// That which says how many replicas there are stays.
		left = client.DBSize(context.Background()).Val() - client.Exists(context.Background(), prefix+":replicas:1:{all}").Val()
	}
	now := memoryOf(t, server)
	t.Logf("idle, no key is left, and Redis has %d bytes in use of %d", now, filled)
	if now > filled/10+10_000_000 {
		t.Errorf("%d of %d bytes are in use with nothing stored", now, filled)
	}
}
