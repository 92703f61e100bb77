package archtest_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// node is one package, as `go list -json` prints it. Packages of ours are
// named by their path within the module, those of others by their full path.
type node struct {
	ImportPath   string   `json:"ImportPath"`
	Name         string   `json:"Name"`
	Dir          string   `json:"Dir"`
	Doc          string   `json:"Doc"`
	GoFiles      []string `json:"GoFiles"`
	TestGoFiles  []string `json:"TestGoFiles"`
	XTestGoFiles []string `json:"XTestGoFiles"`
	Imports      []string `json:"Imports"`
	Module       *struct {
		Path string `json:"Path"`
		Main bool   `json:"Main"`
	} `json:"Module"`
}

// files are the Go files of the package, those of its tests among them.
func (n node) files() []string {
	var all []string
	for _, list := range [][]string{n.GoFiles, n.TestGoFiles, n.XTestGoFiles} {
		for _, name := range list {
			all = append(all, filepath.Join(n.Dir, name))
		}
	}
	return all
}

// readGraph reads the packages of this module, as they are built for this platform.
func readGraph(t *testing.T) []node {
	t.Helper()
	gomod, err := exec.CommandContext(t.Context(), "go", "env", "GOMOD").Output()
	if err != nil {
		t.Fatalf("go env GOMOD: %v", err)
	}
	root := filepath.Dir(strings.TrimSpace(string(gomod)))
	openFolders(t, root)
	list := exec.CommandContext(t.Context(), "go", "list", "-deps",
		"-json=ImportPath,Name,Dir,Doc,GoFiles,TestGoFiles,XTestGoFiles,Imports,Module", "./...")
	list.Dir = root
	var stderr bytes.Buffer
	list.Stderr = &stderr
	out, err := list.Output()
	if err != nil {
		t.Fatalf("go list in %s: %v\n%s", list.Dir, err, stderr.String())
	}
	nodes, err := decodeGraph(bytes.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	return nodes
}

// openFolders reads every folder of the module. `go test` answers from its cache
// while the files and folders that a test opened are as they were, and it does
// not see what the go command opens: without this, a new package would not be judged.
func openFolders(t *testing.T, root string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() && path != root && (strings.HasPrefix(name, ".") || name == "third_party" || name == "bin") {
			return filepath.SkipDir
		}
		return nil
	})
	if err != nil {
		t.Fatalf("read the folders of %s: %v", root, err)
	}
}

// decodeGraph reads what `go list -json` printed and keeps the packages of the main module.
func decodeGraph(r io.Reader) ([]node, error) {
	var nodes []node
	decoder := json.NewDecoder(r)
	for {
		var n node
		err := decoder.Decode(&n)
		if errors.Is(err, io.EOF) {
			return nodes, nil
		}
		if err != nil {
			return nil, fmt.Errorf("decode go list: %w", err)
		}
		if n.Module == nil || !n.Module.Main {
			continue
		}
		prefix := n.Module.Path + "/"
		n.ImportPath = strings.TrimPrefix(n.ImportPath, prefix)
		for i, path := range n.Imports {
			if rest, ours := strings.CutPrefix(path, prefix); ours {
				n.Imports[i] = ourMark + rest
			}
		}
		nodes = append(nodes, n)
	}
}

// ourMark tells imports of ours from those of the standard library, whose names
// could be the same: `log` is not `./log`.
const ourMark = "./"

// matches reports whether path is named by pattern: exact, `a/*` or `a/**`.
func matches(pattern, path string) bool {
	if pattern == "**" {
		return true
	}
	if root, deep := strings.CutSuffix(pattern, "/**"); deep {
		return strings.HasPrefix(path, root+"/")
	}
	if root, child := strings.CutSuffix(pattern, "/*"); child {
		rest, below := strings.CutPrefix(path, root+"/")
		return below && !strings.Contains(rest, "/")
	}
	return pattern == path
}

// find gives the first rule for path.
func find(rules []rule, path string) (rule, bool) {
	for _, r := range rules {
		if matches(r.of, path) {
			return r, true
		}
	}
	return rule{}, false
}

// judgeImports lists each breach of the table, one sentence each.
func judgeImports(nodes []node, rules []rule) []string {
	var found []string
	for _, n := range nodes {
		r, known := find(rules, n.ImportPath)
		if !known {
			found = append(found, fmt.Sprintf("%s is in no rule: add it to internal/archtest/rules_test.go, saying what it may import", n.ImportPath))
			continue
		}
		for _, path := range n.Imports {
			ours, isOurs := strings.CutPrefix(path, ourMark)
			if isOurs {
				found = append(found, judgeOurs(n, r, ours, rules)...)
				continue
			}
			bans := r.mayNot
			if !r.tests && !r.tool {
				bans = slices.Concat(bans, testLibraries)
			}
			for _, b := range bans {
				if matches(b.what, path) {
					found = append(found, fmt.Sprintf("%s imports %s: %s", n.ImportPath, path, b.why))
				}
			}
		}
	}
	return found
}

// judgeOurs judges one import of a package of ours.
func judgeOurs(n node, r rule, imported string, rules []rule) []string {
	target, known := find(rules, imported)
	if known && target.tests && !r.tests && !r.tool {
		return []string{fmt.Sprintf("%s imports %s: %s", n.ImportPath, imported, whySuite)}
	}
	if known && target.tool {
		return []string{fmt.Sprintf("%s imports %s: tools are run, not linked", n.ImportPath, imported)}
	}
	for _, pattern := range r.mayImport {
		if matches(pattern, imported) {
			return nil
		}
	}
	return []string{fmt.Sprintf("%s imports %s: %s", n.ImportPath, imported, r.why)}
}

// path gives a chain of imports of ours that leads from one package to another, or nil.
func path(nodes []node, from, to string) []string {
	imports := make(map[string][]string, len(nodes))
	for _, n := range nodes {
		imports[n.ImportPath] = n.Imports
	}
	seen := map[string]bool{from: true}
	chains := [][]string{{from}}
	for len(chains) > 0 {
		chain := chains[0]
		chains = chains[1:]
		for _, next := range imports[chain[len(chain)-1]] {
			ours, isOurs := strings.CutPrefix(next, ourMark)
			if !isOurs || seen[ours] {
				continue
			}
			seen[ours] = true
			longer := slices.Concat(chain, []string{ours})
			if ours == to {
				return longer
			}
			chains = append(chains, longer)
		}
	}
	return nil
}

// judgePaths lists each forbidden way from one package to another.
func judgePaths(nodes []node) []string {
	var found []string
	for _, u := range unreachable {
		if chain := path(nodes, u.from, u.to); chain != nil {
			found = append(found, fmt.Sprintf("%s: %s", strings.Join(chain, " -> "), u.why))
		}
	}
	return found
}
