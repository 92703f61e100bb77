package limiter

// bucket is the state of one key. A key has one kind of state unless its limit
// changed kind; then the state of the former kind stays until it is idle, so
// that changing back and forth gives nothing away.
type bucket struct {
	key    string
	place  int // in shard.all
	rate   *rateState
	window *windowState
	quota  *quotaState
	holds  *holdState
}

// instant is one reading of the clock, in ticks. Spans are measured on steady,
// which does not move when the wall clock is set; calendars need wall.
type instant struct{ steady, wall int64 }

// judge answers whether cost fits beside what the same call takes from the
// bucket already: pending units, or pendingTicks for a rate. The wait is in
// ticks from now.
func (b *bucket) judge(l *Limit, now instant, cal *calendarCache, pending Units, pendingTicks int64, cost Units) (int64, bool) {
	switch l.Kind {
	case KindRate:
		return b.rate.judge(l, now.steady, pendingTicks, cost)
	case KindWindow:
		var scratch windowState
		return b.window.view(l, now.steady, &scratch).judge(l, now.steady, pending, cost)
	case KindQuota:
		return b.quota.judge(l, now.wall, cal, pending, cost)
	default:
		return b.holds.judge(l, now.steady, pending, cost)
	}
}

// observe returns what is left and the ticks until it is more.
func (b *bucket) observe(l *Limit, now instant, cal *calendarCache) (Units, int64) {
	var left Units
	var at int64
	switch l.Kind {
	case KindRate:
		left, at = b.rate.observe(l, now.steady)
	case KindWindow:
		var scratch windowState
		left, at = b.window.view(l, now.steady, &scratch).observe(l, now.steady)
	case KindQuota:
		left, at = b.quota.observe(l, now.wall, cal)
		return left, at - now.wall
	default:
		left, at = b.holds.observe(l, now.steady)
	}
	return left, at - now.steady
}

// charge takes cost, whether or not it fits, and returns the receipt's mark.
func (b *bucket) charge(l *Limit, now instant, cal *calendarCache, cost Units) [2]int64 {
	var mark [2]int64
	switch l.Kind {
	case KindRate:
		if b.rate == nil {
			b.rate = &rateState{tat: now.steady, since: now.steady - 1}
		}
		mark = b.rate.charge(l, now.steady, cost)
	case KindWindow:
		b.window, mark = b.window.charge(l, now.steady, cost)
	case KindQuota:
		b.quota, mark = b.quota.charge(l, now.wall, cal, cost)
	default:
		if b.holds == nil {
			b.holds = &holdState{}
		}
		mark = b.holds.charge(l, now.steady, cost)
	}
	return mark
}

// maxOwed bounds what debits can make a counter say.
const maxOwed = 4_000_000_000_000_000

// boundOwed keeps what was debited within numbers that are exact.
func (b *bucket) boundOwed(l *Limit, now instant) {
	switch {
	case l.Kind == KindRate && b.rate != nil:
		t := emission(l)
		most := int64(maxDebt)
		if t < maxDebt/MaxCount {
			most = MaxCount * t
		}
		b.rate.tat = min(b.rate.tat, now.steady+most)
	case l.Kind == KindWindow:
		for w := b.window; w != nil; w = w.next {
			for i := range w.used {
				w.used[i] = min(w.used[i], maxOwed)
			}
		}
	case l.Kind == KindQuota:
		for q := b.quota; q != nil; q = q.next {
			q.used = min(q.used, maxOwed)
		}
	}
}

// refund gives one entry of a receipt back.
func (b *bucket) refund(t *Taken, now instant) {
	switch t.Limit.Kind {
	case KindRate:
		if b.rate != nil {
			b.rate.refund(t.Limit, now.steady, t.Cost, t.Mark)
		}
	case KindWindow:
		b.window.refund(now.steady, t.Cost, t.Mark)
	case KindQuota:
		b.quota.refund(t.Limit, now.wall, t.Cost, t.Mark)
	default:
		if b.holds != nil {
			b.holds.refund(t.Cost, t.Mark)
		}
	}
}

// idleIn is the ticks until the bucket is as good as not there; below zero if it
// has been so for a while.
func (b *bucket) idleIn(now instant) int64 {
	return max(
		b.rate.idleIn(now.steady),
		b.window.idleIn(now.steady),
		b.quota.idleIn(now.wall),
		b.holds.idleIn(now.steady),
	)
}
