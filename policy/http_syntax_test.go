package policy_test

import (
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/kelpie-authz/kelpie/policy"
)

func TestNormalHost(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]string{
		"crm.example.com": "crm.example.com", "CRM.Example.Com": "crm.example.com", "crm.example.com:8443": "crm.example.com", "CRM:1": "crm",
		"localhost": "localhost", "a": "a", "10.8.0.5:80": "10.8.0.5", "a_b.test": "a_b.test", "-a.test": "-a.test", "xn--bcher-kva.test": "xn--bcher-kva.test",
		"[fd00::1]": "[fd00::1]", "[FD00::1]:443": "[fd00::1]", "[::ffff:10.8.0.5]": "[::ffff:10.8.0.5]", "a:99999": "a",
		strings.Repeat("a", 255): strings.Repeat("a", 255),
	} {
		if got, err := policy.NormalHost(host); err != nil || got != want {
			t.Errorf("NormalHost(%q) = %q, %v; want %q", host, got, err, want)
		}
	}
	for host, why := range map[string]string{
		"": "empty", ":80": "empty", ".": "empty label", "a.": "ends with a dot", "a.:80": "ends with a dot", "a..b": "empty label", ".a": "empty label",
		"a:": "port", "a:x": "port", "a:80:90": "port", "a:-1": "port", "a: 80": "port", "a:123456": "port", "a:8\u0660": "port", "fd00::1": "port",
		"[": "no host name", "[]": "brackets", "[:80": "no host name", "[]:80": "brackets", "[fd00::1": "port", "[10.8.0.5]": "brackets", "[a]": "brackets", "[fe80::1%eth0]": "brackets", "[fe80::1%25eth0]": "brackets",
		"[fd00::1]a": "port", "[fd00::1]:x": "port", "[fd00::1].test": "port", "[[fd00::1]]": "port", "]": "no host name", "a]": "no host name", "a[": "no host name",
		"a b": "no host name", " a": "no host name", "a\t": "no host name", "a\x00": "no host name", "a\n": "no host name", "a,b": "no host name", "user@a": "no host name", "a/b": "no host name", `a\b`: "no host name",
		"a%2eb": "no host name", "é.test": "no host name", "a\u3002b": "no host name", "\uff41.test": "no host name", "\u212a.test": "no host name", "a\xff": "no host name", "*.example.com": "no host name", "a?": "no host name", "a#": "no host name",
		strings.Repeat("a", 256): "255",
	} {
		got, err := policy.NormalHost(host)
		if err == nil || !strings.Contains(err.Error(), why) || got != "" {
			t.Errorf("NormalHost(%.40q) = %q, %v; want an error with %q", host, got, err, why)
		}
	}
}

func TestCheckPathSegment(t *testing.T) {
	t.Parallel()
	for _, segment := range []string{
		"", "a", "A-Z_~", "a b", "a.b", "...", ".a", "a.", "..a", "é..", "..é", ".é.", "\u2024", "\u2025", "a:b", "a@b", "a,b", "a=b", "a&b", "a+b", "a'b\"c", "<a>", "{a}", "(a)!$*", "[a]|^`",
		"%", "100%", "%2", "%g0", "%%", "%2g", "a%", "é", "\u00a0", "\u2028", "日本", "😀",
	} {
		if err := policy.CheckPathSegment(segment); err != nil {
			t.Errorf("%q is refused: %v", segment, err)
		}
	}
	for segment, why := range map[string]string{
		".": "resolve", "..": "resolve", "a/b": "separator", "/": "separator", `a\b`: "separator", "a;v=1": "semicolon", ";": "semicolon", "a?b": "end a path", "a#b": "end a path",
		"\x00": "control", "a\n": "control", "a\r": "control", "\t": "control", "\x1f": "control", "\x7f": "control", "\u0080": "control", "a\u0085": "control", "\u009f": "control",
		"%2e": "encoded twice", "%2E%2e": "encoded twice", "%2f": "encoded twice", "a%41": "encoded twice", "%%41": "encoded twice", "%25": "encoded twice", "%aF": "encoded twice", "é%00": "encoded twice",
		"\xff": "UTF-8", "a\xc3": "UTF-8", "\xc0\xae": "UTF-8", "\xed\xa0\x80": "UTF-8", "\x80": "UTF-8",
	} {
		if err := policy.CheckPathSegment(segment); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v, want an error with %q", segment, err, why)
		}
	}
	if policy.CheckPathSegment("\ufffd") != nil {
		t.Error("U+FFFD that was written is taken for what is not UTF-8")
	}
}

// Hosts as the referee of FuzzNormalHost reads them.
var (
	naiveHostName = regexp.MustCompile(`^([0-9A-Za-z_-]+(?:\.[0-9A-Za-z_-]+)*)(:\d{1,5})?$`)
	naiveHostSix  = regexp.MustCompile(`^(\[[0-9A-Fa-f:.]+\])(:\d{1,5})?$`)
)

// FuzzNormalHost holds the function to a regular expression, and to itself.
func FuzzNormalHost(f *testing.F) {
	for _, seed := range []string{"crm.example.com", "CRM:8443", "[fd00::1]:443", "[", "[]", "a..b", "a.", "a:80:90", "[::ffff:10.8.0.5]", "[fe80::1%eth0]", "é", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, host string) {
		want := ""
		if found := naiveHostName.FindStringSubmatch(host); len(found) > 0 && len(found[1]) <= 255 {
			want = strings.ToLower(found[1])
		} else if found = naiveHostSix.FindStringSubmatch(host); len(found) > 0 {
			if addr, err := netip.ParseAddr(strings.Trim(found[1], "[]")); err == nil && addr.Is6() {
				want = "[" + addr.String() + "]" // one spelling of an address
			}
		}
		got, err := policy.NormalHost(host)
		if got != want || (err == nil) != (want != "") {
			t.Fatalf("NormalHost(%q) = %q, %v; want %q", host, got, err, want)
		}
		if err != nil {
			return
		}
		if again, err := policy.NormalHost(got); err != nil || again != got {
			t.Fatalf("%q becomes %q, and that %q, %v", host, got, again, err)
		}
	})
}

var naiveEscape = regexp.MustCompile(`%[0-9A-Fa-f]{2}`)

// FuzzPathSegment holds the check to the list of what is refused, read word by word.
func FuzzPathSegment(f *testing.F) {
	for _, seed := range []string{"a", "..", "a/b", "a;b", "%2e", "%", "é", "\u0085", "\xff", "a?b", "\x7f", "..é", `\`, "#", "\ufffd"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, segment string) {
		bad := segment == "." || segment == ".." || !utf8.ValidString(segment) || strings.ContainsAny(segment, `/\;?#`) ||
			strings.ContainsFunc(segment, unicode.IsControl) || naiveEscape.MatchString(segment)
		if err := policy.CheckPathSegment(segment); (err != nil) != bad {
			t.Fatalf("%q: %v, want refused: %v", segment, err, bad)
		}
	})
}
