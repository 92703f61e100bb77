package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
)

func newExplain(env *Env) *cobra.Command {
	var f callFlags
	cmd := &cobra.Command{
		Use:   "explain",
		Short: "Show every check behind a decision",
		Long: "Show every check behind a decision, in order, also those after the one that decided. It charges\n" +
			"nothing and changes nothing.\n\n" +
			"Exit code: 0 if the call could be explained, whatever the decision; 1 if not.",
		Example: "  kelpie explain --policy examples/revops \\\n" +
			"    --agent data-cleaner --action delete --resource salesforce/leads/42 --ip 10.8.0.5",
		Args: flagsOnly,
		RunE: func(cmd *cobra.Command, _ []string) error { return runExplain(cmd, env, &f) },
	}
	f.register(cmd)
	return cmd
}

func runExplain(cmd *cobra.Command, env *Env, f *callFlags) error {
	req, err := f.request()
	if err != nil {
		return err
	}
	ask, err := f.asker(env)
	if err != nil {
		return err
	}
	e, err := ask.explain(cmd.Context(), req)
	if closeErr := ask.close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	p := env.printer()
	if f.asJSON {
		p.message(e)
		return p.done()
	}
	p.checks(e.GetChecks())
	p.printf("\n")
	if e.GetRisk() != "" {
		p.printf("The call's risk is %s.\n", clean(e.GetRisk()))
	}
	p.decision(e.GetResponse(), "")
	return p.done()
}

// checks prints the checks as a table.
func (p *printer) checks(checks []*authzv1.Check) {
	rows := [][]cell{{{"CHECK", dim}, {"OUTCOME", dim}, {"REASON", dim}, {"RULES", dim}, {"DETAIL", dim}}}
	for _, c := range checks {
		word, style := outcomeText(c.GetOutcome())
		rows = append(rows, []cell{
			{c.GetName(), plain},
			{word, style},
			{reasonText(c.GetReason()), plain},
			{someOf(c.GetRules()), plain},
			{c.GetDetail(), plain},
		})
	}
	p.table(rows)
}

func outcomeText(o authzv1.CheckOutcome) (string, string) {
	switch o {
	case authzv1.CheckOutcome_CHECK_OUTCOME_PASS:
		return "pass", green
	case authzv1.CheckOutcome_CHECK_OUTCOME_DENY:
		return "deny", red
	case authzv1.CheckOutcome_CHECK_OUTCOME_REQUIRE_APPROVAL:
		return "require approval", yellow
	case authzv1.CheckOutcome_CHECK_OUTCOME_SKIPPED:
		return "skipped", dim
	default:
		return "not told", dim
	}
}

// someOf keeps a table's column narrow; --json has the full list.
func someOf(rules []string) string {
	const most = 3
	if len(rules) <= most {
		return strings.Join(rules, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(rules[:most], ", "), len(rules)-most)
}
