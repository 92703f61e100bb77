package app_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/kelpie-authz/kelpie/gen/kelpie/admin/v1"
	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
	"github.com/kelpie-authz/kelpie/internal/config"
	"github.com/kelpie-authz/kelpie/internal/testkit"
)

const settledPolicy = `
scopes:
  docs: {actions: [read], resources: ["docs/**"]}
agents:
  reader: {owner: o@example.com, scopes: [docs], networks: [any]}
limits:
  base: {rate: 1000/second, per: [agent]}
  tokens: {quota: 1000/month, per: [agent], count: cost}
  slots: {concurrency: 2, hold: 10h, per: [agent]}
  loop: {window: 5/10h, per: [agent, call]}
`

// What a gateway says of a call afterwards, through every layer: the limits
// follow it, the decision log has it, and a loop is one.
func TestSettleReleaseAndLoop(t *testing.T) {
	t.Parallel()
	r := start(t, func(c *config.Config) { c.Policy = policyDir(t, settledPolicy) })
	c := r.client(t)
	authorize := func(resource string, cost float64) *authzv1.AuthorizeResponse {
		t.Helper()
		out, err := c.Authorize(t.Context(), &authzv1.AuthorizeRequest{Agent: "reader", Action: "read", Resource: resource, Cost: cost})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	first, second := authorize("docs/1", 300), authorize("docs/2", 300)
	if reason := authorize("docs/3", 300).GetReason(); reason != authzv1.Reason_REASON_RATE_LIMITED {
		t.Fatalf("the third call at once: %v", reason)
	}
	settled, err := c.Settle(t.Context(), &authzv1.SettleRequest{DecisionId: first.GetDecisionId(), Actual: new(150.5)})
	if err != nil || len(settled.GetLimits()) != 1 || settled.GetLimits()[0].GetGivenBack() != 149.5 {
		t.Errorf("settle: %v, %v", settled, err)
	}
	if _, err := c.Settle(t.Context(), &authzv1.SettleRequest{DecisionId: first.GetDecisionId(), Actual: new(151.0)}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("settle to another cost: %v", err)
	}
	for i := range 2 {
		released, err := c.Release(t.Context(), &authzv1.ReleaseRequest{DecisionId: second.GetDecisionId()})
		if err != nil || released.GetAlready() != (i > 0) {
			t.Errorf("release: %v, %v", released, err)
		}
	}
	if _, err := c.Release(t.Context(), &authzv1.ReleaseRequest{DecisionId: "made-up"}); status.Code(err) != codes.NotFound {
		t.Errorf("release of nothing: %v", err)
	}
	ctx, admin := r.admin(t)
	shown, err := admin.ShowLimits(ctx, &adminv1.ShowLimitsRequest{Agent: "reader"})
	if err != nil {
		t.Fatal(err)
	}
	left := map[string]int64{}
	for _, l := range shown.GetLimits() {
		left[l.GetName()] += l.GetRemaining()
	}
	if left["tokens"] != 549 || left["slots"] != 1 || left["loop"] != 8 {
		t.Errorf("left %v, want 549 tokens, 1 slot and 8 of two calls", left)
	}
	for range 4 {
		again := authorize("docs/1", 1)
		if again.GetReason() != authzv1.Reason_REASON_OK {
			t.Fatalf("the same call again: %v", again)
		}
		if _, err := c.Release(t.Context(), &authzv1.ReleaseRequest{DecisionId: again.GetDecisionId()}); err != nil {
			t.Fatal(err)
		}
	}
	if loop := authorize("docs/1", 1); loop.GetReason() != authzv1.Reason_REASON_LOOP_DETECTED || loop.GetRetryAfter().AsDuration() < 9*time.Hour {
		t.Errorf("the same call once more: %v", loop)
	}
	if reset, err := admin.ResetLimits(ctx, &adminv1.ResetLimitsRequest{Agent: "reader", Limit: "loop", As: "ann"}); err != nil || reset.GetBuckets() != 2 {
		t.Errorf("reset: %v, %v", reset, err)
	}
	if again := authorize("docs/1", 1); again.GetReason() != authzv1.Reason_REASON_OK {
		t.Errorf("after the reset: %v", again)
	}
	want := []string{`"msg":"limits settle","agent":"reader"`, `"msg":"limits release"`, `"msg":"limits reset","agent":"reader","as":"ann","buckets":2`}
	testkit.Eventually(t, "the lines of the decision log", func() bool {
		for _, text := range want {
			if !strings.Contains(r.stdout.String(), text) {
				return false
			}
		}
		return true
	})
	if err := r.end(t); err != nil {
		t.Error(err)
	}
}
