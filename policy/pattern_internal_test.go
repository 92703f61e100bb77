package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// slowMatch is the page's rule for patterns, character by character and by
// recursion only. It takes patterns and texts of one kind's separators.
func slowMatch(pattern, text, separators string) bool {
	return slowPath(slowSplit(pattern, separators), slowSplit(text, separators), true)
}

// slowSplit cuts before each separator, which stays at the start of its segment.
func slowSplit(s, separators string) []string {
	for i := len(s) - 1; i >= 0; i-- {
		if strings.IndexByte(separators, s[i]) >= 0 {
			return append(slowSplit(s[:i], separators), s[i:])
		}
	}
	return []string{" " + s}
}

func slowPath(pattern, text []string, start bool) bool {
	if len(pattern) == 0 {
		return len(text) == 0
	}
	fits := len(text) > 0 && (start || pattern[0][0] == text[0][0])
	if pattern[0][1:] != "**" {
		return fits && slowSegment(pattern[0][1:], text[0][1:]) && slowPath(pattern[1:], text[1:], false)
	}
	if slowPath(pattern[1:], text, start) {
		return true
	}
	for n := 1; fits && n <= len(text); n++ {
		if slowPath(pattern[1:], text[n:], false) {
			return true
		}
	}
	return false
}

func slowSegment(pattern, segment string) bool {
	if pattern == "*" {
		return segment != ""
	}
	return slowRun(pattern, segment)
}

func slowRun(pattern, segment string) bool {
	if pattern == "" {
		return segment == ""
	}
	if pattern[0] != '*' {
		return segment != "" && pattern[0] == segment[0] && slowRun(pattern[1:], segment[1:])
	}
	return slowRun(pattern[1:], segment) || segment != "" && slowRun(pattern, segment[1:])
}

// slowMeet tells whether some text matches both segments or paths of segments.
func slowMeet(a, b []string) bool {
	switch {
	case len(a) == 0 && len(b) == 0:
		return true
	case len(a) > 0 && a[0] == "**":
		return slowMeet(a[1:], b) || len(b) > 0 && slowMeet(a, b[1:])
	case len(b) > 0 && b[0] == "**":
		return slowMeet(b, a)
	default:
		return len(a) > 0 && len(b) > 0 && slowSegmentsMeet(a[0], b[0]) && slowMeet(a[1:], b[1:])
	}
}

func slowSegmentsMeet(a, b string) bool {
	switch {
	case a == "*" || b == "*":
		return a != "" && b != ""
	default:
		return slowRunsMeet(a, b)
	}
}

func slowRunsMeet(a, b string) bool {
	switch {
	case a == "" && b == "":
		return true
	case a != "" && a[0] == '*':
		return slowRunsMeet(a[1:], b) || b != "" && slowRunsMeet(a, b[1:])
	case b != "" && b[0] == '*':
		return slowRunsMeet(b, a)
	default:
		return a != "" && b != "" && a[0] == b[0] && slowRunsMeet(a[1:], b[1:])
	}
}

func TestPattern(t *testing.T) {
	t.Parallel()
	tests := []struct {
		kind    patternKind
		pattern string
		yes, no string // texts, separated by blanks
	}{
		{resourcePattern, "a", "a", "b a/b A aa"},
		{resourcePattern, "a/**", "a a/b a/b/c", "b ab b/a"},
		{resourcePattern, "a/**/b", "a/b a/x/b a/x/y/b a/b/b", "a b ab a/bx a/x"},
		{resourcePattern, "**/b", "b a/b a/a/b", "a ab b/a"},
		{resourcePattern, "**", "a a/b/c", ""},
		{resourcePattern, "*", "a *", "a/b"},
		{resourcePattern, "*/*", "a/b", "a a/b/c"},
		{resourcePattern, "**/**", "a a/b a/b/c", ""},
		{resourcePattern, "a/**/**", "a a/b a/b/c", "b"},
		{resourcePattern, "a/*/**/c", "a/b/c a/b/x/c", "a/c"},
		{resourcePattern, "agent-*", "agent- agent-7 agent-*", "agent agent-/x"},
		{resourcePattern, "*-x", "a-x -x", "a-x/b a"},
		{resourcePattern, "a*b*c", "abc a1b2c abbcc", "ac acb"},
		{resourcePattern, "a*a", "aa aba", "a"},
		{resourcePattern, "a.b", "a.b", "a/b"},
		{resourcePattern, "a/**/b/**/c", "a/b/c a/b/b/c a/x/b/y/c/c", "a/c a/b a/c/b"},
		{actionPattern, "a.b", "a.b", "a/b a a.b.c"},
		{actionPattern, "a/b", "a/b", "a.b"},
		{actionPattern, "pulls.*", "pulls.merge pulls.delete", "pulls pulls/merge pulls.a.b"},
		{actionPattern, "a.**", "a a.b a.b/c a.b.c", "a/b ab"},
		{actionPattern, "a/**", "a a/b a/b.c", "a.b"},
		{actionPattern, "a/**.b", "a.b a/x.b a/x/y.b a/x.y.b", "a/b a.x.b"},
		{actionPattern, "**/b", "b a/b a.x/b", "a.b"},
		{actionPattern, "**.b", "b a.b a/x.b", "a/b"},
		{actionPattern, "**.**", "a a.b a/b a/b.c", ""},
		{actionPattern, "a.**/**", "a a.b a/b a.b/c a/b.c a.b.c", "b"},
		{actionPattern, "**/a.**", "a a.b x/a x/a.b a/a.b x/y/a.b.c", "a/b.c x.a"},
		{actionPattern, "tools/call", "tools/call", "tools.call tools"},
		{agentPattern, "spiffe://prod/*", "spiffe://prod/a", "spiffe://prod spiffe://prod/a/b"},
		{agentPattern, "spiffe:/*/prod", "spiffe:/x/prod", "spiffe://prod"},
		{agentPattern, "spiffe:/**/prod", "spiffe://prod spiffe:/prod", "spiffe:prod"},
		{agentPattern, "/**", "/a /a/b", "a a/b"},
		{agentPattern, "a.*", "a.b a.", "a a/b"},
	}
	for _, tt := range tests {
		set := newPatternSet(tt.kind, []string{tt.pattern})
		separators := "/"
		if tt.kind == actionPattern {
			separators = "./"
		}
		for want, texts := range map[bool]string{true: tt.yes, false: tt.no} {
			for text := range strings.FieldsSeq(texts) {
				if got := set.match(text, &walk{}); got != want {
					t.Errorf("%s pattern %q, %q: %v", tt.kind, tt.pattern, text, got)
				}
				if slowMatch(tt.pattern, text, separators) != want {
					t.Errorf("the slow matcher differs on %q, %q", tt.pattern, text)
				}
			}
		}
	}
}

func TestPatternFault(t *testing.T) {
	t.Parallel()
	tests := []struct {
		kind      patternKind
		good, bad []string
	}{
		{resourcePattern, []string{"a", "**", "*", "a/*/b*c", "%", "%2", "%2*", ".*", "a..b", "é", "a b", "**/**", strings.Repeat("a/", 1023) + "**"}, []string{
			"", "/a", "a/", "a//b", ".", "a/..", "a/./b", "a/***", "a**", "**a/b", "a\\b", "a%2eb", "%2F", "x%5C*", "a\x00", "a\nb", "**/",
			"\xff", strings.Repeat("a", 2049), strings.Repeat("**/", 17) + "a",
		}},
		{actionPattern, []string{"a", "a.b/c", "*", "**.b", "a*", "\\", "%2e"}, []string{
			"", ".", "a.", "/a", "a..b", "a./b", "é", "a*é", "a.**b", "a\x7f", strings.Repeat("a", 257),
		}},
		{agentPattern, []string{"a", "spiffe://prod/*", "/a", "a//b", "**", "a..b", "é"}, []string{
			"", "a/", "a/..", "./a", "a%", "*%*", "a/**x", "a\tb", strings.Repeat("a", 1025), "*/",
		}},
	}
	for _, tt := range tests {
		for _, p := range tt.good {
			if message, fix := patternFault(p, tt.kind); message != "" {
				t.Errorf("%s pattern %q: %s; %s", tt.kind, p, message, fix)
			}
		}
		for _, p := range tt.bad {
			if message, fix := patternFault(p, tt.kind); message == "" || fix == "" {
				t.Errorf("%s pattern %q: message %q, fix %q", tt.kind, p, message, fix)
			}
		}
	}
}

func TestPatternsMeet(t *testing.T) {
	t.Parallel()
	tests := []struct {
		a, b string
		want bool
	}{
		{"a", "a", true},
		{"a", "b", false},
		{"*", "a", true},
		{"*", "a/b", false},
		{"a/**", "a", true},
		{"a/**", "**/b", true},
		{"a/*", "a/*/b", false},
		{"a*", "*b", true},
		{"a*c", "a*d", false},
		{"ab*", "ac*", false},
		{"ab*", "abc", true},
		{"a*b", "ab", true},
		{"a*b", "a", false},
		{"*x*", "*y*", true},
		{"team/*/a", "team/**/b/*", true},
		{"team/*/a", "team/*/b", false},
		{"team/**/a", "team/**/b", false},
		{"/*", "/", false},
		{"**/a/**", "b/**/b", true},
	}
	for _, tt := range tests {
		for _, pair := range [][2]string{{tt.a, tt.b}, {tt.b, tt.a}} {
			if got := patternsMeet(pair[0], pair[1]); got != tt.want {
				t.Errorf("patternsMeet(%q, %q) = %v", pair[0], pair[1], got)
			}
		}
	}
}

// FuzzPattern compares the trie of several patterns with the slow matcher.
func FuzzPattern(f *testing.F) {
	f.Add("a/**/b\n**\na*/b", "a/x/b", false)
	f.Add("a.**/b\n**.b\n**/a.**\n*.*", "a/a.b", true)
	f.Add("a/**/**/b*c*d", "a/bccd", false)
	f.Add("**/**.**", "a.b/c", true)
	f.Add("**/a/**/a/**/a", "a/a/a/a", false)
	f.Fuzz(func(t *testing.T, list, text string, dots bool) {
		separators := "/"
		if dots {
			separators = "./"
		}
		if len(list) > 64 || len(text) > 24 {
			return // the slow matcher is slow
		}
		var want []uint32
		tr := newTrie(dots)
		kind := agentPattern
		if dots {
			kind = actionPattern
		}
		for i, p := range strings.Split(list, "\n") {
			if strings.Count(p, "*") > 12 || hasMixedDeep(p, kind) {
				continue
			}
			tr.insert(p, uint32(i))
			if slowMatch(p, text, separators) {
				want = append(want, uint32(i))
			}
		}
		got := tr.find(text, &walk{}, nil)
		slices.Sort(got)
		if got = slices.Compact(got); !slices.Equal(got, want) {
			t.Fatalf("patterns %q, text %q: trie %v, slow %v", list, text, got, want)
		}
	})
}

// hasMixedDeep tells of patterns that do not compile: ** beside other characters.
func hasMixedDeep(p string, kind patternKind) bool {
	return slices.ContainsFunc(tokenize(p, kind), func(t token) bool {
		return t.kind == globToken && strings.Contains(t.text, "**")
	})
}

// FuzzPatternsMeet holds patternsMeet to a search by recursion, and to a text
// that both patterns match.
func FuzzPatternsMeet(f *testing.F) {
	f.Add("a/**", "**/b", "a/b")
	f.Add("a*c", "ab*", "abc")
	f.Add("*/x*", "y/**", "y/x")
	f.Fuzz(func(t *testing.T, a, b, id string) {
		if len(a) > 16 || len(b) > 16 || len(id) > 16 || hasMixedDeep(a, agentPattern) || hasMixedDeep(b, agentPattern) {
			return
		}
		got := patternsMeet(a, b)
		if slowMatch(a, id, "/") && slowMatch(b, id, "/") && !got {
			t.Fatalf("%q and %q both match %q", a, b, id)
		}
		if want := slowMeet(strings.Split(a, "/"), strings.Split(b, "/")); got != want {
			t.Fatalf("patternsMeet(%q, %q) = %v", a, b, got)
		}
	})
}

// TestGlobSiblings shows that a look-up among very many siblings with stars
// compares only the few that begin and end right.
func TestGlobSiblings(t *testing.T) {
	t.Parallel()
	tr := newTrie(false)
	const siblings = 100_000
	for i := range siblings {
		tr.insert(fmt.Sprintf("bucket-%d-*", i), uint32(i))
	}
	g := tr.root.below[slash].glob
	text := "bucket-4711-reports"
	compared := 0
	for _, shape := range g.shapes {
		if shape.prefix+shape.suffix <= len(text) {
			compared += 1 + len(g.entries[globKey{text[:shape.prefix], text[len(text)-shape.suffix:]}])
		}
	}
	if compared > 10 {
		t.Errorf("%d comparisons for one of %d siblings", compared, siblings)
	}
	if got := tr.find(text, &walk{}, nil); !slices.Equal(got, []uint32{4711}) {
		t.Errorf("found %v", got)
	}
}

// A text of a thousand segments against hundreds of patterns full of ** is a
// matter of milliseconds: the walk keeps sets, and does not search them.
func BenchmarkWalkManyDeep(b *testing.B) {
	t := newTrie(false)
	for i := range 300 {
		t.insert(strings.Repeat("**/a/*/", i%14+1)+"b"+strconv.Itoa(i), uint32(i))
	}
	text := strings.TrimSuffix(strings.Repeat("a/", 1024), "/")
	var w walk
	for b.Loop() {
		if got := t.find(text, &w, nil); len(got) != 0 {
			b.Fatal(got)
		}
	}
}
