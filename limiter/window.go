package limiter

// windowParts is into how many parts a window is divided. Units are counted
// per part and a part that is only partly outside the window counts whole, so
// the limit is never exceeded and falls short by at most 1/windowParts.
const windowParts = 16

// windowState counts what was charged in the current part and in the
// windowParts before it. The parts of one width tile time from the epoch.
//
// Windows of other widths under the same key are kept beside it (next), since
// each forgets at its own pace; a charge is counted in all of them, so that a
// policy change loses nothing, either way.
type windowState struct {
	width  int64 // of a part, in ticks
	newest int64 // index of the newest part that was charged
	// since is when the state was made: what was charged before it is not in
	// the part it belongs to, but where seed put it.
	since int64
	used  [windowParts + 1]Units // by index modulo its length
	next  *windowState
}

// partWidth is ceil(Period/windowParts) in ticks.
func partWidth(l *Limit) int64 { return ceilDiv(ticksCeil(l.Period), windowParts) }

// find returns the state of one width; nil if there is none.
func (s *windowState) find(width int64) *windowState {
	for ; s != nil; s = s.next {
		if s.width == width {
			return s
		}
	}
	return nil
}

// slot is the counter of the part with index i.
func slot(i int64) int64 {
	r := i % (windowParts + 1)
	if r < 0 {
		r += windowParts + 1
	}
	return r
}

// oldest is the lowest part that still counts at part cur.
func (s *windowState) oldest(cur int64) int64 { return max(cur, s.newest) - windowParts }

// spent sums the parts that count at now.
func (s *windowState) spent(now int64) Units {
	var sum Units
	for i := s.oldest(floorDiv(now, s.width)); i <= s.newest; i++ {
		sum += s.used[slot(i)]
	}
	return sum
}

// freeAt is the instant at which at least need of the spent units will have
// left the window. need is positive and at most spent.
func (s *windowState) freeAt(now int64, need Units) int64 {
	for i := s.oldest(floorDiv(now, s.width)); i <= s.newest; i++ {
		need -= s.used[slot(i)]
		if need <= 0 {
			return (i + windowParts + 1) * s.width
		}
	}
	return now
}

// view returns the state to judge a limit with: its own, or, if the key was
// only charged with windows of other widths, what they amount to. The second
// is a value that is not stored.
func (s *windowState) view(l *Limit, now int64, into *windowState) *windowState {
	width := partWidth(l)
	if own := s.find(width); own != nil {
		return own
	}
	*into = windowState{width: width, newest: floorDiv(now, width) - windowParts - 1, since: now}
	if source := s.longest(); source != nil {
		into.seed(source, now)
	}
	return into
}

// longest returns the state with the widest parts: it remembers the most.
func (s *windowState) longest() *windowState {
	best := s
	for ; s != nil; s = s.next {
		if s.width > best.width {
			best = s
		}
	}
	return best
}

// seed carries over what another width has counted, each part as if all of it
// had been charged at the part's last instant (but not later than now).
func (s *windowState) seed(from *windowState, now int64) {
	for i := from.oldest(floorDiv(now, from.width)); i <= from.newest; i++ {
		if n := from.used[slot(i)]; n > 0 {
			s.add(min((i+1)*from.width-1, now), n)
		}
	}
}

// add counts n at the instant at; instants do not go back.
func (s *windowState) add(at int64, n Units) {
	i := max(floorDiv(at, s.width), s.newest)
	for j := max(s.newest+1, i-windowParts); j <= i; j++ {
		s.used[slot(j)] = 0
	}
	s.newest = i
	s.used[slot(i)] += n
}

// judge answers whether cost fits beside pending, and the ticks to wait if
// not. pending+cost is at most the limit's count.
func (s *windowState) judge(l *Limit, now int64, pending, cost Units) (int64, bool) {
	lacking := s.spent(now) + pending + cost - l.capacity()
	if lacking <= 0 {
		return 0, true
	}
	return s.freeAt(now, lacking) - now, false
}

// observe returns what is left and the instant at which the oldest units
// return.
func (s *windowState) observe(l *Limit, now int64) (Units, int64) {
	spent := s.spent(now)
	if spent == 0 {
		return l.capacity(), now
	}
	return max(0, l.capacity()-spent), s.freeAt(now, 1)
}

// charge counts cost in every width and returns the head of the list and the
// mark for the receipt.
func (s *windowState) charge(l *Limit, now int64, cost Units) (*windowState, [2]int64) {
	own := s.find(partWidth(l))
	if own == nil {
		own = &windowState{}
		s.view(l, now, own)
		own.next = s
		s = own
	}
	for w := s; w != nil; w = w.next {
		w.add(now, cost)
	}
	return s, [2]int64{now}
}

// refund takes the charge out of the part that it was counted in, in every
// width that was there at the time.
func (s *windowState) refund(now int64, cost Units, mark [2]int64) {
	for w := s; w != nil; w = w.next {
		i := floorDiv(mark[0], w.width)
		if mark[0] < w.since || i < w.oldest(floorDiv(now, w.width)) || i > w.newest {
			continue
		}
		w.used[slot(i)] = max(0, w.used[slot(i)]-cost)
	}
}

// idleIn is the ticks until nothing counts any more, in any width.
func (s *windowState) idleIn(now int64) int64 {
	wait := int64(longIdle)
	for ; s != nil; s = s.next {
		wait = max(wait, (s.newest+windowParts+1)*s.width-now)
	}
	return wait
}
