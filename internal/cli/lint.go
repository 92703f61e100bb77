package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kelpie-authz/kelpie/internal/policydir"
	"github.com/kelpie-authz/kelpie/policy"
)

type lintFlags struct {
	policy string
	now    string
	asJSON bool
}

func newLint(env *Env) *cobra.Command {
	var f lintFlags
	cmd := &cobra.Command{
		Use:   "lint [DIR]",
		Short: "Find what is wrong, risky or unused in a policy",
		Long: "Find what is wrong, risky or unused in a policy, each with its fix: errors (the policy does not load),\n" +
			"warnings (most likely not what you want) and notes (choices worth knowing). docs/lint.md explains each.\n\n" +
			"Exit code: 0 if there is no error and no warning, 1 if there is.",
		Example: "  kelpie lint examples/revops",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			dir, err := dirOf(env, args, f.policy)
			if err != nil {
				return err
			}
			return runLint(env, &f, dir)
		},
	}
	cmd.Flags().StringVar(&f.policy, "policy", "", "the policy's `directory`, if it is not the argument (KELPIE_POLICY)")
	cmd.Flags().StringVar(&f.now, "now", "", "compare the ends of grants with this `time`, such as 2027-01-01T00:00:00Z")
	cmd.Flags().BoolVar(&f.asJSON, "json", false, "print JSON")
	return cmd
}

func runLint(env *Env, f *lintFlags, dir string) error {
	now := env.Now()
	if f.now != "" {
		var err error
		if now, err = time.Parse(time.RFC3339, f.now); err != nil {
			return fmt.Errorf("--now %s is not a time; write it like 2027-01-01T00:00:00Z", f.now)
		}
	}
	found, err := policydir.Read(dir)
	if err != nil {
		return fmt.Errorf("%w (`kelpie init` writes a first policy)", err)
	}
	findings := policy.Lint(found.Policy, now)
	p := env.printer()
	counts := countFindings(findings)
	if f.asJSON {
		p.json(findingsJSON(dir, findings, counts))
	} else {
		p.findings(dir, findings, counts)
	}
	if err := p.done(); err != nil {
		return err
	}
	if counts[policy.SeverityError]+counts[policy.SeverityWarning] > 0 {
		return exitError(ExitError)
	}
	return nil
}

func countFindings(findings []policy.Finding) map[policy.Severity]int {
	counts := map[policy.Severity]int{}
	for i := range findings {
		counts[findings[i].Severity]++
	}
	return counts
}

// findings prints one finding in two lines: what and where, and its fix.
func (p *printer) findings(dir string, findings []policy.Finding, counts map[policy.Severity]int) {
	for i := range findings {
		f := &findings[i]
		style := map[policy.Severity]string{
			policy.SeverityError: red, policy.SeverityWarning: yellow, policy.SeverityNote: dim,
		}[f.Severity]
		if f.File != "" {
			p.printf("%s:%d:%d: ", clean(f.File), f.Line, f.Column)
		}
		p.printf("%s: ", p.paint(style, f.Severity.String()))
		if f.Rule != "" {
			p.printf("%s: ", p.paint(bold, clean(f.Rule)))
		}
		p.printf("%s (%s)\n", clean(f.Message), f.Code)
		if f.Fix != "" {
			p.printf("    fix: %s\n", clean(f.Fix))
		}
	}
	if len(findings) > 0 {
		p.printf("\n")
	}
	var parts []string
	for _, s := range []policy.Severity{policy.SeverityError, policy.SeverityWarning, policy.SeverityNote} {
		if counts[s] > 0 {
			parts = append(parts, count(counts[s], s.String()))
		}
	}
	if counts[policy.SeverityError]+counts[policy.SeverityWarning] > 0 {
		p.printf("%s  %s: %s\n", p.paint(red, "FAIL"), clean(dir), strings.Join(parts, ", "))
		return
	}
	p.printf("%s  %s: no errors, no warnings", p.paint(green, "PASS"), clean(dir))
	if len(parts) > 0 {
		p.printf(", %s", parts[0])
	}
	p.printf("\n")
}

// lintJSON is the form of `kelpie lint --json`. Scripts rely on it.
type lintJSON struct {
	Policy   string        `json:"policy"`
	Errors   int           `json:"errors"`
	Warnings int           `json:"warnings"`
	Notes    int           `json:"notes"`
	Findings []findingJSON `json:"findings"`
}

type findingJSON struct {
	Severity string `json:"severity"`
	Code     string `json:"code"`
	File     string `json:"file,omitempty"`
	Line     int    `json:"line,omitempty"`
	Column   int    `json:"column,omitempty"`
	Rule     string `json:"rule,omitempty"`
	Message  string `json:"message"`
	Fix      string `json:"fix,omitempty"`
}

func findingsJSON(dir string, findings []policy.Finding, counts map[policy.Severity]int) lintJSON {
	out := lintJSON{
		Policy: dir, Errors: counts[policy.SeverityError], Warnings: counts[policy.SeverityWarning],
		Notes: counts[policy.SeverityNote], Findings: make([]findingJSON, len(findings)),
	}
	for i := range findings {
		f := &findings[i]
		out.Findings[i] = findingJSON{
			Severity: f.Severity.String(), Code: f.Code, File: f.File, Line: f.Line, Column: f.Column,
			Rule: f.Rule, Message: f.Message, Fix: f.Fix,
		}
	}
	return out
}
