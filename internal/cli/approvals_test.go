package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"github.com/kelpie-authz/kelpie/internal/cli"
	"github.com/kelpie-authz/kelpie/internal/testkit"
	"github.com/kelpie-authz/kelpie/pdp"
)

const (
	first, second, nastyID, unknownID = "apr_00000000000000000000000000000001", "apr_00000000000000000000000000000002",
		"apr_00000000000000000000000000000004", "apr_000000000000000000000000000000ff"
	oncall = "--as security-oncall@example.com "
)

// What an approver sees. Each command has a desk of its own.
func TestOutputOfApprovals(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, words string
		code        int
	}{
		{"approvals_list", "list", cli.ExitOK},
		{"approvals_list_all", "list --all", cli.ExitOK},
		{"approvals_list_agent", "list --all --agent org-admin", cli.ExitOK},
		{"approvals_list_none", "list --agent nobody", cli.ExitOK},
		{"approvals_list_all_none", "list --all --agent nobody", cli.ExitOK},
		{"approvals_list_limit", "list --limit 2", cli.ExitOK},
		{"approvals_list_json", "list --limit 1 --json", cli.ExitOK},
		{"approvals_list_json_none", "list --agent nobody --json", cli.ExitOK},
		{"approvals_show", "show " + first, cli.ExitOK},
		{"approvals_show_nasty", "show " + nastyID, cli.ExitOK},
		{"approvals_show_half", "show " + second, cli.ExitOK},
		{"approvals_show_denied", "show apr_00000000000000000000000000000005", cli.ExitOK},
		{"approvals_show_consumed", "show apr_00000000000000000000000000000006", cli.ExitOK},
		{"approvals_show_json", "show --json " + first, cli.ExitOK},
		{"approvals_show_unknown", "show " + unknownID, cli.ExitError},
		{"approvals_show_nothing", "show", cli.ExitError},
		{"approvals_approve", "approve --yes " + oncall + first, cli.ExitOK},
		{"approvals_approve_half", "approve --yes " + oncall + second, cli.ExitOK},
		{"approvals_approve_nasty", "approve --yes " + oncall + nastyID, cli.ExitOK},
		{"approvals_approve_json", "approve --yes --json --reason why " + oncall + first, cli.ExitOK},
		{"approvals_approve_nobody", "approve --yes " + first, cli.ExitError},
		{"approvals_approve_stranger", "approve --yes --as mallory@example.com " + first, cli.ExitError},
		{"approvals_approve_decided", "approve --yes " + oncall + "apr_00000000000000000000000000000005", cli.ExitError},
		{"approvals_approve_unknown", "approve --yes " + oncall + unknownID, cli.ExitError},
		{"approvals_approve_no_terminal", "approve " + oncall + first, cli.ExitError},
		{"approvals_deny", "deny --yes --reason not-this-one " + oncall + first, cli.ExitOK},
		{"approvals_deny_no_reason", "deny --yes " + oncall + first, cli.ExitError},
		{"approvals_deny_no_terminal", "deny --reason x " + oncall + first, cli.ExitError},
		{"approvals_cancel", "cancel --yes " + oncall + first, cli.ExitOK},
		{"approvals_cancel_two", "cancel --yes " + first + " " + second, cli.ExitError},
		{"approvals_word", "list x", cli.ExitError},
		{"help_approvals", "--help", cli.ExitOK},
		{"help_approvals_list", "list --help", cli.ExitOK},
		{"help_approvals_show", "show --help", cli.ExitOK},
		{"help_approvals_approve", "approve --help", cli.ExitOK},
		{"help_approvals_deny", "deny --help", cli.ExitOK},
		{"help_approvals_cancel", "cancel --help", cli.ExitOK},
		{"help_approvals_watch", "watch --help", cli.ExitOK},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			words := args("approvals " + tt.words)
			flags := []string{}
			if !slices.Contains(words, "--help") {
				_, _, flags = openDesk(t, records())
			}
			o := run(t, slices.Concat(words, flags)...)
			if o.code != tt.code {
				t.Errorf("exit code %d, want %d", o.code, tt.code)
			}
			if (o.stderr != "") != (o.code == cli.ExitError) {
				t.Errorf("exit code %d with this on standard error: %q", o.code, o.stderr)
			}
			if o.code == cli.ExitError && o.stdout != "" {
				t.Errorf("nothing was done, and this is on standard output: %q", o.stdout)
			}
			if len(flags) > 0 {
				o.stderr = strings.ReplaceAll(o.stderr, flags[1], "ADDR")
			}
			shows(t, o.stdout+o.stderr)
			golden(t, tt.name, words, o)
		})
	}
}

// What is said of standing grants and of broken glasses, which turns on whether they
// are in force.
func TestOutputOfGrants(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, words string }{
		{"grants_list", "list"},
		{"grants_list_all", "list --all"},
		{"grants_show", "show apr_00000000000000000000000000000011"},
		{"grants_show_revoked", "show apr_00000000000000000000000000000013"},
		{"grants_show_pending", "show apr_00000000000000000000000000000015"},
		{"grants_cancel", "cancel --yes " + oncall + "apr_00000000000000000000000000000011"},
		{"glass_show", "show apr_00000000000000000000000000000021"},
		{"glass_show_expired", "show apr_00000000000000000000000000000022"},
		{"glass_show_reviewed", "show apr_00000000000000000000000000000023"},
		{"glass_show_pending", "show apr_00000000000000000000000000000024"},
		{"glass_cancel", "cancel --yes " + oncall + "apr_00000000000000000000000000000021"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, _, flags := openDesk(t, grants())
			words := args("approvals " + tt.words)
			o := run(t, slices.Concat(words, flags)...)
			if o.code != cli.ExitOK || o.stderr != "" {
				t.Errorf("exit code %d: %s", o.code, o.stderr)
			}
			golden(t, tt.name, words, o)
		})
	}
}

func TestGrantsAreWatched(t *testing.T) {
	t.Parallel()
	some := grants()
	d, _, out, stop := watching(t, "", nil)
	for _, r := range some {
		d.changes <- r
	}
	testkit.Eventually(t, "all lines", func() bool { return strings.Count(out.String(), "\n") == len(some) })
	code, stderr := stop()
	golden(t, "grants_watch", args("approvals watch"), outcome{out.String(), stderr, code})
}

// shows fails if a text has something that is not seen.
func shows(t *testing.T, text string) {
	t.Helper()
	for _, r := range text {
		if r != '\n' && (!unicode.IsPrint(r) || unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)) {
			t.Errorf("%U is on the screen", r)
		}
	}
}

// No line that an agent can write into begins like one of ours, or is so long
// that the terminal breaks it.
func TestAgentsForgeNoLine(t *testing.T) {
	t.Parallel()
	_, _, flags := openDesk(t, records())
	o := run(t, append(args("approvals show "+nastyID), flags...)...)
	if strings.Count(o.stdout, "\nNeeded") != 1 || strings.Count(o.stdout, "\nSaid so far") != 1 || strings.Count(o.stdout, "\n  agent ") != 1 {
		t.Errorf("headings are there more than once:\n%s", o.stdout)
	}
	for line := range strings.Lines(o.stdout) {
		if n := len([]rune(line)); n > 81 {
			t.Errorf("a line of %d columns: %s", n, line)
		}
	}
	_, words, found := strings.Cut(o.stdout, "not verified\n")
	if !found {
		t.Fatal("the agent's words are not marked")
	}
	for line := range strings.Lines(words) {
		if !strings.HasPrefix(line, "  | ") {
			t.Errorf("a line of the agent's words that is not marked: %s", line)
		}
	}
}

// What is escaped for the eye is the same JSON.
func TestApprovalsAsJSONAreWhole(t *testing.T) {
	t.Parallel()
	_, _, flags := openDesk(t, records())
	o := run(t, append(args("approvals show --json "+nastyID), flags...)...)
	shows(t, o.stdout)
	var got struct {
		Approval struct {
			Resource string `json:"resource"`
			Subject  string `json:"subject"`
			Details  []struct {
				Name  string `json:"name"`
				Value string `json:"value"`
			} `json:"details"`
		} `json:"approval"`
	}
	if err := json.Unmarshal([]byte(o.stdout), &got); err != nil {
		t.Fatal(err)
	}
	want := records()[3]
	if got.Approval.Resource != want.Resource || got.Approval.Subject != want.Subject || len(got.Approval.Details) != len(want.Details) {
		t.Errorf("got %+v", got)
	}
	for i, d := range want.Details {
		if got.Approval.Details[i].Name != d.Name || got.Approval.Details[i].Value != d.Value {
			t.Errorf("detail %d: %q", i, got.Approval.Details[i])
		}
	}
}

func TestApprovalsAreReadPageByPage(t *testing.T) {
	t.Parallel()
	many := make([]pdp.ApprovalRecord, 2500)
	for i := range many {
		many[i] = pdp.ApprovalRecord{ID: fmt.Sprintf("apr_%032x", i), State: pdp.ApprovalPending, Agent: "a"}
	}
	for limit, want := range map[string]struct {
		listed int
		pages  []int
	}{
		"0":    {2500, []int{1000, 1000, 1000}},
		"1500": {1500, []int{1000, 500}},
		"7":    {7, []int{7}},
	} {
		d, _, flags := openDesk(t, many)
		o := run(t, append(args("approvals list --limit "+limit), flags...)...)
		if n := strings.Count(o.stdout, "apr_"); o.code != cli.ExitOK || n != want.listed {
			t.Errorf("--limit %s: exit code %d, %d listed, want %d\n%s", limit, o.code, n, want.listed, o.stderr)
		}
		if more := strings.Contains(o.stdout, "There may be more"); more != (want.listed < len(many)) {
			t.Errorf("--limit %s: that there are more is told: %v", limit, more)
		}
		if diff := cmp.Diff(want.pages, d.pages); diff != "" {
			t.Errorf("--limit %s: pages (-want +got):\n%s", limit, diff)
		}
	}
}

// watching runs `approvals watch` until stop is called.
func watching(t *testing.T, words string, records []pdp.ApprovalRecord) (d *paperDesk, drain func() error, out *watcher, stop func() (int, string)) {
	t.Helper()
	d, srv, flags := openDesk(t, records)
	ctx, cancel := context.WithCancel(t.Context())
	out = &watcher{}
	var stderr bytes.Buffer
	ended := make(chan int, 1)
	go func() {
		ended <- cli.Run(ctx, &cli.Env{
			Args: slices.Concat(args("approvals watch "+words), flags), Stdout: out, Stderr: &stderr, Now: noon,
			Lookup: func(string) (string, bool) { return "", false },
		})
	}()
	testkit.Receive(t, "the watch", d.watching)
	drain = func() error {
		err := srv.Drain(context.Background())
		ended <- testkit.Receive(t, "the end of the watch", ended)
		return err
	}
	return d, drain, out, func() (int, string) {
		cancel()
		return testkit.Receive(t, "the end of the watch", ended), stderr.String()
	}
}

func TestApprovalsAreWatched(t *testing.T) {
	t.Parallel()
	some := records()
	d, _, out, stop := watching(t, "", nil)
	for _, r := range some {
		d.changes <- r
	}
	testkit.Eventually(t, "six lines", func() bool { return strings.Count(out.String(), "\n") == len(some) })
	code, stderr := stop()
	shows(t, out.String())
	golden(t, "approvals_watch", args("approvals watch"), outcome{out.String(), stderr, code})

	d, _, out, stop = watching(t, "--json --agent org-admin", nil)
	for _, r := range some {
		d.changes <- r
	}
	testkit.Eventually(t, "a line", func() bool { return strings.Count(out.String(), "\n") == 1 })
	if code, stderr := stop(); code != cli.ExitOK || stderr != "" {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	var change struct {
		Approval struct {
			ID    string `json:"id"`
			Agent string `json:"agent"`
		} `json:"approval"`
	}
	if err := json.Unmarshal([]byte(out.String()), &change); err != nil || change.Approval.Agent != "org-admin" || change.Approval.ID != some[5].ID {
		t.Errorf("%v in %s", err, out.String())
	}
}

// A watch that the server ends did not end well.
func TestAWatchEndsWithItsServer(t *testing.T) {
	t.Parallel()
	_, drain, _, stop := watching(t, "", nil)
	if err := drain(); err != nil {
		t.Error(err)
	}
	if code, stderr := stop(); code != cli.ExitError || !strings.Contains(stderr, "the server is stopping; watch again") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}

// Nothing is decided where the vote cannot be told of.
func TestApprovalsThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	for _, words := range []string{"list", "list --json", "show " + first, "show --json " + first, "approve --yes " + oncall + first} {
		_, _, flags := openDesk(t, records())
		var stderr bytes.Buffer
		code := cli.Run(t.Context(), &cli.Env{
			Args: slices.Concat(args("approvals "+words), flags), Stdout: closedPipe{}, Stderr: &stderr, Now: noon,
			Lookup: func(string) (string, bool) { return "", false },
		})
		if code != cli.ExitError || !strings.Contains(stderr.String(), "write output") {
			t.Errorf("%s: exit code %d, %q", words, code, stderr.String())
		}
	}
}

func TestApprovalIDsAreCompleted(t *testing.T) {
	t.Parallel()
	_, _, flags := openDesk(t, records())
	for _, command := range []string{"show", "approve", "deny", "cancel"} {
		o := run(t, slices.Concat(args("__complete approvals "+command), flags, []string{"apr_"})...)
		if o.code != cli.ExitOK || strings.Count(o.stdout, "apr_") != 4 || !strings.HasPrefix(o.stdout, first+"\tdata-cleaner delete salesforce/leads/42\n") {
			t.Errorf("%s: exit code %d\n%s", command, o.code, o.stdout)
		}
		shows(t, strings.ReplaceAll(o.stdout, "\t", ""))
	}
	if o := run(t, slices.Concat(args("__complete approvals show"), flags, []string{second[:len(second)-1] + "2"})...); strings.Count(o.stdout, "apr_") != 1 {
		t.Errorf("of one:\n%s", o.stdout)
	}
	if o := run(t, slices.Concat(args("__complete approvals show "+first), flags, []string{""})...); strings.Contains(o.stdout, "apr_") {
		t.Errorf("of a second:\n%s", o.stdout)
	}
	if o := run(t, args("__complete approvals show --server unix:///nonexistent/a --admin-token-file /nonexistent/t apr_")...); o.code != cli.ExitOK || strings.Contains(o.stdout, "apr_") {
		t.Errorf("without a server: exit code %d\n%s", o.code, o.stdout)
	}
}

// What stands between the command and the server is told by name.
func TestApprovalsTellWhatIsWrong(t *testing.T) {
	t.Parallel()
	_, _, flags := openDesk(t, records())
	for words, want := range map[string]string{
		"list --server unix:///nonexistent/a --admin-token-file " + flags[3]:                                                          "no answer from unix:///nonexistent/a: ",
		"watch --server unix:///nonexistent/a --admin-token-file " + flags[3]:                                                         "no answer from unix:///nonexistent/a: ",
		"list --server " + flags[1] + " --admin-token-file /etc/hostname":                                                             "this is not the admin token",
		"watch --server " + flags[1] + " --admin-token-file /etc/hostname":                                                            "this is not the admin token",
		"list --server " + flags[1] + " --admin-token-file /nonexistent":                                                              "name it with --admin-token-file",
		"list --server " + flags[1] + " --admin-token-file /dev/null":                                                                 "/dev/null is empty",
		"list --server " + flags[1] + " --token-file /etc/hostname":                                                                   "(given was the token in /etc/hostname, named by --token-file; it is no token of an identity provider, or the server knows none: see its approver_oidc_issuer)",
		"approve --yes --as a --standing 2 --for 1h --bound x=any " + first + " --server " + flags[1] + " --token-file /etc/hostname": "given was the token in /etc/hostname",
	} {
		if o := run(t, args("approvals "+words)...); o.code != cli.ExitError || !strings.Contains(o.stderr, want) {
			t.Errorf("%s: exit code %d, %q; want %q", words, o.code, o.stderr, want)
		}
	}
}

// asked runs a command that asks a person, who answers through stdin.
func asked(t *testing.T, ctx context.Context, stdin io.Reader, words string, flags []string) outcome { //nolint:revive // The context is the command's.
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := cli.Run(ctx, &cli.Env{
		Args: slices.Concat(args("approvals "+words), flags), Stdin: stdin, Stdout: &stdout, Stderr: &stderr, Now: noon,
		Lookup: func(string) (string, bool) { return "", false },
	})
	return outcome{stdout.String(), stderr.String(), code}
}

// What is piped is no person's word, and neither is what is not there.
func TestAPipeConfirmsNothing(t *testing.T) {
	t.Parallel()
	d, _, flags := openDesk(t, records())
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = null.Close() }()
	for _, stdin := range []io.Reader{strings.NewReader("yes\n"), null, nil} {
		o := asked(t, t.Context(), stdin, "approve "+oncall+first, flags)
		if o.code != cli.ExitError || !strings.Contains(o.stderr, "there is no terminal") || o.stdout != "" {
			t.Errorf("got %+v", o)
		}
	}
	if r, err := d.Get(t.Context(), first); err != nil || r.State != pdp.ApprovalPending || len(r.Votes) != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}
