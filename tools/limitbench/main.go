// Command limitbench measures Kelpie's Redis limiter beside what it is compared
// with, all in one run on one machine against one Redis, and prints a table in
// Markdown and the budgets (`make bench-limits`). With -check it exits 1 when a
// budget is missed by more than a tenth.
//
// It is a module of its own, so that its competitors do not come into the main
// one. It is a yardstick, not a load generator for other people's servers: it
// talks only to processes that it started itself, over loopback, for a bounded
// time.
//
//	go run -C tools/limitbench .                       # the whole table
//	go run -C tools/limitbench . -only 'driver/hot/64' # rows whose name matches
//	go run -C tools/limitbench . -selftest             # only: does each side limit?
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// interrupted is the exit code after ^C, as shells have it.
const interrupted = 130

// run ends every process that it started before it returns, also when ctx ends.
func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	if asChild, err := runChild(ctx, args, in, out); asChild {
		if err != nil {
			fmt.Fprintln(errOut, "limitbench:", err)
			return 1
		}
		return 0
	}
	opt, err := parse(args, errOut)
	if err != nil {
		fmt.Fprintln(errOut, "limitbench:", err)
		return 2
	}
	missed, err := bench(ctx, opt, out, errOut)
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(errOut, "limitbench: interrupted; what was started has been ended")
		return interrupted
	case err != nil:
		fmt.Fprintln(errOut, "limitbench:", err)
		return 1
	}
	if opt.check && len(missed) > 0 {
		fmt.Fprintf(errOut, "limitbench: %d budgets missed by more than a tenth\n", len(missed))
		return 1
	}
	return 0
}

// runChild makes this program one of the processes that it starts itself as, if
// the arguments say so.
func runChild(ctx context.Context, args []string, in io.Reader, out io.Writer) (asChild bool, err error) {
	if len(args) == 0 {
		return false, nil
	}
	switch args[0] {
	case workerArg:
		return true, work(ctx, in, out)
	case besideArg:
		return true, serveBeside(ctx, args[1:], out)
	}
	return false, nil
}

// options are the command line.
type options struct {
	check, selftest bool
	rounds          int
	span            time.Duration
	only            *regexp.Regexp
	kelpie          string
	ratelimit       string
}

func parse(args []string, errOut io.Writer) (options, error) {
	var opt options
	var only string
	flags := flag.NewFlagSet("limitbench", flag.ContinueOnError)
	flags.SetOutput(errOut)
	flags.BoolVar(&opt.check, "check", false, "exit 1 if a row is below 0.9 x its budget")
	flags.BoolVar(&opt.selftest, "selftest", false, "only see that every side admits 10 of 20 under a limit of 10")
	flags.IntVar(&opt.rounds, "rounds", 5, "how many times each side is measured, in turn")
	flags.DurationVar(&opt.span, "span", 400*time.Millisecond, "how long one side is measured in one round")
	flags.StringVar(&only, "only", "", "measure rows whose name, GROUP/KEYS/CALLERS/REPLICAS/SIDE, matches this expression")
	flags.StringVar(&opt.kelpie, "kelpie", "", "the built kelpie (none: the rows over gRPC are left out)")
	flags.StringVar(&opt.ratelimit, "ratelimit", "", "the built service_cmd of envoyproxy/ratelimit (none: its rows are left out)")
	if err := flags.Parse(args); err != nil {
		return opt, fmt.Errorf("read the command line: %w", err)
	}
	if opt.rounds < 1 || opt.span <= 0 || flags.NArg() > 0 {
		return opt, errors.New("-rounds and -span must be positive, and there are no arguments")
	}
	var err error
	if opt.only, err = regexp.Compile(only); err != nil {
		return opt, fmt.Errorf("-only: %w", err)
	}
	return opt, nil
}
