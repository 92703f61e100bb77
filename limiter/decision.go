package limiter

import (
	"errors"
	"slices"
)

var errTooMany = errors.New("a call has at most 32 charges; split it or match fewer limits")

// inlineCharges is how many charges a decision is judged with without
// allocating.
const inlineCharges = 6

// part is what a decision knows of one charge.
type part struct {
	hash   uint64
	bucket *bucket // Memory.none if the key was never charged
	shard  uint32
	fits   bool
}

// decision is the work on one call, from locking its shards to unlocking them.
type decision struct {
	m     *Memory
	call  *Call
	raw   instant // the clock as it was read
	now   instant // the same, never before what the shards have seen
	fresh int64   // how many buckets it adds
	// The parts of n charges are in inline if they fit, else in more. A slice
	// of inline kept here would force the decision onto the heap.
	n      int
	inline [inlineCharges]part
	more   []part
}

// parts has one part per charge.
func (d *decision) parts() []part {
	if d.n <= inlineCharges {
		return d.inline[:d.n]
	}
	return d.more
}

// take judges the call and charges it if it is admitted. With ErrFull nothing
// is charged.
func (d *decision) take() error {
	d.begin()
	defer d.unlock()
	d.judge()
	if !d.call.Result.Admitted {
		d.observe()
		return nil
	}
	if !d.reserve() {
		d.call.Result.Reset()
		return ErrFull
	}
	d.charge()
	d.observe()
	d.sweep()
	return nil
}

// peek judges the call and changes nothing.
func (d *decision) peek() {
	d.begin()
	defer d.unlock()
	d.judge()
	d.observe()
}

// debit charges the call unjudged. With ErrFull nothing is charged.
func (d *decision) debit() error {
	d.begin()
	defer d.unlock()
	for i := range d.parts() {
		d.parts()[i].fits = true
	}
	if !d.reserve() {
		return ErrFull
	}
	d.charge()
	for i := range d.parts() {
		d.parts()[i].bucket.boundOwed(d.call.Charges[i].Limit, d.at(&d.parts()[i]))
	}
	d.sweep()
	return nil
}

// begin readies the result and locks.
func (d *decision) begin() {
	n := len(d.call.Charges)
	res := &d.call.Result
	res.Limits = slices.Grow(res.Limits[:0], n)[:n]
	d.n = n
	if n > inlineCharges {
		d.more = make([]part, n)
	}
	parts := d.parts()
	for i := range d.call.Charges {
		hash, shard := d.m.shardOf(d.call.Charges[i].Key)
		parts[i] = part{hash: hash, shard: shard}
	}
	d.lock()
}

// eachShard calls f once for each shard of the call, in ascending order, which
// is what keeps concurrent decisions from waiting for each other in a circle.
func (d *decision) eachShard(f func(*shard)) {
	if parts := d.parts(); len(parts) == 1 {
		f(&d.m.shards[parts[0].shard])
		return
	}
	for last := int64(-1); ; {
		next := int64(len(d.m.shards))
		for i := range d.parts() {
			if s := int64(d.parts()[i].shard); s > last {
				next = min(next, s)
			}
		}
		if next == int64(len(d.m.shards)) {
			return
		}
		f(&d.m.shards[next])
		last = next
	}
}

func (d *decision) lock() {
	d.now = d.raw
	d.eachShard(func(s *shard) {
		s.mu.Lock()
		d.now.steady = max(d.now.steady, s.high)
	})
	for i := range d.parts() {
		p := &d.parts()[i]
		p.bucket = d.m.shards[p.shard].buckets[string(d.call.Charges[i].Key)]
		if p.bucket == nil {
			p.bucket = d.m.none
		}
	}
}

func (d *decision) unlock() {
	d.eachShard(func(s *shard) { s.mu.Unlock() })
}

// at is the instant to judge a bucket of shard s with.
func (d *decision) at(p *part) instant {
	now := d.now
	if s := &d.m.shards[p.shard]; p.bucket.quota == nil && now.wall < s.swept {
		now.wall = s.swept
	}
	return now
}

// judge fills the verdicts: first the limits that bind, then the shadows,
// which take what is left.
func (d *decision) judge() {
	d.call.Result.Admitted = true
	shadows := false
	for i := range d.call.Charges {
		if d.call.Charges[i].Shadow {
			shadows = true
			continue
		}
		if !d.judgeOne(i) {
			d.call.Result.Admitted = false
		}
	}
	if !shadows {
		return
	}
	for i := range d.call.Charges {
		if d.call.Charges[i].Shadow {
			d.judgeOne(i)
		}
	}
}

func (d *decision) judgeOne(i int) bool {
	c, p := &d.call.Charges[i], &d.parts()[i]
	st := &d.call.Result.Limits[i]
	*st = State{Limit: c.Limit.capacity()}
	pending, pendingTicks := Units(0), int64(0)
	if len(d.parts()) > 1 {
		pending, pendingTicks = d.pending(i)
	}
	if c.Cost > st.Limit || pending > st.Limit-c.Cost {
		st.Lacked, st.Never = true, true
		return false
	}
	now := d.at(p)
	wait, fits := p.bucket.judge(c.Limit, now, &d.m.shards[p.shard].cal, pending, pendingTicks, c.Cost)
	p.fits = fits
	if !fits {
		st.Lacked = true
		st.RetryAfter = span(wait + d.behind(c.Limit, now))
	}
	return fits
}

// behind is how far the clock lags behind the instant that was judged with.
// Whoever waits has to wait for that too.
func (d *decision) behind(l *Limit, now instant) int64 {
	if l.Kind == KindQuota {
		return now.wall - d.raw.wall
	}
	return now.steady - d.raw.steady
}

// pending sums what charges of this call that fit already take from the bucket
// of charge i.
func (d *decision) pending(i int) (Units, int64) {
	var units Units
	var ticks int64
	c, p := &d.call.Charges[i], &d.parts()[i]
	for j := range d.parts() {
		q, o := &d.parts()[j], &d.call.Charges[j]
		if !q.fits || j == i || o.Limit.Kind != c.Limit.Kind || !sameBucket(p.hash, q.hash, c.Key, o.Key) {
			continue
		}
		units += o.Cost
		if c.Limit.Kind == KindRate {
			ticks += increment(emission(c.Limit), o.Cost)
		}
	}
	return units, ticks
}

// reserve counts the buckets that the call will add, and reports whether there
// is room for them.
func (d *decision) reserve() bool {
	for i := range d.parts() {
		if d.opens(i) {
			d.fresh++
		}
	}
	if d.fresh == 0 {
		return true
	}
	for {
		keys := d.m.keys.Load()
		if keys+d.fresh > d.m.maxKeys {
			return false
		}
		if d.m.keys.CompareAndSwap(keys, keys+d.fresh) {
			return true
		}
	}
}

// opens reports whether charge i is the first of the call to need its bucket
// and that bucket is not there.
func (d *decision) opens(i int) bool {
	p := &d.parts()[i]
	if !p.fits || p.bucket != d.m.none {
		return false
	}
	for j := range i {
		q := &d.parts()[j]
		if q.fits && sameBucket(p.hash, q.hash, d.call.Charges[i].Key, d.call.Charges[j].Key) {
			return false
		}
	}
	return true
}

// charge takes every charge that fits: all that bind, since the call is
// admitted, and the shadows with room.
func (d *decision) charge() {
	d.eachShard(func(s *shard) { s.high = max(s.high, d.now.steady) })
	res := &d.call.Result
	for i := range d.parts() {
		c, p := &d.call.Charges[i], &d.parts()[i]
		if !p.fits {
			continue
		}
		now := d.at(p)
		s := &d.m.shards[p.shard]
		if p.bucket == d.m.none {
			p.bucket = s.buckets[string(c.Key)] // an earlier charge may have added it
		}
		if p.bucket == nil {
			p.bucket = s.add(c.Key)
		}
		mark := p.bucket.charge(c.Limit, now, &s.cal, c.Cost)
		res.Receipt.Taken = append(res.Receipt.Taken, Taken{Limit: c.Limit, Key: c.Key, Home: c.Home, Slot: c.Slot, Cost: c.Cost, Mark: mark})
	}
}

// observe fills what is left of each limit.
func (d *decision) observe() {
	for i := range d.parts() {
		c, p := &d.call.Charges[i], &d.parts()[i]
		st := &d.call.Result.Limits[i]
		if d.fresh > 0 && p.bucket == d.m.none {
			// One in shadow that lacked, beside a charge that added the bucket.
			if b := d.m.shards[p.shard].buckets[string(c.Key)]; b != nil {
				p.bucket = b
			}
		}
		now := d.at(p)
		left, reset := p.bucket.observe(c.Limit, now, &d.m.shards[p.shard].cal)
		st.Remaining = left
		if reset > 0 {
			st.Reset = span(reset + d.behind(c.Limit, now))
		}
	}
}

// sweep looks at more buckets than the call added, so that idle ones go sooner
// than new ones come, and now and then at one even if it added none. It comes
// last: before its charge, a bucket of this call could be idle itself.
func (d *decision) sweep() {
	d.eachShard(func(s *shard) {
		n := 2 * int(d.fresh)
		if s.visits++; s.visits%8 == 0 {
			n++
		}
		if n > 0 {
			d.m.gone(s.sweepSome(n, d.now))
		}
	})
}
