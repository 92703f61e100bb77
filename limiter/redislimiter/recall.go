package redislimiter

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
)

// recall is a bounded memory of what was seen last, by name. When one half is
// full the other is forgotten, so what is in use stays without being ordered at
// every look. It is safe for concurrent use.
type recall[T any] struct {
	seed   maphash.Seed
	shards [16]recallShard[T]
	half   int // entries of one half of a shard
	// forgotten counts entries that were dropped for room.
	forgotten atomic.Int64
}

type recallShard[T any] struct {
	mu         sync.Mutex
	young, old map[string]*T
}

func newRecall[T any](entries int) *recall[T] {
	r := &recall[T]{seed: maphash.MakeSeed(), half: max(1, entries/len(recall[T]{}.shards)/2)}
	for i := range r.shards {
		r.shards[i].young = make(map[string]*T)
	}
	return r
}

func (r *recall[T]) shard(name []byte) *recallShard[T] {
	return &r.shards[maphash.Bytes(r.seed, name)%uint64(len(r.shards))]
}

// look calls f with the entry of name while nobody else has it, if there is one.
func (r *recall[T]) look(name []byte, f func(*T)) {
	s := r.shard(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.find(name); e != nil {
		f(e)
	}
}

func (s *recallShard[T]) find(name []byte) *T {
	if e := s.young[string(name)]; e != nil {
		return e
	}
	return s.old[string(name)]
}

// keep calls f with the entry of name while nobody else has it, or with a zero
// one that is kept from now on.
func (r *recall[T]) keep(name []byte, f func(e *T, found bool)) {
	s := r.shard(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.young[string(name)]; e != nil {
		f(e, true)
		return
	}
	e := s.old[string(name)]
	found := e != nil
	if !found {
		e = new(T)
	}
	f(e, found)
	if len(s.young) >= r.half {
		r.forgotten.Add(int64(len(s.old)))
		s.old, s.young = s.young, make(map[string]*T, r.half)
	}
	s.young[string(name)] = e
}

// clear forgets everything.
func (r *recall[T]) clear() {
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		clear(s.young)
		s.old = nil
		s.mu.Unlock()
	}
}
