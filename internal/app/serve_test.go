package app_test

import (
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
	"github.com/kelpie-authz/kelpie/internal/testkit"
)

const servedPolicy = `
scopes:
  docs: {actions: [read], resources: ["**"]}
agents:
  reader: {owner: o@example.com, scopes: [docs], networks: [any]}
limits:
  hourly: {rate: 30/hour, burst: 30, per: [agent], match: {resources: ["hourly/**"]}}
  steady: {rate: 200/second, burst: 200, per: [agent], match: {resources: ["steady/**"]}}
`

// What `kelpie serve` does, with Redis and without, as processes of its own.
func TestServe(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := testkit.Build(dir, "./cmd/kelpie"); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "kelpie")
	t.Run("two_replicas", func(t *testing.T) { t.Parallel(); serveTwo(t, binary) })
	t.Run("a_replica_dies", func(t *testing.T) { t.Parallel(); serveDying(t, binary) })
	t.Run("approvals", func(t *testing.T) { t.Parallel(); serveApprovals(t, binary) })
	t.Run("notifications", func(t *testing.T) { t.Parallel(); serveNotified(t, binary) })
	t.Run("refuses_to_start", func(t *testing.T) { t.Parallel(); serveRefused(t, binary) })
}

func serve(t *testing.T, binary string, r *testkit.Redis) (*testkit.Kelpie, authzv1.AuthorizationServiceClient) {
	t.Helper()
	k := testkit.StartKelpie(t, testkit.KelpieConfig{
		Binary: binary, Policy: policyDir(t, servedPolicy), Args: []string{"--redis", r.URL(), "--redis-timeout", "2s"},
	})
	return k, authzv1.NewAuthorizationServiceClient(dial(t, k.GRPC, nil))
}

// Two processes with a limit of 30 an hour together admit exactly 30 of 60.
func serveTwo(t *testing.T, binary string) {
	t.Helper()
	r := testkit.StartRedis(t, testkit.RedisConfig{})
	var clients []authzv1.AuthorizationServiceClient
	for range 2 {
		_, c := serve(t, binary, r)
		clients = append(clients, c)
	}
	allowed, err := crowd(t.Context(), clients, 60, "hourly/1")
	t.Logf("two processes on one Redis, 30/hour and burst 30: %d of 60 simultaneous reads admitted", allowed)
	if allowed != 30 || err != nil {
		t.Errorf("%d of 60 admitted, %v; want exactly 30", allowed, err)
	}
}

// A replica that stands still or is killed neither holds up the other one nor
// makes it admit more.
func serveDying(t *testing.T, binary string) {
	t.Helper()
	r := testkit.StartRedis(t, testkit.RedisConfig{})
	doomed, first := serve(t, binary, r)
	_, second := serve(t, binary, r)
	began := time.Now()
	var allowed, asked [2]atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i, c := range []authzv1.AuthorizationServiceClient{first, second} {
		for range 8 {
			wg.Go(func() {
				tick := time.NewTicker(4 * time.Millisecond)
				defer tick.Stop()
				for {
					select {
					case <-stop:
						return
					case <-tick.C:
					}
					out, err := c.Authorize(t.Context(), &authzv1.AuthorizeRequest{Agent: "reader", Action: "read", Resource: "steady/1"})
					if err != nil && (i == 1 || status.Code(err) != codes.Unavailable) {
						t.Errorf("replica %d: %v", i, err)
						return
					}
					asked[i].Add(1)
					if out.GetDecision() == authzv1.Decision_DECISION_ALLOW {
						allowed[i].Add(1)
					}
				}
			})
		}
	}
	more := func(what string, n *atomic.Int64, by int64) {
		t.Helper()
		want := n.Load() + by
		testkit.Eventually(t, what, func() bool { return n.Load() >= want })
	}
	more("load on both", &allowed[0], 100)
	doomed.Pause(t)
	still := time.Now()
	more("answers of the other one", &asked[1], 500)
	more("what it admits", &allowed[1], 100)
	t.Logf("with one replica standing still the other one gave 500 answers in %v", time.Since(still))
	doomed.Resume(t)
	more("load on both again", &asked[0], 100)
	doomed.Kill(t)
	more("answers of the only one", &asked[1], 500)
	more("what it admits", &allowed[1], 100)
	close(stop)
	wg.Wait()
	total, bound := allowed[0].Load()+allowed[1].Load(), int64(200+200*time.Since(began).Seconds())+1
	t.Logf("a replica stood still and was killed: %d admitted by both, at most %d by burst and rate", total, bound)
	if total > bound {
		t.Errorf("%d admitted, want at most %d", total, bound)
	}
}

// A Redis that is not there, or does not let Kelpie in, keeps it from starting,
// in words that say what to do and without the password.
func serveRefused(t *testing.T, binary string) {
	t.Helper()
	const secret = "not-the-password"
	file := filepath.Join(t.TempDir(), "password")
	testkit.WriteFile(t, file, []byte(secret+"\n"))
	r := testkit.StartRedis(t, testkit.RedisConfig{Password: "the-password"})
	nobody := "redis://" + testkit.FreeAddr(t)
	for _, c := range []struct {
		name string
		args []string
		want []string
	}{
		{"nothing listens", []string{"--redis", nobody}, []string{"redis", "cannot be reached", strings.TrimPrefix(nobody, "redis://")}},
		{"no password", []string{"--redis", r.URL()}, []string{"it asks for a password", "redis_password_file"}},
		{"wrong password", []string{"--redis", r.URL(), "--redis-password-file", file}, []string{"refuses the user or the password", "redis_password_file"}},
		{"a password in the URL", []string{"--redis", "redis://:" + secret + "@" + r.Addr}, []string{"has a password in it", "redis_password_file"}},
		{"no such scheme", []string{"--redis", "http://" + r.Addr}, []string{"redis://"}},
	} {
		args := append([]string{
			"serve", "--policy", policyDir(t, servedPolicy), "--state", filepath.Join(t.TempDir(), "state"),
			"--grpc-addr", testkit.FreeAddr(t), "--admin-addr", testkit.FreeAddr(t), "--health-addr", testkit.FreeAddr(t),
		}, c.args...)
		p := testkit.Start(t, testkit.Program{Path: binary, Args: args})
		if err := p.Wait(t); err == nil {
			t.Errorf("%s: it ended as if all were well", c.name)
		}
		said := p.Stderr.String() + p.Stdout.String()
		for _, want := range c.want {
			if !strings.Contains(said, want) {
				t.Errorf("%s: it does not say %q:\n%s", c.name, want, said)
			}
		}
		if strings.Contains(said, secret) {
			t.Errorf("%s: it says the password:\n%s", c.name, said)
		}
		last := strings.TrimSpace(p.Stderr.String())
		t.Logf("%s: %s", c.name, last[strings.LastIndexByte(last, '\n')+1:])
	}
}
