package app_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kelpie-authz/kelpie/audit"
	approvalv1 "github.com/kelpie-authz/kelpie/gen/kelpie/approval/v1"
	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
	"github.com/kelpie-authz/kelpie/internal/config"
	"github.com/kelpie-authz/kelpie/internal/testkit"
)

const paysPolicy = `
scopes: {pays: {actions: [pay], resources: ["bank/**"]}}
networks: {here: {cidrs: [10.0.0.0/8]}}
agents: {payer: {owner: o@example.com, scopes: [pays], networks: [here]}}
approvers: {finance: {members: [controller@example.com]}}
approvals: {pays: {match: {actions: [pay]}, approvers: [finance]}}
limits: {calls: {rate: 1000/second, per: [agent]}}
`

func (r *running) pay(t *testing.T, amount int) *authzv1.AuthorizeResponse {
	t.Helper()
	out, err := r.client(t).Authorize(t.Context(), &authzv1.AuthorizeRequest{
		Agent: "payer", Action: "pay", Resource: "bank/rent", SourceIp: "10.1.1.1", ParametersJson: fmt.Appendf(nil, `{"amount":%d,"to":"landlord"}`, amount),
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (r *running) standing(t *testing.T, id string, terms *approvalv1.Standing) string {
	t.Helper()
	ctx, desk := r.desk(t)
	got, err := desk.Approve(ctx, &approvalv1.ApproveRequest{Id: id, As: "controller@example.com", Standing: terms})
	if err != nil || got.GetStanding() == "" {
		t.Fatalf("%v, %v", got, err)
	}
	return got.GetStanding()
}

// A standing grant outlives the server, ends when somebody takes it back, and the
// audit has each use of it.
func TestStandingGrant(t *testing.T) {
	t.Parallel()
	policy := policyDir(t, paysPolicy)
	r := start(t, func(c *config.Config) { c.Policy = policy })
	state := r.cfg.State
	grant := r.standing(t, r.pay(t, 500).GetApproval().GetId(), &approvalv1.Standing{Uses: 10, Bounds: []*approvalv1.Bound{{Name: "amount", Max: new(100.0)}}})
	wantReason(t, "what was approved", r.pay(t, 500), authzv1.Reason_REASON_OK_APPROVED)
	wantReason(t, "within", r.pay(t, 100), authzv1.Reason_REASON_OK_GRANT)
	if _, body := r.get(t, "/metrics"); !strings.Contains(body, "\nkelpie_breakglass_active 0\n") {
		t.Error("the metrics do not say that no glass is broken")
	}
	if err := r.end(t); err != nil {
		t.Fatal(err)
	}
	r = start(t, func(c *config.Config) { c.Policy, c.State = policy, state })
	wantReason(t, "within, after a restart", r.pay(t, 7), authzv1.Reason_REASON_OK_GRANT)
	wantReason(t, "above", r.pay(t, 101), authzv1.Reason_REASON_APPROVAL_REQUIRED)
	ctx, desk := r.desk(t)
	got, err := desk.Get(ctx, &approvalv1.GetRequest{Id: grant})
	if g := got.GetApproval().GetGrant(); err != nil || g.GetUses() != 2 || g.GetMaxUses() != 10 || g.GetBounds()[0].GetMax() != 100 {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := desk.Approve(ctx, &approvalv1.ApproveRequest{Id: grant, As: "controller@example.com"}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a vote on it: %v", err)
	}
	if _, err := desk.Cancel(ctx, &approvalv1.CancelRequest{Id: grant, As: "controller@example.com"}); err != nil {
		t.Error(err)
	}
	wantReason(t, "after it was taken back", r.pay(t, 7), authzv1.Reason_REASON_APPROVAL_REQUIRED)
	if err := r.end(t); err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, l := range readAudit(t, r.cfg, &audit.Query{ApprovalID: grant, Order: audit.OldestFirst}) {
		kinds = append(kinds, strings.TrimSpace(string(l.Kind)+" "+l.Reason))
	}
	if got, want := strings.Join(kinds, ", "), "approval_standing, approval_grant_used, decision ok_grant, approval_grant_used, decision ok_grant, approval_vote, approval_revoked"; got != want {
		t.Errorf("the audit says %s\nwant %s", got, want)
	}
}

// Replicas share a standing grant, and its uses.
func TestStandingGrantOverReplicas(t *testing.T) {
	t.Parallel()
	redis := testkit.StartRedis(t, testkit.RedisConfig{})
	share, policy := sharing(t, redis), policyDir(t, paysPolicy)
	paying := func(c *config.Config) { share(c); c.Policy = policy }
	all := []*running{start(t, paying), start(t, paying), start(t, paying)}
	all[1].standing(t, all[0].pay(t, 500).GetApproval().GetId(), &approvalv1.Standing{Uses: 5, Bounds: []*approvalv1.Bound{{Name: "amount", Max: new(100.0)}}})
	wantReason(t, "what was approved", all[2].pay(t, 500), authzv1.Reason_REASON_OK_APPROVED)
	var used, other atomic.Int64
	var group sync.WaitGroup
	for i := range 48 {
		group.Go(func() {
			if all[i%3].pay(t, i+1).GetDecision() == authzv1.Decision_DECISION_ALLOW {
				used.Add(1)
			} else {
				other.Add(1)
			}
		})
	}
	group.Wait()
	if used.Load() != 5 || other.Load() != 43 {
		t.Errorf("%d of 48 calls went through by a grant of 5 uses", used.Load())
	}
}
