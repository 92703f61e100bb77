package envoytest_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/kelpie-authz/kelpie/internal/testkit"
)

// programs are built, or found, once for all tests.
var programs struct{ kelpie, upstream, envoy string }

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "kelpie-envoytest")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	if err := prepare(dir); err != nil {
		panic(err)
	}
	if m.Run() != 0 {
		return // testing exits with what it returned
	}
	if err := goleak.Find(); err != nil {
		panic(err)
	}
}

func prepare(dir string) error {
	if err := testkit.Build(dir, "./cmd/kelpie", "./examples/envoy/upstream"); err != nil {
		return err
	}
	programs.kelpie, programs.upstream = filepath.Join(dir, "kelpie"), filepath.Join(dir, "upstream")
	cmd := exec.Command("../../scripts/envoy.sh")
	cmd.Stderr = os.Stderr
	path, err := cmd.Output()
	programs.envoy = strings.TrimSpace(string(path))
	return err
}

// example is a file of examples/envoy.
func example(t *testing.T, name string) string {
	t.Helper()
	return filepath.Join(testkit.Root(t), "examples", "envoy", name)
}

// roomy lets a test ask more often than the example's limit would.
var roomy = testkit.Edit{Old: "rate: 120/minute, burst: 30", New: "rate: 1000000/minute, burst: 1000000"}

// policy copies the example's policy with edits.
func policy(t *testing.T, edits ...testkit.Edit) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "policy")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	writePolicy(t, dir, edits...)
	return dir
}

func writePolicy(t *testing.T, dir string, edits ...testkit.Edit) {
	t.Helper()
	text, err := os.ReadFile(example(t, "policy/policy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	testkit.WriteFile(t, filepath.Join(dir, "policy.yaml"), []byte(testkit.Replace(t, string(text), edits...)))
}

// setup is what a test wants otherwise than the example has it.
type setup struct {
	policy []testkit.Edit
	extra  string // one more document of the policy
	envoy  []testkit.Edit
	kelpie []string // arguments
	// kelpies is how many more of them envoy names.
	kelpies int
	// upstream is the address of another upstream than the example's.
	upstream string
}

// stack is the example, running.
type stack struct {
	kelpie   *testkit.Kelpie
	envoy    *testkit.Envoy
	upstream *testkit.Upstream // nil where the test has its own
	policy   string
	barriers atomic.Int64
}

// start starts the example with whatever is different, and waits until it answers.
func start(t *testing.T, want setup) *stack {
	t.Helper()
	s := &stack{policy: policy(t, want.policy...)}
	if want.extra != "" {
		testkit.WriteFile(t, filepath.Join(s.policy, "extra.yaml"), []byte(want.extra))
	}
	s.kelpie = testkit.StartKelpie(t, testkit.KelpieConfig{Binary: programs.kelpie, Policy: s.policy, Args: want.kelpie})
	s.startUpstream(t, &want)
	s.startEnvoy(t, append(want.envoy, testkit.Port(t, 7070, s.kelpie.GRPC), testkit.Port(t, 8081, want.upstream)))
	s.envoy.SeesKelpies(t, 1+want.kelpies)
	return s
}

func (s *stack) startUpstream(t *testing.T, want *setup) {
	t.Helper()
	if want.upstream == "" {
		s.upstream = testkit.StartUpstream(t, programs.upstream)
		want.upstream = s.upstream.Addr
	}
}

func (s *stack) startEnvoy(t *testing.T, edits []testkit.Edit) {
	t.Helper()
	s.envoy = testkit.StartEnvoy(t, testkit.EnvoyConfig{Binary: programs.envoy, File: example(t, "envoy.yaml"), Edits: edits})
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	text   string
}

// told is the body of an answer that Kelpie made.
type told struct {
	Decision          string          `json:"decision"`
	Reason            string          `json:"reason"`
	Message           string          `json:"message"`
	DecisionID        string          `json:"decision_id"`
	NextAction        string          `json:"next_action"`
	RetryAfterSeconds int             `json:"retry_after_seconds"`
	RequiredScopes    []string        `json:"required_scopes"`
	Approval          json.RawMessage `json:"approval"`
}

func (a *answer) told(t *testing.T) told {
	t.Helper()
	var out told
	if err := json.Unmarshal([]byte(a.text), &out); err != nil {
		t.Fatalf("%v in the answer %d %q", err, a.status, a.text)
	}
	return out
}

func (a *answer) id() string { return a.header.Get("X-Kelpie-Decision-Id") }

// request makes a request to Envoy in the name of an agent.
func (s *stack) request(t *testing.T, method, agent, path, body string) *http.Request {
	t.Helper()
	var content io.Reader
	if body != "" {
		content = strings.NewReader(body)
	}
	req, err := http.NewRequest(method, "http://"+s.envoy.Addr+path, content)
	if err != nil {
		t.Fatal(err)
	}
	if agent != "" {
		req.Header.Set("X-Agent-Id", agent)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	return req
}

// send sends a request by HTTP/1.1 on a connection of its own.
func (s *stack) send(t *testing.T, req *http.Request) *answer {
	t.Helper()
	got, err := try(&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, req)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func try(client *http.Client, req *http.Request) (*answer, error) {
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return &answer{resp.StatusCode, resp.Header, string(text)}, err
}

func (s *stack) get(t *testing.T, agent, path string) *answer {
	t.Helper()
	return s.send(t, s.request(t, http.MethodGet, agent, path, ""))
}

// seen is what reached the upstream so far. A request of our own goes there
// first, past Envoy, so that nothing is still on its way out of the upstream.
func (s *stack) seen(t *testing.T) []testkit.Seen {
	t.Helper()
	const prefix = "/barrier/"
	path := fmt.Sprint(prefix, s.barriers.Add(1))
	if !testkit.OK("http://" + s.upstream.Addr + path) {
		t.Fatal("the upstream does not answer")
	}
	var all []testkit.Seen
	testkit.Eventually(t, "the upstream's record", func() bool {
		all = all[:0]
		done := false
		for _, r := range s.upstream.Seen(t) {
			done = done || r.Path == path
			if !strings.HasPrefix(r.Path, prefix) {
				all = append(all, r)
			}
		}
		return done
	})
	return all
}

// reached fails unless exactly n requests reached the upstream so far, each with
// the id of an ALLOW.
func (s *stack) reached(t *testing.T, n int) {
	t.Helper()
	seen := s.seen(t)
	if len(seen) != n {
		t.Errorf("%d requests reached the upstream, want %d: %+v", len(seen), n, seen)
	}
	for _, r := range seen {
		ids := r.Headers["X-Kelpie-Decision-Id"]
		if len(ids) != 1 {
			t.Errorf("%s %s reached the upstream with the decision ids %q", r.Method, r.Path, ids)
			continue
		}
		if d := s.kelpie.Decision(t, ids[0]); d.Decision != "ALLOW" {
			t.Errorf("%s %s reached the upstream by the decision %+v", r.Method, r.Path, d)
		}
	}
}
