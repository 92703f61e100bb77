package cli_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/kelpie-authz/kelpie/internal/cli"
)

var update = flag.Bool("update", false, "write the golden files instead of comparing with them")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// outcome is what one command did.
type outcome struct {
	stdout, stderr string
	code           int
}

func noon() time.Time { return time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC) }

// runWith runs one command at noon with these variables, name and value by turns.
func runWith(t *testing.T, variables []string, args ...string) outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := cli.Run(t.Context(), &cli.Env{
		Args: args, Stdout: &stdout, Stderr: &stderr, Now: noon,
		Lookup: func(name string) (string, bool) {
			for i := 0; i < len(variables); i += 2 {
				if variables[i] == name {
					return variables[i+1], true
				}
			}
			return "", false
		},
	})
	return outcome{stdout.String(), stderr.String(), code}
}

func run(t *testing.T, args ...string) outcome {
	t.Helper()
	return runWith(t, nil, args...)
}

var (
	uuids = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)
	hexes = regexp.MustCompile(`\b[0-9a-f]{12,}\b`)
)

// golden compares with testdata/NAME.golden, ids and hashes left out.
func golden(t *testing.T, name string, args []string, o outcome) {
	t.Helper()
	text := fmt.Sprintf("$ kelpie %s\n%s", strings.Join(args, " "), o.stdout)
	if o.stderr != "" {
		text += "--- stderr\n" + o.stderr
	}
	text += fmt.Sprintf("--- exit code %d\n", o.code)
	text = hexes.ReplaceAllString(uuids.ReplaceAllString(text, "<uuid>"), "<hex>")
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; write it with -update", err)
	}
	if diff := cmp.Diff(string(want), text); diff != "" {
		t.Errorf("%s (-want +got; -update writes it):\n%s", path, diff)
	}
}

// started is a `kelpie serve` that runs until the test ends.
type started struct{ grpc, admin, health, state string }

// serveRevops starts a server over unix sockets, so that no port is needed.
func serveRevops(t *testing.T, more ...string) started {
	t.Helper()
	dir, err := os.MkdirTemp("", "kelpie") // t.TempDir is too long for a socket's path.
	if err != nil {
		t.Fatal(err)
	}
	s := started{"unix://" + dir + "/g", "unix://" + dir + "/a", "unix://" + dir + "/h", dir + "/state"}
	args := append([]string{
		"serve", "--policy", revops, "--grpc-addr", s.grpc, "--admin-addr", s.admin, "--health-addr", s.health,
		"--state", s.state,
	}, more...)
	ctx, cancel := context.WithCancel(context.Background())
	log := &watcher{want: `"msg":"serving"`, seen: make(chan struct{})}
	ended := make(chan int, 1)
	go func() {
		ended <- cli.Run(ctx, &cli.Env{
			Args: args, Stdout: &watcher{}, Stderr: log, Now: time.Now,
			Lookup: func(string) (string, bool) { return "", false },
		})
	}()
	t.Cleanup(func() {
		cancel()
		if code := <-ended; code != cli.ExitOK {
			t.Errorf("serve ended with %d:\n%s", code, log.String())
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	select {
	case <-log.seen:
	case code := <-ended:
		ended <- code
		t.Fatalf("serve ended with %d:\n%s", code, log.String())
	case <-time.After(time.Minute):
		t.Fatalf("serve did not start:\n%s", log.String())
	}
	return s
}
