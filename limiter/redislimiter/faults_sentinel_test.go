package redislimiter_test

import (
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/internal/testkit"
	"github.com/kelpie-authz/kelpie/limiter"
)

// After a failover to a replica that lagged, what was charged in the meantime is
// put back by those who charged it.
func TestFailoverWithLag(t *testing.T) {
	t.Parallel()
	s := testkit.StartRedisSentinel(t)
	cfg := at(s.URL())
	cfg.Options.Timeout = time.Second // the first contact may have to wait for a busy machine
	cfg.NoDenyCache = true
	a, b := started(t, cfg), started(t, cfg)
	limit := slow(50)
	charge := units(limit, "k", 1)
	for range 20 {
		take(t, a, charge)
	}
	replica := s.Replica.Client(t)
	testkit.Eventually(t, "the charges at the replica", func() bool {
		return replica.DBSize(t.Context()).Val() > 0 && s.Replica.Info(t, "master_repl_offset") == s.Primary.Info(t, "master_repl_offset")
	})
	s.Detach(t)
	const lost = 10
	for range lost {
		take(t, a, charge)
		take(t, b, charge)
	}
	o, pulse := newLoad(t), perSecond(1000, 1000)
	for _, l := range []limiter.Limiter{a, b} {
		o.start(l, 4, 2*time.Millisecond, units(pulse, "pulse", 1))
	}
	o.more(t, admitted, 100)
	killed := time.Now()
	s.Primary.Kill(t)
	s.Replica.Resume(t)
	s.AwaitFailover(t)
	named := time.Now()
	o.more(t, admitted, 100)
	back, _ := o.first(admitted, named)
	gone := named.Add(back).Sub(killed)
	o.end()
	o.documented(t)

	// Twenty were replicated. The replica that charged first knew of 39 or so, the
	// other one of all.
	for _, l := range []limiter.Limiter{a, b} {
		testkit.Eventually(t, "an answer after the load", func() bool {
			_, ok := answers(t, l, units(slow(1000), "other", 1))
			return ok
		})
	}
	over := drain(t, a, charge) + drain(t, b, charge)
	floors := a.Stats().Floors + b.Stats().Floors
	t.Logf("failover with lag: %d of 40 charges were lost with the primary; no answer for %v (%v after the sentinels named the new one); %d buckets put back; %d admitted, of 10 that were left",
		2*lost, gone, back, floors, over)
	if over < 10 || over > 10+lost {
		t.Errorf("%d admitted after the failover, want the 10 that were left and at most %d more", over, lost)
	}
	if floors == 0 {
		t.Error("nothing was put back")
	}
	if back > 3*time.Second || gone > 15*time.Second {
		t.Errorf("recovered after %v, which is %v after the sentinels", gone, back)
	}
	if n, bound := o.count(admitted), o.most(pulse)+2*4*2; n > bound {
		t.Errorf("%d admitted under load, want at most %d", n, bound)
	}
}
