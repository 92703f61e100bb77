package redislimiter

import (
	"bytes"
	"sync/atomic"
)

// remembered is what this replica was last told of one value: what it puts back
// if the store has lost it.
type remembered struct {
	buckets []floor
	// epoch is when it was told, or put it back: a count of the losses that were
	// seen until then.
	epoch int64
	// read is what the store's clock showed then.
	read int64
}

// floor is one bucket of a value, with the instant from which it is idle.
type floor struct {
	sign [signSize]byte
	idle int64
	body []byte
}

// floors remembers values. A store loses what it was told when it is flushed,
// restarted without its data, or followed by a replica that lags. A bucket's
// debt only grows but for what time gives back, so putting back what is
// remembered never admits more.
type floors struct {
	seen *recall[remembered]
	// epoch counts the losses that were seen, or that may have been.
	epoch atomic.Int64
	stats *stats
}

// suspect says that the store may have lost values.
func (f *floors) suspect() { f.epoch.Add(1) }

// attach puts the buckets of one home into a request that the store may have
// lost. It is called between the head of the request and its calls.
func (f *floors) attach(r *request, home uint16, key []byte) {
	f.seen.look(key, func(e *remembered) {
		if e.epoch >= r.epoch {
			return
		}
		for i := range e.buckets {
			if b := &e.buckets[i]; b.idle > r.now {
				r.floor(home, b.sign, b.body)
				f.stats.floors.Add(1)
			}
		}
	})
}

// drop forgets a home that was made full on purpose.
func (f *floors) drop(key []byte) {
	f.seen.look(key, func(e *remembered) { e.buckets = e.buckets[:0] })
}

// told is a bucket as an answer tells it.
type told struct {
	sign, body []byte
	idle       int64
}

// note remembers the buckets of a home that an answer tells, to a request made
// in an epoch. absent is true if the store had nothing under the key before.
func (f *floors) note(key []byte, buckets []told, epoch int64, absent bool, now int64) {
	f.seen.keep(key, func(e *remembered, found bool) {
		if found && e.epoch >= epoch {
			if e.epoch > epoch || now < e.read {
				return // the answer is older than what is known
			}
			if absent && now > e.read && e.holds(now) {
				// It was lost. What is remembered is put back with the next call.
				f.epoch.CompareAndSwap(epoch, epoch+1)
				return
			}
		}
		e.epoch, e.read = epoch, now
		for i := range buckets {
			e.set(&buckets[i])
		}
	})
}

// holds tells whether any of its buckets is in use.
func (e *remembered) holds(now int64) bool {
	for i := range e.buckets {
		if e.buckets[i].idle > now {
			return true
		}
	}
	return false
}

func (e *remembered) set(t *told) {
	for i := range e.buckets {
		if b := &e.buckets[i]; bytes.Equal(b.sign[:signName], t.sign[:signName]) {
			b.fill(t)
			return
		}
	}
	e.buckets = append(e.buckets, floor{})
	e.buckets[len(e.buckets)-1].fill(t)
}

func (b *floor) fill(t *told) {
	b.idle, b.body = t.idle, append(b.body[:0], t.body...)
	n := len(t.body)
	copy(b.sign[:], t.sign[:signName])
	b.sign[signName], b.sign[signName+1], b.sign[signName+2] = byte(n), byte(n>>8), byte(n>>16) //nolint:gosec // Its bits.
}
