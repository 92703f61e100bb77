package limiter

import (
	"cmp"
	"slices"
)

// hold is units that are held until an instant.
type hold struct {
	until int64
	units Units
}

// maxHolds bounds the list of one bucket. Whole costs never reach it, since at
// most MaxSlots of them are held at once.
const maxHolds = MaxSlots

// holdState lists what is held, by end; equal ends are one entry. It knows no
// limit: a changed Count or Hold leaves the running holds as they are.
type holdState struct {
	holds []hold
}

// held sums what is held at now.
func (s *holdState) held(now int64) Units {
	if s == nil {
		return 0
	}
	var sum Units
	for _, h := range s.holds {
		if h.until > now {
			sum += h.units
		}
	}
	return sum
}

// freeAt is the instant at which at least need of the held units are free
// again. need is positive and at most held.
func (s *holdState) freeAt(now int64, need Units) int64 {
	if s == nil {
		return now
	}
	for _, h := range s.holds {
		if h.until <= now {
			continue
		}
		need -= h.units
		if need <= 0 {
			return h.until
		}
	}
	return now
}

// judge answers whether cost fits beside pending, and the ticks to wait if
// not. pending+cost is at most the limit's count.
func (s *holdState) judge(l *Limit, now int64, pending, cost Units) (int64, bool) {
	lacking := s.held(now) + pending + cost - l.capacity()
	if lacking <= 0 {
		return 0, true
	}
	return s.freeAt(now, lacking) - now, false
}

// observe returns what is left and the instant at which the earliest hold ends.
func (s *holdState) observe(l *Limit, now int64) (Units, int64) {
	held := s.held(now)
	if held == 0 {
		return l.capacity(), now
	}
	return max(0, l.capacity()-held), s.freeAt(now, 1)
}

// charge holds cost and returns the mark for its receipt.
func (s *holdState) charge(l *Limit, now int64, cost Units) [2]int64 {
	s.drop(now)
	until := now + ticksCeil(l.Hold)
	i, found := slices.BinarySearchFunc(s.holds, until, func(h hold, t int64) int { return cmp.Compare(h.until, t) })
	switch {
	case found:
		s.holds[i].units += cost
	case len(s.holds) >= maxHolds:
		// Tiny costs could make the list as long as they please. The newest
		// joins its neighbour, and both end at the later end: too long is safe.
		if i == len(s.holds) {
			i--
			s.holds[i].until = until
		}
		until = s.holds[i].until
		s.holds[i].units += cost
	default:
		s.holds = slices.Insert(s.holds, i, hold{until: until, units: cost})
	}
	return [2]int64{until}
}

// drop forgets holds that have ended.
func (s *holdState) drop(now int64) {
	n := 0
	for n < len(s.holds) && s.holds[n].until <= now {
		n++
	}
	if n > 0 {
		s.holds = slices.Delete(s.holds, 0, n)
	}
}

// refund ends a hold early. A hold that was merged into a later one (see
// charge) is found there only if it was the last to be merged; else it ends by
// itself.
func (s *holdState) refund(cost Units, mark [2]int64) {
	i, found := slices.BinarySearchFunc(s.holds, mark[0], func(h hold, t int64) int { return cmp.Compare(h.until, t) })
	if !found {
		return
	}
	s.holds[i].units -= min(cost, s.holds[i].units)
	if s.holds[i].units == 0 {
		s.holds = slices.Delete(s.holds, i, i+1)
	}
}

// idleIn is the ticks until nothing is held.
func (s *holdState) idleIn(now int64) int64 {
	if s == nil || len(s.holds) == 0 {
		return longIdle
	}
	return s.holds[len(s.holds)-1].until - now
}
