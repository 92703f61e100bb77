// Package limitertest is the conformance suite of [limiter.Limiter]: what every
// driver does, whatever it keeps its state in. It is for tests only.
//
//	func TestMemory(t *testing.T) {
//		report := limitertest.Run(t, limitertest.Driver{
//			Open: func(tb testing.TB, clock func() time.Time) limiter.Limiter { ... },
//		})
//		if report.Ran != limitertest.Cases() { ... }
//	}
//
// The properties run at reduced counts unless KELPIE_PROOF=full is set.
package limitertest

import (
	"context"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kelpie-authz/kelpie/limiter"
)

// Driver is what the suite runs against.
type Driver struct {
	// Open returns a limiter without any state, that reads its time from
	// clock. The suite closes it. It is called many times, also at once; two
	// limiters that are open together share nothing.
	Open func(tb testing.TB, clock func() time.Time) limiter.Limiter
	// NoClock says why the driver cannot be given a clock (its store's own time
	// counts). Open may then ignore clock, and the cases that need to move time
	// are left out, and counted as such.
	NoClock string
}

// Report says what became of the suite's cases. The caller compares Ran with
// the number it expects, so that a case that silently does not run is noticed.
type Report struct {
	Ran     int
	LeftOut []string
}

// testCase is one promise of the contract.
type testCase struct {
	name string
	// clock is set if the case needs to move time.
	clock bool
	run   func(t *testing.T, d Driver)
}

// Cases is how many cases the suite has.
func Cases() int { return len(allCases()) }

func allCases() []testCase {
	return slices.Concat(admissionCases(), sharingCases(), refundCases(), changeCases(), timeCases(), boundCases())
}

// Run runs every case that the driver can run, as a parallel subtest, and
// returns when all are done.
func Run(t *testing.T, d Driver) Report {
	t.Helper()
	var ran atomic.Int64
	var report Report
	t.Run("suite", func(t *testing.T) {
		for _, c := range allCases() {
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
	if len(report.LeftOut) > 0 {
		t.Logf("%d cases left out, because %s: %s", len(report.LeftOut), d.NoClock, strings.Join(report.LeftOut, ", "))
	}
	report.Ran = int(ran.Load())
	return report
}

// Clock is a clock that moves only when told. It is safe for concurrent use.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// NewClock returns a clock that shows t.
func NewClock(t time.Time) *Clock { return &Clock{now: t.Round(0)} }

// Now is the clock's reading.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Advance moves the clock by d, which may be negative.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// proof repeats a property: once, or a hundred times under KELPIE_PROOF=full.
func proof(t *testing.T, property func(*rapid.T)) {
	t.Helper()
	rounds := 1
	if os.Getenv("KELPIE_PROOF") == "full" {
		rounds = 100
	}
	for range rounds {
		rapid.Check(t, property)
	}
}

// failer is what *testing.T and *rapid.T have in common.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

// fixture is one open limiter with its clock.
type fixture struct {
	failer
	limiter.Limiter

	clock *Clock
	// slack is how much a Remaining may grow while a case runs, if the
	// driver's time cannot be stopped.
	slack limiter.Units
}

// noon is where the fixture's clock starts: an ordinary Wednesday.
func noon() time.Time { return time.Date(2026, time.June, 17, 12, 0, 0, 0, time.UTC) }

func setup(t *testing.T, d Driver) *fixture {
	t.Helper()
	f := open(t, t, d, noon())
	t.Cleanup(f.close)
	return f
}

// open starts a fixture that fails through f; the caller closes it.
func open(t *testing.T, f failer, d Driver, start time.Time) *fixture {
	t.Helper()
	clock := NewClock(start)
	fx := &fixture{failer: f, clock: clock, Limiter: d.Open(t, clock.Now)}
	if d.NoClock != "" {
		fx.slack = limiter.Unit / 100
	}
	return fx
}

func (f *fixture) close() {
	f.Helper()
	if err := f.Close(); err != nil {
		f.Errorf("Close: %v", err)
	}
}

// take sends one call with these charges.
func (f *fixture) take(charges ...limiter.Charge) limiter.Result {
	f.Helper()
	calls := []limiter.Call{{Charges: charges}}
	n, err := f.Take(context.Background(), calls, limiter.StopNever)
	if err != nil || n != 1 {
		f.Fatalf("Take = %d, %v; want 1, nil", n, err)
	}
	if got := len(calls[0].Result.Limits); got != len(charges) {
		f.Fatalf("Take answered %d limits for %d charges", got, len(charges))
	}
	return calls[0].Result
}

// peek looks at one call with these charges.
func (f *fixture) peek(charges ...limiter.Charge) limiter.Result {
	f.Helper()
	calls := []limiter.Call{{Charges: charges}}
	if err := f.Peek(context.Background(), calls); err != nil {
		f.Fatalf("Peek: %v", err)
	}
	if !calls[0].Result.Receipt.Empty() {
		f.Fatalf("Peek gave a receipt: %+v", calls[0].Result.Receipt)
	}
	return calls[0].Result
}

// refund gives a receipt back.
func (f *fixture) refund(r limiter.Receipt) {
	f.Helper()
	if err := f.Refund(context.Background(), &r); err != nil {
		f.Fatalf("Refund: %v", err)
	}
	if !r.Empty() {
		f.Fatalf("Refund left %d entries in the receipt", len(r.Taken))
	}
}

// admitted takes and fails unless the call is admitted.
func (f *fixture) admitted(charges ...limiter.Charge) limiter.Result {
	f.Helper()
	res := f.take(charges...)
	if !res.Admitted {
		f.Fatalf("denied, want admitted: %+v", res.Limits)
	}
	return res
}

// denied takes and fails if the call is admitted.
func (f *fixture) denied(charges ...limiter.Charge) limiter.Result {
	f.Helper()
	res := f.take(charges...)
	if res.Admitted {
		f.Fatalf("admitted, want denied: %+v", res.Limits)
	}
	if !res.Receipt.Empty() {
		f.Fatalf("a denied call has a receipt: %+v", res.Receipt)
	}
	return res
}

// left fails unless the bucket has want units left.
func (f *fixture) left(want limiter.Units, c limiter.Charge) {
	f.Helper()
	got := f.peek(c).Limits[0].Remaining
	if got < want || got > want+f.slack {
		f.Fatalf("%s: %d millionths remain, want %d", c.Limit.Name, got, want)
	}
}

// of is a charge of whole units.
func of(l *limiter.Limit, key string, units int64) limiter.Charge {
	return limiter.Charge{Limit: l, Key: []byte(key), Cost: limiter.Units(units) * limiter.Unit}
}

// slowLimits is one limit of each kind that gives n units and, in the time a
// test takes, none back.
func slowLimits(n int64) []*limiter.Limit {
	return []*limiter.Limit{
		{Name: "rate", Kind: limiter.KindRate, Count: max(1, n/100), Burst: n, Period: 24 * time.Hour},
		{Name: "window", Kind: limiter.KindWindow, Count: n, Period: 100 * 24 * time.Hour},
		{Name: "quota", Kind: limiter.KindQuota, Count: n, Calendar: limiter.CalendarMonth},
		{Name: "concurrency", Kind: limiter.KindConcurrency, Count: n, Hold: 24 * time.Hour},
	}
}

// eachKind runs body for one slow limit of each kind.
func eachKind(n int64, body func(f *fixture, l *limiter.Limit)) func(*testing.T, Driver) {
	return func(t *testing.T, d Driver) {
		for _, l := range slowLimits(n) {
			t.Run(l.Name, func(t *testing.T) {
				t.Parallel()
				body(setup(t, d), l)
			})
		}
	}
}

// one runs body on a fresh fixture.
func one(body func(f *fixture)) func(*testing.T, Driver) {
	return func(t *testing.T, d Driver) { body(setup(t, d)) }
}
