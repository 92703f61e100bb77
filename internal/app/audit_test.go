package app_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/audit"
	"github.com/kelpie-authz/kelpie/audit/fileaudit"
	adminv1 "github.com/kelpie-authz/kelpie/gen/kelpie/admin/v1"
	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
	"github.com/kelpie-authz/kelpie/internal/app"
	"github.com/kelpie-authz/kelpie/internal/config"
	"github.com/kelpie-authz/kelpie/internal/testkit"
)

const auditedPolicy = `
scopes:
  docs: {actions: [read, update], resources: ["docs/**"]}
  wipe: {actions: [delete], resources: ["docs/**"]}
networks:
  here: {cidrs: [10.0.0.0/8]}
agents:
  writer: {owner: o@example.com, scopes: [docs, wipe], networks: [here]}
approvers:
  sec: {members: [security-oncall@example.com]}
limits:
  tokens: {quota: 1000/month, per: [agent], count: cost}
  calls: {rate: 1000/second, per: [agent]}
`

// Whatever was decided, and whatever changed it, is in the audit, in order, and
// the audit is whole.
func TestAudit(t *testing.T) {
	t.Parallel()
	r := start(t, func(c *config.Config) { c.Policy = policyDir(t, auditedPolicy) })
	c := r.client(t)
	ask := func(agent, action, ip string) *authzv1.AuthorizeResponse {
		t.Helper()
		out, err := c.Authorize(t.Context(), &authzv1.AuthorizeRequest{
			Agent: agent, Action: action, Resource: "docs/1", SourceIp: ip, Cost: 3, RequestId: "r-" + action, ParametersJson: []byte(`{"token":"hunter2hunter2"}`),
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	ask("writer", "read", "10.1.1.1")
	updated := ask("writer", "update", "10.1.1.1")
	ask("writer", "update", "192.0.2.1")
	ask("writer", "delete", "10.1.1.1")
	ask("nobody", "read", "10.1.1.1")
	if _, err := c.Settle(t.Context(), &authzv1.SettleRequest{DecisionId: updated.GetDecisionId(), Actual: new(7.0)}); err != nil {
		t.Fatal(err)
	}
	ctx, admin := r.admin(t)
	if _, err := admin.ResetLimits(ctx, &adminv1.ResetLimitsRequest{Agent: "writer", As: "ann"}); err != nil {
		t.Fatal(err)
	}
	testkit.WriteFile(t, filepath.Join(r.cfg.Policy, "policy.yaml"), []byte(auditedPolicy+"deny: 1\n"))
	if err := r.Reload(t.Context()); err == nil {
		t.Error("a broken policy was loaded")
	}
	testkit.WriteFile(t, filepath.Join(r.cfg.Policy, "policy.yaml"), []byte(auditedPolicy+"deny:\n  closed: {match: {resources: [x]}}\n"))
	if err := r.Reload(t.Context()); err != nil {
		t.Error(err)
	}
	if err := r.end(t); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range readAudit(t, r.cfg, &audit.Query{Order: audit.OldestFirst}) {
		got = append(got, string(l.Kind)+" "+l.Agent+" "+l.Action+" "+l.Decision+" "+l.Reason+" "+l.Actor)
		if l.Kind == audit.KindDecision && (l.ParametersDigest == "" || l.RequestID == "" || l.PolicyVersion == "" || time.Since(l.Time) > time.Hour) {
			t.Errorf("the record of a decision lacks something: %+v", l.Record)
		}
	}
	want := []string{
		"policy_loaded     ",
		"decision writer read ALLOW ok ",
		"decision writer update ALLOW ok ",
		"decision writer update DENY ip_not_allowed ",
		"approval_opened writer delete   ",
		"decision writer delete REQUIRE_APPROVAL approval_required ",
		"decision nobody read DENY agent_unknown ",
		"settle writer    ",
		"reset writer    ann",
		"policy_refused     ",
		"policy_loaded     ",
	}
	if !slices.Equal(got, want) {
		t.Errorf("the audit has\n%q, want\n%q", got, want)
	}
	if found := readAudit(t, r.cfg, &audit.Query{DecisionID: updated.GetDecisionId()}); len(found) != 2 {
		t.Errorf("%d records of one decision, want its own and its settlement", len(found))
	}
}

// readAudit reads what an App kept, after it has seen that it is whole.
func readAudit(t *testing.T, cfg *config.Config, q *audit.Query) []*audit.Line {
	t.Helper()
	dir := filepath.Join(cfg.State, "audit")
	key, err := fileaudit.ReadPublicKey(filepath.Join(dir, "audit.pub"))
	if err != nil {
		t.Fatal(err)
	}
	v, err := fileaudit.Verify(t.Context(), dir, key)
	if err != nil || !v.OK() || !v.Closed {
		t.Fatalf("the audit is not whole: %+v, %v", v, err)
	}
	var lines []*audit.Line
	for line, err := range fileaudit.NewReader(dir).Query(t.Context(), q) {
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line)
	}
	return lines
}

// One directory has one writer: a second server would break the chain.
func TestAuditIsOneServers(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	cfg := *r.cfg
	deps := app.Deps{Stdout: &testkit.Buffer{}, Stderr: &testkit.Buffer{}, Embedded: true}
	if _, err := app.New(t.Context(), &cfg, deps); !errors.Is(err, fileaudit.ErrInUse) {
		t.Errorf("a second server on the same audit: %v, want it refused", err)
	}
}

// A batch of writes waits for the disk once, and each of it is there before the
// answer leaves.
func TestBatchIsRecordedTogether(t *testing.T) {
	t.Parallel()
	r := start(t, func(c *config.Config) { c.Policy = policyDir(t, auditedPolicy) })
	fsyncs := func() (n int) {
		t.Helper()
		_, body := r.get(t, "/metrics")
		_, rest, found := strings.Cut(body, "\nkelpie_audit_fsyncs_total ")
		if _, err := fmt.Sscan(rest, &n); !found || err != nil {
			t.Fatal(found, err)
		}
		return n
	}
	in := &authzv1.BatchAuthorizeRequest{}
	for i := range 200 {
		in.Requests = append(in.Requests, &authzv1.AuthorizeRequest{
			Agent: "writer", Action: []string{"update", "read"}[i%2], Resource: "docs/1", SourceIp: "10.1.1.1", RequestId: fmt.Sprint(i),
		})
	}
	before := fsyncs()
	out, err := r.client(t).BatchAuthorize(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	after := fsyncs()
	for i, one := range out.GetResponses() {
		if one.GetDecision() != authzv1.Decision_DECISION_ALLOW {
			t.Fatalf("item %d: %v", i, one)
		}
	}
	// The log signs itself each second besides.
	if after == before || after-before > 10 {
		t.Errorf("%d fsyncs for a batch of 100 writes and 100 reads", after-before)
	}
	i := 0
	lines := fileaudit.NewReader(filepath.Join(r.cfg.State, "audit")).Query(t.Context(), &audit.Query{Kinds: []audit.Kind{audit.KindDecision}, Order: audit.OldestFirst})
	for l, err := range lines {
		if err != nil {
			t.Fatal(err)
		}
		if l.RequestID != fmt.Sprint(i) {
			t.Fatalf("line %d is of request %s", i, l.RequestID)
		}
		i++
	}
	if i < 199 { // The last is a read, which need not be there yet.
		t.Errorf("%d lines at the answer", i)
	}
}

// The audit shows those members of the parameters that the rules of a decision
// name, and masks what looks like a secret.
func TestAuditShowsParameters(t *testing.T) {
	t.Parallel()
	r := start(t, func(c *config.Config) {
		c.Policy = policyDir(t, strings.Replace(auditedPolicy, `actions: [read, update], resources: ["docs/**"]`,
			`actions: [read, update], resources: ["docs/**"], audit_parameters: [amount, customer.id, items.*.sku, api_key, note]`, 1))
	})
	parameters := `{"amount":82.50,"customer":{"id":"c-7","name":"Ann"},"items":[{"sku":"a","n":1},{"sku":"b"}],"api_key":"` + testkit.Secret +
		`","note":"Bearer ` + strings.Repeat(testkit.Secret, 4) + `","other":"x"}`
	for _, action := range []string{"update", "delete"} {
		if _, err := r.client(t).Authorize(t.Context(), &authzv1.AuthorizeRequest{
			Agent: "writer", Action: action, Resource: "docs/1", SourceIp: "10.1.1.1", ParametersJson: []byte(parameters),
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.end(t); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range readAudit(t, r.cfg, &audit.Query{Kinds: []audit.Kind{audit.KindDecision}, Order: audit.OldestFirst}) {
		var shown []string
		for _, m := range l.Shown {
			shown = append(shown, m.Name+"="+m.Value)
		}
		got = append(got, l.Action+": "+strings.Join(shown, " "))
	}
	want := []string{"update: amount=82.50 api_key=[masked] customer.id=c-7 items.0.sku=a items.1.sku=b note=[masked]", "delete: "}
	if !slices.Equal(got, want) {
		t.Errorf("shown:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
