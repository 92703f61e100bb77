package app_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	approvalv1 "github.com/kelpie-authz/kelpie/gen/kelpie/approval/v1"
	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
	"github.com/kelpie-authz/kelpie/internal/app"
	"github.com/kelpie-authz/kelpie/internal/config"
	"github.com/kelpie-authz/kelpie/internal/testkit"
)

// sharing makes configurations of replicas that share approvals in a Redis.
func sharing(t *testing.T, r *testkit.Redis) func(*config.Config) {
	t.Helper()
	key := filepath.Join(t.TempDir(), "approvals.key")
	if err := os.WriteFile(key, []byte("0123456789abcdef0123456789abcdef"+testkit.Secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	policy := policyDir(t, auditedPolicy)
	return func(c *config.Config) {
		c.Policy, c.Redis.URL, c.ApprovalsKeyFile = policy, r.URL(), key
		c.Redis.Timeout = time.Second // so that a busy machine is no outage
	}
}

func (r *running) approve(t *testing.T, id string) {
	t.Helper()
	ctx, desk := r.desk(t)
	if _, err := desk.Approve(ctx, &approvalv1.ApproveRequest{Id: id, As: "security-oncall@example.com"}); err != nil {
		t.Fatal(err)
	}
}

func wantReason(t *testing.T, what string, out *authzv1.AuthorizeResponse, want authzv1.Reason) {
	t.Helper()
	if out.GetReason() != want {
		t.Errorf("%s: %v %v, want %v", what, out.GetDecision(), out.GetReason(), want)
	}
}

// An approval that one replica opened is decided at another one and used at any,
// once, whatever is restarted in between.
func TestApprovalOverReplicas(t *testing.T) {
	t.Parallel()
	redis := testkit.StartRedis(t, testkit.RedisConfig{})
	share := sharing(t, redis)
	one, two := start(t, share), start(t, share)
	opened := erase(t, one, "")
	id := opened.GetApproval().GetId()
	wantReason(t, "at the one", opened, authzv1.Reason_REASON_APPROVAL_REQUIRED)
	wantReason(t, "at the other", erase(t, two, ""), authzv1.Reason_REASON_APPROVAL_PENDING)
	ctx, desk := two.desk(t)
	if list, err := desk.List(ctx, &approvalv1.ListRequest{}); err != nil || len(list.GetApprovals()) != 1 || list.GetApprovals()[0].GetId() != id {
		t.Fatalf("listed at the other: %v, %v", list, err)
	}
	two.approve(t, id)
	wantReason(t, "after the yes at the other", erase(t, one, ""), authzv1.Reason_REASON_OK_APPROVED)
	wantReason(t, "once more", erase(t, one, ""), authzv1.Reason_REASON_APPROVAL_REQUIRED)
	wantReason(t, "by its id at the other", erase(t, two, id), authzv1.Reason_REASON_APPROVAL_CONSUMED)

	id = erase(t, two, "").GetApproval().GetId()
	one.approve(t, id)
	for _, r := range []**running{&one, &two} {
		state := (*r).cfg.State
		if err := (*r).end(t); err != nil {
			t.Fatal(err)
		}
		*r = start(t, func(c *config.Config) { share(c); c.State = state })
	}
	wantReason(t, "after a restart of both", erase(t, two, ""), authzv1.Reason_REASON_OK_APPROVED)
	wantReason(t, "and once more", erase(t, one, ""), authzv1.Reason_REASON_APPROVAL_REQUIRED)

	redis.Do(t, "flushall")
	wantReason(t, "after Redis lost all", erase(t, one, ""), authzv1.Reason_REASON_APPROVAL_REQUIRED)
}

// However many replicas and callers use one yes at once, one of them does.
func TestOneUseOverReplicas(t *testing.T) {
	t.Parallel()
	redis := testkit.StartRedis(t, testkit.RedisConfig{})
	share := sharing(t, redis)
	all := []*running{start(t, share), start(t, share), start(t, share)}
	for name, requestID := range map[string]func(i int) string{
		"distinct ids": func(i int) string { return fmt.Sprint("r-", i) }, "no ids": func(int) string { return "" }, "one id": func(int) string { return "r" },
	} {
		resource := "docs/" + strings.ReplaceAll(name, " ", "-")
		ask := func(r *running, i int) *authzv1.AuthorizeResponse {
			out, err := r.client(t).Authorize(t.Context(), &authzv1.AuthorizeRequest{
				Agent: "writer", Action: "delete", Resource: resource, SourceIp: "10.1.1.1", RequestId: requestID(i),
			})
			if err != nil {
				t.Error(err)
			}
			return out
		}
		all[0].approve(t, ask(all[0], 0).GetApproval().GetId())
		var allowed, other atomic.Int64
		var group sync.WaitGroup
		for i := range 64 {
			group.Go(func() {
				if ask(all[i%len(all)], i).GetDecision() == authzv1.Decision_DECISION_ALLOW {
					allowed.Add(1)
				} else {
					other.Add(1)
				}
			})
		}
		group.Wait()
		if allowed.Load() != 1 || other.Load() != 63 {
			t.Errorf("%s: %d of 64 calls went through with one yes", name, allowed.Load())
		}
	}
}

// A call that is held at one replica goes on with the yes that was told another.
func TestWaitOverReplicas(t *testing.T) {
	t.Parallel()
	redis := testkit.StartRedis(t, testkit.RedisConfig{})
	share := sharing(t, redis)
	one, two := start(t, share), start(t, share)
	got := make(chan *authzv1.AuthorizeResponse, 1)
	go func() {
		out, err := one.client(t).Authorize(t.Context(), &authzv1.AuthorizeRequest{
			Agent: "writer", Action: "delete", Resource: "docs/1", SourceIp: "10.1.1.1", Wait: durationpb.New(30 * time.Second),
		})
		if err != nil {
			t.Error(err)
		}
		got <- out
	}()
	testkit.Eventually(t, "the call that is held", func() bool { return one.holds(t, 1) })
	ctx, desk := two.desk(t)
	list, err := desk.List(ctx, &approvalv1.ListRequest{})
	if err != nil || len(list.GetApprovals()) != 1 {
		t.Fatalf("%v, %v", list, err)
	}
	two.approve(t, list.GetApprovals()[0].GetId())
	wantReason(t, "after the yes", testkit.Receive(t, "the answer", got), authzv1.Reason_REASON_OK_APPROVED)
}

// While Redis does not answer, calls that need an approval are denied, soon; the
// server says so, and goes on by itself.
func TestApprovalsWithoutRedis(t *testing.T) {
	t.Parallel()
	redis := testkit.StartRedis(t, testkit.RedisConfig{})
	share := sharing(t, redis)
	r := start(t, func(c *config.Config) { share(c); c.Redis.Timeout = 100 * time.Millisecond })
	wantReason(t, "before", erase(t, r, ""), authzv1.Reason_REASON_APPROVAL_REQUIRED)
	redis.Pause(t)
	erase(t, r, "") // It waits for the timeout, and those behind it do not.
	began := time.Now()
	for range 20 {
		wantReason(t, "without Redis", erase(t, r, ""), authzv1.Reason_REASON_DEPENDENCY_UNAVAILABLE)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("20 answers took %v", took)
	}
	if code, body := r.get(t, "/readyz"); code != 200 || !strings.Contains(body, "Redis does not answer: calls that need an approval are denied") {
		t.Errorf("/readyz: %d %s", code, body)
	}
	redis.Resume(t)
	testkit.Eventually(t, "approvals again", func() bool { return erase(t, r, "").GetReason() == authzv1.Reason_REASON_APPROVAL_PENDING })
	testkit.Eventually(t, "a server that says that all is well", func() bool {
		_, body := r.get(t, "/readyz")
		return !strings.Contains(body, "Redis does not answer")
	})
}

func TestApprovalsKeyFileIsRefused(t *testing.T) {
	t.Parallel()
	redis := testkit.StartRedis(t, testkit.RedisConfig{})
	for name, tc := range map[string]struct {
		mode    os.FileMode
		text    string
		missing bool
		want    string
	}{
		"missing":        {missing: true, want: "openssl rand -hex 32"},
		"short":          {mode: 0o600, text: "short", want: "32 are needed"},
		"read by others": {mode: 0o644, text: strings.Repeat("k", 64), want: "can be read by others"},
	} {
		cfg := config.Default()
		cfg.Policy, cfg.State, cfg.Redis.URL = policyDir(t, auditedPolicy), filepath.Join(t.TempDir(), "state"), redis.URL()
		cfg.GRPCAddr, cfg.AdminAddr, cfg.HealthAddr = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
		cfg.ApprovalsKeyFile = filepath.Join(t.TempDir(), "key")
		if !tc.missing {
			if err := os.WriteFile(cfg.ApprovalsKeyFile, []byte(tc.text), tc.mode); err != nil {
				t.Fatal(err)
			}
		}
		_, err := app.New(t.Context(), cfg, app.Deps{Stdout: &testkit.Buffer{}, Stderr: &testkit.Buffer{}, Embedded: true})
		if err == nil || !strings.Contains(err.Error(), "approvals_key_file") || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// One yes lets one call through, also where all of them have one request_id: two
// gateways that send it to two replicas at once are two, and one that repeats it is
// not given its answer again. A gateway is who its certificate says.
func TestOneRequestIDOverReplicas(t *testing.T) {
	t.Parallel()
	servers, gateways, dir := testkit.NewCA(t), testkit.NewCA(t), t.TempDir()
	trusted := filepath.Join(dir, "gateways.pem")
	testkit.WriteFile(t, trusted, gateways.PEM)
	share := sharing(t, testkit.StartRedis(t, testkit.RedisConfig{}))
	const rounds = 16
	// An agent for each round: one may ask humans for some thirty things in an hour.
	var agents strings.Builder
	for round := range rounds {
		fmt.Fprintf(&agents, "  writer%d: {owner: o@example.com, scopes: [wipe], networks: [here]}\n", round)
	}
	policy := policyDir(t, testkit.Replace(t, auditedPolicy, testkit.Edit{Old: "agents:\n", New: "agents:\n" + agents.String()}))
	cert, key := servers.Issue(t, testkit.Leaf{Name: "kelpie", IPs: here}).Write(t, dir)
	secured := func(c *config.Config) {
		share(c)
		c.Policy, c.TLSCert, c.TLSKey, c.ClientCA = policy, cert, key, trusted
	}
	replicas := []*running{start(t, secured), start(t, secured)}
	names := []string{"spiffe://prod.example/one", "spiffe://prod.example/two"}
	// clients are by gateway, then by replica.
	var clients [2][2]authzv1.AuthorizationServiceClient
	var desk approvalv1.ApprovalServiceClient // of the second replica
	for g, name := range names {
		own := gateways.Issue(t, testkit.Leaf{Name: "gateway", URI: name}).TLS(t)
		for i, r := range replicas {
			clients[g][i] = authzv1.NewAuthorizationServiceClient(dial(t, r.Addrs().GRPC.String(), clientTLS(servers, &own)))
			desk = approvalv1.NewApprovalServiceClient(dial(t, r.Addrs().Admin.String(), clientTLS(servers, &own)))
		}
	}
	ctx, _ := replicas[1].admin(t)
	ask := func(gateway, replica int, agent, resource, approval string) *authzv1.AuthorizeResponse {
		out, err := clients[gateway][replica].Authorize(t.Context(), &authzv1.AuthorizeRequest{
			Agent: agent, Action: "delete", Resource: resource, SourceIp: "10.1.1.1", RequestId: "the-one-id", ApprovalId: approval,
		})
		if err != nil {
			t.Error(err)
		}
		return out
	}
	approved := func(agent, resource string) string {
		t.Helper()
		id := ask(0, 0, agent, resource, "").GetApproval().GetId()
		if _, err := desk.Approve(ctx, &approvalv1.ApproveRequest{Id: id, As: "security-oncall@example.com"}); err != nil {
			t.Fatal(err)
		}
		return id
	}
	for name, tc := range map[string]struct {
		rounds, calls int
		who           func(i int) (gateway, replica int)
		named         bool
	}{
		"two gateways at two replicas":        {rounds, 2, func(i int) (int, int) { return i % 2, i % 2 }, false},
		"the same, by the id of the approval": {rounds, 2, func(i int) (int, int) { return i % 2, i % 2 }, true},
		"two gateways, each at both":          {2, 64, func(i int) (int, int) { return i % 2, i / 2 % 2 }, false},
		"one gateway at one replica":          {1, 64, func(int) (int, int) { return 0, 0 }, false},
		"the same gateway, by the id":         {1, 64, func(int) (int, int) { return 0, 0 }, true},
		"one gateway that fails over at once": {1, 64, func(i int) (int, int) { return 1, i % 2 }, false},
	} {
		for round := range tc.rounds {
			agent, resource := fmt.Sprint("writer", round), "docs/"+strings.NewReplacer(",", "", " ", "-").Replace(name)
			id := approved(agent, resource)
			if !tc.named {
				id = ""
			}
			var allowed atomic.Int64
			var group sync.WaitGroup
			for i := range tc.calls {
				group.Go(func() {
					gateway, replica := tc.who(i)
					if ask(gateway, replica, agent, resource, id).GetDecision() == authzv1.Decision_DECISION_ALLOW {
						allowed.Add(1)
					}
				})
			}
			group.Wait()
			if n := allowed.Load(); n != 1 {
				t.Errorf("%s: %d of %d calls went through with one yes", name, n, tc.calls)
			}
			for i := range 4 { // And one after the other, when it is used.
				if out := ask(i%2, i/2, agent, resource, id); out.GetDecision() == authzv1.Decision_DECISION_ALLOW {
					t.Errorf("%s, again: %v", name, out)
				}
			}
		}
	}
	askers := map[string]bool{}
	for _, r := range replicas {
		if err := r.end(t); err != nil {
			t.Fatal(err)
		}
		for _, rec := range r.records(t) {
			askers[fmt.Sprint(rec["gateway"])] = true
		}
	}
	for _, name := range names {
		if !askers["mtls:"+name] {
			t.Errorf("nothing was asked by %s; by %v", name, askers)
		}
	}
}
