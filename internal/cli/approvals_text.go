package cli

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/kelpie-authz/kelpie/pdp"
)

// visible writes what is not seen, and what turns the order of what is, as an escape.
func visible(text string) string { return pdp.Visible(text) }

// visibleJSON does the same to a JSON document, which stays one of the same value.
func visibleJSON(text string) string {
	var out strings.Builder
	for _, r := range text {
		switch {
		case r == '\n' || pdp.Seen(r):
			out.WriteRune(r)
		case r > 0xffff:
			const shift, half = 10, 0x3ff // JSON writes it as two surrogates (RFC 8259 section 7).
			r -= 0x10000
			fmt.Fprintf(&out, `\u%04x\u%04x`, 0xd800+r>>shift, 0xdc00+r&half)
		default:
			fmt.Fprintf(&out, `\u%04x`, r)
		}
	}
	return out.String()
}

// cutAt is the beginning of a text that is longer than so many characters.
func cutAt(text string, most int) string {
	if utf8.RuneCountInString(text) <= most {
		return text
	}
	return string([]rune(text)[:most-len("...")]) + "..."
}

// word is a value in the midst of others, quoted where it could be taken for several.
func word(text string) string {
	out := visible(text)
	if strings.ContainsAny(out, ` "`) {
		return `"` + strings.ReplaceAll(out, `"`, `\"`) + `"`
	}
	return out
}

// How many characters of one value a person is shown: the beginning, and the end,
// which can matter as much.
const (
	maxValue = 1024
	maxTail  = 256
)

// whole is a value for a person, with a note if it is cut.
func whole(text string) string {
	n := utf8.RuneCountInString(text)
	if n <= maxValue {
		return visible(text)
	}
	runes := []rune(text)
	return fmt.Sprintf("%s ... %s (cut: %d of %d characters are left out before the last %d; --json has all)",
		visible(string(runes[:maxValue-maxTail])), visible(string(runes[n-maxTail:])), n-maxValue, n, maxTail)
}

// fold breaks a text into lines of at most so many columns, behind a space where
// there is one, so that the terminal does not: what it breaks begins at the left
// edge, where it looks like ours.
func fold(text string, columns int) []string {
	var lines []string
	begin, used := 0, 0
	space, after := 0, 0 // Where the line could end, and what would be used of the next.
	for i, r := range text {
		w := columnsOf(r)
		if used+w > columns && i > begin {
			if space <= begin {
				space, after = i, 0
			}
			lines = append(lines, text[begin:space])
			begin, used = space, after
		}
		used += w
		after += w
		if r == ' ' {
			space, after = i+1, 0
		}
	}
	return append(lines, text[begin:])
}

// columnsOf is how wide a character is at most: what lies behind the alphabets
// of the West counts as two columns, so that a line errs to the short side.
func columnsOf(r rune) int {
	const firstWide = 0x1100
	if r < firstWide {
		return 1
	}
	return 2
}

// alphabets names those of a text that has letters of several that look alike.
func alphabets(text string) string { return pdp.Alphabets(text) }
