package limiter_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/limiter/limitertest"
)

// used is what the journal says of a bucket.
func (p *paper) used(key string) (used limiter.Units) {
	p.set(func() {
		for _, m := range p.marks {
			if string(m.Key) == key {
				used = max(used, m.Used)
			}
		}
	})
	return used
}

// However calls and debits overtake each other on their way to the journal, it
// never says less than what was charged by then: a crash would give it again.
func TestKeptIsNeverBehind(t *testing.T) {
	t.Parallel()
	for _, debits := range []bool{false, true} {
		t.Run(fmt.Sprintf("debits %t", debits), func(t *testing.T) {
			t.Parallel()
			var behind atomic.Int64
			month := &limiter.Limit{Name: "m", Kind: limiter.KindQuota, Count: 120, Calendar: limiter.CalendarMonth}
			for range 200 { // Each with a journal of one bucket, which is soon looked at.
				p := newPaper()
				k := keptOver(t, p, nil)
				var charged atomic.Int64
				var group sync.WaitGroup
				for i := range 32 {
					group.Go(func() {
						for range 4 {
							if debits && i%4 == 0 {
								if err := k.Debit(t.Context(), &limiter.Receipt{Taken: []limiter.Taken{{Limit: month, Key: []byte("bot"), Cost: limiter.Unit}}}); err != nil {
									t.Error(err)
								}
							} else if _, ok := spend(t, k, month, "bot", limiter.Unit); !ok {
								continue
							}
							if now := charged.Add(1); p.used("bot") < limiter.Units(now)*limiter.Unit {
								behind.Add(1)
							}
						}
					})
				}
				group.Wait()
				if err := k.Close(); err != nil {
					t.Error(err)
				}
				if now := limiter.Units(charged.Load()) * limiter.Unit; p.used("bot") != now {
					t.Errorf("at the end the journal says %d, and %d are charged", p.used("bot"), now)
				}
			}
			if n := behind.Load(); n != 0 {
				t.Errorf("the journal was behind %d times", n)
			}
		})
	}
}

// unsurePaper may have what it failed to write.
type unsurePaper struct {
	*paper
	fails bool
}

func (p *unsurePaper) Write(ctx context.Context, marks []limiter.QuotaMark) error {
	err := p.paper.Write(ctx, marks)
	if p.fails {
		return errors.Join(err, errors.New("the answer was lost"))
	}
	return err
}

// What the journal perhaps forgot does not count as kept: what is charged from
// then on is written, and so is the second try to forget.
func TestKeptThatPerhapsForgot(t *testing.T) {
	t.Parallel()
	clock := limitertest.NewClock(noonOf(time.June))
	day := daily(1280) // ten are written ahead
	p := &unsurePaper{paper: newPaper()}
	k, err := limiter.NewKept(t.Context(), newMemory(t, limiter.MemoryConfig{Clock: clock.Now}), p)
	if err != nil {
		t.Fatal(err)
	}
	spend(t, k, day, "bot:daily", limiter.Unit)
	forget := func() error {
		_, err := k.Forget(t.Context(), []byte("bot:"), nil)
		return err
	}
	p.fails = true
	if err := forget(); !errors.Is(err, limiter.ErrUnavailable) {
		t.Fatalf("forgotten, perhaps: %v", err)
	}
	p.fails = false
	for range 5 {
		spend(t, k, day, "bot:daily", limiter.Unit)
	}
	if left := leftOf(t, keptOver(t, p.paper, clock.Now), day, "bot:daily"); left > 1275*limiter.Unit {
		t.Errorf("after a crash %d are left, of 1275", left/limiter.Unit)
	}
	p.set(func() { p.err = errors.New("read-only") })
	if err := forget(); !errors.Is(err, limiter.ErrUnavailable) {
		t.Fatalf("not forgotten: %v", err)
	}
	p.set(func() { p.err = nil })
	if err := forget(); err != nil {
		t.Fatal(err)
	}
	if left := leftOf(t, keptOver(t, p.paper, clock.Now), day, "bot:daily"); left != 1280*limiter.Unit {
		t.Errorf("forgotten at the second try, and after a crash %d are left", left/limiter.Unit)
	}
}

// What nobody waits for any more does not come back after it was forgotten.
func TestKeptForgetsWhatIsOnItsWay(t *testing.T) {
	t.Parallel()
	p, clock := newPaper(), limitertest.NewClock(noonOf(time.June))
	day := daily(1280)
	k := keptOver(t, p, clock.Now)
	spend(t, k, day, "bot:daily", 900*limiter.Unit)
	hold := make(chan struct{})
	p.set(func() { p.hold = hold })
	for range 2 { // one is being written, one waits
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		calls := []limiter.Call{{Charges: []limiter.Charge{{Limit: day, Key: []byte("bot:daily"), Cost: 100 * limiter.Unit}}}}
		_, err := k.Take(ctx, calls, limiter.StopNever)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
	}
	late, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := k.Forget(late, []byte("bot:"), nil); !errors.Is(err, limiter.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a disk that hangs: %v", err)
	}
	forgotten, begun := make(chan error, 1), make(chan struct{})
	go func() {
		close(begun)
		_, err := k.Forget(context.WithoutCancel(t.Context()), []byte("bot:"), nil)
		forgotten <- err
	}()
	<-begun
	hold <- struct{}{} // what was being written; then either goes first
	close(hold)
	if err := <-forgotten; err != nil {
		t.Fatal(err)
	}
	spend(t, k, day, "other", limiter.Unit) // Whatever waited is written by now.
	if used := p.used("bot:daily"); used != 0 {
		t.Errorf("%d are used of what was forgotten", used/limiter.Unit)
	}
}

// A clock that is set back leads into no unit that was left, also after a crash.
func TestKeptWithAClockSetBack(t *testing.T) {
	t.Parallel()
	p, clock := newPaper(), limitertest.NewClock(noonOf(time.June))
	day := daily(128) // one is written ahead
	k := keptOver(t, p, clock.Now)
	spend(t, k, day, "bot", 100*limiter.Unit)
	clock.Advance(24 * time.Hour)
	spend(t, k, day, "bot", 20*limiter.Unit)
	clock.Advance(-24 * time.Hour)
	spend(t, k, day, "bot", 30*limiter.Unit)
	for range 2 {
		if left := leftOf(t, k, day, "bot"); left > 78*limiter.Unit || left < 77*limiter.Unit {
			t.Errorf("%d are left, want 78 less one at most", left/limiter.Unit)
		}
		k = keptOver(t, p, clock.Now)
	}
}

// Nor does one that is set back while no process runs, whose next one has swept
// what was over, or began on it.
func TestKeptWithAClockSetBackBetween(t *testing.T) {
	t.Parallel()
	p, clock := newPaper(), limitertest.NewClock(noonOf(time.June).Add(12*time.Hour-time.Minute))
	day := daily(128)
	k := keptOver(t, p, clock.Now)
	spend(t, k, day, "bot", 128*limiter.Unit)
	for _, ends := range []bool{false, true} {
		clock.Advance(2 * time.Minute)
		k = keptOver(t, p, clock.Now)
		if ends {
			if err := k.Close(); err != nil {
				t.Fatal(err)
			}
		}
		clock.Advance(-2 * time.Minute)
		k = keptOver(t, p, clock.Now)
		if left := leftOf(t, k, day, "bot"); left != 0 {
			t.Errorf("the one between ended %t: %d are left of a day that was used up", ends, left/limiter.Unit)
		}
	}
}
