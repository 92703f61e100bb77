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
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == emptyServerArg {
		if err := serveEmpty(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "bench: empty server:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
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

func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	var opt options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(errOut)
	flags.BoolVar(&opt.check, "check", false, "exit 1 if a row is below 0.9 x its budget")
	flags.StringVar(&opt.groups, "run", "", "comma-separated groups to run: decide, compile, unary, stream, reload, start")
	flags.IntVar(&opt.rounds, "rounds", 5, "how many times each side is measured, in turn")
	flags.DurationVar(&opt.span, "span", 1500*time.Millisecond, "how long one side is measured in one round")
	flags.StringVar(&opt.keep, "logs", "", "directory for the servers' output (default: a temporary one)")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	env, err := newEnvironment(ctx, opt)
	if err != nil {
		fmt.Fprintln(errOut, "bench:", err)
		return 1
	}
	defer env.close()
	groups := []group{
		{"decide", measureDecide},
		{"compile", measureCompile},
		{"unary", measureUnary},
		{"stream", measureStream},
		{"reload", measureReload},
		{"start", measureStart},
	}
	var rows []row
	for _, g := range groups {
		if !wanted(opt.groups, g.name) {
			continue
		}
		fmt.Fprintf(errOut, "bench: measuring %s ...\n", g.name)
		got, err := g.run(ctx, env)
		if err != nil {
			fmt.Fprintf(errOut, "bench: %s: %v\n", g.name, err)
			return 1
		}
		rows = append(rows, got...)
	}
	printTable(out, rows)
	if missed := below(rows, 0.9); opt.check && len(missed) > 0 {
		fmt.Fprintf(errOut, "bench: %d of %d budgets missed by more than a tenth: %s\n",
			len(missed), len(rows), strings.Join(missed, "; "))
		return 1
	}
	return 0
}

func wanted(list, name string) bool {
	if list == "" {
		return true
	}
	for g := range strings.SplitSeq(list, ",") {
		if strings.TrimSpace(g) == name {
			return true
		}
	}
	return false
}
