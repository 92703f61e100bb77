package policy_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/kelpie-authz/kelpie/policy"
)

// idleLeases are the findings on leases, as "line: message; fix".
func idleLeases(t *testing.T, text string) []string {
	t.Helper()
	var told []string
	for _, f := range lintTexts(text) {
		switch f.Code {
		case policy.CodeInvalid:
			t.Fatalf("the policy does not load: %v", f)
		case "idle-lease":
			told = append(told, fmt.Sprintf("%d: %s; %s", f.Line, f.Message, f.Fix))
		}
	}
	return told
}

func TestLintIdleLease(t *testing.T) {
	t.Parallel()
	const (
		slow   = "no more than one unit in half a lease"
		above  = "a rate above 20/second and a burst above 20"
		nobody = "nothing is taken ahead"
	)
	cases := []struct {
		limit string
		want  []string // parts of the finding; none if there is to be none
	}{
		{"rate: 20/second, burst: 1000", []string{slow, above}},
		{"rate: 21/second", nil},
		{"rate: 1200/minute", []string{slow}},
		{"rate: 1260/minute", nil},
		{"rate: 100/second, burst: 20", []string{slow, above}},
		{"rate: 100/second, burst: 21", nil},
		{"rate: 1000/second, burst: 99", []string{"a lease is 9.9ms", "a burst of at least 100"}},
		{"rate: 1000/second, burst: 100", nil},
		{"rate: 150/second, burst: 14", []string{"a lease is 9.3ms", "a burst of at least 21"}},
		{"rate: 150/second, burst: 21", nil},
		{"rate: 100000/second, burst: 999", []string{nobody, "a burst of at least 10000"}},
		{"rate: 100000/second, burst: 1000", []string{"a lease is 1ms"}},
		{"rate: 100000/second, burst: 10000", nil},
		{"rate: 86400/day, burst: 1", []string{slow}},
		{"quota: 1/day", nil},
	}
	enough := regexp.MustCompile(`a burst of at least \d+`)
	for _, c := range cases {
		t.Run(c.limit, func(t *testing.T) {
			t.Parallel()
			told := idleLeases(t, "limits:\n  a: {"+c.limit+", per: [agent], lease: true}\n")
			if len(c.want) == 0 && len(told) > 0 || len(c.want) > 0 && len(told) != 1 {
				t.Fatalf("said %q, want parts %q", told, c.want)
			}
			for _, part := range c.want {
				if !strings.Contains(told[0], part) {
					t.Errorf("said %q, want it to say %q", told[0], part)
				}
			}
			if len(told) == 0 || !enough.MatchString(told[0]) {
				return
			}
			rate, _, _ := strings.Cut(c.limit, ", ")
			fixed := rate + ", burst: " + strings.TrimPrefix(enough.FindString(told[0]), "a burst of at least ")
			if left := idleLeases(t, "limits:\n  a: {"+fixed+", per: [agent], lease: true}\n"); len(left) > 0 {
				t.Errorf("with the fix %s: still %q", fixed, left)
			}
		})
	}
}

// An own entry is told of where it asks for the lease itself, and judged by the
// kind that it comes to.
func TestLintIdleLeaseOfOwnEntries(t *testing.T) {
	t.Parallel()
	told := idleLeases(t, `
agents:
  bot:
    owner: o
    networks: [any]
    limits:
      hot: {rate: 5/second, lease: true}
      slow: {lease: true}
      fast: {lease: true}
      shared: {count: cost}
      extra: {rate: 1/minute, lease: true}
limits:
  hot: {rate: 1000/second, per: [agent], lease: true}
  slow: {rate: 5/second, per: [agent]}
  fast: {rate: 1000/second, per: [agent]}
  shared: {rate: 5/second, per: [agent], lease: true}
`)
	var lines []string
	for _, text := range told {
		line, _, _ := strings.Cut(text, ":")
		lines = append(lines, line)
	}
	if want := []string{"7", "8", "11", "16"}; !slices.Equal(lines, want) {
		t.Errorf("told of lines %v, want %v: %q", lines, want, told)
	}
}
