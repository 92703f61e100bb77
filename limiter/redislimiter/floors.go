package redislimiter

import (
	"bytes"
	"sync/atomic"
	"time"

	"github.com/kelpie-authz/kelpie/limiter"
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
	// before is what was told until read, if it was more than what was told then:
	// that had been given back meanwhile, or lost.
	before struct {
		idle, read int64
		body       []byte
	}
	// given is until when answers are too old to know of what was given back.
	given int64
}

// longestAnswer bounds how much older an answer is than what this replica takes
// for the time when another one has come.
const longestAnswer = int64(100 * time.Millisecond / time.Microsecond * 16)

// longestDoubt is for how long what was told before is kept in mind. It is
// longer than a replica takes to notice by its heartbeat that values are lost.
const longestDoubt = int64(5 * time.Second / time.Microsecond * 16)

// floors remembers values. A store loses what it was told when it is flushed,
// restarted without its data, or followed by a replica that lags. A bucket's
// debt only grows but for what time gives back, so putting back what is
// remembered never admits more. Holds are not remembered: they are given back
// all the time, and one that is put back would stay until its end.
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
		put := func(sign [signSize]byte, body []byte, idle int64) {
			if idle > r.now {
				r.floor(home, sign, body)
				f.stats.floors.Add(1)
			}
		}
		for i := range e.buckets {
			b := &e.buckets[i]
			put(b.sign, b.body, b.idle)
			if b.doubted(r.now) { // the store takes the larger one
				put(b.sign, b.before.body, b.before.idle)
			}
		}
	})
}

// gave forgets what is known of a bucket of which something was given back at
// about now, until it is told anew.
func (f *floors) gave(key, sign []byte, now int64) {
	f.seen.look(key, func(e *remembered) {
		for i := range e.buckets {
			b := &e.buckets[i]
			if bytes.Equal(b.sign[:signName], sign[:signName]) {
				b.idle, b.body, b.before.body, b.given = 0, b.body[:0], b.before.body[:0], now+longestAnswer
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
		feared := false
		if found && e.epoch >= epoch {
			if absent && e.held(now) {
				// It was lost. What is remembered is put back with the next call.
				f.epoch.CompareAndSwap(epoch, epoch+1)
				return
			}
			if e.epoch > epoch || now < e.read {
				return // the answer is older than what is known
			}
			feared = f.epoch.Load() > epoch
		}
		for i := range buckets {
			e.set(&buckets[i], now, feared)
		}
		e.epoch, e.read = epoch, now
	})
}

// held tells whether a bucket should have been in use at an instant, by what was
// told before that.
func (e *remembered) held(now int64) bool {
	for i := range e.buckets {
		b := &e.buckets[i]
		if (now > e.read && b.idle > now) || (b.doubted(now) && now > b.before.read && b.before.idle > now) {
			return true
		}
	}
	return false
}

// doubted tells whether what was told before is still kept in mind.
func (b *floor) doubted(now int64) bool {
	return len(b.before.body) > 0 && now-b.before.read <= longestDoubt
}

// set takes in what was told at an instant. If a loss is feared that the request
// did not know of, what is less than before is rather one.
func (e *remembered) set(t *told, now int64, feared bool) {
	for i := range e.buckets {
		b := &e.buckets[i]
		if !bytes.Equal(b.sign[:signName], t.sign[:signName]) {
			continue
		}
		if now < b.given {
			return
		}
		lost := b.idle > now && less(t, b.body, b.idle)
		if lost && feared {
			return
		}
		switch {
		case b.doubted(now) && !less(t, b.before.body, b.before.idle):
			b.before.body = b.before.body[:0]
		case lost && !b.doubted(now):
			b.before.body, b.body = b.body, b.before.body
			b.before.idle, b.before.read = b.idle, e.read
		}
		b.fill(t)
		return
	}
	e.buckets = append(e.buckets, floor{})
	e.buckets[len(e.buckets)-1].fill(t)
}

// less tells whether a bucket is told to hold less than what was told before, and
// time, would explain.
func less(t *told, body []byte, idle int64) bool {
	was, is := cursor{b: body}, cursor{b: t.body}
	switch limiter.Kind(t.sign[0]) {
	case limiter.KindRate:
		return t.idle < idle
	case limiter.KindQuota:
		was.take(8)
		is.take(8)
		return t.idle == idle && was.int() == is.int() && is.int() < was.int()
	default:
		// A window: it was made anew.
		was.take(24)
		is.take(24)
		return is.int() > was.int()
	}
}

func (b *floor) fill(t *told) {
	b.idle, b.body = t.idle, append(b.body[:0], t.body...)
	n := len(t.body)
	copy(b.sign[:], t.sign[:signName])
	b.sign[signName], b.sign[signName+1], b.sign[signName+2] = byte(n), byte(n>>8), byte(n>>16) //nolint:gosec // Its bits.
}
