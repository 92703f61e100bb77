package envoytest_test

import (
	"bytes"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kelpie-authz/kelpie/internal/testkit"
)

// The README of the example is true to the letter: the script behind `make run-envoy` starts all three, each curl
// answers as it is written there, and Ctrl-C ends all of them.
func TestReadme(t *testing.T) {
	t.Parallel()
	dir, ports := exampleOnFreePorts(t)
	script := testkit.Start(t, testkit.Program{
		Name: "run-envoy.sh", Path: filepath.Join(dir, "scripts", "run-envoy.sh"), Dir: dir, Env: []string{"ENVOY=" + programs.envoy},
	})
	testkit.Eventually(t, "the curl commands of run-envoy.sh", func() bool {
		if !script.Running() {
			t.Fatal("run-envoy.sh ended")
		}
		return strings.Contains(script.Stderr.String(), "Ctrl-C stops all three.")
	})

	text, err := os.ReadFile(example(t, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, block := range testkit.ParseBlocks(string(text)) {
		switch {
		case block.Background() && strings.TrimSpace(block.Text) == "$ make run-envoy":
		case block.Lang == "console" && !block.Background():
			for _, c := range block.Commands() {
				ran++
				runCommand(t, dir, c, ports)
			}
		case block.Lang == "text":
		default:
			t.Errorf("line %d: nothing runs this block", block.Line)
		}
	}
	if ran < 8 {
		t.Errorf("only %d commands were run", ran)
	}

	script.Interrupt(t)
	if err := script.Wait(t); err != nil {
		t.Errorf("Ctrl-C: %v", err)
	}
	for documented, free := range ports {
		if conn, err := net.Dial("tcp", free); err == nil {
			conn.Close()
			t.Errorf("somebody still listens on %s, in the place of %s", free, documented)
		}
	}
}

// The curl commands that the script prints are those of the README, or would be told to nobody.
func TestScriptAgreesWithReadme(t *testing.T) {
	t.Parallel()
	script, err := os.ReadFile(filepath.Join(testkit.Root(t), "scripts", "run-envoy.sh"))
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile(example(t, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for line := range strings.Lines(string(script)) {
		_, what, is := strings.Cut(line, "curl -i ")
		if !is {
			continue
		}
		found++
		what, _, _ = strings.Cut(what, " #")
		if !strings.Contains(string(readme), strings.TrimSpace(what)) {
			t.Errorf("the README does not show: curl %s", what)
		}
	}
	if found != 4 {
		t.Errorf("the script prints %d curl commands, want 4", found)
	}
}

// exampleOnFreePorts copies what run-envoy.sh needs into a tree of its own, with other ports.
func exampleOnFreePorts(t *testing.T) (dir string, ports map[string]string) {
	t.Helper()
	ports = map[string]string{}
	var edits []string
	for _, documented := range []string{
		"127.0.0.1:7070", "127.0.0.1:7072", "127.0.0.1:7073", "127.0.0.1:8080", "127.0.0.1:8081", "127.0.0.1:9901",
	} {
		free := testkit.FreeAddr(t)
		ports[documented] = free
		_, old, _ := strings.Cut(documented, ":")
		_, port, _ := strings.Cut(free, ":")
		edits = append(edits, documented, free, "port_value: "+old+"}", "port_value: "+port+"}")
	}
	replacer := strings.NewReplacer(edits...)
	dir = t.TempDir()
	root := os.DirFS(testkit.Root(t))
	err := fs.WalkDir(root, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if slices.Contains([]string{".", "scripts", "examples", "examples/envoy", "examples/envoy/policy"}, path) {
				return os.MkdirAll(filepath.Join(dir, path), 0o700)
			}
			return fs.SkipDir
		}
		if !strings.Contains(path, "/") {
			return nil
		}
		text, err := fs.ReadFile(root, path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, path), []byte(replacer.Replace(string(text))), 0o700)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{"kelpie": programs.kelpie, "upstream": programs.upstream} {
		if err := os.Symlink(path, filepath.Join(dir, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir, ports
}

func runCommand(t *testing.T, dir string, c testkit.Command, ports map[string]string) {
	t.Helper()
	script := c.Text
	for documented, free := range ports {
		script = strings.ReplaceAll(script, documented, free)
	}
	var out bytes.Buffer
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &out
	if err := cmd.Run(); err != nil {
		t.Errorf("line %d: $ %s: %v", c.Line, c.Text, err)
	}
	got := out.String()
	for documented, free := range ports {
		got = strings.ReplaceAll(got, free, documented)
	}
	if !testkit.Matches(c.Output, got) {
		t.Errorf("line %d: $ %s\n--- documented\n%s\n--- came\n%s", c.Line, c.Text, c.Output, got)
	}
}
