package redislimiter_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/internal/testkit"
	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/limiter/limitertest"
	"github.com/kelpie-authz/kelpie/limiter/redislimiter"
)

const ownClock = "Redis's own clock is looked at"

// driver runs the suite on the Redis of a URL, in prefixes of their own.
func driver(url string, edit func(*redislimiter.Config)) limitertest.Driver {
	return limitertest.Driver{Open: func(tb testing.TB, clock func() time.Time) limiter.Limiter {
		tb.Helper()
		cfg := at(url)
		cfg.Clock = clock
		if edit != nil {
			edit(&cfg)
		}
		return openWith(tb, cfg)
	}}
}

// conforms fails unless so many cases of the suite ran and the others were left
// out.
func conforms(t *testing.T, r limitertest.Report, ran, cases int) {
	t.Helper()
	if r.Ran != ran || r.Ran+len(r.LeftOut) != cases {
		t.Errorf("%d cases ran and %d were left out (%v); want %d of %d", r.Ran, len(r.LeftOut), r.LeftOut, ran, cases)
	}
}

const (
	suiteCases    = 45
	timelessCases = 28 // those that need not move time
)

func TestConforms(t *testing.T) {
	t.Parallel()
	url := startRedis(t).URL()
	for name, edit := range map[string]func(*redislimiter.Config){
		"as_it_is":      nil,
		"no_coalescing": func(c *redislimiter.Config) { c.NoCoalescing = true },
		"no_deny_cache": func(c *redislimiter.Config) { c.NoDenyCache = true },
		"the_long_way":  redislimiter.TheLongWay,
	} {
		if strings.HasPrefix(name, "no_") && !full() {
			continue // as below, where no property asks Redis for long
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conforms(t, limitertest.Run(t, driver(url, edit)), suiteCases, limitertest.Cases())
		})
	}
}

func TestConformsByTheClockOfRedis(t *testing.T) {
	t.Parallel()
	url := startRedis(t).URL()
	for name, edit := range map[string]func(*redislimiter.Config){
		"as_it_is":      func(c *redislimiter.Config) { c.Clock = nil },
		"no_coalescing": func(c *redislimiter.Config) { c.Clock, c.NoCoalescing = nil, true },
		"no_deny_cache": func(c *redislimiter.Config) { c.Clock, c.NoDenyCache = nil, true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := driver(url, edit)
			d.NoClock = ownClock
			conforms(t, limitertest.Run(t, d), timelessCases, limitertest.Cases())
		})
	}
}

func TestConformsBehindSentinels(t *testing.T) {
	t.Parallel()
	s := testkit.StartRedisSentinel(t)
	conforms(t, limitertest.Run(t, driver(s.URL(), nil)), suiteCases, limitertest.Cases())
}

func TestConformsInACluster(t *testing.T) {
	t.Parallel()
	c := testkit.StartRedisCluster(t)
	conforms(t, limitertest.Run(t, driver(c.URL(), nil)), suiteCases, limitertest.Cases())
}

// ledgers runs the suite of ledgers; the twin of one is that of another replica.
func ledgers(url string) limitertest.LedgerDriver {
	var mu sync.Mutex
	prefix := map[limiter.Ledger]string{}
	open := func(tb testing.TB, cfg redislimiter.Config) limiter.Ledger {
		tb.Helper()
		g := started(tb, cfg).Ledger()
		mu.Lock()
		defer mu.Unlock()
		prefix[g] = cfg.Prefix
		return g
	}
	return limitertest.LedgerDriver{
		NoClock: ownClock,
		Open: func(tb testing.TB, _ func() time.Time) limiter.Ledger {
			tb.Helper()
			return open(tb, at(url))
		},
		Twin: func(tb testing.TB, g limiter.Ledger) limiter.Ledger {
			tb.Helper()
			cfg := at(url)
			mu.Lock()
			cfg.Prefix = prefix[g]
			mu.Unlock()
			return open(tb, cfg)
		},
	}
}

func TestLedgerConforms(t *testing.T) {
	t.Parallel()
	for name, url := range map[string]string{
		"one_server": startRedis(t).URL(),
		"cluster":    testkit.StartRedisCluster(t).URL(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conforms(t, limitertest.RunLedger(t, ledgers(url)), 8, limitertest.LedgerCases())
		})
	}
}

func TestInspectorConforms(t *testing.T) {
	t.Parallel()
	for name, url := range map[string]string{
		"one_server": startRedis(t).URL(),
		"cluster":    testkit.StartRedisCluster(t).URL(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conforms(t, limitertest.RunInspector(t, driver(url, nil)), 8, limitertest.InspectorCases())
			d := driver(url, func(c *redislimiter.Config) { c.Clock = nil })
			d.NoClock = ownClock
			conforms(t, limitertest.RunInspector(t, d), 7, limitertest.InspectorCases())
		})
	}
}
