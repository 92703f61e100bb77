package fileaudit_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kelpie-authz/kelpie/audit"
	"github.com/kelpie-authz/kelpie/audit/fileaudit"
)

const auditPage = "../../docs/audit.md"

// block returns a page's first block after a mark, with what is before and after.
func block(t *testing.T, page, mark string) (string, string, string) {
	t.Helper()
	before, rest, found := strings.Cut(page, mark)
	text, after, closed := strings.Cut(rest, "```\n")
	if !found || !closed {
		t.Fatalf("%s has no block after %q", auditPage, mark)
	}
	return before + mark, text, "```\n" + after
}

func readPage(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile(auditPage)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// The line on the page is what is written of that record, and every kind is told.
func TestAuditPage(t *testing.T) {
	t.Parallel()
	page := readPage(t)
	r := usual()
	r.Shown = []audit.Member{{Name: "customer.id", Value: "42"}}
	line, _ := audit.AppendLine(nil, 1742, audit.Hash{}, audit.AppendRecord(nil, &r))
	before, text, after := block(t, page, "```json\n")
	if os.Getenv("UPDATE_DOCS") != "" {
		if err := os.WriteFile(auditPage, []byte(before+string(line)+after), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if text != string(line) {
		t.Errorf("%s shows\n%s; it is\n%s(UPDATE_DOCS=1 go test ./audit/fileaudit -run TestAuditPage writes it)", auditPage, text, line)
	}
	for _, kind := range append(audit.Kinds(), audit.KindSegment, audit.KindCheckpoint, audit.KindRetention) {
		if !strings.Contains(page, "`"+string(kind)+"`") {
			t.Errorf("%s does not tell of %s", auditPage, kind)
		}
	}
}

// The commands of the page verify a log, and find a change.
func TestAuditPageByHand(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"bash", "jq", "openssl", "sha256sum"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%s is not installed; scripts/deps.sh installs it", tool)
		}
	}
	_, script, _ := block(t, readPage(t), "audit/fileaudit runs it\n")
	dir := t.TempDir()
	r := usual()
	r.Resource = "a\\b \"c\" \u202e\n%s é"
	for range 2 { // Two segments, the first of which is compressed.
		l := open(t, fileaudit.Config{Dir: dir})
		mustAppend(t, l, &r)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	run := func() (string, error) {
		cmd := exec.Command("bash", "-euo", "pipefail", "-c", script)
		cmd.Env = append(os.Environ(), "AUDIT_DIR="+dir)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := run()
	if err != nil || !strings.Contains(out, "Signature Verified Successfully") || !strings.Contains(out, "whole, up to line ") {
		t.Fatalf("%v\n%s", err, out)
	}
	plain(t, dir)
	path := filepath.Join(dir, seg1)
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(raw), "ALLOW", "DENYY", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := run(); err == nil || !strings.Contains(out, "this line is not what was written") {
		t.Errorf("a changed line: %v\n%s", err, out)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if out, err := run(); err != nil {
		t.Errorf("without what retention may have removed: %v\n%s", err, out)
	}
	last, err := filepath.Glob(filepath.Join(dir, "audit-*2.jsonl"))
	if err != nil || len(last) != 1 {
		t.Fatal(last, err)
	}
	raw, err = os.ReadFile(last[0])
	if err != nil {
		t.Fatal(err)
	}
	cut := raw[:strings.LastIndex(strings.TrimSuffix(string(raw), "\n"), "\n")+1]
	if err := os.WriteFile(last[0], cut, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := run(); err == nil || !strings.Contains(out, "and the last line has") {
		t.Errorf("without the last line: %v\n%s", err, out)
	}
}
