package policy

import (
	"fmt"
	"slices"
	"strings"
)

// pathToken is one segment of a route's path: a text, a name with text around
// it, or a name for all that follows.
type pathToken struct {
	kind pathTokenKind
	// prefix is the whole text of a literal, and what stands before a name.
	prefix, suffix string
	name           string
}

type pathTokenKind uint8

const (
	literalSegment pathTokenKind = iota
	namedSegment                 // {id}, {id}:merge
	restSegments                 // {path...}
)

// MaxPathSegments bounds a path of a request and of a route alike.
const MaxPathSegments = 64

// parseRoutePath splits the path of a route, or says what is wrong with it and
// what to write instead.
func parseRoutePath(path string) (tokens []pathToken, message, fix string) {
	rest, rooted := strings.CutPrefix(path, "/")
	if !rooted {
		return nil, fmt.Sprintf("the path %s does not start with a slash", quote(path)), "write one, such as /leads/{id}"
	}
	segments := strings.Split(rest, "/")
	if len(segments) > MaxPathSegments {
		return nil, fmt.Sprintf("the path has %d segments", len(segments)), fmt.Sprintf("write at most %d", MaxPathSegments)
	}
	seen := map[string]bool{}
	for i, segment := range segments {
		token, message, fix := parsePathToken(segment)
		last := i == len(segments)-1
		switch {
		case message != "":
			return nil, message, fix
		case segment == "" && !last:
			return nil, "the path has an empty segment, which no request that is judged has", "write one slash between segments"
		case token.kind == restSegments && !last:
			return nil, fmt.Sprintf("the path goes on behind {%s...}, which takes all that follows", token.name), "put it last"
		case token.name != "" && seen[token.name]:
			return nil, fmt.Sprintf("the path has the name %s twice", quote(token.name)), "give each part a name of its own"
		}
		seen[token.name] = true
		tokens = append(tokens, token)
	}
	return tokens, "", ""
}

func parsePathToken(segment string) (token pathToken, message, fix string) {
	open := strings.IndexByte(segment, '{')
	end := strings.IndexByte(segment, '}')
	if open < 0 && end < 0 {
		message, fix = literalFault(segment, segment)
		return pathToken{prefix: segment}, message, fix
	}
	if open < 0 || end < open || strings.ContainsAny(segment[end+1:], "{}") || strings.IndexByte(segment[open+1:end], '{') >= 0 {
		return token, fmt.Sprintf("the segment %s is not text with one {name} in it", quote(segment)), "write one name in braces in a segment"
	}
	token = pathToken{kind: namedSegment, prefix: segment[:open], suffix: segment[end+1:], name: segment[open+1 : end]}
	if name, all := strings.CutSuffix(token.name, "..."); all {
		token.kind, token.name = restSegments, name
		if token.prefix != "" || token.suffix != "" {
			return token, fmt.Sprintf("{%s...} has text beside it", name), "write it as a segment of its own"
		}
	}
	if !isPathName(token.name) {
		return token, fmt.Sprintf("the name %s cannot be used", quote(token.name)), "write letters, digits and _, the first a letter"
	}
	if message, fix = literalFault(segment, token.prefix+"x"+token.suffix); message != "" {
		return token, message, fix
	}
	return token, "", ""
}

func isPathName(name string) bool {
	if name == "" || len(name) > 64 {
		return false
	}
	for i := range len(name) {
		c := name[i]
		letter := 'a' <= c|0x20 && c|0x20 <= 'z'
		if !letter && (i == 0 || c != '_' && (c < '0' || c > '9')) {
			return false
		}
	}
	return true
}

// literalFault says why no request that is judged has a segment like the one
// that was written. witness is one that it would match.
func literalFault(written, witness string) (message, fix string) {
	if witness == "" {
		return "", "" // a slash at the end
	}
	if strings.IndexByte(witness, '*') >= 0 {
		return fmt.Sprintf("the segment %s holds a *", quote(written)), "write {name} for one segment, {name...} for all that follow"
	}
	if err := CheckPathSegment(witness); err != nil {
		return fmt.Sprintf("no request has the segment %s: it %v", quote(written), err), "write the path as it is after decoding"
	}
	return "", ""
}

// matches tells whether a segment of a request is what the token says.
func (t *pathToken) matches(segment string) bool {
	if t.kind == literalSegment {
		return segment == t.prefix
	}
	return len(segment) > len(t.prefix)+len(t.suffix) &&
		strings.HasPrefix(segment, t.prefix) && strings.HasSuffix(segment, t.suffix)
}

// matchesFolded is matches without regard to capitals.
func (t *pathToken) matchesFolded(segment string) bool {
	return t.kind == namedSegment && len(segment) > len(t.prefix)+len(t.suffix) &&
		strings.EqualFold(segment[:len(t.prefix)], t.prefix) && strings.EqualFold(segment[len(segment)-len(t.suffix):], t.suffix)
}

// relation says how the requests of two patterns a and b lie to each other.
type relation struct {
	meet     bool // some request matches both
	within   bool // what a matches, b matches too
	contains bool // what b matches, a matches too
}

//nolint:gochecknoglobals // Constants; Go has no constant structs.
var (
	disjoint = relation{}
	equal    = relation{meet: true, within: true, contains: true}
)

func (r relation) and(s relation) relation {
	if !r.meet || !s.meet {
		return disjoint
	}
	return relation{true, r.within && s.within, r.contains && s.contains}
}

func segmentRelation(a, b *pathToken) relation {
	switch {
	case a.kind == literalSegment && b.kind == literalSegment:
		if a.prefix == b.prefix {
			return equal
		}
		return disjoint
	case a.kind == literalSegment:
		return relation{meet: b.matches(a.prefix), within: b.matches(a.prefix)}
	case b.kind == literalSegment:
		return relation{meet: a.matches(b.prefix), contains: a.matches(b.prefix)}
	}
	// Between prefix and suffix there is always room for one character more, so
	// that two of them meet where their ends agree.
	within := strings.HasPrefix(a.prefix, b.prefix) && strings.HasSuffix(a.suffix, b.suffix)
	contains := strings.HasPrefix(b.prefix, a.prefix) && strings.HasSuffix(b.suffix, a.suffix)
	meet := (strings.HasPrefix(a.prefix, b.prefix) || strings.HasPrefix(b.prefix, a.prefix)) &&
		(strings.HasSuffix(a.suffix, b.suffix) || strings.HasSuffix(b.suffix, a.suffix))
	return relation{meet, within, contains}
}

func pathRelation(a, b []pathToken) relation {
	all := equal
	for i := 0; ; i++ {
		switch {
		case i == len(a) || i == len(b):
			if len(a) != len(b) {
				return disjoint
			}
			return all
		case a[i].kind == restSegments && b[i].kind == restSegments:
			return all
		case a[i].kind == restSegments:
			return all.and(restRelation(b[i:]))
		case b[i].kind == restSegments:
			r := restRelation(a[i:])
			return all.and(relation{r.meet, r.contains, r.within})
		}
		if all = all.and(segmentRelation(&a[i], &b[i])); !all.meet {
			return disjoint
		}
	}
}

// restRelation is that of {name...} to segments, which it contains unless they
// end with a slash.
func restRelation(segments []pathToken) relation {
	if last := segments[len(segments)-1]; last.kind == literalSegment && last.prefix == "" {
		return disjoint
	}
	return relation{meet: true, contains: true}
}

// hostPattern is what a route says of the host: any, one, or all below one.
type hostPattern struct {
	exact string
	below string // ".example.com"
}

// parseHost reads a host of a route.
func parseHost(text string) (p hostPattern, message, fix string) {
	host := text
	if rest, found := strings.CutPrefix(text, "*."); found {
		host = rest
		p.below = "." + rest
	} else {
		p.exact = text
	}
	bracketed := strings.HasPrefix(host, "[")
	normal, err := NormalHost(host)
	switch {
	case text == "*":
		return p, "the host * is every host", "leave hosts out to mean every host"
	case strings.IndexByte(host, '*') >= 0:
		return p, fmt.Sprintf("the host %s has a * in another place than at its start", quote(text)), "write *.example.com for every host below example.com"
	case err != nil || bracketed && p.below != "":
		return p, fmt.Sprintf("no request has the host %s", quote(text)), "write it as in crm.example.com"
	case normal != host:
		right := strings.TrimSuffix(text, host) + normal
		return p, fmt.Sprintf("the host %s is written %s", quote(text), quote(right)), "write it in small letters, without a port"
	}
	return p, "", ""
}

func (p hostPattern) String() string {
	switch {
	case p.exact != "":
		return p.exact
	case p.below != "":
		return "*" + p.below
	default:
		return "any host"
	}
}

func hostRelation(a, b hostPattern) relation {
	contains := func(p, q hostPattern) bool {
		switch {
		case p == q, p == hostPattern{}:
			return true
		case p.below == "" || q == hostPattern{}:
			return false
		case q.exact != "":
			return len(q.exact) > len(p.below) && strings.HasSuffix(q.exact, p.below)
		default:
			return strings.HasSuffix(q.below, p.below)
		}
	}
	r := relation{within: contains(b, a), contains: contains(a, b)}
	// Hosts lie within each other or apart, as suffixes do.
	r.meet = r.within || r.contains
	return r
}

// exampleOf is a path that both match, for the error that says so.
func exampleOf(a, b []pathToken) string {
	var out strings.Builder
	for i := range max(len(a), len(b)) {
		out.WriteByte('/')
		x, y := tokenAt(a, i), tokenAt(b, i)
		switch {
		case x.kind == literalSegment:
			out.WriteString(x.prefix)
		case y.kind == literalSegment:
			out.WriteString(y.prefix)
		default:
			out.WriteString(slices.MaxFunc([]string{x.prefix, y.prefix}, byLength))
			out.WriteByte('x')
			out.WriteString(slices.MaxFunc([]string{x.suffix, y.suffix}, byLength))
		}
	}
	return out.String()
}

func byLength(a, b string) int { return len(a) - len(b) }

// tokenAt is the token at a place; {name...} stands at every further one.
func tokenAt(tokens []pathToken, i int) pathToken { return tokens[min(i, len(tokens)-1)] }
