package policy_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kelpie-authz/kelpie/policy"
)

// lintNow is the instant of every lint test.
var lintNow = time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)

func TestLintIsCleanOnRevops(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../examples/revops/policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	notes := 0
	for _, f := range policy.Lint([]policy.Document{{Name: "policy.yaml", Data: text}}, lintNow) {
		if f.Severity != policy.SeverityNote {
			t.Errorf("%v", f)
		}
		notes++
		t.Log(f)
	}
	if notes == 0 {
		t.Error("no note on grants of delete and admin")
	}
}

// example is one code of docs/lint.md.
type example struct {
	code, severity string
	blocks         []string
}

// lintExamples reads docs/lint.md: the policy that the examples stand beside,
// and every code with its two examples.
func lintExamples(t *testing.T) (string, []example) {
	t.Helper()
	page, err := os.ReadFile("../docs/lint.md")
	if err != nil {
		t.Fatal(err)
	}
	heading := regexp.MustCompile(`^([a-z-]+) \((warning|note)\)\n`)
	block := regexp.MustCompile("(?s)```yaml\n(.*?)```")
	sections := strings.Split(string(page), "\n### ")
	base := block.FindStringSubmatch(sections[0])
	if base == nil {
		t.Fatal("docs/lint.md has no policy for its examples to stand beside")
	}
	var examples []example
	for _, section := range sections[1:] {
		head := heading.FindStringSubmatch(section)
		if head == nil {
			t.Fatalf("a heading that is no code with its severity: %.40q", section)
		}
		e := example{code: head[1], severity: head[2]}
		for _, found := range block.FindAllStringSubmatch(section, -1) {
			e.blocks = append(e.blocks, found[1])
		}
		examples = append(examples, e)
	}
	return base[1], examples
}

func lintTexts(texts ...string) []policy.Finding {
	var docs []policy.Document
	for i, text := range texts {
		docs = append(docs, policy.Document{Name: fmt.Sprintf("%d.yaml", i), Data: []byte(text)})
	}
	return policy.Lint(docs, lintNow)
}

func TestLintPageIsTrue(t *testing.T) {
	t.Parallel()
	base, examples := lintExamples(t)
	if findings := lintTexts(base); len(findings) > 0 {
		t.Errorf("the page's policy is not clean: %v", findings)
	}
	for _, e := range examples {
		t.Run(e.code, func(t *testing.T) {
			t.Parallel()
			if len(e.blocks) != 2 {
				t.Fatalf("%d examples, want one with the finding and one with its fix", len(e.blocks))
			}
			reported := false
			for _, f := range lintTexts(base, e.blocks[0]) {
				reported = reported || f.Code == e.code && f.Severity.String() == e.severity
				if f.Code == policy.CodeInvalid {
					t.Errorf("the example does not load: %v", f)
				}
				if f.Code == e.code && (f.File == "" || f.Line < 1 || f.Column < 1 || f.Rule == "" || f.Message == "" || f.Fix == "") {
					t.Errorf("the finding is not complete: %+v", f)
				}
			}
			if !reported {
				t.Errorf("the example does not bring up %s (%s): %v", e.code, e.severity, lintTexts(base, e.blocks[0]))
			}
			for _, f := range lintTexts(base, e.blocks[1]) {
				if f.Code == e.code || f.Code == policy.CodeInvalid {
					t.Errorf("the fix does not help: %v", f)
				}
			}
		})
	}
}

// TestLintPageHasEveryCode compares the page with the codes in the source.
func TestLintPageHasEveryCode(t *testing.T) {
	t.Parallel()
	_, examples := lintExamples(t)
	page := map[string]bool{}
	for _, e := range examples {
		if page[e.code] {
			t.Errorf("%s is explained twice", e.code)
		}
		page[e.code] = true
	}
	files, err := filepath.Glob("lint*.go")
	if err != nil {
		t.Fatal(err)
	}
	source := map[string]bool{}
	call := regexp.MustCompile(`l\.add\([A-Za-z]+, "([a-z-]+)"`)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range call.FindAllStringSubmatch(string(text), -1) {
			source[found[1]] = true
		}
	}
	if len(source) < 20 {
		t.Fatalf("only %d codes found in %v", len(source), files)
	}
	if diff := cmp.Diff(source, page); diff != "" {
		t.Errorf("codes in the source (-) and on the page (+):\n%s", diff)
	}
}

func TestLintDowngradesWrittenChoices(t *testing.T) {
	t.Parallel()
	base, _ := lintExamples(t)
	cases := map[string]struct {
		text, code string
		want       policy.Severity
	}{
		"a gated delete": {`
scopes: {d: {actions: [delete], resources: ["x/*"]}}
agents: {c: {owner: o, networks: [cluster], scopes: [d]}}
approvers: {s: {members: [m]}}
approvals: {r: {match: {risk: [delete, admin], agents: [c]}, approvers: [s]}}
`, "destructive-grant", policy.SeverityNote},
		"a delete gated for another agent": {`
scopes: {d: {actions: [delete], resources: ["x/*"]}}
agents: {c: {owner: o, networks: [cluster], scopes: [d]}, e: {owner: o, networks: [cluster], scopes: [d]}}
approvers: {s: {members: [m]}}
approvals: {r: {match: {risk: [delete], agents: [e]}, approvers: [s]}}
`, "destructive-grant", policy.SeverityWarning},
		"a delete gated under a condition": {`
scopes: {d: {actions: [delete], resources: ["x/*"]}}
agents: {c: {owner: o, networks: [cluster], scopes: [d]}}
approvers: {s: {members: [m]}}
approvals: {r: {match: {risk: [delete], when: "subject != ''"}, approvers: [s]}}
`, "destructive-grant", policy.SeverityWarning},
		"a delete gated in shadow": {`
scopes: {d: {actions: [delete], resources: ["x/*"]}}
agents: {c: {owner: o, networks: [cluster], scopes: [d]}}
approvers: {s: {members: [m]}}
approvals: {r: {match: {risk: [delete]}, approvers: [s], shadow: true}}
`, "destructive-grant", policy.SeverityWarning},
		"an unattended delete": {`
scopes: {d: {actions: [delete], resources: ["x/*"]}}
agents: {c: {owner: o, networks: [cluster], grants: [{scope: d, unattended: agreed}]}}
`, "destructive-grant", policy.SeverityNote},
		"every action by declared risk": {`
scopes: {d: {actions: ["*"], resources: ["x/*"], risk: admin}}
agents: {c: {owner: o, networks: [cluster], grants: [{scope: d, unattended: agreed}]}}
`, "wildcard-actions", policy.SeverityNote},
		"a deny rule for grants to come": {`
deny: {d: {match: {resources: ["stripe/**"]}}}
`, "unreached-rule", policy.SeverityNote},
		"a group that only the guardrail asks": {`
scopes: {d: {actions: [delete], resources: ["x/*"]}}
agents: {c: {owner: o, networks: [cluster], scopes: [d]}}
approvers: {s: {members: [m]}}
`, "unused-approvers", policy.SeverityNote},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got []policy.Severity
			for _, f := range lintTexts(base, c.text) {
				if f.Code == c.code && !strings.Contains(f.Message, "approvals/r gates") || f.Code == c.code && c.want == policy.SeverityNote {
					got = append(got, f.Severity)
				}
			}
			if len(got) != 1 || got[0] != c.want {
				t.Errorf("%s comes as %v, want %v: %v", c.code, got, c.want, lintTexts(base, c.text))
			}
		})
	}
}

// The group that breaks the glass has its use without a rule; another has not.
func TestLintLeavesTheBreakGlassGroup(t *testing.T) {
	t.Parallel()
	base, _ := lintExamples(t)
	const guarded = `
scopes: {d: {actions: [delete], resources: ["x/*"]}}
agents: {c: {owner: o, networks: [cluster], scopes: [d]}}
`
	for _, also := range []string{"", guarded} {
		for group, want := range map[string]int{policy.BreakGlassGroup: 0, "breakglasses": 1, "Breakglass": 1} {
			got := 0
			for _, f := range lintTexts(base, also+"\napprovers: {"+group+": {members: [m]}}\n") {
				switch f.Code {
				case "unused-approvers":
					got++
				case policy.CodeInvalid:
					t.Error(f)
				}
			}
			if got != want {
				t.Errorf("unused-approvers comes %d times for the group %s, want %d", got, group, want)
			}
		}
	}
}

func TestLintErrorsAreWhatStopsALoad(t *testing.T) {
	t.Parallel()
	docs := []policy.Document{{Name: "p.yaml", Data: []byte("agents:\n  a: {owner: o, scopes: [none], networks: [any], foo: 1}\n")}}
	_, err := policy.Compile(docs)
	var faults policy.Errors
	if !errors.As(err, &faults) {
		t.Fatalf("compiled: %v", err)
	}
	findings := policy.Lint(docs, lintNow)
	if len(findings) != len(faults) || len(faults) < 2 {
		t.Fatalf("%d findings, %d faults", len(findings), len(faults))
	}
	for i, f := range findings {
		if f.Severity != policy.SeverityError || f.Code != policy.CodeInvalid || f.Line != faults[i].Line || f.Message != faults[i].Message {
			t.Errorf("%v is not %v", f, faults[i])
		}
	}
	if got, want := findings[0].String(), "p.yaml:2:"; !strings.HasPrefix(got, want) || !strings.Contains(got, " error: agents/a: ") || !strings.HasSuffix(got, " (invalid)") {
		t.Errorf("a finding reads %s", got)
	}
}
