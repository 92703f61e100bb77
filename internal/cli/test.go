package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/kelpie-authz/kelpie/internal/policytest"
	"github.com/kelpie-authz/kelpie/policy"
)

type testFlags struct {
	policy string
	asJSON bool
	junit  string
}

func newTest(env *Env) *cobra.Command {
	var f testFlags
	cmd := &cobra.Command{
		Use:   "test [DIR]",
		Short: "Run the tests beside a policy",
		Long: "Run the tests beside a policy: the files that end in _test.yaml. Each test starts with empty limits.\n" +
			"What no test exercised is listed at the end.\n\n" +
			"Exit code: 0 if every test passed, 1 if one failed, if there is none, or if the policy does not load.",
		Example: "  kelpie test examples/revops",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := dirOf(env, args, f.policy)
			if err != nil {
				return err
			}
			return runTests(cmd, env, &f, dir)
		},
	}
	cmd.Flags().StringVar(&f.policy, "policy", "", "the policy's `directory`, if it is not the argument (KELPIE_POLICY)")
	cmd.Flags().BoolVar(&f.asJSON, "json", false, "print JSON")
	cmd.Flags().StringVar(&f.junit, "junit", "", "also write a JUnit XML report to this `file`")
	return cmd
}

// dirOf is the policy directory that a command is about.
func dirOf(env *Env, args []string, flag string) (string, error) {
	switch {
	case len(args) == 1 && flag != "" && args[0] != flag:
		return "", fmt.Errorf("two policy directories are named, %s and %s; give one", args[0], flag)
	case len(args) == 1:
		return args[0], nil
	case flag != "":
		return flag, nil
	}
	if dir, _ := env.Lookup("KELPIE_POLICY"); dir != "" {
		return dir, nil
	}
	return "", errors.New("which policy? name its directory, such as `policy`, as the argument")
}

func runTests(cmd *cobra.Command, env *Env, f *testFlags, dir string) error {
	snapshot, docs, err := compileDir(dir)
	if err != nil {
		return err
	}
	files, err := parseTests(docs)
	if err != nil {
		return fmt.Errorf("the tests in %s do not load:\n%w", dir, err)
	}
	if len(files) == 0 {
		return fmt.Errorf("%s holds no tests: no file that ends in _test.yaml", dir)
	}
	report, err := policytest.Run(cmd.Context(), policytest.Config{Snapshot: snapshot, Files: files, Now: env.Now()})
	if err != nil {
		return fmt.Errorf("run the tests: %w", err)
	}
	if f.junit != "" {
		if err := writeJUnit(f.junit, dir, report); err != nil {
			return err
		}
	}
	p := env.printer()
	if f.asJSON {
		p.json(reportJSON(dir, report))
	} else {
		p.report(dir, report)
	}
	if err := p.done(); err != nil {
		return err
	}
	if report.Failed() > 0 {
		return exitError(ExitError)
	}
	return nil
}

// parseTests reads every test file, and tells the faults of all at once.
func parseTests(docs []policy.Document) ([]policytest.File, error) {
	var files []policytest.File
	var faults []error
	for _, doc := range docs {
		tests, err := policy.ParseTests(doc)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		files = append(files, policytest.File{Name: doc.Name, Tests: tests})
	}
	return files, errors.Join(faults...)
}

func writeJUnit(path, dir string, report *policytest.Report) error {
	text, err := junit(dir, report)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Clean(path), text, 0o644); err != nil { //nolint:gosec // A report, for others to read.
		return fmt.Errorf("--junit: %w", err)
	}
	return nil
}
