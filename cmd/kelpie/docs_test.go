package main_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/internal/testkit"
)

// The commands in README.md and docs/*.md are run here, one file after another
// of its blocks in one working directory that holds examples/, with the binary
// built from this tree first in PATH. What a fence says after its language:
//
//	```console              commands after "$ ", the rest is their output
//	```console background   its one command serves until the next such block, or the end
//	                        of the file
//	```sh run               a script that must succeed; its output is not looked at
//	```sh norun WHY         not run, for the reason given
//
// In output, "..." stands for any text, and a line of nothing else for any
// lines. The addresses 127.0.0.1:7070 to 7073 are replaced by free ones.

const (
	blockTimeout = 2 * time.Minute
	startTimeout = 30 * time.Second
	leastBlocks  = 8
)

func TestDocumentedCommands(t *testing.T) {
	t.Parallel()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	readme := filepath.Join(root, "README.md")
	if _, err := os.Stat(readme); err == nil {
		files = append(files, readme)
	}
	bin := t.TempDir()
	build(t, root, filepath.Join(bin, "kelpie"), "./cmd/kelpie")
	documents, total, curl := map[string][]testkit.Block{}, 0, false
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		blocks := testkit.ParseBlocks(string(text))
		documents[file] = blocks
		for _, b := range blocks {
			if b.Runs() {
				total++
				curl = curl || strings.Contains(b.Text, "grpcurl")
			}
		}
	}
	if curl {
		build(t, root, filepath.Join(bin, "grpcurl"), "-modfile=tools/grpcurl/go.mod", "github.com/fullstorydev/grpcurl/cmd/grpcurl")
	}
	for file, blocks := range documents {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			runBlocks(t, root, bin, blocks)
		})
	}
	// docs/cli.md alone has this many: fewer means that the reader of fences broke.
	if total < leastBlocks {
		t.Errorf("only %d blocks are run, want at least %d", total, leastBlocks)
	}
}

// build makes a binary as a user would, without the race detector.
func build(t *testing.T, root, output string, what ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"build", "-o", output}, what...)...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %v: %v\n%s", what, err, out)
	}
}

// session runs the blocks of one file.
type session struct {
	dir string
	env []string
	// ports has the documented address and the one in its place.
	ports  map[string]string
	health string
	// stop ends the server that serves; nil: none does.
	stop func()
}

func runBlocks(t *testing.T, root, bin string, blocks []testkit.Block) {
	t.Helper()
	s := newSession(t, root, bin)
	for _, b := range blocks {
		switch {
		case b.Unmarked():
			t.Errorf("line %d: mark this block: ```sh run, or ```sh norun and why", b.Line)
		case !b.Runs():
		case b.Background():
			s.serve(t, b)
		case b.Lang == "sh":
			s.script(t, b)
		default:
			for _, c := range b.Commands() {
				s.command(t, c)
			}
		}
		if t.Failed() {
			return // What follows builds on it.
		}
	}
}

func newSession(t *testing.T, root, bin string) *session {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "examples"), os.DirFS(filepath.Join(root, "examples"))); err != nil {
		t.Fatal(err)
	}
	s := &session{dir: dir, ports: map[string]string{}}
	s.env = append(cleanEnv(), "PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"), "NO_COLOR=1")
	for port, variable := range map[string]string{
		"127.0.0.1:7070": "KELPIE_GRPC_ADDR", "127.0.0.1:7072": "KELPIE_ADMIN_ADDR", "127.0.0.1:7073": "KELPIE_HEALTH_ADDR",
	} {
		addr := testkit.FreeAddr(t)
		s.ports[port] = addr
		s.env = append(s.env, variable+"="+addr)
	}
	s.health = s.ports["127.0.0.1:7073"]
	return s
}

// cleanEnv is the environment without what would change kelpie's behaviour.
func cleanEnv() []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "KELPIE_") && !strings.HasPrefix(v, "PATH=") {
			env = append(env, v)
		}
	}
	return env
}

func (s *session) shell(ctx context.Context, script string) *exec.Cmd {
	for documented, free := range s.ports {
		script = strings.ReplaceAll(script, documented, free)
	}
	cmd := exec.CommandContext(ctx, "sh", "-c", script)
	cmd.Dir, cmd.Env = s.dir, s.env
	return cmd
}

// documented puts the documented addresses back into output.
func (s *session) documented(output string) string {
	for documented, free := range s.ports {
		output = strings.ReplaceAll(output, free, documented)
	}
	return output
}

func (s *session) script(t *testing.T, b testkit.Block) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), blockTimeout)
	defer cancel()
	if out, err := s.shell(ctx, "set -e\n"+b.Text).CombinedOutput(); err != nil {
		t.Errorf("line %d: %v\n%s\n%s", b.Line, err, b.Text, out)
	}
}

func (s *session) command(t *testing.T, c testkit.Command) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), blockTimeout)
	defer cancel()
	out, err := s.shell(ctx, c.Text).CombinedOutput()
	got := s.documented(string(out))
	// A command that shows no output must succeed; where output is shown, it says enough,
	// and the exit code is documented by `; echo $?`.
	if strings.TrimSpace(c.Output) == "" {
		if err != nil {
			t.Errorf("line %d: %v\n$ %s\n%s", c.Line, err, c.Text, got)
		}
		return
	}
	if !testkit.Matches(c.Output, got) {
		t.Errorf("line %d: $ %s\n--- documented\n%s\n--- came\n%s", c.Line, c.Text, c.Output, got)
	}
}

// serve starts a server and waits until it is ready; it runs until the next one
// does, which has its addresses, or the test ends.
func (s *session) serve(t *testing.T, b testkit.Block) {
	t.Helper()
	commands := b.Commands()
	if len(commands) != 1 {
		t.Fatalf("line %d: a background block has one command, this has %d", b.Line, len(commands))
	}
	if s.stop != nil {
		s.stop()
	}
	var out bytes.Buffer
	cmd := s.shell(context.WithoutCancel(t.Context()), "exec "+commands[0].Text)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	s.stop = sync.OnceFunc(func() {
		// It has gone already if this fails, and then exited says how.
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case err := <-exited:
			if err != nil {
				t.Errorf("%s: %v\n%s", commands[0].Text, err, out.String())
			}
		case <-time.After(startTimeout):
			_ = cmd.Process.Kill()
			<-exited
			t.Errorf("%s: did not stop\n%s", commands[0].Text, out.String())
		}
	})
	t.Cleanup(s.stop)
	deadline := time.Now().Add(startTimeout)
	for !ready(s.health) {
		if time.Now().After(deadline) {
			t.Fatalf("line %d: %s: not ready within %v", b.Line, commands[0].Text, startTimeout)
		}
		select {
		case err := <-exited:
			exited <- err
			t.Fatalf("line %d: %s: exited: %v\n%s", b.Line, commands[0].Text, err, out.String())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func ready(addr string) bool {
	client := http.Client{Timeout: time.Second}
	resp, err := client.Get(fmt.Sprintf("http://%s/readyz", addr))
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}
