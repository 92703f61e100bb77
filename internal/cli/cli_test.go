package cli_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/kelpie-authz/kelpie/internal/cli"
)

const revops = "../../examples/revops"

// watcher keeps what is written, and tells once it holds what is wanted.
type watcher struct {
	mu   sync.Mutex
	text bytes.Buffer
	want string
	seen chan struct{}
}

func (w *watcher) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, err := w.text.Write(p)
	if w.want != "" && strings.Contains(w.text.String(), w.want) {
		w.want = ""
		close(w.seen)
	}
	return n, err
}

func (w *watcher) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// call are the flags of one request to the example policy.
func call(agent, action, resource, ip string, more ...string) []string {
	return append([]string{"--agent", agent, "--action", action, "--resource", resource, "--ip", ip}, more...)
}

func args(command string, rest ...[]string) []string {
	all := strings.Fields(command)
	for _, r := range rest {
		all = append(all, r...)
	}
	return all
}

// What a person sees, and the exit code that a script sees.
func TestOutput(t *testing.T) {
	t.Parallel()
	read := call("lead-router", "read", "salesforce/leads/42", "10.8.0.5")
	erase := call("data-cleaner", "delete", "salesforce/leads/42", "10.8.0.5")
	stranger := call("nobody", "read", "salesforce/leads/42", "10.8.0.5")
	tests := []struct {
		name string
		args []string
		code int
	}{
		{"check_allow", args("check --policy "+revops, read), cli.ExitOK},
		{"check_deny", args("check --policy "+revops, stranger), cli.ExitDeny},
		{"check_scopes", args("check --policy "+revops, call("lead-router", "read", "salesforce/opportunities/7", "10.8.0.5")), cli.ExitDeny},
		{"check_deny_message", args("check --policy "+revops, call("data-cleaner", "export", "salesforce/leads", "10.8.0.5")), cli.ExitDeny},
		{"check_approval", args("check --policy "+revops, erase), cli.ExitRequireApproval},
		{"check_approval_json", args("check --json --policy "+revops, erase), cli.ExitRequireApproval},
		{"check_json", args("check --json --policy "+revops, read), cli.ExitOK},
		{"check_dry_run", args("check --dry-run --policy "+revops, erase), cli.ExitRequireApproval},
		{"check_dry_run_json", args("check --dry-run --json --policy "+revops, read), cli.ExitDryRun},
		{"check_parameters", args("check --policy "+revops, call("refund-bot", "create", "stripe/refunds", "10.8.0.5", "--parameters", `{"amount":820}`)), cli.ExitRequireApproval},
		{"check_context", args("check --policy "+revops, call("ticket-triage", "create", "zendesk/tickets/9/comments", "198.51.100.20", "--context", `{"channel":"email"}`)), cli.ExitOK},
		{"check_incomplete", args("check --agent a --policy " + revops), cli.ExitError},
		{"check_malformed", args("check --policy "+revops, call("lead-router", "read", "salesforce//leads", "10.8.0.5")), cli.ExitError},
		{"check_bad_parameters", args("check --policy "+revops, read, []string{"--parameters", `{"a":1,"a":2}`}), cli.ExitError},
		{"check_bad_context", args("check --policy "+revops, read, []string{"--context", `[1]`}), cli.ExitError},
		{"check_nobody_to_ask", args("check", read), cli.ExitError},
		{"check_two_to_ask", args("check --server 127.0.0.1:1 --policy "+revops, read), cli.ExitError},
		{"check_no_directory", args("check --policy testdata/none", read), cli.ExitError},
		{"check_broken_policy", args("check --policy testdata/broken", read), cli.ExitError},
		{"check_server_down", args("check --server unix:///nonexistent/kelpie.sock", read), cli.ExitError},
		{"check_insecure_and_tls", args("check --server 127.0.0.1:1 --insecure --tls-ca x.pem", read), cli.ExitError},
		{"check_half_a_certificate", args("check --server 127.0.0.1:1 --tls-cert x.pem", read), cli.ExitError},
		{"check_bad_ca", args("check --server 127.0.0.1:1 --tls-ca cli.go", read), cli.ExitError},
		{"explain_approval", args("explain --policy "+revops, erase), cli.ExitOK},
		{"explain_deny", args("explain --policy "+revops, call("lead-router", "update", "salesforce/leads/42", "203.0.113.9")), cli.ExitOK},
		{"explain_json", args("explain --json --policy "+revops, stranger), cli.ExitOK},
		{"explain_malformed", args("explain --policy "+revops, call("a", "read", "/x", "")), cli.ExitError},
		{"test_revops", args("test " + revops), cli.ExitOK},
		{"test_failing", args("test testdata/failing"), cli.ExitError},
		{"test_failing_json", args("test --json testdata/failing"), cli.ExitError},
		{"test_broken_policy", args("test testdata/broken"), cli.ExitError},
		{"test_no_tests", args("test testdata/risky"), cli.ExitError},
		{"test_two_directories", args("test testdata/risky --policy testdata/failing"), cli.ExitError},
		{"test_no_directory", args("test"), cli.ExitError},
		{"lint_revops", args("lint " + revops), cli.ExitOK},
		{"lint_risky", args("lint testdata/risky"), cli.ExitError},
		{"lint_later", args("lint --now 2028-01-01T00:00:00Z testdata/risky"), cli.ExitError},
		{"lint_json", args("lint --json testdata/risky"), cli.ExitError},
		{"lint_broken", args("lint testdata/broken"), cli.ExitError},
		{"lint_bad_now", args("lint --now tomorrow " + revops), cli.ExitError},
		{"serve_without_policy", args("serve"), cli.ExitError},
		{"serve_bad_flags", args("serve --policy x --max-in-flight many --grpc-addr nowhere"), cli.ExitError},
		{"serve_broken_policy", args("serve --policy testdata/broken --grpc-addr 127.0.0.1:0 --admin-addr 127.0.0.1:0 --health-addr 127.0.0.1:0"), cli.ExitError},
		{"serve_plaintext_off_loopback", args("serve --grpc-addr 0.0.0.0:0 --policy " + revops), cli.ExitError},
		{"help", nil, cli.ExitOK},
		{"help_audit_query", args("audit query --help"), cli.ExitOK},
		{"help_audit_verify", args("audit verify --help"), cli.ExitOK},
		{"help_breakglass_open", args("breakglass open --help"), cli.ExitOK},
		{"help_breakglass_review", args("breakglass review --help"), cli.ExitOK},
		{"help_check", args("check --help"), cli.ExitOK},
		{"help_explain", args("explain --help"), cli.ExitOK},
		{"help_init", args("init --help"), cli.ExitOK},
		{"help_lint", args("lint --help"), cli.ExitOK},
		{"help_schema", args("schema --help"), cli.ExitOK},
		{"help_serve", args("serve --help"), cli.ExitOK},
		{"help_test", args("test --help"), cli.ExitOK},
		{"help_version", args("version --help"), cli.ExitOK},
		{"unknown_command", args("chek"), cli.ExitError},
		{"unknown_flag", args("check --agnet x"), cli.ExitError},
		{"unexpected_argument", args("check x"), cli.ExitError},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o := run(t, tt.args...)
			if o.code != tt.code {
				t.Errorf("exit code %d, want %d", o.code, tt.code)
			}
			if (o.stderr != "") != (o.code == cli.ExitError && o.stdout == "") {
				t.Errorf("exit code %d with this on standard error: %q, and this on standard output: %q", o.code, o.stderr, o.stdout)
			}
			golden(t, tt.name, tt.args, o)
		})
	}
}

func TestEnvironment(t *testing.T) {
	t.Parallel()
	read := call("lead-router", "read", "salesforce/leads/42", "10.8.0.5")
	for _, tt := range []struct {
		name      string
		variables []string
		args      []string
		code      int
	}{
		{"a policy", []string{"KELPIE_POLICY", revops}, args("check", read), cli.ExitOK},
		{"for test", []string{"KELPIE_POLICY", revops}, args("test"), cli.ExitOK},
		{"for lint", []string{"KELPIE_POLICY", revops}, args("lint"), cli.ExitOK},
		{"two of a kind", []string{"KELPIE_POLICY", revops, "KELPIE_SERVER", "127.0.0.1:1"}, args("check", read), cli.ExitError},
		{"a flag beats it", []string{"KELPIE_SERVER", "127.0.0.1:1"}, args("check --policy "+revops, read), cli.ExitOK},
		{"TLS files", []string{"KELPIE_TLS_CA", "none.pem"}, args("check --server 127.0.0.1:1", read), cli.ExitError},
		{"serve", []string{"KELPIE_POLICY", "testdata/none"}, args("serve"), cli.ExitError},
	} {
		if o := runWith(t, tt.variables, tt.args...); o.code != tt.code {
			t.Errorf("%s: exit code %d, want %d\n%s%s", tt.name, o.code, tt.code, o.stdout, o.stderr)
		}
	}
}

func TestInit(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new", "policy")
	if o := run(t, "init", dir); o.code != cli.ExitOK || !strings.Contains(o.stdout, "kelpie test "+dir) {
		t.Fatalf("got %+v", o)
	}
	if o := run(t, "test", dir); o.code != cli.ExitOK || strings.Contains(o.stdout, "BY NO TEST") {
		t.Errorf("its tests fail or leave something out:\n%s%s", o.stdout, o.stderr)
	}
	if o := run(t, "lint", dir); o.code != cli.ExitOK {
		t.Errorf("it does not lint clean:\n%s%s", o.stdout, o.stderr)
	}
	if o := run(t, args("check --policy "+dir, call("helper", "read", "notes/1", "127.0.0.1"))...); o.code != cli.ExitOK {
		t.Errorf("the next step that init prints does not work:\n%s%s", o.stdout, o.stderr)
	}
}

func TestInitOverwritesNothing(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"policy.yaml", "policy_test.yaml", "mine.yml"} {
		dir := t.TempDir()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
		if o := run(t, "init", dir); o.code != cli.ExitError || !strings.Contains(o.stderr, name) {
			t.Errorf("%s: got %+v", name, o)
		}
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 1 {
			t.Errorf("%s: the directory now holds %v (%v)", name, entries, err)
		}
		if text, err := os.ReadFile(path); err != nil || string(text) != "mine" {
			t.Errorf("%s was changed: %q %v", name, text, err)
		}
	}
}

func TestJUnit(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "junit.xml")
	if o := run(t, "test", "testdata/failing", "--junit", file); o.code != cli.ExitError {
		t.Fatalf("exit code %d", o.code)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var suite struct {
		Tests    int `xml:"tests,attr"`
		Failures int `xml:"failures,attr"`
		Cases    []struct {
			Name    string `xml:"name,attr"`
			Failure *struct {
				Message string `xml:"message,attr"`
				Text    string `xml:",chardata"`
			} `xml:"failure"`
		} `xml:"testcase"`
	}
	if err := xml.Unmarshal(text, &suite); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	if suite.Tests != 3 || suite.Failures != 2 || len(suite.Cases) != 3 || suite.Cases[0].Failure != nil ||
		suite.Cases[1].Failure == nil || !strings.Contains(suite.Cases[1].Failure.Text, "insufficient_scope") {
		t.Errorf("got %+v", suite)
	}
	bad := filepath.Join(t.TempDir(), "none", "junit.xml")
	if o := run(t, "test", revops, "--junit", bad); o.code != cli.ExitError {
		t.Errorf("a report that cannot be written: exit code %d", o.code)
	}
}

func TestSchema(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, a := range [][]string{{"schema"}, {"schema", "--tests"}} {
		o := run(t, a...)
		if o.code != cli.ExitOK || !json.Valid([]byte(o.stdout)) || seen[o.stdout] {
			t.Errorf("%v: exit code %d, valid %v", a, o.code, json.Valid([]byte(o.stdout)))
		}
		seen[o.stdout] = true
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	if o := run(t, "version"); o.code != cli.ExitOK || !strings.HasPrefix(o.stdout, "kelpie ") {
		t.Errorf("got %+v", o)
	}
	o := run(t, "version", "--json")
	var v struct {
		Version string `json:"version"`
		Go      string `json:"go"`
	}
	if err := json.Unmarshal([]byte(o.stdout), &v); err != nil || v.Version == "" || !strings.HasPrefix(v.Go, "go") {
		t.Errorf("got %q, %v", o.stdout, err)
	}
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if o := run(t, "completion", shell); o.code != cli.ExitOK || !strings.Contains(o.stdout, "kelpie") {
			t.Errorf("%s: exit code %d", shell, o.code)
		}
	}
}

// A word that is no command is told as one, whatever flags follow it, with the command
// that was meant.
func TestUnknownCommands(t *testing.T) {
	t.Parallel()
	for words, want := range map[string]string{
		"chek --agent x":                    "unknown command \"chek\" for \"kelpie\"; did you mean `kelpie check`? See `kelpie --help`",
		"xyzzy":                             "unknown command \"xyzzy\" for \"kelpie\"; see `kelpie --help`",
		"approve apr_1":                     "unknown command \"approve\" for \"kelpie\"; did you mean `kelpie approvals approve`? See `kelpie --help`",
		"approve apr_1 --yes --as a":        "did you mean `kelpie approvals approve`?",
		"deny":                              "did you mean `kelpie approvals deny`?",
		"verify":                            "did you mean `kelpie audit verify`?",
		"show x":                            "did you mean `kelpie approvals show` or `kelpie limits show`?",
		"approvals aprove apr_1":            "unknown command \"aprove\" for \"kelpie approvals\"; did you mean `kelpie approvals approve`? See `kelpie approvals --help`",
		"approvals aprove apr_1 --yes --as": "did you mean `kelpie approvals approve`?",
		"approvals apr_1":                   "unknown command \"apr_1\" for \"kelpie approvals\"; see `kelpie approvals --help`",
		"breakglass opn --agent x":          "did you mean `kelpie breakglass open`?",
		"audit querry --agent x":            "did you mean `kelpie audit query`?",
		"limits rest":                       "did you mean `kelpie limits reset`?",
		"approvals --yes":                   "unknown flag: --yes; see `kelpie approvals --help`",
		"approvals list x --all":            "\"x\" belongs to no flag; see `kelpie approvals list --help`",
	} {
		if o := run(t, args(words)...); o.code != cli.ExitError || o.stdout != "" || !strings.HasPrefix(o.stderr, "kelpie: ") || !strings.Contains(o.stderr, want) {
			t.Errorf("%s: exit code %d, %q, want %q", words, o.code, o.stderr, want)
		}
	}
}

// A pipe that is closed must not end as if all were well.
func TestOutputThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	read := call("lead-router", "read", "salesforce/leads/42", "10.8.0.5")
	for _, a := range [][]string{
		args("check --policy "+revops, read), args("check --json --policy "+revops, read),
		args("explain --policy "+revops, read), args("test " + revops), args("test --json " + revops),
		args("lint " + revops), args("lint --json " + revops),
		{"schema"},
		{"version"},
	} {
		var stderr bytes.Buffer
		code := cli.Run(t.Context(), &cli.Env{
			Args: a, Stdout: closedPipe{}, Stderr: &stderr, Now: noon,
			Lookup: func(string) (string, bool) { return "", false },
		})
		if code != cli.ExitError || !strings.Contains(stderr.String(), "write output") {
			t.Errorf("%v: exit code %d, %q", a, code, stderr.String())
		}
	}
}

type closedPipe struct{}

func (closedPipe) Write([]byte) (int, error) { return 0, os.ErrClosed }
