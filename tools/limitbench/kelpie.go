package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/limiter/redislimiter"
)

// driver is one way to use Kelpie's driver.
type driver struct {
	// three adds a limit per minute and a quota per day to the one per hour.
	three bool
	// uncoalesced sends a command for each call, forgetful asks again what was
	// denied just now, leased takes units ahead.
	uncoalesced, forgetful, leased bool
}

func (d driver) limits(b bounds) []*limiter.Limit {
	count, burst := b.hourly()
	limits := []*limiter.Limit{{
		Name: "limits/hourly", Kind: limiter.KindRate, Count: int64(count), Burst: int64(burst), Period: time.Hour,
	}}
	if d.three {
		limits = append(limits,
			&limiter.Limit{Name: "limits/minute", Kind: limiter.KindRate, Count: 60_000, Burst: 100_000_000, Period: time.Minute},
			&limiter.Limit{Name: "limits/day", Kind: limiter.KindQuota, Count: limiter.MaxCount, Calendar: limiter.CalendarDay})
	}
	if d.leased {
		for _, l := range limits {
			l.Lease = 100 * time.Millisecond
		}
	}
	return limits
}

func (d driver) open(ctx context.Context, j *job) (opened, error) {
	lim, err := redislimiter.New(ctx, redislimiter.Config{
		Options:      redislimiter.Options{URL: "redis://" + j.Redis},
		NoCoalescing: d.uncoalesced, NoDenyCache: d.forgetful,
	})
	if err != nil {
		return opened{}, err
	}
	limits := d.limits(j.Bounds)
	caller := func() ask {
		calls := []limiter.Call{{Charges: make([]limiter.Charge, len(limits))}}
		keys := make([][]byte, len(limits))
		return func(ctx context.Context, key int) (bool, error) {
			for i, l := range limits {
				c := &calls[0].Charges[i]
				*c = limiter.Charge{Limit: l, Cost: limiter.Unit}
				keys[i], c.Slot, c.Home = appendKey(keys[i][:0], key, l)
				c.Key = keys[i]
			}
			if _, err := lim.Take(ctx, calls, limiter.StopNever); err != nil {
				return false, fmt.Errorf("take: %w", err)
			}
			return calls[0].Result.Admitted, nil
		}
	}
	return opened{caller: caller, close: func() { _ = lim.Close() }}, nil // The measurement is over.
}

// appendKey appends the key of a bucket as policy makes it: a slot for the
// agent, a home for the dimensions, and the limit.
func appendKey(dst []byte, key int, l *limiter.Limit) (full []byte, slot, home int) {
	var agent [32]byte
	name := appendAgent(agent[:0], key)
	dst = strconv.AppendInt(append(dst, 'a'), int64(len(name)), 10)
	dst = append(append(dst, ':'), name...)
	slot = len(dst)
	dst = append(dst, "0:"...)
	home = len(dst)
	dst = strconv.AppendInt(dst, int64(len(l.Name)), 10)
	return append(append(dst, ':'), l.Name...), slot, home
}
