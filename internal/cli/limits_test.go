package cli_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/kelpie-authz/kelpie/internal/cli"
	"github.com/kelpie-authz/kelpie/internal/testkit"
)

func TestLimitsAreShownAndReset(t *testing.T) {
	t.Parallel()
	s := serveRevops(t)
	at := []string{"--server", s.admin, "--admin-token-file", filepath.Join(s.state, "admin.token")}
	limits := func(code int, words ...string) outcome {
		t.Helper()
		o := run(t, append(append([]string{"limits"}, words...), at...)...)
		if o.code != code {
			t.Fatalf("limits %v: exit code %d\n%s%s", words, o.code, o.stdout, o.stderr)
		}
		return o
	}
	if o := limits(cli.ExitOK, "show", "refund-bot"); o.stdout != "Every limit of refund-bot is full.\n" {
		t.Errorf("before the first call:\n%s", o.stdout)
	}
	refund := args("check --server "+s.grpc, call("refund-bot", "create", "stripe/refunds", "10.8.0.5", "--parameters", `{"amount":5}`))
	for range 2 {
		if o := run(t, refund...); o.code != cli.ExitOK {
			t.Fatalf("exit code %d\n%s%s", o.code, o.stdout, o.stderr)
		}
	}
	shown := regexp.MustCompile(`(?m)^LIMIT +LEFT +OF +RESET$(\n\S+ +\d+ +\d+ +in \S+$)+`)
	o := limits(cli.ExitOK, "show", "refund-bot")
	if !shown.MatchString(o.stdout) || !strings.Contains(o.stdout, "per-agent  1     3   in ") {
		t.Errorf("after two calls:\n%s", o.stdout)
	}
	lines := strings.Count(o.stdout, "\n") - 1
	if o := limits(cli.ExitOK, "show", "refund-bot", "--json"); strings.Count(o.stdout, `"name"`) != lines || !strings.Contains(o.stdout, `"remaining"`) {
		t.Errorf("as JSON, for %d limits:\n%s", lines, o.stdout)
	}
	if o := limits(cli.ExitOK, "reset", "refund-bot", "--limit", "per-agent", "--as", "ann"); o.stdout != "Reset 1 bucket of refund-bot.\n" {
		t.Errorf("reset of one:\n%s", o.stdout)
	}
	if o := limits(cli.ExitOK, "show", "refund-bot"); !strings.Contains(o.stdout, "is full") {
		t.Errorf("after the reset of one:\n%s", o.stdout)
	}
	limits(cli.ExitOK, "reset", "refund-bot")
	if o := limits(cli.ExitOK, "reset", "refund-bot"); o.stdout != "There was nothing to reset: it was full.\n" {
		t.Errorf("reset of nothing:\n%s", o.stdout)
	}
	if o := limits(cli.ExitOK, "reset", "refund-bot", "--json"); strings.TrimSpace(o.stdout) != "{}" {
		t.Errorf("reset of nothing as JSON:\n%s", o.stdout)
	}
	for _, tc := range []struct{ words, want string }{
		{"show nobody", "agent is not known"},
		{"show ..", "agent is malformed"},
		{"reset refund-bot --limit cals", "limit is none of the policy's"},
		{"show", "one agent's id"},
		{"show a b", "one agent's id"},
		{"reset", "one agent's id"},
	} {
		if o := limits(cli.ExitError, strings.Fields(tc.words)...); !strings.Contains(o.stderr, tc.want) || strings.Contains(o.stderr, "no answer") {
			t.Errorf("limits %s: %s, want %q", tc.words, o.stderr, tc.want)
		}
	}
	o = runWith(t, []string{"KELPIE_ADMIN_SERVER", s.admin, "KELPIE_ADMIN_TOKEN_FILE", filepath.Join(s.state, "admin.token")}, "limits", "show", "refund-bot")
	if o.code != cli.ExitOK {
		t.Errorf("with variables: exit code %d\n%s", o.code, o.stderr)
	}
}

// Each thing that can be wrong between the command and the server is told by name.
func TestLimitsTellWhatIsWrong(t *testing.T) {
	t.Parallel()
	s := serveRevops(t)
	token := filepath.Join(s.state, "admin.token")
	other := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(other, []byte("another\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"no token":           {[]string{"--server", s.admin, "--admin-token-file", other + "2"}, "name it with --admin-token-file"},
		"another token":      {[]string{"--server", s.admin, "--admin-token-file", other}, "the server at " + s.admin + " says: this is not the admin token"},
		"the gateways' door": {[]string{"--server", s.grpc, "--admin-token-file", token}, "the server at " + s.grpc + " says: unknown service kelpie.admin.v1.AdminService (is this its admin listener"},
		"nobody there":       {[]string{"--server", s.grpc + "x", "--admin-token-file", token}, "no answer from " + s.grpc + "x: "},
		"nobody is running":  {[]string{"--server", s.grpc + "x", "--admin-token-file", token}, "is it running"},
		"nobody listens":     {[]string{"--server", "127.0.0.1:1", "--admin-token-file", token}, "no answer from 127.0.0.1:1: "},
		"both":               {[]string{"--server", s.admin, "--admin-token-file", token, "--insecure", "--tls-ca", other}, "choose one"},
	} {
		o := run(t, append([]string{"limits", "show", "refund-bot"}, tc.args...)...)
		if o.code != cli.ExitError || !strings.Contains(o.stderr, tc.want) {
			t.Errorf("%s: exit code %d, %q; want %q", name, o.code, o.stderr, tc.want)
		}
	}
}

// What Redis refuses is told as the server's answer, with what to look at.
func TestLimitsTellOfRedis(t *testing.T) {
	t.Parallel()
	r := testkit.StartRedis(t, testkit.RedisConfig{})
	s := serveRevops(t, "--redis", r.URL(), "--redis-timeout", "2s")
	r.Do(t, "acl", "setuser", "default", "-scan")
	for _, words := range []string{"show refund-bot", "reset refund-bot"} {
		words := strings.Fields("limits " + words)
		o := run(t, append(words, "--server", s.admin, "--admin-token-file", filepath.Join(s.state, "admin.token"))...)
		said := "kelpie: the server at " + s.admin + " says: "
		if o.code != cli.ExitError || !strings.HasPrefix(o.stderr, said) || !strings.Contains(o.stderr, "'scan' command (the server asks Redis for them") {
			t.Errorf("%v: exit code %d, %q", words, o.code, o.stderr)
		}
	}
}
