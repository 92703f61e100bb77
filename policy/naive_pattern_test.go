package policy_test

import "strings"

// The naive evaluator in the naive*_test.go files is the referee of the
// engine: it follows the sentences of docs/language.md with the most obvious
// code there is (loops, recursion, no index), so that it can be read against
// the page. It shares nothing with the engine but the exported types.

// naiveToken is one segment and the separator that stands before it; 0 at the start.
type naiveToken struct {
	sep  byte
	text string
}

const (
	naiveActionSeparators = "./"
	naivePathSeparators   = "/"
)

func naiveTokens(s, separators string) []naiveToken {
	tokens := []naiveToken{{}}
	for i := range len(s) {
		last := &tokens[len(tokens)-1]
		if strings.IndexByte(separators, s[i]) >= 0 {
			tokens = append(tokens, naiveToken{sep: s[i]})
		} else {
			last.text += s[i : i+1]
		}
	}
	return tokens
}

func naiveMatchAction(pattern, action string) bool {
	return naiveMatchTokens(naiveTokens(pattern, naiveActionSeparators), naiveTokens(action, naiveActionSeparators), true)
}

func naiveMatchPath(pattern, path string) bool {
	return naiveMatchTokens(naiveTokens(pattern, naivePathSeparators), naiveTokens(path, naivePathSeparators), true)
}

func naiveMatchTokens(pattern, value []naiveToken, start bool) bool {
	if len(pattern) == 0 {
		return len(value) == 0
	}
	head := pattern[0]
	if head.text == "**" && naiveMatchTokens(pattern[1:], value, start) {
		return true // zero segments: its own separator goes too
	}
	if len(value) == 0 || (!start && head.sep != value[0].sep) {
		return false
	}
	if head.text != "**" {
		return naiveMatchSegment(head.text, value[0].text) && naiveMatchTokens(pattern[1:], value[1:], false)
	}
	for n := 1; n <= len(value); n++ {
		if naiveMatchTokens(pattern[1:], value[n:], false) {
			return true
		}
	}
	return false
}

func naiveMatchSegment(pattern, segment string) bool {
	if pattern == "*" {
		return segment != ""
	}
	return naiveMatchRun(pattern, segment)
}

func naiveMatchRun(pattern, segment string) bool {
	switch {
	case pattern == "":
		return segment == ""
	case pattern[0] == '*':
		return naiveMatchRun(pattern[1:], segment) || (segment != "" && naiveMatchRun(pattern, segment[1:]))
	default:
		return segment != "" && segment[0] == pattern[0] && naiveMatchRun(pattern[1:], segment[1:])
	}
}

// naiveAgentsMeet tells whether some agent id could match both patterns.
func naiveAgentsMeet(a, b string) bool {
	return naiveTokensMeet(naiveTokens(a, naivePathSeparators), naiveTokens(b, naivePathSeparators))
}

func naiveTokensMeet(a, b []naiveToken) bool {
	if len(a) == 0 && len(b) == 0 {
		return true
	}
	if len(a) > 0 && a[0].text == "**" {
		return naiveTokensMeet(a[1:], b) || (len(b) > 0 && naiveTokensMeet(a, b[1:]))
	}
	if len(b) > 0 && b[0].text == "**" {
		return naiveTokensMeet(b, a)
	}
	if len(a) == 0 || len(b) == 0 {
		return false
	}
	return naiveSegmentsMeet(a[0].text, b[0].text) && naiveTokensMeet(a[1:], b[1:])
}

func naiveSegmentsMeet(a, b string) bool {
	if a == "*" || b == "*" {
		return a != "" && b != ""
	}
	return naiveRunsMeet(a, b)
}

func naiveRunsMeet(a, b string) bool {
	switch {
	case a == "" && b == "":
		return true
	case a != "" && a[0] == '*':
		return naiveRunsMeet(a[1:], b) || (b != "" && naiveRunsMeet(a, b[1:]))
	case b != "" && b[0] == '*':
		return naiveRunsMeet(b, a)
	default:
		return a != "" && b != "" && a[0] == b[0] && naiveRunsMeet(a[1:], b[1:])
	}
}

func naiveLiteralPrefix(pattern string) string {
	prefix, _, _ := strings.Cut(pattern, "*")
	return prefix
}

// naivePatternFault says why no well-formed request could match, or "".
func naivePatternFault(pattern, kind string) string {
	separators := naivePathSeparators
	if kind == "action" {
		separators = naiveActionSeparators
	}
	tokens := naiveTokens(pattern, separators)
	for i, token := range tokens {
		if strings.Contains(token.text, "**") && token.text != "**" {
			return "** is not alone in its segment"
		}
		if token.text == "" && (kind != "agent" || i == len(tokens)-1) {
			return "empty segment"
		}
		if kind != "action" && (token.text == "." || token.text == "..") {
			return "dot segment"
		}
	}
	lower := strings.ToLower(pattern)
	for _, bad := range []string{"\\", "%2e", "%2f", "%5c"} {
		if kind == "resource" && strings.Contains(lower, bad) {
			return "encoded or backslash"
		}
	}
	if kind == "agent" && strings.Contains(pattern, "%") {
		return "percent"
	}
	for _, r := range pattern {
		if r < 0x20 || r == 0x7f || (kind == "action" && r > 0x7f) {
			return "control or non-ASCII"
		}
	}
	return ""
}
