package redislimiter_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/internal/testkit"
	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/limiter/redislimiter"
)

// What faults are tested with: callers that go on asking while something is
// broken, and the machine's own part in how late they are answered.

// answer is what one caller got for one call.
type answer struct {
	asked time.Time
	took  time.Duration
	what  outcome
}

type outcome uint8

const (
	admitted outcome = iota
	denied
	unavailable
	strange // an error that is not documented
)

// load is callers that ask without end.
type load struct {
	began time.Time
	stop  chan struct{}
	wg    sync.WaitGroup

	mu      sync.Mutex
	answers []answer
	odd     error // the first that is not documented
}

// start makes so many callers of one replica ask for the charges, each again as
// soon as it was answered but not more often than every.
func (o *load) start(l limiter.Limiter, callers int, every time.Duration, charges ...limiter.Charge) {
	for range callers {
		o.wg.Go(func() {
			tick := time.NewTicker(every)
			defer tick.Stop()
			calls := []limiter.Call{{Charges: charges}}
			for {
				select {
				case <-o.stop:
					return
				case <-tick.C:
				}
				o.ask(l, calls)
			}
		})
	}
}

func (o *load) ask(l limiter.Limiter, calls []limiter.Call) {
	a := answer{asked: time.Now(), what: denied}
	_, err := l.Take(context.Background(), calls, limiter.StopNever)
	a.took = time.Since(a.asked)
	switch {
	case errors.Is(err, limiter.ErrUnavailable):
		a.what = unavailable
	case err != nil:
		a.what = strange
	case calls[0].Result.Admitted:
		a.what = admitted
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.answers = append(o.answers, a)
	if a.what == strange && o.odd == nil {
		o.odd = err
	}
}

func newLoad(tb testing.TB) *load {
	tb.Helper()
	o := &load{began: time.Now(), stop: make(chan struct{})}
	tb.Cleanup(o.end)
	return o
}

// end stops the callers, when all have their last answer.
func (o *load) end() {
	select {
	case <-o.stop:
	default:
		close(o.stop)
	}
	o.wg.Wait()
}

// count is how many answers of a kind came so far.
func (o *load) count(what outcome) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := 0
	for i := range o.answers {
		if o.answers[i].what == what {
			n++
		}
	}
	return n
}

// more waits until so many further answers of a kind have come.
func (o *load) more(tb testing.TB, what outcome, n int) {
	tb.Helper()
	want := o.count(what) + n
	testkit.Eventually(tb, fmt.Sprintf("%d further answers of kind %d", n, what), func() bool { return o.count(what) >= want })
}

// first is how long after an instant a call was asked for and answered so.
func (o *load) first(what outcome, after time.Time) (time.Duration, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	soonest := time.Duration(math.MaxInt64)
	for i := range o.answers {
		a := &o.answers[i]
		if came := a.asked.Add(a.took).Sub(after); a.what == what && came > 0 {
			soonest = min(soonest, came)
		}
	}
	return soonest, soonest != math.MaxInt64
}

// times are how long the answers took that came within a span, the shortest
// first, and how many of them were of a kind.
func (o *load) times(from, to time.Time, what outcome) (took []time.Duration, of int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range o.answers {
		a := &o.answers[i]
		if came := a.asked.Add(a.took); came.Before(from) || came.After(to) {
			continue
		}
		took = append(took, a.took)
		if a.what == what {
			of++
		}
	}
	slices.Sort(took)
	return took, of
}

// quantile is the value that this share of the sorted times does not exceed.
func quantile(sorted []time.Duration, share float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(share*float64(len(sorted))))]
}

// documented fails if there was an error that is none of the contract's.
func (o *load) documented(tb testing.TB) {
	tb.Helper()
	if n := o.count(strange); n > 0 {
		tb.Errorf("%d undocumented errors, the first: %v", n, o.odd)
	}
}

// most is what a rate may admit from the beginning of the load until now, whole
// units: its burst, and what came back since.
func (o *load) most(l *limiter.Limit) int {
	return int(float64(l.Burst)+float64(l.Count)*time.Since(o.began).Seconds()/l.Period.Seconds()) + 1
}

// hiccups watches how late this machine lets a goroutine run that has nothing to
// do with what is tested. The function that it returns tells the worst.
func hiccups(tb testing.TB) func() time.Duration {
	tb.Helper()
	const every = time.Millisecond
	var mu sync.Mutex
	var worst time.Duration
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		last := time.Now()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			now := time.Now()
			mu.Lock()
			worst = max(worst, now.Sub(last)-every)
			mu.Unlock()
			last = now
		}
	})
	tb.Cleanup(func() {
		close(stop)
		wg.Wait()
	})
	return func() time.Duration {
		mu.Lock()
		defer mu.Unlock()
		return worst
	}
}

// asDeployed is a configuration with the timeout of one that says nothing.
func asDeployed(url string) redislimiter.Config {
	cfg := at(url)
	cfg.Options.Timeout = 0
	return cfg
}

// deployedTimeout is that timeout, as Options documents it.
const deployedTimeout = 100 * time.Millisecond

// beside makes a second replica on the same keys.
func beside(tb testing.TB, cfg redislimiter.Config, url string) *redislimiter.Limiter {
	tb.Helper()
	cfg.Options.URL, cfg.Options.Dialer = url, nil
	return started(tb, cfg)
}

// perSecond is a rate with a burst.
func perSecond(count, burst int64) *limiter.Limit {
	return &limiter.Limit{Name: "rate", Kind: limiter.KindRate, Count: count, Burst: burst, Period: time.Second}
}

// lasts waits for a time during which callers are to go on asking. There is
// nothing to wait for: it is the fault's duration.
func lasts(d time.Duration) { <-time.After(d) }

// answers reports whether a call is answered, and its result.
func answers(tb testing.TB, l limiter.Limiter, charges ...limiter.Charge) (limiter.Result, bool) {
	tb.Helper()
	calls := []limiter.Call{{Charges: charges}}
	_, err := l.Take(context.Background(), calls, limiter.StopNever)
	if err != nil && !errors.Is(err, limiter.ErrUnavailable) {
		tb.Fatalf("got the error %v, want none or %v", err, limiter.ErrUnavailable)
	}
	return calls[0].Result, err == nil
}

// drain takes single units until one is denied, and tells how many were admitted.
func drain(tb testing.TB, l limiter.Limiter, c limiter.Charge) int {
	tb.Helper()
	n := 0
	for take(tb, l, c).Admitted {
		n++
	}
	return n
}
