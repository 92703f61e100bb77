package server

import (
	"context"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
)

// sweepEvery bounds how often the slots are looked through while calls are shed.
const sweepEvery = 100 * time.Millisecond

// unreadPatience is how long a call may hold its slot, once slots have run out,
// without sending its message: whoever sends headers alone takes no place from
// those who ask.
const unreadPatience = time.Second

// inFlight counts the calls that were accepted and are not answered, from the
// moment their headers arrive: a server that is short of CPU queues calls
// before their handlers run, and that queue is what has to be bounded.
//
// Each call holds a slot. A handler gives its slot back; where grpc ends a
// call without running the handler (it was cancelled in the queue, or asks for
// a compression that is not there), the slot is found by a sweep, which runs
// only when slots have run out. A grpc stats handler would see those ends too,
// but costs every call seven allocations and a copy of its metadata.
type inFlight struct {
	methods map[string]bool
	answers map[string]bool // methods that answer that they were shed
	free    chan uint32
	slots   []atomic.Pointer[slot]
	swept   atomic.Int64
	now     func() time.Time
	shed    func()
}

// slot is one accepted call's place and rides in its context.
type slot struct {
	context.Context
	owner *inFlight
	index uint32
	begun atomic.Bool
	// decoded is set once the whole message has come; unread is when a sweep
	// first saw that it had not.
	decoded  atomic.Bool
	unread   atomic.Int64
	released atomic.Bool
}

type slotKey struct{}

// shedKey is that of the error of a call that was shed and answers so itself.
type shedKey struct{}

// Value implements context.Context.
func (s *slot) Value(key any) any {
	if key == (slotKey{}) {
		return s
	}
	return s.Context.Value(key)
}

// release gives the slot back, once; on nil it does nothing.
func (s *slot) release() {
	if s != nil && s.released.CompareAndSwap(false, true) {
		s.owner.slots[s.index].Store(nil)
		s.owner.free <- s.index
	}
}

func newInFlight(limit int, methods []string, now func() time.Time, shed func()) *inFlight {
	f := &inFlight{
		methods: make(map[string]bool, len(methods)),
		answers: map[string]bool{},
		free:    make(chan uint32, limit),
		slots:   make([]atomic.Pointer[slot], limit),
		now:     now,
		shed:    shed,
	}
	for i := range f.slots {
		f.free <- uint32(i)
	}
	for _, m := range methods {
		f.methods[m] = true
	}
	return f
}

// busy is how many slots are taken.
func (f *inFlight) busy() int { return len(f.slots) - len(f.free) }

// tap admits or sheds a call whose headers have arrived. It runs on the
// connection's own goroutine, so it never blocks.
func (f *inFlight) tap(ctx context.Context, info *tap.Info) (context.Context, error) {
	if !f.methods[info.FullMethodName] {
		return ctx, nil
	}
	index, ok := f.take()
	if !ok {
		f.shed()
		err := status.Errorf(codes.ResourceExhausted,
			"the server is overloaded: it works on %d calls already; no decision was made, try again later", len(f.slots))
		if f.answers[info.FullMethodName] {
			return context.WithValue(ctx, shedKey{}, err), nil
		}
		return nil, err
	}
	s := &slot{Context: ctx, owner: f, index: index}
	f.slots[index].Store(s)
	return s, nil
}

func (f *inFlight) take() (uint32, bool) {
	select {
	case i := <-f.free:
		return i, true
	default:
	}
	f.sweep()
	select {
	case i := <-f.free:
		return i, true
	default:
		return 0, false
	}
}

// sweep frees the slots of calls that ended before a handler saw them, and of
// those that keep their message back.
func (f *inFlight) sweep() {
	last, now := f.swept.Load(), f.now().UnixNano()
	if now-last < int64(sweepEvery) || !f.swept.CompareAndSwap(last, now) {
		return
	}
	for i := range f.slots {
		s := f.slots[i].Load()
		switch {
		case s == nil || s.decoded.Load():
		case !s.begun.Load() && s.Err() != nil, !s.unread.CompareAndSwap(0, now) && now-s.unread.Load() > int64(unreadPatience):
			s.release()
		}
	}
}

// begin marks that a handler has the call; the handler releases what it
// returns, which is nil for a method that is not counted.
func begin(ctx context.Context) *slot {
	s, _ := ctx.Value(slotKey{}).(*slot)
	if s != nil {
		s.begun.Store(true)
	}
	return s
}

// arrived marks that the whole message has come; on nil it does nothing.
func (s *slot) arrived() {
	if s != nil {
		s.decoded.Store(true)
	}
}
