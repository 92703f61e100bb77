package redislimiter

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/internal/testkit"
	"github.com/kelpie-authz/kelpie/limiter"
)

// A call that cannot be judged, as its value is not of this release, fails by
// itself: those that went along with it are judged, and charged once.
func TestWhoGoesAlongIsJudged(t *testing.T) {
	t.Parallel()
	r := testkit.StartRedis(t, testkit.RedisConfig{})
	var told atomic.Int64
	l, err := New(t.Context(), Config{
		Options: Options{URL: r.URL(), Timeout: 10 * time.Second}, lanes: 1,
		Refused: func(err error) {
			if strings.Contains(err.Error(), "later version") {
				told.Add(1)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	limit := &limiter.Limit{Name: "quota", Kind: limiter.KindQuota, Count: 1_000_000, Calendar: limiter.CalendarMonth}
	of := func(agent string) limiter.Charge {
		return limiter.Charge{Limit: limit, Key: []byte(agent + "/quota"), Home: len(agent), Slot: len(agent), Cost: limiter.Unit}
	}
	r.Do(t, "set", string(appendHome(nil, l.prefix, []byte("bad/quota"), 3, 3)), "\x02\x01xyz")
	const callers, each = 8, 200
	var wg sync.WaitGroup
	var bad, good atomic.Int64
	for i := range callers {
		agent := fmt.Sprint("good", i)
		if i%2 == 0 {
			agent = "bad"
		}
		wg.Go(func() {
			for range each {
				calls := []limiter.Call{{Charges: []limiter.Charge{of(agent)}}}
				_, err := l.Take(context.Background(), calls, limiter.StopNever)
				switch {
				case agent == "bad" && errors.Is(err, limiter.ErrUnavailable):
					bad.Add(1)
				case agent != "bad" && err == nil && calls[0].Result.Admitted:
					good.Add(1)
				default:
					t.Errorf("%s: admitted %v, %v", agent, calls[0].Result.Admitted, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if bad.Load() != callers/2*each || good.Load() != callers/2*each {
		t.Errorf("%d bad and %d good calls, want %d each", bad.Load(), good.Load(), callers/2*each)
	}
	if told.Load() == 0 {
		t.Error("nobody was told")
	}
	for i := 1; i < callers; i += 2 {
		calls := []limiter.Call{{Charges: []limiter.Charge{of(fmt.Sprint("good", i))}}}
		if err := l.Peek(t.Context(), calls); err != nil {
			t.Fatal(err)
		}
		if got := calls[0].Result.Limits[0].Remaining; got != (1_000_000-each)*limiter.Unit {
			t.Errorf("%d left of good%d, want each call charged once", got, i)
		}
	}
}
