package policy

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"unicode/utf8"
)

// HTTP is what a policy says of the HTTP requests that a proxy asks about. It
// belongs to the snapshot: do not change it. It is safe for concurrent use.
type HTTP struct {
	// AgentFrom and SubjectFrom are where the ids come from, in order.
	AgentFrom, SubjectFrom []IdentitySource
	// TrustedHops is how many proxies stand in front of the one that asks.
	TrustedHops int
	// PeerAppended says that the proxy adds its peer to x-forwarded-for before it asks.
	PeerAppended bool
	// BodiesSent says that the proxy sends the body of every request that has one.
	BodiesSent bool

	methods map[string]*httpHosts
	headers map[string]bool // that sources and routes name
	// capitals says that a path has some, so that a request without can be another's.
	capitals bool
	routes   []*HTTPRoute // sorted by id
}

// SourceKind is a kind of place where an id can come from. The zero value is none.
type SourceKind uint8

// The kinds.
const (
	SourceNone SourceKind = iota
	SourcePrincipal
	SourceForwardedClientCert
	SourceJWT
	SourceHeader
	SourceContextExtension
)

// IdentitySource is one place where an id can come from.
type IdentitySource struct {
	Kind SourceKind
	// Name of the header, the context extension, or the key of the token's payload.
	Name string
	// Claim is the path to the claim of a token.
	Claim []string
	// Hops is how many elements stand behind the one of x-forwarded-client-cert that counts.
	Hops int
}

// HTTPRoute says which call a request is. It belongs to the snapshot.
type HTTPRoute struct {
	// ID is http/NAME.
	ID string
	// Headers are headers that are parameters, sorted by the parameter's name.
	Headers []HeaderParameter
	// QueryLists are the names of the query that may come more than once, sorted.
	QueryLists []string
	// BodyUnseen says that the body is not read.
	BodyUnseen bool

	hosts            []hostPattern
	methods          []string
	tokens           []pathToken
	action, resource template
	// loose are the tokens whose text is a parameter, since neither action nor resource has it.
	loose []int
}

// HeaderParameter is a header that is a parameter: the parameter's name, and
// the header's in small letters.
type HeaderParameter struct{ Name, Header string }

// template is a text with parts of the path in it.
type template struct {
	// parts are texts and, where token is not negative, segments.
	parts []templatePart
}

type templatePart struct {
	text  string
	token int
}

// HTTP is what the policy says of HTTP requests; nil if it says nothing.
func (s *Snapshot) HTTP() *HTTP { return s.http }

// ReadsHeader tells whether a source or a route names the header.
func (h *HTTP) ReadsHeader(name string) bool { return h.headers[name] }

// RouteIDs are the ids of all routes, http/NAME, sorted; none on nil.
func (h *HTTP) RouteIDs() []string {
	if h == nil {
		return nil
	}
	ids := make([]string, len(h.routes))
	for i, r := range h.routes {
		ids[i] = r.ID
	}
	return ids
}

// Route returns the most specific route that is about a request, or nil. The
// host is one of NormalHost, and the segments are those of the path behind its
// first slash, decoded and each passed by CheckPathSegment; the last alone may
// be empty.
func (h *HTTP) Route(method, host string, segments []string) *HTTPRoute {
	if len(segments) == 0 || len(segments) > MaxPathSegments {
		return nil
	}
	for n := range h.methods[method].roots(host) {
		if found := n.find(segments); found != nil {
			return found
		}
	}
	return nil
}

// pathNode is a place in a tree of paths. Each node is visited at most once per
// request, so that no policy makes a look-up longer than itself.
type pathNode struct {
	literals map[string]*pathNode
	small    map[string][]*pathNode // the same by their texts in small letters
	named    []namedNode            // those with more text around the name first
	rest     *HTTPRoute
	route    *HTTPRoute
}

type namedNode struct {
	token pathToken // without its name
	node  *pathNode
}

// Shadows returns another route that a server which ignores capitals, or takes
// what stands behind the last dot for a format, could take for the one about a
// request; nil if there is none. A less specific route is none.
func (h *HTTP) Shadows(route *HTTPRoute, method, host string, segments []string) *HTTPRoute {
	if !h.capitals && !slices.ContainsFunc(segments, hasCapital) && strings.IndexByte(segments[len(segments)-1], '.') < 0 {
		return nil
	}
	for n := range h.methods[method].roots(host) {
		if found := n.loosely(route, segments, false); found != nil {
			return found
		}
	}
	return nil
}

func hasCapital(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r >= utf8.RuneSelf || 'A' <= r && r <= 'Z' }) >= 0
}

// loosely finds a route by a text that differs from the request's in capitals
// or a format only. loose says that there was one on the way.
func (n *pathNode) loosely(but *HTTPRoute, segments []string, loose bool) *HTTPRoute {
	if len(segments) == 0 {
		if loose && n.route != nil && n.route != but {
			return n.route
		}
		return nil
	}
	small := strings.ToLower(segments[0])
	if found := n.alike(small, but, segments, loose); found != nil {
		return found
	}
	// Only the last segment can have a format.
	if dot := strings.LastIndexByte(small, '.'); len(segments) == 1 && dot > 0 {
		if found := n.alike(small[:dot], but, segments, loose); found != nil {
			return found
		}
	}
	for i := range n.named {
		c := &n.named[i]
		exact := c.token.matches(segments[0])
		if exact || c.token.matchesFolded(segments[0]) {
			if found := c.node.loosely(but, segments[1:], loose || !exact); found != nil {
				return found
			}
		}
	}
	if loose && n.rest != nil && n.rest != but && segments[len(segments)-1] != "" {
		return n.rest
	}
	return nil
}

// alike goes on from the literals that have a text in small letters.
func (n *pathNode) alike(small string, but *HTTPRoute, segments []string, loose bool) *HTTPRoute {
	for _, below := range n.small[small] {
		exact := below == n.literals[segments[0]]
		if found := below.loosely(but, segments[1:], loose || !exact); found != nil {
			return found
		}
	}
	return nil
}

// Call is the action and the resource of a request that matched the route.
func (r *HTTPRoute) Call(segments []string) (action, resource string) {
	return r.action.fill(r.tokens, segments), r.resource.fill(r.tokens, segments)
}

// PathParameters yields the parts of the path that are parameters, in their order.
func (r *HTTPRoute) PathParameters(segments []string) func(yield func(name, value string) bool) {
	return func(yield func(name, value string) bool) {
		for _, i := range r.loose {
			if !yield(r.tokens[i].name, captured(r.tokens, segments, i)) {
				return
			}
		}
	}
}

// captured is what stands in a request at a token with a name.
func captured(tokens []pathToken, segments []string, i int) string {
	t := &tokens[i]
	if t.kind == restSegments {
		return strings.Join(segments[i:], "/")
	}
	return segments[i][len(t.prefix) : len(segments[i])-len(t.suffix)]
}

func (t *template) fill(tokens []pathToken, segments []string) string {
	if len(t.parts) == 1 && t.parts[0].token < 0 {
		return t.parts[0].text
	}
	var b strings.Builder
	size := 0
	for _, p := range t.parts {
		size += len(p.text)
		if p.token >= 0 {
			for _, s := range segments[p.token:] {
				size += len(s) + 1
			}
		}
	}
	b.Grow(size)
	for _, p := range t.parts {
		if p.token < 0 {
			b.WriteString(p.text)
			continue
		}
		if tokens[p.token].kind != restSegments {
			b.WriteString(captured(tokens, segments, p.token))
			continue
		}
		for j, s := range segments[p.token:] {
			if j > 0 {
				b.WriteByte('/')
			}
			b.WriteString(s)
		}
	}
	return b.String()
}

// httpHosts are the routes of one method, by host.
type httpHosts struct {
	exact map[string]*pathNode
	below map[string]*pathNode // by ".example.com"
	any   *pathNode
}

// roots yields the trees of paths that are about a host, the most specific first.
func (h *httpHosts) roots(host string) func(yield func(*pathNode) bool) {
	return func(yield func(*pathNode) bool) {
		if h == nil {
			return
		}
		if n := h.exact[host]; n != nil && !yield(n) {
			return
		}
		if len(h.below) > 0 {
			for suffix := parent(host); suffix != ""; suffix = parent(suffix) {
				if n := h.below[suffix]; n != nil && !yield(n) {
					return
				}
			}
		}
		if h.any != nil {
			yield(h.any)
		}
	}
}

// parent is what a host ends with behind its first label, as in ".example.com";
// "" if it has one label only.
func parent(host string) string {
	for i := 1; i < len(host); i++ {
		if host[i] == '.' {
			return host[i:]
		}
	}
	return ""
}

// find returns the most specific route below. Where two match, the one that is
// more specific has the narrower token where they first differ, and that is
// looked at first.
func (n *pathNode) find(segments []string) *HTTPRoute {
	if len(segments) == 0 {
		return n.route
	}
	if below := n.literals[segments[0]]; below != nil {
		if found := below.find(segments[1:]); found != nil {
			return found
		}
	}
	for i := range n.named {
		if c := &n.named[i]; c.token.matches(segments[0]) {
			if found := c.node.find(segments[1:]); found != nil {
				return found
			}
		}
	}
	if n.rest != nil && segments[len(segments)-1] != "" {
		return n.rest
	}
	return nil
}

// place returns the node at which a path ends, {name...} apart.
func (n *pathNode) place(tokens []pathToken) *pathNode {
	for i := range tokens {
		t := tokens[i]
		switch t.kind {
		case restSegments:
			return n
		case literalSegment:
			if n.literals == nil {
				n.literals, n.small = map[string]*pathNode{}, map[string][]*pathNode{}
			}
			if n.literals[t.prefix] == nil {
				below := &pathNode{}
				n.literals[t.prefix] = below
				small := strings.ToLower(t.prefix)
				n.small[small] = append(n.small[small], below)
			}
			n = n.literals[t.prefix]
		default:
			n = n.child(t)
		}
	}
	return n
}

func (n *pathNode) child(t pathToken) *pathNode {
	t.name = ""
	at := func(c namedNode) bool { return c.token == t }
	if i := slices.IndexFunc(n.named, at); i >= 0 {
		return n.named[i].node
	}
	around := func(t *pathToken) int { return len(t.prefix) + len(t.suffix) }
	i := slices.IndexFunc(n.named, func(c namedNode) bool { return around(&c.token) < around(&t) })
	if i < 0 {
		i = len(n.named)
	}
	n.named = slices.Insert(n.named, i, namedNode{t, &pathNode{}})
	return n.named[i].node
}

// CheckPathSegment returns why a decoded segment of a path is not judged, or
// nil: what it holds could be read in two ways, or end the segment.
func CheckPathSegment(segment string) error {
	if isDots(segment) {
		return errors.New("is . or .., which a server may resolve")
	}
	for i := 0; i < len(segment); {
		c := segment[i]
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(segment[i:])
			switch {
			case r == utf8.RuneError && size == 1:
				return errors.New("is not UTF-8")
			case r < 0xa0:
				return errors.New("holds a control character")
			}
			i += size
			continue
		}
		switch {
		case c == '/' || c == '\\':
			return errors.New("holds a slash or a backslash, which a server may take for a separator")
		case c == ';':
			return errors.New("holds a semicolon, behind which a server may read parameters")
		case c == '?' || c == '#':
			return errors.New("holds ? or #, which end a path")
		case c < ' ' || c == 0x7f:
			return errors.New("holds a control character")
		case c == '%' && isEscape(segment[i+1:]):
			return errors.New("is encoded twice")
		}
		i++
	}
	return nil
}

func isEscape(s string) bool { return len(s) >= 2 && isHex(s[0]) && isHex(s[1]) }

func isHex(c byte) bool { return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'f' }

// NormalHost is the host of a request (RFC 9110, section 7.2) in small letters
// and without its port. An address in brackets keeps them. What a server and a
// proxy could read differently is refused: anything but letters, digits, `-`,
// `_` and single dots between them.
func NormalHost(host string) (string, error) {
	name, port := host, ""
	if end := strings.IndexByte(host, ']'); strings.HasPrefix(host, "[") && end > 0 {
		name, port = host[:end+1], host[end+1:]
	} else if i := strings.IndexByte(host, ':'); i >= 0 {
		name, port = host[:i], host[i:]
	}
	if !isPort(port) {
		return "", errors.New("host has a port that is no number; leave it out")
	}
	if len(name) > maxHostBytes {
		return "", tooLong("host", len(name), maxHostBytes)
	}
	upper, before := false, byte('.')
	inner := name
	if strings.HasPrefix(name, "[") && len(name) > 1 {
		inner = name[1 : len(name)-1]
		addr, err := netip.ParseAddr(inner)
		if err != nil || !addr.Is6() || addr.Zone() != "" {
			return "", errors.New("host holds brackets around what is no IPv6 address")
		}
		return "[" + addr.String() + "]", nil
	}
	for i := range len(inner) {
		c := inner[i]
		switch {
		case c == '.' && before == '.':
			return "", errors.New("host has an empty label; write single dots between its labels")
		case 'A' <= c && c <= 'Z':
			upper = true
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
		default:
			return "", errors.New("host holds what no host name has; write letters, digits, - and dots")
		}
		before = c
	}
	if before == '.' {
		return "", errors.New("host is empty or ends with a dot; write it without")
	}
	if upper {
		return strings.ToLower(name), nil
	}
	return name, nil
}

const maxHostBytes = 255

func isPort(s string) bool {
	if s == "" {
		return true
	}
	for i := 1; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s[0] == ':' && len(s) > 1 && len(s) <= 6
}
