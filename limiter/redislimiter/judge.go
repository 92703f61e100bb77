package redislimiter

import (
	"errors"

	"github.com/kelpie-authz/kelpie/limiter"
)

// clock is the flag and reading of an injected clock. With them goes what else
// tests set for all requests.
func (l *Limiter) clock() (byte, int64) {
	var flags byte
	if l.cfg.long {
		flags = flagLong
	}
	if l.cfg.Clock == nil {
		return flags, 0
	}
	return flags | flagClock, limiter.Ticks(l.cfg.Clock())
}

// judge runs the script over calls and fills their results. On an error none is
// filled.
func (l *Limiter) judge(k *link, w *parcel, calls []*limiter.Call, stop limiter.Stop, flags byte) (int, error) {
	clockFlag, reading := l.clock()
	now := l.now()
	s, peek := takeScript, flags&flagPeek != 0
	if peek {
		s = peekScript
	}
	for range mostTurns {
		w.reset(s, peek)
		w.req.begin(flags|clockFlag, stop, reading, now, l.floors.epoch.Load())
		for i := range calls {
			which, _ := w.req.call(l.prefix, calls[i].Charges, nil)
			w.shapes = append(w.shapes, which)
		}
		if len(w.req.ends) == 0 {
			return freeCalls(calls, stop), nil
		}
		w.req.seal(&l.floors)
		a, moved, err := l.ask(k, w)
		if err != nil {
			return 0, err
		}
		if !moved {
			return l.settle(w, calls, &a, peek)
		}
		now = a.read
	}
	return 0, unavailable(errCalendar)
}

var errCalendar = errors.New("its clock does not stay in one calendar unit; see that the clocks of all its nodes are right")

// freeCalls admits calls of which none has a charge.
func freeCalls(calls []*limiter.Call, stop limiter.Stop) int {
	for i := range calls {
		calls[i].Result.Admitted = true
		if stop == limiter.StopAtAdmitted {
			return i + 1
		}
	}
	return len(calls)
}

// ask sends the request and reads the head of the answer.
func (l *Limiter) ask(k *link, w *parcel) (answer, bool, error) {
	text, err := k.run(w)
	if err != nil {
		return answer{}, false, err
	}
	a, moved, err := parseAnswer(text, len(w.req.ends))
	if err != nil {
		return a, false, unavailable(err)
	}
	l.saw(a.read)
	return a, moved, nil
}

// settle fills the results of the calls that were answered.
func (l *Limiter) settle(w *parcel, calls []*limiter.Call, a *answer, peeked bool) (int, error) {
	n, at := 0, 0
	for n < len(calls) && len(a.b) > 0 {
		call := calls[n]
		err := w.next(a, w.shapes[n], w.req.called[at+4:], &l.floors)
		at += 4 + 2*w.req.shapes[w.shapes[n]].groups
		if err == nil {
			err = fill(call, &w.verdict, 0, &w.stored, peeked)
		}
		if err != nil {
			for i := range calls {
				calls[i].Result.Reset()
			}
			return 0, unavailable(err)
		}
		l.stats.calls.Add(1)
		if !call.Result.Admitted {
			l.stats.denied.Add(1)
		}
		n++
	}
	return n, nil
}
