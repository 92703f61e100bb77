package pdp

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Visible writes what is not seen, and what turns the order of what is, as an
// escape: \u202e. Approvers judge text that an agent chose. A backslash stays as
// it is: an agent that writes one like an escape only looks worse than it is.
func Visible(text string) string {
	var out strings.Builder
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&out, `\x%02x`, text[i])
		case Seen(r):
			out.WriteRune(r)
		case r > 0xffff:
			fmt.Fprintf(&out, `\U%08x`, r)
		default:
			fmt.Fprintf(&out, `\u%04x`, r)
		}
		i += size
	}
	return out.String()
}

// brailleBlank is a symbol, and looks like a space.
const brailleBlank = '\u2800'

// Seen tells whether a character is a space or leaves a mark on the screen.
func Seen(r rune) bool {
	return unicode.IsPrint(r) && r != brailleBlank &&
		!unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

// Alphabets names the alphabets of a text that has letters of more than one of
// those whose letters look alike; "" for any other.
func Alphabets(text string) string {
	var found []string
	for _, a := range []struct {
		name  string
		table *unicode.RangeTable
	}{{"Latin", unicode.Latin}, {"Cyrillic", unicode.Cyrillic}, {"Greek", unicode.Greek}, {"Armenian", unicode.Armenian}, {"Cherokee", unicode.Cherokee}} {
		if strings.ContainsFunc(text, func(r rune) bool { return unicode.Is(a.table, r) }) {
			found = append(found, a.name)
		}
	}
	if len(found) < 2 { //nolint:mnd // More than one.
		return ""
	}
	return strings.Join(found, " and ")
}
