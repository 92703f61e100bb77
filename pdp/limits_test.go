package pdp_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/pdp"
)

// limited is notesPolicy with other limits.
func limited(limits string) string {
	before, _, _ := strings.Cut(notesPolicy, "limits:\n")
	return before + "limits:\n" + limits
}

func TestRateLimited(t *testing.T) {
	t.Parallel()
	f := newFixture(t, notesPolicy, func(c *pdp.Config) {
		c.Jitter = func(d time.Duration) time.Duration { return d + d/20 }
	})
	for range 5 {
		f.want(t, readNote, pdp.Allow, pdp.ReasonOK)
	}
	dec := f.want(t, readNote, pdp.Deny, pdp.ReasonRateLimited, "limits/calls")
	if dec.RetryAfter != 1050*time.Millisecond || dec.Next != pdp.NextRetry {
		t.Errorf("retry after %v, next %d; want 1.05s and RETRY", dec.RetryAfter, dec.Next)
	}
	if !strings.Contains(dec.Message, "calls") {
		t.Errorf("message %q does not name the limit", dec.Message)
	}
	if diff := cmp.Diff([]pdp.LimitStatus{{Name: "calls", Limit: 5, Remaining: 0, Reset: 5 * time.Second}}, dec.Limits); diff != "" {
		t.Errorf("limits (-want +got):\n%s", diff)
	}
	f.clock.advance(999 * time.Millisecond)
	f.want(t, readNote, pdp.Deny, pdp.ReasonRateLimited)
	f.clock.advance(time.Millisecond)
	f.want(t, readNote, pdp.Allow, pdp.ReasonOK)
}

func TestJitterNeverShortens(t *testing.T) {
	t.Parallel()
	f := newFixture(t, notesPolicy, func(c *pdp.Config) { c.Jitter = func(time.Duration) time.Duration { return -1 } })
	for range 5 {
		f.ask(t, readNote)
	}
	if dec := f.ask(t, readNote); dec.RetryAfter != time.Second {
		t.Errorf("retry after %v, want 1s", dec.RetryAfter)
	}
}

func TestDefaultLimit(t *testing.T) {
	t.Parallel()
	f := newFixture(t, strings.Split(notesPolicy, "limits:\n")[0])
	for range 60 {
		f.want(t, readNote, pdp.Allow, pdp.ReasonOK)
	}
	f.want(t, readNote, pdp.Deny, pdp.ReasonRateLimited, "builtin/default")
	f.want(t, call("roamer", "read", "notes/1"), pdp.Allow, pdp.ReasonOK)
}

func TestDeniedCallsSpendNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t, notesPolicy)
	for range 20 {
		f.want(t, call("reader", "read", "vault/x"), pdp.Deny, pdp.ReasonInsufficientScope)
		f.want(t, call("reader", "read", "notes/locked/1"), pdp.Deny, pdp.ReasonActionDenied)
		f.want(t, with(readNote, func(r *pdp.Request) { r.SourceIP = "192.0.2.1" }), pdp.Deny, pdp.ReasonIPNotAllowed)
	}
	f.wantRoom(t, 5)
}

func TestRequireApprovalSpendsNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t, notesPolicy)
	for range 20 {
		f.want(t, deleteNote, pdp.RequireApproval, pdp.ReasonApprovalRequired)
	}
	for range 5 {
		f.want(t, call("cleaner", "read", "notes/1"), pdp.Allow, pdp.ReasonOK)
	}
	f.want(t, deleteNote, pdp.RequireApproval, pdp.ReasonApprovalRequired, "approvals/deletes")
}

// Of several limits that lack, the longest wait gives reason and retry_after.
func TestSeveralLacking(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, limits string
		cost         float64
		spend        int
		reason       pdp.Reason
		matched      []string
		retry        time.Duration
	}{
		{
			"a quota outlasts a rate",
			`  a-rate: {rate: 60/minute, burst: 2, per: [agent]}
  b-quota: {quota: 2/hour, per: [agent]}
  c-wide: {rate: 60/minute, burst: 9, per: [agent]}
`, 0, 2, pdp.ReasonQuotaExhausted,
			[]string{"limits/b-quota", "limits/a-rate"},
			time.Hour,
		},
		{
			"a slow rate outlasts a quota of a minute",
			`  a-quota: {quota: 2/minute, per: [agent]}
  b-rate: {rate: 2/hour, burst: 2, per: [agent]}
`, 0, 2, pdp.ReasonRateLimited,
			[]string{"limits/b-rate", "limits/a-quota"},
			30 * time.Minute,
		},
		{
			"a tie goes by name",
			`  b-rate: {rate: 60/minute, burst: 1, per: [agent]}
  a-rate: {rate: 60/minute, burst: 1, per: [agent, action]}
`, 0, 1, pdp.ReasonRateLimited,
			[]string{"limits/a-rate", "limits/b-rate"},
			time.Second,
		},
		{
			"a cost that never fits outlasts everything",
			`  a-quota: {quota: 2/day, per: [agent]}
  b-cost: {quota: 10/day, per: [agent], count: cost}
`, 11, 2, pdp.ReasonCostExceedsLimit,
			[]string{"limits/b-cost", "limits/a-quota"},
			0,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, limited(tc.limits))
			for range tc.spend {
				f.want(t, readNote, pdp.Allow, pdp.ReasonOK)
			}
			dec := f.want(t, with(readNote, func(r *pdp.Request) { r.Cost = tc.cost }), pdp.Deny, tc.reason, tc.matched...)
			if dec.RetryAfter != tc.retry {
				t.Errorf("retry after %v, want %v", dec.RetryAfter, tc.retry)
			}
			wantNext := pdp.NextRetry
			if tc.retry == 0 {
				wantNext = pdp.NextNone
			}
			if dec.Next != wantNext {
				t.Errorf("next %d, want %d", dec.Next, wantNext)
			}
		})
	}
}

func TestAllOrNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t, limited(`  calls: {rate: 60/minute, burst: 5, per: [agent]}
  shared: {quota: 1/day, per: [all]}
`))
	f.want(t, call("roamer", "read", "notes/1"), pdp.Allow, pdp.ReasonOK)
	for range 9 {
		f.want(t, readNote, pdp.Deny, pdp.ReasonQuotaExhausted, "limits/shared")
	}
	f.wantRoom(t, 5)
}

func TestCost(t *testing.T) {
	t.Parallel()
	f := newFixture(t, limited(`  money: {quota: 11/day, per: [agent], count: cost}
`))
	paid := with(readNote, func(r *pdp.Request) { r.Cost = 1.1 })
	for i := range 10 {
		dec := f.want(t, paid, pdp.Allow, pdp.ReasonOK)
		if want := int64(11*10-11*(i+1)) / 10; dec.Limits[0].Remaining != want {
			t.Errorf("after %d calls %d left, want %d whole units", i+1, dec.Limits[0].Remaining, want)
		}
	}
	f.want(t, with(readNote, func(r *pdp.Request) { r.Cost = 0.000001 }), pdp.Deny, pdp.ReasonQuotaExhausted)
	for _, cost := range []float64{11.5, 1e13, 1e300} {
		dec := f.want(t, with(readNote, func(r *pdp.Request) { r.Cost = cost }), pdp.Deny, pdp.ReasonCostExceedsLimit, "limits/money")
		if dec.RetryAfter != 0 {
			t.Errorf("cost %v: retry after %v, want none", cost, dec.RetryAfter)
		}
	}
}

func TestAbsentCostIsOne(t *testing.T) {
	t.Parallel()
	f := newFixture(t, limited(`  money: {quota: 2/day, per: [agent], count: cost}
`))
	f.want(t, readNote, pdp.Allow, pdp.ReasonOK)
	f.want(t, with(readNote, func(r *pdp.Request) { r.Cost = 1 }), pdp.Allow, pdp.ReasonOK)
	f.want(t, readNote, pdp.Deny, pdp.ReasonQuotaExhausted)
}

func TestCostIsNothingToALimitThatCountsCalls(t *testing.T) {
	t.Parallel()
	f := newFixture(t, notesPolicy)
	f.want(t, with(readNote, func(r *pdp.Request) { r.Cost = 1e9 }), pdp.Allow, pdp.ReasonOK)
	f.wantRoom(t, 4)
}

func TestKindsOfLimit(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		limit  string
		admits int
		reason pdp.Reason
		after  time.Duration
	}{
		{"{rate: 60/minute, burst: 3, per: [agent]}", 3, pdp.ReasonRateLimited, time.Second},
		{"{window: 4/1m, per: [agent]}", 4, pdp.ReasonRateLimited, 0},
		{"{quota: 2/day, timezone: Europe/Berlin, per: [agent]}", 2, pdp.ReasonQuotaExhausted, 14 * time.Hour},
		{"{concurrency: 2, hold: 30s, per: [agent]}", 2, pdp.ReasonRateLimited, 30 * time.Second},
	} {
		f := newFixture(t, limited("  l: "+tc.limit+"\n"))
		for range tc.admits {
			f.want(t, readNote, pdp.Allow, pdp.ReasonOK)
		}
		dec := f.want(t, readNote, pdp.Deny, tc.reason, "limits/l")
		if dec.RetryAfter <= 0 || (tc.after != 0 && dec.RetryAfter != tc.after) {
			t.Errorf("%s: retry after %v, want %v", tc.limit, dec.RetryAfter, tc.after)
		}
		f.clock.advance(dec.RetryAfter)
		f.want(t, readNote, pdp.Allow, pdp.ReasonOK)
	}
}

func TestShadowLimitCountsAndNeverBounds(t *testing.T) {
	t.Parallel()
	f := newFixture(t, limited(`  calls: {rate: 60/minute, burst: 5, per: [agent]}
  tight: {quota: 2/day, per: [agent], shadow: true}
`))
	for range 9 {
		f.want(t, call("reader", "read", "vault/x"), pdp.Deny, pdp.ReasonInsufficientScope)
	}
	for i := range 6 {
		dec := f.ask(t, readNote)
		var want []pdp.ShadowOutcome
		if i >= 2 {
			want = []pdp.ShadowOutcome{{Rule: "limits/tight", Verdict: pdp.Deny, Reason: pdp.ReasonQuotaExhausted}}
		}
		if len(dec.Shadow) != len(want) || (len(want) == 1 && dec.Shadow[0] != want[0]) {
			t.Errorf("call %d: shadow %v, want %v", i, dec.Shadow, want)
		}
		if len(dec.Limits) != 1 || dec.Limits[0].Name != "calls" {
			t.Errorf("call %d: limits %v, want the enforced one only", i, dec.Limits)
		}
		wantReason := pdp.ReasonOK
		if i == 5 {
			wantReason = pdp.ReasonRateLimited
		}
		if dec.Reason != wantReason {
			t.Errorf("call %d: %s, want %s", i, dec.Reason, wantReason)
		}
	}
}

func TestLimitThatCannotBeEvaluatedDenies(t *testing.T) {
	t.Parallel()
	f := newFixture(t, limited(`  calls: {rate: 60/minute, burst: 5, per: [agent]}
  big: {rate: 60/minute, per: [agent], match: {when: "parameters.size > 3"}}
`))
	f.want(t, readNote, pdp.Deny, pdp.ReasonParametersUnavailable, "limits/big")
	f.want(t, with(readNote, func(r *pdp.Request) { r.ParametersJSON = []byte(`{"size":"x"}`) }), pdp.Deny, pdp.ReasonConditionFailed, "limits/big")
	dec := f.want(t, with(readNote, func(r *pdp.Request) { r.ParametersJSON = []byte(`{"size":1}`) }), pdp.Allow, pdp.ReasonOK)
	if dec.Limits[0].Remaining != 4 {
		t.Errorf("%d left, want 4: a denied call was charged", dec.Limits[0].Remaining)
	}
}

func TestUnavailableLimiter(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, limits string
		verdict      pdp.Verdict
		reason       pdp.Reason
		matched      []string
		warnings     int
	}{
		{"deny by default", "  a: {rate: 60/minute, per: [agent]}\n", pdp.Deny, pdp.ReasonDependencyUnavailable, []string{"limits/a"}, 0},
		{"deny", "  a: {rate: 60/minute, per: [agent], on_unavailable: deny}\n", pdp.Deny, pdp.ReasonDependencyUnavailable, []string{"limits/a"}, 0},
		{"allow", "  a: {rate: 60/minute, per: [agent], on_unavailable: allow}\n", pdp.Allow, pdp.ReasonOK, nil, 1},
		{"local_share without one", "  a: {rate: 60/minute, per: [agent], on_unavailable: local_share}\n", pdp.Deny, pdp.ReasonDependencyUnavailable, []string{"limits/a"}, 0},
		{
			"those that deny are named",
			"  a: {rate: 60/minute, per: [agent], on_unavailable: allow}\n  b: {rate: 60/minute, per: [agent]}\n  c: {rate: 9/minute, per: [agent]}\n",
			pdp.Deny, pdp.ReasonDependencyUnavailable,
			[]string{"limits/b", "limits/c"},
			1,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			broken := &brokenLimiter{broken: func([]limiter.Call) error { return errDown }}
			f := newFixture(t, limited(tc.limits), breakLimiter(broken))
			dec := f.want(t, readNote, tc.verdict, tc.reason, tc.matched...)
			if len(dec.Warnings) != tc.warnings {
				t.Errorf("warnings %q, want %d", dec.Warnings, tc.warnings)
			}
			if tc.verdict == pdp.Deny && (dec.Next != pdp.NextRetry || dec.RetryAfter <= 0) {
				t.Errorf("next %d after %v, want RETRY after a while", dec.Next, dec.RetryAfter)
			}
			decs, err := f.svc.Batch(context.Background(), []pdp.Request{*readNote, *readNote}, pdp.ExecuteAll, nil)
			if err != nil || len(decs) != 2 {
				t.Fatalf("batch: %d answers, %v", len(decs), err)
			}
			for i := range decs {
				wantDecision(t, &decs[i], tc.verdict, tc.reason, tc.matched...)
			}
		})
	}
}

// A limit that may be left out must not deny the call, and must not free it
// from the limits that hold.
func TestUnavailableLimitIsLeftOutAlone(t *testing.T) {
	t.Parallel()
	for _, limits := range []string{
		"  calls: {rate: 60/minute, burst: 2, per: [agent]}\n  spare: {rate: 60/minute, per: [all], on_unavailable: allow}\n",
		"  calls: {rate: 60/minute, burst: 2, per: [agent]}\n  spare: {rate: 60/minute, per: [all], shadow: true}\n",
	} {
		broken := &brokenLimiter{broken: func(calls []limiter.Call) error {
			for _, c := range calls {
				for _, ch := range c.Charges {
					if ch.Limit.Name == "spare" {
						return limiter.ErrFull
					}
				}
			}
			return nil
		}}
		f := newFixture(t, limited(limits), breakLimiter(broken))
		f.want(t, readNote, pdp.Allow, pdp.ReasonOK)
		f.want(t, readNote, pdp.Allow, pdp.ReasonOK)
		f.want(t, readNote, pdp.Deny, pdp.ReasonRateLimited, "limits/calls")
	}
}

// A limiter that contradicts itself is doubt, and doubt is a DENY.
func TestContradictionOfTheLimiterDenies(t *testing.T) {
	t.Parallel()
	for name, lie := range map[string]func(*limiter.Result){
		"refused without a limit that lacks": func(r *limiter.Result) { r.Admitted = false },
		"admitted though a limit lacks":      func(r *limiter.Result) { r.Limits[0].Lacked = true },
		"no word on the limits":              func(r *limiter.Result) { r.Limits = r.Limits[:0] },
	} {
		f := newFixture(t, notesPolicy, func(c *pdp.Config) { c.Limiter = &lyingLimiter{Limiter: c.Limiter, lie: lie} })
		if dec := f.ask(t, readNote); dec.Verdict != pdp.Deny {
			t.Errorf("%s: %v %s, want DENY", name, dec.Verdict, dec.Reason)
		}
		if f.panics.Load() != 0 {
			t.Errorf("%s: a panic", name)
		}
	}
}

type lyingLimiter struct {
	limiter.Limiter
	lie func(*limiter.Result)
}

func (l *lyingLimiter) Take(ctx context.Context, calls []limiter.Call, stop limiter.Stop) (int, error) {
	n, err := l.Limiter.Take(ctx, calls, stop)
	for i := range calls[:n] {
		l.lie(&calls[i].Result)
	}
	return n, err
}

func TestInvalidChargeIsAFaultAndNoOutage(t *testing.T) {
	t.Parallel()
	broken := &brokenLimiter{broken: func([]limiter.Call) error { return &limiter.ChargeError{Err: errDown} }}
	f := newFixture(t, limited("  a: {rate: 60/minute, per: [agent], on_unavailable: allow}\n"), breakLimiter(broken))
	f.want(t, readNote, pdp.Deny, pdp.ReasonInternalError, "limits/a")
}

func TestCheckLimits(t *testing.T) {
	t.Parallel()
	if err := pdp.CheckLimits(compile(t, notesPolicy)); err != nil {
		t.Errorf("a good policy: %v", err)
	}
}

// A call can be charged to as many limits at once as the limiter takes, and is
// denied with what to do about it when there are more. Those in shadow do not
// count: they never alter a decision.
func TestMoreLimitsThanCanBeCharged(t *testing.T) {
	t.Parallel()
	many := func(enforced, shadow int) string {
		var b strings.Builder
		for i := range enforced {
			fmt.Fprintf(&b, "  limit-%02d: {rate: 60/minute, burst: 2, per: [agent]}\n", i)
		}
		for i := range shadow {
			fmt.Fprintf(&b, "  shadow-%02d: {rate: 60/minute, burst: 2, per: [agent], shadow: true}\n", i)
		}
		return limited(b.String())
	}
	const most = limiter.MaxCharges
	for _, tc := range []struct {
		name             string
		enforced, shadow int
		allowed          bool
		warnings         int
	}{
		{"as many as there may be", most, 0, true, 0},
		{"with those in shadow", most - 1, 1, true, 0},
		{"too many by those in shadow", most, 1, true, 1},
		{"one too many", most + 1, 0, false, 0},
		{"one too many beside shadows", most + 1, 9, false, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, many(tc.enforced, tc.shadow))
			check := func(dec *pdp.Decision) {
				t.Helper()
				if tc.allowed {
					wantDecision(t, dec, pdp.Allow, pdp.ReasonOK)
					if len(dec.Limits) != tc.enforced || len(dec.Warnings) != tc.warnings {
						t.Errorf("%d limits, warnings %q; want %d and %d", len(dec.Limits), dec.Warnings, tc.enforced, tc.warnings)
					}
					return
				}
				wantDecision(t, dec, pdp.Deny, pdp.ReasonInternalError)
				if !strings.Contains(dec.Message, "33 limits match") || dec.Next != pdp.NextNone || dec.RetryAfter != 0 || len(dec.Matched) != tc.enforced {
					t.Errorf("%q, next %d after %v, %d matched; want told what to do, and not to try again", dec.Message, dec.Next, dec.RetryAfter, len(dec.Matched))
				}
			}
			dec := f.ask(t, readNote)
			check(&dec)
			decs, err := f.svc.Batch(context.Background(), []pdp.Request{*readNote}, pdp.ExecuteAll, nil)
			if err != nil || len(decs) != 1 {
				t.Fatalf("batch: %d answers, %v", len(decs), err)
			}
			check(&decs[0])
			out := explain(t, f, readNote)
			if c := checkNamed(t, &out, "limits"); c.Outcome != pdp.CheckDeny {
				t.Errorf("limits: %+v, want DENY: of the third call or of every one", c)
			}
		})
	}
}

// leaseSeen is a limiter that notes the leases of what it is asked for.
type leaseSeen struct {
	limiter.Limiter
	leases map[string]time.Duration
}

func (l *leaseSeen) Take(ctx context.Context, calls []limiter.Call, stop limiter.Stop) (int, error) {
	for _, c := range calls[0].Charges {
		l.leases[c.Limit.Name] = c.Limit.Lease
	}
	return l.Limiter.Take(ctx, calls, stop)
}

func TestLeasesReachTheLimiter(t *testing.T) {
	t.Parallel()
	seen := &leaseSeen{leases: map[string]time.Duration{}}
	f := newFixture(t, limited(`
  minute: {rate: 60/minute, per: [agent], lease: true}
  hot: {rate: 1000/second, burst: 300, per: [all], lease: true}
  shortest: {rate: 10000/second, burst: 100, per: [all], lease: true}
  short: {rate: 10000/second, burst: 99, per: [all], lease: true}
  daily: {quota: 5000/day, per: [all], lease: true}
  plain: {rate: 1000/second, per: [all]}
`), func(c *pdp.Config) {
		seen.Limiter = c.Limiter
		c.Limiter = seen
	})
	f.want(t, readNote, pdp.Allow, pdp.ReasonOK)
	want := map[string]time.Duration{
		"minute": 100 * time.Millisecond, "hot": 30 * time.Millisecond, "shortest": time.Millisecond, "short": 0,
		"daily": 100 * time.Millisecond, "plain": 0,
	}
	if diff := cmp.Diff(want, seen.leases); diff != "" {
		t.Errorf("leases (-want +got):\n%s", diff)
	}
}
