// Command bench measures Kelpie against what it is compared with, both sides
// in one run on one machine, and prints the ratios beside their budgets
// (`make bench`). With -check it exits 1 when a budget is missed by more than
// a tenth (`make bench-check`).
//
// It is a yardstick, not a load generator for other people's servers: it talks
// only to processes that it started itself, over loopback, for a bounded time.
//
//	go run ./internal/bench             # the whole table
//	go run ./internal/bench -run decide # rows whose group matches
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	if asServer, err := serve(os.Args[1:]); asServer {
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// serve makes this program one of the servers that it starts itself as, if
// the arguments say so.
func serve(args []string) (asServer bool, err error) {
	if len(args) == 0 {
		return false, nil
	}
	switch args[0] {
	case emptyServerArg:
		return true, serveEmpty(args[1:])
	case upstreamArg:
		return true, serveUpstream()
	}
	return false, nil
}

// options are the command line.
type options struct {
	check  bool
	groups string
	rounds int
	span   time.Duration
	keep   string
}

// group is one part of the table. It returns the rows it measured.
type group struct {
	name string
	run  func(ctx context.Context, env *environment) ([]row, error)
}

func allGroups() []group {
	return []group{
		{"decide", measureDecide},
		{"compile", measureCompile},
		{"audit", measureAudit},
		{"unary", measureUnary},
		{"check", measureCheck},
		{"envoy", measureEnvoy},
		{"stream", measureStream},
		{"reload", measureReload},
		{"start", measureStart},
	}
}

// groupNames are the groups as a person reads them.
func groupNames() string {
	var names []string
	for _, g := range allGroups() {
		names = append(names, g.name)
	}
	return strings.Join(names, ", ")
}

// interrupted is the exit code after ^C, as shells have it.
const interrupted = 130

// run ends every process that it started before it returns, also when ctx ends.
func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	opt, code := parse(args, errOut)
	if code != 0 {
		return code
	}
	rows, err := measure(ctx, opt, errOut)
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(errOut, "bench: interrupted; what was started has been ended")
		return interrupted
	case err != nil:
		fmt.Fprintln(errOut, "bench:", err)
		return 1
	}
	printTable(out, rows)
	if missed := below(rows, 0.9); opt.check && len(missed) > 0 {
		fmt.Fprintf(errOut, "bench: %d of %d budgets missed by more than a tenth: %s\n",
			len(missed), len(rows), strings.Join(missed, "; "))
		return 1
	}
	return 0
}

// parse reads the command line; the code is 0 if it is sound.
func parse(args []string, errOut io.Writer) (options, int) {
	var opt options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(errOut)
	flags.BoolVar(&opt.check, "check", false, "exit 1 if a row is below 0.9 x its budget")
	flags.StringVar(&opt.groups, "run", "", "comma-separated groups to run: "+groupNames())
	flags.IntVar(&opt.rounds, "rounds", 5, "how many times each side is measured, in turn")
	flags.DurationVar(&opt.span, "span", 1500*time.Millisecond, "how long one side is measured in one round")
	flags.StringVar(&opt.keep, "logs", "", "directory for the servers' output (default: a temporary one)")
	if err := flags.Parse(args); err != nil {
		return opt, 2
	}
	if opt.rounds < 1 || opt.span <= 0 {
		fmt.Fprintln(errOut, "bench: -rounds and -span must be positive")
		return opt, 2
	}
	for _, name := range split(opt.groups) {
		if !slices.ContainsFunc(allGroups(), func(g group) bool { return g.name == name }) {
			fmt.Fprintf(errOut, "bench: there is no group %q; there are %s\n", name, groupNames())
			return opt, 2
		}
	}
	return opt, 0
}

// measure runs the groups that are wanted, in turn.
func measure(ctx context.Context, opt options, errOut io.Writer) ([]row, error) {
	env, err := newEnvironment(ctx, opt)
	if err != nil {
		return nil, err
	}
	defer env.close()
	var rows []row
	for _, g := range allGroups() {
		if !wanted(opt.groups, g.name) {
			continue
		}
		fmt.Fprintf(errOut, "bench: measuring %s ...\n", g.name)
		got, err := g.run(ctx, env)
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", g.name, err)
		}
		rows = append(rows, got...)
	}
	return rows, nil
}

// split is the groups of a list; none stands for all.
func split(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}

func wanted(list, name string) bool {
	names := split(list)
	return len(names) == 0 || slices.Contains(names, name)
}
