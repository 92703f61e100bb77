package redislimiter_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/internal/testkit"
	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/limiter/redislimiter"
)

// lossKinds are limits of fifty of each kind that is remembered, which give back
// none of it while a test runs.
func lossKinds() map[string]*limiter.Limit {
	return map[string]*limiter.Limit{
		"rate":   slow(50),
		"window": {Name: "window", Kind: limiter.KindWindow, Count: 50, Period: 24 * time.Hour},
		"quota":  {Name: "quota", Kind: limiter.KindQuota, Count: 50, Calendar: limiter.CalendarMonth},
	}
}

// loseAll kills a Redis that keeps nothing on disk, lets both replicas notice or
// not, and starts it again.
func loseAll(tb testing.TB, r *testkit.Redis, noticed bool, replicas ...*redislimiter.Limiter) {
	tb.Helper()
	r.Kill(tb)
	for _, l := range replicas {
		if noticed {
			if _, ok := answers(tb, l, units(slow(1), "other", 1)); ok {
				tb.Error("answered by a Redis that is gone")
			}
		}
	}
	r.Restart(tb)
	for _, l := range replicas {
		testkit.Eventually(tb, "no open breaker", func() bool { return l.Stats().Open == 0 })
	}
}

// What a replica knows of a bucket is not lost with Redis: it puts it back. What
// the others had charged beyond that can be admitted again by this one, until
// they put back what they know.
func TestRedisLosesEverything(t *testing.T) {
	t.Parallel()
	for name, limit := range lossKinds() {
		for _, noticed := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/noticed=%v", name, noticed), func(t *testing.T) {
				t.Parallel()
				loses(t, startRedis(t), limit, noticed)
			})
		}
	}
}

func loses(t *testing.T, r *testkit.Redis, limit *limiter.Limit, noticed bool) {
	t.Helper()
	cfg := at(r.URL())
	cfg.NoDenyCache = true
	// One has seen it used up, the other one thirty of fifty.
	knows, less := started(t, cfg), started(t, cfg)
	refill := func() limiter.Charge {
		charge := units(limit, fmt.Sprint("k", time.Now().UnixNano()), 1)
		for range 30 {
			take(t, less, charge)
		}
		if n := drain(t, knows, charge); n != 20 {
			t.Fatalf("%d admitted beside 30, want 20", n)
		}
		return charge
	}
	charge := refill()
	loseAll(t, r, noticed, knows, less)
	first := drain(t, knows, charge)
	second := drain(t, less, charge)
	t.Logf("of 50, %d were admitted again by the replica that knew them used up, then %d by the one that knew of 30", first, second)
	if first > 0 || second > 0 {
		t.Errorf("%d and %d admitted above 50, want none", first, second)
	}
	charge = refill()
	loseAll(t, r, noticed, knows, less)
	first, second = drain(t, less, charge), drain(t, knows, charge)
	t.Logf("where the one that knew of 30 came first, it was admitted %d, and then the other one %d", first, second)
	// Nobody but the other one knew of twenty; and a replica that did not notice
	// the loss learns of it by its first call.
	most := 0
	if !noticed {
		most = 1
	}
	if first != 20 || second > most {
		t.Errorf("%d and %d admitted above 50, want 20 and at most %d", first, second, most)
	}
}

// A replica that another one came before, after a flush that it could not notice
// otherwise, has it from its heartbeat.
func TestFlushIsNoticedByTheHeartbeat(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	cfg := at(r.URL())
	cfg.NoDenyCache = true
	knows, other := started(t, cfg), started(t, cfg)
	testkit.Eventually(t, "two replicas", func() bool { return knows.Replicas() == 2 && other.Replicas() == 2 })
	charge := units(slow(1000), "k", 1)
	take(t, knows, units(slow(1000), "k", 999))
	take(t, other, units(slow(1000), "another", 1))
	r.Do(t, "flushall")
	over, flushed := 0, time.Now()
	if take(t, other, charge).Admitted {
		over++
	}
	testkit.Eventually(t, "a denial", func() bool {
		if !take(t, knows, charge).Admitted {
			return true
		}
		over++
		return false
	})
	t.Logf("%d of 1000 admitted again in the %v until the heartbeat noticed that all was lost", over, time.Since(flushed))
	if since := time.Since(flushed); since > 3*time.Second {
		t.Errorf("noticed after %v", since)
	}
}

// What was given back does not come back when its value has expired or was lost:
// not a slot, and not a unit of the replica that gave it back.
func TestWhatWasGivenBackStaysSo(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	for name, limit := range map[string]*limiter.Limit{
		"concurrency": {Name: "slots", Kind: limiter.KindConcurrency, Count: 1, Hold: time.Hour},
		"rate":        slow(1),
	} {
		cfg := at(r.URL())
		cfg.NoDenyCache = true
		l := started(t, cfg)
		gives := l
		if limit.Kind == limiter.KindConcurrency {
			gives = started(t, cfg) // whoever gives a slot back
		}
		charge := units(limit, "k", 1)
		for i := range 5 {
			res := take(t, l, charge)
			if !res.Admitted {
				t.Fatalf("%s: denied at turn %d, though all was given back", name, i)
			}
			if err := gives.Refund(t.Context(), &res.Receipt); err != nil {
				t.Fatal(err)
			}
			r.Do(t, "del", redislimiter.HomeKey(cfg.Prefix, []byte("k"), 0, 0)) // as when it expires
			if i == 3 {
				loseAll(t, r, true, l, gives)
			}
		}
	}
}

// A Redis that is killed and comes back empty is used again, without a restart
// of anything, and what was charged is put back by those who were told.
func TestRedisIsKilledUnderLoad(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	limit := perSecond(500, 500)
	o := newLoad(t)
	late := hiccups(t)
	const replicas, callers = 2, 8
	var all []*redislimiter.Limiter
	cfg := asDeployed(r.URL())
	for range replicas {
		l := started(t, cfg)
		all = append(all, l)
		o.start(l, callers, 2*time.Millisecond, units(limit, "k", 1))
	}
	o.more(t, admitted, 600)
	times := 3
	if full() {
		times = 50
	}
	var longest time.Duration
	for range times {
		r.Kill(t)
		o.more(t, unavailable, 2*replicas*callers)
		r.Restart(t)
		at := time.Now()
		o.more(t, admitted, 100)
		back, _ := o.first(admitted, at)
		longest = max(longest, back)
		haveCalled(t, all)
	}
	o.end()
	o.documented(t)
	n, bound := o.count(admitted), o.most(limit)
	over := max(0, n-bound)
	t.Logf("killed and restarted empty %d times under %d callers: admitted again at most %v after it listened; %d admitted, %d by burst and rate alone: %.1f more for each", times, replicas*callers, longest, n, bound, float64(over)/float64(times))
	if slack := late(); longest > 600*time.Millisecond+slack {
		t.Errorf("admitted again only after %v, want at most 600ms and %v that the machine was late", longest, slack)
	}
	// What was under way is not known to those who put back what they know.
	if most := times * replicas * callers; over > most {
		t.Errorf("%d admitted above %d, want at most %d", over, bound, most)
	}
	for _, l := range all {
		if s := l.Stats(); s.Open != 0 || s.Opened == 0 || s.Floors == 0 {
			t.Errorf("after it all: %+v", s)
		}
	}
}

// haveCalled waits until each replica has had an answer from Redis.
func haveCalled(tb testing.TB, all []*redislimiter.Limiter) {
	tb.Helper()
	for i, l := range all {
		before := l.Stats().Calls
		testkit.Eventually(tb, fmt.Sprintf("an answer to replica %d", i), func() bool { return l.Stats().Calls > before })
	}
}

// What only a replica that is away was told is lost with Redis, until that
// replica is back. That is the most that a loss can cost.
func TestWhoeverKnowsIsAway(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	cut := testkit.StartCutProxy(t, r.Addr)
	cfg := at(r.URL())
	cfg.NoDenyCache = true
	knows, ignorant := beside(t, cfg, "redis://"+cut.Addr), started(t, cfg)
	charge := units(slow(100), "k", 1)
	if n := drain(t, knows, charge); n != 100 {
		t.Fatalf("%d admitted, want 100", n)
	}
	cut.Refuse()
	cut.Drop()
	r.Kill(t)
	r.Restart(t)
	testkit.Eventually(t, "an answer", func() bool {
		_, ok := answers(t, ignorant, units(slow(1), "other", 1))
		return ok
	})
	if n := drain(t, ignorant, charge); n != 100 {
		t.Errorf("%d admitted by the one that was not told, want the burst of 100", n)
	}
	cut.Admit(t)
	testkit.Eventually(t, "a denial by the one that was away", func() bool {
		res, ok := answers(t, knows, charge)
		if ok && res.Admitted {
			t.Error("admitted by the one that was away, want a denial")
		}
		return ok
	})
}

// After a FLUSHALL the calls that are under way can be admitted once more, and
// those only.
func TestFlushUnderLoad(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	limit := perSecond(500, 2000)
	o := newLoad(t)
	const replicas, callers = 4, 16
	cfg := at(r.URL())
	cfg.NoDenyCache = true // so that all go on asking
	for range replicas {
		o.start(started(t, cfg), callers, 2*time.Millisecond, units(limit, "k", 1))
	}
	// Only a bucket that is used up shows what is admitted twice.
	o.more(t, denied, 1000)
	times := 10
	if full() {
		times = 100
	}
	for range times {
		r.Do(t, "flushall")
		o.more(t, denied, 500)
	}
	o.end()
	o.documented(t)
	n, bound := o.count(admitted), o.most(limit)
	over := max(0, n-bound)
	t.Logf("%d times FLUSHALL under %d replicas with %d callers each: %d admitted, %d by burst and rate alone: %.1f more for each flush", times, replicas, callers, n, bound, float64(over)/float64(times))
	// One exchange finds out, while others are under way; the next puts back.
	if most := times * replicas * 2 * callers; over > most {
		t.Errorf("%d admitted above %d, want at most %d", over, bound, most)
	}
	if u := o.count(unavailable); u > 0 {
		t.Errorf("%d calls failed though Redis was there", u)
	}
}

// Scripts that Redis forgot are sent again, and nobody sees it.
func TestScriptFlushUnderLoad(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	o := newLoad(t)
	l := started(t, at(r.URL()))
	limit := slow(1_000_000)
	for i := range 8 {
		o.start(l, 2, time.Millisecond, units(limit, fmt.Sprint("k", i), 1), units(cutQuota1M(), fmt.Sprint("q", i), 1))
		o.start(l, 1, time.Millisecond, units(&limiter.Limit{Name: "w", Kind: limiter.KindWindow, Count: 1_000_000, Period: 24 * time.Hour}, fmt.Sprint("w", i), 1))
	}
	for range 50 {
		o.more(t, admitted, 20)
		r.Do(t, "script", "flush")
	}
	o.more(t, admitted, 20)
	o.end()
	o.documented(t)
	sent := l.Stats().Scripts
	t.Logf("50 times SCRIPT FLUSH under load: %d admitted, the text was sent %d times", o.count(admitted), sent)
	if o.count(unavailable)+o.count(denied) > 0 {
		t.Errorf("%d calls failed and %d were denied", o.count(unavailable), o.count(denied))
	}
	if sent < 50 {
		t.Errorf("the text of a script was sent %d times, want at least 50", sent)
	}
	n := 0
	for i := range 8 {
		n += int((1_000_000*limiter.Unit - left(t, l, units(limit, fmt.Sprint("k", i), 1))) / limiter.Unit)
	}
	for i := range 8 {
		n += int((1_000_000*limiter.Unit - left(t, l, units(&limiter.Limit{Name: "w", Kind: limiter.KindWindow, Count: 1_000_000, Period: 24 * time.Hour}, fmt.Sprint("w", i), 1))) / limiter.Unit)
	}
	// Time gives a unit of the slow rate back each half minute.
	if got := o.count(admitted); n > got || n < got-8 {
		t.Errorf("%d were admitted and %d are charged", got, n)
	}
}

func cutQuota1M() *limiter.Limit {
	return &limiter.Limit{Name: "month", Kind: limiter.KindQuota, Count: 1_000_000, Calendar: limiter.CalendarMonth}
}
