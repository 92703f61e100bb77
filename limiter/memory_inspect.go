package limiter

import (
	"context"
	"errors"
	"strings"
)

var _ Inspector = (*Memory)(nil)

var errNoSlot = errors.New("limiter: the slot is empty; name whose buckets are meant")

// Names implements [Inspector]. It tells whole keys, and looks at every bucket
// there is, one shard after the other.
func (m *Memory) Names(ctx context.Context, slot []byte, f func(name string) bool) error {
	return m.eachOf(ctx, slot, func(s *shard, at instant) bool {
		for _, b := range s.all {
			if strings.HasPrefix(b.key, string(slot)) && b.idleIn(at) > 0 && !f(b.key) {
				return false
			}
		}
		return true
	})
}

// Forget implements [Inspector].
func (m *Memory) Forget(ctx context.Context, slot, rest []byte) (int, error) {
	used := 0
	err := m.eachOf(ctx, slot, func(s *shard, at instant) bool {
		// What is removed here is not over: a bucket that takes its place may count
		// in the same calendar unit.
		swept, removed := s.swept, int64(0)
		for i := 0; i < len(s.all); {
			b := s.all[i]
			if !strings.HasPrefix(b.key, string(slot)) || !strings.HasSuffix(b.key[len(slot):], string(rest)) {
				i++
				continue
			}
			if b.idleIn(at) > 0 {
				used++
			}
			s.remove(b)
			removed++
		}
		s.swept = swept
		m.keys.Add(-removed)
		return true
	})
	return used, err
}

// eachOf calls f for each shard, locked, until it returns false.
func (m *Memory) eachOf(ctx context.Context, slot []byte, f func(s *shard, at instant) bool) error {
	if len(slot) == 0 {
		return errNoSlot
	}
	at := m.now()
	for i := range m.shards {
		if err := ctx.Err(); err != nil {
			return err
		}
		if m.closed.Load() {
			return ErrClosed
		}
		s := &m.shards[i]
		s.mu.Lock()
		more := f(s, instant{steady: max(at.steady, s.high), wall: at.wall})
		s.mu.Unlock()
		if !more {
			return nil
		}
	}
	return nil
}
