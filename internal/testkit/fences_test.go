package testkit_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kelpie-authz/kelpie/internal/testkit"
)

func TestParseBlocks(t *testing.T) {
	t.Parallel()
	text := "a\n```console\n$ one \\\n>   two\nout 1\n\nout 2\n$ three\n```\nb\n```sh norun needs a cluster\nx\n```\n" +
		"````md\n```sh\nnot a block of its own\n```\n````\n"
	blocks := testkit.ParseBlocks(text)
	if len(blocks) != 3 || !blocks[0].Runs() || blocks[1].Runs() || blocks[1].Unmarked() || blocks[2].Lang != "md" {
		t.Fatalf("got %+v", blocks)
	}
	want := []testkit.Command{{Text: "one \\\n  two", Output: "out 1\n\nout 2", Line: 3}, {Text: "three", Line: 8}}
	if diff := cmp.Diff(want, blocks[0].Commands()); diff != "" {
		t.Errorf("commands (-want +got):\n%s", diff)
	}
	for mark, unmarked := range map[string]bool{"run": false, "norun": true, "norun why": false, "": true, "other": true} {
		if b := (testkit.Block{Lang: "sh", Mark: mark}); b.Unmarked() != unmarked {
			t.Errorf("sh %q: unmarked %v, want %v", mark, b.Unmarked(), unmarked)
		}
	}
}

func TestMatches(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		documented, output string
		want               bool
	}{
		{"", "", true},
		{"", "x\n", false},
		{"a\nb", "a\nb\n", true},
		{"a\nb", "a\n", false},
		{"a", "a\nb\n", false},
		{"a ... z", "a 123 z\n", true},
		{"a ... z", "a 123\nz\n", false},
		{"a\n...\nz", "a\n1\n2\nz\n", true},
		{"a\n...\nz", "a\nz\n", true},
		{"a\n...", "a\n1\n2\n", true},
		{"...\nz", "1\n2\n", false},
		{"a.c", "abc\n", false},
	} {
		if got := testkit.Matches(tt.documented, tt.output); got != tt.want {
			t.Errorf("Matches(%q, %q) = %v, want %v", tt.documented, tt.output, got, tt.want)
		}
	}
}
