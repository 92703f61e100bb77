package testkit

import (
	"regexp"
	"strings"
)

// Block is one fenced block of a document. What a fence may say after its
// language stands at the top of cmd/kelpie/docs_test.go.
type Block struct {
	Lang, Mark string
	Text       string
	Line       int // of the fence, from 1
}

// Runs reports whether its commands are run by a test.
func (b *Block) Runs() bool {
	return b.Lang == "console" || (b.Lang == "sh" && b.Mark == "run")
}

// Background reports whether its command serves while others are run.
func (b *Block) Background() bool { return b.Lang == "console" && b.Mark == "background" }

// Unmarked reports a block of commands that nobody decided about.
func (b *Block) Unmarked() bool {
	switch b.Lang {
	case "sh":
		reason, norun := strings.CutPrefix(b.Mark, "norun ")
		return b.Mark != "run" && (!norun || reason == "")
	case "console":
		return b.Mark != "" && b.Mark != "background"
	case "bash", "shell", "shell-session":
		return true // One word for one thing, or some would not be run.
	default:
		return false
	}
}

var fence = regexp.MustCompile("^ {0,3}(`{3,})\\s*(\\S*)\\s*(.*)$")

// ParseBlocks finds the fenced blocks of a document.
func ParseBlocks(text string) []Block {
	var blocks []Block
	var open *Block
	var ticks string
	var body []string
	for i, line := range strings.Split(text, "\n") {
		m := fence.FindStringSubmatch(line)
		switch {
		case open == nil && m != nil:
			open, ticks, body = &Block{Lang: m[2], Mark: strings.TrimSpace(m[3]), Line: i + 1}, m[1], nil
		case open != nil && m != nil && m[1] == ticks && m[2] == "":
			open.Text = strings.Join(body, "\n")
			blocks = append(blocks, *open)
			open = nil
		case open != nil:
			body = append(body, line)
		}
	}
	return blocks
}

// Command is one command of a console block and the output shown for it.
type Command struct {
	Text, Output string
	Line         int
}

// Commands are the commands of a console block.
func (b *Block) Commands() []Command {
	var all []Command
	var output []string
	flush := func() {
		if len(all) > 0 {
			all[len(all)-1].Output = strings.Join(output, "\n")
		}
		output = nil
	}
	continued := false
	for i, line := range strings.Split(b.Text, "\n") {
		text, begins := strings.CutPrefix(line, "$ ")
		switch {
		case continued:
			all[len(all)-1].Text += "\n" + strings.TrimPrefix(line, "> ")
			continued = strings.HasSuffix(line, "\\")
		case begins:
			flush()
			all = append(all, Command{Text: text, Line: b.Line + 1 + i})
			continued = strings.HasSuffix(text, "\\")
		default:
			output = append(output, line)
		}
	}
	flush()
	return all
}

// Matches reports whether output is as documented; blanks at the ends of lines
// and of the whole do not count.
func Matches(documented, output string) bool {
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
