package main_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/kelpie-authz/kelpie/internal/testkit"
)

var goFence = regexp.MustCompile("(?s)\n```go\n(.*?\n)```")

// The first Go example of docs/client.md is a program as it stands; the others
// are functions that fit into one.
func TestClientPageCompiles(t *testing.T) {
	t.Parallel()
	root := testkit.Root(t)
	page, err := os.ReadFile(filepath.Join(root, "docs", "client.md"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := goFence.FindAllStringSubmatch(string(page), -1)
	if len(blocks) < 3 {
		t.Fatalf("docs/client.md has %d Go examples, want at least 3", len(blocks))
	}
	compile(t, root, blocks[0][1])
	for _, b := range blocks[1:] {
		compile(t, root, `package main

import (
	"context"
	"errors"

	"github.com/kelpie-authz/kelpie/client"
	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
)

var (
	_ = context.Background
	_ = errors.New
	_ *client.Client
	_ *authzv1.AuthorizeRequest
)

func main() {}

func callTheModel(context.Context, string) (string, float64) { return "", 0 }

`+b[1])
	}
}

// compile builds a program as if it were in a folder of this module, which is not
// written to.
func compile(t *testing.T, root, text string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "main.go")
	testkit.WriteFile(t, file, []byte(text))
	replace, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(root, "docs", "example", "main.go"): file}})
	if err != nil {
		t.Fatal(err)
	}
	overlay := filepath.Join(t.TempDir(), "overlay.json")
	testkit.WriteFile(t, overlay, replace)
	cmd := exec.CommandContext(t.Context(), "go", "build", "-overlay", overlay, "-o", os.DevNull, "./docs/example")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("an example of docs/client.md does not compile: %v\n%s\n%s", err, out, text)
	}
}

var (
	fenced   = regexp.MustCompile("(?s)\n```.*?\n```")
	heading  = regexp.MustCompile(`(?m)^#+ (.+)$`)
	link     = regexp.MustCompile(`\]\(([^()\s]+)\)`)
	unlinked = regexp.MustCompile("[^a-z0-9 _-]")
)

// Every link between the documents leads to a file, and to a heading of it.
func TestDocumentsLink(t *testing.T) {
	t.Parallel()
	root := testkit.Root(t)
	var files []string
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/adr/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	anchors, links := map[string]map[string]bool{}, map[string][]string{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		prose := fenced.ReplaceAllString(string(text), "")
		anchors[file] = anchorsOf(prose)
		for _, m := range link.FindAllStringSubmatch(prose, -1) {
			links[file] = append(links[file], m[1])
		}
	}
	seen := 0
	for file, targets := range links {
		for _, target := range targets {
			if strings.Contains(target, "://") {
				continue
			}
			seen++
			if why := dead(file, target, anchors); why != "" {
				t.Errorf("%s: %s: %s", strings.TrimPrefix(file, root+"/"), target, why)
			}
		}
	}
	if seen < 50 {
		t.Errorf("only %d links were found", seen)
	}
}

// anchorsOf are the names of a document's headings, as web pages make them.
func anchorsOf(prose string) map[string]bool {
	names := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(prose, -1) {
		name := strings.ReplaceAll(unlinked.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-")
		for base, n := name, 1; names[name]; n++ {
			name = fmt.Sprint(base, "-", n)
		}
		names[name] = true
	}
	return names
}

// dead tells why a link leads nowhere, or "".
func dead(file, target string, anchors map[string]map[string]bool) string {
	path, anchor, _ := strings.Cut(target, "#")
	to := file
	if path != "" {
		to = filepath.Join(filepath.Dir(file), path)
	}
	if _, err := os.Stat(to); err != nil {
		return "there is no such file"
	}
	if names, known := anchors[to]; known && anchor != "" && !names[anchor] {
		return "the document has no such heading"
	}
	return ""
}
