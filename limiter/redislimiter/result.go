package redislimiter

import (
	"bytes"
	"slices"

	"github.com/kelpie-authz/kelpie/limiter"
)

// beside appends what other charges of the call that fit, and were judged before
// it, take from the same bucket as charge i. Those in shadow are judged last.
func beside(dst []limiter.Units, charges []limiter.Charge, v *verdict, i int) []limiter.Units {
	for j := range charges {
		before := j < i
		if charges[j].Shadow != charges[i].Shadow {
			before = charges[i].Shadow
		}
		if before && v.charges[j].fits && charges[j].Limit.Kind == charges[i].Limit.Kind &&
			bytes.Equal(charges[j].Key, charges[i].Key) {
			dst = append(dst, charges[j].Cost)
		}
	}
	return dst
}

// after is what the bucket of charge i, a rate's, was charged after it, in ticks:
// by later charges of its own call, the nth, and by the alike calls behind that.
func after(charges []limiter.Charge, v *verdict, i, nth int) int64 {
	behind := int64(v.granted - 1 - nth)
	if charges[i].Limit.Kind != limiter.KindRate || (behind == 0 && len(charges) == 1) {
		return 0
	}
	var ticks int64
	for j := range charges {
		c := &charges[j]
		if c.Limit.Kind != limiter.KindRate || !v.charges[j].fits && c.Shadow || !bytes.Equal(c.Key, charges[i].Key) {
			continue
		}
		terms := c.Terms()
		ticks += behind * terms.Cost
		if j > i {
			ticks += terms.Cost
		}
	}
	return ticks
}

// describe fills the state of charge i, of which s is the bucket; taken says that
// what fits of the call is in it.
func describe(call *limiter.Call, v *verdict, i int, s *limiter.Stored, fits, taken bool) {
	c, st := &call.Charges[i], &call.Result.Limits[i]
	if fits || len(call.Charges) == 1 {
		s.Describe(c, v.reading, fits, nil, st)
		return
	}
	var buf [limiter.MaxCharges]limiter.Units
	others := beside(buf[:0], call.Charges, v, i)
	if !taken {
		s.Describe(c, v.reading, fits, others, st)
		return
	}
	s.Describe(c, v.reading, fits, nil, st)
	sum := c.Cost
	for _, n := range others {
		sum += n
	}
	if sum > st.Limit { // it would not fit beside them at any time
		st.Never, st.RetryAfter = true, 0
	}
}

// fill turns a verdict into the result of one of the calls it is about: number
// nth of those that are alike, from 0.
func fill(call *limiter.Call, v *verdict, nth int, s *limiter.Stored, peeked bool) error {
	res := &call.Result
	res.Reset()
	admitted := nth < v.granted
	n := len(call.Charges)
	res.Limits = slices.Grow(res.Limits, n)[:n]
	for i := range call.Charges {
		c, got := &call.Charges[i], &v.charges[i]
		if err := got.load(s, c.Limit, v.reading.Judged); err != nil {
			res.Reset()
			return err
		}
		// Alike calls have no shadows: all of an admitted one fit.
		fits := got.fits || (admitted && !c.Shadow)
		describe(call, v, i, s, fits, admitted && !peeked)
		if admitted && fits && !peeked {
			res.Receipt.Taken = append(res.Receipt.Taken, limiter.Taken{
				Limit: c.Limit, Key: c.Key, Home: c.Home, Slot: c.Slot, Cost: c.Cost,
				Mark: got.mark(s, c, v.reading, after(call.Charges, v, i, nth)),
			})
		}
	}
	res.Admitted = admitted
	return nil
}
