// Package cli is the command line: it parses flags, calls what decides, and
// prints what came. Each command has a file of its own.
//
// It decides nothing itself: check and explain ask the same pdp.Service, or the
// same RPC, that gateways ask.
//
//	code := cli.Run(ctx, &cli.Env{
//		Args: os.Args[1:], Stdout: os.Stdout, Stderr: os.Stderr, Lookup: os.LookupEnv, Now: time.Now,
//	})
package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// The exit codes. Scripts rely on them: they do not change.
const (
	ExitOK              = 0
	ExitError           = 1
	ExitDeny            = 3
	ExitRequireApproval = 4
	// ExitDryRun is a dry run that would be ALLOW: nothing was charged, so the
	// call must not go through on it.
	ExitDryRun = 5
)

// Env is everything that a command takes from its surroundings. All fields but
// Stdin are needed.
type Env struct {
	// Args are the arguments without the program's name.
	Args []string
	// Stdin is where a person confirms what he does. Nil, or no terminal: nobody is
	// asked, and what needs a confirmation is refused.
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	// Lookup finds an environment variable, as os.LookupEnv.
	Lookup func(name string) (string, bool)
	// Now is the clock.
	Now func() time.Time
}

// Run executes one command and returns the process's exit code. Errors are
// printed on Stderr. It returns once ctx ends and the command has wound up.
func Run(ctx context.Context, env *Env) int {
	root := newRoot(env) //nolint:contextcheck // Commands take the context that ExecuteContext gives them.
	// cobra takes nil for "the arguments of the process".
	root.SetArgs(append([]string{}, env.Args...))
	err := root.ExecuteContext(ctx)
	var exit exitError
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &exit):
		return int(exit)
	default:
		// Nothing can be done about a standard error that is gone.
		_, _ = fmt.Fprintf(env.Stderr, "kelpie: %v\n", err)
		return ExitError
	}
}

// exitError ends a command that has said what it had to say.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

func newRoot(env *Env) *cobra.Command {
	root := &cobra.Command{
		Use:   "kelpie",
		Short: "Decides what AI agents may do",
		Long: "Kelpie decides what AI agents may do: ALLOW, DENY or REQUIRE_APPROVAL, with a reason.\n\n" +
			"Begin with `kelpie init policy`, then `kelpie test policy` and `kelpie serve --policy policy`.",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          commandsOnly,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	root.SetHelpFunc(plainHelp(root.HelpFunc()))
	root.AddCommand(
		newInit(env), newServe(env), newCheck(env), newExplain(env), newTest(env),
		newLint(env), newSchema(env), newLimits(env), newApprovals(env), newBreakGlass(env), newAudit(env), newVersion(env),
	)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		// A command that does not exist has flags that its parent does not know.
		if _, rest, findErr := root.Find(env.Args); findErr == nil && cmd.HasSubCommands() && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
			return commandsOnly(cmd, rest)
		}
		return fmt.Errorf("%w; see `%s --help`", err, cmd.CommandPath())
	})
	return root
}

// flagsOnly refuses arguments: a word without its flag would be ignored.
func flagsOnly(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%q belongs to no flag; see `%s --help`", args[0], cmd.CommandPath())
	}
	return nil
}

// commandsOnly refuses a word that is no command below this one, and says which was
// meant, as far as can be told.
func commandsOnly(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var meant []string
	add := func(c *cobra.Command) {
		if path := "`" + c.CommandPath() + "`"; !slices.Contains(meant, path) {
			meant = append(meant, path)
		}
	}
	for _, c := range cmd.Commands() {
		for _, below := range c.Commands() {
			if below.IsAvailableCommand() && below.Name() == args[0] && c.Name() != "completion" {
				add(below)
			}
		}
	}
	cmd.SuggestionsMinimumDistance = 2
	for _, name := range cmd.SuggestionsFor(args[0]) {
		if c, _, err := cmd.Find([]string{name}); err == nil {
			add(c)
		}
	}
	if len(meant) > 0 {
		return fmt.Errorf("unknown command %q for %q; did you mean %s? See `%[2]s --help`", args[0], cmd.CommandPath(), strings.Join(meant, " or "))
	}
	return fmt.Errorf("unknown command %q for %q; see `%[2]s --help`", args[0], cmd.CommandPath())
}

// plainHelp leaves out "[=true|false]", which pflag writes behind every flag
// without a value.
func plainHelp(help func(*cobra.Command, []string)) func(*cobra.Command, []string) {
	const noise = "[=true|false]"
	return func(cmd *cobra.Command, args []string) {
		out := cmd.OutOrStdout()
		var text bytes.Buffer
		cmd.SetOut(&text)
		help(cmd, args)
		cmd.SetOut(out)
		// Blanks in its place keep the columns.
		cmd.Print(strings.ReplaceAll(text.String(), noise, strings.Repeat(" ", len(noise))))
	}
}

// isTerminal reports whether w is a terminal, as far as its file mode tells.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// printer returns a printer for the command's standard output.
func (e *Env) printer() *printer {
	noColor, _ := e.Lookup("NO_COLOR") // https://no-color.org: set and not empty.
	term, _ := e.Lookup("TERM")
	return &printer{w: e.Stdout, color: isTerminal(e.Stdout) && noColor == "" && term != "dumb"}
}
