package limitertest

import (
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/limiter"
)

// changeCases are about a key whose limit changes with the policy.
func changeCases() []testCase {
	return []testCase{
		{name: "count_raised_and_lowered", run: one(countChanges)},
		{name: "rate_change_keeps_debt_in_units", run: one(rateChanges)},
		{name: "rate_change_refills_at_the_new_rate", clock: true, run: rateChangeRefills},
		{name: "unknown_state_is_carried_through", run: one(unknownState)},
		{name: "alternating_limits_keep_their_state", clock: true, run: alternatingLimits},
	}
}

// countChanges: what was spent stays spent.
func countChanges(f *fixture) {
	for i, small := range slowLimits(4) {
		large := slowLimits(10)[i]
		if small.Kind == limiter.KindRate {
			large.Count = small.Count
		}
		f.admitted(of(small, small.Name, 4))
		f.denied(of(small, small.Name, 1))
		f.left(6*limiter.Unit, of(large, small.Name, 1))
		f.admitted(of(large, small.Name, 5))
		f.left(0, of(small, small.Name, 1))
		st := f.denied(of(small, small.Name, 1)).Limits[0]
		if st.Never || st.RetryAfter <= 0 {
			f.Fatalf("%s: overspent by a policy change: %+v", small.Name, st)
		}
		f.admitted(of(large, small.Name, 1))
		f.denied(of(large, small.Name, 1))
	}
}

// rateChanges: who owed 30 calls owes 30 calls at any rate.
func rateChanges(f *fixture) {
	rate := func(count, burst int64) *limiter.Limit {
		return &limiter.Limit{Name: "rate", Kind: limiter.KindRate, Count: count, Burst: burst, Period: 24 * time.Hour}
	}
	f.admitted(of(rate(2, 40), "k", 30))
	for _, to := range []*limiter.Limit{rate(1, 40), rate(7, 100), rate(3, 31), rate(2, 40)} {
		want := limiter.Units(to.Burst-30) * limiter.Unit
		got := f.peek(of(to, "k", 1)).Limits[0].Remaining
		if got > want+f.slack || got < want-1 {
			f.Fatalf("%d/day with burst %d: %d remain, want %d", to.Count, to.Burst, got, want)
		}
	}
	// The change takes effect with a charge, too.
	f.admitted(of(rate(7, 100), "k", 10))
	if got, want := f.peek(of(rate(2, 50), "k", 1)).Limits[0].Remaining, 10*limiter.Unit; got > want+f.slack || got < want-2 {
		f.Fatalf("after a charge at the new rate: %d remain, want %d", got, want)
	}
	st := f.denied(of(rate(5, 20), "k", 1)).Limits[0]
	if st.Never || st.RetryAfter <= 4*24*time.Hour || st.RetryAfter > 4*24*time.Hour+5*time.Hour {
		f.Fatalf("40 owed of a burst of 20 at 5/day: %+v, want a wait of 21 fifths of a day", st)
	}
}

func rateChangeRefills(t *testing.T, d Driver) {
	f := setup(t, d)
	slow := &limiter.Limit{Name: "rate", Kind: limiter.KindRate, Count: 1, Burst: 10, Period: time.Hour}
	fast := &limiter.Limit{Name: "rate", Kind: limiter.KindRate, Count: 60, Burst: 10, Period: time.Hour}
	f.admitted(of(slow, "k", 10))
	if st := f.denied(of(slow, "k", 1)).Limits[0]; st.RetryAfter != time.Hour {
		f.Fatalf("retry after %v, want 1h", st.RetryAfter)
	}
	if st := f.denied(of(fast, "k", 1)).Limits[0]; st.RetryAfter != time.Minute {
		f.Fatalf("retry after %v at the raised rate, want 1m", st.RetryAfter)
	}
	f.clock.Advance(time.Minute)
	f.admitted(of(fast, "k", 1))
	f.clock.Advance(3 * time.Minute)
	f.left(3*limiter.Unit, of(fast, "k", 1))
	// 7 are owed now: lowering the rate brings back nothing that was refilled.
	f.admitted(of(slow, "k", 1))
	f.clock.Advance(time.Hour)
	f.left(3*limiter.Unit, of(slow, "k", 1))
}

// unknownState: limits of all kinds charge one key in turn, as two versions of
// a policy do during a rollout, and none loses what it counted.
func unknownState(f *fixture) {
	limits := slowLimits(5)
	for i := range 5 {
		for _, l := range limits {
			f.admitted(of(l, "k", 1))
		}
		for _, l := range limits {
			f.left(limiter.Units(4-i)*limiter.Unit, of(l, "k", 1))
		}
	}
	for _, l := range limits {
		f.denied(of(l, "k", 1))
	}
}

// alternatingLimits: the same kind with another span must not wipe the count
// of the longer one, although its own units have long returned.
func alternatingLimits(t *testing.T, d Driver) {
	pairs := map[string][2]*limiter.Limit{
		"window": {
			{Name: "hour", Kind: limiter.KindWindow, Count: 10, Period: time.Hour},
			{Name: "minute", Kind: limiter.KindWindow, Count: 3, Period: time.Minute},
		},
		"quota": {
			{Name: "day", Kind: limiter.KindQuota, Count: 10, Calendar: limiter.CalendarDay},
			{Name: "minute", Kind: limiter.KindQuota, Count: 3, Calendar: limiter.CalendarMinute},
		},
	}
	for name, pair := range pairs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t, d)
			long, short := pair[0], pair[1]
			f.admitted(of(long, "k", 8))
			for range 3 {
				f.clock.Advance(2 * time.Minute)
				f.take(of(short, "k", 1))
			}
			if got := f.peek(of(long, "k", 1)).Limits[0].Remaining; got > 2*limiter.Unit {
				t.Fatalf("%d remain of the longer span, want at most 2 units", got)
			}
			f.denied(of(long, "k", 3))
		})
	}
}
