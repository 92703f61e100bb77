package archtest_test

import (
	"go/ast"
	"strings"
	"testing"
)

const module = "github.com/kelpie-authz/kelpie"

// TestHouse judges this module as it is.
func TestHouse(t *testing.T) {
	t.Parallel()
	nodes := readGraph(t)
	sources := readSources(t, nodes)

	t.Run("imports", func(t *testing.T) {
		t.Parallel()
		report(t, judgeImports(nodes, house))
		report(t, judgePaths(nodes))
	})
	t.Run("packages", func(t *testing.T) {
		t.Parallel()
		for _, n := range nodes {
			if !generated(n.ImportPath) {
				report(t, judgeDoc(n))
			}
		}
	})
	t.Run("files", func(t *testing.T) {
		t.Parallel()
		for _, s := range sources {
			report(t, judgeClock(s, house))
			report(t, judgeInit(s))
			report(t, judgeSize(s))
			report(t, judgeOnlyFrom(s, module))
			report(t, judgeSeams(s, module))
		}
	})
}

// TestGraphIsWhole fails if the graph is read so wrongly that nothing could be found in it.
func TestGraphIsWhole(t *testing.T) {
	t.Parallel()
	nodes := readGraph(t)
	seen := map[string]bool{}
	ours := 0
	for _, n := range nodes {
		seen[n.ImportPath] = true
		for _, path := range n.Imports {
			if strings.HasPrefix(path, ourMark) {
				ours++
			}
		}
	}
	for _, want := range []string{"internal/archtest", "limiter", "policy", "gen/kelpie/policy/v1"} {
		if !seen[want] {
			t.Errorf("%s is not in the graph of %d packages", want, len(nodes))
		}
	}
	if ours == 0 {
		t.Error("no import of ours was recognised")
	}
}

// generated reports whether a package is written by a generator alone.
func generated(path string) bool { return matches("gen/kelpie/**", path) }

// report makes each finding a failure of its own.
func report(t *testing.T, found []string) {
	t.Helper()
	for _, f := range found {
		t.Error(f)
	}
}

// readSources parses the files that people write.
func readSources(t *testing.T, nodes []node) []source {
	t.Helper()
	var sources []source
	for _, n := range nodes {
		for _, path := range n.files() {
			s, err := parse(n.ImportPath, path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if !ast.IsGenerated(s.syntax) {
				sources = append(sources, s)
			}
		}
	}
	return sources
}
