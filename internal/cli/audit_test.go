package cli_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kelpie-authz/kelpie/audit"
	"github.com/kelpie-authz/kelpie/audit/fileaudit"
	"github.com/kelpie-authz/kelpie/internal/cli"
	"github.com/kelpie-authz/kelpie/pdp"
)

// keptAudit is an audit of a few records.
func keptAudit(t *testing.T) string {
	t.Helper()
	return keepAudit(t,
		audit.Record{Kind: audit.KindPolicyLoaded, PolicyVersion: "v1"},
		audit.Record{Kind: audit.KindDecision, Agent: "lead-router", Action: "read", Resource: "salesforce/leads/42", Decision: "ALLOW", Reason: "ok", DecisionID: "d1"},
		audit.Record{Kind: audit.KindDecision, Agent: "lead-router", Action: "update", Resource: "salesforce/leads/42\x1b[2J\u202e", Decision: "DENY", Reason: "rate_limited", DecisionID: "d2"},
		audit.Record{Kind: audit.KindDecision, Agent: "data-cleaner", Subject: "ann@example.com", Action: "delete", Resource: "salesforce/leads/42", Decision: "REQUIRE_APPROVAL", Reason: "approval_required", DecisionID: "d3", ApprovalID: "apr_1"},
		audit.Record{Kind: audit.KindApprovalDenied, Agent: "data-cleaner", Actor: "bob@example.com", ApprovalID: "apr_1", Why: "not this one"},
		audit.Record{Kind: audit.KindReset, Agent: "lead-router", Actor: "ann", ActorAuth: "local-admin"},
	)
}

// keepAudit is an audit of these records, a minute apart, that was closed.
func keepAudit(t *testing.T, records ...audit.Record) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "audit")
	log, err := fileaudit.Open(fileaudit.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 6, 17, 12, 0, 0, 0, time.UTC)
	for i := range records {
		r := &records[i]
		r.Time = at.Add(time.Duration(i) * time.Minute)
		if err := log.Append(t.Context(), r, audit.Sync); err != nil {
			t.Fatal(err)
		}
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// keptLines are the lines of an audit as they stand in its file: the records, and among
// them as many notes of the log as there was time for.
func keptLines(t *testing.T, dir string) []string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, "audit-00000001.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	return slices.Collect(strings.Lines(string(raw)))
}

func has(part string) func(string) bool {
	return func(text string) bool { return strings.Contains(text, part) }
}

func TestAuditIsSearched(t *testing.T) {
	t.Parallel()
	dir := keptAudit(t)
	kept := keptLines(t, dir)
	for words, want := range map[string]string{
		"": "2026-06-17T12:05:00.000Z  reset  lead-router  by ann\n" +
			"2026-06-17T12:04:00.000Z  approval denied  data-cleaner  by bob@example.com  approval apr_1  why not this one\n" +
			"2026-06-17T12:03:00.000Z  REQUIRE_APPROVAL approval_required  data-cleaner  for ann@example.com  delete  salesforce/leads/42  approval apr_1  decision d3\n" +
			"2026-06-17T12:02:00.000Z  DENY rate_limited  lead-router  update  salesforce/leads/42\uFFFD[2J\uFFFD  decision d2\n" +
			"2026-06-17T12:01:00.000Z  ALLOW ok  lead-router  read  salesforce/leads/42  decision d1\n" +
			"2026-06-17T12:00:00.000Z  policy loaded\n",
		"--oldest-first --limit 1":                        "2026-06-17T12:00:00.000Z  policy loaded\n",
		"--decision allow":                                "2026-06-17T12:01:00.000Z  ALLOW ok  lead-router  read  salesforce/leads/42  decision d1\n",
		"--kind approval":                                 "2026-06-17T12:04:00.000Z  approval denied  data-cleaner  by bob@example.com  approval apr_1  why not this one\n",
		"--since 2026-06-17T12:04:30Z":                    "2026-06-17T12:05:00.000Z  reset  lead-router  by ann\n",
		"--until 2026-06-17T12:00:30Z":                    "2026-06-17T12:00:00.000Z  policy loaded\n",
		"--agent nobody":                                  "",
		"--since 1h":                                      "",
		"--resource salesforce/** --action read --json":   kept[slices.IndexFunc(kept, has(`"decision_id":"d1"`))],
		"--subject ann@example.com --approval-id apr_1":   "2026-06-17T12:03:00.000Z  REQUIRE_APPROVAL approval_required  data-cleaner  for ann@example.com  delete  salesforce/leads/42  approval apr_1  decision d3\n",
		"--actor bob@example.com --reason= --decision-id": "!",
	} {
		o := run(t, append(args("audit query --dir "+dir), strings.Fields(words)...)...)
		if want == "!" {
			if o.code != cli.ExitError {
				t.Errorf("%s: exit code %d", words, o.code)
			}
			continue
		}
		if o.code != cli.ExitOK || o.stdout != want {
			t.Errorf("%s: exit code %d\n%s%s, want\n%s", words, o.code, o.stdout, o.stderr, want)
		}
	}
	// Whether that was all is told where no script reads it.
	for words, want := range map[string]string{
		"":                               "",
		"--limit 6":                      "",
		"--limit 0":                      "",
		"--limit 9223372036854775807":    "",
		"--limit 5":                      "There are more than these 5; see --limit.\n",
		"--limit 1 --json":               "There are more than these 1; see --limit.\n",
		"--limit 1 --agent data-cleaner": "There are more than these 1; see --limit.\n",
		"--limit 2 --agent data-cleaner": "",
		"--agent nobody":                 "No record in " + dir + " matches.\n",
		"--agent nobody --json":          "No record in " + dir + " matches.\n",
		"--reason RATE_LIMITED":          "",
	} {
		if o := run(t, append(args("audit query --dir "+dir), strings.Fields(words)...)...); o.code != cli.ExitOK || o.stderr != want {
			t.Errorf("%s: exit code %d, %q on standard error, want %q", words, o.code, o.stderr, want)
		}
	}
	for words, want := range map[string]string{
		"query --since tomorrow":      `--since: "tomorrow" is no time; write how long ago it was, such as 90m, or 2026-06-17T12:00:00Z`,
		"query --kind nonsense":       "nonsense",
		"query --decision maybe":      "maybe",
		"query --reason limited":      `--reason: "limited" is none; write one of action_denied, `,
		"tail --reason limited":       "rate_limited",
		"query --limit=-1":            "-1 is below 0",
		"query --since 1h --until 2h": "is not before --until",
		"query --resource a/**b":      "--resource",
		"query --dir /nonexistent/a":  "/nonexistent/a",
		"query word":                  "word",
	} {
		o := run(t, append(args("audit "+words), "--dir", dir)...)
		if strings.Contains(words, "--dir") {
			o = run(t, args("audit "+words)...)
		}
		if o.code != cli.ExitError || !strings.Contains(o.stderr, strings.TrimPrefix(want, "--resource")) {
			t.Errorf("%s: exit code %d\n%s, want it to say %q", words, o.code, o.stderr, want)
		}
	}
}

// What was not done does not read like something that was.
func TestAuditSaysWhatWasNotDone(t *testing.T) {
	t.Parallel()
	vote := func(word string) []audit.Member {
		return []audit.Member{{Name: "vote", Value: word}, {Name: "vote_id", Value: "7"}}
	}
	dir := keepAudit(t,
		audit.Record{Kind: audit.KindApprovalVote, Agent: "a", Actor: "ann", ApprovalID: "apr_1", Details: vote("yes")},
		audit.Record{Kind: audit.KindApprovalVote, Agent: "a", Actor: "bob", ApprovalID: "apr_1", Why: "x", Details: vote("no"), Failed: true, Cause: "bob is no approver"},
		audit.Record{Kind: audit.KindApprovalBreakGlass, Agent: "a", Actor: "bob", ApprovalID: "apr_2", Failed: true, Cause: "bob is in no group"},
		audit.Record{Kind: audit.KindSettle, Agent: "a", DecisionID: "d1", Failed: true, Cause: "it is settled"},
		audit.Record{Kind: audit.KindPolicyRefused, Failed: true, Cause: "line 3"},
	)
	const want = "2026-06-17T12:00:00.000Z  approval vote yes  a  by ann  approval apr_1\n" +
		"2026-06-17T12:01:00.000Z  approval vote no  refused  a  by bob  approval apr_1  why x  cause bob is no approver\n" +
		"2026-06-17T12:02:00.000Z  approval breakglass  refused  a  by bob  approval apr_2  cause bob is in no group\n" +
		"2026-06-17T12:03:00.000Z  settle  failed  a  cause it is settled  decision d1\n" +
		"2026-06-17T12:04:00.000Z  policy refused  cause line 3\n"
	if o := run(t, "audit", "query", "--oldest-first", "--dir", dir); o.code != cli.ExitOK || o.stdout != want {
		t.Errorf("exit code %d\n%s%s, want\n%s", o.code, o.stdout, o.stderr, want)
	}
}

// What somebody did with the admin token is found by his name, as it is recorded.
func TestAuditFindsWhatTheAdminTokenDid(t *testing.T) {
	t.Parallel()
	ann := pdp.Person{Name: "ann@example.com", How: pdp.LocalAdmin}
	joann := pdp.Person{Name: "jo" + ann.Name, How: pdp.LocalAdmin}
	dir := keepAudit(t,
		audit.Record{Kind: audit.KindApprovalDenied, Actor: ann.String(), ActorAuth: ann.How, ApprovalID: "apr_1"},
		audit.Record{Kind: audit.KindApprovalDenied, Actor: ann.Name, ActorAuth: pdp.KnownByMTLS, ApprovalID: "apr_2"},
		audit.Record{Kind: audit.KindApprovalDenied, Actor: joann.String(), ActorAuth: joann.How, ApprovalID: "apr_3"},
	)
	o := run(t, "audit", "query", "--dir", dir, "--actor", ann.Name)
	if o.code != cli.ExitOK || strings.Count(o.stdout, "\n") != 2 || !strings.Contains(o.stdout, "apr_1") || !strings.Contains(o.stdout, "apr_2") {
		t.Errorf("exit code %d\n%s%s", o.code, o.stdout, o.stderr)
	}
}

func TestAuditIsVerified(t *testing.T) {
	t.Parallel()
	dir := keptAudit(t)
	o := run(t, args("audit verify --dir "+dir)...)
	if o.code != cli.ExitOK || !strings.HasPrefix(o.stdout, "The audit is whole: 6 records in 1 segment, ") {
		t.Errorf("exit code %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	const from, to = "2026-06-17T12:00:00Z", "2026-06-17T12:05:00Z"
	kept := keptLines(t, dir)
	lines := float64(len(kept))
	whole := map[string]any{
		"fault": nil, "segments": 1., "lines": lines, "records": 6., "proved": 6., "adopted": 0., "first_seq": 1., "last_seq": lines, "from": from, "to": to,
		"removed": false, "checkpoints": lines - 6, "signed_seq": lines, "unsigned": 0., "closed": true, "torn_bytes": 0.,
		"crashes": 0., "failures": 0., "refused": 0., "lost": 0., "ignored": 0.,
	}
	if diff := cmp.Diff(whole, verified(t, dir, cli.ExitOK)); diff != "" {
		t.Errorf("as JSON (-want +got):\n%s", diff)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil || len(files) != 1 {
		t.Fatalf("segments %v, %v", files, err)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files[0], bytes.Replace(text, []byte(`"DENY"`), []byte(`"ALLO"`), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	o = run(t, args("audit verify --dir "+dir)...)
	if o.code != cli.ExitDeny || !strings.HasPrefix(o.stdout, "The audit is not what was written: ") {
		t.Errorf("of a changed record: exit code %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	denied := float64(slices.IndexFunc(kept, has(`"DENY"`)) + 1)
	fault := map[string]any{
		"kind": "hash", "file": "audit-00000001.jsonl", "line": denied, "seq": denied,
		"what": "it is not what was written here: its hash is not that of its text after the line before",
	}
	if diff := cmp.Diff(any(fault), verified(t, dir, cli.ExitDeny)["fault"]); diff != "" {
		t.Errorf("of a changed record as JSON (-want +got):\n%s", diff)
	}
}

// verified is what `audit verify --json` says, without what differs from log to log.
func verified(t *testing.T, dir string, code int) map[string]any {
	t.Helper()
	o := run(t, "audit", "verify", "--json", "--dir", dir)
	var got map[string]any
	if err := json.Unmarshal([]byte(o.stdout), &got); o.code != code || err != nil {
		t.Fatalf("exit code %d, want %d: %v\n%s%s", o.code, code, err, o.stdout, o.stderr)
	}
	for _, name := range []string{"chain", "signed_at"} {
		if text, is := got[name].(string); !is || text == "" {
			t.Errorf("%s is %v", name, got[name])
		}
		delete(got, name)
	}
	return got
}

// Where there is no audit, or the key is not there, what named it is told.
func TestAuditThatIsNotThere(t *testing.T) {
	t.Parallel()
	dir, empty, keyless := keptAudit(t), t.TempDir(), keptAudit(t)
	if err := os.Remove(filepath.Join(keyless, "audit.pub")); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		words     string
		variables []string
		want      string
	}{
		{"query --dir /nonexistent/a", nil, "there is no audit in /nonexistent/a, which does not exist; name its directory with --dir"},
		{"query", []string{"KELPIE_AUDIT_DIR", "/nonexistent/a"}, "there is no audit in /nonexistent/a, which does not exist; name its directory with --dir"},
		{"query --dir " + empty, nil, "there is no audit in " + empty + ", which has no file of one; name its directory with --dir"},
		{"tail --dir /nonexistent/a", nil, "there is no audit in /nonexistent/a"},
		{"verify --dir /nonexistent/a", nil, "there is no audit in /nonexistent/a"},
		{"verify --dir " + empty, nil, "there is no audit in " + empty},
		{"verify --dir " + keyless, nil, "audit.pub: no such file or directory; name a copy of it with --key"},
		{"verify --dir " + dir + " --key /etc/hostname", nil, "--key: /etc/hostname is not a PUBLIC KEY in PEM"},
		{"verify --dir " + dir, []string{"KELPIE_AUDIT_PUBLIC_KEY", "/etc/hostname"}, "KELPIE_AUDIT_PUBLIC_KEY: /etc/hostname is not a PUBLIC KEY in PEM"},
	} {
		if o := runWith(t, tt.variables, args("audit "+tt.words)...); o.code != cli.ExitError || o.stdout != "" || !strings.Contains(o.stderr, tt.want) {
			t.Errorf("%s: exit code %d\n%s%s, want %q", tt.words, o.code, o.stdout, o.stderr, tt.want)
		}
	}
	o := run(t, "audit", "verify", "--dir", dir, "--key", filepath.Join(keptAudit(t), "audit.pub"))
	if o.code != cli.ExitDeny || !strings.Contains(o.stdout, "take the public key of this log; if it is that, this file was forged") {
		t.Errorf("by the key of another log: exit code %d\n%s%s", o.code, o.stdout, o.stderr)
	}
}
