package pdp

import (
	"math"
	"strings"
	"testing"

	"github.com/kelpie-authz/kelpie/limiter"
)

func TestEveryReasonHasItsOwnMessage(t *testing.T) {
	t.Parallel()
	seen := map[string]Reason{}
	for _, r := range AllReasons() {
		a := adviceFor(r)
		if other, twice := seen[a.message]; twice {
			t.Errorf("%s and %s say the same: %q", r, other, a.message)
		}
		seen[a.message] = r
		if !strings.HasSuffix(a.message, ".") || a.message == adviceFor("no such reason").message {
			t.Errorf("%s has no sentence of its own: %q", r, a.message)
		}
		if a.next == NextUnspecified {
			t.Errorf("%s does not say what to do next", r)
		}
	}
}

func TestNextAction(t *testing.T) {
	t.Parallel()
	for r, want := range map[Reason]NextAction{
		ReasonOK: NextNone, ReasonOKApproved: NextNone, ReasonActionDenied: NextNone, ReasonAgentUnknown: NextNone,
		ReasonInsufficientScope: NextRequest, ReasonNoMatchingScope: NextNone, ReasonCredentialAgeExceeded: NextRequest,
		ReasonRateLimited: NextRetry, ReasonQuotaExhausted: NextRetry, ReasonLoopDetected: NextRetry, ReasonCostExceedsLimit: NextNone,
		ReasonApprovalRequired: NextWait, ReasonApprovalPending: NextWait, ReasonApprovalDenied: NextNone, ReasonApprovalExpired: NextRequest,
		ReasonDependencyUnavailable: NextRetry, ReasonAuditUnavailable: NextRetry, ReasonInternalError: NextRetry,
	} {
		if got := adviceFor(r).next; got != want {
			t.Errorf("%s: next %d, want %d", r, got, want)
		}
	}
}

func TestUnitsOf(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		cost float64
		want limiter.Units
	}{
		{0, 1_000_000},
		{1, 1_000_000},
		{0.1, 100_000},
		{1.1, 1_100_000},
		{0.0031, 3_100},
		{2.0000001, 2_000_001},
		{1e-6, 1},
		{1e-300, 1},
		{5e-324, 1},
		{1e12, 1_000_000_000_000_000_000},
		{9.3e12, math.MaxInt64},
		{9223372036854.775807, math.MaxInt64},
		{math.MaxFloat64, math.MaxInt64},
	} {
		if got := unitsOf(tc.cost); got != tc.want {
			t.Errorf("unitsOf(%v) = %d, want %d", tc.cost, got, tc.want)
		}
	}
	for n := range 2_000_000 {
		if n%997 == 0 && unitsOf(float64(n+1)/1e6) != limiter.Units(n+1) {
			t.Fatalf("%d millionths became %d", n+1, unitsOf(float64(n+1)/1e6))
		}
	}
}
