package policy

import (
	"fmt"
	"strings"
)

// patternKind says what a pattern is matched against; it decides the
// separators and which texts are well-formed.
type patternKind uint8

const (
	agentPattern patternKind = iota
	actionPattern
	resourcePattern
)

func (k patternKind) String() string {
	switch k {
	case agentPattern:
		return "agent"
	case actionPattern:
		return "action"
	default:
		return "resource"
	}
}

// maxBytes is what the request's field of this kind holds at most.
func (k patternKind) maxBytes() int {
	switch k {
	case agentPattern:
		return MaxAgentBytes
	case actionPattern:
		return MaxActionBytes
	default:
		return MaxResourceBytes
	}
}

// maxDeep bounds the `**` of one pattern. The cost of a match grows with it,
// and no path of a request has a use for more.
const maxDeep = 16

// separator is the character that stands before a segment. The first segment
// of a text has none and counts as slash.
type separator uint8

const (
	slash separator = iota
	dot
)

// tokenKind says how a segment of a pattern matches.
type tokenKind uint8

const (
	literalToken tokenKind = iota // the same bytes
	starToken                     // `*`: any non-empty segment
	globToken                     // text with `*` in it
	deepToken                     // `**`: any number of segments
)

// token is one segment of a pattern and the separator before it.
type token struct {
	sep  separator
	kind tokenKind
	text string
}

// nextSegment cuts the first segment off s. rest starts behind the separator
// that ended it; more is false for the last segment. Only actions are split
// at dots.
func nextSegment(s string, dots bool) (segment, rest string, sep separator, more bool) {
	for i := range len(s) {
		switch s[i] {
		case '/':
			return s[:i], s[i+1:], slash, true
		case '.':
			if dots {
				return s[:i], s[i+1:], dot, true
			}
		}
	}
	return s, "", slash, false
}

// tokenize splits a pattern. It does not judge it.
func tokenize(s string, kind patternKind) []token {
	var tokens []token
	sep := slash
	for more := true; more; {
		var t token
		t.sep = sep
		t.text, s, sep, more = nextSegment(s, kind == actionPattern)
		switch {
		case t.text == "*":
			t.kind = starToken
		case t.text == "**":
			t.kind = deepToken
		case strings.Contains(t.text, "*"):
			t.kind = globToken
		}
		tokens = append(tokens, t)
	}
	return tokens
}

// patternFault says why a pattern cannot be used, and what to write instead;
// two empty strings if it can.
func patternFault(s string, kind patternKind) (message, fix string) {
	if s == "" {
		return "an empty pattern", "leave it out, or write what it matches"
	}
	deep, least := 0, -1
	tokens := tokenize(s, kind)
	for _, t := range tokens {
		switch t.kind {
		case deepToken:
			deep++
			continue
		case globToken:
			if strings.Contains(t.text, "**") {
				return fmt.Sprintf("the pattern %s has ** beside other characters in one segment", quote(s)),
					"write * for a part of a segment, or ** as a segment of its own"
			}
			least += len(t.text) - strings.Count(t.text, "*")
		default:
			least += len(t.text)
		}
		least++
	}
	if deep > maxDeep {
		return fmt.Sprintf("the pattern has %d segments **", deep), fmt.Sprintf("write at most %d", maxDeep)
	}
	if least > kind.maxBytes() {
		return fmt.Sprintf("no well-formed %s matches the pattern: it would be longer than %d bytes", kind, kind.maxBytes()),
			"shorten it"
	}
	text := witness(tokens)
	if len(text) > kind.maxBytes() {
		return "", "" // only the x for its stars make it so long
	}
	if err := kind.check(text); err != nil {
		why, fix, _ := strings.Cut(err.Error(), "; ")
		return fmt.Sprintf("no well-formed %s matches the pattern %s: its %s", kind, quote(s), why), fix
	}
	return "", ""
}

// witness is a text that the pattern matches, the plainest there is: every
// star is an x. If it is malformed, so is every text that the pattern matches,
// since what makes it so stands in the pattern's own characters.
func witness(tokens []token) string {
	var b strings.Builder
	first := true
	for i, t := range tokens {
		if t.kind == deepToken && (i < len(tokens)-1 || !first) {
			continue
		}
		if !first {
			b.WriteByte("/."[t.sep])
		}
		first = false
		if t.kind == deepToken {
			b.WriteByte('x')
			continue
		}
		b.WriteString(strings.ReplaceAll(t.text, "*", "x"))
	}
	return b.String()
}

// check is the check of a request's field of this kind.
func (k patternKind) check(s string) error {
	switch k {
	case agentPattern:
		return CheckAgent(s)
	case actionPattern:
		return CheckAction(s)
	default:
		return CheckResource(s)
	}
}

// literalPrefix is what stands before the first star.
func literalPrefix(pattern string) string {
	prefix, _, _ := strings.Cut(pattern, "*")
	return prefix
}

func isPattern(s string) bool { return strings.IndexByte(s, '*') >= 0 }

// matchGlob matches a segment against the parts between a pattern's stars,
// once its first part is known to be a prefix and its last a suffix.
func matchGlob(middle []string, segment string) bool {
	for _, part := range middle {
		at := strings.Index(segment, part)
		if at < 0 {
			return false
		}
		segment = segment[at+len(part):]
	}
	return true
}

// glob is a globToken's text: what stands before its first star, behind its
// last, and between.
type glob struct {
	prefix, suffix string
	middle         []string
}

func parseGlob(s string) glob {
	first, last := strings.IndexByte(s, '*'), strings.LastIndexByte(s, '*')
	g := glob{prefix: s[:first], suffix: s[last+1:]}
	if first < last {
		for part := range strings.SplitSeq(s[first+1:last], "*") {
			if part != "" {
				g.middle = append(g.middle, part)
			}
		}
	}
	return g
}

func (g glob) match(s string) bool {
	return len(s) >= len(g.prefix)+len(g.suffix) && strings.HasPrefix(s, g.prefix) && strings.HasSuffix(s, g.suffix) &&
		matchGlob(g.middle, s[len(g.prefix):len(s)-len(g.suffix)])
}

// patternsMeet tells whether some agent id could match both patterns.
func patternsMeet(a, b string) bool {
	x, y := tokenize(a, agentPattern), tokenize(b, agentPattern)
	// meets[j] says whether x[i:] and y[j:] have a common text, for the i at hand.
	meets := make([]bool, len(y)+1)
	below := make([]bool, len(y)+1)
	for i := len(x); i >= 0; i-- {
		below, meets = meets, below
		for j := len(y); j >= 0; j-- {
			switch {
			case i == len(x) && j == len(y):
				meets[j] = true
			case i < len(x) && x[i].kind == deepToken:
				meets[j] = below[j] || j < len(y) && meets[j+1]
			case j < len(y) && y[j].kind == deepToken:
				meets[j] = meets[j+1] || i < len(x) && below[j]
			default:
				meets[j] = i < len(x) && j < len(y) && below[j+1] && segmentsMeet(x[i], y[j])
			}
		}
	}
	return meets[0]
}

// segmentsMeet tells whether some segment matches both tokens. Where both
// have a star, it is enough that what stands before the first stars and
// behind the last ones agree: everything else fits between.
func segmentsMeet(a, b token) bool {
	switch {
	case a.kind == literalToken && b.kind == literalToken:
		return a.text == b.text
	case a.kind == starToken:
		return b.text != ""
	case b.kind == starToken:
		return a.text != ""
	case a.kind == literalToken:
		return parseGlob(b.text).match(a.text)
	case b.kind == literalToken:
		return parseGlob(a.text).match(b.text)
	}
	x, y := parseGlob(a.text), parseGlob(b.text)
	return (strings.HasPrefix(x.prefix, y.prefix) || strings.HasPrefix(y.prefix, x.prefix)) &&
		(strings.HasSuffix(x.suffix, y.suffix) || strings.HasSuffix(y.suffix, x.suffix))
}
