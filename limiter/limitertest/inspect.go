package limitertest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/limiter"
)

// InspectorCases is how many cases the suite of inspectors has.
func InspectorCases() int { return len(inspectorCases()) }

// RunInspector is [Run] for limiters that are a [limiter.Inspector] too.
func RunInspector(t *testing.T, d Driver) Report {
	t.Helper()
	var ran atomic.Int64
	var report Report
	t.Run("suite", func(t *testing.T) {
		for _, c := range inspectorCases() {
			if c.clock && d.NoClock != "" {
				report.LeftOut = append(report.LeftOut, c.name)
				continue
			}
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				c.run(t, d)
				ran.Add(1)
			})
		}
	})
	report.Ran = int(ran.Load())
	return report
}

func inspectorCases() []testCase {
	return []testCase{
		{"an inspector tells the buckets of one slot", false, inspected(namesOfASlot)},
		{"an inspector leaves out what is full again", true, inspected(namesInUse)},
		{"an inspector can be stopped", false, inspected(namesStopped)},
		{"forgotten buckets are full", false, inspected(forgetsASlot)},
		{"one limit of a slot can be forgotten", false, inspected(forgetsOne)},
		{"what was forgotten counts again from the start", false, inspected(countsAgain)},
		{"a receipt of before a reset is still taken", false, inspected(refundsAfterwards)},
		{"an inspector wants a slot, and a context", false, inspected(wantsASlot)},
	}
}

type inspectFixture struct {
	*fixture
	limiter.Inspector
}

func inspected(body func(f *inspectFixture)) func(*testing.T, Driver) {
	return func(t *testing.T, d Driver) {
		f := &inspectFixture{fixture: setup(t, d)}
		inspector, ok := f.Limiter.(limiter.Inspector)
		if !ok {
			t.Fatalf("%T is no limiter.Inspector", f.Limiter)
		}
		f.Inspector = inspector
		body(f)
	}
}

// placed is a charge whose key has a slot, a home and a rest.
func placed(l *limiter.Limit, slot, home, rest string) limiter.Charge {
	return limiter.Charge{Limit: l, Key: []byte(slot + home + rest), Slot: len(slot), Home: len(slot + home), Cost: limiter.Unit}
}

// names are the homes of what the inspector tells of a slot, each once.
func (f *inspectFixture) names(slot string, homes ...string) []string {
	f.Helper()
	seen := map[string]bool{}
	err := f.Names(context.Background(), []byte(slot), func(name string) bool {
		for _, home := range homes {
			if strings.HasPrefix(name, slot+home) {
				name = slot + home
				break
			}
		}
		seen[name] = true
		return true
	})
	if err != nil {
		f.Fatalf("Names of %q: %v", slot, err)
	}
	return slices.Sorted(maps.Keys(seen))
}

// forget is about the slot a1:x, which the cases look at.
func (f *inspectFixture) forget(rest string, want int) {
	const slot = "a1:x"
	f.Helper()
	if n, err := f.Forget(context.Background(), []byte(slot), []byte(rest)); err != nil || n != want {
		f.Errorf("Forget %q %q = %d, %v; want %d", slot, rest, n, err, want)
	}
}

func namesOfASlot(f *inspectFixture) {
	limits := slowLimits(9)
	for _, slot := range []string{"a1:x", "a1:y", "a2:x1"} {
		for i, home := range []string{"0:", "7:+action4:read", "7:+action5:write"} {
			f.admitted(placed(limits[0], slot, home, "8:limits/r"), placed(limits[i+1], slot, home, "8:limits/o"))
		}
	}
	f.admitted(of(limits[1], "x", 1)) // without a slot
	homes := []string{"0:", "7:+action4:read", "7:+action5:write"}
	want := []string{"a1:x0:", "a1:x7:+action4:read", "a1:x7:+action5:write"}
	if got := f.names("a1:x", homes...); !slices.Equal(got, want) {
		f.Errorf("told %q, want %q", got, want)
	}
	if got := f.names("a1:z", homes...); len(got) != 0 {
		f.Errorf("told %q of a slot without buckets", got)
	}
}

func namesInUse(f *inspectFixture) {
	quick := &limiter.Limit{Name: "quick", Kind: limiter.KindRate, Count: 60, Burst: 60, Period: time.Minute}
	slow := slowLimits(9)[0]
	f.admitted(placed(quick, "a1:x", "0:", "1:q"))
	f.admitted(placed(slow, "a1:x", "1:+", "1:s"))
	f.denied(placed(slow, "a1:x", "2:++", "1:s"), of(slowLimits(1)[1], "x", 2))
	f.peek(placed(slow, "a1:x", "3:+++", "1:s"))
	if got, want := f.names("a1:x", "0:", "1:+"), []string{"a1:x0:", "a1:x1:+"}; !slices.Equal(got, want) {
		f.Errorf("told %q, want %q", got, want)
	}
	f.clock.Advance(time.Minute)
	if got, want := f.names("a1:x", "0:", "1:+"), []string{"a1:x1:+"}; !slices.Equal(got, want) {
		f.Errorf("told %q, want %q", got, want)
	}
	f.forget("", 1)
}

func namesStopped(f *inspectFixture) {
	for i := range 50 {
		f.admitted(placed(slowLimits(9)[i%4], "a1:x", fmt.Sprintf("%d:", i), "1:s"))
	}
	told := 0
	if err := f.Names(context.Background(), []byte("a1:x"), func(string) bool { told++; return told < 7 }); err != nil || told != 7 {
		f.Errorf("told %d, %v; want 7", told, err)
	}
}

func forgetsASlot(f *inspectFixture) {
	var mine, other []limiter.Charge
	for i, l := range slowLimits(5) {
		rest := fmt.Sprintf("2:l%d", i)
		mine = append(mine, placed(l, "a1:x", "0:", rest), placed(l, "a1:x", fmt.Sprintf("7:+action1:%d", i), rest))
		other = append(other, placed(l, "a1:y", "0:", rest))
	}
	f.admitted(mine...)
	f.admitted(mine...)
	f.admitted(other...)
	f.forget("", len(mine))
	for i := range mine {
		f.left(5*limiter.Unit, mine[i])
	}
	for i := range other {
		f.left(4*limiter.Unit, other[i])
	}
	if got := f.names("a1:x"); len(got) != 0 {
		f.Errorf("told %q of what was forgotten", got)
	}
	f.forget("", 0)
}

func forgetsOne(f *inspectFixture) {
	l := slowLimits(5)[0]
	drop := []limiter.Charge{placed(l, "a1:x", "0:", "2:l1"), placed(l, "a1:x", "1:+", "2:l1")}
	keep := []limiter.Charge{placed(l, "a1:x", "0:", "2:l2"), placed(l, "a1:x", "0:", "3:l1!"), placed(l, "a1:y", "0:", "2:l1")}
	f.admitted(slices.Concat(drop, keep)...)
	f.forget("2:l1", len(drop))
	for i := range drop {
		f.left(5*limiter.Unit, drop[i])
	}
	for i := range keep {
		f.left(4*limiter.Unit, keep[i])
	}
	f.forget("2:l9", 0)
}

// countsAgain: what stands in a forgotten bucket's place counts in the same
// calendar unit, and the next one gives anew.
func countsAgain(f *inspectFixture) {
	for i, l := range slowLimits(3) {
		c := placed(l, "a1:x", "0:", fmt.Sprintf("2:l%d", i))
		var first time.Duration
		for round := range 3 {
			for range 3 {
				f.admitted(c)
			}
			wait := f.denied(c).Limits[0].RetryAfter
			if round == 0 {
				first = wait
			}
			if wait <= 0 || wait > first+time.Second {
				f.Errorf("%s, round %d: free in %v, and in %v before", l.Name, round, wait, first)
			}
			f.forget("", 1)
		}
	}
}

func refundsAfterwards(f *inspectFixture) {
	for i, l := range slowLimits(3) {
		c := placed(l, "a1:x", "0:", fmt.Sprintf("2:l%d", i))
		receipt := f.admitted(c).Receipt.Clone()
		f.forget("", 1)
		f.refund(receipt)
		f.left(3*limiter.Unit, c)
		for range 3 {
			f.admitted(c)
		}
		f.denied(c)
		f.forget("", 1)
	}
}

func wantsASlot(f *inspectFixture) {
	f.admitted(placed(slowLimits(3)[0], "a1:x", "0:", "1:l"))
	all := func(name string) bool { f.Errorf("told %q", name); return true }
	if err := f.Names(context.Background(), nil, all); err == nil {
		f.Errorf("told the buckets of no slot")
	}
	if n, err := f.Forget(context.Background(), nil, nil); err == nil || n != 0 {
		f.Errorf("forgot %d of no slot, %v", n, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := f.Names(ctx, []byte("a1:x"), all); err == nil {
		f.Errorf("told to nobody")
	}
	if n, err := f.Forget(ctx, []byte("a1:x"), nil); err == nil || n != 0 {
		f.Errorf("forgot %d for nobody, %v", n, err)
	}
	f.forget("", 1)
}
