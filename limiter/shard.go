package limiter

import (
	"math"
	"sync"
)

// shard is a part of the buckets with a lock of its own.
type shard struct {
	mu      sync.Mutex
	buckets map[string]*bucket
	all     []*bucket // the same buckets, for a sweep that goes on where it stopped
	hand    int       // the next one of all to look at
	visits  uint8
	peak    int // the most buckets since the map was made
	// high is the latest steady instant at which this shard was charged or
	// swept. A clock that goes back stands still instead, so it refills nothing.
	high int64
	// swept is the latest end of a quota that was swept. A bucket that is not
	// there may be one of those, so it is never in an earlier window.
	swept int64
	cal   calendarCache

	_ [64]byte // keeps the locks of neighbours on separate cache lines
}

func newShard() shard {
	return shard{buckets: make(map[string]*bucket), high: math.MinInt64, swept: math.MinInt64}
}

// add puts a new bucket in. The caller has reserved room for it.
func (s *shard) add(key []byte) *bucket {
	b := &bucket{key: string(key), place: len(s.all)}
	s.buckets[b.key] = b
	s.all = append(s.all, b)
	s.peak = max(s.peak, len(s.all))
	return b
}

// remove takes a bucket out.
func (s *shard) remove(b *bucket) {
	for q := b.quota; q != nil; q = q.next {
		s.swept = max(s.swept, q.end)
	}
	last := len(s.all) - 1
	s.all[b.place] = s.all[last]
	s.all[b.place].place = b.place
	s.all[last] = nil
	s.all = s.all[:last]
	delete(s.buckets, b.key)
	if s.peak >= 64 && len(s.all) < s.peak/4 {
		s.shrink()
	}
}

// shrink gives back the memory of a map and a list that were much larger once:
// Go's maps never do that by themselves.
func (s *shard) shrink() {
	all := make([]*bucket, len(s.all))
	buckets := make(map[string]*bucket, len(s.all))
	copy(all, s.all)
	for _, b := range all {
		buckets[b.key] = b
	}
	s.all, s.buckets, s.peak = all, buckets, len(all)
}

// lingering is how long an idle bucket is spared by sweepSome. One that comes
// and goes all the time, since its limit refills fast, is not made anew for
// each charge.
const lingering = 10 * ticksPerSecond

// sweepSome looks at up to n buckets, in turn, and removes those that are idle;
// it returns how many. This is how buckets go without a goroutine: each charge
// pays for a little.
func (s *shard) sweepSome(n int, now instant) int64 {
	var removed int64
	for ; n > 0 && len(s.all) > 0; n-- {
		if s.hand >= len(s.all) {
			s.hand = 0
		}
		b := s.all[s.hand]
		if b.idleIn(now) > -lingering {
			s.hand++
			continue
		}
		s.high = max(s.high, now.steady)
		s.remove(b)
		removed++
	}
	return removed
}

// sweepAll removes every idle bucket; it returns how many, and the ticks until
// the next one will be idle.
func (s *shard) sweepAll(now instant) (int64, int64) {
	var removed int64
	next := int64(math.MaxInt64)
	for i := 0; i < len(s.all); {
		b := s.all[i]
		if wait := b.idleIn(now); wait > 0 {
			next = min(next, wait)
			i++
			continue
		}
		s.high = max(s.high, now.steady)
		s.remove(b)
		removed++
	}
	return removed, next
}
