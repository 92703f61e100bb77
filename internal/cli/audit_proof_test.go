package cli_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/audit"
	"github.com/kelpie-authz/kelpie/audit/fileaudit"
	"github.com/kelpie-authz/kelpie/internal/cli"
)

// goOn opens a log again, and adds a record.
func goOn(t *testing.T, dir, id string) {
	t.Helper()
	log, err := fileaudit.Open(fileaudit.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	r := audit.Record{Time: time.Now(), Kind: audit.KindDecision, Agent: "a", Decision: "ALLOW", DecisionID: id}
	if err := log.Append(t.Context(), &r, audit.Sync); err != nil {
		t.Fatal(err)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
}

// A log that was cut back, head included, fails by a head that was kept.
func TestAuditIsVerifiedByAHeadKeptElsewhere(t *testing.T) {
	t.Parallel()
	dir, older, away := keptAudit(t), t.TempDir(), t.TempDir()
	if err := os.RemoveAll(older); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(older, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	goOn(t, dir, "late")
	raw, err := os.ReadFile(filepath.Join(dir, "head.json"))
	if err != nil {
		t.Fatal(err)
	}
	head := filepath.Join(away, "head.json")
	if err := os.WriteFile(head, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if o := run(t, "audit", "verify", "--dir", dir, "--head", head); o.code != cli.ExitOK {
		t.Errorf("the log as it is: exit code %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	if o := run(t, "audit", "verify", "--dir", older); o.code != cli.ExitOK {
		t.Errorf("an older copy, without the head: exit code %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	if o := run(t, "audit", "verify", "--dir", older, "--head", head); o.code != cli.ExitDeny || !strings.Contains(o.stdout, "the end is cut off") {
		t.Errorf("an older copy, with the head: exit code %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	if err := os.WriteFile(head, bytes.Replace(raw, []byte(`"seq":`), []byte(`"seq":1`), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if o := run(t, "audit", "verify", "--dir", dir, "--head", head); o.code != cli.ExitDeny || !strings.Contains(o.stdout, "is not signed by key") {
		t.Errorf("a head that is forged: exit code %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	for path, want := range map[string]string{
		filepath.Join(away, "none"):     "is not there",
		filepath.Join(dir, "audit.pub"): "is no head of an audit: take a copy of a head.json",
	} {
		if o := run(t, "audit", "verify", "--dir", dir, "--head", path); o.code != cli.ExitError || !strings.Contains(o.stderr, "--head: ") || !strings.Contains(o.stderr, want) {
			t.Errorf("%s: exit code %d\n%s%s", path, o.code, o.stdout, o.stderr)
		}
	}
}

// A loss that the log tells of is told, and so is every fault behind it.
func TestAuditTellsEachFault(t *testing.T) {
	t.Parallel()
	dir := keptAudit(t)
	if err := os.Remove(filepath.Join(dir, "head.json")); err != nil {
		t.Fatal(err)
	}
	goOn(t, dir, "second")
	goOn(t, dir, "third")
	o := run(t, "audit", "verify", "--dir", dir)
	if o.code != cli.ExitDeny || !strings.Contains(o.stdout, "are gone") || !strings.Contains(o.stdout, "Behind that a signature proves 2 records.") || strings.Contains(o.stdout, "And: ") {
		t.Errorf("exit code %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	path := filepath.Join(dir, "audit-00000003.jsonl")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.Replace(raw, []byte("third"), []byte("thirt"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	o = run(t, "audit", "verify", "--dir", dir)
	if o.code != cli.ExitDeny || !strings.Contains(o.stdout, "And: audit-00000003.jsonl:3: it is not what was written here") || !strings.Contains(o.stdout, "Behind that a signature proves 1 record.") {
		t.Errorf("exit code %d\n%s%s", o.code, o.stdout, o.stderr)
	}
}

// What somebody wrote into a log does not steer the terminal of who searches it.
func TestAuditOfAChangedFileSteersNoTerminal(t *testing.T) {
	t.Parallel()
	for _, change := range [][2]string{
		{`"decision":"ALLOW"`, `"decision":"\u001b]0;owned"`},
		{`"reason":"ok"`, `"reason":"\u001b]0;owned"`},
		{`"kind":"decision"`, `"kind":"\u001b]0;owned"`},
		{`"kind":"decision"`, `"kind":"\u202edecision"`},
		{`"kind":"approval_denied"`, `"kind":"approval_vote","details":{"vote":"\u001b]0;owned"}`},
	} {
		dir := keptAudit(t)
		path := filepath.Join(dir, "audit-00000001.jsonl")
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		changed := bytes.Replace(raw, []byte(change[0]), []byte(change[1]), 1)
		if bytes.Equal(changed, raw) {
			t.Fatalf("no %s", change[0])
		}
		if err := os.WriteFile(path, changed, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, words := range []string{"query", "query --json", "verify"} {
			o := run(t, append(args("audit "+words), "--dir", dir)...)
			if strings.ContainsAny(o.stdout+o.stderr, "\x1b\u202e") {
				t.Errorf("%s, %s: %q%q", change[1], words, o.stdout, o.stderr)
			}
		}
	}
}
