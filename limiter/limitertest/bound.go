package limitertest

import (
	"bytes"
	"fmt"
	"math/big"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/kelpie-authz/kelpie/limiter"
)

// boundCases are properties over random limits, costs and times.
func boundCases() []testCase {
	return []testCase{
		{name: "bound_over_all_windows", clock: true, run: boundHolds},
		{name: "saturated_demand_is_served", clock: true, run: saturatedIsServed},
		{name: "denied_calls_write_nothing", clock: true, run: deniedWritesNothing},
		{name: "retry_after_is_exact", clock: true, run: retryAfterIsExact},
	}
}

// admission is one charge that was admitted and not refunded.
type admission struct {
	at    time.Time
	units limiter.Units
}

// drawLimit draws a limit of any kind, small enough that random charges
// exhaust it.
func drawLimit(rt *rapid.T) *limiter.Limit {
	l := &limiter.Limit{
		Name:  "drawn",
		Kind:  rapid.SampledFrom([]limiter.Kind{limiter.KindRate, limiter.KindWindow, limiter.KindQuota, limiter.KindConcurrency}).Draw(rt, "kind"),
		Count: rapid.Int64Range(1, 50).Draw(rt, "count"),
	}
	// Each is sound with these counts, and one is not a whole number of ticks.
	spans := []time.Duration{time.Second, 7 * time.Second, time.Minute, time.Hour, 24 * time.Hour, 1_234_567_891}
	switch l.Kind {
	case limiter.KindRate:
		l.Burst = rapid.Int64Range(1, 50).Draw(rt, "burst")
		l.Period = rapid.SampledFrom(spans).Draw(rt, "period")
	case limiter.KindWindow:
		l.Period = rapid.SampledFrom(spans).Draw(rt, "period")
	case limiter.KindQuota:
		l.Calendar = limiter.Calendar(rapid.IntRange(int(limiter.CalendarSecond), int(limiter.CalendarMonth)).Draw(rt, "calendar"))
	default:
		l.Hold = rapid.SampledFrom(spans).Draw(rt, "hold")
	}
	return l
}

func capacity(l *limiter.Limit) limiter.Units {
	if l.Kind == limiter.KindRate {
		return limiter.Units(l.Burst) * limiter.Unit
	}
	return limiter.Units(l.Count) * limiter.Unit
}

// drawCost draws whole costs mostly, then any, and sometimes one too high.
func drawCost(rt *rapid.T, l *limiter.Limit) limiter.Units {
	most := int64(capacity(l) / limiter.Unit)
	switch rapid.IntRange(0, 5).Draw(rt, "cost kind") {
	case 0:
		return limiter.Units(rapid.Int64Range(1, int64(capacity(l))).Draw(rt, "millionths"))
	case 1:
		return limiter.Units(rapid.Int64Range(1, most+1).Draw(rt, "units")) * limiter.Unit
	default:
		return limiter.Units(rapid.Int64Range(1, max(1, most/8)).Draw(rt, "units")) * limiter.Unit
	}
}

// scale is the time in which the limit gives about everything once.
func scale(l *limiter.Limit) time.Duration {
	switch l.Kind {
	case limiter.KindRate:
		return l.Period * time.Duration(l.Burst) / time.Duration(l.Count)
	case limiter.KindWindow:
		return l.Period
	case limiter.KindConcurrency:
		return l.Hold
	default:
		return [...]time.Duration{0, time.Second, time.Minute, time.Hour, 24 * time.Hour, 7 * 24 * time.Hour, 31 * 24 * time.Hour}[l.Calendar]
	}
}

// drawStep draws how far the clock moves between two calls: whole microseconds,
// which is as fine as a store's clock may be. (Between two readings of a
// coarser clock a limiter cannot tell how much time went by; the bound is in
// terms of the clock it reads.)
func drawStep(rt *rapid.T, l *limiter.Limit) time.Duration {
	whole := scale(l)
	switch rapid.IntRange(0, 9).Draw(rt, "step kind") {
	case 0:
		return upTo(rt, 2*whole)
	case 1, 2, 3:
		return upTo(rt, whole/4)
	case 4, 5, 6:
		return upTo(rt, whole/32)
	case 7:
		return upTo(rt, 20*time.Microsecond)
	default:
		return 0
	}
}

func upTo(rt *rapid.T, most time.Duration) time.Duration {
	return time.Duration(rapid.Int64Range(0, int64(most/time.Microsecond)).Draw(rt, "microseconds")) * time.Microsecond
}

func boundHolds(t *testing.T, d Driver) {
	proof(t, func(rt *rapid.T) {
		f := open(t, rt, d, noon())
		defer f.close()
		l := drawLimit(rt)
		var log []admission
		for range rapid.IntRange(10, 200).Draw(rt, "steps") {
			f.clock.Advance(drawStep(rt, l))
			c := limiter.Charge{Limit: l, Key: []byte("k"), Cost: drawCost(rt, l)}
			if f.take(c).Admitted {
				log = append(log, admission{at: f.clock.Now(), units: c.Cost})
			}
		}
		checkBound(rt, l, log)
	})
}

// checkBound fails if the log breaks the promise of its limit.
func checkBound(f failer, l *limiter.Limit, log []admission) {
	f.Helper()
	switch l.Kind {
	case limiter.KindRate:
		checkRate(f, l, log)
	case limiter.KindQuota:
		checkQuota(f, l, log)
	case limiter.KindWindow:
		checkSpan(f, l.Period, l, log)
	default:
		checkSpan(f, l.Hold, l, log)
	}
}

// checkRate looks at every pair of admissions as the ends of a window in one
// pass: with S the sum of units before i and R what the rate gives until i,
// sum(i..j) <= burst + R(j)-R(i) for all i <= j, if (S-R) never rises by more
// than the burst above its minimum. All in integers: units times the period.
func checkRate(f failer, l *limiter.Limit, log []admission) {
	f.Helper()
	if len(log) == 0 {
		return
	}
	period := big.NewInt(int64(l.Period))
	burst := new(big.Int).Mul(big.NewInt(int64(capacity(l))), period)
	sum, lowest := new(big.Int), (*big.Int)(nil)
	for i, a := range log {
		given := new(big.Int).Mul(big.NewInt(int64(a.at.Sub(log[0].at))), big.NewInt(l.Count*int64(limiter.Unit)))
		before := new(big.Int).Sub(sum, given)
		if lowest == nil || before.Cmp(lowest) < 0 {
			lowest = before
		}
		sum = new(big.Int).Add(sum, new(big.Int).Mul(big.NewInt(int64(a.units)), period))
		after := new(big.Int).Sub(sum, given)
		if over := new(big.Int).Sub(after, lowest); over.Cmp(burst) > 0 {
			f.Fatalf("admission %d at %v: some window ending here holds more than burst + rate*t, of %+v", i, a.at, *l)
		}
	}
}

// checkQuota sums per calendar unit, told apart by their printed form.
func checkQuota(f failer, l *limiter.Limit, log []admission) {
	f.Helper()
	loc := l.Location
	if loc == nil {
		loc = time.UTC
	}
	sums := map[string]limiter.Units{}
	for _, a := range log {
		t := a.at.In(loc)
		year, week := t.ISOWeek()
		id := map[limiter.Calendar]string{
			limiter.CalendarSecond: t.Format("2006-01-02 15:04:05 -0700"),
			limiter.CalendarMinute: t.Format("2006-01-02 15:04 -0700"),
			limiter.CalendarHour:   t.Format("2006-01-02 15 -0700"),
			limiter.CalendarDay:    t.Format("2006-01-02"),
			limiter.CalendarWeek:   fmt.Sprint(year, "W", week),
			limiter.CalendarMonth:  t.Format("2006-01"),
		}[l.Calendar]
		if sums[id] += a.units; sums[id] > capacity(l) {
			f.Fatalf("%s %s admitted %d millionths, limit %d", l.Calendar, id, sums[id], capacity(l))
		}
	}
}

// checkSpan sums over the span that ends with each admission; the admission
// exactly one span ago is outside.
func checkSpan(f failer, span time.Duration, l *limiter.Limit, log []admission) {
	f.Helper()
	var sum limiter.Units
	first := 0
	for i, a := range log {
		sum += a.units
		for a.at.Sub(log[first].at) >= span {
			sum -= log[first].units
			first++
		}
		if sum > capacity(l) {
			f.Fatalf("admission %d at %v: %d millionths within %v, limit %d", i, a.at, sum, span, capacity(l))
		}
	}
}

// saturatedIsServed: a limiter that denies everything would pass the bound. A
// caller who takes whenever it can gets what the limit promises.
func saturatedIsServed(t *testing.T, d Driver) {
	proof(t, func(rt *rapid.T) {
		f := open(t, rt, d, noon())
		defer f.close()
		l := drawLimit(rt)
		cost := limiter.Units(rapid.Int64Range(int64(limiter.Unit)/2, max(int64(limiter.Unit)/2, int64(capacity(l))/2)).Draw(rt, "cost"))
		c := limiter.Charge{Limit: l, Key: []byte("k"), Cost: cost}
		var total limiter.Units
		drain := func() {
			for f.take(c).Admitted {
				total += cost
			}
		}
		drain()
		if total < capacity(l)-cost {
			rt.Fatalf("admitted %d at once, of %d", total, capacity(l))
		}
		if l.Kind != limiter.KindRate {
			// A span and a sixteenth later everything is there again.
			whole := scale(l)
			f.clock.Advance(whole + whole/16 + time.Microsecond)
			before := total
			drain()
			if total-before < capacity(l)-cost {
				rt.Fatalf("admitted %d after the span, of %d", total-before, capacity(l))
			}
			return
		}
		var elapsed time.Duration
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			step := upTo(rt, scale(l)/2)
			f.clock.Advance(step)
			elapsed += step
			drain()
		}
		given := float64(l.Count) * float64(elapsed) / float64(l.Period) * float64(limiter.Unit)
		if want := float64(capacity(l)) + given - float64(cost+limiter.Unit); float64(total) < want {
			rt.Fatalf("admitted %d, want at least %.0f in %v of %+v", total, want, elapsed, *l)
		}
	})
}

// deniedWritesNothing: after a denied call of several charges every bucket
// answers as if the call had never come.
func deniedWritesNothing(t *testing.T, d Driver) {
	proof(t, func(rt *rapid.T) {
		f := open(t, rt, d, noon())
		defer f.close()
		limits := make([]*limiter.Limit, rapid.IntRange(1, 4).Draw(rt, "limits"))
		all := make([]limiter.Charge, len(limits))
		for i := range limits {
			limits[i] = drawLimit(rt)
			all[i] = limiter.Charge{Limit: limits[i], Key: fmt.Appendf(nil, "limit %d", i), Cost: 1}
		}
		states := func() []limiter.State {
			var s []limiter.State
			for _, c := range all {
				s = append(s, f.peek(c).Limits...)
			}
			return s
		}
		for range rapid.IntRange(5, 60).Draw(rt, "steps") {
			f.clock.Advance(drawStep(rt, limits[0]))
			charges := make([]limiter.Charge, rapid.IntRange(1, 5).Draw(rt, "charges"))
			for i := range charges {
				charges[i] = rapid.SampledFrom(all).Draw(rt, "bucket")
				charges[i].Key = bytes.Clone(charges[i].Key)
				charges[i].Cost = drawCost(rt, charges[i].Limit)
				charges[i].Shadow = rapid.IntRange(0, 7).Draw(rt, "shadow") == 0
			}
			before := states()
			peeked := f.peek(charges...)
			res := f.take(charges...)
			if res.Admitted != peeked.Admitted {
				rt.Fatalf("Peek said admitted=%v, Take %v", peeked.Admitted, res.Admitted)
			}
			lacked := false
			for i, st := range res.Limits {
				lacked = lacked || (st.Lacked && !charges[i].Shadow)
			}
			if res.Admitted == lacked {
				rt.Fatalf("admitted is %v with states %+v", res.Admitted, res.Limits)
			}
			if res.Admitted {
				continue
			}
			if after := states(); !cmp.Equal(before, after) {
				rt.Fatalf("a denied call changed the buckets: %s", cmp.Diff(before, after))
			}
		}
	})
}

// retryAfterIsExact: a microsecond before it the call is still denied, at it
// the call is admitted.
func retryAfterIsExact(t *testing.T, d Driver) {
	proof(t, func(rt *rapid.T) {
		f := open(t, rt, d, noon())
		defer f.close()
		l := drawLimit(rt)
		for range rapid.IntRange(5, 60).Draw(rt, "steps") {
			f.clock.Advance(drawStep(rt, l))
			c := limiter.Charge{Limit: l, Key: []byte("k"), Cost: drawCost(rt, l)}
			res := f.take(c)
			st := res.Limits[0]
			if st.Never != (c.Cost > capacity(l)) {
				rt.Fatalf("cost %d of %d: never is %v", c.Cost, capacity(l), st.Never)
			}
			if res.Admitted || st.Never {
				if st.RetryAfter != 0 {
					rt.Fatalf("nothing to wait for, but retry after %v", st.RetryAfter)
				}
				continue
			}
			if st.RetryAfter <= 0 {
				rt.Fatalf("denied with retry after %v", st.RetryAfter)
			}
			early := max(0, st.RetryAfter-time.Microsecond)
			f.clock.Advance(early)
			if early > 0 && f.peek(c).Admitted {
				rt.Fatalf("admitted %v before retry_after %v", st.RetryAfter-early, st.RetryAfter)
			}
			f.clock.Advance(st.RetryAfter - early)
			f.admitted(c)
		}
	})
}
