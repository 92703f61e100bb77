package app_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	adminv1 "github.com/kelpie-authz/kelpie/gen/kelpie/admin/v1"
	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
	"github.com/kelpie-authz/kelpie/internal/config"
	"github.com/kelpie-authz/kelpie/internal/testkit"
)

const (
	allow = authzv1.Decision_DECISION_ALLOW
	deny  = authzv1.Decision_DECISION_DENY
)

// The ways in which files are changed under a server's feet.
func TestReload(t *testing.T) {
	t.Parallel()
	write := func(t *testing.T, path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	must := func(t *testing.T, errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	for name, change := range map[string]func(t *testing.T, dir string){
		"written in place": func(t *testing.T, dir string) { t.Helper(); write(t, filepath.Join(dir, "policy.yaml"), policyB) },
		"renamed over": func(t *testing.T, dir string) {
			t.Helper()
			testkit.WriteFile(t, filepath.Join(dir, "policy.yaml"), []byte(policyB))
		},
		"removed, then made anew": func(t *testing.T, dir string) {
			t.Helper()
			must(t, os.Rename(filepath.Join(dir, "policy.yaml"), filepath.Join(dir, "policy.yaml~")))
			write(t, filepath.Join(dir, "policy.yaml"), policyB)
		},
		"a document added": func(t *testing.T, dir string) {
			t.Helper()
			write(t, filepath.Join(dir, "more.yml"), "deny:\n  closed: {match: {resources: [\"docs/**\"]}}\n")
		},
		"directory replaced": func(t *testing.T, dir string) {
			t.Helper()
			must(t, os.Rename(dir, dir+".old"), os.Mkdir(dir, 0o700))
			write(t, filepath.Join(dir, "policy.yaml"), policyB)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := policyDir(t, policyA)
			r := start(t, func(c *config.Config) { c.Policy = dir })
			c := r.client(t)
			if got := r.ask(t, c); got != allow {
				t.Fatal(got)
			}
			change(t, dir)
			testkit.Eventually(t, "the new policy", func() bool { return r.ask(t, c) == deny })
		})
	}
}

// Kubernetes swaps a ConfigMap by renaming the link ..data.
func TestReloadConfigMap(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	version := func(name, text string) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		testkit.WriteFile(t, filepath.Join(dir, name, "policy.yaml"), []byte(text))
		if err := errors.Join(os.Symlink(name, filepath.Join(dir, "..data_tmp")),
			os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data"))); err != nil {
			t.Fatal(err)
		}
	}
	version("..2026_01", policyA)
	if err := os.Symlink(filepath.Join("..data", "policy.yaml"), filepath.Join(dir, "policy.yaml")); err != nil {
		t.Fatal(err)
	}
	r := start(t, func(c *config.Config) { c.Policy = dir })
	c := r.client(t)
	if got := r.ask(t, c); got != allow {
		t.Fatal(got)
	}
	version("..2026_02", policyB)
	testkit.Eventually(t, "the new policy", func() bool { return r.ask(t, c) == deny })
}

// A bad edit keeps the snapshot, and says so everywhere; a good one mends it.
func TestBadEdit(t *testing.T) {
	t.Parallel()
	dir := policyDir(t, policyB)
	r := start(t, func(c *config.Config) { c.Policy = dir })
	c := r.client(t)
	ctx, admin := r.admin(t)
	before := r.Readiness().PolicyVersion
	path := filepath.Join(dir, "policy.yaml")
	testkit.WriteFile(t, path, []byte(policyA+"nonsense: true\nmore: 1\n"))
	testkit.Eventually(t, "the fault", func() bool { return len(r.Readiness().PolicyErrors) == 2 })
	if got := r.ask(t, c); got != deny {
		t.Errorf("decision %v", got)
	}
	code, body := r.get(t, "/readyz")
	if code != 200 || !strings.Contains(body, "nonsense") || !strings.Contains(body, before) {
		t.Errorf("/readyz: %d %s", code, body)
	}
	out, err := admin.PolicyStatus(ctx, &adminv1.PolicyStatusRequest{})
	if err != nil || len(out.GetLastErrors()) != 2 || out.GetPolicyVersion() != before || !out.GetLastAttemptAt().AsTime().After(out.GetLoadedAt().AsTime()) {
		t.Errorf("status %v, %v", out, err)
	}
	if log := r.stderr.String(); !strings.Contains(log, "could not be loaded") || !strings.Contains(log, "nonsense") {
		t.Errorf("log: %s", log)
	}
	if err := r.Reload(t.Context()); err == nil {
		t.Error("Reload hides the fault")
	}
	_, metrics := r.get(t, "/metrics")
	for _, want := range []string{"kelpie_policy_reload_failures_total 1", "kelpie_policy_stale 1", `kelpie_policy_info{version="` + before + `"} 1`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	testkit.WriteFile(t, path, []byte(policyA))
	testkit.Eventually(t, "the good policy", func() bool { return r.ask(t, c) == allow })
	if _, body := r.get(t, "/readyz"); strings.Contains(body, "nonsense") {
		t.Errorf("/readyz still tells: %s", body)
	}
	// Back to the very bytes that were in force before the bad edit: also a change.
	testkit.WriteFile(t, path, []byte("nonsense: true\n"))
	testkit.Eventually(t, "the second fault", func() bool { return len(r.Readiness().PolicyErrors) > 0 })
	testkit.WriteFile(t, path, []byte(policyA))
	testkit.Eventually(t, "the end of the second fault", func() bool { return len(r.Readiness().PolicyErrors) == 0 })
}

func TestPolicyDirectoryGone(t *testing.T) {
	t.Parallel()
	dir := policyDir(t, policyA)
	r := start(t, func(c *config.Config) { c.Policy = dir })
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the fault", func() bool { return len(r.Readiness().PolicyErrors) > 0 })
	if got := r.ask(t, r.client(t)); got != allow {
		t.Errorf("decision %v", got)
	}
	if !r.Readiness().Ready {
		t.Error("not ready, though it can answer")
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	// The very document that is in force still: it ends the fault all the same.
	testkit.WriteFile(t, filepath.Join(dir, "policy.yaml"), []byte(policyA))
	testkit.Eventually(t, "the end of the fault", func() bool { return len(r.Readiness().PolicyErrors) == 0 })
}

// Under a change of policies every call is answered, by one policy or the other.
func TestReloadUnderLoad(t *testing.T) {
	t.Parallel()
	dir := policyDir(t, policyA)
	r := start(t, func(c *config.Config) { c.Policy = dir })
	var stop atomic.Bool
	var asked [2]atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		c := r.client(t)
		wg.Go(func() {
			for !stop.Load() {
				out, err := c.Authorize(t.Context(), request())
				switch {
				case err != nil:
					t.Error(err)
					return
				case out.GetDecision() == allow && out.GetReason() == authzv1.Reason_REASON_OK:
					asked[0].Add(1)
				case out.GetDecision() == deny && out.GetReason() == authzv1.Reason_REASON_ACTION_DENIED:
					asked[1].Add(1)
				default:
					t.Errorf("answer %v", out)
				}
			}
		})
	}
	for i, text := range []string{policyB, policyA, policyB} {
		want := asked[(i+1)%2].Load()
		testkit.WriteFile(t, filepath.Join(dir, "policy.yaml"), []byte(text))
		testkit.Eventually(t, "answers by the new policy", func() bool { return asked[(i+1)%2].Load() > want })
	}
	stop.Store(true)
	wg.Wait()
}

// A drain fails no call that was begun, and the records of all are written.
func TestDrainLosesNothing(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	health := healthpb.NewHealthClient(dial(t, r.Addrs().GRPC.String(), nil))
	watch, err := health.Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := watch.Recv(); err != nil || out.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("%v, %v", out, err)
	}
	var answered atomic.Int64
	var wg sync.WaitGroup
	begun := make(chan struct{}, 4)
	for range 4 {
		c := r.client(t)
		wg.Go(func() {
			for n := 0; ; n++ {
				_, err := c.Authorize(t.Context(), request())
				if err != nil {
					// Refused connections and GOAWAY before the call began are
					// UNAVAILABLE; anything else was lost on the way.
					if status.Code(err) != codes.Unavailable {
						t.Error(err)
					}
					return
				}
				answered.Add(1)
				if n == 100 {
					begun <- struct{}{}
				}
			}
		})
	}
	for range 4 {
		testkit.Receive(t, "load", begun)
	}
	if err := r.end(t); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if got := int64(r.stdout.Lines()); got < answered.Load() {
		t.Errorf("%d records of %d answers", got, answered.Load())
	}
	for {
		if _, err := watch.Recv(); err != nil {
			break
		}
	}
}

// NOT_SERVING comes first, and the server goes on answering for the delay.
func TestDrainDelay(t *testing.T) {
	t.Parallel()
	r := start(t, func(c *config.Config) { c.DrainDelay = testDelay })
	c := r.client(t)
	health := healthpb.NewHealthClient(dial(t, r.Addrs().GRPC.String(), nil))
	r.ask(t, c)
	watch, err := health.Watch(t.Context(), &healthpb.HealthCheckRequest{Service: authzv1.AuthorizationService_ServiceDesc.ServiceName})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	r.stop()
	if out, err := watch.Recv(); err != nil || out.GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Fatalf("%v, %v", out, err)
	}
	if code, _ := r.get(t, "/readyz"); code != 503 {
		t.Errorf("/readyz: %d", code)
	}
	if got := r.ask(t, c); got != allow {
		t.Errorf("decision %v", got)
	}
	r.Abort() // The second signal: no more waiting.
	if err := testkit.Receive(t, "the end of Run", r.ended); err == nil || !strings.Contains(err.Error(), "a second signal cut the drain short") {
		t.Errorf("Run ended with %v", err)
	}
	if said := r.stderr.String(); strings.Count(said, "the drain is cut short") != 1 {
		t.Errorf("the log does not tell of the second signal:\n%s", said)
	}
	r.ended <- nil
}

// A stream that nobody ends does not hold up the shutdown.
func TestDrainEndsStreams(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	stream, err := r.client(t).AuthorizeStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&authzv1.AuthorizeStreamRequest{Request: request()}); err != nil {
		t.Fatal(err)
	}
	if out, err := stream.Recv(); err != nil || out.GetResponse().GetDecision() != allow || out.GetRequestId() != "r1" {
		t.Fatalf("%v, %v", out, err)
	}
	if err := r.end(t); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable || errors.Is(err, io.EOF) {
		t.Errorf("the stream ended with %v", err)
	}
}
