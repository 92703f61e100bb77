package redislimiter

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"

	"github.com/kelpie-authz/kelpie/limiter"
)

// The layouts are those at the head of script/short.lua and script/refund.lua.
const (
	flagPeek   = 1
	flagClock  = 2
	flagForced = 4
	flagLong   = 8
	flagLease  = 16

	flagShadow = 1
	flagNever  = 2

	// signSize is how many bytes tell which field of a value a bucket is,
	// signName how many of them do so without the size of its body, signBucket
	// without its width or calendar too.
	signSize   = 12
	signName   = 9
	signBucket = 5

	// The sizes of bodies; that of holds varies.
	rateSize   = 5 * 8
	windowSize = (4 + limiter.WindowParts) * 8
	quotaSize  = 3 * 8

	// mostShort is how many charges a call of the short way may have.
	mostShort = 12
)

// request is one run of a script under construction, and the keys it is about.
// It is reused.
type request struct {
	flags byte
	stop  limiter.Stop
	clock int64
	// epoch is when it was made, for [floors].
	epoch int64
	// now is where the clock is thought to be, for the calendars of quotas.
	now int64
	// lead and share are those of a lease.
	lead, share int64

	// keys holds the keys one after the other; ends where each ends.
	keys []byte
	ends []int
	// numbers finds the number of a home once there are many of them.
	numbers map[string]uint16

	// The parts of the request, and how many shapes and calls there are.
	floors []byte
	shaped []byte
	called []byte
	shapes []shape
	calls  int
	lost   uint16

	buf  []byte
	args []any

	// calendars remembers the units of quotas around now.
	calendars [8]calendar
	oldest    int
}

// shape is what calls have in common that differ in their homes alone.
type shape struct {
	charges []limiter.Charge // of the first such call
	groups  int
	// group has the group of each charge, order the charges group by group, and
	// sign where the sign of each of those begins.
	group [limiter.MaxCharges]uint8
	order [limiter.MaxCharges]uint8
	sign  [limiter.MaxCharges]int32
}

// calendar is the unit of a quota that an instant lies in, and the next one.
type calendar struct {
	limit             *limiter.Limit
	start, end, later int64
	which             uint32
}

// calendar returns the unit of a quota around now.
func (r *request) calendar(l *limiter.Limit) *calendar {
	for i := range r.calendars {
		if c := &r.calendars[i]; c.limit == l && r.now >= c.start && r.now < c.end {
			return c
		}
	}
	c := &r.calendars[r.oldest]
	r.oldest = (r.oldest + 1) % len(r.calendars)
	c.limit, c.which = l, fnv32(l.CalendarName())
	c.start, c.end = l.CalendarAt(r.now)
	_, c.later = l.CalendarAt(c.end)
	return c
}

// begin empties the request. now is about what the store's clock shows.
func (r *request) begin(flags byte, stop limiter.Stop, clock, now, epoch int64) {
	r.flags, r.stop, r.clock, r.now, r.epoch = flags, stop, clock, now, epoch
	r.keys, r.ends = r.keys[:0], r.ends[:0]
	clear(r.numbers)
	r.floors, r.shaped, r.called = r.floors[:0], r.shaped[:0], r.called[:0]
	for i := range r.shapes {
		r.shapes[i].charges = nil
	}
	r.shapes, r.calls, r.lost = r.shapes[:0], 0, 0
	r.buf = r.buf[:0]
	clear(r.args)
	r.args = r.args[:0]
}

func (r *request) key(i int) []byte {
	start := 0
	if i > 0 {
		start = r.ends[i-1]
	}
	return r.keys[start:r.ends[i]]
}

// home returns the number of a home, from 1, and adds its key if it is new.
func (r *request) home(prefix string, key []byte, slot, home int) uint16 {
	start := len(r.keys)
	r.keys = appendHome(r.keys, prefix, key, slot, home)
	added := r.keys[start:]
	if n := r.known(added); n > 0 {
		r.keys = r.keys[:start]
		return n
	}
	r.ends = append(r.ends, len(r.keys))
	return uint16(len(r.ends)) //nolint:gosec // As above.
}

// manyHomes is from how many on they are not looked through one by one.
const manyHomes = 16

// known returns the number of a home that was added before, or 0.
func (r *request) known(key []byte) uint16 {
	if len(r.ends) < manyHomes {
		for i := range slices.Backward(r.ends) {
			if bytes.Equal(r.key(i), key) {
				return uint16(i + 1) //nolint:gosec // There are few.
			}
		}
		return 0
	}
	if r.numbers == nil {
		r.numbers = make(map[string]uint16)
	}
	for i := len(r.numbers); i < len(r.ends); i++ {
		r.numbers[string(r.key(i))] = uint16(i + 1) //nolint:gosec // There are at most maxCalls times MaxCharges.
	}
	return r.numbers[string(key)]
}

// call adds a call, and returns its shape and the bytes that alike ones share.
// terms is nil, or has those of a call that is not judged.
func (r *request) call(prefix string, charges []limiter.Charge, terms []limiter.Terms) (which int, form []byte) {
	var homes [limiter.MaxCharges]uint16
	var group [limiter.MaxCharges]uint8
	groups := 0
	for i := range charges {
		c := &charges[i]
		home := r.home(prefix, c.Key, c.Slot, c.Home)
		g := 0
		for g < groups && homes[g] != home {
			g++
		}
		if g == groups {
			homes[g] = home
			groups++
		}
		group[i] = uint8(g)
	}
	which = r.shape(charges, &group, groups, terms)
	start := len(r.called)
	r.called = binary.LittleEndian.AppendUint16(r.called, uint16(which+1)) //nolint:gosec // There are at most maxCalls.
	r.called = binary.LittleEndian.AppendUint16(r.called, 1)
	for g := range groups {
		r.called = binary.LittleEndian.AppendUint16(r.called, homes[g])
	}
	r.calls++
	return which, r.called[start:]
}

// uncall takes back the call that was added last, whose form has n bytes.
func (r *request) uncall(n int) {
	r.called = r.called[:len(r.called)-n]
	r.calls--
}

// shape returns the number of a call's shape, from 0, and adds it if it is new.
func (r *request) shape(charges []limiter.Charge, group *[limiter.MaxCharges]uint8, groups int, terms []limiter.Terms) int {
	if terms == nil {
		for i := len(r.shapes) - 1; i >= 0; i-- {
			if r.shapes[i].fits(charges, group) {
				return i
			}
		}
	}
	r.shapes = append(r.shapes, shape{charges: charges, groups: groups, group: *group})
	s := &r.shapes[len(r.shapes)-1]
	r.shaped = append(r.shaped, byte(groups)) //nolint:gosec // There are at most MaxCharges.
	if len(charges) > mostShort {
		r.flags |= flagLong
	}
	n := 0
	for g := range groups {
		first := n
		for i := range charges {
			if int(group[i]) == g {
				s.order[n] = uint8(i)
				n++
			}
		}
		r.group(s, first, n, terms)
	}
	return len(r.shapes) - 1
}

// fits tells whether a call has the shape.
func (s *shape) fits(charges []limiter.Charge, group *[limiter.MaxCharges]uint8) bool {
	if len(charges) != len(s.charges) {
		return false
	}
	for i := range charges {
		a, b := &charges[i], &s.charges[i]
		if a.Limit != b.Limit || a.Cost != b.Cost || a.Shadow != b.Shadow || group[i] != s.group[i] ||
			(a.Home == 0) != (b.Home == 0) || (a.Home != 0 && !bytes.Equal(a.Key[a.Home:], b.Key[b.Home:])) {
			return false
		}
	}
	return true
}

// group adds the charges of one home: those from first to before end in the
// order of the shape.
func (r *request) group(s *shape, first, end int, terms []limiter.Terms) {
	head := len(r.shaped)
	r.shaped = append(r.shaped, byte(end-first), 0, 0) //nolint:gosec // There are at most MaxCharges.
	signs := len(r.shaped)
	for k := first; k < end; k++ {
		s.sign[k] = int32(len(r.shaped)) //nolint:gosec // A request is small.
		c := &s.charges[s.order[k]]
		r.shaped = r.sign(r.shaped, c.Limit, c.Key, c.Home)
	}
	if repeated(r.shaped[signs:]) {
		r.flags |= flagLong // the short way knows each bucket once, and by one calendar
	}
	flags := len(r.shaped)
	for k := first; k < end; k++ {
		r.shaped = append(r.shaped, 0)
	}
	states, numbers := 0, 0
	for k := first; k < end; k++ {
		c := &s.charges[s.order[k]]
		var t limiter.Terms
		if terms != nil {
			t = terms[s.order[k]]
		} else {
			t = c.Terms()
		}
		r.shaped[flags+k-first] = r.chargeFlags(c, &t)
		r.shaped = appendNumbers(r.shaped, t.Span, t.Room, t.Cost)
		states, numbers = states+rateSize/8, numbers+3
		if c.Limit.Kind == limiter.KindQuota {
			states, numbers = states-(rateSize-quotaSize)/8, numbers+3
			cal := r.calendar(c.Limit)
			r.shaped = appendNumbers(r.shaped, cal.start, cal.end, cal.later)
		}
	}
	r.shaped[head+1], r.shaped[head+2] = byte(states), byte(numbers) // they count for the short way alone, where they are small
}

// chargeFlags are those of a charge; most kinds of charge need the long way.
func (r *request) chargeFlags(c *limiter.Charge, t *limiter.Terms) byte {
	var flags byte
	if c.Shadow {
		flags |= flagShadow
	}
	if t.Never {
		flags |= flagNever
	}
	if flags != 0 || (c.Limit.Kind != limiter.KindRate && c.Limit.Kind != limiter.KindQuota) {
		r.flags |= flagLong
	}
	return flags
}

// repeated tells whether a bucket comes more than once.
func repeated(signs []byte) bool {
	for a := 0; a < len(signs); a += signSize {
		for b := a + signSize; b < len(signs); b += signSize {
			if bytes.Equal(signs[a:a+signBucket], signs[b:b+signBucket]) {
				return true
			}
		}
	}
	return false
}

// sign appends which field of its home a bucket is.
func (r *request) sign(dst []byte, l *limiter.Limit, key []byte, home int) []byte {
	var which uint32
	var size int
	switch l.Kind {
	case limiter.KindRate:
		size = rateSize
	case limiter.KindWindow:
		size = windowSize
		which = fnv32(l.Period.String())
	case limiter.KindQuota:
		size = quotaSize
		which = r.calendar(l).which
	default:
	}
	dst = append(dst, byte(l.Kind))
	dst = binary.LittleEndian.AppendUint32(dst, fieldID(key, home))
	dst = binary.LittleEndian.AppendUint32(dst, which)
	return append(dst, byte(size), byte(size>>8), byte(size>>16))
}

// floor adds a bucket that is to be put back if it was lost.
func (r *request) floor(home uint16, sign [signSize]byte, body []byte) {
	r.lost++
	r.floors = binary.LittleEndian.AppendUint16(r.floors, home)
	r.floors = append(r.floors, sign[:]...)
	r.floors = append(r.floors, body...)
}

// renew makes a request one of an epoch. It has to be sealed again.
func (r *request) renew(epoch int64) {
	r.epoch, r.floors, r.lost = epoch, r.floors[:0], 0
}

// seal puts the parts together, with what of the homes may have been lost.
func (r *request) seal(f *floors) {
	if r.epoch > 0 {
		for i := range r.ends {
			f.attach(r, uint16(i+1), r.key(i))
		}
	}
	r.buf = append(r.buf[:0], r.flags, byte(r.stop))
	r.buf = appendNumbers(r.buf, r.clock)
	r.buf = binary.LittleEndian.AppendUint16(r.buf, r.lost)
	r.buf = binary.LittleEndian.AppendUint16(r.buf, uint16(len(r.shapes))) //nolint:gosec // There are at most maxCalls.
	r.buf = binary.LittleEndian.AppendUint16(r.buf, uint16(r.calls))       //nolint:gosec // As above.
	r.buf = append(r.buf, r.floors...)
	r.buf = append(r.buf, r.shaped...)
	r.buf = append(r.buf, r.called...)
	if r.flags&flagLease != 0 {
		r.buf = appendNumbers(r.buf, r.lead, r.share)
	}
}

// lease makes a request, of one call of one rate, one for units ahead: so many
// whole ones, for so many ticks, of at most that share of what there is.
func (r *request) lease(want uint16, lead, share int64) {
	binary.LittleEndian.PutUint16(r.called[2:], want)
	r.lead, r.share = lead, share
}

// refund makes a request of script/refund.lua.
func (r *request) refund(prefix string, taken []limiter.Taken) {
	r.buf = append(r.buf[:0], r.flags)
	r.buf = appendNumbers(r.buf, r.clock)
	r.buf = binary.LittleEndian.AppendUint16(r.buf, uint16(len(taken))) //nolint:gosec // A receipt has at most MaxCharges.
	for i := range taken {
		t := &taken[i]
		home := r.home(prefix, t.Key, t.Slot, t.Home)
		c := limiter.Charge{Limit: t.Limit, Key: t.Key, Cost: t.Cost}
		terms := c.Terms()
		r.buf = binary.LittleEndian.AppendUint16(r.buf, home)
		r.buf = r.sign(r.buf, t.Limit, t.Key, t.Home)
		r.buf = appendNumbers(r.buf, terms.Span, terms.Cost, t.Mark[0], t.Mark[1])
	}
}

// appendNumbers appends whole numbers as doubles, which is what a script counts
// in: all are below 2^53.
func appendNumbers(dst []byte, numbers ...int64) []byte {
	for _, n := range numbers {
		dst = binary.LittleEndian.AppendUint64(dst, math.Float64bits(float64(n)))
	}
	return dst
}
