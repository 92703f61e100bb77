package policy_test

import (
	"errors"
	"math"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/kelpie-authz/kelpie/policy"
)

func TestCheckAgent(t *testing.T) {
	t.Parallel()
	checkTexts(t, policy.CheckAgent,
		[]string{"a", "lead-router", "spiffe://prod.example/ns/agents/sa/x", "/a", "a//b", "...", "a/.../b", ".a", "a*", "é", "a b", strings.Repeat("x", 1024)},
		[]string{"", "a/", "/", ".", "..", "a/.", "a/..", "./a", "../a", "a/./b", "a/../b", "a%20", "%", "a\x00", "a\n", "a\x7f", "a\u0085", "a\xff", strings.Repeat("x", 1025)})
}

func TestCheckAction(t *testing.T) {
	t.Parallel()
	checkTexts(t, policy.CheckAction,
		[]string{"read", "pulls.merge", "tools/call", "a.b/c", "*", "a*", "a b", "%", strings.Repeat("x", 256)},
		[]string{"", ".", "/", "a.", ".a", "a..b", "a/", "/a", "a//b", "a./b", "é", "a\x00", "a\tb", "a\x7f", "a\xff", strings.Repeat("x", 257)})
}

func TestCheckResource(t *testing.T) {
	t.Parallel()
	checkTexts(t, policy.CheckResource,
		[]string{"a", "salesforce/leads/42", "a/...", ".a/b.", "a:b", "a b", "*", "**", "é/ü", "100%", "a%20b", "%2", "a%2gb", "%25 2e", strings.Repeat("x", 2048)},
		[]string{
			"", "/", "/a", "a/", "a//b", ".", "..", "a/.", "a/..", "./a", "a/../b", `a\b`, `\`, "a%2eb", "a%2Eb", "%2f", "a%2Fb", "a%5c", "a%5Cb", "%252e%2e",
			"a\x00", "a\n/b", "a\x7f", "a\u009f", "a\xff", strings.Repeat("x", 2049),
		})
}

func checkTexts(t *testing.T, check func(string) error, good, bad []string) {
	t.Helper()
	for _, text := range good {
		if err := check(text); err != nil {
			t.Errorf("%.40q is refused: %v", text, err)
		}
	}
	for _, text := range bad {
		if check(text) == nil {
			t.Errorf("%.40q is accepted", text)
		}
	}
}

func TestCheckText(t *testing.T) {
	t.Parallel()
	checkTexts(t, func(s string) error { return policy.CheckText("subject", s, 8) },
		[]string{"", "a", "12345678", "é", "a b/../%", "\u2028"},
		[]string{"123456789", "a\x00", "a\n", "\x7f", "é\u0085", "\xff", "é\xc3"})
	err := policy.CheckText("session_id", "\x00", 8)
	if err == nil || !strings.HasPrefix(err.Error(), "session_id ") {
		t.Errorf("the error %v does not name the field", err)
	}
}

func TestParseSourceIP(t *testing.T) {
	t.Parallel()
	good := map[string]string{
		"10.8.0.5": "10.8.0.5", "::ffff:10.8.0.5": "10.8.0.5", "::FFFF:a08:5": "10.8.0.5", "fd00:8::17": "fd00:8::17", "FD00:8:0:0::17": "fd00:8::17", "::": "::", "0.0.0.0": "0.0.0.0",
	}
	for text, want := range good {
		if got, err := policy.ParseSourceIP(text); err != nil || got != netip.MustParseAddr(want) {
			t.Errorf("ParseSourceIP(%q) = %v, %v; want %s", text, got, err, want)
		}
	}
	if got, err := policy.ParseSourceIP(""); err != nil || got.IsValid() {
		t.Errorf("an absent address is %v, %v", got, err)
	}
	checkTexts(t, func(s string) error { _, err := policy.ParseSourceIP(s); return err }, nil, []string{
		"10.8.0.5:443", "[fd00::1]:443", "[fd00::1]", "fe80::1%eth0", "fe80::1%", "010.8.0.5", "10.8.0.05", "10.8.0", "10.8", "1", "0x0a080005", "10.8.0.256",
		"10.8.0.5/32", " 10.8.0.5", "10.8.0.5\n", "::ffff:010.8.0.5", "::ffff:10.8.0.5%1", "fd00:::1", "12345::", "localhost", "any", strings.Repeat("0", 65),
	})
}

func TestCheckCost(t *testing.T) {
	t.Parallel()
	for _, cost := range []float64{0, 1, 0.5, math.MaxFloat64, math.SmallestNonzeroFloat64, math.Copysign(0, -1)} {
		if err := policy.CheckCost(cost); err != nil {
			t.Errorf("%v: %v", cost, err)
		}
	}
	for _, cost := range []float64{-1, -math.SmallestNonzeroFloat64, math.NaN(), math.Inf(1), math.Inf(-1)} {
		if policy.CheckCost(cost) == nil {
			t.Errorf("%v is accepted", cost)
		}
	}
}

func TestCheckContext(t *testing.T) {
	t.Parallel()
	deep := func(n int) map[string]any {
		m := map[string]any{}
		for range n - 1 {
			m = map[string]any{"a": m}
		}
		return m
	}
	list := func(n int) map[string]any {
		var v any = []any{}
		for range n - 2 {
			v = []any{v}
		}
		return map[string]any{"a": v}
	}
	for name, context := range map[string]map[string]any{
		"none": nil, "empty": {}, "all kinds": {"a": nil, "b": true, "c": 1.5, "d": "x\ny", "e": []any{"x"}, "f": map[string]any{}},
		"32 maps deep": deep(32), "32 lists deep": list(32), "just small enough": {"a": strings.Repeat("x", policy.MaxContextBytes-9)},
	} {
		if err := policy.CheckContext(context); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, context := range map[string]map[string]any{
		"33 maps deep": deep(33), "33 lists deep": list(33), "too large": {"a": strings.Repeat("x", policy.MaxContextBytes-8)},
		"too many": {"a": slices.Repeat([]any{nil}, policy.MaxContextBytes/8)}, "NaN": {"a": math.NaN()}, "infinity": {"a": []any{math.Inf(1)}},
		"a text that is not UTF-8": {"a": "\xff"}, "a name that is not UTF-8": {"\xff": 1.0}, "a name with a control character": {"a\n": 1.0}, "an int": {"a": 1}, "a struct": {"a": struct{}{}},
	} {
		if policy.CheckContext(context) == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

// FuzzSyntax holds the checks against the list of what is malformed, read word by word.
func FuzzSyntax(f *testing.F) {
	for _, seed := range []string{"read", "a/b", "a/../b", "a%2Fb", `a\b`, "a.b", "10.8.0.5", "::ffff:1.2.3.4", "fe80::1%x", "\xff", "a\x00", "é/x", "a//b", "/a/"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		checks := map[string]struct{ got, want error }{
			"agent":    {policy.CheckAgent(s), naiveAgentFault(s)},
			"action":   {policy.CheckAction(s), naiveActionFault(s)},
			"resource": {policy.CheckResource(s), naiveResourceFault(s)},
			"text":     {policy.CheckText("subject", s, 64), naiveTextFault(s, 64)},
		}
		for name, c := range checks {
			if (c.got == nil) != (c.want == nil) {
				t.Errorf("%s %q: %v, want %v", name, s, c.got, c.want)
			}
		}
		addr, err := policy.ParseSourceIP(s)
		if err == nil && s != "" && (addr.Zone() != "" || addr.Is4In6() || !addr.IsValid() || strings.ContainsAny(s, "%[]/ ")) {
			t.Errorf("source_ip %q is read as %v", s, addr)
		}
	})
}

var errNaive = errors.New("malformed")

func naiveTextFault(s string, most int) error {
	if len(s) > most || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		return errNaive
	}
	return nil
}

func naiveAgentFault(s string) error {
	segments := strings.Split(s, "/")
	if s == "" || strings.HasSuffix(s, "/") || strings.Contains(s, "%") || slices.Contains(segments, ".") || slices.Contains(segments, "..") {
		return errNaive
	}
	return naiveTextFault(s, 1024)
}

func naiveActionFault(s string) error {
	if slices.Contains(strings.Split(strings.ReplaceAll(s, "/", "."), "."), "") || strings.ContainsFunc(s, func(r rune) bool { return r > 127 }) {
		return errNaive
	}
	return naiveTextFault(s, 256)
}

func naiveResourceFault(s string) error {
	low := strings.ToLower(s)
	for _, part := range []string{`\`, "%2e", "%2f", "%5c"} {
		if strings.Contains(low, part) {
			return errNaive
		}
	}
	for segment := range strings.SplitSeq(s, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return errNaive
		}
	}
	return naiveTextFault(s, 2048)
}

func BenchmarkSyntax(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		_ = policy.CheckAgent("spiffe://prod.example/ns/agents/sa/lead-router")
		_ = policy.CheckAction("pulls.merge")
		_ = policy.CheckResource("salesforce/leads/42/owner")
		_, _ = policy.ParseSourceIP("10.8.0.5")
		_ = policy.CheckText("subject", "someone@example.com", 1024)
		_ = policy.CheckCost(1)
	}
}

// TestBoundsAreTheProtos compares the bounds with those that gRPC requests are validated by.
func TestBoundsAreTheProtos(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../proto/kelpie/authz/v1/authz.proto")
	if err != nil {
		t.Fatal(err)
	}
	_, request, found := strings.Cut(string(text), "message AuthorizeRequest {")
	if !found {
		t.Fatal("authz.proto has no AuthorizeRequest")
	}
	for field, want := range map[string]int{
		"string agent": policy.MaxAgentBytes, "string action": policy.MaxActionBytes, "string resource": policy.MaxResourceBytes, "bytes parameters_json": policy.MaxParametersBytes,
	} {
		_, rest, _ := strings.Cut(request, field+" = ")
		rest, _, _ = strings.Cut(rest, ";")
		if found := regexp.MustCompile(`max_(?:bytes|len)\D+(\d+)`).FindStringSubmatch(rest); len(found) != 2 || found[1] != strconv.Itoa(want) {
			t.Errorf("%s: the proto says %v, the check %d", field, found, want)
		}
	}
}
