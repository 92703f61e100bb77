package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/kelpie-authz/kelpie/gen/schema"
)

func newSchema(env *Env) *cobra.Command {
	var tests bool
	cmd := &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of policy documents, for editors",
		Long: "Print the JSON Schema of policy documents, or with --tests that of their test files. Editors that\n" +
			"speak the YAML language server then complete and check while you type:\n\n" +
			"  # yaml-language-server: $schema=policy.schema.json",
		Example: "  kelpie schema > policy.schema.json",
		Args:    flagsOnly,
		RunE: func(*cobra.Command, []string) error {
			text := schema.Policy()
			if tests {
				text = schema.PolicyTest()
			}
			if _, err := io.WriteString(env.Stdout, text); err != nil {
				return fmt.Errorf("write output: %w", err)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&tests, "tests", false, "print the schema of *_test.yaml files")
	return cmd
}
