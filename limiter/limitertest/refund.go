package limitertest

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kelpie-authz/kelpie/limiter"
)

// refundCases are about giving back.
func refundCases() []testCase {
	return []testCase{
		{name: "refund_gives_back", run: eachKind(5, refundGivesBack)},
		{name: "refund_once", run: eachKind(5, refundOnce)},
		{name: "refund_part", run: eachKind(5, refundPart)},
		{name: "refund_never_above_full", clock: true, run: refundNeverAboveFull},
		{name: "refund_after_time_gave_back", clock: true, run: refundAfterTimeGaveBack},
		{name: "refund_of_an_earlier_busy_period", clock: true, run: refundOfEarlierPeriod},
		{name: "refund_after_clock_stepped_back", clock: true, run: refundAfterStepBack},
		{name: "refund_keeps_the_bound", clock: true, run: refundKeepsTheBound},
	}
}

func refundGivesBack(f *fixture, l *limiter.Limit) {
	first := f.admitted(of(l, "k", 2))
	second := f.admitted(of(l, "k", 3))
	f.denied(of(l, "k", 1))
	f.refund(second.Receipt)
	f.left(3*limiter.Unit, of(l, "k", 1))
	f.refund(first.Receipt)
	f.left(5*limiter.Unit, of(l, "k", 1))
	f.admitted(of(l, "k", 5))

	// In the other order.
	first = f.admitted(of(l, "n", 2))
	second = f.admitted(of(l, "n", 3))
	f.refund(first.Receipt)
	f.left(2*limiter.Unit, of(l, "n", 1))
	f.refund(second.Receipt)
	f.left(5*limiter.Unit, of(l, "n", 1))
}

func refundOnce(f *fixture, l *limiter.Limit) {
	f.admitted(of(l, "k", 2))
	receipt := f.admitted(of(l, "k", 2)).Receipt
	f.refund(receipt.Clone())
	f.left(3*limiter.Unit, of(l, "k", 1))
	r := receipt
	r.Taken = r.Taken[:0]
	f.refund(r)
	f.left(3*limiter.Unit, of(l, "k", 1))
}

func refundPart(f *fixture, l *limiter.Limit) {
	other := slowLimits(4)[2]
	res := f.admitted(of(l, "k", 4), of(other, "other", 4))
	part := res.Receipt.Clone()
	part.Taken = part.Taken[:1]
	part.Taken[0].Cost = 3*limiter.Unit + limiter.Unit/2
	f.refund(part)
	f.left(4*limiter.Unit+limiter.Unit/2, of(l, "k", 1))
	f.left(0, of(other, "other", 1))
}

// cases for one limit of each kind that gives 4 and is as new after a minute.
func minuteLimits() []*limiter.Limit {
	return []*limiter.Limit{
		{Name: "rate", Kind: limiter.KindRate, Count: 4, Burst: 4, Period: time.Minute},
		{Name: "window", Kind: limiter.KindWindow, Count: 4, Period: time.Minute},
		{Name: "quota", Kind: limiter.KindQuota, Count: 4, Calendar: limiter.CalendarMinute},
		{Name: "concurrency", Kind: limiter.KindConcurrency, Count: 4, Hold: time.Minute},
	}
}

func eachMinuteLimit(t *testing.T, d Driver, body func(f *fixture, l *limiter.Limit)) {
	t.Helper()
	for _, l := range minuteLimits() {
		t.Run(l.Name, func(t *testing.T) {
			t.Parallel()
			body(setup(t, d), l)
		})
	}
}

func refundNeverAboveFull(t *testing.T, d Driver) {
	eachMinuteLimit(t, d, func(f *fixture, l *limiter.Limit) {
		receipt := f.admitted(of(l, "k", 4)).Receipt
		f.clock.Advance(55 * time.Second)
		f.refund(receipt)
		f.left(4*limiter.Unit, of(l, "k", 1))
		f.admitted(of(l, "k", 4))
		f.denied(of(l, "k", 1))
	})
}

// refundAfterTimeGaveBack: a refund that comes when the units are back anyway
// must not pay for somebody else's charge.
func refundAfterTimeGaveBack(t *testing.T, d Driver) {
	eachMinuteLimit(t, d, func(f *fixture, l *limiter.Limit) {
		receipt := f.admitted(of(l, "k", 4)).Receipt
		f.clock.Advance(2 * time.Minute)
		f.admitted(of(l, "k", 3))
		f.refund(receipt)
		f.left(limiter.Unit, of(l, "k", 1))
	})
}

// refundOfEarlierPeriod: the bucket was full since the charge, and refunds
// before that crossed each other. Nothing is left to give back.
func refundOfEarlierPeriod(t *testing.T, d Driver) {
	f := setup(t, d)
	l := &limiter.Limit{Name: "rate", Kind: limiter.KindRate, Count: 1, Burst: 10, Period: time.Minute}
	first := f.admitted(of(l, "k", 5)).Receipt
	f.admitted(of(l, "k", 1))
	f.refund(first)
	late := f.admitted(of(l, "k", 5)).Receipt
	f.clock.Advance(6*time.Minute + 30*time.Second)
	f.left(10*limiter.Unit, of(l, "k", 1))
	f.admitted(of(l, "k", 4))
	f.refund(late)
	f.left(6*limiter.Unit, of(l, "k", 1))
}

// refundAfterStepBack: a clock that went back does not make a charge younger.
func refundAfterStepBack(t *testing.T, d Driver) {
	f := setup(t, d)
	l := &limiter.Limit{Name: "rate", Kind: limiter.KindRate, Count: 4, Burst: 4, Period: time.Minute}
	receipt := f.admitted(of(l, "k", 4)).Receipt
	f.clock.Advance(45 * time.Second)
	f.admitted(of(l, "k", 3))
	f.clock.Advance(-45 * time.Second)
	f.refund(receipt) // three of its four units had come back when three were taken
	f.left(limiter.Unit, of(l, "k", 1))
}

// refundKeepsTheBound: whatever is refunded when, the charges that stay obey
// the bound as if the others had never been.
func refundKeepsTheBound(t *testing.T, d Driver) {
	proof(t, func(rt *rapid.T) {
		f := open(t, rt, d, noon())
		defer f.close()
		l := drawLimit(rt)
		var log []admission
		var open []pendingRefund
		for range rapid.IntRange(10, 150).Draw(rt, "steps") {
			f.clock.Advance(drawStep(rt, l))
			if len(open) > 0 && rapid.IntRange(0, 2).Draw(rt, "what") == 0 {
				i := rapid.IntRange(0, len(open)-1).Draw(rt, "which")
				f.refund(open[i].receipt)
				log[open[i].entry].units = 0
				open = append(open[:i], open[i+1:]...)
				continue
			}
			c := limiter.Charge{Limit: l, Key: []byte("k"), Cost: drawCost(rt, l)}
			res := f.take(c)
			if res.Admitted {
				open = append(open, pendingRefund{entry: len(log), receipt: res.Receipt.Clone()})
				log = append(log, admission{at: f.clock.Now(), units: c.Cost})
			}
		}
		checkBound(rt, l, log)
	})
}

type pendingRefund struct {
	entry   int
	receipt limiter.Receipt
}
