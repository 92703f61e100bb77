package limiter

import (
	"math"
	"time"
)

// What a driver over a store needs, so that its answers are those of [Memory]
// to the tick: the numbers to judge a charge with where the bucket is kept
// ([Charge.Terms], [Limit.CalendarAt]), and the arithmetic that tells from the
// bucket how a limit stands ([Stored]).

// Ticks is t on the clock of the arithmetic: ticks of 1/16 microsecond since
// 2026-01-01T00:00:00Z, rounded down. Until 2043 they are exact in a double.
func Ticks(t time.Time) int64 { return wallTicks(t) }

// Span is how long so many ticks last, rounded down; zero if they are negative.
func Span(ticks int64) time.Duration {
	if ticks <= 0 {
		return 0
	}
	return time.Duration(min(ticks, math.MaxInt64/125) * 125 / 2)
}

// Terms are the numbers that a charge is judged and taken with.
type Terms struct {
	// Span is the emission interval of a rate, the width of a window's parts and
	// the hold of a concurrency limit, in ticks. Zero for a quota.
	Span int64
	// Room is the most that the bucket can owe: in ticks for a rate, in Units
	// otherwise.
	Room int64
	// Cost is what the charge adds to that, in the same unit.
	Cost int64
	// Never is true if the cost is above the room whatever is owed; Cost is zero
	// then.
	Never bool
}

// Terms returns the numbers of a charge that passes [Charge.Check].
func (c *Charge) Terms() Terms {
	l := c.Limit
	t := Terms{Room: int64(l.capacity()), Cost: int64(c.Cost), Never: c.Cost > l.capacity()}
	switch l.Kind {
	case KindRate:
		t.Span = emission(l)
		t.Room = l.Burst * t.Span
		if !t.Never {
			t.Cost = increment(t.Span, c.Cost)
		}
	case KindWindow:
		t.Span = partWidth(l)
	case KindConcurrency:
		t.Span = ticksCeil(l.Hold)
	default:
	}
	if t.Never {
		t.Cost = 0
	}
	return t
}

// LeaseTicks is for how long units are taken ahead, in ticks, rounded up: those of
// a rate are charged as if they came that much later.
func LeaseTicks(l *Limit) int64 { return ticksCeil(l.Lease) }

// DebitTerms returns the numbers of a debit, whose cost is bounded so that what
// is owed stays exact: to what 366 days give back and to MaxCount units.
func (t *Taken) DebitTerms() Terms {
	c := Charge{Limit: t.Limit, Cost: boundedDebit(t.Limit, t.Cost)}
	if c.Cost <= t.Limit.capacity() {
		return c.Terms()
	}
	whole := Charge{Limit: t.Limit, Cost: Unit}
	terms := whole.Terms()
	terms.Cost = int64(c.Cost)
	if t.Limit.Kind == KindRate {
		terms.Cost = increment(terms.Span, c.Cost)
	}
	return terms
}

// boundedDebit is cost, or the most that may be debited at once.
func boundedDebit(l *Limit, cost Units) Units {
	most := Units(MaxCount) * Unit
	if l.Kind == KindRate {
		most = min(most, unitsFloor(emission(l), maxDebt))
	}
	return min(cost, most)
}

// CalendarAt returns the calendar unit of a quota that the instant lies in, as
// the ticks of its first instant and of the first one after it. It is for
// quotas only.
func (l *Limit) CalendarAt(ticks int64) (start, end int64) {
	var c calendarCache
	return c.window(l.Calendar, l.location(), ticks)
}

// CalendarName names the calendar of a quota: quotas of one key with the same
// name start anew together.
func (l *Limit) CalendarName() string { return l.Calendar.String() + " " + l.location().String() }

// Stored is one bucket as it was read from a store, for one charge. The zero
// value is a bucket that is not there, which is full. Not for concurrent use.
type Stored struct {
	rate   rateState
	window windowState
	quota  quotaState
	holds  holdState
	kind   Kind // zero: it is not there
}

// Clear makes it a bucket that is not there, and keeps its buffers.
func (s *Stored) Clear() { s.kind, s.holds.holds = 0, s.holds.holds[:0] }

// SetRate makes it a rate's: the instant at which it is full again, the
// emission interval that was written with, the instant of the last charge, the
// busy period, and what was refunded in that out of order.
func (s *Stored) SetRate(tat, interval, at, since, back int64) {
	s.kind, s.rate = KindRate, rateState{tat: tat, t: interval, at: at, since: since, back: back}
}

// WindowParts is how many counters a window has: one for each of the parts it
// is divided into, and one for the part that is half outside.
const WindowParts = windowParts + 1

// SetWindow makes it a window's: width of a part in ticks, index of the newest
// part, the instant since when it counts, and the counters, each in the place
// of its part's index modulo [WindowParts].
func (s *Stored) SetWindow(width, newest, since int64, used *[WindowParts]Units) {
	s.kind, s.window = KindWindow, windowState{width: width, newest: newest, since: since, used: *used}
}

// SetQuota makes it a quota's: what was charged in the calendar unit from start
// to end, in ticks.
func (s *Stored) SetQuota(l *Limit, start, end int64, used Units) {
	s.kind, s.quota = KindQuota, quotaState{unit: l.Calendar, loc: l.location(), start: start, end: end, used: used}
}

// AddHold adds units that are held until an instant, after those that end
// before it.
func (s *Stored) AddHold(until int64, n Units) {
	s.kind = KindConcurrency
	s.holds.holds = append(s.holds.holds, hold{until: until, units: n})
}

// Idle is the instant, in ticks, from which the bucket is as good as not there.
func (s *Stored) Idle() int64 {
	switch s.kind {
	case KindRate:
		return s.rate.idleIn(0)
	case KindWindow:
		return s.window.idleIn(0)
	case KindQuota:
		return s.quota.idleIn(0)
	case KindConcurrency:
		return s.holds.idleIn(0)
	default:
		return longIdle
	}
}

// Reading is the clock that a call was judged with, in ticks.
type Reading struct {
	// Read is the clock as it was read, Judged what rates, windows and holds
	// were judged with: the same, or later if the clock went back since the
	// bucket was written.
	Read, Judged int64
}

// Describe tells how a charge stands with its bucket: after the charge, or
// before it if nothing was charged. fits is what was judged; beside is what
// charges of the same call that fit take from the same bucket, each of them.
func (s *Stored) Describe(c *Charge, r Reading, fits bool, beside []Units, st *State) {
	l := c.Limit
	*st = State{Limit: l.capacity(), Lacked: !fits}
	now := r.Judged
	if l.Kind == KindQuota {
		now = r.Read
	}
	behind := now - r.Read
	left, at := s.observe(l, now)
	st.Remaining = left
	if at > now {
		st.Reset = span(at - now + behind)
	}
	if fits {
		return
	}
	if c.Cost > st.Limit || total(beside) > st.Limit-c.Cost {
		st.Never = true
		return
	}
	// What was judged does not fit, so there is something to wait for.
	st.RetryAfter = max(1, span(s.wait(c, now, beside)+behind))
}

func (s *Stored) observe(l *Limit, now int64) (Units, int64) {
	if s.kind != l.Kind {
		if l.Kind == KindQuota {
			_, end := l.CalendarAt(now)
			return l.capacity(), end
		}
		return l.capacity(), now
	}
	var cal calendarCache
	switch l.Kind {
	case KindRate:
		return s.rate.observe(l, now)
	case KindWindow:
		return s.window.observe(l, now)
	case KindQuota:
		return s.quota.observe(l, now, &cal)
	default:
		return s.holds.observe(l, now)
	}
}

func (s *Stored) wait(c *Charge, now int64, beside []Units) int64 {
	if s.kind != c.Limit.Kind {
		return 0
	}
	var wait int64
	var cal calendarCache
	switch c.Limit.Kind {
	case KindRate:
		var ticks int64 // each is rounded for itself
		for _, n := range beside {
			ticks += increment(emission(c.Limit), n)
		}
		wait, _ = s.rate.judge(c.Limit, now, ticks, c.Cost)
	case KindWindow:
		wait, _ = s.window.judge(c.Limit, now, total(beside), c.Cost)
	case KindQuota:
		wait, _ = s.quota.judge(c.Limit, now, &cal, total(beside), c.Cost)
	default:
		wait, _ = s.holds.judge(c.Limit, now, total(beside), c.Cost)
	}
	return wait
}

func total(amounts []Units) Units {
	var sum Units
	for _, n := range amounts {
		sum += n
	}
	return sum
}

// Mark is the mark of a charge that was taken, to be given back by. after is
// what a rate was charged behind it before it was read, in ticks.
func (s *Stored) Mark(c *Charge, r Reading, after int64) [2]int64 {
	switch c.Limit.Kind {
	case KindRate:
		return [2]int64{s.rate.tat + s.rate.back - after, s.rate.since}
	case KindWindow:
		return [2]int64{r.Judged}
	case KindQuota:
		return [2]int64{s.quota.start, r.Read}
	default:
		return [2]int64{r.Judged + ticksCeil(c.Limit.Hold)}
	}
}
