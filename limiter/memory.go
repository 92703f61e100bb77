package limiter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// MemoryConfig configures [NewMemory]. The zero value is fit for use.
type MemoryConfig struct {
	// Clock is read once per Take, Peek and Refund. Nil means time.Now, whose
	// monotonic reading keeps rates, windows and holds right while the wall
	// clock is set; quotas follow the wall clock. A clock without a monotonic
	// reading may go back: time then stands still until it catches up.
	Clock func() time.Time
	// MaxKeys is how many buckets are kept at most; see [ErrFull]. A bucket of
	// a rate takes about 250 bytes with its key. Zero means 1,000,000.
	MaxKeys int
	// Shards is into how many parts, each with its own lock, the buckets are
	// divided: a power of two up to 65,536. Zero means 256.
	Shards int
}

const (
	defaultMaxKeys = 1_000_000
	defaultShards  = 256
	maxShards      = 1 << 16
)

// Memory is the Limiter that keeps its buckets in this process. They are gone
// when it ends. It starts no goroutine.
//
// A call locks the shards of all its buckets, in order, judges and charges, so
// concurrent calls see each other's charges whole or not at all. Idle buckets
// are removed a few at a time by the charges themselves.
type Memory struct {
	clock     func() time.Time
	start     time.Time // the clock's first reading; steady time counts from it
	startTick int64
	seed      maphash.Seed
	shards    []shard
	maxKeys   int64
	none      *bucket // stands in for a key that was never charged: it is full
	keys      atomic.Int64
	evictions atomic.Int64
	closed    atomic.Bool

	sweeping sync.Mutex   // one full sweep at a time
	sweepAt  atomic.Int64 // steady instant before which a full sweep finds nothing
}

var _ Limiter = (*Memory)(nil)

// NewMemory returns an empty Memory. The error names a field of the
// configuration that is out of range.
func NewMemory(cfg MemoryConfig) (*Memory, error) {
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.MaxKeys == 0 {
		cfg.MaxKeys = defaultMaxKeys
	}
	if cfg.Shards == 0 {
		cfg.Shards = defaultShards
	}
	if cfg.MaxKeys < 0 {
		return nil, fmt.Errorf("limiter: MaxKeys is %d; it must be positive, or 0 for %d", cfg.MaxKeys, defaultMaxKeys)
	}
	if cfg.Shards < 0 || cfg.Shards > maxShards || cfg.Shards&(cfg.Shards-1) != 0 {
		return nil, fmt.Errorf("limiter: Shards is %d; it must be a power of two up to %d, or 0 for %d", cfg.Shards, maxShards, defaultShards)
	}
	start := cfg.Clock()
	m := &Memory{
		clock:     cfg.Clock,
		start:     start,
		startTick: wallTicks(start),
		seed:      maphash.MakeSeed(),
		shards:    make([]shard, cfg.Shards),
		maxKeys:   int64(cfg.MaxKeys),
		none:      &bucket{},
	}
	for i := range m.shards {
		m.shards[i] = newShard()
	}
	m.sweepAt.Store(m.startTick)
	return m, nil
}

// Len is how many buckets are kept, idle ones that were not swept included.
func (m *Memory) Len() int { return int(m.keys.Load()) }

// Evictions is how many idle buckets were removed since the start. It only
// grows. Buckets in use are never removed.
func (m *Memory) Evictions() int64 { return m.evictions.Load() }

// Sweep removes every idle bucket and returns how many. Nobody needs to call
// it for the answers to be right or for memory to stay bounded; a process that
// wants its memory back while no calls come may do so now and then.
func (m *Memory) Sweep() int {
	m.sweeping.Lock()
	defer m.sweeping.Unlock()
	return int(m.sweepLocked(m.now()))
}

// Close implements [Limiter].
func (m *Memory) Close() error {
	m.closed.Store(true)
	return nil
}

// now reads the clock.
func (m *Memory) now() instant {
	t := m.clock()
	return instant{steady: m.startTick + ticksFloor(t.Sub(m.start)), wall: wallTicks(t)}
}

// Take implements [Limiter]. It does not look at ctx again once it has begun.
func (m *Memory) Take(ctx context.Context, calls []Call, stop Stop) (int, error) {
	if err := m.admit(ctx, calls); err != nil {
		return 0, err
	}
	at := m.now()
	for i := range calls {
		if err := m.take(&calls[i], at); err != nil {
			return i, err
		}
		admitted := calls[i].Result.Admitted
		if (stop == StopAtDenied && !admitted) || (stop == StopAtAdmitted && admitted) {
			return i + 1, nil
		}
	}
	return len(calls), nil
}

// Peek implements [Limiter].
func (m *Memory) Peek(ctx context.Context, calls []Call) error {
	if err := m.admit(ctx, calls); err != nil {
		return err
	}
	at := m.now()
	for i := range calls {
		d := decision{m: m, call: &calls[i], raw: at}
		d.peek()
	}
	return nil
}

// admit clears the results and checks what has to be right before anything is
// judged.
func (m *Memory) admit(ctx context.Context, calls []Call) error {
	for i := range calls {
		calls[i].Result.Reset()
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if m.closed.Load() {
		return ErrClosed
	}
	return CheckCalls(calls)
}

// take judges one call, and makes room by a full sweep if it needs to.
func (m *Memory) take(call *Call, at instant) error {
	for {
		d := decision{m: m, call: call, raw: at}
		err := d.take()
		if !errors.Is(err, ErrFull) || !m.reclaim(at, d.fresh) {
			return err
		}
	}
}

// reclaim makes room for fresh buckets by sweeping everything, if that can
// help, and reports whether there is room.
func (m *Memory) reclaim(at instant, fresh int64) bool {
	m.sweeping.Lock()
	defer m.sweeping.Unlock()
	if m.keys.Load()+fresh > m.maxKeys && at.steady >= m.sweepAt.Load() {
		m.sweepLocked(at)
	}
	return m.keys.Load()+fresh <= m.maxKeys // perhaps by another caller's sweep
}

// sweepLocked is a full sweep. While the table is full, each new key asks for
// one, so it notes when the next can find anything: at most a second ahead,
// since a quota ends by the wall clock, which may be set.
func (m *Memory) sweepLocked(at instant) int64 {
	var removed int64
	wait := int64(ticksPerSecond)
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		n, next := s.sweepAll(at)
		s.mu.Unlock()
		removed += n
		wait = min(wait, next)
	}
	m.sweepAt.Store(at.steady + wait)
	m.gone(removed)
	return removed
}

// gone counts buckets that a sweep removed.
func (m *Memory) gone(n int64) {
	if n > 0 {
		m.keys.Add(-n)
		m.evictions.Add(n)
	}
}

// shardOf is the shard of a key, by its hash.
func (m *Memory) shardOf(key []byte) (uint64, uint32) {
	h := maphash.Bytes(m.seed, key)
	return h, uint32(h) & uint32(len(m.shards)-1) //nolint:gosec // Any bits of a hash will do; there are at most maxShards.
}

// Refund implements [Limiter]. A context that has ended refunds nothing and
// leaves r as it is.
func (m *Memory) Refund(ctx context.Context, r *Receipt) error {
	if err := m.admitReceipt(ctx, r); err != nil {
		return err
	}
	at := m.now()
	for i := range r.Taken {
		m.refund(&r.Taken[i], at)
	}
	r.Taken = r.Taken[:0]
	return nil
}

// admitReceipt checks what has to be right before any entry is worked on.
func (m *Memory) admitReceipt(ctx context.Context, r *Receipt) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if m.closed.Load() {
		return ErrClosed
	}
	return r.Check()
}

// Debit implements [Limiter]. With ErrFull the entries that are left in r were
// not charged.
func (m *Memory) Debit(ctx context.Context, r *Receipt) error {
	if err := m.admitReceipt(ctx, r); err != nil {
		return err
	}
	at := m.now()
	for i := range r.Taken {
		if err := m.debit(&r.Taken[i], at); err != nil {
			r.Taken = slices.Delete(r.Taken, 0, i)
			return err
		}
	}
	r.Taken = r.Taken[:0]
	return nil
}

func (m *Memory) debit(t *Taken, at instant) error {
	if t.Limit.Kind == KindConcurrency {
		return nil
	}
	// A debit is a call of one charge that is not judged.
	call := Call{Charges: []Charge{{Limit: t.Limit, Key: t.Key, Home: t.Home, Slot: t.Slot, Cost: boundedDebit(t.Limit, t.Cost)}}}
	for {
		d := decision{m: m, call: &call, raw: at}
		err := d.debit()
		if !errors.Is(err, ErrFull) || !m.reclaim(at, d.fresh) {
			return err
		}
	}
}

func (m *Memory) refund(t *Taken, at instant) {
	_, index := m.shardOf(t.Key)
	s := &m.shards[index]
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.buckets[string(t.Key)]
	if b == nil {
		return
	}
	at.steady = max(at.steady, s.high)
	b.refund(t, at)
	m.sweepAt.Store(at.steady) // it may be idle now
}

// sameBucket compares two keys with their hashes at hand.
func sameBucket(ha, hb uint64, a, b []byte) bool { return ha == hb && bytes.Equal(a, b) }
