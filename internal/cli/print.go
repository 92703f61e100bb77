package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// printer writes a command's output and keeps the first error, so that a full
// disk or a closed pipe is told once, at the end.
type printer struct {
	w     io.Writer
	color bool
	err   error
}

// The colours, as SGR parameters (ECMA-48).
const (
	plain  = ""
	bold   = "1"
	dim    = "2"
	red    = "1;31"
	green  = "1;32"
	yellow = "1;33"
)

func (p *printer) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format, args...)
	}
}

// done returns the first error of all writes.
func (p *printer) done() error {
	if p.err != nil {
		return fmt.Errorf("write output: %w", p.err)
	}
	return nil
}

func (p *printer) paint(style, text string) string {
	if !p.color || style == plain || text == "" {
		return text
	}
	return "\x1b[" + style + "m" + text + "\x1b[0m"
}

// cell is one field of a table.
type cell struct {
	text  string
	style string
}

// table prints rows in columns; the first row is the header. The last column is
// not padded, and columns that are empty but for the header are left out.
func (p *printer) table(rows [][]cell) {
	if len(rows) == 0 {
		return
	}
	widths := make([]int, len(rows[0]))
	used := make([]bool, len(rows[0]))
	for i, row := range rows {
		for c := range row {
			row[c].text = clean(row[c].text)
			widths[c] = max(widths[c], utf8.RuneCountInString(row[c].text))
			used[c] = used[c] || (i > 0 && row[c].text != "")
		}
	}
	for _, row := range rows {
		var line strings.Builder
		pad := 0
		for c, field := range row {
			if !used[c] {
				continue
			}
			if field.text != "" {
				line.WriteString(strings.Repeat(" ", pad))
				line.WriteString(p.paint(field.style, field.text))
				pad = 0
			}
			pad += widths[c] - utf8.RuneCountInString(field.text) + 2
		}
		p.printf("%s\n", line.String())
	}
}

// clean makes text safe for a terminal: names and messages come from files and
// servers, and must not move the cursor or forge lines.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, text)
}

// json prints v indented.
func (p *printer) json(v any) {
	if p.err != nil {
		return
	}
	enc := json.NewEncoder(p.w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	p.err = enc.Encode(v)
}

// indenter puts blanks before every line.
type indenter struct {
	w      io.Writer
	inLine bool
}

// Write implements io.Writer.
func (i *indenter) Write(text []byte) (int, error) {
	for _, line := range strings.SplitAfter(string(text), "\n") {
		if line == "" {
			continue
		}
		if !i.inLine {
			line = "    " + line
		}
		i.inLine = !strings.HasSuffix(line, "\n")
		if _, err := io.WriteString(i.w, line); err != nil {
			return 0, fmt.Errorf("write: %w", err)
		}
	}
	return len(text), nil
}
