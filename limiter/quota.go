package limiter

import "time"

// quotaState counts what was charged in one calendar window. Its end is kept,
// so that a charge within the window needs no calendar at all.
//
// Quotas of other units or zones under the same key are kept beside it (next),
// and a charge is counted in all of them, so that a policy change loses
// nothing, either way.
type quotaState struct {
	unit       Calendar
	loc        *time.Location
	start, end int64 // ticks
	used       Units
	next       *quotaState
}

// sameZone compares zones by name, since a reloaded policy loads its zones
// anew.
func sameZone(a, b *time.Location) bool { return a == b || a.String() == b.String() }

// find returns the state of the limit's calendar; nil if there is none.
func (s *quotaState) find(l *Limit) *quotaState {
	for ; s != nil; s = s.next {
		if s.unit == l.Calendar && sameZone(s.loc, l.location()) {
			return s
		}
	}
	return nil
}

// calendarCache remembers the last window of each unit, for buckets that are
// not in one yet. It is not safe for concurrent use.
type calendarCache [CalendarMonth + 1]struct {
	loc        *time.Location
	start, end int64
}

// window returns the calendar window, in ticks, that the instant now lies in.
func (c *calendarCache) window(unit Calendar, loc *time.Location, now int64) (int64, int64) {
	e := &c[unit]
	if e.loc != loc || now < e.start || now >= e.end {
		sec := floorDiv(now, ticksPerSecond) + epochSeconds
		start, end := calendarWindow(unit, loc, sec)
		e.loc = loc
		e.start, e.end = (start-epochSeconds)*ticksPerSecond, (end-epochSeconds)*ticksPerSecond
	}
	return e.start, e.end
}

// view returns the limit's quota as it is at now, as a value that is not
// stored. An instant before the stored window (the clock went back) counts to
// the stored one: a window that was left is never entered again.
func (s *quotaState) view(l *Limit, now int64, cal *calendarCache) quotaState {
	own := s.find(l)
	if own != nil && now < own.end {
		return quotaState{unit: own.unit, loc: own.loc, start: own.start, end: own.end, used: own.used}
	}
	v := quotaState{unit: l.Calendar, loc: l.location()}
	v.start, v.end = cal.window(v.unit, v.loc, now)
	if own != nil {
		return v
	}
	// The first charge of this calendar: what other calendars counted within
	// its window was charged to the same bucket.
	for o := s; o != nil; o = o.next {
		if o.start >= v.start && o.end <= v.end {
			v.used = max(v.used, o.used)
		}
	}
	return v
}

// judge answers whether cost fits beside pending, and the ticks to wait if
// not. pending+cost is at most the limit's count.
func (s *quotaState) judge(l *Limit, now int64, cal *calendarCache, pending, cost Units) (int64, bool) {
	v := s.view(l, now, cal)
	if v.used+pending+cost <= l.capacity() {
		return 0, true
	}
	return v.end - now, false
}

// observe returns what is left and the instant at which the window ends.
func (s *quotaState) observe(l *Limit, now int64, cal *calendarCache) (Units, int64) {
	v := s.view(l, now, cal)
	return max(0, l.capacity()-v.used), v.end
}

// charge counts cost in every calendar and returns the head of the list and
// the mark for the receipt.
func (s *quotaState) charge(l *Limit, now int64, cal *calendarCache, cost Units) (*quotaState, [2]int64) {
	own := s.find(l)
	if own == nil {
		v := s.view(l, now, cal)
		v.next = s
		own, s = &v, &v
	}
	for q := s; q != nil; q = q.next {
		if now >= q.end {
			q.start, q.end = cal.window(q.unit, q.loc, now)
			q.used = 0
		}
		q.used += cost
	}
	return s, [2]int64{own.start, now}
}

// refund takes the charge out of every calendar whose window it was made in,
// if that has not ended.
func (s *quotaState) refund(l *Limit, now int64, cost Units, mark [2]int64) {
	own := s.find(l)
	if own == nil || own.start != mark[0] || now >= own.end {
		return
	}
	for q := s; q != nil; q = q.next {
		if now < q.end && (q == own || (mark[1] >= q.start && mark[1] < q.end)) {
			q.used = max(0, q.used-cost)
		}
	}
}

// idleIn is the ticks until every window has ended.
func (s *quotaState) idleIn(now int64) int64 {
	wait := int64(longIdle)
	for ; s != nil; s = s.next {
		wait = max(wait, s.end-now)
	}
	return wait
}
