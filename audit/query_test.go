package audit_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/kelpie-authz/kelpie/audit"
	"github.com/kelpie-authz/kelpie/audit/audittest"
)

func TestPattern(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern string
		yes, no string // separated by spaces
	}{
		{"leads/42", "leads/42", "leads/4 leads/421 leads"},
		{"leads/*", "leads/42 leads/*", "leads/ leads leads/42/notes"},
		{"leads/**", "leads leads/42 leads/42/notes leads/", "lead leadsx/1"},
		{"**/notes", "notes a/notes a/b/notes", "a/notes/b xnotes"},
		{"a/**/z", "a/z a/b/z a/b/c/z a/z/z", "a z az a/b"},
		{"agent-*", "agent- agent-7", "agent agent-7/x"},
		{"*a*b*", "ab xaxbx aab", "ba a"},
		{"**", "a a/b", ""},
		{"*", "a", "a/b"},
		{"a/**/b/**/c", "a/b/c a/b/b/c a/x/b/x/c", "a/c a/b"},
	} {
		p, err := audit.CompilePattern(c.pattern, '/')
		if err != nil {
			t.Fatal(err)
		}
		for text := range strings.FieldsSeq(c.yes) {
			if !p.Match(text) {
				t.Errorf("%s does not match %s", c.pattern, text)
			}
		}
		for text := range strings.FieldsSeq(c.no) {
			if p.Match(text) {
				t.Errorf("%s matches %s", c.pattern, text)
			}
		}
	}
	for _, wrong := range []string{"a**", "**a", "a/b**/c", "***", strings.Repeat("x", 2000)} {
		if _, err := audit.CompilePattern(wrong, '/'); err == nil {
			t.Errorf("%.20s is a pattern", wrong)
		}
	}
}

// FuzzPattern compares a pattern with the regular expression that says the same.
func FuzzPattern(f *testing.F) {
	for _, seed := range [][2]string{{"a/**/b", "a/x/b"}, {"*", ""}, {"**", "a//b"}, {"a*b/*", "axb/y"}, {"**/**", "/"}, {"*x*", "yxy"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, text string) {
		if len(pattern) > 40 || len(text) > 60 {
			return
		}
		p, err := audit.CompilePattern(pattern, '/')
		if err != nil {
			return
		}
		var expr strings.Builder
		expr.WriteString(`(?s)^`)
		for segment := range strings.SplitSeq(pattern, "/") {
			switch segment {
			case "**":
				expr.WriteString(`(?:/[^/]*)*`)
			case "*":
				expr.WriteString(`/[^/]+`)
			default:
				expr.WriteString("/" + strings.ReplaceAll(regexp.QuoteMeta(segment), `\*`, `[^/]*`))
			}
		}
		expr.WriteString(`$`)
		re, err := regexp.Compile(expr.String())
		if err != nil {
			return // Bytes that are no UTF-8.
		}
		if !validFor(pattern, text) {
			return
		}
		if got, want := p.Match(text), re.MatchString("/"+text); got != want {
			t.Fatalf("%q on %q: %v, and %s says %v", pattern, text, got, expr.String(), want)
		}
	})
}

func validFor(texts ...string) bool {
	for _, text := range texts {
		if strings.ToValidUTF8(text, "") != text {
			return false
		}
	}
	return true
}

// What a line cannot hold is told from its bytes, never what it holds.
func TestMaybeIsRight(t *testing.T) {
	t.Parallel()
	r := audittest.Full()
	r.Agent = "a\"\u202e\n/é"
	line, _ := audit.AppendLine(nil, 1, audit.Hash{}, audit.AppendRecord(nil, &r))
	for name, q := range map[string]audit.Query{
		"agent": {Agent: r.Agent}, "subject": {Subject: r.Subject}, "reason": {Reason: r.Reason},
		"all": {Agent: r.ClaimedAgent, Gateway: r.Gateway, Actor: r.Actor, DecisionID: r.DecisionID, ApprovalID: r.ApprovalID},
	} {
		m, err := q.Matcher()
		if err != nil {
			t.Fatal(err)
		}
		if !m.Maybe(line) || !m.Match(&r) {
			t.Errorf("%s: maybe %v, match %v", name, m.Maybe(line), m.Match(&r))
		}
	}
	// Who is known by the admin token alone stands in the midst of a text.
	name := r.Agent
	r.Actor = "local-admin as " + name + " (unverified)"
	line, _ = audit.AppendLine(nil, 1, audit.Hash{}, audit.AppendRecord(nil, &r))
	if m, err := (&audit.Query{Actor: name}).Matcher(); err != nil || !m.Maybe(line) || !m.Match(&r) {
		t.Errorf("an actor by the admin token is not found: %v", err)
	}
	m, err := (&audit.Query{Agent: "nobody"}).Matcher()
	if err != nil || m.Maybe(line) {
		t.Errorf("nobody: %v", err)
	}
}
