package redislimiter

import (
	"encoding/binary"
	"math"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/limiter"
)

// replyCalls are calls of all kinds, so that a reply is read in every way.
func replyCalls() []*limiter.Call {
	limits := []*limiter.Limit{
		{Name: "rate", Kind: limiter.KindRate, Count: 1_000_000, Burst: 1_000_000_000, Period: time.Second},
		{Name: "slow", Kind: limiter.KindRate, Count: 1, Burst: 366, Period: 24 * time.Hour},
		{Name: "window", Kind: limiter.KindWindow, Count: 5, Period: time.Minute},
		{Name: "quota", Kind: limiter.KindQuota, Count: 5, Calendar: limiter.CalendarMonth},
		{Name: "concurrency", Kind: limiter.KindConcurrency, Count: 5, Hold: time.Minute},
	}
	charge := func(l *limiter.Limit, key string, home int) limiter.Charge {
		return limiter.Charge{Limit: l, Key: []byte(key), Home: home, Cost: limiter.Unit}
	}
	return []*limiter.Call{
		{Charges: []limiter.Charge{charge(limits[0], "a/r", 1), charge(limits[3], "a/q", 1)}},
		{Charges: []limiter.Charge{
			charge(limits[1], "a/s", 1), charge(limits[2], "a/w", 1), charge(limits[4], "b/c", 1), charge(limits[0], "c", 0), charge(limits[0], "c", 0),
		}},
	}
}

// readReply reads text as the answer to the calls, as a reply is read.
func readReply(calls []*limiter.Call, text string) (int, error) {
	var st stats
	l := &Limiter{prefix: "p", cfg: Config{Clock: time.Now}}
	l.floors = floors{seen: newRecall[remembered](64), stats: &st}
	w := &parcel{}
	w.reset(takeScript, false)
	w.req.begin(0, limiter.StopNever, 0, 0, 0)
	for _, c := range calls {
		which, _ := w.req.call(l.prefix, c.Charges, nil)
		w.shapes = append(w.shapes, which)
	}
	w.req.seal(&l.floors)
	a, moved, err := parseAnswer(text, len(w.req.ends))
	if err != nil || moved {
		return 0, err
	}
	return l.settle(w, calls, &a, false)
}

// answerOf is an answer to the calls of replyCalls, by the long way or the short
// one, whose every number is n.
func answerOf(long bool, n float64) string {
	number := func(b []byte) []byte {
		return binary.LittleEndian.AppendUint64(b, math.Float64bits(n))
	}
	b := append(number(nil), 3, 0, 0, 1, 0) // the clock, and three homes
	for _, c := range replyCalls() {
		b = append(b, 0, 1, 0)
		if long {
			b[len(b)-3] = 1
		}
		b = append(number(b), 0xff, 0, 0, 0)
		for _, ch := range c.Charges {
			size := map[limiter.Kind]int{limiter.KindRate: rateSize, limiter.KindWindow: windowSize, limiter.KindQuota: quotaSize, limiter.KindConcurrency: 32}[ch.Limit.Kind]
			if long {
				b = binary.LittleEndian.AppendUint32(number(b), uint32(size))
			}
			for range size / 8 {
				b = number(b)
			}
		}
	}
	return string(b)
}

// TestReplyNumbers: an answer with numbers that no script makes is refused as a
// whole, and one with any that it could make is not.
func TestReplyNumbers(t *testing.T) {
	t.Parallel()
	for _, n := range []float64{1, 16, 1e6, 1e9, 1e15, 1 << 53} {
		if got, err := readReply(replyCalls(), answerOf(true, n)); (got != 2 || err != nil) && n <= 1e15 {
			t.Errorf("%v: %d calls were read, %v", n, got, err)
		}
	}
	for _, n := range []float64{0, -1, 0.5, math.NaN(), math.Inf(1), math.Inf(-1), 1e300, 1<<53 + 2} {
		calls := replyCalls()
		if got, err := readReply(calls, answerOf(true, n)); got != 0 || err == nil {
			t.Errorf("%v: %d calls were read, %v", n, got, err)
		}
		for i, c := range calls {
			if c.Result.Admitted || len(c.Result.Limits) > 0 || !c.Result.Receipt.Empty() {
				t.Errorf("%v: call %d says %+v", n, i, c.Result)
			}
		}
	}
	whole := answerOf(true, 1)
	for n := range len(whole) {
		if got, err := readReply(replyCalls(), whole[:n]); err == nil && got == 2 {
			t.Errorf("%d of %d bytes were read as an answer", n, len(whole))
		}
	}
}

// FuzzReply: whatever a server answers, there is an error or a result, and never
// a panic; a result has a state for each charge.
func FuzzReply(f *testing.F) {
	for _, n := range []float64{0, 1, -1, 16, 1e9, 1e15, -4e15, 1 << 53, 0.5, math.NaN(), math.Inf(1), 1e300} {
		f.Add([]byte(answerOf(true, n)))
		f.Add([]byte(answerOf(false, n)))
	}
	f.Add([]byte("C\x00\x00\x00\x00\x00\x00\xf0\x3f"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, text []byte) {
		calls := replyCalls()
		n, err := readReply(calls, string(text))
		for i, c := range calls {
			switch {
			case err == nil && i < n && len(c.Result.Limits) != len(c.Charges):
				t.Fatalf("call %d of %d: %d states of %d charges", i, n, len(c.Result.Limits), len(c.Charges))
			case i >= n && (c.Result.Admitted || len(c.Result.Limits) > 0 || !c.Result.Receipt.Empty()):
				t.Fatalf("call %d was not judged, and says %+v", i, c.Result)
			}
		}
	})
}
