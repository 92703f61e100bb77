package policy

import (
	"math/rand/v2"
	"strings"
	"testing"
)

func TestCovers(t *testing.T) {
	t.Parallel()
	cases := []struct {
		wide, narrow string
		kind         patternKind
		want         bool
	}{
		{"a", "a", resourcePattern, true},
		{"a", "b", resourcePattern, false},
		{"**", "a/b", resourcePattern, true},
		{"**", "**", resourcePattern, true},
		{"a/**", "a", resourcePattern, true},
		{"a/**", "a/*/c", resourcePattern, true},
		{"a/*", "a/**", resourcePattern, false},
		{"a/*", "a/b*", resourcePattern, true},
		{"a/b*", "a/*", resourcePattern, false},
		{"a/b*", "a/bc*d", resourcePattern, true},
		{"a/b*c*d", "a/b*d", resourcePattern, false},
		{"a/b*c*d", "a/bcd", resourcePattern, true},
		{"**/c", "a/**/c", resourcePattern, true},
		{"a/**/c", "a/c", resourcePattern, true},
		{"pulls.*", "pulls.merge", actionPattern, true},
		{"pulls.*", "pulls/merge", actionPattern, false},
		{"pulls.*", "pulls.a.b", actionPattern, false},
		{"**.merge", "merge", actionPattern, true},
		{"*", "pulls.*", actionPattern, false},
		{"a.*", "a.*", resourcePattern, true},
		{"spiffe://x/*", "spiffe://x/a*", agentPattern, true},
	}
	for _, c := range cases {
		if got := covers(c.wide, c.narrow, c.kind); got != c.want {
			t.Errorf("%s pattern %s covers %s: %v, want %v", c.kind, c.wide, c.narrow, got, c.want)
		}
	}
}

// TestCoversAndMeetsAgreeWithMatching compares both with the patterns' own
// matching of many texts: what is covered is matched by both, and patterns
// that match one text meet.
func TestCoversAndMeetsAgreeWithMatching(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	join := func(parts []string, separators string) string {
		var b strings.Builder
		for i := range 1 + rng.IntN(3) {
			if i > 0 {
				b.WriteByte(separators[rng.IntN(len(separators))])
			}
			b.WriteString(parts[rng.IntN(len(parts))])
		}
		return b.String()
	}
	covered, met := 0, 0
	for range 5000 {
		kind, separators := resourcePattern, "/"
		if rng.IntN(2) == 0 {
			kind, separators = actionPattern, "./"
		}
		parts := []string{"a", "ab", "*", "**", "a*", "*b", "a*b"}
		wide, narrow := join(parts, separators), join(parts, separators)
		isCovered, isMet := covers(wide, narrow, kind), meets(wide, narrow, kind)
		w, n := newPatternSet(kind, []string{wide}), newPatternSet(kind, []string{narrow})
		for range 100 {
			text := join([]string{"a", "b", "ab", "aab", "x"}, separators)
			inWide, inNarrow := w.match(text, &walk{}), n.match(text, &walk{})
			if isCovered && inNarrow && !inWide {
				t.Fatalf("%s covers %s, but not its %s", wide, narrow, text)
			}
			if inWide && inNarrow && !isMet {
				t.Fatalf("%s and %s both match %s and do not meet", wide, narrow, text)
			}
			if isCovered && inNarrow {
				covered++
			}
			if inWide && inNarrow {
				met++
			}
		}
	}
	if covered < 1000 || met < 1000 {
		t.Errorf("too few texts were compared: %d covered, %d met", covered, met)
	}
}
