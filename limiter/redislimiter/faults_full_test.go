package redislimiter_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/internal/testkit"
	"github.com/kelpie-authz/kelpie/limiter"
)

// A Redis without room refuses before it has written anything, and nobody is
// admitted meanwhile.
func TestRedisOutOfMemory(t *testing.T) {
	t.Parallel()
	r := testkit.StartRedis(t, testkit.RedisConfig{MaxMemory: "4mb"})
	l := started(t, at(r.URL()))
	charges := []limiter.Charge{units(slow(1000), "k", 1), units(cutQuota(), "q", 1)}
	receipt := take(t, l, charges...).Receipt.Clone()
	junk := strings.Repeat("x", 10_000)
	filled := 0
	direct := r.Client(t)
	for direct.Set(t.Context(), fmt.Sprint("junk", filled), junk, 0).Err() == nil {
		filled++
	}
	for direct.Set(t.Context(), fmt.Sprint("crumb", filled), "x", 0).Err() == nil {
		filled++
	}
	before := values(t, r)
	const calls = 100
	for i := range calls {
		if _, ok := answers(t, l, charges...); ok {
			t.Fatalf("call %d was judged by a Redis without room", i)
		}
	}
	// Asking alone needs no room.
	if got := left(t, l, charges[0]); got < 999*limiter.Unit || got >= 1000*limiter.Unit {
		t.Errorf("%v of 1000 units are left, want 999", float64(got)/float64(limiter.Unit))
	}
	if err := l.Refund(t.Context(), &receipt); !errors.Is(err, limiter.ErrUnavailable) {
		t.Errorf("a refund: %v", err)
	}
	if got := values(t, r); got != before {
		t.Errorf("what is stored has changed:\n%q\nwas\n%q", got, before)
	}
	if s := l.Stats(); s.Opened != 0 || s.Failures != 0 || s.Refused < calls {
		t.Errorf("a Redis that answers: the breaker opened %d times, %d exchanges failed, %d were refused; want 0, 0, at least %d", s.Opened, s.Failures, s.Refused, calls)
	}
	r.Do(t, "config", "set", "maxmemory", "100mb")
	for range 100 {
		if !take(t, l, charges...).Admitted {
			t.Fatal("denied")
		}
	}
	if got := left(t, l, charges[1]); got != 899*limiter.Unit {
		t.Errorf("%v of 1000 units are left, want 899", float64(got)/float64(limiter.Unit))
	}
	t.Logf("%d calls without room in Redis: all unavailable, no byte of %d keys changed; admitted again with the first call that had room", calls, filled+2)
}

// values are the values of all limits.
func values(tb testing.TB, r *testkit.Redis) string {
	tb.Helper()
	client := r.Client(tb)
	keys, err := client.Keys(context.Background(), "t*:1:*").Result()
	if err != nil || len(keys) == 0 {
		tb.Fatalf("%d keys, %v", len(keys), err)
	}
	slices.Sort(keys) // they come in the order of a table that grows
	var all strings.Builder
	for _, key := range keys {
		if strings.Contains(key, "replicas") {
			continue
		}
		value, err := client.Get(context.Background(), key).Result()
		if err != nil {
			tb.Fatal(err)
		}
		all.WriteString(key + "=" + value + "\n")
	}
	return all.String()
}

// What the user may not do counts as refused, and so do denied scans; a script that
// is not known does not.
func TestRefusedByACL(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	l := started(t, at(r.URL()))
	charge := units(slow(1000), "k", 1)
	r.Do(t, "script", "flush")
	take(t, l, charge)
	if s := l.Stats(); s.Refused != 0 {
		t.Errorf("%d refused of a Redis that refuses nothing", s.Refused)
	}
	r.Do(t, "acl", "setuser", "default", "-psetex")
	for range 10 {
		if _, ok := answers(t, l, charge); ok {
			t.Fatal("a call was judged")
		}
	}
	if s := l.Stats(); s.Refused < 10 || s.Failures != 0 || s.Opened != 0 {
		t.Errorf("%d refused, %d failed, opened %d times; want at least 10, 0, 0", s.Refused, s.Failures, s.Opened)
	}
	r.Do(t, "acl", "setuser", "default", "+psetex")
	take(t, l, charge)
}

// A Redis that has become a replica cannot be charged: that is an outage, and
// calls do not go on asking it.
func TestRedisIsDemoted(t *testing.T) {
	t.Parallel()
	r, other := startRedis(t), startRedis(t)
	l := started(t, at(r.URL()))
	charge := units(cutQuota(), "k", 1)
	take(t, l, charge)
	host, port, _ := strings.Cut(other.Addr, ":")
	r.Do(t, "replicaof", host, port)
	o := newLoad(t)
	o.start(l, 8, time.Millisecond, charge)
	o.more(t, unavailable, 2000)
	s := l.Stats()
	t.Logf("2000 calls of a Redis that has become a replica: the breaker opened %d times, %d exchanges failed", s.Opened, s.Failures)
	if n := o.count(admitted) + o.count(denied); n > 0 {
		t.Errorf("%d calls were judged", n)
	}
	if s.Opened == 0 || s.Open != 1 || s.Failures > 100 {
		t.Errorf("the breaker opened %d times, %d are open, %d exchanges failed; want at least 1, 1, and few", s.Opened, s.Open, s.Failures)
	}
	r.Do(t, "replicaof", "no", "one")
	o.more(t, admitted, 20)
	o.end()
	o.documented(t)
}
