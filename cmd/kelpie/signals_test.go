package main_test

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kelpie-authz/kelpie/internal/testkit"
)

// One signal drains and ends with 0. The next one cuts the drain short, says so,
// and ends with 1.
func TestSignals(t *testing.T) {
	t.Parallel()
	root := testkit.Root(t)
	binary := filepath.Join(t.TempDir(), "kelpie")
	build(t, root, binary, "./cmd/kelpie")
	serve := func(args ...string) *testkit.Kelpie {
		return testkit.StartKelpie(t, testkit.KelpieConfig{Binary: binary, Policy: filepath.Join(root, "examples", "revops"), Args: args})
	}
	k := serve("--drain-delay", "1ms")
	k.Terminate(t)
	if err := k.Wait(t); err != nil {
		t.Errorf("after one signal: %v\n%s", err, k.Stderr.String())
	}
	for name, again := range map[string]func(*testkit.Kelpie){
		"SIGTERM": func(k *testkit.Kelpie) { k.Terminate(t) },
		"SIGINT":  func(k *testkit.Kelpie) { k.Interrupt(t) },
	} {
		k := serve("--drain-delay", "10m")
		k.Terminate(t)
		testkit.Eventually(t, "the drain", func() bool { return strings.Contains(k.Stderr.String(), "shutting down") })
		testkit.Eventually(t, "the end after another "+name, func() bool {
			// One that comes while it ends already would end it by itself.
			if !strings.Contains(k.Stderr.String(), "a second signal") {
				again(k)
			}
			return !k.Running()
		})
		var exit *exec.ExitError
		if err := k.Wait(t); !errors.As(err, &exit) || exit.ExitCode() != 1 {
			t.Errorf("%s: it ended with %v, want exit status 1", name, err)
		}
		said := k.Stderr.String()
		if !strings.HasSuffix(said, "\nkelpie: serve: a second signal cut the drain short: calls that were still under way got no answer\n") {
			t.Errorf("%s: it said:\n%s", name, said)
		}
		if strings.Count(said, `"msg":"a second signal: the drain is cut short`) != 1 {
			t.Errorf("%s: its log does not tell once:\n%s", name, said)
		}
	}
}
