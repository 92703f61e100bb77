package redislimiter_test

import (
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/internal/testkit"
	"github.com/kelpie-authz/kelpie/limiter"
)

// A Redis that stands still costs those who wait for it one timeout, everybody
// else nothing, and is used again as soon as it goes on.
//
//nolint:paralleltest // It is about time: nothing else may run beside it.
func TestRedisStandsStill(t *testing.T) {
	r := startRedis(t)
	span := 2 * time.Second
	if full() {
		span = 10 * time.Second
	}
	l := started(t, asDeployed(r.URL()))
	limit := perSecond(2000, 1000)
	charge := units(limit, "k", 1)
	const callers = 64
	o := newLoad(t)
	late := hiccups(t)
	o.start(l, callers, 5*time.Millisecond, charge)
	o.more(t, admitted, 200)

	before := l.Stats().Opened // by a machine that is too busy
	r.Pause(t)
	paused := time.Now()
	lasts(span)
	opened, open := l.Stats().Opened-before, l.Stats().Open
	resumed := time.Now()
	r.Resume(t)
	o.more(t, admitted, 200)
	testkit.Eventually(t, "no open breaker", func() bool { return l.Stats().Open == 0 })
	o.end()
	o.documented(t)

	took, failed := o.times(paused, resumed, unavailable)
	p99, worst := quantile(took, 0.99), took[len(took)-1]
	slack := late()
	back, ok := o.first(admitted, resumed)
	t.Logf("%v without Redis: %d answers, %d of them unavailable; p50 %v, p99 %v, the longest %v (a goroutine that only waits was up to %v late); admitted again %v after it went on",
		span, len(took), failed, quantile(took, 0.5), p99, worst, slack, back)
	if failed < len(took)*99/100 || failed < callers {
		t.Errorf("%d of %d answers say that Redis could not be asked", failed, len(took))
	}
	// The machine's own hiccups are no fault of what is tested.
	if p99 > 50*time.Millisecond+slack || worst > deployedTimeout+20*time.Millisecond+slack {
		t.Errorf("p99 %v and the longest %v; want at most 50ms and %v, and %v that the machine was late", p99, worst, deployedTimeout+20*time.Millisecond, slack)
	}
	if !ok || back > time.Second+slack {
		t.Errorf("admitted again after %v, %v; want at most 1s", back, ok)
	}
	if opened != 1 || open != 1 {
		t.Errorf("the breaker opened %d times, and %d are open while Redis stands still; want 1 and 1", opened, open)
	}
	bound := o.most(limit)
	if n := o.count(admitted); n > bound {
		t.Errorf("%d admitted, want at most %d", n, bound)
	}
}

// What was sent to a Redis that stood still is charged when it goes on, once,
// though its callers were told that it could not be asked.
func TestStandingStillChargesOnce(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	l := started(t, asDeployed(r.URL()))
	charge := units(cutQuota(), "k", 1)
	take(t, l, charge)
	r.Pause(t)
	if _, ok := answers(t, l, charge); ok {
		t.Error("answered by a Redis that stands still")
	}
	if _, ok := answers(t, l, charge); ok {
		t.Error("answered though the breaker is open")
	}
	r.Resume(t)
	testkit.Eventually(t, "an answer", func() bool {
		calls := []limiter.Call{{Charges: []limiter.Charge{charge}}}
		return l.Peek(t.Context(), calls) == nil
	})
	// The first was sent, and Redis may look at the new connection before it looks at the
	// one that was given up. The second was never sent.
	testkit.Eventually(t, "the charge of the first", func() bool { return left(t, l, charge) <= 998*limiter.Unit })
	if got := left(t, l, charge); got != 998*limiter.Unit {
		t.Errorf("%v of 1000 units are left, want 998", float64(got)/float64(limiter.Unit))
	}
}
