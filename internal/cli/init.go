package cli

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
)

// The first policy, as files so that editors and the tests read them too.
//
//go:embed firstpolicy/policy.yaml firstpolicy/policy_test.yaml
var firstPolicy embed.FS

const (
	firstDocument = "policy.yaml"
	firstTests    = "policy_test.yaml"
)

func newInit(env *Env) *cobra.Command {
	return &cobra.Command{
		Use:   "init [DIR]",
		Short: "Write a first policy, with tests that pass, into a directory",
		Long: "Write a first policy, with tests that pass, into a directory (default: policy), which is made if it\n" +
			"is not there. Nothing is overwritten.",
		Example: "  kelpie init policy",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			dir := "policy"
			if len(args) == 1 {
				dir = args[0]
			}
			return runInit(env, dir)
		},
	}
}

func runInit(env *Env, dir string) error {
	if err := refuseOverwrite(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("make the directory: %w", err)
	}
	for _, name := range []string{firstDocument, firstTests} {
		text, err := firstPolicy.ReadFile("firstpolicy/" + name)
		if err != nil {
			return fmt.Errorf("read the built-in %s: %w", name, err)
		}
		if err := writeNew(filepath.Join(dir, name), text); err != nil {
			return err
		}
	}
	p := env.printer()
	p.printf("Wrote %s and %s.\n\n", filepath.Join(dir, firstDocument), filepath.Join(dir, firstTests))
	p.printf("Next:\n")
	for _, step := range [][2]string{
		{"kelpie test " + dir, "run its tests"},
		{"kelpie check --policy " + dir + " --agent helper --action read --resource notes/1 --ip 127.0.0.1", "ask it something"},
		{"kelpie serve --policy " + dir, "serve it to gateways"},
	} {
		p.printf("  %s\n      %s\n", p.paint(bold, step[0]), step[1])
	}
	return p.done()
}

// refuseOverwrite refuses a directory that holds a policy: documents merge, so
// one more file beside others would change what they mean.
func refuseOverwrite(dir string) error {
	for _, pattern := range []string{"*.yaml", "*.yml"} {
		// Glob on the joined path would read a directory named "[x]" as a pattern.
		found, err := fs.Glob(os.DirFS(dir), pattern)
		if err != nil {
			return fmt.Errorf("look into %s: %w", dir, err)
		}
		if len(found) > 0 {
			return fmt.Errorf("%s exists already; give another directory, nothing was written",
				filepath.Join(dir, found[0]))
		}
	}
	return nil
}

// writeNew writes a file that must not exist yet.
func writeNew(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640) //nolint:gosec // The directory that the user named.
	if err != nil {
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%s exists already; give another directory", path)
		}
		return fmt.Errorf("write the policy: %w", err)
	}
	_, err = f.Write(text)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
