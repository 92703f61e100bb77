package cli

import (
	"encoding/xml"
	"fmt"
	"slices"
	"strings"

	"github.com/kelpie-authz/kelpie/internal/policytest"
)

// report prints what came of the tests for a person: a line each, the failures
// with what led there, and what no test exercised.
func (p *printer) report(dir string, r *policytest.Report) {
	p.resultTable(r)
	for i := range r.Results {
		if !r.Results[i].Passed() {
			p.failure(&r.Results[i])
		}
	}
	p.coverage(&r.Coverage)
	total, failed := len(r.Results), r.Failed()
	p.printf("\n")
	if failed == 0 {
		p.printf("%s  %s, policy %s\n", p.paint(green, "PASS"), clean(dir)+": "+count(total, "test"), short(r.PolicyVersion))
		return
	}
	p.printf("%s  %s: %d of %s failed, policy %s\n", p.paint(red, "FAIL"), clean(dir), failed, count(total, "test"),
		short(r.PolicyVersion))
}

func (p *printer) resultTable(r *policytest.Report) {
	file := ""
	var rows [][]cell
	flush := func() {
		if len(rows) > 0 {
			p.printf("%s\n", p.paint(bold, clean(file)))
			p.table(rows)
			rows = nil
		}
	}
	for i := range r.Results {
		result := &r.Results[i]
		if result.File != file {
			flush()
			file = result.File
		}
		if rows == nil {
			rows = [][]cell{{{"", plain}, {"TEST", dim}, {"DECISION", dim}, {"REASON", dim}}}
		}
		mark := cell{"ok", green}
		if !result.Passed() {
			mark = cell{"FAIL", red}
		}
		rows = append(rows, []cell{
			mark, {result.Name, plain}, {decisionWord(result.Got.Decision), plain}, {result.Got.Reason, plain},
		})
	}
	flush()
}

func (p *printer) failure(r *policytest.Result) {
	p.printf("\n%s  %s\n", p.paint(red, "FAIL"), p.paint(bold, clean(r.Name)))
	p.printf("  %s:%d\n", clean(r.File), r.Line)
	for _, f := range r.Failures {
		p.printf("  %s\n", clean(f))
	}
	p.printf("  expected  %s\n", answerText(&r.Expected))
	p.printf("  came      %s\n", answerText(&r.Got))
	if len(r.Checks) == 0 {
		return
	}
	p.printf("  checks, in order:\n")
	indented := &printer{w: &indenter{w: p.w}, color: p.color, err: p.err}
	indented.checks(checksToProto(r.Checks))
	p.err = indented.err
}

func answerText(a *policytest.Answer) string {
	words := []string{decisionWord(a.Decision)}
	if a.Reason != "" {
		words = append(words, a.Reason)
	}
	if len(a.Matched) > 0 {
		words = append(words, "matched "+strings.Join(a.Matched, ", "))
	}
	if len(a.RequiredScopes) > 0 {
		words = append(words, "required_scopes "+strings.Join(a.RequiredScopes, ", "))
	}
	if became := strings.Join(slices.DeleteFunc([]string{a.Action, a.Resource, a.Route}, func(s string) bool { return s == "" }), " "); became != "" {
		words = append(words, "became "+became)
	}
	return clean(strings.Join(words, "  "))
}

// decisionWord is a decision as the rest of the command line writes it.
func decisionWord(d string) string {
	if d == "" {
		return "not asked"
	}
	return strings.ToUpper(d)
}

func (p *printer) coverage(c *policytest.Coverage) {
	rows := [][]cell{{{"EXERCISED", dim}, {"", dim}, {"BY NO TEST", dim}}}
	for _, part := range c.Parts() {
		if part.Total == 0 {
			continue
		}
		covered := part.Total - len(part.Missing)
		style := plain
		if covered < part.Total {
			style = yellow
		}
		rows = append(rows, []cell{
			{part.Name, plain},
			{fmt.Sprintf("%d of %d", covered, part.Total), style},
			{strings.Join(part.Missing, ", "), plain},
		})
	}
	if len(rows) == 1 {
		return
	}
	p.printf("\n")
	p.table(rows)
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// short is enough of a version to tell two apart on a screen.
func short(version string) string {
	const most = 12
	if len(version) <= most {
		return version
	}
	return version[:most]
}

// testsJSON is the form of `kelpie test --json`. Scripts rely on it.
type testsJSON struct {
	Policy        string              `json:"policy"`
	PolicyVersion string              `json:"policy_version"`
	Passed        int                 `json:"passed"`
	Failed        int                 `json:"failed"`
	Tests         []testJSON          `json:"tests"`
	Coverage      map[string]partJSON `json:"coverage"`
}

type testJSON struct {
	Name     string      `json:"name"`
	File     string      `json:"file"`
	Line     int         `json:"line"`
	Passed   bool        `json:"passed"`
	Failures []string    `json:"failures,omitempty"`
	Expected answerJSON  `json:"expected"`
	Got      answerJSON  `json:"got"`
	Checks   []checkJSON `json:"checks,omitempty"`
}

type answerJSON struct {
	Decision       string   `json:"decision,omitempty"`
	Reason         string   `json:"reason,omitempty"`
	Matched        []string `json:"matched,omitempty"`
	RequiredScopes []string `json:"required_scopes,omitempty"`
	Route          string   `json:"route,omitempty"`
	Action         string   `json:"action,omitempty"`
	Resource       string   `json:"resource,omitempty"`
}

type checkJSON struct {
	Name    string   `json:"name"`
	Outcome string   `json:"outcome"`
	Reason  string   `json:"reason,omitempty"`
	Rules   []string `json:"rules,omitempty"`
	Detail  string   `json:"detail,omitempty"`
}

type partJSON struct {
	Total int `json:"total"`
	// Missing are those that no test exercised.
	Missing []string `json:"missing"`
}

func reportJSON(dir string, r *policytest.Report) testsJSON {
	out := testsJSON{
		Policy: dir, PolicyVersion: r.PolicyVersion, Failed: r.Failed(), Passed: len(r.Results) - r.Failed(),
		Tests: make([]testJSON, len(r.Results)), Coverage: map[string]partJSON{},
	}
	for i := range r.Results {
		result := &r.Results[i]
		out.Tests[i] = testJSON{
			Name: result.Name, File: result.File, Line: result.Line, Passed: result.Passed(), Failures: result.Failures,
			Expected: answerJSON(result.Expected), Got: answerJSON(result.Got),
		}
		if result.Passed() {
			continue
		}
		for _, c := range checksToProto(result.Checks) {
			outcome, _ := outcomeText(c.GetOutcome())
			out.Tests[i].Checks = append(out.Tests[i].Checks, checkJSON{
				Name: c.GetName(), Outcome: strings.ReplaceAll(outcome, " ", "_"), Reason: reasonText(c.GetReason()),
				Rules: c.GetRules(), Detail: c.GetDetail(),
			})
		}
	}
	for _, part := range r.Coverage.Parts() {
		missing := part.Missing
		if missing == nil {
			missing = []string{} // "none" and "not told" must differ in JSON.
		}
		out.Coverage[strings.ReplaceAll(part.Name, " ", "_")] = partJSON{Total: part.Total, Missing: missing}
	}
	return out
}

// The JUnit form that CI systems read, as the JUnit 10 schema of the Jenkins
// xUnit plugin has it.
type junitSuite struct {
	XMLName  xml.Name    `xml:"testsuite"`
	Name     string      `xml:"name,attr"`
	Tests    int         `xml:"tests,attr"`
	Failures int         `xml:"failures,attr"`
	Cases    []junitCase `xml:"testcase"`
}

type junitCase struct {
	Name    string        `xml:"name,attr"`
	Class   string        `xml:"classname,attr"`
	File    string        `xml:"file,attr"`
	Line    int           `xml:"line,attr"`
	Failure *junitFailure `xml:"failure,omitempty"`
}

type junitFailure struct {
	Message string `xml:"message,attr"`
	Text    string `xml:",chardata"`
}

func junit(dir string, r *policytest.Report) ([]byte, error) {
	suite := junitSuite{Name: dir, Tests: len(r.Results), Failures: r.Failed()}
	for i := range r.Results {
		result := &r.Results[i]
		one := junitCase{Name: result.Name, Class: result.File, File: result.File, Line: result.Line}
		if !result.Passed() {
			var text strings.Builder
			p := &printer{w: &text}
			p.failure(result)
			one.Failure = &junitFailure{Message: strings.Join(result.Failures, "; "), Text: text.String()}
		}
		suite.Cases = append(suite.Cases, one)
	}
	text, err := xml.MarshalIndent(suite, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write the JUnit report: %w", err)
	}
	return append([]byte(xml.Header), append(text, '\n')...), nil
}
