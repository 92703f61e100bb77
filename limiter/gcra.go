package limiter

import (
	"math"
	"math/bits"
	"time"
)

// The clock of all arithmetic counts ticks of 1/16 microsecond since
// 2026-01-01T00:00:00Z. Until 2043 every instant is below 2^53, and each
// intermediate result of [increment] and [rescale] stays below it as well, so
// a Redis script can compute the very same numbers in doubles.
const (
	ticksPerSecond = 16_000_000
	epochSeconds   = 1_767_225_600 // 2026-01-01T00:00:00Z

	// maxDebt bounds Burst*T and what a rescaled debt may become: 366 days.
	maxDebt = 366 * 24 * 3600 * ticksPerSecond
)

// floorDiv divides rounding towards minus infinity, so that instants before
// the epoch fall into the right window. b is positive.
func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// ceilDiv divides rounding up. a is not negative, b is positive.
func ceilDiv(a, b int64) int64 {
	q := a / b
	if a%b > 0 {
		q++
	}
	return q
}

// wallTicks is t on the tick clock, rounded down.
func wallTicks(t time.Time) int64 {
	return (t.Unix()-epochSeconds)*ticksPerSecond + int64(t.Nanosecond())*2/125
}

// ticksFloor converts a span, rounding down (1 tick = 62.5 ns).
func ticksFloor(d time.Duration) int64 {
	n := int64(d)
	q := floorDiv(n, 125)
	return q*2 + (n-q*125)*2/125
}

// ticksCeil converts a span that is not negative, rounding up.
func ticksCeil(d time.Duration) int64 {
	n := int64(d)
	return n/125*2 + ceilDiv(n%125*2, 125)
}

// span converts ticks to a duration, rounding up; what is past is zero.
func span(ticks int64) time.Duration {
	if ticks <= 0 {
		return 0
	}
	if ticks > math.MaxInt64/125 {
		return math.MaxInt64
	}
	return time.Duration((ticks*125 + 1) / 2)
}

// emission is T, the ticks in which a rate regains one whole unit. It is
// rounded up once, and every other number is derived from it: so a burst of
// exactly Burst units fits, and never more than Burst + Count*t/Period.
func emission(l *Limit) int64 {
	return ceilDiv(ticksCeil(l.Period), l.Count)
}

// increment is the ticks that cost takes at an emission interval of t:
// ceil(cost*t/Unit). It is split so that no intermediate reaches 2^53 for a
// whole part of cost times t up to maxDebt.
func increment(t int64, cost Units) int64 {
	whole, frac := int64(cost/Unit), int64(cost%Unit)
	if frac == 0 {
		return whole * t
	}
	return whole*t + frac*(t/int64(Unit)) + ceilDiv(frac*(t%int64(Unit)), int64(Unit))
}

// units converts d ticks at an emission interval of t to an amount, rounded
// down, and reports whether there was anything to round.
func units(t, d int64) (Units, bool) {
	hi, lo := bits.Mul64(uint64(d), uint64(Unit)) //nolint:gosec // A span that is asked about is positive.
	q, r := bits.Div64(hi, lo, uint64(t))         //nolint:gosec // An emission interval is positive.
	return Units(q), r != 0                       //nolint:gosec // Nobody owes much more than MaxCount units.
}

// unitsFloor is the largest amount whose increment is at most d ticks.
func unitsFloor(t, d int64) Units {
	if d <= 0 {
		return 0
	}
	u, _ := units(t, d)
	return u
}

// rescale carries a debt of d ticks from one emission interval to another. It is
// kept in units (rounded up, against the caller): who owed 30 calls
// owes 30 calls, however fast they are regained from now on.
func rescale(d, from, to int64) int64 {
	owed, more := units(from, d)
	if more {
		owed++
	}
	if int64(owed/Unit) >= maxDebt/to {
		return maxDebt
	}
	return min(increment(to, owed), maxDebt)
}

// rateState is a GCRA bucket. All its fields but t are instants or spans in
// ticks.
//
// tat is the theoretical arrival time of the paper (ITU-T I.371): the instant
// at which the bucket is full again. The rest serves [rateState.refund].
type rateState struct {
	tat int64
	t   int64 // the emission interval that tat was written with
	at  int64 // the instant of the last charge, or the end of what was taken ahead
	// since names the busy period: it starts when a full bucket is charged, or
	// when the emission interval changes.
	since int64
	// back is what was refunded in this busy period out of charge order.
	back int64
}

// debt is how far tat lies ahead of now, in the emission interval t.
//
// If the limit has changed since the last charge, the debt is carried over in
// units. When it changed is not known, as a denied call writes nothing, so the
// time since the last charge counts at the faster of the two rates. At the
// slower, a raised limit would go on to deny until the old rate had paid off,
// each time with a wait that turns out too short.
func (s *rateState) debt(t, now int64) int64 {
	if s == nil || s.tat <= now {
		return 0
	}
	if s.t == t {
		return s.tat - now
	}
	atOld := rescale(s.tat-now, s.t, t)
	atNew := rescale(s.tat-s.at, s.t, t) - (now - s.at)
	if s.at > now {
		return max(atOld, atNew) // what was taken ahead may be spent at any time until then
	}
	return max(0, min(atOld, atNew))
}

// judge answers whether cost fits once pending ticks are taken as well, and
// the ticks to wait if not.
func (s *rateState) judge(l *Limit, now, pending int64, cost Units) (int64, bool) {
	t := emission(l)
	wait := s.debt(t, now) + pending + increment(t, cost) - l.Burst*t
	return wait, wait <= 0
}

// observe returns what is left and the instant at which the bucket is full.
func (s *rateState) observe(l *Limit, now int64) (Units, int64) {
	t := emission(l)
	debt := s.debt(t, now)
	return unitsFloor(t, l.Burst*t-debt), now + debt
}

// charge takes cost and returns the mark for its receipt.
func (s *rateState) charge(l *Limit, now int64, cost Units) [2]int64 {
	t := emission(l)
	switch {
	case s.tat <= now:
		*s = rateState{tat: now, t: t, at: now, since: max(now, s.since+1)}
	case s.t != t: // also a new period, as earlier marks are in other ticks
		*s = rateState{tat: now + s.debt(t, now), t: t, at: s.at, since: max(now, s.since+1)}
	}
	s.at = max(s.at, now)
	s.tat += increment(t, cost)
	return [2]int64{s.tat + s.back, s.since}
}

// refund gives a charge back as far as that cannot admit too much.
//
// Let mark be tat just after the charge and C what was charged since. Had the
// charge not been made, tat would be at most max(tat-inc, now+C): the second
// term is the bucket that ran full in between and from which C was taken all
// the same. C is tat-mark plus what was refunded since, which back knows; so
// giving back min(inc, mark-refunded-now) is always safe. The last charge is
// simply undone, and needs no entry in back, as no earlier mark contains it.
func (s *rateState) refund(l *Limit, now int64, cost Units, mark [2]int64) {
	if s.tat <= now || s.since != mark[1] || s.t != emission(l) {
		return
	}
	inc := increment(s.t, cost)
	last := mark[0] == s.tat+s.back
	credit := min(inc, mark[0]-s.back-now)
	if credit <= 0 || s.back > maxDebt {
		return
	}
	s.tat -= credit
	if !last {
		s.back += credit
	}
}

// longIdle is what there is to wait until state that is not there is idle.
const longIdle = math.MinInt64 / 2

// idleIn is the ticks until the bucket is full, which is the same as not there;
// below zero if it has been so for a while.
func (s *rateState) idleIn(now int64) int64 {
	if s == nil {
		return longIdle
	}
	return s.tat - now
}
