package pdp_test

import (
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/pdp"
)

const gateway = "mtls:spiffe://example.com/gateway"

type settleFixture struct {
	*fixture
	ledger *brokenLedger
	lim    *brokenLimiter
}

func newSettleFixture(t *testing.T, limits string, change ...func(*pdp.Config)) *settleFixture {
	t.Helper()
	f := &settleFixture{ledger: &brokenLedger{}, lim: &brokenLimiter{}}
	f.fixture = newFixture(t, limited(limits), append([]func(*pdp.Config){breakLimiter(f.lim), func(c *pdp.Config) {
		ledger, err := limiter.NewMemoryLedger(limiter.MemoryLedgerConfig{Clock: c.Now})
		if err != nil {
			t.Fatal(err)
		}
		f.ledger.Ledger = ledger
		c.Ledger = f.ledger
	}}, change...)...)
	return f
}

func costs(cost float64) *pdp.Request {
	return with(readNote, func(r *pdp.Request) { r.Cost, r.Gateway = cost, gateway })
}

// left is what a dry run sees left, by limit.
func (f *settleFixture) left(t *testing.T) map[string]int64 {
	t.Helper()
	out := map[string]int64{}
	for _, l := range f.ask(t, with(readNote, func(r *pdp.Request) { r.DryRun = true })).Limits {
		out[l.Name] = l.Remaining
	}
	return out
}

const settleLimits = `  calls: {quota: 100/day, per: [agent]}
  rate: {rate: 100/day, burst: 1000, per: [agent], count: cost}
  window: {window: 1000/10h, per: [agent], count: cost}
  quota: {quota: 1000/day, per: [all], count: cost}
  slots: {concurrency: 3, hold: 30m, per: [agent]}
`

func TestSettle(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		estimate, actual float64
		want             int64 // left of each limit that counts cost
	}{
		"less":               {100, 40, 960},
		"more":               {100, 250, 750},
		"nothing":            {100, 0, 1000},
		"the same":           {100, 100, 900},
		"an absent estimate": {0, 3, 997},
		"a fraction":         {100, 0.5, 999}, // 999.5, in whole units
		"more than is left":  {100, 5000, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newSettleFixture(t, settleLimits)
			dec := f.want(t, costs(tc.estimate), pdp.Allow, pdp.ReasonOK)
			f.rec.taken()
			got, err := f.svc.Settle(t.Context(), gateway, dec.ID, tc.actual)
			if err != nil {
				t.Fatal(err)
			}
			want := pdp.Settlement{Estimated: max(tc.estimate, 1), Actual: tc.actual}
			for _, limit := range []string{"quota", "rate", "window"} {
				c := pdp.LimitChange{Name: limit}
				switch diff := want.Estimated - tc.actual; {
				case diff > 0:
					c.GivenBack = diff
				case diff < 0:
					c.Charged = -diff
				default:
					continue
				}
				want.Limits = append(want.Limits, c)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			left := f.left(t)
			if diff := cmp.Diff(map[string]int64{"calls": 99, "rate": tc.want, "window": tc.want, "quota": tc.want, "slots": 2}, left); diff != "" {
				t.Errorf("left (-want +got):\n%s", diff)
			}
			records := f.rec.taken()
			change := &pdp.Change{Kind: pdp.ChangeSettled, Actual: tc.actual, Limits: want.Limits}
			if diff := cmp.Diff(change, records[0].Change); diff != "" {
				t.Errorf("record (-want +got):\n%s", diff)
			}
			if r := records[0]; r.DecisionID != dec.ID || r.Agent != "reader" || r.Gateway != gateway || !r.Time.Equal(testStart) {
				t.Errorf("record %+v", r)
			}
			// The same again changes nothing, and another cost is refused.
			want.Limits, want.Already = nil, true
			if got, err := f.svc.Settle(t.Context(), gateway, dec.ID, tc.actual); err != nil || !cmp.Equal(got, want) {
				t.Errorf("again: %+v, %v", got, err)
			}
			var settled *pdp.SettledError
			if _, err := f.svc.Settle(t.Context(), gateway, dec.ID, 77); !errors.As(err, &settled) || settled.Actual != tc.actual {
				t.Errorf("to another cost: %v", err)
			}
			if diff := cmp.Diff(left, f.left(t)); diff != "" {
				t.Errorf("settling twice changed something (-once +twice):\n%s", diff)
			}
			if n := len(f.rec.taken()); n != 1 { // the dry run
				t.Errorf("%d records of what changed nothing", n-1)
			}
		})
	}
}

// What is owed above a limit is paid off before the limit admits again.
func TestDebtIsPaidOff(t *testing.T) {
	t.Parallel()
	f := newSettleFixture(t, "  money: {window: 10/1h, per: [agent], count: cost}\n"+wide)
	dec := f.want(t, costs(5), pdp.Allow, pdp.ReasonOK)
	if _, err := f.svc.Settle(t.Context(), gateway, dec.ID, 30); err != nil {
		t.Fatal(err)
	}
	f.want(t, costs(1), pdp.Deny, pdp.ReasonRateLimited, "limits/money")
	f.clock.advance(59 * time.Minute)
	f.want(t, costs(1), pdp.Deny, pdp.ReasonRateLimited, "limits/money")
	f.clock.advance(time.Hour)
	f.want(t, costs(1), pdp.Allow, pdp.ReasonOK)
}

func TestRelease(t *testing.T) {
	t.Parallel()
	f := newSettleFixture(t, settleLimits)
	var held []string
	for range 3 {
		held = append(held, f.want(t, costs(1), pdp.Allow, pdp.ReasonOK).ID)
	}
	f.want(t, costs(1), pdp.Deny, pdp.ReasonRateLimited, "limits/slots")
	before := f.left(t)
	f.rec.taken()
	want := pdp.Settlement{Estimated: 1, Limits: []pdp.LimitChange{{Name: "slots", GivenBack: 1}}}
	if got, err := f.svc.Release(t.Context(), gateway, held[1]); err != nil || !cmp.Equal(got, want) {
		t.Fatalf("%+v, %v; want %+v", got, err, want)
	}
	records := f.rec.taken()
	if len(records) != 1 || !cmp.Equal(records[0].Change, &pdp.Change{Kind: pdp.ChangeReleased, Limits: want.Limits}) {
		t.Errorf("records %+v", records)
	}
	for range 3 {
		got, err := f.svc.Release(t.Context(), gateway, held[1])
		if err != nil || !got.Already || got.Limits != nil {
			t.Errorf("again: %+v, %v", got, err)
		}
	}
	before["slots"] = 1
	if diff := cmp.Diff(before, f.left(t)); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
	f.want(t, costs(1), pdp.Allow, pdp.ReasonOK)
	f.want(t, costs(1), pdp.Deny, pdp.ReasonRateLimited, "limits/slots")
	// A released call can still be settled, and the other way round.
	if _, err := f.svc.Settle(t.Context(), gateway, held[1], 2); err != nil {
		t.Error(err)
	}
	if _, err := f.svc.Settle(t.Context(), gateway, held[0], 2); err != nil {
		t.Error(err)
	}
	if got, err := f.svc.Release(t.Context(), gateway, held[0]); err != nil || got.Already {
		t.Errorf("%+v, %v", got, err)
	}
}

// Who did not get the decision is told the same as one who made the id up.
func TestSettleIsForTheGatewayThatAsked(t *testing.T) {
	t.Parallel()
	f := newSettleFixture(t, settleLimits)
	mine := f.want(t, costs(10), pdp.Allow, pdp.ReasonOK).ID
	unnamed := f.want(t, readNote, pdp.Allow, pdp.ReasonOK).ID
	before := f.left(t)
	for _, who := range []struct{ gateway, id string }{
		{"", mine}, {gateway + "2", mine}, {gateway, unnamed}, {gateway, "d-4711"}, {gateway, mine + "x"},
	} {
		if _, err := f.svc.Settle(t.Context(), who.gateway, who.id, 0); !errors.Is(err, pdp.ErrNotKept) {
			t.Errorf("settle %v: %v", who, err)
		}
		if _, err := f.svc.Release(t.Context(), who.gateway, who.id); !errors.Is(err, pdp.ErrNotKept) {
			t.Errorf("release %v: %v", who, err)
		}
	}
	if diff := cmp.Diff(before, f.left(t)); diff != "" {
		t.Errorf("something changed (-before +after):\n%s", diff)
	}
	if _, err := f.svc.Release(t.Context(), "", unnamed); err != nil {
		t.Errorf("a gateway without a name: %v", err)
	}
}

func TestSettleOfWhatIsMalformed(t *testing.T) {
	t.Parallel()
	f := newSettleFixture(t, settleLimits)
	id := f.want(t, costs(10), pdp.Allow, pdp.ReasonOK).ID
	for _, actual := range []float64{-1, math.Inf(1), math.Inf(-1), math.NaN(), -5e-324} {
		var invalid *pdp.InvalidError
		if _, err := f.svc.Settle(t.Context(), gateway, id, actual); !errors.As(err, &invalid) || invalid.Field != "actual" {
			t.Errorf("%v: %v", actual, err)
		}
	}
	for _, id := range []string{"", string(make([]byte, 257))} {
		var invalid *pdp.InvalidError
		if _, err := f.svc.Settle(t.Context(), gateway, id, 1); !errors.As(err, &invalid) || invalid.Field != "decision_id" {
			t.Errorf("%q: %v", id, err)
		}
		if _, err := f.svc.Release(t.Context(), gateway, id); !errors.As(err, &invalid) || invalid.Field != "decision_id" {
			t.Errorf("%q: %v", id, err)
		}
	}
	if _, err := f.svc.Settle(t.Context(), gateway, id, math.MaxFloat64); err != nil {
		t.Errorf("the largest cost there is: %v", err)
	}
	if got := f.left(t)["window"]; got != 0 {
		t.Errorf("%d left", got)
	}
}

// What is marked as done is not begun again when the limiter fails on it.
func TestLimiterFailsOnSettle(t *testing.T) {
	t.Parallel()
	f := newSettleFixture(t, settleLimits, func(c *pdp.Config) {
		c.Limiter = failingRefunds{c.Limiter}
	})
	dec := f.want(t, costs(10), pdp.Allow, pdp.ReasonOK)
	f.rec.taken()
	if _, err := f.svc.Settle(t.Context(), gateway, dec.ID, 5); !errors.Is(err, errDown) {
		t.Errorf("settle: %v", err)
	}
	if _, err := f.svc.Release(t.Context(), gateway, dec.ID); !errors.Is(err, errDown) {
		t.Errorf("release: %v", err)
	}
	records := f.rec.taken()
	if len(records) != 2 || !records[0].Change.Failed || !records[1].Change.Failed || records[0].Change.Cause != errDown.Error() || records[1].Change.Cause != errDown.Error() {
		t.Errorf("records %+v", records)
	}
	if got, err := f.svc.Settle(t.Context(), gateway, dec.ID, 5); err != nil || !got.Already {
		t.Errorf("again: %+v, %v", got, err)
	}
	if got := f.left(t); got["quota"] != 990 || got["slots"] != 2 {
		t.Errorf("left %v, want what was estimated", got)
	}
}

type failingRefunds struct{ limiter.Limiter }

func (failingRefunds) Refund(context.Context, *limiter.Receipt) error { return errDown }

func TestSettleThatCannotBeRecorded(t *testing.T) {
	t.Parallel()
	f := newSettleFixture(t, settleLimits)
	dec := f.want(t, costs(10), pdp.Allow, pdp.ReasonOK)
	f.rec.fail = func(r *pdp.Record) error {
		if r.Change != nil {
			return errDown
		}
		return nil
	}
	if _, err := f.svc.Settle(t.Context(), gateway, dec.ID, 5); !errors.Is(err, errDown) {
		t.Error(err)
	}
	if got := f.left(t)["quota"]; got != 995 {
		t.Errorf("%d left, want 995", got)
	}
}

// Of any number of gateways' retries at once exactly one gives back.
func TestConcurrentSettle(t *testing.T) {
	t.Parallel()
	f := newSettleFixture(t, settleLimits)
	dec := f.want(t, costs(100), pdp.Allow, pdp.ReasonOK)
	const callers = 32
	var group sync.WaitGroup
	var done, refused [callers]bool
	for i := range callers {
		group.Go(func() {
			got, err := f.svc.Settle(t.Context(), gateway, dec.ID, float64(10+i%2))
			var settled *pdp.SettledError
			done[i], refused[i] = err == nil && !got.Already, errors.As(err, &settled)
			if _, err := f.svc.Release(t.Context(), gateway, dec.ID); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	count := func(list []bool) int {
		return len(slices.DeleteFunc(slices.Clone(list), func(b bool) bool { return !b }))
	}
	if n, no := count(done[:]), count(refused[:]); n != 1 || no != callers/2 {
		t.Errorf("%d settled and %d were refused, want 1 and %d", n, no, callers/2)
	}
	if got := f.left(t); (got["quota"] != 990 && got["quota"] != 989) || got["slots"] != 3 {
		t.Errorf("left %v", got)
	}
}
