package redislimiter_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/internal/testkit"
	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/limiter/redislimiter"
)

// TestCoalescing: of 2N callers of one bucket at once exactly N are admitted,
// their states fit together, and their receipts give all of it back.
func TestCoalescing(t *testing.T) {
	t.Parallel()
	url := startRedis(t).URL()
	for _, l := range []*limiter.Limit{
		slow(256),
		{Name: "quota", Kind: limiter.KindQuota, Count: 256, Calendar: limiter.CalendarMonth},
		{Name: "window", Kind: limiter.KindWindow, Count: 256, Period: 100 * 24 * time.Hour},
		{Name: "concurrency", Kind: limiter.KindConcurrency, Count: 256, Hold: 24 * time.Hour},
	} {
		t.Run(l.Kind.String(), func(t *testing.T) {
			t.Parallel()
			cfg := at(url)
			redislimiter.Lanes(&cfg, 1)
			cfg.Clock = func() time.Time { return time.Date(2026, 6, 17, 12, 0, 0, 0, time.UTC) }
			coalesces(t, started(t, cfg), l)
		})
	}
}

func coalesces(t *testing.T, m *redislimiter.Limiter, l *limiter.Limit) {
	t.Helper()
	const n = 256
	results := make([]limiter.Result, 2*n)
	var wg sync.WaitGroup
	for i := range results {
		wg.Go(func() {
			calls := []limiter.Call{{Charges: []limiter.Charge{units(l, "hot", 1)}}}
			if _, err := m.Take(context.Background(), calls, limiter.StopNever); err != nil {
				t.Error(err)
			}
			results[i] = calls[0].Result
		})
	}
	wg.Wait()
	var receipts []limiter.Receipt
	for i := range results {
		res := &results[i]
		if len(res.Limits) != 1 || res.Admitted == res.Limits[0].Lacked || res.Admitted == res.Receipt.Empty() {
			t.Fatalf("an answer that contradicts itself: %+v", *res)
		}
		st := res.Limits[0]
		if !res.Admitted && (st.Remaining != 0 || st.RetryAfter <= 0 || st.Never) {
			t.Errorf("denied, and yet %+v", st)
		}
		if st.Limit != n*limiter.Unit || st.Remaining > (n-1)*limiter.Unit || st.Reset <= 0 {
			t.Errorf("state %+v", st)
		}
		if res.Admitted {
			receipts = append(receipts, res.Receipt)
		}
	}
	st := m.Stats()
	t.Logf("%s: %d calls, %d admitted, %d of them together with others, in %d commands and %d exchanges", l.Name, len(results), len(receipts), st.Coalesced, st.Commands, st.Exchanges)
	if len(receipts) != n {
		t.Fatalf("admitted %d of %d", len(receipts), n)
	}
	if st.Coalesced == 0 {
		t.Error("no call went along with another one")
	}
	if got := left(t, m, units(l, "hot", 1)); got != 0 {
		t.Errorf("%d remain of what was admitted whole", got)
	}
	// The last charge first: refunds of a rate that cross each other give back less.
	slices.SortFunc(receipts, func(a, b limiter.Receipt) int { return cmp.Compare(b.Taken[0].Mark[0], a.Taken[0].Mark[0]) })
	for i := range receipts {
		if err := m.Refund(context.Background(), &receipts[i]); err != nil {
			t.Fatal(err)
		}
	}
	if got := left(t, m, units(l, "hot", 1)); got != n*limiter.Unit {
		t.Errorf("%d remain after all was given back, want %d", got, n*limiter.Unit)
	}
}

// held is a Limiter whose answers are held up, and how to ask it for a charge in
// a goroutine of its own.
type held struct {
	*redislimiter.Limiter

	proxy   *testkit.CutProxy
	answers chan error
	asked   atomic.Int64
}

func holdUp(t *testing.T, edit func(*redislimiter.Config)) *held {
	t.Helper()
	p := testkit.StartCutProxy(t, startRedis(t).Addr)
	cfg := at("redis://" + p.Addr)
	edit(&cfg)
	h := &held{proxy: p, Limiter: started(t, cfg), answers: make(chan error, 100)}
	take(t, h, units(slow(1000), "warm", 1)) // the script and a connection are there
	p.Hold()
	return h
}

func (h *held) ask() {
	n := h.asked.Add(1)
	go func() {
		calls := []limiter.Call{{Charges: []limiter.Charge{units(slow(1000), fmt.Sprint("key", n), 1)}}}
		_, err := h.Take(context.Background(), calls, limiter.StopNever)
		h.answers <- err
	}()
}

// TestQueueIsBounded: calls beyond what may wait fail at once, and the others
// are answered.
func TestQueueIsBounded(t *testing.T) {
	t.Parallel()
	const lanes, waiting, more = 2, 5, 4
	h := holdUp(t, func(c *redislimiter.Config) { c.MaxWaiting = waiting; redislimiter.Lanes(c, lanes) })
	for range lanes + waiting + more {
		h.ask()
	}
	for range more {
		err := testkit.Receive(t, "a rejection", h.answers)
		if !errors.Is(err, limiter.ErrUnavailable) || !strings.Contains(err.Error(), "too many calls wait") {
			t.Errorf("got %v, want that too many wait", err)
		}
	}
	select {
	case err := <-h.answers:
		t.Errorf("answered though Redis was not: %v", err)
	default:
	}
	h.proxy.Release()
	for range lanes + waiting {
		if err := testkit.Receive(t, "an answer", h.answers); err != nil {
			t.Errorf("a call that waited: %v", err)
		}
	}
}

// TestCloseEndsWaiting: whoever waits when the Limiter is closed is told so, and
// nobody waits for ever.
func TestCloseEndsWaiting(t *testing.T) {
	t.Parallel()
	const lanes, waiting = 2, 6
	h := holdUp(t, func(c *redislimiter.Config) { c.MaxWaiting = waiting; redislimiter.Lanes(c, lanes) })
	for range lanes + waiting + 1 {
		h.ask()
	}
	// One too many is told so, which is when all others are where they wait.
	if err := testkit.Receive(t, "a rejection", h.answers); !errors.Is(err, limiter.ErrUnavailable) {
		t.Errorf("one too many: %v", err)
	}
	closed := make(chan error, 1)
	go func() { closed <- h.Close() }()
	for range waiting {
		if err := testkit.Receive(t, "the end of a wait", h.answers); !errors.Is(err, limiter.ErrClosed) {
			t.Errorf("one that waited: %v, want ErrClosed", err)
		}
	}
	h.proxy.Release()
	for range lanes { // sent already: answered, or not known
		if err := testkit.Receive(t, "the answer of one that was sent", h.answers); err != nil && !errors.Is(err, limiter.ErrUnavailable) && !errors.Is(err, limiter.ErrClosed) {
			t.Errorf("one that was sent: %v", err)
		}
	}
	if err := testkit.Receive(t, "the end of Close", closed); err != nil {
		t.Error(err)
	}
	calls := []limiter.Call{{Charges: []limiter.Charge{units(slow(5), "k", 1)}}}
	if _, err := h.Take(context.Background(), calls, limiter.StopNever); !errors.Is(err, limiter.ErrClosed) {
		t.Errorf("Take after Close: %v", err)
	}
}
