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

// Somebody decides by the token of his identity provider, in his own name, and the
// admin token decides nothing then.
func TestApproverByToken(t *testing.T) {
	t.Parallel()
	provider := testkit.StartProvider(t)
	s := serveRevops(t, "--approver-oidc-issuer", provider.Issuer, "--approver-oidc-audience", "kelpie")
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(provider.Token(t, nil)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	erase := args("check --server "+s.grpc, call("data-cleaner", "delete", "salesforce/leads/42", "10.8.0.5"))
	o := run(t, append(erase, "--json")...)
	id := regexp.MustCompile(`apr_[0-9a-f]{32}`).FindString(o.stdout)
	if o.code != cli.ExitRequireApproval || id == "" {
		t.Fatalf("exit code %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	at, admin := " --server "+s.admin, " --admin-token-file "+filepath.Join(s.state, "admin.token")
	for _, tt := range []struct {
		name, line string
		code       int
		want       string
	}{
		{"both tokens", "approvals list --token-file " + file + admin + at, cli.ExitError, "give --token-file or --admin-token-file"},
		{"no such file", "approvals list --token-file " + file + ".no" + at, cli.ExitError, "--token-file: open "},
		{"the admin token decides", "approvals approve " + id + " --yes --as security-oncall@example.com" + admin + at, cli.ExitError, "the local admin decides nothing"},
		{"in another's name", "approvals approve " + id + " --yes --as security-lead@example.com --token-file " + file + at, cli.ExitError, "says: --as is given, and you are known as security-oncall@example.com; leave it out"},
		{"list", "approvals list --token-file " + file + at, cli.ExitOK, id},
		{"approve", "approvals approve " + id + " --yes --token-file " + file + at, cli.ExitOK, "APPROVED"},
	} {
		if o := run(t, strings.Fields(tt.line)...); o.code != tt.code || !strings.Contains(o.stdout+o.stderr, tt.want) {
			t.Errorf("%s: exit code %d, want %d with %q:\n%s%s", tt.name, o.code, tt.code, tt.want, o.stdout, o.stderr)
		}
	}
	if o := run(t, erase...); o.code != cli.ExitOK {
		t.Errorf("after the yes: exit code %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	o = runWith(t, []string{"KELPIE_APPROVER_TOKEN_FILE", file, "KELPIE_ADMIN_SERVER", s.admin}, "approvals", "show", id)
	if o.code != cli.ExitOK || !strings.Contains(o.stdout, "security-oncall@example.com") || strings.Contains(o.stdout, "unverified)") {
		t.Errorf("shown: exit code %d\n%s%s", o.code, o.stdout, o.stderr)
	}
}

// Breaking the glass, from the command line: by who is known, listed until somebody
// else has reviewed it.
func TestBreakGlass(t *testing.T) {
	t.Parallel()
	provider := testkit.StartProvider(t)
	dir := t.TempDir()
	text, err := os.ReadFile(filepath.Join(revops, "policy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	policy := strings.Replace(string(text), "approvers:\n",
		"approvers:\n  breakglass: {members: [security-oncall@example.com, security-lead@example.com]}\n", 1)
	testkit.WriteFile(t, filepath.Join(dir, "policy.yaml"), []byte(policy))
	s := serveRevops(t, "--policy", dir, "--approver-oidc-issuer", provider.Issuer, "--approver-oidc-audience", "kelpie")
	token := func(email string) string {
		file := filepath.Join(t.TempDir(), "token")
		testkit.WriteFile(t, file, []byte(provider.Token(t, map[string]any{"email": email})))
		return " --token-file " + file + " --server " + s.admin
	}
	oncall, lead, other := token("security-oncall@example.com"), token("security-lead@example.com"), token("controller@example.com")
	admin := " --admin-token-file " + filepath.Join(s.state, "admin.token") + " --server " + s.admin
	do := func(line string, code int, want string) string {
		t.Helper()
		o := run(t, strings.Fields(line)...)
		if o.code != code || !strings.Contains(o.stdout+o.stderr, want) {
			t.Fatalf("%s: exit code %d, want %d with %q:\n%s%s", line, o.code, code, want, o.stdout, o.stderr)
		}
		return o.stdout
	}
	const order = "breakglass open --agent data-cleaner --reason down --ticket INC-7"
	do("breakglass open --agent data-cleaner --reason down"+oncall, cli.ExitError, "--ticket is missing")
	do(order+" --for 61m"+oncall, cli.ExitError, "says: --for is out of range; write at most 1h")
	do(order+" --server "+s.admin, cli.ExitError, "nothing says who you are")
	do(order+admin, cli.ExitError, "the admin token does not say who has it")
	do(order+other, cli.ExitError, "not in the approver group breakglass")
	do("breakglass list"+oncall, cli.ExitOK, "No glass is broken")
	id := regexp.MustCompile(`apr_[0-9a-f]{32}`).FindString(do(order+" --action delete --resource salesforce/**"+oncall, cli.ExitOK, "calls of data-cleaner (actions delete, resources salesforce/**) wait for nobody until"))
	if o := run(t, args("check --server "+s.grpc, call("data-cleaner", "delete", "salesforce/leads/42", "10.8.0.5"))...); o.code != cli.ExitOK || !strings.Contains(o.stdout, "ALLOW  ok_breakglass") {
		t.Errorf("exit code %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	do("breakglass list"+lead, cli.ExitOK, "INC-7   afterwards  down")
	do("approvals show "+id+lead, cli.ExitOK, "The glass is broken: calls of the agent need no yes")
	do("approvals list"+lead, cli.ExitOK, "nobody: the glass is broken")
	do("breakglass review "+id+" --reason fine"+lead, cli.ExitError, "not over")
	do("approvals cancel "+id+" --yes"+lead, cli.ExitOK, "REVOKED")
	do("approvals show "+id+lead, cli.ExitOK, "The glass was broken, which has ended: this lets no call through any more")
	do("approvals list --all"+lead, cli.ExitOK, "ended: the glass was broken, used 1 time\n")
	do("breakglass list"+lead, cli.ExitOK, "due in ")
	do("breakglass review "+id+" --reason fine"+oncall, cli.ExitError, "somebody else has to look at it")
	do("breakglass review "+id+lead, cli.ExitError, "give --reason")
	do("breakglass review "+id+" --reason fine"+lead, cli.ExitOK, "Reviewed by security-lead@example.com.")
	do("breakglass list --json"+lead, cli.ExitOK, "{\n  \"approvals\": []\n}\n")
}
