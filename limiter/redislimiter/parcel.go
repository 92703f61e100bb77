package redislimiter

import (
	"encoding/binary"

	"github.com/kelpie-authz/kelpie/limiter"
)

// parcel is one run of a script: the request, and the calls that it is about,
// alike ones as one. It is reused.
type parcel struct {
	req      request
	script   *script
	readOnly bool
	cmd      *command
	// text says that the script's text has to go along.
	text bool
	// more are the arguments of a script that is not about calls, and result is
	// what it answered.
	more   []any
	result any

	// jobs are the callers; heads and alike link those that are alike.
	jobs  []*job
	heads []int32 // the first job of each call
	tails []int32
	alike []int32
	// shapes has the shape of each call.
	shapes []int
	// known finds the call that is alike, by its bytes.
	known map[string]int32

	verdict verdict
	stored  limiter.Stored
	told    []told
	// picked are the calls of a request of one caller.
	picked []*limiter.Call
	// name is what a caller's own call is remembered by.
	name []byte
}

func (p *parcel) reset(s *script, readOnly bool) {
	p.script, p.readOnly, p.cmd, p.text, p.more, p.result = s, readOnly, nil, false, nil, nil
	clear(p.jobs)
	p.jobs, p.heads, p.tails, p.alike, p.shapes = p.jobs[:0], p.heads[:0], p.tails[:0], p.alike[:0], p.shapes[:0]
	clear(p.known)
}

// pick returns pointers to calls, good until it is called again.
func (p *parcel) pick(calls []limiter.Call) []*limiter.Call {
	p.picked = p.picked[:0]
	for i := range calls {
		p.picked = append(p.picked, &calls[i])
	}
	return p.picked
}

// add puts a caller's call in, or counts it to one that is alike.
func (p *parcel) add(prefix string, j *job) {
	which, form := p.req.call(prefix, j.call.Charges, nil)
	i := int32(len(p.jobs)) //nolint:gosec // A batch is small.
	p.jobs = append(p.jobs, j)
	p.alike = append(p.alike, -1)
	if p.known == nil {
		p.known = make(map[string]int32)
	}
	if c, ok := p.known[string(form)]; ok && !hasShadow(j.call) {
		p.req.uncall(len(form))
		p.alike[p.tails[c]] = i
		p.tails[c] = i
		return
	}
	p.known[string(form)] = int32(len(p.heads)) //nolint:gosec // As above.
	p.heads, p.tails, p.shapes = append(p.heads, i), append(p.tails, i), append(p.shapes, which)
}

// hasShadow tells whether a call has limits in shadow: alike ones can fare
// differently with those though all are admitted.
func hasShadow(call *limiter.Call) bool {
	for i := range call.Charges {
		if call.Charges[i].Shadow {
			return true
		}
	}
	return false
}

// seal writes how often each call comes, and makes the request.
func (p *parcel) seal(f *floors) {
	at := 0
	for c, head := range p.heads {
		times := uint16(0)
		for i := head; i >= 0; i = p.alike[i] {
			times++
		}
		binary.LittleEndian.PutUint16(p.req.called[at+2:], times)
		at += 4 + 2*p.req.shapes[p.shapes[c]].groups
	}
	p.req.seal(f)
}

// open fills the results of all callers from the answer.
func (p *parcel) open(a *answer, f *floors, st *stats) error {
	at := 0
	for c, head := range p.heads {
		if err := p.next(a, p.shapes[c], p.req.called[at+4:], f); err != nil {
			return err
		}
		at += 4 + 2*p.req.shapes[p.shapes[c]].groups
		nth := 0
		for i := head; i >= 0; i = p.alike[i] {
			call := p.jobs[i].call
			if err := fill(call, &p.verdict, nth, &p.stored, false); err != nil {
				return err
			}
			if !call.Result.Admitted {
				st.denied.Add(1)
			}
			nth++
		}
		st.calls.Add(int64(nth))
		st.coalesced.Add(int64(nth - 1))
	}
	return nil
}

// next reads the verdict on the next call, of the given shape, and remembers
// what it tells of its buckets. homes begins with the numbers of its homes.
func (p *parcel) next(a *answer, which int, homes []byte, f *floors) error {
	s := &p.req.shapes[which]
	order := s.order[:len(s.charges)]
	if err := a.next(s.charges, order, &p.verdict); err != nil {
		return err
	}
	if p.readOnly {
		return nil
	}
	k := 0
	for g := range s.groups {
		p.told = p.told[:0]
		for ; k < len(order) && int(s.group[order[k]]) == g; k++ {
			body := p.verdict.charges[order[k]].body
			if kind := s.charges[order[k]].Limit.Kind; len(body) > 0 && kind != limiter.KindConcurrency {
				in := cursor{b: body}
				sign := p.req.shaped[s.sign[k]:]
				p.told = append(p.told, told{sign: sign[:signSize], body: body, idle: in.int()})
			}
		}
		home := int(binary.LittleEndian.Uint16(homes[2*g:])) - 1
		if p.verdict.granted == 0 && a.absent[home] != 0 {
			continue // it was not there, and is not there now
		}
		f.note(p.req.key(home), p.told, p.req.epoch, a.absent[home] != 0, a.read)
		a.absent[home] = 0 // for the calls behind it the value was there
	}
	return nil
}

// fail gives all callers of the parcel an error, and no result.
func (p *parcel) fail(err error) {
	for _, j := range p.jobs {
		j.err = err
		if j.call != nil {
			j.call.Result.Reset()
		}
	}
}
