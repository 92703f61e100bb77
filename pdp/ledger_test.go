package pdp_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/pdp"
)

// brokenLedger fails in front of a real one.
type brokenLedger struct {
	limiter.Ledger
	keep, look, mark func() error
	keeps            int
}

func fails(f func() error) error {
	if f == nil {
		return nil
	}
	return f()
}

func (l *brokenLedger) Keep(ctx context.Context, id string, record []byte, ttl time.Duration) error {
	l.keeps++
	if err := fails(l.keep); err != nil {
		return err
	}
	return l.Ledger.Keep(ctx, id, record, ttl)
}

func (l *brokenLedger) Look(ctx context.Context, id string) ([]byte, error) {
	if err := fails(l.look); err != nil {
		return nil, err
	}
	return l.Ledger.Look(ctx, id)
}

func (l *brokenLedger) Mark(ctx context.Context, id, mark string, value []byte) ([]byte, error) {
	if err := fails(l.mark); err != nil {
		return nil, err
	}
	return l.Ledger.Mark(ctx, id, mark, value)
}

// Nothing is kept of what charges nothing of the kind, or does not charge at all.
func TestWhatIsKept(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		limits  string
		request *pdp.Request
		keeps   int
		settle  error
		release error
	}{
		"neither":        {"  calls: {quota: 100/day, per: [agent]}\n", readNote, 0, pdp.ErrNotKept, pdp.ErrNotKept},
		"a cost":         {"  a: {quota: 100/day, per: [agent], count: cost}\n", readNote, 1, nil, pdp.ErrNotKept},
		"a shadow cost":  {"  calls: {quota: 100/day, per: [agent]}\n  a: {quota: 100/day, per: [agent], count: cost, shadow: true}\n", readNote, 1, nil, pdp.ErrNotKept},
		"a slot":         {"  a: {concurrency: 1, per: [agent]}\n", readNote, 1, pdp.ErrNotKept, nil},
		"slots by cost":  {"  a: {concurrency: 9, per: [agent], count: cost}\n", readNote, 1, pdp.ErrNotKept, nil},
		"a dry run":      {settleLimits, with(readNote, func(r *pdp.Request) { r.DryRun = true }), 0, pdp.ErrNotKept, pdp.ErrNotKept},
		"a denied call":  {"  a: {concurrency: 1, per: [agent]}\n", with(readNote, func(r *pdp.Request) { r.Resource = "vault/1" }), 0, pdp.ErrNotKept, pdp.ErrNotKept},
		"a refused call": {"  a: {quota: 1/day, per: [agent], count: cost}\n", costs(2), 0, pdp.ErrNotKept, pdp.ErrNotKept},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newSettleFixture(t, tc.limits)
			dec := f.ask(t, tc.request)
			if f.ledger.keeps != tc.keeps || len(dec.Warnings) != 0 {
				t.Errorf("kept %d times, want %d; warnings %q", f.ledger.keeps, tc.keeps, dec.Warnings)
			}
			if _, err := f.svc.Settle(t.Context(), tc.request.Gateway, dec.ID, 1); !errors.Is(err, tc.settle) {
				t.Errorf("settle: %v, want %v", err, tc.settle)
			}
			if _, err := f.svc.Release(t.Context(), tc.request.Gateway, dec.ID); !errors.Is(err, tc.release) {
				t.Errorf("release: %v, want %v", err, tc.release)
			}
		})
	}
}

// A call that could not be recorded got everything back; there must be nothing
// left of it to give back once more.
func TestUnrecordedCallIsNotKept(t *testing.T) {
	t.Parallel()
	f := newSettleFixture(t, settleLimits)
	f.rec.err = errDown
	f.want(t, costs(10), pdp.Deny, pdp.ReasonAuditUnavailable)
	if f.ledger.keeps != 0 {
		t.Errorf("kept %d times", f.ledger.keeps)
	}
}

func TestLedgerThatFails(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func() error{
		"down":   func() error { return limiter.ErrUnavailable },
		"full":   func() error { return limiter.ErrLedgerFull },
		"panics": func() error { panic("boom") },
	} {
		f := newSettleFixture(t, settleLimits)
		f.ledger.keep = fail
		dec := f.want(t, costs(10), pdp.Allow, pdp.ReasonOK)
		if len(dec.Warnings) != 1 {
			t.Errorf("%s: warnings %q, want one", name, dec.Warnings)
		}
		if _, err := f.svc.Settle(t.Context(), gateway, dec.ID, 5); !errors.Is(err, pdp.ErrNotKept) {
			t.Errorf("%s: %v", name, err)
		}
	}
	f := newSettleFixture(t, settleLimits)
	dec := f.want(t, costs(10), pdp.Allow, pdp.ReasonOK)
	f.ledger.look = func() error { return errDown }
	if _, err := f.svc.Settle(t.Context(), gateway, dec.ID, 5); !errors.Is(err, errDown) {
		t.Errorf("look: %v", err)
	}
	f.ledger.look, f.ledger.mark = nil, func() error { return errDown }
	if _, err := f.svc.Settle(t.Context(), gateway, dec.ID, 5); !errors.Is(err, errDown) {
		t.Errorf("mark: %v", err)
	}
	if got := f.left(t)["quota"]; got != 990 {
		t.Errorf("%d left after a mark that failed, want what was estimated", got)
	}
	f.ledger.mark = nil
	if _, err := f.svc.Settle(t.Context(), gateway, dec.ID, 5); err != nil {
		t.Error(err)
	}
}

// A batch asks a ledger that does not answer once, and warns of every item.
func TestLedgerIsDownInABatch(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		fail  error
		keeps int
	}{"down": {limiter.ErrUnavailable, 1}, "full": {limiter.ErrLedgerFull, 3}} {
		f := newSettleFixture(t, "  a: {quota: 100/day, per: [agent], count: cost}\n")
		f.ledger.keep = func() error { return tc.fail }
		reqs := []pdp.Request{*costs(1), *costs(2), *costs(3)}
		decs, err := f.svc.Batch(t.Context(), reqs, pdp.ExecuteAll, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := range decs {
			if decs[i].Verdict != pdp.Allow || len(decs[i].Warnings) != 1 {
				t.Errorf("%s: item %d: %v, warnings %q", name, i, decs[i].Verdict, decs[i].Warnings)
			}
		}
		if f.ledger.keeps != tc.keeps {
			t.Errorf("%s: asked %d times, want %d", name, f.ledger.keeps, tc.keeps)
		}
		f.ledger.keep = nil
		decs, err = f.svc.Batch(t.Context(), reqs, pdp.ExecuteAll, decs)
		if err != nil {
			t.Fatal(err)
		}
		for i := range decs {
			if got, err := f.svc.Settle(t.Context(), gateway, decs[i].ID, 0); err != nil || got.Estimated != float64(i+1) {
				t.Errorf("%s: item %d: %+v, %v", name, i, got, err)
			}
		}
	}
}

// What is known to this replica alone cannot be settled, and the answer says so.
func TestWhatIsChargedAloneCannotBeSettled(t *testing.T) {
	t.Parallel()
	f := newSettleFixture(t, "  a: {quota: 100/day, per: [agent], count: cost, on_unavailable: allow}\n", func(c *pdp.Config) {
		fallback, err := limiter.NewMemory(limiter.MemoryConfig{Clock: c.Now})
		if err != nil {
			t.Fatal(err)
		}
		c.Fallback = fallback
	})
	f.lim.broken = func([]limiter.Call) error { return limiter.ErrUnavailable }
	dec := f.want(t, costs(10), pdp.Allow, pdp.ReasonOK)
	if len(dec.Warnings) != 2 || f.ledger.keeps != 0 {
		t.Errorf("warnings %q, kept %d times", dec.Warnings, f.ledger.keeps)
	}
	if _, err := f.svc.Settle(t.Context(), gateway, dec.ID, 5); !errors.Is(err, pdp.ErrNotKept) {
		t.Error(err)
	}
}

func TestKeptForAsLongAsItMakesSense(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		limit           string
		settle, release time.Duration
	}{
		{"{rate: 60/minute, per: [agent], count: cost}", time.Hour, 0},
		{"{rate: 1/hour, burst: 5, per: [agent], count: cost}", 5 * time.Hour, 0},
		{"{rate: 1/day, burst: 300, per: [agent], count: cost}", 24 * time.Hour, 0},
		{"{window: 9/3h, per: [agent], count: cost}", 3 * time.Hour, 0},
		{"{quota: 9/minute, per: [agent], count: cost}", time.Hour, 0},
		{"{quota: 9/month, per: [agent], count: cost}", 24 * time.Hour, 0},
		{"{concurrency: 9, hold: 90s, per: [agent]}", 0, 90 * time.Second},
		{"{concurrency: 9, hold: 40h, per: [agent]}", 0, 40 * time.Hour},
	} {
		f := newSettleFixture(t, "  a: "+tc.limit+"\n")
		for _, step := range []struct {
			after time.Duration
			kept  bool
		}{{-time.Millisecond, true}, {0, false}} {
			dec := f.want(t, costs(1), pdp.Allow, pdp.ReasonOK)
			f.clock.advance(max(tc.settle, tc.release) + step.after)
			_, err := f.svc.Settle(t.Context(), gateway, dec.ID, 1)
			if tc.release > 0 {
				_, err = f.svc.Release(t.Context(), gateway, dec.ID)
			}
			if (err == nil) != step.kept || (err != nil && !errors.Is(err, pdp.ErrNotKept)) {
				t.Errorf("%s: %v before its end: %v", tc.limit, -step.after, err)
			}
		}
	}
}
