package policydir_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/kelpie-authz/kelpie/internal/policydir"
	"github.com/kelpie-authz/kelpie/internal/testkit"
	"github.com/kelpie-authz/kelpie/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func fill(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func names(dir string, docs []policy.Document) []string {
	var out []string
	for _, d := range docs {
		rel, _ := filepath.Rel(dir, d.Name)
		out = append(out, rel)
	}
	return out
}

func TestRead(t *testing.T) {
	t.Parallel()
	dir := fill(t, map[string]string{
		"b.yaml": "1", "a.yml": "2", "x_test.yaml": "3", "y_test.yml": "4", "README.md": "5", "c.yaml.bak": "6",
		".hidden.yaml": "7", "sub/d.yaml": "8", "folder.yaml/e.yaml": "9", "UP.YAML": "10",
	})
	if err := os.Symlink("nowhere", filepath.Join(dir, ".#b.yaml")); err != nil { // An editor's lock.
		t.Fatal(err)
	}
	got, err := policydir.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a.yml", "b.yaml", "y_test.yml"}, names(dir, got.Policy)); diff != "" {
		t.Errorf("policy (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"x_test.yaml"}, names(dir, got.Tests)); diff != "" {
		t.Errorf("tests (-want +got):\n%s", diff)
	}
	if string(got.Policy[1].Data) != "1" {
		t.Errorf("data %q", got.Policy[1].Data)
	}
}

func TestReadFaults(t *testing.T) {
	t.Parallel()
	if _, err := policydir.Read(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("read a directory that is not there")
	}
	if _, err := policydir.Read(fill(t, map[string]string{"x_test.yaml": ""})); err == nil || !strings.Contains(err.Error(), "no policy document") {
		t.Errorf("tests only: %v", err)
	}
	dir := fill(t, map[string]string{"a.yaml": ""})
	if err := os.Symlink("nowhere", filepath.Join(dir, "b.yaml")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "c.yaml"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := policydir.Read(dir)
	if err == nil || !strings.Contains(err.Error(), "b.yaml") || !strings.Contains(err.Error(), "c.yaml is not a regular file") {
		t.Errorf("a dead link and a pipe: %v", err)
	}
}

func TestSum(t *testing.T) {
	t.Parallel()
	dir := fill(t, map[string]string{"a.yaml": "1", "b.yaml": "2"})
	sum := func() [32]byte {
		t.Helper()
		d, err := policydir.Read(dir)
		if err != nil {
			t.Fatal(err)
		}
		return d.Sum()
	}
	before := sum()
	testkit.WriteFile(t, filepath.Join(dir, "a_test.yaml"), []byte("x"))
	if sum() != before {
		t.Error("a test file changes the sum")
	}
	testkit.WriteFile(t, filepath.Join(dir, "a.yaml"), []byte("12"))
	testkit.WriteFile(t, filepath.Join(dir, "b.yaml"), nil)
	if sum() == before {
		t.Error("moving a byte from one document to another does not change the sum")
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	dir := fill(t, map[string]string{"a.yaml": "1"})
	changed := make(chan struct{}, 100)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		policydir.Watch{
			Dirs: []string{dir}, Poll: time.Hour, Quiet: time.Millisecond,
			Changed: func(context.Context) { changed <- struct{}{} },
			Failed:  func(err error) { t.Error(err) },
		}.Run(ctx)
	}()
	// Until a notice comes, nobody knows that the watch stands.
	n := 0
	testkit.Eventually(t, "a notice", func() bool {
		n++
		testkit.WriteFile(t, filepath.Join(dir, "a.yaml"), []byte(strings.Repeat("x", n%5)))
		return len(changed) > 0
	})
	cancel()
	testkit.Receive(t, "the end", ended)
}

func TestWatchPolls(t *testing.T) {
	t.Parallel()
	changed := make(chan struct{}, 100)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		policydir.Watch{
			Dirs: []string{filepath.Join(t.TempDir(), "none")}, Poll: time.Millisecond,
			Changed: func(context.Context) {
				select {
				case changed <- struct{}{}:
				default:
				}
			},
		}.Run(ctx)
	}()
	for range 3 {
		testkit.Receive(t, "a poll", changed)
	}
	cancel()
	testkit.Receive(t, "the end", ended)
}
