package app_test

import (
	"strings"
	"testing"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
	"github.com/kelpie-authz/kelpie/internal/app"
	"github.com/kelpie-authz/kelpie/internal/config"
	"github.com/kelpie-authz/kelpie/internal/testkit"
)

const quotaPolicy = `
scopes: {docs: {actions: [read, list], resources: ["docs/**"]}}
networks: {here: {cidrs: [10.0.0.0/8]}}
agents: {reader: {owner: o@example.com, scopes: [docs], networks: [here]}}
limits:
  month: {quota: 10/month, per: [agent], match: {actions: [read]}}
  calls: {rate: 1000/second, per: [agent]}
`

func (r *running) read(t *testing.T, action string) *authzv1.AuthorizeResponse {
	t.Helper()
	out, err := r.client(t).Authorize(t.Context(), &authzv1.AuthorizeRequest{Agent: "reader", Action: action, Resource: "docs/1", SourceIp: "10.1.1.1"})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// What a quota has counted is there after a restart.
func TestQuotaOutlivesTheServer(t *testing.T) {
	t.Parallel()
	policy := policyDir(t, quotaPolicy)
	r := start(t, func(c *config.Config) { c.Policy = policy })
	state := r.cfg.State
	for life := range 5 {
		for range 2 {
			if out := r.read(t, "read"); out.GetDecision() != authzv1.Decision_DECISION_ALLOW {
				t.Fatalf("life %d: %v", life, out)
			}
		}
		if err := r.end(t); err != nil {
			t.Fatal(err)
		}
		r = start(t, func(c *config.Config) { c.Policy, c.State = policy, state })
	}
	if out := r.read(t, "read"); out.GetReason() != authzv1.Reason_REASON_QUOTA_EXHAUSTED {
		t.Errorf("the eleventh call of the month: %v", out)
	}
	if out := r.read(t, "list"); out.GetDecision() != authzv1.Decision_DECISION_ALLOW {
		t.Errorf("a call without a quota: %v", out)
	}
}

// Two servers that count by one file would each forget what the other counted.
func TestStateDirectoryIsOneServers(t *testing.T) {
	t.Parallel()
	r := start(t, func(c *config.Config) { c.Policy, c.Audit.Mode = policyDir(t, quotaPolicy), config.AuditOff })
	cfg := *r.cfg
	_, err := app.New(t.Context(), &cfg, app.Deps{Stdout: &testkit.Buffer{}, Stderr: &testkit.Buffer{}, Embedded: true})
	if err == nil || !strings.Contains(err.Error(), "quotas.db: another process uses it; give each server a state directory of its own") {
		t.Errorf("a second server: %v", err)
	}
	if out := r.read(t, "read"); out.GetDecision() != authzv1.Decision_DECISION_ALLOW {
		t.Errorf("the first one: %v", out)
	}
}
