package limitertest

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/kelpie-authz/kelpie/limiter"
)

// admissionCases are about one call: what it costs and what it is answered.
func admissionCases() []testCase {
	return []testCase{
		{name: "all_at_once_then_no_more", run: eachKind(5, allAtOnce)},
		{name: "cost_counts", run: eachKind(10, costCounts)},
		{name: "cost_above_capacity_never", run: eachKind(3, neverFits)},
		{name: "fractional_cost", run: eachKind(1, fractionalCost)},
		{name: "buckets_are_separate", run: eachKind(1, separateBuckets)},
		{name: "key_is_not_retained", run: eachKind(2, keyNotRetained)},
		{name: "peek_changes_nothing", run: eachKind(2, peekChangesNothing)},
		{name: "no_charges", run: one(noCharges)},
		{name: "cancelled_context", run: eachKind(2, cancelledContext)},
		{name: "invalid_charges", run: one(invalidCharges)},
		{name: "closed", run: one(closed)},
	}
}

func allAtOnce(f *fixture, l *limiter.Limit) {
	for i := int64(1); i <= 5; i++ {
		st := f.admitted(of(l, "k", 1)).Limits[0]
		if st.Lacked || st.Never || st.RetryAfter != 0 || st.Limit != 5*limiter.Unit {
			f.Fatalf("admitted state %+v", st)
		}
		if want := limiter.Units(5-i) * limiter.Unit; st.Remaining < want || st.Remaining > want+f.slack {
			f.Fatalf("after %d: %d remain, want %d", i, st.Remaining, want)
		}
		if st.Reset <= 0 {
			f.Fatalf("after %d: reset %v, want more than 0", i, st.Reset)
		}
	}
	st := f.denied(of(l, "k", 1)).Limits[0]
	if !st.Lacked || st.Never || st.RetryAfter <= 0 || st.Remaining > f.slack {
		f.Fatalf("denied state %+v", st)
	}
}

func costCounts(f *fixture, l *limiter.Limit) {
	f.admitted(of(l, "k", 7))
	f.left(3*limiter.Unit, of(l, "k", 1))
	f.denied(of(l, "k", 4))
	f.admitted(of(l, "k", 3))
	f.denied(of(l, "k", 1))
}

func neverFits(f *fixture, l *limiter.Limit) {
	costs := []limiter.Units{3*limiter.Unit + 1, 4 * limiter.Unit, 1e15, math.MaxInt64}
	for _, cost := range costs {
		st := f.denied(limiter.Charge{Limit: l, Key: []byte("k"), Cost: cost}).Limits[0]
		if !st.Lacked || !st.Never || st.RetryAfter != 0 {
			f.Fatalf("cost %d: %+v, want Lacked and Never without RetryAfter", cost, st)
		}
	}
	f.admitted(of(l, "k", 3))
	if st := f.denied(of(l, "k", 3)).Limits[0]; st.Never || st.RetryAfter <= 0 {
		f.Fatalf("a cost that fits later: %+v", st)
	}
	if st := f.denied(of(l, "k", 4)).Limits[0]; !st.Never {
		f.Fatalf("a cost that never fits, on an empty bucket: %+v", st)
	}
}

func fractionalCost(f *fixture, l *limiter.Limit) {
	const cost = 3_100 // 0.0031
	admitted := limiter.Units(0)
	for f.take(limiter.Charge{Limit: l, Key: []byte("k"), Cost: cost}).Admitted {
		admitted += cost
		if admitted > limiter.Unit+f.slack {
			f.Fatalf("admitted %d millionths of 1", admitted)
		}
	}
	// A rate rounds each increment up to a tick, which is nothing next to a day.
	if admitted != limiter.Unit/cost*cost {
		f.Fatalf("admitted %d millionths, want %d", admitted, limiter.Unit/cost*cost)
	}
}

func separateBuckets(f *fixture, l *limiter.Limit) {
	f.admitted(of(l, "a", 1))
	f.denied(of(l, "a", 1))
	f.admitted(of(l, "b", 1))
	f.admitted(of(l, "a\x00", 1))
	f.admitted(of(l, "\xff\xfe", 1))
	f.denied(of(l, "b", 1))
}

func keyNotRetained(f *fixture, l *limiter.Limit) {
	key := []byte("first")
	f.admitted(limiter.Charge{Limit: l, Key: key, Cost: limiter.Unit})
	copy(key, "other")
	f.left(2*limiter.Unit, limiter.Charge{Limit: l, Key: key, Cost: limiter.Unit})
	f.left(limiter.Unit, of(l, "first", 1))
}

func peekChangesNothing(f *fixture, l *limiter.Limit) {
	for range 5 {
		if res := f.peek(of(l, "k", 2)); !res.Admitted || res.Limits[0].Remaining != 2*limiter.Unit {
			f.Fatalf("peek at a full bucket: %+v", res)
		}
	}
	f.admitted(of(l, "k", 2))
	for range 5 {
		st := f.peek(of(l, "k", 1)).Limits[0]
		if !st.Lacked || st.RetryAfter <= 0 {
			f.Fatalf("peek at an empty bucket: %+v", st)
		}
	}
	// Each call is looked at alone: the first does not take from the second.
	calls := []limiter.Call{{Charges: []limiter.Charge{of(l, "n", 2)}}, {Charges: []limiter.Charge{of(l, "n", 2)}}}
	if err := f.Peek(context.Background(), calls); err != nil {
		f.Fatalf("Peek: %v", err)
	}
	if !calls[0].Result.Admitted || !calls[1].Result.Admitted {
		f.Fatalf("peek at two calls: %+v, %+v", calls[0].Result, calls[1].Result)
	}
}

func noCharges(f *fixture) {
	if res := f.take(); !res.Admitted || !res.Receipt.Empty() {
		f.Fatalf("a call without charges: %+v", res)
	}
	if n, err := f.Take(context.Background(), nil, limiter.StopNever); n != 0 || err != nil {
		f.Fatalf("Take without calls = %d, %v", n, err)
	}
}

func cancelledContext(f *fixture, l *limiter.Limit) {
	res := f.admitted(of(l, "k", 1))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	calls := []limiter.Call{{Charges: []limiter.Charge{of(l, "k", 1)}}}
	if n, err := f.Take(ctx, calls, limiter.StopNever); n != 0 || !errors.Is(err, context.Canceled) {
		f.Fatalf("Take = %d, %v; want 0, context.Canceled", n, err)
	}
	if err := f.Peek(ctx, calls); !errors.Is(err, context.Canceled) {
		f.Fatalf("Peek = %v, want context.Canceled", err)
	}
	receipt := res.Receipt
	if err := f.Refund(ctx, &receipt); !errors.Is(err, context.Canceled) || receipt.Empty() {
		f.Fatalf("Refund = %v with %d entries left; want context.Canceled and 1", err, len(receipt.Taken))
	}
	f.left(limiter.Unit, of(l, "k", 1))
}

func invalidCharges(f *fixture) {
	good := slowLimits(2)[0]
	tooMany := make([]limiter.Charge, limiter.MaxCharges+1)
	for i := range tooMany {
		tooMany[i] = of(good, "k", 1)
	}
	tests := map[string][]limiter.Charge{
		"no limit":         {{Key: []byte("k"), Cost: limiter.Unit}},
		"zero limit":       {of(&limiter.Limit{}, "k", 1)},
		"no key":           {of(good, "", 1)},
		"no cost":          {of(good, "k", 0)},
		"negative cost":    {of(good, "k", -1)},
		"no count":         {of(&limiter.Limit{Kind: limiter.KindWindow, Period: time.Minute}, "k", 1)},
		"no period":        {of(&limiter.Limit{Kind: limiter.KindRate, Count: 1, Burst: 1}, "k", 1)},
		"no burst":         {of(&limiter.Limit{Kind: limiter.KindRate, Count: 1, Period: time.Minute}, "k", 1)},
		"no calendar":      {of(&limiter.Limit{Kind: limiter.KindQuota, Count: 1}, "k", 1)},
		"no hold":          {of(&limiter.Limit{Kind: limiter.KindConcurrency, Count: 1}, "k", 1)},
		"too many charges": tooMany,
	}
	for name, charges := range tests {
		// A call before the bad one is not charged either.
		calls := []limiter.Call{{Charges: []limiter.Charge{of(good, "k", 1)}}, {Charges: charges}}
		n, err := f.Take(context.Background(), calls, limiter.StopNever)
		var bad *limiter.ChargeError
		if n != 0 || !errors.Is(err, limiter.ErrInvalidCharge) || !errors.As(err, &bad) || bad.Call != 1 {
			f.Fatalf("%s: Take = %d, %v; want 0 and a ChargeError of call 1", name, n, err)
		}
		if err := f.Peek(context.Background(), calls); !errors.Is(err, limiter.ErrInvalidCharge) {
			f.Fatalf("%s: Peek = %v, want ErrInvalidCharge", name, err)
		}
	}
	f.left(2*limiter.Unit, of(good, "k", 1))
}

func closed(f *fixture) {
	l := slowLimits(1)[0]
	res := f.admitted(of(l, "k", 1))
	for range 2 {
		if err := f.Close(); err != nil {
			f.Fatalf("Close: %v", err)
		}
	}
	calls := []limiter.Call{{Charges: []limiter.Charge{of(l, "k", 1)}}}
	if n, err := f.Take(context.Background(), calls, limiter.StopNever); n != 0 || !errors.Is(err, limiter.ErrClosed) {
		f.Fatalf("Take = %d, %v; want 0, ErrClosed", n, err)
	}
	if err := f.Peek(context.Background(), calls); !errors.Is(err, limiter.ErrClosed) {
		f.Fatalf("Peek = %v, want ErrClosed", err)
	}
	if err := f.Refund(context.Background(), &res.Receipt); !errors.Is(err, limiter.ErrClosed) {
		f.Fatalf("Refund = %v, want ErrClosed", err)
	}
}
