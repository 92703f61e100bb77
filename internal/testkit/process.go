package testkit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Program is how a process is started.
type Program struct {
	// Name is what messages call it; the default is the base of Path.
	Name string
	Path string
	Args []string
	// Env is added to the environment, from which every KELPIE_ variable was taken.
	Env []string
	Dir string
}

// Process is a running program of one test, which ends with the test. What it
// wrote is shown if the test failed.
type Process struct {
	Stdout, Stderr *Buffer

	name   string
	cmd    *exec.Cmd
	exited chan struct{} // closed once err is set
	err    error
}

// Start starts a program. It does not wait for anything.
func Start(tb testing.TB, p Program) *Process {
	tb.Helper()
	proc := &Process{Stdout: &Buffer{}, Stderr: &Buffer{}, name: p.Name, exited: make(chan struct{})}
	if proc.name == "" {
		proc.name = filepath.Base(p.Path)
	}
	// No end by the context: it would kill where a test wants to see how the program ends.
	proc.cmd = exec.CommandContext(context.WithoutCancel(tb.Context()), p.Path, p.Args...)
	proc.cmd.Dir, proc.cmd.Env = p.Dir, append(cleanEnv(), p.Env...)
	proc.cmd.Stdout, proc.cmd.Stderr = proc.Stdout, proc.Stderr
	if err := proc.cmd.Start(); err != nil {
		tb.Fatalf("start %s: %v", proc.name, err)
	}
	go func() {
		proc.err = proc.cmd.Wait()
		close(proc.exited)
	}()
	tb.Cleanup(func() { proc.cleanup(tb) })
	return proc
}

// cleanEnv is the environment without what would change Kelpie's behaviour.
func cleanEnv() []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "KELPIE_") {
			env = append(env, v)
		}
	}
	return env
}

func (p *Process) cleanup(tb testing.TB) {
	tb.Helper()
	p.Resume(tb)
	if p.Running() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM) // It has gone just now if this fails.
	}
	select {
	case <-p.exited:
	case <-time.After(patience):
		_ = p.cmd.Process.Kill()
		<-p.exited
		tb.Errorf("%s did not end within %v of SIGTERM", p.name, patience)
	}
	if filepath.Base(p.cmd.Path) == "kelpie" {
		NoSecrets(tb, "its standard output", p.Stdout.String())
		NoSecrets(tb, "its standard error", p.Stderr.String())
	}
	if tb.Failed() {
		tb.Logf("%s ended: %v\n--- its standard output\n%s\n--- its standard error\n%s", p.name, p.err, tail(p.Stdout), tail(p.Stderr))
	}
}

// tail is the end of a long output, its long lines cut.
func tail(b *Buffer) string {
	const shown, wide = 8 << 10, 600
	s := b.String()
	if len(s) > shown {
		s = "..." + s[len(s)-shown:]
	}
	var out strings.Builder
	for line := range strings.Lines(s) {
		if len(line) > wide {
			line = line[:wide] + "...\n"
		}
		out.WriteString(line)
	}
	return out.String()
}

// Running reports whether it has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// Wait waits for its end, and returns what os/exec says about it.
func (p *Process) Wait(tb testing.TB) error {
	tb.Helper()
	select {
	case <-p.exited:
		return p.err
	case <-time.After(patience):
		tb.Fatalf("waited %v in vain for the end of %s", patience, p.name)
		return nil
	}
}

// Terminate sends SIGTERM and does not wait.
func (p *Process) Terminate(tb testing.TB) { tb.Helper(); p.signal(tb, syscall.SIGTERM) }

// Interrupt sends SIGINT, as Ctrl-C does, and does not wait.
func (p *Process) Interrupt(tb testing.TB) { tb.Helper(); p.signal(tb, syscall.SIGINT) }

// Hangup sends SIGHUP and does not wait.
func (p *Process) Hangup(tb testing.TB) { tb.Helper(); p.signal(tb, syscall.SIGHUP) }

// Pause stops it in the middle of whatever it does, as a machine without air
// would, and waits until all its threads stand still: the signal alone says only
// that they will.
func (p *Process) Pause(tb testing.TB) {
	tb.Helper()
	p.signal(tb, syscall.SIGSTOP)
	p.until(tb, "it stands still", func() bool {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.cmd.Process.Pid))
		if err != nil || len(threads) == 0 {
			return false
		}
		return !slices.ContainsFunc(threads, func(path string) bool {
			raw, err := os.ReadFile(path)
			// The state stands behind the name, which is in parentheses (proc(5)).
			_, state, found := strings.Cut(string(raw), ") ")
			return err != nil || !found || !strings.HasPrefix(state, "T")
		})
	})
}

// Resume lets it go on after Pause.
func (p *Process) Resume(tb testing.TB) {
	tb.Helper()
	if p.Running() {
		p.signal(tb, syscall.SIGCONT)
	}
}

// Kill ends it at once and waits until it is gone.
func (p *Process) Kill(tb testing.TB) {
	tb.Helper()
	p.signal(tb, syscall.SIGKILL)
	_ = p.Wait(tb) // It says that it was killed.
}

func (p *Process) signal(tb testing.TB, sig syscall.Signal) {
	tb.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		tb.Fatalf("send %v to %s: %v", sig, p.name, err)
	}
}

// until waits for done, and fails at once if the process ends instead.
func (p *Process) until(tb testing.TB, what string, done func() bool) {
	tb.Helper()
	Eventually(tb, fmt.Sprintf("%s: %s", p.name, what), func() bool {
		running := p.Running() // looked at first: what it wrote before its end counts
		if done() {
			return true
		}
		if !running {
			tb.Fatalf("%s ended before %s: %v\n%s", p.name, what, p.err, tail(p.Stderr))
		}
		return false
	})
}

// Root is the folder of go.mod.
func Root(tb testing.TB) string {
	tb.Helper()
	dir, err := os.Getwd()
	if err != nil {
		tb.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			tb.Fatal("the test does not run within a module")
		}
		dir = parent
	}
}

// OK reports whether a GET is answered with 200.
func OK(url string) bool {
	code, _, err := fetch(url)
	return err == nil && code == http.StatusOK
}

// fetch is a GET on a connection of its own. It has no test's context, because it is asked in cleanups too.
func fetch(url string) (code int, body string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}
