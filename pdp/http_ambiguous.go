package pdp

import (
	"bytes"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/kelpie-authz/kelpie/policy"
)

// contradiction finds headers that would make a server take the request for
// another one than the proxy does.
func contradiction(h *policy.HTTP, in *HTTPRequest) *httpFault {
	for _, one := range [...]struct{ header, same string }{
		// What the proxy says of the request twice.
		{":method", in.Method},
		{":path", in.Target},
		{":authority", in.Host},
		{"host", in.Host},
		// By these a server may take another method or path than the proxy's.
		{"x-http-method-override", in.Method},
		{"x-http-method", in.Method},
		{"x-method-override", in.Method},
		{"x-original-url", in.Target},
		{"x-rewrite-url", in.Target},
	} {
		if value, found := in.Headers[one.header]; found && value != one.same {
			return mismatch("the header " + one.header + " says something else than the request")
		}
	}
	return disguised(h, in.Headers)
}

// disguised finds a header that servers behind CGI, WSGI and their like read as
// one that counts here, since they take _ for -.
func disguised(h *policy.HTTP, headers map[string]string) *httpFault {
	for name := range headers {
		if strings.IndexByte(name, '_') < 0 {
			continue
		}
		if other := strings.ReplaceAll(strings.ToLower(name), "_", "-"); countsAlways(other) || h.ReadsHeader(other) {
			return mismatch("the header " + other + " is there with _ in its name, which some servers take for it")
		}
	}
	return nil
}

// countsAlways tells the headers that are looked at whatever the policy says.
func countsAlways(name string) bool {
	switch name {
	case "host", "content-type", "content-length", "content-encoding", "transfer-encoding", "x-forwarded-for", "x-forwarded-client-cert",
		"x-http-method-override", "x-http-method", "x-method-override", "x-original-url", "x-rewrite-url":
		return true
	default:
		return false
	}
}

// methodField is the parameter by which some frameworks take another method
// than the request's.
const methodField = "_method"

func isMethodField(name string) bool {
	name, _, _ = strings.Cut(name, "[") // _method[] is a list to them, and its item the method
	return strings.EqualFold(strings.TrimSpace(name), methodField)
}

// ambiguous finds parameters that a server may read otherwise than a rule:
// another method, or two names of one object that differ in capitals only, of
// which many decoders take the last.
func ambiguous(parameters map[string]any, method string) *httpFault {
	for name, value := range parameters {
		if isMethodField(name) && value != method {
			return mismatch("the parameters have a _method that is not the request's")
		}
	}
	if parameters != nil && hasTwins(parameters) {
		return malformedHTTP("two names of one object differ in capitals only; give each once")
	}
	return nil
}

func hasTwins(value any) bool {
	switch v := value.(type) {
	case []any:
		return slices.ContainsFunc(v, hasTwins)
	case map[string]any:
		if namesTwins(v) {
			return true
		}
		for _, member := range v {
			if hasTwins(member) {
				return true
			}
		}
	}
	return false
}

// namesTwins compares by Unicode's simple folding, as such decoders do.
func namesTwins(members map[string]any) bool {
	if len(members) < 2 || allSmall(members) {
		return false
	}
	seen := make(map[string]bool, len(members))
	for name := range members {
		folded := foldName(name)
		if seen[folded] {
			return true
		}
		seen[folded] = true
	}
	return false
}

// allSmall tells of names that are unique as they stand: all ASCII, and none
// with a capital.
func allSmall(members map[string]any) bool {
	for name := range members {
		for i := range len(name) {
			if c := name[i]; c >= utf8.RuneSelf || 'A' <= c && c <= 'Z' {
				return false
			}
		}
	}
	return true
}

// foldName is the same for all names that strings.EqualFold calls equal: the
// least of each character's forms.
func foldName(name string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
			least = min(least, next)
		}
		return least
	}, name)
}

// checkPair refuses what a server may take for more than a parameter.
func checkPair(name, value, method string) *httpFault {
	switch {
	case name == "":
		return malformedHTTP("the query has a value without a name")
	case isMethodField(name) && value != method:
		return mismatch("the query has a _method that is not the request's")
	default:
		return nil
	}
}

// unreadOverride finds a _method in a body that is seen and not read as
// parameters, by the looser ways in which servers read one: they look at the
// type's name and not at what else the headers say.
func unreadOverride(in *HTTPRequest) *httpFault {
	kind := strings.ToLower(in.Headers["content-type"])
	found := false
	switch {
	case kind == "", strings.Contains(kind, "form-urlencoded"):
		found = formOverride(string(in.Body), in.Method)
	case strings.Contains(kind, "multipart"):
		found = partNamedMethod.Match(in.Body)
	case strings.Contains(kind, "json"):
		found = bytes.Contains(bytes.ToLower(unescaped(in.Body)), []byte(`"`+methodField))
	}
	if found {
		return mismatch("the body has a _method, by which a server may take another method than the request's")
	}
	return nil
}

// partNamedMethod is the part of a multipart form (RFC 7578, section 4.2).
var partNamedMethod = regexp.MustCompile(`(?i)name\*?\s*=\s*["']?(?:utf-8'[^']*')?\s*_method`)

// formOverride finds a _method in a form, also between semicolons.
func formOverride(form, method string) bool {
	for pair := range strings.FieldsFuncSeq(form, func(r rune) bool { return r == '&' || r == ';' }) {
		name, value, _ := strings.Cut(pair, "=")
		if text, err := url.QueryUnescape(name); err == nil {
			name = text
		}
		if !isMethodField(name) {
			continue
		}
		if text, err := url.QueryUnescape(value); err != nil || text != method {
			return true
		}
	}
	return false
}

// unescaped decodes the escapes of ASCII characters in what may be JSON.
func unescaped(text []byte) []byte {
	const escape = `\u00`
	if !bytes.Contains(text, []byte(escape)) {
		return text
	}
	out := make([]byte, 0, len(text))
	for {
		before, rest, found := bytes.Cut(text, []byte(escape))
		out = append(out, before...)
		if !found {
			return out
		}
		text = rest
		if len(rest) < 2 {
			continue
		}
		if c, err := strconv.ParseUint(string(rest[:2]), 16, 8); err == nil {
			out = append(out, byte(c))
			text = rest[2:]
		}
	}
}
