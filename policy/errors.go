package policy

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Error is one fault of a policy document: what is wrong, where, and what to
// write instead. Its fields are never changed after Compile returned it.
type Error struct {
	// File is the document's name; Line and Column count from 1, columns in characters.
	// They are empty and 0 where the fault has no place in a document.
	File         string
	Line, Column int
	// Rule is what it lies in, as answers name rules ("approvals/large-refunds"); may be empty.
	Rule string
	// Message says what is wrong.
	Message string
	// Fix says what to write instead; may be empty.
	Fix string
	// Snippet is the line with a mark under the column; may be empty.
	Snippet string
}

// Error returns one line, "file:line:column: rule: message; fix", and the snippet below it.
func (e *Error) Error() string {
	var b strings.Builder
	if e.File != "" {
		fmt.Fprintf(&b, "%s:%d:%d: ", e.File, e.Line, e.Column)
	}
	if e.Rule != "" {
		b.WriteString(e.Rule)
		b.WriteString(": ")
	}
	b.WriteString(e.Message)
	if e.Fix != "" {
		b.WriteString("; ")
		b.WriteString(e.Fix)
	}
	if e.Snippet != "" {
		b.WriteByte('\n')
		b.WriteString(e.Snippet)
	}
	return b.String()
}

// Errors are all faults found in one go, sorted by file, line and column,
// each once. It is never empty where it is returned as an error.
type Errors []*Error

// Error returns every fault, one below the other.
func (e Errors) Error() string {
	texts := make([]string, len(e))
	for i, one := range e {
		texts[i] = one.Error()
	}
	return strings.Join(texts, "\n")
}

// Unwrap makes errors.As find a single *Error.
func (e Errors) Unwrap() []error {
	list := make([]error, len(e))
	for i, one := range e {
		list[i] = one
	}
	return list
}

// maxErrors bounds a report: nobody reads more, and a document of nothing but
// faults must not grow the answer to many times its own size.
const maxErrors = 1000

// report gathers the faults of one load. The zero value is ready for use; it
// is not safe for concurrent use.
type report struct {
	errs    Errors
	dropped int
	docs    map[string][]byte
}

// add notes a fault. Faults without a document have the zero position.
func (r *report) add(at position, rule, message, fix string) {
	// Twice the bound is kept, since some of them are told twice.
	if len(r.errs) >= 2*maxErrors {
		r.dropped++
		return
	}
	r.errs = append(r.errs, &Error{
		File: at.file, Line: at.line, Column: at.column, Rule: rule, Message: message, Fix: fix,
	})
}

// err returns nil or an Errors.
func (r *report) err() error {
	if len(r.errs) == 0 {
		return nil
	}
	return r.errors()
}

func (r *report) errors() Errors {
	list := slices.Clone(r.errs)
	slices.SortStableFunc(list, compareErrors)
	list = slices.CompactFunc(list, func(a, b *Error) bool { return compareErrors(a, b) == 0 })
	dropped := r.dropped
	if len(list) > maxErrors {
		dropped += len(list) - maxErrors
		list = list[:maxErrors]
	}
	s := snippets{docs: r.docs}
	for _, e := range list {
		e.Snippet = s.at(e.File, e.Line, e.Column)
	}
	if dropped > 0 {
		last := list[len(list)-1]
		list = append(list, &Error{
			File: last.File, Line: last.Line, Column: last.Column,
			Message: fmt.Sprintf("%d more faults are not shown", dropped), Fix: "correct those above first",
		})
	}
	return list
}

func compareErrors(a, b *Error) int {
	return cmp.Or(
		cmp.Compare(a.File, b.File),
		cmp.Compare(a.Line, b.Line),
		cmp.Compare(a.Column, b.Column),
		cmp.Compare(a.Rule, b.Rule),
		cmp.Compare(a.Message, b.Message),
		cmp.Compare(a.Fix, b.Fix),
	)
}

// snippets cuts lines out of documents. It walks each document once, since
// faults come sorted.
type snippets struct {
	docs map[string][]byte
	file string
	line int    // number of the line that rest starts with
	rest []byte // what is left of the document of that file
}

// snippetWidth bounds how much of a line is shown, in characters.
const snippetWidth = 120

func (s *snippets) at(file string, line, column int) string {
	if file != s.file || line < s.line {
		s.file, s.line, s.rest = file, 1, s.docs[file]
	}
	for s.line < line {
		end := bytes.IndexByte(s.rest, '\n')
		if end < 0 {
			return ""
		}
		s.line, s.rest = s.line+1, s.rest[end+1:]
	}
	text := s.rest
	if end := bytes.IndexByte(text, '\n'); end >= 0 {
		text = text[:end]
	}
	if line < 1 || column < 1 || len(bytes.TrimSpace(text)) == 0 {
		return ""
	}
	shown, mark := cutLine(text, column)
	number := fmt.Sprintf("%6d", line)
	return fmt.Sprintf("%s | %s\n%s | %s^", number, shown, strings.Repeat(" ", len(number)), mark)
}

// cutLine returns the part of a line around a column, safe for a terminal, and
// the blanks that stand before the mark.
func cutLine(text []byte, column int) (string, string) {
	var shown, mark strings.Builder
	from := max(1, column-snippetWidth/2)
	for at := 1; len(text) > 0 && at < from+snippetWidth; at++ {
		r, size := utf8.DecodeRune(text)
		text = text[size:]
		if at < from {
			continue
		}
		if r < ' ' || r == utf8.RuneError || (r >= 0x7f && r < 0xa0) {
			r = ' '
		}
		shown.WriteRune(r)
		if at < column {
			mark.WriteByte(' ')
		}
	}
	return strings.TrimRight(shown.String(), " "), mark.String()
}
