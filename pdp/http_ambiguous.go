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
	if h != nil && h.TrustedHops == 0 {
		if fault := forwardedHost(in); fault != nil {
			return fault
		}
	}
	return disguised(h, in.Headers)
}

// forwardedHost finds another host than the request's in headers that only a
// proxy in front could honestly have set, where the policy says that there is none.
func forwardedHost(in *HTTPRequest) *httpFault {
	for _, header := range [...]string{"x-forwarded-host", "x-host"} {
		if value, found := in.Headers[header]; found && value != in.Host {
			return mismatch("the header " + header + " names another host than the request")
		}
	}
	if strings.Contains(strings.ToLower(in.Headers["forwarded"]), "host=") {
		return mismatch("the header forwarded names a host, and the policy trusts no proxy in front")
	}
	return nil
}

// disguised finds a header that servers behind CGI, WSGI and their like read as
// one that counts here: they take _, or . too, for -.
func disguised(h *policy.HTTP, headers map[string]string) *httpFault {
	for name := range headers {
		if !strings.ContainsAny(name, "_.") {
			continue
		}
		if other := plainHeader(name); countsAlways(other) || h.ReadsHeader(other) {
			return mismatch("a header is there that some servers take for " + other)
		}
	}
	return nil
}

// plainHeader is the name that such servers make of a header's.
func plainHeader(name string) string {
	return strings.Map(func(r rune) rune {
		if r == '_' || r == '.' {
			return '-'
		}
		return r
	}, strings.ToLower(name))
}

// countsAlways tells the headers that are looked at whatever the policy says.
func countsAlways(name string) bool {
	switch name {
	case "host", "content-type", "content-length", "content-encoding", "transfer-encoding", "x-forwarded-for", "x-forwarded-client-cert",
		"x-http-method-override", "x-http-method", "x-method-override", "x-original-url", "x-rewrite-url",
		"script-name", "path-info", "x-script-name", "x-forwarded-host", "forwarded":
		return true
	default:
		return false
	}
}

// isMethodField tells a parameter by which some framework takes another method
// than the request's, by any of the names that servers make one of: they cut at
// NUL, take . and blanks for _, leave out leading blanks, and read name[] as a list.
func isMethodField(name string) bool {
	switch strings.ReplaceAll(plainField(name), "-", "_") {
	case "_method", "_httpmethod", "x_http_method_override", "x_http_method", "x_method_override":
		return true
	default:
		return false
	}
}

// plainField is the name that the loosest of servers makes of a parameter's.
func plainField(name string) string {
	name, _, _ = strings.Cut(name, "\x00")
	name, _, _ = strings.Cut(name, "[")
	return strings.Map(func(r rune) rune {
		switch r {
		case '.', ' ':
			return '_'
		default:
			return r
		}
	}, strings.ToLower(strings.TrimLeft(name, " ")))
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
	if parameters != nil && (hasTwins(parameters) || hasMergedTwins(parameters)) {
		return malformedHTTP("two names of one object differ only in what servers do not tell apart (capitals, dots, blanks, brackets), " +
			"or one holds NUL; give each once")
	}
	return nil
}

// hasMergedTwins finds two parameters of which some servers make one. Several
// with brackets are parts of one object.
func hasMergedTwins(parameters map[string]any) bool {
	plain := make(map[string]bool, len(parameters))
	if len(parameters) < 2 {
		return false
	}
	for name := range parameters {
		if strings.IndexByte(name, '[') < 0 {
			key := plainField(name)
			if plain[key] {
				return true
			}
			plain[key] = true
		}
	}
	for name := range parameters {
		if strings.IndexByte(name, '[') >= 0 && plain[plainField(name)] {
			return true
		}
	}
	return false
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
	for name := range members {
		if strings.IndexByte(name, 0) >= 0 {
			return true
		}
	}
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

// unreadOverride finds a method in a body that is seen and not read as
// parameters, by the looser ways in which servers read one: they look at the
// type's name and not at what else the headers say. A body of such a type that
// cannot be searched, packed or in another alphabet, is refused; where the route
// says that bodies are not read, whoever wrote it takes it as it is.
func unreadOverride(in *HTTPRequest, searched bool) *httpFault {
	kind := strings.ToLower(in.Headers["content-type"])
	var found bool
	switch {
	case kind == "", strings.Contains(kind, "form-urlencoded"):
		found = formOverride(string(in.Body), in.Method)
	case strings.Contains(kind, "multipart"):
		found = partOverride(in.Body)
	case strings.Contains(kind, "json"):
		found = namedMethod.Match(unescaped(in.Body))
	default:
		return nil
	}
	switch {
	case found:
		return mismatch("the body has a _method, by which a server may take another method than the request's")
	case searched && (isPacked(in.Headers) || strings.Contains(kind, "utf-16") || strings.Contains(kind, "utf-32") || strings.Contains(kind, "utf-7")):
		return malformedHTTP("the body is packed or in another alphabet than ASCII's, so that it cannot be judged; send it plainly")
	default:
		return nil
	}
}

func isPacked(headers map[string]string) bool {
	encoding, found := headers["content-encoding"]
	return found && !strings.EqualFold(encoding, "identity")
}

// namedMethod is such a name in JSON, and partMethod one in a line that names a
// part of a form.
var (
	namedMethod = regexp.MustCompile(`(?i)"\s*(?:_method|_httpmethod|x[_-]http[_-]method(?:[_-]override)?|x[_-]method[_-]override)\b`)
	partMethod  = regexp.MustCompile(`(?i)(?:^|[^a-z0-9_.-])(?:[_. -]*[_.](?:http)?method|x[_. -]http[_. -]method(?:[_. -]override)?|x[_. -]method[_. -]override)(?:[^a-z0-9]|$)`)
)

// partOverride finds a part of a multipart form (RFC 7578) that is named so, in
// the lines that can name one. Servers decode such names in many ways, so that
// a name that is encoded is taken for one.
func partOverride(body []byte) bool {
	naming := false
	for line := range bytes.Lines(body) {
		if len(line) == 0 || line[0] != ' ' && line[0] != '\t' {
			naming = hasPrefixFold(line, "content-disposition") || hasPrefixFold(line, "content-id")
		}
		if !naming {
			continue
		}
		plain := bytes.ReplaceAll(line, []byte(`\`), nil)
		if text, err := url.PathUnescape(string(plain)); err == nil {
			plain = []byte(text)
		}
		if bytes.Contains(plain, []byte("=?")) || partMethod.Match(plain) || bytes.Contains(bytes.ToLower(plain), []byte("'_method")) {
			return true
		}
	}
	return false
}

func hasPrefixFold(line []byte, prefix string) bool {
	return len(line) >= len(prefix) && strings.EqualFold(string(line[:len(prefix)]), prefix)
}

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
