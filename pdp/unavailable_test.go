package pdp_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/pdp"
)

// outage is a service whose store is gone for the charges that down names,
// with a Fallback and a number of replicas.
type outage struct {
	*fixture
	broken   *brokenLimiter
	fallback *limiter.Memory
	replicas atomic.Int64
	down     func(limiter.Charge) bool
	asked    atomic.Int64
}

func newOutage(t *testing.T, limits string, replicas int64) *outage {
	t.Helper()
	o := &outage{broken: &brokenLimiter{}, down: func(limiter.Charge) bool { return true }}
	o.replicas.Store(replicas)
	o.broken.broken = func(calls []limiter.Call) error {
		o.asked.Add(1)
		for _, c := range calls {
			if slices.ContainsFunc(c.Charges, o.down) {
				return fmt.Errorf("%w: connection refused", limiter.ErrUnavailable)
			}
		}
		return nil
	}
	o.fixture = newFixture(t, limited(limits), breakLimiter(o.broken), func(c *pdp.Config) {
		fallback, err := limiter.NewMemory(limiter.MemoryConfig{Clock: c.Now})
		if err != nil {
			t.Fatal(err)
		}
		o.fallback = fallback
		c.Fallback = fallback
		c.Replicas = func() int { return int(o.replicas.Load()) }
	})
	return o
}

func limitNamed(name string) func(limiter.Charge) bool {
	return func(c limiter.Charge) bool { return c.Limit.Name == name }
}

// admits asks until it is refused, and returns how often it was not.
func (o *outage) admits(t *testing.T, reason pdp.Reason) int {
	t.Helper()
	for n := range 1000 {
		if dec := o.ask(t, readNote); dec.Verdict != pdp.Allow {
			if dec.Reason != reason {
				t.Errorf("refused with %s (%s), want %s", dec.Reason, dec.Message, reason)
			}
			return n
		}
	}
	t.Fatal("never refused")
	return 0
}

func TestSharesOfAnOutage(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		limit    string
		replicas int64
		admits   int
		reason   pdp.Reason
	}{
		{"{rate: 60/minute, burst: 10, per: [agent], on_unavailable: local_share}", 1, 10, pdp.ReasonRateLimited},
		{"{rate: 60/minute, burst: 10, per: [agent], on_unavailable: local_share}", 3, 3, pdp.ReasonRateLimited},
		{"{rate: 60/minute, burst: 10, per: [agent], on_unavailable: local_share}", 11, 0, pdp.ReasonDependencyUnavailable},
		{"{rate: 3/day, burst: 10, per: [agent], on_unavailable: local_share}", 4, 0, pdp.ReasonDependencyUnavailable},
		{"{rate: 60/minute, burst: 10, per: [agent], on_unavailable: local_share}", -2, 10, pdp.ReasonRateLimited},
		{"{window: 9/1h, per: [agent], on_unavailable: local_share}", 4, 2, pdp.ReasonRateLimited},
		{"{quota: 9/day, per: [agent], on_unavailable: local_share}", 2, 4, pdp.ReasonQuotaExhausted},
		{"{concurrency: 5, per: [agent], on_unavailable: local_share}", 2, 2, pdp.ReasonRateLimited},
		{"{rate: 60/minute, burst: 10, per: [agent], on_unavailable: allow}", 7, 10, pdp.ReasonRateLimited},
		{"{quota: 9/day, per: [all], on_unavailable: allow}", 7, 9, pdp.ReasonQuotaExhausted},
		{"{quota: 9/day, per: [agent], on_unavailable: deny}", 1, 0, pdp.ReasonDependencyUnavailable},
	} {
		t.Run(fmt.Sprintf("%s of %d", tc.limit, tc.replicas), func(t *testing.T) {
			t.Parallel()
			o := newOutage(t, "  l: "+tc.limit+"\n"+wide, tc.replicas)
			if got := o.admits(t, tc.reason); got != tc.admits {
				t.Errorf("admits %d, want %d", got, tc.admits)
			}
		})
	}
}

// wide keeps builtin/default out of the way.
const wide = "  wide: {rate: 600/minute, per: [agent], on_unavailable: allow}\n"

// Rounding down can make a burst too long in coming back to be a limit at all;
// the share then has a smaller burst, and is not none.
func TestShareOfALongBurst(t *testing.T) {
	t.Parallel()
	o := newOutage(t, "  l: {rate: 3/day, burst: 1000, per: [agent], on_unavailable: local_share}\n"+wide, 2)
	if got := o.admits(t, pdp.ReasonRateLimited); got != 333 {
		t.Errorf("admits %d, want 333: a third of the count, so a third of the burst", got)
	}
}

// A cost that the whole limit may give and the share cannot is not at fault:
// the limit cannot be asked, and can again some day.
func TestCostAboveTheShare(t *testing.T) {
	t.Parallel()
	o := newOutage(t, "  money: {quota: 10/day, per: [agent], count: cost, on_unavailable: local_share}\n"+wide, 2)
	costing := func(cost float64) *pdp.Request { return with(readNote, func(r *pdp.Request) { r.Cost = cost }) }
	o.want(t, costing(6), pdp.Deny, pdp.ReasonDependencyUnavailable, "limits/money")
	o.want(t, costing(11), pdp.Deny, pdp.ReasonCostExceedsLimit, "limits/money")
	if dec := o.ask(t, costing(5)); dec.Verdict != pdp.Allow {
		t.Errorf("a cost of the whole share: %v %s", dec.Verdict, dec.Reason)
	}
}

func TestReplicasComeAndGo(t *testing.T) {
	t.Parallel()
	o := newOutage(t, "  l: {quota: 12/day, per: [agent], on_unavailable: local_share}\n"+wide, 4)
	for _, step := range []struct{ replicas, admits int }{{4, 3}, {3, 1}, {2, 2}, {6, 0}, {1, 6}} {
		o.replicas.Store(int64(step.replicas))
		if got := o.admits(t, pdp.ReasonQuotaExhausted); got != step.admits {
			t.Errorf("%d replicas: admits %d more, want %d", step.replicas, got, step.admits)
		}
	}
}

func TestAnswerTellsOfTheOutage(t *testing.T) {
	t.Parallel()
	o := newOutage(t, "  a: {rate: 60/minute, burst: 2, per: [agent], on_unavailable: local_share}\n"+
		"  b: {rate: 60/minute, burst: 4, per: [all], on_unavailable: allow}\n  c: {quota: 1/day, per: [agent], shadow: true}\n", 2)
	want := func(dec pdp.Decision, warnings []string, limits []pdp.LimitStatus) {
		t.Helper()
		if diff := cmp.Diff(warnings, dec.Warnings); diff != "" {
			t.Errorf("warnings (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(limits, dec.Limits); diff != "" {
			t.Errorf("limits (-want +got):\n%s", diff)
		}
	}
	alone := []string{"the limits a, b were judged by this replica alone, because their store could not be asked"}
	dec := o.want(t, readNote, pdp.Allow, pdp.ReasonOK)
	want(dec, alone, []pdp.LimitStatus{
		{Name: "a", Limit: 1, Remaining: 0, Reset: 2 * time.Second},
		{Name: "b", Limit: 4, Remaining: 3, Reset: time.Second},
	})
	dec = o.want(t, readNote, pdp.Deny, pdp.ReasonRateLimited, "limits/a")
	if dec.RetryAfter != 2*time.Second {
		t.Errorf("retry after %v, want 2s, as the share has it", dec.RetryAfter)
	}
	o.down = func(limiter.Charge) bool { return false }
	want(o.want(t, readNote, pdp.Allow, pdp.ReasonOK), nil, []pdp.LimitStatus{
		{Name: "a", Limit: 2, Remaining: 1, Reset: time.Second},
		{Name: "b", Limit: 4, Remaining: 3, Reset: time.Second},
	})
	var outages []pdp.Outage
	for _, rec := range o.rec.taken() {
		outages = append(outages, rec.Outage)
	}
	if diff := cmp.Diff([]pdp.Outage{pdp.OutageAlone, pdp.OutageAlone, pdp.OutageNone}, outages); diff != "" {
		t.Errorf("outages of the records (-want +got):\n%s", diff)
	}
}

func TestOutageWithoutFallback(t *testing.T) {
	t.Parallel()
	for limits, want := range map[string]pdp.Outage{
		"  a: {rate: 60/minute, per: [agent], on_unavailable: allow}\n":       pdp.OutageLeftOut,
		"  a: {rate: 60/minute, per: [agent], on_unavailable: local_share}\n": pdp.OutageDenied,
	} {
		broken := &brokenLimiter{broken: func([]limiter.Call) error { return limiter.ErrUnavailable }}
		f := newFixture(t, limited(limits), breakLimiter(broken))
		f.ask(t, readNote)
		if rec := f.rec.taken(); len(rec) != 1 || rec[0].Outage != want {
			t.Errorf("%s: records %+v, want one with %v", limits, rec, want)
		}
	}
}

// A limit that denies does so at once, and what was set aside for the Fallback
// stays unspent.
func TestDenyBesideOthers(t *testing.T) {
	t.Parallel()
	o := newOutage(t, "  hard: {rate: 60/minute, per: [agent]}\n  soft: {quota: 3/day, per: [agent], on_unavailable: allow}\n", 1)
	for range 5 {
		dec := o.want(t, readNote, pdp.Deny, pdp.ReasonDependencyUnavailable, "limits/hard")
		if dec.Next != pdp.NextRetry || dec.RetryAfter <= 0 {
			t.Errorf("next %v after %v, want to be told to come back", dec.Next, dec.RetryAfter)
		}
	}
	if n := o.asked.Load(); n != 5 {
		t.Errorf("the store was asked %d times for 5 calls: what may have been charged was sent again", n)
	}
	if n := o.fallback.Len(); n != 0 {
		t.Errorf("the denied calls left %d buckets", n)
	}
}

// In a cluster one node can be gone: limits that are kept elsewhere are still
// asked, and all or nothing holds over both.
func TestOneNodeIsGone(t *testing.T) {
	t.Parallel()
	o := newOutage(t, "  hard: {quota: 3/day, per: [agent]}\n  soft: {quota: 5/day, per: [all], on_unavailable: local_share}\n"+
		"  shaded: {quota: 1/day, per: [all], shadow: true}\n", 1)
	o.down = func(c limiter.Charge) bool { return c.Slot == 0 }
	for i := range 3 {
		dec := o.want(t, readNote, pdp.Allow, pdp.ReasonOK)
		if diff := cmp.Diff([]string{"hard", "soft"}, []string{dec.Limits[0].Name, dec.Limits[1].Name}); diff != "" {
			t.Errorf("limits (-want +got):\n%s", diff)
		}
		if got, want := [2]int64{dec.Limits[0].Remaining, dec.Limits[1].Remaining}, [2]int64{int64(2 - i), int64(4 - i)}; got != want {
			t.Errorf("call %d leaves %v, want %v", i, got, want)
		}
	}
	// hard is used up; soft gets back what it was charged.
	for range 4 {
		o.want(t, readNote, pdp.Deny, pdp.ReasonQuotaExhausted, "limits/hard")
	}
	for range 2 {
		o.want(t, call("roamer", "read", "notes/1"), pdp.Allow, pdp.ReasonOK)
	}
	// soft is used up; hard has still one for the roamer.
	for range 4 {
		o.want(t, call("roamer", "read", "notes/1"), pdp.Deny, pdp.ReasonQuotaExhausted, "limits/soft")
	}
	o.clock.advance(24 * time.Hour)
	o.down = limitNamed("shaded")
	dec := o.want(t, call("cleaner", "read", "notes/1"), pdp.Allow, pdp.ReasonOK)
	if len(dec.Limits) == 0 || dec.Limits[0].Remaining != 2 {
		t.Errorf("limits %+v: a limit in shadow that cannot be asked changed the call", dec.Limits)
	}
}

func TestOutageOfABatch(t *testing.T) {
	t.Parallel()
	reqs := make([]pdp.Request, 7)
	for i := range reqs {
		reqs[i] = *readNote
	}
	for sem, want := range map[pdp.Semantic][]string{
		pdp.ExecuteAll:          {"ok", "ok", "ok", "ok", "quota_exhausted", "quota_exhausted", "quota_exhausted"},
		pdp.DenyOnFirstDeny:     {"ok", "ok", "ok", "ok", "quota_exhausted"},
		pdp.PermitOnFirstPermit: {"ok"},
	} {
		o := newOutage(t, "  l: {quota: 8/day, per: [agent], on_unavailable: local_share}\n"+wide, 2)
		decs, err := o.svc.Batch(t.Context(), reqs, sem, nil)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for i := range decs {
			got = append(got, string(decs[i].Reason))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("semantic %d (-want +got):\n%s", sem, diff)
		}
		if n := o.asked.Load(); n != 1 {
			t.Errorf("semantic %d: the store was asked %d times, want once for the batch", sem, n)
		}
	}
}

// Items that the store came to before it was lost are judged by it.
func TestOutageInTheMiddleOfABatch(t *testing.T) {
	t.Parallel()
	o := newOutage(t, "  l: {quota: 8/day, per: [agent], on_unavailable: local_share}\n"+wide, 2)
	o.down = func(limiter.Charge) bool { return false }
	o.broken.Limiter = halfway{Limiter: o.broken.Limiter, after: 3}
	reqs := make([]pdp.Request, 7)
	for i := range reqs {
		reqs[i] = *readNote
	}
	decs, err := o.svc.Batch(t.Context(), reqs, pdp.ExecuteAll, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range decs {
		wantDecision(t, &decs[i], pdp.Allow, pdp.ReasonOK)
		if alone := len(decs[i].Warnings) > 0; alone != (i >= 3) {
			t.Errorf("item %d: warnings %q", i, decs[i].Warnings)
		}
	}
}

// halfway loses its store behind the first calls of a Take.
type halfway struct {
	limiter.Limiter
	after int
}

func (h halfway) Take(ctx context.Context, calls []limiter.Call, stop limiter.Stop) (int, error) {
	n, err := h.Limiter.Take(ctx, calls[:h.after], stop)
	for i := h.after; i < len(calls); i++ {
		calls[i].Result.Reset()
	}
	if err == nil {
		err = limiter.ErrUnavailable
	}
	return n, err
}

func TestDryRunOfAnOutageSpendsNothing(t *testing.T) {
	t.Parallel()
	o := newOutage(t, "  l: {quota: 4/day, per: [agent], on_unavailable: local_share}\n"+wide, 2)
	for range 9 {
		dec := o.ask(t, with(readNote, func(r *pdp.Request) { r.DryRun = true }))
		if dec.WouldBe != pdp.Allow || len(dec.Warnings) != 1 || dec.Limits[0].Remaining != 2 {
			t.Errorf("would be %v, warnings %q, limits %+v", dec.WouldBe, dec.Warnings, dec.Limits)
		}
		out := explain(t, o.fixture, readNote)
		if c := checkNamed(t, &out, "limits"); c.Outcome != pdp.CheckPass || !strings.Contains(c.Detail, "l: 2 of 2 left") {
			t.Errorf("explained as %+v", c)
		}
	}
	if got := o.admits(t, pdp.ReasonQuotaExhausted); got != 2 {
		t.Errorf("admits %d, want 2", got)
	}
}

// What a call was charged alone goes back like any other charge.
func TestRefundOfAnOutage(t *testing.T) {
	t.Parallel()
	o := newOutage(t, "  l: {quota: 4/day, per: [agent], on_unavailable: local_share}\n"+wide, 2)
	o.rec.err = errDown
	for range 5 {
		o.want(t, readNote, pdp.Deny, pdp.ReasonAuditUnavailable)
	}
	o.rec.mu.Lock()
	o.rec.err = nil
	o.rec.mu.Unlock()
	if got := o.admits(t, pdp.ReasonQuotaExhausted); got != 2 {
		t.Errorf("admits %d, want 2: the unrecorded calls stayed charged", got)
	}
}

// A Fallback that fails itself leaves nothing to stand in.
func TestFallbackFails(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]error{"full": limiter.ErrFull, "panics": nil} {
		o := newOutage(t, "  l: {quota: 4/day, per: [agent], on_unavailable: allow}\n", 1)
		f := newFixture(t, limited("  l: {quota: 4/day, per: [agent], on_unavailable: allow}\n"), breakLimiter(o.broken), func(c *pdp.Config) {
			c.Fallback = &brokenLimiter{Limiter: o.fallback, broken: func([]limiter.Call) error {
				if fail == nil {
					panic("boom")
				}
				return fail
			}}
		})
		reason := pdp.ReasonDependencyUnavailable
		if fail == nil {
			reason = pdp.ReasonInternalError
		}
		if dec := f.want(t, readNote, pdp.Deny, reason); fail != nil && !cmp.Equal(dec.Matched, []string{"limits/l"}) {
			t.Errorf("%s: matched %v", name, dec.Matched)
		}
	}
}
