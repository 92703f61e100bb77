package redislimiter

import (
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/internal/testkit"
	"github.com/kelpie-authz/kelpie/limiter"
)

// ahead makes a replica hold exactly so many units of a bucket.
func ahead(tb testing.TB, l *Limiter, c limiter.Charge, units uint16) {
	tb.Helper()
	l.leaser.leases.mu.Lock()
	e := l.leaser.leases.find(&c)
	l.leaser.leases.mu.Unlock()
	l.leaser.fetch(question{lease: e, limit: c.Limit, want: units})
	if got := e.left(l.leaser.leases.now()); got != limiter.Units(units)*limiter.Unit {
		tb.Fatalf("%d taken ahead, want %d units", got, units)
	}
}

func costing(c limiter.Charge, cost limiter.Units) limiter.Charge {
	c.Cost = cost
	return c
}

// exhaust takes single units until one is denied.
func exhaust(tb testing.TB, l *Limiter, c limiter.Charge) int {
	tb.Helper()
	n := 0
	for virtualTake(tb, l, costing(c, limiter.Unit)).Admitted {
		n++
	}
	return n
}

func refunded(tb testing.TB, l *Limiter, r limiter.Receipt) {
	tb.Helper()
	if err := l.Refund(tb.Context(), &r); err != nil {
		tb.Fatal(err)
	}
}

// Nothing that is given back lets more pass than burst and rate, whatever of it was
// taken ahead.
func TestLeasesAndRefunds(t *testing.T) {
	t.Parallel()
	url := testkit.StartRedis(t, testkit.RedisConfig{}).URL()
	open := func(t *testing.T, name string, lease time.Duration, count, burst int64) (*hands, *Limiter, *Limiter, limiter.Charge) {
		t.Helper()
		h := &hands{}
		limit := &limiter.Limit{Name: "rate", Kind: limiter.KindRate, Count: count, Burst: burst, Period: time.Second, Lease: lease}
		a, b := inVirtualTime(t, url, name, h, true), inVirtualTime(t, url, name, h, false)
		return h, a, b, limiter.Charge{Limit: limit, Key: []byte("k"), Cost: limiter.Unit}
	}
	t.Run("units of one lease share a charge", func(t *testing.T) {
		t.Parallel()
		h, a, b, c := open(t, "shared", 10*time.Millisecond, 1000, 1000)
		ahead(t, a, c, 400)
		first := virtualTake(t, a, costing(c, 200*limiter.Unit)).Receipt.Clone()
		second := virtualTake(t, a, costing(c, 200*limiter.Unit)).Receipt.Clone()
		h.at = 209 * time.Millisecond
		refunded(t, a, first)
		n := exhaust(t, b, c)
		refunded(t, a, second)
		if n += exhaust(t, b, c); n > 1000 {
			t.Errorf("%d admitted at one instant, and the burst is 1000", n)
		}
	})
	t.Run("an older charge is in the lead", func(t *testing.T) {
		t.Parallel()
		h, a, b, c := open(t, "older", 100*time.Millisecond, 1000, 1000)
		older := virtualTake(t, b, costing(c, 500*limiter.Unit)).Receipt.Clone()
		ahead(t, a, c, 100)
		refunded(t, b, older)
		h.at = 93 * time.Millisecond
		n := 0
		for range 100 {
			if virtualTake(t, a, c).Admitted {
				n++
			}
		}
		if n += exhaust(t, b, c); n > 1000 {
			t.Errorf("%d admitted at one instant, and the burst is 1000", n)
		}
	})
	t.Run("slivers", func(t *testing.T) {
		t.Parallel()
		_, a, b, c := open(t, "slivers", 100*time.Millisecond, 500_000, 500_000)
		ahead(t, a, c, 1)
		before := virtualPeek(t, b, c)
		for range 1000 {
			refunded(t, a, virtualTake(t, a, costing(c, 1)).Receipt.Clone())
		}
		if after := virtualPeek(t, b, c); after > before {
			t.Errorf("%d left after slivers of what was ahead were given back, and %d before", after, before)
		}
	})
	t.Run("another rate over the bucket", func(t *testing.T) {
		t.Parallel()
		h, a, b, c := open(t, "rates", 100*time.Millisecond, 100, 100)
		ahead(t, a, c, 45)
		h.at = 93 * time.Millisecond
		n := 0
		for range 45 {
			if virtualTake(t, a, c).Admitted {
				n++
			}
		}
		faster := *c.Limit
		faster.Count = 1000
		if n += exhaust(t, b, limiter.Charge{Limit: &faster, Key: c.Key, Cost: c.Cost}); n > 100 {
			t.Errorf("%d admitted at one instant, and both policies have a burst of 100", n)
		}
	})
}

// What a replica had ahead of a quota is not lost when the policy changes.
func TestLeasedQuotaOfAnotherPolicy(t *testing.T) {
	t.Parallel()
	url := testkit.StartRedis(t, testkit.RedisConfig{}).URL()
	h := &hands{}
	a, b := inVirtualTime(t, url, "reload", h, true), inVirtualTime(t, url, "reload", h, false)
	limit := &limiter.Limit{Name: "month", Kind: limiter.KindQuota, Count: 1000, Calendar: limiter.CalendarMonth, Lease: 100 * time.Millisecond}
	c := limiter.Charge{Limit: limit, Key: []byte("k"), Cost: limiter.Unit}
	for i := range 5 {
		ahead(t, a, c, 50)
		changed := *c.Limit
		changed.Count++
		c.Limit = &changed
		if !virtualTake(t, a, c).Admitted {
			t.Fatal("denied")
		}
		if got, want := virtualPeek(t, b, c), limiter.Units(1000)*limiter.Unit; got != want {
			t.Fatalf("%d left after reload %d, want %d: all but the calls", got, i+1, want)
		}
	}
}

// A reset heals a bucket that was written while the clock of Redis was ahead.
func TestResetAfterTheClockWasAhead(t *testing.T) {
	t.Parallel()
	url := testkit.StartRedis(t, testkit.RedisConfig{}).URL()
	h := &hands{at: 31 * 24 * time.Hour}
	l := inVirtualTime(t, url, "ahead", h, false)
	c := limiter.Charge{Limit: &limiter.Limit{Name: "rate", Kind: limiter.KindRate, Count: 10, Burst: 10, Period: time.Minute}, Key: []byte("agent/rate"), Home: 5, Slot: 5, Cost: limiter.Unit}
	virtualTake(t, l, c)
	h.at = 0
	if _, err := l.Forget(t.Context(), []byte("agent"), nil); err != nil {
		t.Fatal(err)
	}
	if n := exhaust(t, l, c); n != 10 {
		t.Errorf("%d admitted after the reset, want 10", n)
	}
	h.at = time.Hour
	if n := exhaust(t, l, c); n != 10 {
		t.Errorf("%d admitted an hour later, want 10", n)
	}
}
