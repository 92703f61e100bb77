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
		{"in another's name", "approvals approve " + id + " --yes --as security-lead@example.com --token-file " + file + at, cli.ExitError, "you are known as security-oncall@example.com; leave it out"},
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
