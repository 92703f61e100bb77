package redislimiter

import (
	"math"
	"sync"
	"time"

	"github.com/kelpie-authz/kelpie/limiter"
)

const (
	// A lease ends at a replica this part of it before it ends where it was
	// charged, for clocks that do not go at the same speed.
	leaseMargin = 16
	// demandSpan is for how long a bucket's demand is counted at least before it
	// is believed, and demandRest after how long without any it is forgotten.
	demandSpan = 100 * time.Millisecond
	demandRest = time.Second
	// tooLate is for how many leases none is asked for after one that came when
	// it had ended.
	tooLate = 20
	// smallestLease is how many units are worth an exchange of their own.
	smallestLease = 2
	// mostLeases bounds how many buckets are known, of about 300 bytes.
	mostLeases = 1 << 14
)

// leases are the units that this replica took ahead, by bucket, and how much each
// bucket is in demand here. Units that were taken ahead are spent without asking
// the store.
//
// The store charges those of a rate as if they came when they are spent at the
// latest. So in any span no more is spent than the rate gives: what is spent in it
// was charged no earlier than it begins, as the store counts. What is not spent in
// time is lost to this replica, and comes back with time like everything that was
// charged. Those of a quota are spent in the calendar unit that they were charged
// in, and what is not spent is given back, as time gives nothing.
type leases struct {
	now func() int64 // nanoseconds of a clock that is never set
	// ticks is about what the clock of the store shows.
	ticks func() int64
	// ask asks the store for units, and has got or failed called then; yield gives
	// units back to it.
	ask   func(question)
	yield func(limiter.Taken)
	stats *stats
	// spent, if set, is told of each charge that is paid, and when; for tests.
	spent func(c *limiter.Charge, at int64)

	mu         sync.Mutex
	young, old map[string]*lease
	stored     limiter.Stored
	// spare is what is to be given back as soon as the lock is free.
	spare []limiter.Taken
}

// lease is what is known of one bucket.
type lease struct {
	limit      *limiter.Limit
	key        []byte
	home, slot int

	// credits are what there is, the older first; last is how much came last.
	credits [2]credit
	last    limiter.Units
	// used was admitted since an instant, demand is how much is in a second.
	used   limiter.Units
	since  int64
	demand float64
	// asking is set while the store is asked, and rest is until when it is not.
	asking bool
	rest   int64
	// told is the bucket as the store last told it.
	told charged
}

// credit is units that can be spent before an instant.
type credit struct {
	left  limiter.Units
	until int64
	// mark is what they are given back by, once they were spent.
	mark [2]int64
}

// question is what the store is asked for: so many units of one bucket.
type question struct {
	lease *lease
	limit *limiter.Limit
	want  uint16
}

// spending is one charge that was paid from a lease.
type spending struct {
	lease *lease
	mark  [2]int64
}

// longestKey bounds the keys that are kept here.
const longestKey = 512

// leasable tells whether a charge may be paid from units that were taken ahead.
func leasable(c *limiter.Charge) bool {
	return c.Limit.Lease > 0 && !c.Shadow && len(c.Key) <= longestKey
}

// anyLeasable tells whether a call has such a charge.
func anyLeasable(call *limiter.Call) bool {
	for i := range call.Charges {
		if leasable(&call.Charges[i]) {
			return true
		}
	}
	return false
}

// find returns what is known of a charge's bucket, from now on if nothing was.
func (t *leases) find(c *limiter.Charge) *lease {
	e := t.young[string(c.Key)]
	if e == nil {
		if e = t.old[string(c.Key)]; e == nil {
			e = &lease{key: append([]byte(nil), c.Key...), home: c.Home, slot: c.Slot, limit: c.Limit, since: t.now()}
		}
		if t.young == nil || len(t.young) >= mostLeases/2 {
			t.old, t.young = t.young, make(map[string]*lease)
		}
		t.young[string(e.key)] = e
	}
	if e.limit != c.Limit {
		t.change(e, c.Limit)
	}
	return e
}

// change makes it one of another limit over the same bucket, as after a reload.
func (t *leases) change(e *lease, l *limiter.Limit) {
	o := e.limit
	if o.Kind == l.Kind && o.Count == l.Count && o.Period == l.Period && o.Burst == l.Burst && o.Lease == l.Lease &&
		(l.Kind != limiter.KindQuota || o.CalendarName() == l.CalendarName()) {
		e.limit = l
		return
	}
	for i := range e.credits {
		if k := &e.credits[i]; k.left > 0 {
			t.lose(e, k)
		}
	}
	e.limit = l
	e.credits, e.last, e.told.body = [2]credit{}, 0, e.told.body[:0]
}

// lose gives up what is left of a credit: of a quota it goes back, as no time
// would bring it.
func (t *leases) lose(e *lease, k *credit) {
	if e.limit.Kind == limiter.KindQuota {
		t.spare = append(t.spare, e.taken(k))
	} else {
		t.stats.stranded.Add(int64(k.left))
	}
	k.left = 0
}

// unlock ends what was done under the lock, and gives back what was given up.
func (t *leases) unlock() {
	spare := t.spare
	t.spare = nil
	t.mu.Unlock()
	for _, taken := range spare {
		t.yield(taken)
	}
}

// spend pays as many charges of a call as there are units for, fills their
// states, and returns which they are.
func (t *leases) spend(call *limiter.Call, by *[limiter.MaxCharges]spending) (paid uint32) {
	t.mu.Lock()
	defer t.unlock()
	now := t.now()
	for i := range call.Charges {
		c := &call.Charges[i]
		if !leasable(c) {
			continue
		}
		e := t.find(c)
		k := e.pay(c.Cost, now, t.stats)
		if k == nil {
			continue
		}
		by[i] = spending{lease: e, mark: k.mark}
		paid |= 1 << i
		t.describe(e, c, now, &call.Result.Limits[i])
	}
	// It is admitted when the clock says so, and not when it was looked at: this
	// process may have stood still in between.
	now = t.now()
	for i := range call.Charges {
		switch {
		case paid>>i&1 == 0:
		case !by[i].lease.holds(by[i].mark, now):
			paid &^= 1 << i
			t.stats.stranded.Add(int64(call.Charges[i].Cost))
		case t.spent != nil:
			t.spent(&call.Charges[i], now)
		default:
		}
	}
	return paid
}

// pay takes a cost from one of the credits and returns that, or nil.
func (e *lease) pay(cost limiter.Units, now int64, st *stats) *credit {
	for i := range e.credits {
		k := &e.credits[i]
		if k.until <= now {
			e.void(k, st)
			continue
		}
		if k.left >= cost {
			k.left -= cost
			return k
		}
	}
	return nil
}

// void ends a credit whose time is over. What is left of a quota's is given back
// by the timer that was set for it.
func (e *lease) void(k *credit, st *stats) {
	if k.left > 0 && e.limit.Kind != limiter.KindQuota {
		st.stranded.Add(int64(k.left))
		k.left = 0
	}
}

// collect takes what is left of a credit, for it to be given back.
func (t *leases) collect(e *lease, mark [2]int64) (taken limiter.Taken, found bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range e.credits {
		if k := &e.credits[i]; k.mark == mark && k.left > 0 {
			taken = e.taken(k)
			k.left = 0
			return taken, true
		}
	}
	return taken, false
}

func (e *lease) taken(k *credit) limiter.Taken {
	return limiter.Taken{Limit: e.limit, Key: e.key, Home: e.home, Slot: e.slot, Cost: k.left, Mark: k.mark}
}

// holds tells whether the units with a mark can still be spent.
func (e *lease) holds(mark [2]int64, now int64) bool {
	for i := range e.credits {
		if e.credits[i].mark == mark {
			return e.credits[i].until > now
		}
	}
	return false
}

// describe tells how a limit stands by what the store said last and by what
// there is here.
func (t *leases) describe(e *lease, c *limiter.Charge, now int64, st *limiter.State) {
	ticks := t.ticks()
	_ = e.told.load(&t.stored, c.Limit, ticks) // it was loaded when it came
	t.stored.Describe(c, limiter.Reading{Read: ticks, Judged: ticks}, true, nil, st)
	st.Remaining = min(st.Limit, st.Remaining+e.left(now))
}

// left is how much can be spent now.
func (e *lease) left(now int64) limiter.Units {
	var sum limiter.Units
	for i := range e.credits {
		if k := &e.credits[i]; k.until > now {
			sum += k.left
		}
	}
	return sum
}

// giveBack gives back what a call was paid with that is not admitted.
func (t *leases) giveBack(call *limiter.Call, by *[limiter.MaxCharges]spending, paid uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range call.Charges {
		if paid>>i&1 == 0 {
			continue
		}
		for j := range by[i].lease.credits {
			if k := &by[i].lease.credits[j]; k.mark == by[i].mark {
				k.left += call.Charges[i].Cost
				break
			}
		}
	}
}

// note counts what of a call was admitted as demand, and asks for units where
// that pays.
func (t *leases) note(call *limiter.Call) {
	var questions [limiter.MaxCharges]question
	n := 0
	t.mu.Lock()
	now := t.now()
	for i := range call.Charges {
		c := &call.Charges[i]
		if !leasable(c) {
			continue
		}
		e := t.find(c)
		e.count(c.Cost, now)
		if want := e.want(now); want > 0 {
			e.asking = true
			questions[n] = question{lease: e, limit: e.limit, want: want}
			n++
		}
	}
	t.unlock()
	for _, q := range questions[:n] {
		t.ask(q)
	}
}

// count counts demand.
func (e *lease) count(cost limiter.Units, now int64) {
	passed := now - e.since
	switch {
	case passed > int64(demandRest):
		e.used, e.since, e.demand = 0, now, 0
	case passed >= int64(demandSpan):
		rate := float64(e.used) / float64(limiter.Unit) / time.Duration(passed).Seconds()
		if e.demand > 0 {
			rate = (rate + e.demand) / 2
		}
		e.used, e.since, e.demand = 0, now, rate
	default:
	}
	e.used = min(e.used+cost, limiter.MaxCount*limiter.Unit)
}

// want is how many units to ask for now: what is needed for half of a lease, once
// half of the last is used up. Zero: none.
func (e *lease) want(now int64) uint16 {
	if e.asking || now < e.rest || e.left(now) > e.last/2 {
		return 0
	}
	n := math.Ceil(e.demand * e.limit.Lease.Seconds() / 2)
	if n < smallestLease {
		return 0
	}
	return uint16(min(n, math.MaxUint16))
}

// grant is what the store said to a question that was sent at an instant.
type grant struct {
	question
	sent int64
	// units is how many it gave, mark what they are given back by, told how the
	// bucket stands.
	units int
	mark  [2]int64
	told  *charged
	// ends is for how long after sent the units count, at most.
	ends time.Duration
}

// got takes in an answer, and tells for how long the units can be spent; zero if
// there are none, and then it is not asked for a while.
func (t *leases) got(g *grant) time.Duration {
	t.mu.Lock()
	defer t.unlock()
	e := g.lease
	e.asking = false
	life := min(g.ends, g.limit.Lease-g.limit.Lease/leaseMargin)
	mine := credit{left: limiter.Units(g.units) * limiter.Unit, until: g.sent + int64(life), mark: g.mark}
	switch late := mine.until <= t.now(); {
	case g.units == 0:
		e.rest = t.now() + int64(life)
		return 0
	case late || e.limit != g.limit: // the store is farther away than a lease is long, or the policy changed
		if late {
			e.rest = t.now() + tooLate*int64(life)
		}
		t.lose(&lease{limit: g.limit, key: e.key, home: e.home, slot: e.slot}, &mine)
		return 0
	}
	e.told.body = append(e.told.body[:0], g.told.body...)
	old := &e.credits[0]
	if e.credits[1].left > 0 {
		if old.left > 0 {
			t.lose(e, old)
		}
		*old = e.credits[1]
	}
	e.last, e.credits[1] = mine.left, mine
	t.stats.leases.Add(1)
	t.stats.leasedUnits.Add(int64(g.units))
	return time.Duration(e.credits[1].until - t.now())
}

// failed takes in that the store could not be asked.
func (t *leases) failed(e *lease) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e.asking, e.rest = false, t.now()+int64(e.limit.Lease)
}

// all calls f with everything that is left of quotas, which is not here any more
// then.
func (t *leases) all(f func(limiter.Taken)) {
	var left []limiter.Taken
	t.mu.Lock()
	for _, m := range []map[string]*lease{t.young, t.old} {
		for _, e := range m {
			for i := range e.credits {
				if k := &e.credits[i]; k.left > 0 && e.limit.Kind == limiter.KindQuota {
					left = append(left, e.taken(k))
					k.left = 0
				}
			}
		}
	}
	t.mu.Unlock()
	for _, taken := range left {
		f(taken)
	}
}
