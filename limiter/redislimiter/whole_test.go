package redislimiter_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/limiter/redislimiter"
)

// stored is every value of a prefix, and when each ends.
type stored struct {
	values map[string]string
	ends   map[string]time.Duration
	writes string
}

// snapshot reads what Redis has under a prefix, and how many writes it has seen.
func snapshot(tb testing.TB, client *redis.Client, prefix string) stored {
	tb.Helper()
	ctx := context.Background()
	s := stored{values: map[string]string{}, ends: map[string]time.Duration{}}
	keys, err := client.Keys(ctx, prefix+":1:*").Result()
	if err != nil {
		tb.Fatal(err)
	}
	pipe := client.Pipeline()
	values, ends := make([]*redis.StringCmd, len(keys)), make([]*redis.DurationCmd, len(keys))
	for i, key := range keys {
		values[i], ends[i] = pipe.Dump(ctx, key), pipe.PTTL(ctx, key)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		tb.Fatal(err)
	}
	for i, key := range keys {
		s.values[key], s.ends[key] = values[i].Val(), ends[i].Val()
	}
	info := client.Info(ctx, "commandstats").Val()
	for line := range strings.Lines(info) {
		name, rest, _ := strings.Cut(line, ":")
		if name == "cmdstat_set" || name == "cmdstat_psetex" {
			calls, _, _ := strings.Cut(rest, ",")
			s.writes += name + " " + calls + "; "
		}
	}
	return s
}

// unchanged fails unless what Redis has is what it had, and ends no later.
func (s stored) unchanged(tb testing.TB, now stored) {
	tb.Helper()
	if len(now.values) != len(s.values) {
		tb.Fatalf("%d values, before %d", len(now.values), len(s.values))
	}
	for key, value := range s.values {
		if now.values[key] != value {
			tb.Fatalf("%s was changed", key)
		}
		if now.ends[key] > s.ends[key] || now.ends[key] <= 0 {
			tb.Fatalf("%s ends in %v, before in %v", key, now.ends[key], s.ends[key])
		}
	}
	if now.writes != s.writes {
		tb.Fatalf("Redis wrote: %s before %s", now.writes, s.writes)
	}
}

// TestDeniedWritesNothing: after any number of denied calls over several limits
// every stored byte is as it was, and nothing lives longer.
func TestDeniedWritesNothing(t *testing.T) {
	t.Parallel()
	n := 1_000
	if full() {
		n = 10_000
	}
	for name, long := range map[string]bool{"short": false, "long": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startRedis(t)
			client := server.Client(t)
			cfg := at(server.URL())
			cfg.NoDenyCache = true // each call is to reach Redis
			l := started(t, cfg)
			deniedWritesNothing(t, l, client, cfg.Prefix, n, long)
		})
	}
}

const agents = 20

func deniedWritesNothing(t *testing.T, l *redislimiter.Limiter, client *redis.Client, prefix string, n int, long bool) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed(t), 3))
	limits := []*limiter.Limit{
		slow(20),
		{Name: "quota", Kind: limiter.KindQuota, Count: 20, Calendar: limiter.CalendarMonth},
	}
	if long {
		limits = append(limits,
			&limiter.Limit{Name: "window", Kind: limiter.KindWindow, Count: 20, Period: 100 * 24 * time.Hour},
			&limiter.Limit{Name: "concurrency", Kind: limiter.KindConcurrency, Count: 20, Hold: 24 * time.Hour})
	}
	charge := func(agent, limit int, n int64) limiter.Charge {
		home := fmt.Sprint("agent", agent)
		c := units(limits[limit], fmt.Sprintf("%s/limit%d", home, limit), n)
		c.Home = len(home)
		return c
	}
	// Each agent's first limit is at its end, the others are anywhere.
	for a := range agents {
		take(t, l, charge(a, 0, 20))
		for i := 1; i < len(limits); i++ {
			take(t, l, charge(a, i, 1+rng.Int64N(15)))
		}
	}
	before := snapshot(t, client, prefix)
	if len(before.values) != agents {
		t.Fatalf("%d values of %d agents: %v", len(before.values), agents, client.Keys(context.Background(), "*").Val())
	}
	for i := range n {
		var charges []limiter.Charge
		for range 1 + rng.IntN(4) {
			charges = append(charges, charge(rng.IntN(agents+5), 1+rng.IntN(len(limits)-1), 1+rng.Int64N(2)))
		}
		charges = append(charges, charge(rng.IntN(agents), 0, 1))
		rng.Shuffle(len(charges), func(i, j int) { charges[i], charges[j] = charges[j], charges[i] })
		if res := take(t, l, charges...); res.Admitted || !res.Receipt.Empty() {
			t.Fatalf("call %d was admitted: %+v", i, res)
		}
		if i%250 == 249 {
			before.unchanged(t, snapshot(t, client, prefix))
		}
	}
	before.unchanged(t, snapshot(t, client, prefix))
	t.Logf("%d denied calls left %d values as they were", n, agents)
}
