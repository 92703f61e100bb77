package limiter_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/limiter/limitertest"
)

// paper is a journal that outlives a limiter as a disk does.
type paper struct {
	mu     sync.Mutex
	marks  map[string]limiter.QuotaMark
	err    error
	writes int
	hold   chan struct{} // nil: a write waits for nothing
}

func newPaper() *paper { return &paper{marks: map[string]limiter.QuotaMark{}} }

func (p *paper) Load(_ context.Context, f func(limiter.QuotaMark) error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.marks {
		if err := f(m); err != nil {
			return err
		}
	}
	return p.err
}

func (p *paper) Write(_ context.Context, marks []limiter.QuotaMark) error {
	p.mu.Lock()
	hold := p.hold
	p.mu.Unlock()
	if hold != nil {
		<-hold
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return p.err
	}
	p.writes++
	for _, m := range marks {
		m.Key = []byte(string(m.Key))
		p.marks[fmt.Sprintf("%s %v %s", m.Key, m.Calendar, m.Zone)] = m
	}
	return nil
}

func (p *paper) Prune(_ context.Context, until int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for place, m := range p.marks {
		if m.End <= until {
			delete(p.marks, place)
		}
	}
	return p.err
}

func (p *paper) Close() error { return nil }

func (p *paper) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

func noonOf(month time.Month) time.Time { return time.Date(2026, month, 17, 12, 0, 0, 0, time.UTC) }

func keptOver(tb testing.TB, p *paper, clock func() time.Time) *limiter.Kept {
	tb.Helper()
	k, err := limiter.NewKept(context.Background(), newMemory(tb, limiter.MemoryConfig{Clock: clock, Shards: 4}), p)
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

func daily(count int64) *limiter.Limit {
	return &limiter.Limit{Name: "daily", Kind: limiter.KindQuota, Count: count, Calendar: limiter.CalendarDay}
}

// spend takes a cost, and returns what is left and whether it was admitted.
func spend(tb testing.TB, k limiter.Limiter, l *limiter.Limit, key string, cost limiter.Units) (*limiter.Call, bool) {
	tb.Helper()
	calls := []limiter.Call{{Charges: []limiter.Charge{{Limit: l, Key: []byte(key), Cost: cost}}}}
	if _, err := k.Take(context.Background(), calls, limiter.StopNever); err != nil {
		tb.Fatal(err)
	}
	return &calls[0], calls[0].Result.Admitted
}

func leftOf(tb testing.TB, k limiter.Limiter, l *limiter.Limit, key string) limiter.Units {
	tb.Helper()
	calls := []limiter.Call{{Charges: []limiter.Charge{{Limit: l, Key: []byte(key), Cost: 1}}}}
	if err := k.Peek(context.Background(), calls); err != nil {
		tb.Fatal(err)
	}
	return calls[0].Result.Limits[0].Remaining
}

func TestKeptOverAnEndAndACrash(t *testing.T) {
	t.Parallel()
	p, clock := newPaper(), limitertest.NewClock(noonOf(time.June))
	day := daily(1280) // ten are written ahead
	k := keptOver(t, p, clock.Now)
	for range 7 {
		spend(t, k, day, "bot", limiter.Unit)
	}
	if p.writes != 1 {
		t.Errorf("%d writes for 7 calls, want 1", p.writes)
	}
	if err := errors.Join(k.Close(), k.Close()); err != nil {
		t.Fatal(err)
	}
	k = keptOver(t, p, clock.Now)
	if left := leftOf(t, k, day, "bot"); left != 1273*limiter.Unit {
		t.Errorf("after an end %d are left, want 1273", left/limiter.Unit)
	}
	spend(t, k, day, "bot", limiter.Unit)
	k = keptOver(t, p, clock.Now) // without an end: a crash
	if left := leftOf(t, k, day, "bot"); left != 1262*limiter.Unit {
		t.Errorf("after a crash %d are left, want 1272 less the 10 that were written ahead", left/limiter.Unit)
	}
	clock.Advance(24 * time.Hour)
	if left := leftOf(t, k, day, "bot"); left != 1280*limiter.Unit {
		t.Errorf("on the next day %d are left", left/limiter.Unit)
	}
	spend(t, k, day, "bot", limiter.Unit)
	k = keptOver(t, p, clock.Now)
	if left := leftOf(t, k, day, "bot"); left != 1269*limiter.Unit {
		t.Errorf("after a crash on the next day %d are left", left/limiter.Unit)
	}
	clock.Advance(48 * time.Hour)
	keptOver(t, p, clock.Now)
	if len(p.marks) != 0 {
		t.Errorf("marks that are over stay: %v", p.marks)
	}
}

// While the journal cannot be written nothing with a quota is admitted or
// charged; everything else goes on, and so do quotas once it can.
func TestKeptWithoutAJournal(t *testing.T) {
	t.Parallel()
	p, clock := newPaper(), limitertest.NewClock(noonOf(time.June))
	day, rate := daily(100), hourly(1000)
	k := keptOver(t, p, clock.Now)
	broken := errors.New("no space left on device")
	p.set(func() { p.err = broken })
	both := func() ([]limiter.Call, error) {
		calls := []limiter.Call{
			{Charges: []limiter.Charge{{Limit: rate, Key: []byte("r"), Cost: limiter.Unit}}},
			{Charges: []limiter.Charge{{Limit: day, Key: []byte("d"), Cost: limiter.Unit}, {Limit: rate, Key: []byte("r"), Cost: limiter.Unit}}},
		}
		n, err := k.Take(context.Background(), calls, limiter.StopNever)
		if err != nil && n != 0 {
			t.Errorf("%d were judged", n)
		}
		return calls, err
	}
	for range 3 {
		calls, err := both()
		if !errors.Is(err, limiter.ErrUnavailable) || !errors.Is(err, broken) || calls[0].Result.Admitted || calls[1].Result.Admitted || k.Err() == nil {
			t.Fatalf("%v, admitted %t %t, fault %v", err, calls[0].Result.Admitted, calls[1].Result.Admitted, k.Err())
		}
	}
	if err := k.Debit(context.Background(), &limiter.Receipt{Taken: []limiter.Taken{{Limit: day, Key: []byte("d"), Cost: limiter.Unit}}}); !errors.Is(err, limiter.ErrUnavailable) {
		t.Errorf("a debit: %v", err)
	}
	if _, ok := spend(t, k, rate, "r", limiter.Unit); !ok || leftOf(t, k, rate, "r") != 999*limiter.Unit || leftOf(t, k, day, "d") != 100*limiter.Unit {
		t.Errorf("left %d and %d: what was refused was charged, or a rate was not admitted", leftOf(t, k, rate, "r"), leftOf(t, k, day, "d"))
	}
	p.set(func() { p.err = nil })
	if _, err := both(); !errors.Is(err, limiter.ErrUnavailable) {
		t.Errorf("it is asked again at once: %v", err)
	}
	clock.Advance(time.Second)
	if _, err := both(); err != nil || k.Err() != nil {
		t.Errorf("afterwards: %v, %v", err, k.Err())
	}
}

func TestKeptDebitsAndForgets(t *testing.T) {
	t.Parallel()
	p, clock := newPaper(), limitertest.NewClock(noonOf(time.June))
	day := daily(128) // one is written ahead
	k := keptOver(t, p, clock.Now)
	call, _ := spend(t, k, day, "bot:daily", limiter.Unit)
	r := call.Result.Receipt.Clone()
	r.Taken[0].Cost = 50 * limiter.Unit
	if err := k.Debit(context.Background(), &r); err != nil {
		t.Fatal(err)
	}
	k = keptOver(t, p, clock.Now)
	if left := leftOf(t, k, day, "bot:daily"); left > 77*limiter.Unit || left < 75*limiter.Unit {
		t.Errorf("after a debit of 50 and a crash %d are left", left/limiter.Unit)
	}
	if n, err := k.Forget(context.Background(), []byte("bot:"), nil); n != 1 || err != nil {
		t.Fatalf("%d forgotten, %v", n, err)
	}
	k = keptOver(t, p, clock.Now)
	if left := leftOf(t, k, day, "bot:daily"); left != 128*limiter.Unit {
		t.Errorf("after it was forgotten, and a crash, %d are left", left/limiter.Unit)
	}
	spend(t, k, day, "bot:daily", limiter.Unit)
	p.set(func() { p.err = errors.New("read-only") })
	if _, err := k.Forget(context.Background(), []byte("bot:"), nil); !errors.Is(err, limiter.ErrUnavailable) {
		t.Errorf("what the journal did not forget: %v", err)
	}
}

// Who stops waiting for the journal has spent nothing.
func TestKeptThatNobodyWaitsFor(t *testing.T) {
	t.Parallel()
	p, clock := newPaper(), limitertest.NewClock(noonOf(time.June))
	p.hold = make(chan struct{})
	day := daily(100)
	k := keptOver(t, p, clock.Now)
	ctx, cancel := context.WithCancel(context.Background())
	calls := []limiter.Call{{Charges: []limiter.Charge{{Limit: day, Key: []byte("bot"), Cost: limiter.Unit}}}}
	ended := make(chan error, 1)
	go func() {
		_, err := k.Take(ctx, calls, limiter.StopNever)
		ended <- err
	}()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) || calls[0].Result.Admitted {
		t.Errorf("%v, admitted %t", err, calls[0].Result.Admitted)
	}
	if left := leftOf(t, k, day, "bot"); left != 100*limiter.Unit {
		t.Errorf("%d are left", left/limiter.Unit)
	}
	close(p.hold)
	if _, ok := spend(t, k, day, "bot", limiter.Unit); !ok {
		t.Error("the next one is denied")
	}
	if err := k.Close(); err != nil {
		t.Error(err)
	}
}

// Many at once get exactly the quota, and share writes.
func TestKeptAtOnce(t *testing.T) {
	t.Parallel()
	p := newPaper()
	k := keptOver(t, p, nil)
	month := &limiter.Limit{Name: "m", Kind: limiter.KindQuota, Count: 1000, Calendar: limiter.CalendarMonth}
	var admitted atomic.Int64
	var group sync.WaitGroup
	for range 64 {
		group.Go(func() {
			for range 30 {
				if _, ok := spend(t, k, month, "bot", limiter.Unit); ok {
					admitted.Add(1)
				}
			}
		})
	}
	group.Wait()
	if admitted.Load() != 1000 || p.writes > 200 {
		t.Errorf("%d of 1000 admitted, %d writes", admitted.Load(), p.writes)
	}
}

// Over lives that end well or badly, on days that come and go, with two policies
// that alternate, no day gives more than the larger quota.
func TestKeptNeverGivesMore(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		p, clock := newPaper(), limitertest.NewClock(noonOf(time.June))
		limits := []*limiter.Limit{daily(rapid.Int64Range(1, 300).Draw(r, "count")), daily(rapid.Int64Range(1, 300).Draw(r, "other"))}
		most := max(limits[0].Count, limits[1].Count) * int64(limiter.Unit)
		k, given, day := keptOver(t, p, clock.Now), int64(0), clock.Now().YearDay()
		for range rapid.IntRange(1, 60).Draw(r, "steps") {
			if now := clock.Now().YearDay(); now != day {
				day, given = now, 0
			}
			switch rapid.SampledFrom([]string{"take", "take", "take", "refund", "crash", "end", "later", "debit"}).Draw(r, "step") {
			case "take":
				cost := limiter.Units(rapid.Int64Range(1, 40*int64(limiter.Unit)).Draw(r, "cost"))
				if _, ok := spend(t, k, rapid.SampledFrom(limits).Draw(r, "limit"), "bot", cost); ok {
					given += int64(cost)
				}
			case "refund":
				if call, ok := spend(t, k, limits[0], "bot", limiter.Unit); ok {
					if err := k.Refund(context.Background(), &call.Result.Receipt); err != nil {
						r.Fatal(err)
					}
				}
			case "debit":
				_ = k.Debit(context.Background(), &limiter.Receipt{Taken: []limiter.Taken{{Limit: limits[0], Key: []byte("bot"), Cost: limiter.Unit}}})
			case "end":
				if err := k.Close(); err != nil {
					r.Fatal(err)
				}
				k = keptOver(t, p, clock.Now)
			case "crash":
				k = keptOver(t, p, clock.Now)
			case "later":
				clock.Advance(time.Duration(rapid.Int64Range(0, int64(12*time.Hour)).Draw(r, "span")))
			}
			if given > most {
				r.Fatalf("%d millionths were given on one day, of %d", given, most)
			}
		}
	})
}
