package redislimiter

import (
	"slices"
	"sync"
	"time"

	"github.com/kelpie-authz/kelpie/limiter"
)

// leaser takes calls of which some limits have leases: what can be is paid from
// units that were taken ahead, and the rest, if there is one, by the store.
type leaser struct {
	l      *Limiter
	began  time.Time
	leases leases
	works  sync.Pool // *leasedCall

	mu     sync.Mutex
	closed bool
	asking sync.WaitGroup
	// timers end what was taken of quotas.
	timers map[*time.Timer]struct{}
}

// stays is the mark of a charge that is not given back, as no busy period begins
// then. Units of a rate that were taken ahead share one charge, of which nothing
// can be undone; time gives them back soon.
//
//nolint:gochecknoglobals // A constant; Go has no constant arrays.
var stays = [2]int64{0, -1 << 52}

// leasedCall is the work on one call. It is reused.
type leasedCall struct {
	by    [limiter.MaxCharges]spending
	rest  limiter.Call
	index []int // of its charges in the whole call
}

func newLeaser(l *Limiter) *leaser {
	s := &leaser{l: l, began: time.Now()}
	s.works.New = func() any { return new(leasedCall) }
	s.leases = leases{now: func() int64 { return int64(time.Since(s.began)) }, ticks: l.now, ask: s.ask, yield: s.yield, stats: &l.stats}
	return s
}

// close waits for the answers to what was asked, and gives back what would not
// come back by itself.
func (s *leaser) close() {
	s.mu.Lock()
	s.closed = true
	timers := s.timers
	s.timers = nil
	s.mu.Unlock()
	for t := range timers {
		t.Stop()
	}
	s.asking.Wait()
	s.leases.all(s.giveUp)
}

// take takes a call that has a leasable charge.
func (s *leaser) take(w *parcel, call *limiter.Call) error {
	k, _ := s.works.Get().(*leasedCall)
	defer s.works.Put(k)
	res, n := &call.Result, len(call.Charges)
	res.Limits = slices.Grow(res.Limits[:0], n)[:n]
	paid := s.leases.spend(call, &k.by)
	if err := s.takeRest(w, call, k, paid); err != nil {
		s.leases.giveBack(call, &k.by, paid)
		res.Reset()
		return err
	}
	if !res.Admitted {
		s.leases.giveBack(call, &k.by, paid)
		return nil
	}
	for i := range call.Charges {
		if paid>>i&1 == 0 {
			continue
		}
		s.l.stats.leased.Add(1)
		c := &call.Charges[i]
		taken := limiter.Taken{Limit: c.Limit, Key: c.Key, Home: c.Home, Slot: c.Slot, Cost: c.Cost, Mark: k.by[i].mark}
		if c.Limit.Kind == limiter.KindRate {
			taken.Mark = stays
		}
		res.Receipt.Taken = append(res.Receipt.Taken, taken)
	}
	s.leases.note(call)
	return nil
}

// takeRest has the store charge what is not paid yet.
func (s *leaser) takeRest(w *parcel, call *limiter.Call, k *leasedCall, paid uint32) error {
	res := &call.Result
	if paid == 0 {
		return s.l.takeAsking(w, call)
	}
	k.index, k.rest.Charges = k.index[:0], k.rest.Charges[:0]
	for i := range call.Charges {
		if paid>>i&1 == 0 {
			k.index = append(k.index, i)
			k.rest.Charges = append(k.rest.Charges, call.Charges[i])
		}
	}
	res.Admitted = true
	if len(k.index) == 0 {
		return nil
	}
	defer func() {
		clear(k.rest.Charges)
		k.rest.Result.Reset()
	}()
	if err := s.l.takeAsking(w, &k.rest); err != nil {
		return err
	}
	res.Admitted = k.rest.Result.Admitted
	for at, i := range k.index {
		res.Limits[i] = k.rest.Result.Limits[at]
	}
	res.Receipt.Taken = append(res.Receipt.Taken, k.rest.Result.Receipt.Taken...)
	return nil
}

// ask asks the store for units, without anybody waiting for them.
func (s *leaser) ask(q question) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		s.leases.failed(q.lease)
		return
	}
	s.asking.Go(func() { s.fetch(q) })
}

func (s *leaser) fetch(q question) {
	l, e := s.l, q.lease
	answered := false
	defer func() {
		if r := recover(); r != nil || !answered { // a panic here would be nobody's call's
			s.leases.failed(e)
		}
	}()
	charges := []limiter.Charge{{Limit: q.limit, Key: e.key, Home: e.home, Slot: e.slot, Cost: limiter.Unit}}
	k := l.only
	if l.nodes != nil {
		var err error
		if k, err = l.nodes.way(l.nodes.tag(&charges[0])); err != nil {
			return
		}
	}
	w, _ := l.works.Get().(*parcel)
	defer l.works.Put(w)
	flags, reading := l.clock()
	w.reset(takeScript, false)
	w.req.begin(flags|flagLease, limiter.StopNever, reading, l.now(), l.floors.epoch.Load())
	which, _ := w.req.call(l.prefix, charges, nil)
	w.req.lease(q.want, limiter.LeaseTicks(q.limit), 2*int64(l.Replicas()))
	w.req.seal(&l.floors)
	sent := s.leases.now()
	a, moved, err := l.ask(k, w)
	if err == nil && !moved {
		err = w.next(&a, which, w.req.called[4:], &l.floors)
	}
	if err != nil || moved || len(w.verdict.charges) != 1 {
		return
	}
	g := &grant{question: q, sent: sent, units: w.verdict.granted, told: &w.verdict.charges[0], ends: limiter.MaxLease}
	if g.units > 0 {
		if err := g.told.load(&w.stored, q.limit, w.verdict.reading.Judged); err != nil {
			return
		}
		g.mark = w.stored.Mark(&charges[0], w.verdict.reading, 0)
	}
	answered = true
	if q.limit.Kind != limiter.KindQuota {
		s.leases.got(g)
		return
	}
	if g.units > 0 { // its unit ends so long after it was charged, and that was after it was sent
		g.ends = limiter.Span(w.stored.Idle() - a.read)
	}
	if life := s.leases.got(g); life > 0 {
		s.after(life, e, g.mark)
	}
}

// after gives back what is left of a quota's units when their time is over.
func (s *leaser) after(life time.Duration, e *lease, mark [2]int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return // close gives it back
	}
	var t *time.Timer
	t = time.AfterFunc(life, func() {
		s.mu.Lock()
		delete(s.timers, t)
		s.mu.Unlock()
		if taken, left := s.leases.collect(e, mark); left {
			s.yield(taken)
		}
	})
	if s.timers == nil {
		s.timers = make(map[*time.Timer]struct{})
	}
	s.timers[t] = struct{}{}
}

// yield gives units back without anybody waiting for it.
func (s *leaser) yield(taken limiter.Taken) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		s.l.stats.stranded.Add(int64(taken.Cost))
		return
	}
	s.asking.Go(func() { s.giveUp(taken) })
}

// giveUp gives units back. If it is not known whether that was done they stay
// charged.
func (s *leaser) giveUp(taken limiter.Taken) {
	refund := func(k *link, taken []limiter.Taken) error { return s.l.refund(k, taken) }
	var err error
	if s.l.nodes != nil {
		err = s.l.nodes.each([]limiter.Taken{taken}, refund)
	} else {
		err = refund(s.l.only, []limiter.Taken{taken})
	}
	if err != nil {
		s.l.stats.stranded.Add(int64(taken.Cost))
	}
}
