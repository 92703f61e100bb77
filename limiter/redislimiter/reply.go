package redislimiter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/kelpie-authz/kelpie/limiter"
)

// errReply is for an answer that is not of the script's form: a store that is
// not what it should be, or a fault of ours. Nothing is known then.
var errReply = errors.New("the store's answer is not of the expected form")

// cursor reads an answer. Reading past its end sets bad and gives zeros.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) take(n int) []byte {
	if n < 0 || n > len(c.b) {
		c.bad, c.b = true, nil
		return nil
	}
	out := c.b[:n]
	c.b = c.b[n:]
	return out
}

func (c *cursor) byte() byte {
	if b := c.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (c *cursor) uint16() uint16 {
	if b := c.take(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (c *cursor) uint32() uint32 {
	if b := c.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

// int reads a whole number below 2^53, which is what the scripts count in.
func (c *cursor) int() int64 {
	b := c.take(8)
	if b == nil {
		return 0
	}
	f := math.Float64frombits(binary.LittleEndian.Uint64(b))
	if f != math.Trunc(f) || math.Abs(f) > 1<<53 {
		c.bad = true
		return 0
	}
	return int64(f)
}

// charged is what an answer says of one charge.
type charged struct {
	fits bool
	stop int64
	body []byte
}

// verdict is what an answer says of one call.
type verdict struct {
	granted int
	reading limiter.Reading
	charges []charged
}

// answer is a parsed answer's head.
type answer struct {
	cursor

	read int64
	// absent has a byte for each home: 1 if its value was not there.
	absent []byte
}

// parseAnswer reads the head of an answer. moved is true if the clock is in
// another calendar unit than the request said; nothing was done then.
func parseAnswer(reply string, homes int) (a answer, moved bool, err error) {
	a.b = []byte(reply)
	if len(a.b) == 9 && a.b[0] == 'C' {
		a.b = a.b[1:]
		a.read = a.int()
		return a, true, nil
	}
	a.read = a.int()
	n := int(a.uint16())
	a.absent = a.take(n)
	if a.bad || n != homes {
		return a, false, errReply
	}
	return a, false, nil
}

// next reads what is said of the next call, whose charges stand in the given
// order.
func (a *answer) next(charges []limiter.Charge, order []uint8, v *verdict) error {
	long := a.byte() != 0
	v.granted = int(a.uint16())
	v.reading = limiter.Reading{Read: a.read, Judged: a.int()}
	fits := a.uint32()
	v.charges = slices.Grow(v.charges[:0], len(order))[:len(order)]
	for k, i := range order {
		c := &v.charges[i]
		*c = charged{fits: fits>>k&1 == 1}
		size := rateSize
		switch {
		case long:
			c.stop, size = a.int(), int(a.uint32())
		case charges[i].Limit.Kind == limiter.KindQuota:
			size = quotaSize
		default:
		}
		c.body = a.take(size)
	}
	if a.bad {
		return errReply
	}
	return nil
}

// mostOwed is more ticks than any rate owes, which is 366 days.
const mostOwed = 2 * 366 * 24 * 3600 * 16_000_000

// load reads a bucket that was judged at an instant into s.
func (c *charged) load(s *limiter.Stored, l *limiter.Limit, judged int64) error {
	s.Clear()
	if len(c.body) == 0 {
		return nil
	}
	in := cursor{b: c.body}
	switch l.Kind {
	case limiter.KindRate:
		tat, interval, at, since, back := in.int(), in.int(), in.int(), in.int(), in.int()
		if interval <= 0 || interval > mostOwed {
			return errReply
		}
		// More than this is not reckoned with anywhere.
		most := min(mostOwed, 2*limiter.MaxCount*min(interval, mostOwed/limiter.MaxCount))
		if tat-judged > most {
			return errReply
		}
		s.SetRate(tat, interval, max(at, tat-most), since, back)
	case limiter.KindWindow:
		in.take(8) // when it is idle follows from the rest, as for the kinds below
		width, newest, since := in.int(), in.int(), in.int()
		var used [limiter.WindowParts]limiter.Units
		for i := range used {
			used[i] = limiter.Units(in.int())
		}
		if width <= 0 {
			return errReply
		}
		s.SetWindow(width, newest, since, &used)
	case limiter.KindQuota:
		end, start := in.int(), in.int()
		s.SetQuota(l, start, end, limiter.Units(in.int()))
	default:
		in.take(16)
		for len(in.b) > 0 && !in.bad {
			until := in.int()
			s.AddHold(until, limiter.Units(in.int()))
		}
	}
	if in.bad {
		return fmt.Errorf("%w: a %v of %d bytes", errReply, l.Kind, len(c.body))
	}
	return nil
}

// mark is where a charge was put; after is what its rate was charged behind it.
func (c *charged) mark(s *limiter.Stored, charge *limiter.Charge, r limiter.Reading, after int64) [2]int64 {
	if charge.Limit.Kind == limiter.KindConcurrency {
		return [2]int64{c.stop} // a long list merges ends, and the script knows where
	}
	return s.Mark(charge, r, after)
}
