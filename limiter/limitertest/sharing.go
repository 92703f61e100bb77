package limitertest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kelpie-authz/kelpie/limiter"
)

// sharingCases are about several charges, several calls and several callers.
func sharingCases() []testCase {
	return []testCase{
		{name: "all_or_nothing", run: one(allOrNothing)},
		{name: "same_bucket_twice", run: eachKind(5, sameBucketTwice)},
		{name: "many_charges", run: one(manyCharges)},
		{name: "shadow", run: eachKind(2, shadow)},
		{name: "shadow_shares_bucket", run: eachKind(3, shadowSharesBucket)},
		{name: "stop", run: eachKind(2, stop)},
		{name: "batch_as_if_one_by_one", run: eachKind(4, batch)},
		{name: "result_buffers_are_reused", run: one(reuse)},
		{name: "stale_results_never_stand", run: one(staleResults)},
		{name: "concurrent_callers", run: concurrentCallers},
		{name: "concurrent_all_or_nothing", run: concurrentAllOrNothing},
	}
}

// allOrNothing lets each of four limits in turn be the one that lacks.
func allOrNothing(f *fixture) {
	limits := slowLimits(10)
	for lacking := range limits {
		charges := make([]limiter.Charge, len(limits))
		for i, l := range limits {
			charges[i] = of(l, fmt.Sprintf("%d/%s", lacking, l.Name), 2)
		}
		f.admitted(charges...)
		f.admitted(of(limits[lacking], string(charges[lacking].Key), 7))
		before := f.peek(charges...).Limits
		for range 10 {
			res := f.denied(charges...)
			for i, st := range res.Limits {
				if st.Lacked != (i == lacking) {
					f.Fatalf("limit %d of %+v: lacked is %v, want only %d", i, res.Limits, st.Lacked, lacking)
				}
			}
		}
		after := f.peek(charges...).Limits
		for i := range before {
			if diff := after[i].Remaining - before[i].Remaining; diff < 0 || diff > f.slack {
				f.Fatalf("denied calls changed %s by %d", limits[i].Name, diff)
			}
			if f.slack == 0 && !cmp.Equal(before[i], after[i]) {
				f.Fatalf("denied calls changed %s: %s", limits[i].Name, cmp.Diff(before[i], after[i]))
			}
		}
	}
}

func sameBucketTwice(f *fixture, l *limiter.Limit) {
	f.admitted(of(l, "k", 2), of(l, "k", 2))
	f.left(limiter.Unit, of(l, "k", 1))
	res := f.denied(of(l, "k", 1), of(l, "k", 1))
	if res.Limits[0].Lacked || !res.Limits[1].Lacked || res.Limits[1].RetryAfter <= 0 {
		f.Fatalf("two of which one fits: %+v", res.Limits)
	}
	f.left(limiter.Unit, of(l, "k", 1))
	res = f.denied(of(l, "n", 3), of(l, "n", 3))
	if res.Limits[0].Lacked || !res.Limits[1].Never || res.Limits[1].RetryAfter != 0 {
		f.Fatalf("two that are together above the limit: %+v", res.Limits)
	}
	f.left(5*limiter.Unit, of(l, "n", 1))
	res = f.admitted(of(l, "n", 2), of(l, "n", 3))
	f.left(0, of(l, "n", 1))
	f.refund(res.Receipt)
	f.left(5*limiter.Unit, of(l, "n", 1))
}

func manyCharges(f *fixture) {
	limits := slowLimits(1)
	charges := make([]limiter.Charge, limiter.MaxCharges)
	for i := range charges {
		charges[i] = of(limits[i%len(limits)], fmt.Sprintf("key %d", i), 1)
	}
	f.admitted(charges...)
	for i := range charges {
		f.denied(charges[i])
	}
	fresh := slices.Clone(charges)
	for i := range fresh[1:] {
		fresh[i+1].Key = fmt.Appendf(nil, "fresh %d", i)
	}
	f.denied(fresh...)
	f.admitted(fresh[1:]...)
}

func shadow(f *fixture, l *limiter.Limit) {
	binding := slowLimits(5)[0]
	hidden := of(l, "shadow", 1)
	hidden.Shadow = true
	for i := range 5 {
		res := f.admitted(of(binding, "binding", 1), hidden)
		st := res.Limits[1]
		if lacked := i >= 2; st.Lacked != lacked || (st.RetryAfter > 0) != lacked {
			f.Fatalf("call %d: shadow %+v, want lacked %v", i, st, lacked)
		}
		if entries := len(res.Receipt.Taken); (i < 2) != (entries == 2) {
			f.Fatalf("call %d: %d entries in the receipt", i, entries)
		}
	}
	other := hidden
	other.Key = []byte("untouched")
	res := f.denied(of(binding, "binding", 1), other)
	if res.Limits[1].Lacked {
		f.Fatalf("a shadow with room: %+v", res.Limits[1])
	}
	f.left(2*limiter.Unit, other)
}

// shadowSharesBucket: what binds is served first, wherever it stands.
func shadowSharesBucket(f *fixture, l *limiter.Limit) {
	hidden := of(l, "k", 2)
	hidden.Shadow = true
	res := f.admitted(hidden, of(l, "k", 2))
	if !res.Limits[0].Lacked || res.Limits[1].Lacked {
		f.Fatalf("states %+v, want only the shadow lacking", res.Limits)
	}
	f.left(limiter.Unit, of(l, "k", 1))
}

func stop(f *fixture, l *limiter.Limit) {
	tests := []struct {
		stop         limiter.Stop
		costs        []int64
		judged, left int64
	}{
		{limiter.StopNever, []int64{3, 1, 3, 1, 1}, 5, 0},
		{limiter.StopAtDenied, []int64{1, 3, 1}, 2, 1},
		{limiter.StopAtDenied, []int64{1, 1}, 2, 0},
		{limiter.StopAtAdmitted, []int64{3, 1, 1}, 2, 1},
		{limiter.StopAtAdmitted, []int64{3, 3}, 2, 2},
	}
	for i, tt := range tests {
		key := fmt.Sprintf("test %d", i)
		calls := make([]limiter.Call, len(tt.costs))
		for j, cost := range tt.costs {
			calls[j].Charges = []limiter.Charge{of(l, key, cost)}
		}
		n, err := f.Take(context.Background(), calls, tt.stop)
		if err != nil || int64(n) != tt.judged {
			f.Fatalf("test %d: Take = %d, %v; want %d", i, n, err, tt.judged)
		}
		for _, c := range calls[n:] {
			if c.Result.Admitted || len(c.Result.Limits) > 0 {
				f.Fatalf("test %d: a call after the trigger was judged: %+v", i, c.Result)
			}
		}
		f.left(limiter.Units(tt.left)*limiter.Unit, of(l, key, 1))
	}
}

func batch(f *fixture, l *limiter.Limit) {
	costs := []int64{2, 3, 1, 2, 1, 1}
	calls := make([]limiter.Call, len(costs))
	for i, cost := range costs {
		calls[i].Charges = []limiter.Charge{of(l, "batch", cost)}
	}
	if n, err := f.Take(context.Background(), calls, limiter.StopNever); err != nil || n != len(calls) {
		f.Fatalf("Take = %d, %v", n, err)
	}
	for i, cost := range costs {
		want := f.take(of(l, "single", cost))
		if got := calls[i].Result.Admitted; got != want.Admitted {
			f.Fatalf("call %d: admitted is %v in the batch, %v alone", i, got, want.Admitted)
		}
	}
}

func reuse(f *fixture) {
	limits := slowLimits(1)
	calls := []limiter.Call{{Charges: []limiter.Charge{of(limits[0], "a", 1), of(limits[1], "b", 1)}}}
	take := func() limiter.Result {
		if _, err := f.Take(context.Background(), calls, limiter.StopNever); err != nil {
			f.Fatalf("Take: %v", err)
		}
		return calls[0].Result
	}
	kept := take().Receipt.Clone()
	if len(kept.Taken) != 2 {
		f.Fatalf("receipt %+v, want 2 entries", kept)
	}
	if res := take(); res.Admitted || !res.Receipt.Empty() || !res.Limits[0].Lacked {
		f.Fatalf("second answer in the same buffers: %+v", res)
	}
	calls[0].Charges[0].Key[0], calls[0].Charges[1].Key[0] = 'x', 'y'
	if res := take(); !res.Admitted || res.Limits[0].Lacked || res.Limits[0].RetryAfter != 0 {
		f.Fatalf("third answer in the same buffers: %+v", res)
	}
	f.refund(kept)
	f.left(limiter.Unit, of(limits[0], "a", 1))
	f.left(limiter.Unit, of(limits[1], "b", 1))
	f.left(0, of(limits[0], "x", 1))
}

// staleResults: a call that was admitted once says so no more when it is sent
// again and not judged.
func staleResults(f *fixture) {
	l := slowLimits(5)[1]
	calls := []limiter.Call{
		{Charges: []limiter.Charge{of(l, "k", 1)}},
		{Charges: []limiter.Charge{of(l, "k", 1)}},
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	notJudged := map[string]func() int{
		"stopped": func() int {
			n, err := f.Take(context.Background(), calls, limiter.StopAtAdmitted)
			if n != 1 || err != nil {
				f.Fatalf("Take = %d, %v; want 1, nil", n, err)
			}
			return 1
		},
		"cancelled Take": func() int {
			if _, err := f.Take(ended, calls, limiter.StopNever); err == nil {
				f.Fatalf("Take with an ended context succeeded")
			}
			return 0
		},
		"cancelled Peek": func() int {
			if err := f.Peek(ended, calls); err == nil {
				f.Fatalf("Peek with an ended context succeeded")
			}
			return 0
		},
	}
	for name, again := range notJudged {
		receipts := limiter.Receipt{}
		if _, err := f.Take(context.Background(), calls, limiter.StopNever); err != nil {
			f.Fatalf("Take: %v", err)
		}
		for _, c := range calls {
			receipts.Taken = append(receipts.Taken, c.Result.Receipt.Clone().Taken...)
		}
		for i, c := range calls[again():] {
			if c.Result.Admitted || len(c.Result.Limits) > 0 || !c.Result.Receipt.Empty() {
				f.Fatalf("%s: call %d of those not judged says %+v", name, i, c.Result)
			}
		}
		f.refund(receipts)
	}
}

const callers = 64

// concurrentCallers: 64 callers want twice what one bucket has.
func concurrentCallers(t *testing.T, d Driver) {
	const each, capacity = 32, callers * 32 / 2
	for _, l := range slowLimits(capacity) {
		t.Run(l.Name, func(t *testing.T) {
			t.Parallel()
			f := setup(t, d)
			var admitted atomic.Int64
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() {
					calls := []limiter.Call{{Charges: []limiter.Charge{of(l, "hot", 1)}}}
					for range each {
						if _, err := f.Take(context.Background(), calls, limiter.StopNever); err != nil {
							t.Errorf("Take: %v", err)
							return
						}
						if calls[0].Result.Admitted {
							admitted.Add(1)
						}
					}
				})
			}
			wg.Wait()
			if got := admitted.Load(); got != capacity {
				t.Fatalf("admitted %d of %d", got, capacity)
			}
			f.denied(of(l, "hot", 1))
		})
	}
}

// concurrentAllOrNothing: callers name the same buckets in opposite orders and
// one bucket is the bottleneck. The others lose exactly what was admitted.
func concurrentAllOrNothing(t *testing.T, d Driver) {
	f := setup(t, d)
	limits := slowLimits(1000)
	bottleneck := slowLimits(300)[2]
	var admitted atomic.Int64
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			charges := []limiter.Charge{of(bottleneck, "neck", 1)}
			for _, l := range limits {
				charges = append(charges, of(l, l.Name, 1))
			}
			if i%2 == 1 {
				slices.Reverse(charges)
			}
			calls := []limiter.Call{{Charges: charges}}
			for j := range 10 {
				if _, err := f.Take(context.Background(), calls, limiter.StopNever); err != nil {
					t.Errorf("Take: %v", err)
					return
				}
				if !calls[0].Result.Admitted {
					continue
				}
				if j%5 == 4 {
					if err := f.Refund(context.Background(), &calls[0].Result.Receipt); err != nil {
						t.Errorf("Refund: %v", err)
					}
					continue
				}
				admitted.Add(1)
			}
		})
	}
	wg.Wait()
	n := admitted.Load()
	if n > 300 {
		t.Fatalf("admitted %d through a bottleneck of 300", n)
	}
	f.left(limiter.Units(300-n)*limiter.Unit, of(bottleneck, "neck", 1))
	for _, l := range limits[1:] {
		f.left(limiter.Units(1000-n)*limiter.Unit, of(l, l.Name, 1))
	}
	// Refunds of a rate that cross each other may give back less, never more.
	if got, most := f.peek(of(limits[0], limits[0].Name, 1)).Limits[0].Remaining, limiter.Units(1000-n)*limiter.Unit; got > most+f.slack {
		t.Fatalf("the rate has %d left, want at most %d", got, most)
	}
}
