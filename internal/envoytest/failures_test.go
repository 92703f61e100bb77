package envoytest_test

import (
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/internal/testkit"
)

// failedClosed fails unless the answer is Envoy's own 503, which nobody decided.
func failedClosed(t *testing.T, got *answer) {
	t.Helper()
	if got.status != http.StatusServiceUnavailable || got.id() != "" {
		t.Errorf("got %+v, want 503 of Envoy itself", got)
	}
}

// allowed asks for what is allowed, and waits for the record of it.
func (s *stack) allowed(t *testing.T) {
	t.Helper()
	got := s.get(t, "lead-router", "/leads/42")
	if got.status != http.StatusOK {
		t.Fatalf("got %+v, want 200", got)
	}
	s.kelpie.Decision(t, got.id())
}

func TestKelpieKilled(t *testing.T) {
	t.Parallel()
	s := start(t, setup{})
	s.allowed(t)
	s.kelpie.Kill(t)
	failedClosed(t, s.get(t, "lead-router", "/leads/42")) // before the health check noticed
	s.envoy.SeesKelpies(t, 0)
	failedClosed(t, s.get(t, "lead-router", "/leads/42")) // and after
	s.reached(t, 1)

	// A new one at the old address is found without anybody's help.
	first := s.kelpie
	s.kelpie = testkit.StartKelpie(t, testkit.KelpieConfig{Binary: programs.kelpie, Policy: s.policy, GRPCAddr: first.GRPC})
	s.envoy.SeesKelpies(t, 1)
	s.allowed(t)
	if n := len(s.seen(t)); n != 2 {
		t.Errorf("%d requests reached the upstream, want 2", n)
	}
}

// A Kelpie that stands still costs a client the timeout and never lets a request through, also when it wakes up and answers late.
func TestKelpieSlow(t *testing.T) {
	t.Parallel()
	s := start(t, setup{})
	s.allowed(t)
	s.kelpie.Pause(t)
	begun := time.Now()
	failedClosed(t, s.get(t, "lead-router", "/leads/slow"))
	// The timeout of envoy.yaml is 1s, and it may ask twice.
	if took := time.Since(begun); took > 4*time.Second {
		t.Errorf("the client waited %v", took)
	}
	s.envoy.SeesKelpies(t, 0)
	failedClosed(t, s.get(t, "lead-router", "/leads/slow"))
	s.kelpie.Resume(t)
	s.envoy.SeesKelpies(t, 1)
	s.allowed(t)
	s.reached(t, 2)
	for _, r := range s.seen(t) {
		if r.Path != "/leads/42" {
			t.Errorf("%s reached the upstream", r.Path)
		}
	}
}

func TestEnvoyStartsFirst(t *testing.T) {
	t.Parallel()
	s := &stack{policy: policy(t)}
	var want setup
	s.startUpstream(t, &want)
	addr := testkit.FreeAddr(t)
	s.startEnvoy(t, []testkit.Edit{testkit.Port(t, 7070, addr), testkit.Port(t, 8081, want.upstream)})
	failedClosed(t, s.get(t, "lead-router", "/leads/42"))
	if n := len(s.seen(t)); n != 0 {
		t.Errorf("%d requests reached the upstream", n)
	}
	s.kelpie = testkit.StartKelpie(t, testkit.KelpieConfig{Binary: programs.kelpie, Policy: s.policy, GRPCAddr: addr})
	s.envoy.SeesKelpies(t, 1)
	s.allowed(t)
	s.reached(t, 1)
}

// traffic asks until it is stopped, over connections that stay open, and gives every answer to look.
func (s *stack) traffic(t *testing.T, callers int, look func(*answer, error)) (stop func()) {
	t.Helper()
	var group sync.WaitGroup
	done := make(chan struct{})
	for range callers {
		transport := &http.Transport{}
		req := s.request(t, http.MethodGet, "lead-router", "/leads/42", "")
		group.Go(func() {
			defer transport.CloseIdleConnections()
			for {
				select {
				case <-done:
					return
				default:
					look(try(&http.Client{Transport: transport}, req.Clone(t.Context())))
				}
			}
		})
	}
	stop = sync.OnceFunc(func() {
		close(done)
		group.Wait()
	})
	t.Cleanup(stop)
	return stop
}

// A reload in the middle of traffic: each answer is that of the old policy or that of the new one, and none fails.
func TestReload(t *testing.T) {
	t.Parallel()
	s := start(t, setup{policy: []testkit.Edit{roomy}})
	var old, young, other atomic.Int64
	stop := s.traffic(t, 4, func(got *answer, err error) {
		switch {
		case err == nil && got.status == http.StatusOK:
			old.Add(1)
		case err == nil && got.status == http.StatusForbidden && got.told(t).Reason == "action_denied":
			young.Add(1)
		default:
			other.Add(1)
			t.Errorf("got %+v, %v", got, err)
		}
	})
	many := func(what string, n *atomic.Int64) {
		before := n.Load()
		testkit.Eventually(t, what, func() bool { return n.Load() > before+200 })
	}
	many("answers of the first policy", &old)
	testkit.WriteFile(t, filepath.Join(s.policy, "broken.yaml"), []byte("deny: {closed: {match: {resources: [7]}}}\n"))
	many("answers of the first policy, while a bad edit lies there", &old)
	testkit.WriteFile(t, filepath.Join(s.policy, "broken.yaml"), []byte("deny: {closed: {match: {resources: [\"crm/**\"]}}}\n"))
	many("answers of the second policy", &young)
	stop()
	if other.Load() != 0 {
		t.Errorf("%d answers of neither policy", other.Load())
	}
	versions := map[string]string{}
	for _, d := range s.kelpie.Decisions(t) {
		if was, known := versions[d.PolicyVersion]; known && was != d.Decision {
			t.Fatalf("policy %s says both %s and %s", d.PolicyVersion, was, d.Decision)
		}
		versions[d.PolicyVersion] = d.Decision
	}
	if len(versions) != 2 {
		t.Errorf("decisions by policy: %v", versions)
	}
	s.reached(t, int(old.Load()))
}

// One of two Kelpies is told to stop. Its drain_delay is longer than a health check takes, so no request fails.
func TestDrain(t *testing.T) {
	t.Parallel()
	dir := policy(t, roomy)
	second := testkit.StartKelpie(t, testkit.KelpieConfig{Binary: programs.kelpie, Policy: dir})
	s := start(t, setup{
		policy: []testkit.Edit{roomy}, kelpie: []string{"--drain-delay", "4s"},
		envoy: []testkit.Edit{twoKelpies(t, second)}, kelpies: 1,
	})
	var answers atomic.Int64
	stop := s.traffic(t, 4, func(got *answer, err error) {
		if err != nil || got.status != http.StatusOK {
			t.Errorf("got %+v, %v", got, err)
		}
		answers.Add(1)
	})
	more := func() {
		before := answers.Load()
		testkit.Eventually(t, "answers", func() bool { return answers.Load() > before+200 })
	}
	more()
	if a, b := len(s.kelpie.Decisions(t)), len(second.Decisions(t)); a == 0 || b == 0 {
		t.Fatalf("one decided %d times, the other %d times", a, b)
	}
	s.kelpie.Terminate(t)
	s.envoy.SeesKelpies(t, 1)
	if !s.kelpie.Running() {
		t.Error("it was gone before Envoy noticed the drain")
	}
	more()
	if err := s.kelpie.Wait(t); err != nil {
		t.Errorf("the drained Kelpie ended with %v", err)
	}
	more()
	stop()
}

// twoKelpies adds an endpoint to the cluster kelpie, before the port of the first is replaced.
func twoKelpies(t *testing.T, second *testkit.Kelpie) testkit.Edit {
	t.Helper()
	const line = "              - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 7070}}}\n"
	return testkit.Edit{Old: line, New: line + testkit.Replace(t, line, testkit.Port(t, 7070, second.GRPC))}
}
