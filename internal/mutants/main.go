// Command mutants switches off each check of a decision in turn and runs the
// tests, which must go red each time (`make mutants`). A check that can be
// switched off unseen is a check that nobody tests.
//
// The changed file reaches the compiler through `go test -overlay`, so the work
// tree is never touched. A mutant that does not compile, or whose text is not
// found exactly once, is an error of the table and not a kill.
//
//	go run ./internal/mutants            # all
//	go run ./internal/mutants -run deny  # those whose name contains deny
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// mutant is one change to one file.
type mutant struct {
	// name is the check that it switches off, in the words of DESIGN section 3.
	name string
	file string
	// old must occur exactly once in the file; new takes its place.
	old, new string
	// tests are the packages that should notice.
	tests []string
	// flags go to the test binaries.
	flags []string
}

// noFailFile keeps rapid from writing what it found into testdata: a mutant's
// failures are no regression tests.
const noFailFile = "-rapid.nofailfile"

var errSurvived = errors.New("survived: every test still passes")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	flags := flag.NewFlagSet("mutants", flag.ContinueOnError)
	flags.SetOutput(errOut)
	only := flags.String("run", "", "only mutants whose name contains this")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	ran, failed := 0, 0
	green := map[string]error{}
	for _, m := range mutants() {
		if !strings.Contains(m.name, *only) {
			continue
		}
		// On a package that is red anyway every mutant would look killed.
		key := strings.Join(slices.Concat(m.tests, m.flags), " ")
		if _, known := green[key]; !known {
			green[key] = m.baseline(ctx)
		}
		if err := green[key]; err != nil {
			fmt.Fprintln(errOut, "mutants:", err)
			return 1
		}
		ran++
		start := time.Now()
		err := m.kill(ctx)
		verdict := "killed"
		if err != nil {
			failed++
			verdict = "NOT KILLED: " + err.Error()
		}
		fmt.Fprintf(out, "%-44s %6.1fs  %s\n", m.name, time.Since(start).Seconds(), verdict)
	}
	fmt.Fprintf(out, "%d mutants, %d killed, %d not\n", ran, ran-failed, failed)
	if failed > 0 || ran == 0 {
		return 1
	}
	return 0
}

// baseline returns nil if the tests pass without the mutant.
func (m mutant) baseline(ctx context.Context) error {
	if msg, err := exec.CommandContext(ctx, "go", m.command("")...).CombinedOutput(); err != nil {
		return fmt.Errorf("the tests of %s are red without any mutant: %w\n%s", strings.Join(m.tests, " "), err, msg)
	}
	return nil
}

// command is the go command that runs the tests, on the mutant if overlay is set.
func (m mutant) command(overlay string) []string {
	// Vet looks for odd code, which a mutant is; the tests are to find it.
	args := []string{"test", "-vet=off", "-count=1", "-failfast", "-timeout=10m"}
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	return append(append(args, m.tests...), m.flags...)
}

// kill returns nil if some test fails on the mutant.
func (m mutant) kill(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "kelpie-mutant-")
	if err != nil {
		return fmt.Errorf("make a temporary directory: %w", err)
	}
	// What stays behind is a temporary directory: nothing to tell anyone.
	defer func() { _ = os.RemoveAll(dir) }()
	overlay, err := m.write(dir)
	if err != nil {
		return err
	}
	// A mutant that does not compile would fail every test and prove nothing.
	build := append([]string{"build", "-overlay", overlay}, m.tests...)
	if msg, err := exec.CommandContext(ctx, "go", build...).CombinedOutput(); err != nil {
		return fmt.Errorf("the mutant does not compile: %w\n%s", err, msg)
	}
	msg, err := exec.CommandContext(ctx, "go", m.command(overlay)...).CombinedOutput()
	if err == nil {
		return errSurvived
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) || !bytes.Contains(msg, []byte("FAIL")) || bytes.Contains(msg, []byte("[build failed]")) {
		return fmt.Errorf("the tests did not run: %w\n%s", err, msg)
	}
	return nil
}

// write puts the changed file and the overlay that names it into dir.
func (m mutant) write(dir string) (string, error) {
	file, err := filepath.Abs(m.file)
	if err != nil {
		return "", fmt.Errorf("find %s: %w", m.file, err)
	}
	src, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read the file to change: %w", err)
	}
	if n := bytes.Count(src, []byte(m.old)); n != 1 {
		return "", fmt.Errorf("%s holds %q %d times, not once: mend the table in internal/mutants", m.file, m.old, n)
	}
	changed := filepath.Join(dir, "mutant.go")
	if err := os.WriteFile(changed, bytes.Replace(src, []byte(m.old), []byte(m.new), 1), 0o600); err != nil {
		return "", fmt.Errorf("write the mutant: %w", err)
	}
	raw, err := json.Marshal(map[string]any{"Replace": map[string]string{file: changed}})
	if err != nil {
		return "", fmt.Errorf("write the overlay: %w", err)
	}
	overlay := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlay, raw, 0o600); err != nil {
		return "", fmt.Errorf("write the overlay: %w", err)
	}
	return overlay, nil
}
