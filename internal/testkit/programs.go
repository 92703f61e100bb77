package testkit

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Build builds packages of this module into dir, as a user would: without the
// race detector, because what is timed and measured is the real thing. It is
// for TestMain, so it returns its error.
func Build(dir string, packages ...string) error {
	ctx := context.Background() // TestMain has none
	root, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return fmt.Errorf("find go.mod: %w", err)
	}
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-trimpath", "-o", dir + string(os.PathSeparator)}, packages...)...)
	cmd.Dir = filepath.Dir(strings.TrimSpace(string(root)))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %v: %w\n%s", packages, err, out)
	}
	return nil
}

// KelpieConfig is how a Kelpie is started. Addresses that are not said are free ones.
type KelpieConfig struct {
	Binary string
	Policy string
	// GRPCAddr is host:port or unix:///path.
	GRPCAddr string
	Args     []string
}

// Kelpie is a running `kelpie serve`.
type Kelpie struct {
	*Process

	GRPC, Health string

	mu      sync.Mutex
	read    int // bytes of its standard output that were parsed
	decided []Decided
	byID    map[string]Decided
}

// Decided is a line of the decision log, as far as tests look at it.
type Decided struct {
	DecisionID    string `json:"decision_id"`
	Agent         string `json:"agent"`
	Subject       string `json:"subject"`
	Action        string `json:"action"`
	Resource      string `json:"resource"`
	SourceIP      string `json:"source_ip"`
	Decision      string `json:"decision"`
	Reason        string `json:"reason"`
	PolicyVersion string `json:"policy_version"`
	Route         string `json:"route"`
	HTTPMethod    string `json:"http_method"`
	HTTPHost      string `json:"http_host"`
	HTTPPath      string `json:"http_path"`
}

// StartKelpie starts `kelpie serve` and waits until it is ready.
func StartKelpie(tb testing.TB, cfg KelpieConfig) *Kelpie {
	tb.Helper()
	k := &Kelpie{GRPC: cfg.GRPCAddr, Health: FreeAddr(tb), byID: map[string]Decided{}}
	if k.GRPC == "" {
		k.GRPC = FreeAddr(tb)
	}
	state := filepath.Join(tb.TempDir(), "state")
	tb.Cleanup(func() { NoSecretsUnder(tb, state, nil) })
	args := append([]string{
		"serve", "--policy", cfg.Policy, "--state", state,
		"--grpc-addr", k.GRPC, "--admin-addr", FreeAddr(tb), "--health-addr", k.Health,
	}, cfg.Args...)
	k.Process = Start(tb, Program{Name: "kelpie", Path: cfg.Binary, Args: args})
	k.until(tb, "readiness", k.Ready)
	return k
}

// Ready reports what /readyz says.
func (k *Kelpie) Ready() bool { return OK("http://" + k.Health + "/readyz") }

// Decisions is the decision log so far, without the probes of SeesKelpies. A line may come up to 50 ms after its answer.
func (k *Kelpie) Decisions(tb testing.TB) []Decided {
	tb.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.parse(tb)
	return slices.Clone(k.decided)
}

// parse takes in what was written since it was called last.
func (k *Kelpie) parse(tb testing.TB) {
	tb.Helper()
	text := k.Stdout.String()[k.read:]
	whole := text[:strings.LastIndexByte(text, '\n')+1]
	k.read += len(whole)
	for _, d := range jsonLines[Decided](tb, whole) {
		if d.HTTPPath == ProbePath {
			continue
		}
		k.decided = append(k.decided, d)
		k.byID[d.DecisionID] = d
	}
}

// Decision waits for the record of a decision.
func (k *Kelpie) Decision(tb testing.TB, id string) Decided {
	tb.Helper()
	var found Decided
	k.until(tb, "the record of decision "+id, func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.parse(tb)
		var known bool
		found, known = k.byID[id]
		return known
	})
	return found
}

// jsonLines parses whole lines; the last one may not be finished yet.
func jsonLines[T any](tb testing.TB, text string) []T {
	tb.Helper()
	var all []T
	for line := range strings.Lines(text) {
		if !strings.HasSuffix(line, "\n") {
			break
		}
		var v T
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			tb.Fatalf("%v in the line %s", err, line)
		}
		all = append(all, v)
	}
	return all
}

// Edit replaces a text of a configuration. Old must be there.
type Edit struct{ Old, New string }

// Port replaces a port of an Envoy configuration by that of addr.
func Port(tb testing.TB, port int, addr string) Edit {
	tb.Helper()
	_, free, err := net.SplitHostPort(addr)
	if err != nil {
		tb.Fatal(err)
	}
	return Edit{fmt.Sprintf("port_value: %d}", port), fmt.Sprintf("port_value: %s}", free)}
}

// EnvoyConfig is how an Envoy is started.
type EnvoyConfig struct {
	Binary string
	// File is a configuration whose listener is 127.0.0.1:8080 and whose admin
	// interface is 127.0.0.1:9901; both are replaced by free ones.
	File string
	// Edits are made to it in order.
	Edits []Edit
}

// Envoy is a running Envoy.
type Envoy struct {
	*Process

	// Addr is its listener, Admin its admin interface.
	Addr, Admin string
}

// Accessed is a line of the access log that the examples write.
type Accessed struct {
	Method     string `json:"method"`
	Host       string `json:"host"`
	Path       string `json:"path"`
	Status     int    `json:"status"`
	Details    string `json:"details"`
	Decision   string `json:"decision"`
	Reason     string `json:"reason"`
	DecisionID string `json:"decision_id"`
	Agent      string `json:"agent"`
	Action     string `json:"action"`
	Resource   string `json:"resource"`
	Route      string `json:"route"`
}

// StartEnvoy starts Envoy and waits until it serves. Whether it sees a Kelpie is another question.
func StartEnvoy(tb testing.TB, cfg EnvoyConfig) *Envoy {
	tb.Helper()
	e := &Envoy{Addr: FreeAddr(tb), Admin: FreeAddr(tb)}
	text, err := os.ReadFile(cfg.File)
	if err != nil {
		tb.Fatal(err)
	}
	edits := append([]Edit{Port(tb, 8080, e.Addr), Port(tb, 9901, e.Admin)}, cfg.Edits...)
	file := filepath.Join(tb.TempDir(), filepath.Base(cfg.File))
	WriteFile(tb, file, []byte(Replace(tb, string(text), edits...)))
	e.Process = Start(tb, Program{Name: "envoy", Path: cfg.Binary, Args: []string{
		"-c", file, "--disable-hot-restart", "--log-level", "warning", "--concurrency", "2",
		// It would keep lines of the access log for ten seconds.
		"--file-flush-interval-msec", "50",
	}})
	e.until(tb, "readiness", func() bool { return OK("http://" + e.Admin + "/ready") })
	return e
}

// Replace makes edits, and fails where there is nothing to replace.
func Replace(tb testing.TB, text string, edits ...Edit) string {
	tb.Helper()
	for _, edit := range edits {
		if !strings.Contains(text, edit.Old) {
			tb.Fatalf("nothing to replace: there is no %q", edit.Old)
		}
		text = strings.ReplaceAll(text, edit.Old, edit.New)
	}
	return text
}

// AccessLog is its access log so far, without the probes of SeesKelpies. A line may come a little after its answer.
func (e *Envoy) AccessLog(tb testing.TB) []Accessed {
	tb.Helper()
	return slices.DeleteFunc(jsonLines[Accessed](tb, e.Stdout.String()), func(a Accessed) bool { return a.Path == ProbePath })
}

// Stat is a counter or gauge of its admin interface, such as
// cluster.kelpie.membership_healthy; -1 if it has none of this name.
func (e *Envoy) Stat(tb testing.TB, name string) int {
	tb.Helper()
	_, text, err := fetch("http://" + e.Admin + "/stats?filter=^" + regexp.QuoteMeta(name) + "$")
	if err != nil {
		tb.Fatal(err)
	}
	_, value, found := strings.Cut(strings.TrimSpace(text), ": ")
	if !found {
		return -1
	}
	n, err := strconv.Atoi(value)
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

// ProbePath is what SeesKelpies asks for, in nobody's name.
const ProbePath = "/probe"

// SeesKelpies waits until this many Kelpies are well in its eyes. Its threads
// learn of it one after the other, so some requests must then be answered too.
func (e *Envoy) SeesKelpies(tb testing.TB, n int) {
	tb.Helper()
	e.until(tb, fmt.Sprintf("%d healthy Kelpies", n), func() bool {
		return e.Stat(tb, "cluster.kelpie.membership_healthy") == n
	})
	// 503 is what the examples tell Envoy to say when nobody decided.
	streak := 0
	e.until(tb, "answers of all its threads", func() bool {
		if code, _, err := fetch("http://" + e.Addr + ProbePath); err == nil && (code == http.StatusServiceUnavailable) == (n == 0) {
			streak++
		} else {
			streak = 0
		}
		return streak == 8
	})
}

// Upstream is a running examples/envoy/upstream.
type Upstream struct {
	*Process

	Addr string
}

// Seen is a request that reached the upstream.
type Seen struct {
	Protocol string      `json:"protocol"`
	Method   string      `json:"method"`
	Host     string      `json:"host"`
	Path     string      `json:"path"`
	Headers  http.Header `json:"headers"`
	Body     string      `json:"body"`
}

// StartUpstream starts the upstream and waits until it listens.
func StartUpstream(tb testing.TB, binary string) *Upstream {
	tb.Helper()
	u := &Upstream{Addr: FreeAddr(tb)}
	u.Process = Start(tb, Program{Name: "upstream", Path: binary, Args: []string{"-addr", u.Addr}})
	u.until(tb, "listening", func() bool {
		conn, err := (&net.Dialer{}).DialContext(tb.Context(), "tcp", u.Addr)
		if err != nil {
			return false
		}
		conn.Close()
		return true
	})
	return u
}

// Seen is what reached it so far.
func (u *Upstream) Seen(tb testing.TB) []Seen {
	tb.Helper()
	return jsonLines[Seen](tb, u.Stdout.String())
}
