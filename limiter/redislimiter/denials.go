package redislimiter

import (
	"crypto/sha256"
	"encoding/binary"
	"sync/atomic"
	"time"

	"github.com/kelpie-authz/kelpie/limiter"
)

// longestDenial bounds how long a denial is believed: a refund, a reset or a
// changed limit on another replica is seen after that.
const longestDenial = time.Second

// denial is what an agent that is over its limits was answered.
type denial struct {
	at, until time.Time
	// charges tell that a call is the same but for its key, which is the name it
	// is remembered by. They hold on to their limits, so that no other limit
	// can have the same address.
	limits []*limiter.Limit
	states []limiter.State
}

// denials remembers calls that were denied, until one of their limits has room
// again: what is owed only grows until then, so the store would say no as well.
// A flood of denied calls costs nothing then.
type denials struct {
	seen  *recall[denial]
	now   func() time.Time
	stats *stats
	// forgot counts how often all was forgotten: what was asked before is then not
	// remembered either.
	forgot atomic.Int64
}

// name appends what a call is remembered by: everything that the answer depends
// on but the limits themselves.
func (d *denials) name(dst []byte, call *limiter.Call) []byte {
	for i := range call.Charges {
		c := &call.Charges[i]
		dst = appendNumbers(dst, int64(len(c.Key)))
		dst = append(dst, c.Key...)
		dst = binary.LittleEndian.AppendUint64(dst, uint64(c.Cost)) //nolint:gosec // It is positive.
		if c.Shadow {
			dst = append(dst, '!')
		} else {
			dst = append(dst, '=')
		}
	}
	if len(dst) > maxPlain {
		sum := sha256.Sum256(dst) // so that long keys take no more room than others
		dst = append(dst[:0], sum[:]...)
	}
	return dst
}

// answer denies the call if a denial of it still stands.
func (d *denials) answer(name []byte, call *limiter.Call) bool {
	known := false
	d.seen.look(name, func(e *denial) {
		if len(e.limits) != len(call.Charges) {
			return
		}
		now := d.now()
		if !now.Before(e.until) || now.Before(e.at) {
			return
		}
		for i := range e.limits {
			if e.limits[i] != call.Charges[i].Limit {
				return
			}
		}
		known = true
		res := &call.Result
		res.Reset()
		res.Limits = append(res.Limits, e.states...)
		passed := now.Sub(e.at)
		for i := range res.Limits {
			st := &res.Limits[i]
			st.Reset = max(0, st.Reset-passed)
			if st.RetryAfter > 0 {
				st.RetryAfter = max(1, st.RetryAfter-passed)
			}
		}
	})
	if known {
		d.stats.denyHits.Add(1)
	}
	return known
}

// note remembers a call that was denied. sent is when it was asked about, which
// is not after the store looked at it, and forgot how often all had been forgotten
// then.
func (d *denials) note(name []byte, call *limiter.Call, sent time.Time, forgot int64) {
	wait := time.Duration(0)
	for i := range call.Charges {
		st := &call.Result.Limits[i]
		if !st.Lacked || call.Charges[i].Shadow {
			continue
		}
		switch {
		case call.Charges[i].Limit.Kind == limiter.KindConcurrency:
			// A slot comes back as soon as somebody gives it back.
		case st.Never:
			wait = longestDenial
		default:
			wait = max(wait, st.RetryAfter)
		}
	}
	if wait <= 0 {
		return
	}
	d.seen.keep(name, func(e *denial, _ bool) {
		if d.forgot.Load() != forgot {
			e.until = time.Time{}
			return
		}
		e.at, e.until = sent, sent.Add(min(wait, longestDenial))
		e.limits = e.limits[:0]
		for i := range call.Charges {
			e.limits = append(e.limits, call.Charges[i].Limit)
		}
		e.states = append(e.states[:0], call.Result.Limits...)
	})
}

// forget drops all denials: something was given back.
func (d *denials) forget() {
	d.forgot.Add(1) // first, for those that are noted meanwhile
	d.seen.clear()
}
