package main_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// block is one fenced block of a document.
type block struct {
	lang, mark string
	text       string
	line       int // of the fence, from 1
}

func (b *block) runs() bool {
	return b.lang == "console" || (b.lang == "sh" && b.mark == "run")
}

func (b *block) background() bool { return b.lang == "console" && b.mark == "background" }

// unmarked is a block of commands that nobody decided about.
func (b *block) unmarked() bool {
	switch b.lang {
	case "sh":
		reason, norun := strings.CutPrefix(b.mark, "norun ")
		return b.mark != "run" && (!norun || reason == "")
	case "console":
		return b.mark != "" && b.mark != "background"
	case "bash", "shell", "shell-session":
		return true // One word for one thing, or some would not be run.
	default:
		return false
	}
}

var fence = regexp.MustCompile("^ {0,3}(`{3,})\\s*(\\S*)\\s*(.*)$")

func parseBlocks(text string) []block {
	var blocks []block
	var open *block
	var ticks string
	var body []string
	for i, line := range strings.Split(text, "\n") {
		m := fence.FindStringSubmatch(line)
		switch {
		case open == nil && m != nil:
			open, ticks, body = &block{lang: m[2], mark: strings.TrimSpace(m[3]), line: i + 1}, m[1], nil
		case open != nil && m != nil && m[1] == ticks && m[2] == "":
			open.text = strings.Join(body, "\n")
			blocks = append(blocks, *open)
			open = nil
		case open != nil:
			body = append(body, line)
		}
	}
	return blocks
}

// command is one command of a console block and the output shown for it.
type command struct {
	text, output string
	line         int
}

func (b *block) commands() []command {
	var all []command
	var output []string
	flush := func() {
		if len(all) > 0 {
			all[len(all)-1].output = strings.Join(output, "\n")
		}
		output = nil
	}
	continued := false
	for i, line := range strings.Split(b.text, "\n") {
		text, begins := strings.CutPrefix(line, "$ ")
		switch {
		case continued:
			all[len(all)-1].text += "\n" + strings.TrimPrefix(line, "> ")
			continued = strings.HasSuffix(line, "\\")
		case begins:
			flush()
			all = append(all, command{text: text, line: b.line + 1 + i})
			continued = strings.HasSuffix(text, "\\")
		default:
			output = append(output, line)
		}
	}
	flush()
	return all
}

// matches reports whether output is as documented; blanks at the ends of lines
// and of the whole do not count.
func matches(documented, output string) bool {
	var pattern strings.Builder
	pattern.WriteString(`\A`)
	for _, line := range lines(documented) {
		if line == "..." {
			pattern.WriteString(`(?:.*\n)*?`)
			continue
		}
		for i, part := range strings.Split(line, "...") {
			if i > 0 {
				pattern.WriteString(`.*?`)
			}
			pattern.WriteString(regexp.QuoteMeta(part))
		}
		pattern.WriteString(`\n`)
	}
	pattern.WriteString(`\z`)
	var text strings.Builder
	for _, line := range lines(output) {
		text.WriteString(line + "\n")
	}
	return regexp.MustCompile(pattern.String()).MatchString(text.String())
}

func lines(text string) []string {
	text = strings.TrimRight(text, " \n")
	if text == "" {
		return nil
	}
	all := strings.Split(text, "\n")
	for i := range all {
		all[i] = strings.TrimRight(all[i], " \t\r")
	}
	return all
}

func TestParseBlocks(t *testing.T) {
	t.Parallel()
	text := "a\n```console\n$ one \\\n>   two\nout 1\n\nout 2\n$ three\n```\nb\n```sh norun needs a cluster\nx\n```\n" +
		"````md\n```sh\nnot a block of its own\n```\n````\n"
	blocks := parseBlocks(text)
	if len(blocks) != 3 || !blocks[0].runs() || blocks[1].runs() || blocks[1].unmarked() || blocks[2].lang != "md" {
		t.Fatalf("got %+v", blocks)
	}
	want := []command{{text: "one \\\n  two", output: "out 1\n\nout 2", line: 3}, {text: "three", line: 8}}
	if diff := cmp.Diff(want, blocks[0].commands(), cmp.AllowUnexported(command{})); diff != "" {
		t.Errorf("commands (-want +got):\n%s", diff)
	}
	for mark, unmarked := range map[string]bool{"run": false, "norun": true, "norun why": false, "": true, "other": true} {
		if b := (block{lang: "sh", mark: mark}); b.unmarked() != unmarked {
			t.Errorf("sh %q: unmarked %v, want %v", mark, b.unmarked(), unmarked)
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
		if got := matches(tt.documented, tt.output); got != tt.want {
			t.Errorf("matches(%q, %q) = %v, want %v", tt.documented, tt.output, got, tt.want)
		}
	}
}
