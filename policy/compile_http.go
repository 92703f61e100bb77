package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	policyv1 "github.com/kelpie-authz/kelpie/gen/kelpie/policy/v1"
)

// compileHTTP compiles what the policy says of HTTP requests, if anything.
func (c *compiler) compileHTTP() {
	doc := c.doc.GetHttp()
	if doc == nil || len(c.src.docs) > 0 && c.src.places[httpSection] == nil {
		return // not there, or no mapping, which was told
	}
	c.canon.text(httpSection)
	h := &HTTP{
		AgentFrom: c.sources("agent_from", doc.GetAgentFrom()), SubjectFrom: c.sources("subject_from", doc.GetSubjectFrom()),
		TrustedHops:  int(doc.GetSourceIp().GetTrustedHops()),
		PeerAppended: doc.GetSourceIp() == nil || doc.GetSourceIp().PeerAppended == nil || doc.GetSourceIp().GetPeerAppended(),
		BodiesSent:   doc.GetRequestBodies() == "sent",
		methods:      map[string]*httpHosts{},
	}
	c.canon.number(int64(h.TrustedHops))
	c.canon.flag(h.PeerAppended)
	c.canon.flag(h.BodiesSent)
	switch {
	case len(doc.GetRoutes()) == 0:
		c.lack(httpSection, []string{httpSection}, "http has no routes, so that every request is denied", "write at least one under routes")
	case len(doc.GetAgentFrom()) == 0 && !c.isFaulty(httpSection+"/agent_from"):
		c.lack(httpSection, []string{httpSection}, "http does not say where the agent's id comes from", "write agent_from, such as [{from: principal}]")
	}
	c.compileRoutes(doc, h)
	h.headers = h.namedHeaders()
	c.s.http = h
}

// lack is fault for what is not there, which may only be what another fault of
// the rule keeps from being read.
func (c *compiler) lack(rule string, path []string, message, fix string) {
	if !c.isFaulty(rule) {
		c.fault(rule, path, message, fix)
	}
}

func (c *compiler) isFaulty(rule string) bool {
	return slices.ContainsFunc(c.r.errs, func(e *Error) bool { return e.Rule == rule })
}

// maxRoutes bounds the routes, counted once for each host and method: the hosts
// of two routes are compared each with each.
const maxRoutes = 50_000

func (c *compiler) compileRoutes(doc *policyv1.HTTP, h *HTTP) {
	names := sortedKeys(doc.GetRoutes())
	c.canon.number(int64(len(names)))
	for _, name := range names {
		c.canon.text(name)
		if r := c.route(name, doc.GetRoutes()[name]); r != nil {
			h.routes = append(h.routes, r)
		}
	}
	total := 0
	for _, r := range h.routes {
		total += len(r.hosts) * len(r.methods)
	}
	if total > maxRoutes {
		c.fault(httpSection, []string{httpSection}, fmt.Sprintf("routes, counted once for each host and method, are %d", total),
			fmt.Sprintf("write at most %d; leave hosts out where every host is meant", maxRoutes))
		return
	}
	c.compareRoutes(h.routes)
	for _, r := range h.routes {
		h.capitals = h.capitals || slices.ContainsFunc(r.tokens, func(t pathToken) bool { return hasCapital(t.prefix + t.suffix) })
		for _, method := range r.methods {
			h.file(r, method)
		}
	}
}

// sources compiles places where an id can come from.
func (c *compiler) sources(key string, docs []*policyv1.IdentitySource) []IdentitySource {
	c.canon.number(int64(len(docs)))
	out := make([]IdentitySource, 0, len(docs))
	for i, doc := range docs {
		path := []string{httpSection, key, fmt.Sprint(i)}
		s := IdentitySource{Kind: sourceKind(doc.GetFrom()), Name: doc.GetName(), Claim: doc.GetClaim(), Hops: int(doc.GetHops())}
		if message, fix := s.lack(); message != "" {
			c.lack(httpSection+"/"+key, path, message, fix)
		} else if message, fix = s.fault(); message != "" {
			c.fault(httpSection+"/"+key, path, message, fix)
		}
		c.canon.text(doc.GetFrom())
		c.canon.text(s.Name)
		c.canon.list(s.Claim)
		c.canon.number(int64(s.Hops))
		out = append(out, s)
	}
	return out
}

func sourceKind(from string) SourceKind {
	switch from {
	case "principal":
		return SourcePrincipal
	case "forwarded_client_cert":
		return SourceForwardedClientCert
	case "jwt":
		return SourceJWT
	case "header":
		return SourceHeader
	case "context_extension":
		return SourceContextExtension
	default:
		return SourceNone
	}
}

func (s *IdentitySource) isNamed() bool {
	return s.Kind == SourceJWT || s.Kind == SourceHeader || s.Kind == SourceContextExtension
}

// lack says what a source has too little of.
func (s *IdentitySource) lack() (message, fix string) {
	switch {
	case s.isNamed() && s.Name == "":
		return "the source has no name", "write name: the header, the key, or the provider's payload_in_metadata"
	case s.Kind == SourceJWT && len(s.Claim) == 0:
		return "the source does not say which claim", "write claim, such as [client_id]"
	default:
		return "", ""
	}
}

// fault says what a source has too much of.
func (s *IdentitySource) fault() (message, fix string) {
	switch {
	case s.Kind == SourceNone:
		return "", "" // told with the key
	case !s.isNamed() && s.Name != "":
		return "the source has a name that nothing uses", "remove name"
	case s.Kind != SourceJWT && len(s.Claim) > 0:
		return "the source has a claim, and is no token", "remove claim, or write from: jwt"
	case s.Kind != SourceForwardedClientCert && s.Hops > 0:
		return "the source has hops, and is not forwarded_client_cert", "remove hops"
	case s.Kind == SourceHeader:
		return headerFault(s.Name)
	default:
		return "", ""
	}
}

// headerFault says why a header names nobody.
func headerFault(name string) (message, fix string) {
	switch {
	case !isHeaderName(name):
		return fmt.Sprintf("%s is no name of a header", quote(name)), "write it in small letters, such as x-agent-id"
	case name == "x-forwarded-client-cert":
		return "the header holds more than an id", "write from: forwarded_client_cert"
	case name == "authorization", name == "proxy-authorization", name == "cookie":
		return fmt.Sprintf("the header %s holds a secret, and an id is written to the log", name), "have the proxy check it, and write from: jwt"
	case strings.HasPrefix(name, "x-kelpie-"):
		return "headers that start with x-kelpie- are Kelpie's own", "write another name"
	default:
		return "", ""
	}
}

func isHeaderName(name string) bool {
	for i := range len(name) {
		c := name[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return name != "" && name[0] != '-'
}

// route compiles one route; nil if its path is of no use.
func (c *compiler) route(name string, doc *policyv1.HTTPRoute) *HTTPRoute {
	label, path := httpSection+"/"+name, []string{httpRoutes, name}
	r := &HTTPRoute{ID: label, methods: sortedSet(doc.GetMethods()), QueryLists: sortedSet(doc.GetQueryLists()), BodyUnseen: doc.GetBody() == "unseen"}
	if slices.Contains(r.methods, "CONNECT") {
		c.fault(label, sub(path, "methods"), "a CONNECT has no path, and what goes through its tunnel is not seen", "remove it")
	}
	for i, text := range doc.GetHosts() {
		host, message, fix := parseHost(text)
		if message != "" && text != "" { // an empty one was told
			c.fault(label, sub(path, "hosts", fmt.Sprint(i)), message, fix)
		}
		r.hosts = append(r.hosts, host)
	}
	if len(r.hosts) == 0 {
		r.hosts = []hostPattern{{}}
	}
	c.canon.list(sortedSet(doc.GetHosts()))
	c.canon.list(r.methods)
	c.canon.text(doc.GetPath())
	c.canon.text(doc.GetAction())
	c.canon.text(doc.GetResource())
	c.canon.list(r.QueryLists)
	c.canon.flag(r.BodyUnseen)
	if doc.GetPath() == "" {
		return nil // told when the document was read
	}
	var message, fix string
	if r.tokens, message, fix = parseRoutePath(doc.GetPath()); message != "" {
		c.fault(label, sub(path, "path"), message, fix)
		return nil
	}
	used := map[int]bool{}
	r.action = c.template(label, sub(path, "action"), doc.GetAction(), actionPattern, r.tokens, used)
	r.resource = c.template(label, sub(path, "resource"), doc.GetResource(), resourcePattern, r.tokens, used)
	for i := range r.tokens {
		if r.tokens[i].name != "" && !used[i] {
			r.loose = append(r.loose, i)
		}
	}
	c.headers(label, path, doc, r)
	return r
}

// headers compiles the headers that are parameters.
func (c *compiler) headers(label string, path []string, doc *policyv1.HTTPRoute, r *HTTPRoute) {
	taken := map[string]string{}
	for _, i := range r.loose {
		taken[r.tokens[i].name] = "a part of the path"
	}
	c.canon.number(int64(len(doc.GetHeaders())))
	for _, name := range sortedKeys(doc.GetHeaders()) {
		header := doc.GetHeaders()[name]
		c.canon.text(name)
		c.canon.text(header)
		at := sub(path, "headers", name)
		if what, twice := taken[name]; twice {
			c.fault(label, at, fmt.Sprintf("the parameter %s is %s too, so that every request would be refused", quote(name), what),
				"give one of them another name")
		}
		switch header {
		case "authorization", "proxy-authorization", "cookie":
			c.fault(label, at, fmt.Sprintf("the header %s holds a secret, and parameters are read by rules and shown to approvers", header), "remove it")
		}
		r.Headers = append(r.Headers, HeaderParameter{name, header})
	}
}

// template compiles a text that may hold names of the path in braces, and notes
// the tokens that it uses.
func (c *compiler) template(label string, path []string, text string, kind patternKind, tokens []pathToken, used map[int]bool) template {
	var t template
	witness := &strings.Builder{}
	for rest := text; rest != ""; {
		before, name, after, braced := cutBraces(rest)
		if strings.IndexByte(before, '}') >= 0 || strings.IndexByte(before, '{') >= 0 {
			c.fault(label, path, quote(text)+" has a brace without its other one", "write {name} for a part of the path")
			return template{parts: []templatePart{{text, -1}}}
		}
		if before != "" {
			t.parts = append(t.parts, templatePart{before, -1})
			witness.WriteString(before)
		}
		rest = after
		if !braced {
			continue
		}
		i := slices.IndexFunc(tokens, func(tok pathToken) bool { return tok.name != "" && tok.name == strings.TrimSuffix(name, "...") })
		if i < 0 {
			c.fault(label, path, fmt.Sprintf("the path has no part named %s", quote(name)), "write {"+cmp.Or(name, "name")+"} into the path, or remove it here")
			return template{parts: []templatePart{{text, -1}}}
		}
		used[i] = true
		t.parts = append(t.parts, templatePart{"", i})
		witness.WriteByte('x')
	}
	if len(text) > kind.maxBytes() {
		return t // told when the document was read
	}
	if err := kind.check(witness.String()); err != nil {
		why, fix, _ := strings.Cut(err.Error(), "; ")
		c.fault(label, path, fmt.Sprintf("no well-formed %s comes out of %s: its %s", kind, quote(text), why), fix)
	}
	if strings.IndexByte(witness.String(), '*') >= 0 {
		c.fault(label, path, fmt.Sprintf("%s holds a *, and a request's %s is no pattern", quote(text), kind), "write what is asked, with {name} for what varies")
	}
	return t
}

// cutBraces cuts a text at its first {name}; before holds a brace where another
// one is missing.
func cutBraces(text string) (before, name, after string, braced bool) {
	before, rest, opened := strings.Cut(text, "{")
	if !opened {
		return text, "", "", false
	}
	name, after, braced = strings.Cut(rest, "}")
	if !braced {
		return text, "", "", false
	}
	return before, name, after, true
}

// compareTwo notes two routes that share requests with neither being the more
// specific one, and tells whether it did.
func (c *compiler) compareTwo(a, b *HTTPRoute) bool {
	paths := pathRelation(a.tokens, b.tokens)
	method := firstShared(a.methods, b.methods)
	if !paths.meet || method == "" {
		return false
	}
	for _, x := range a.hosts {
		for _, y := range b.hosts {
			r := hostRelation(x, y).and(paths)
			if !r.meet || r.within != r.contains {
				continue
			}
			host := x
			if hostRelation(x, y).contains {
				host = y
			}
			what, fix := "neither is more specific", "narrow one of them, by host, method or path"
			if r.within {
				what, fix = "they match the same requests", "remove one of them, or give each its own hosts, methods or path"
			}
			c.fault(b.ID, []string{httpRoutes, strings.TrimPrefix(b.ID, httpSection+"/"), "path"},
				fmt.Sprintf("shares requests with %s, such as %s %s on %s, and %s", a.ID, method, exampleOf(a.tokens, b.tokens), host, what),
				fix)
			return true
		}
	}
	return false
}

func firstShared(a, b []string) string {
	for _, x := range a {
		if slices.Contains(b, x) {
			return x
		}
	}
	return ""
}

// file puts a route where requests of a method find it.
func (h *HTTP) file(r *HTTPRoute, method string) {
	hosts := h.methods[method]
	if hosts == nil {
		hosts = &httpHosts{exact: map[string]*pathNode{}, below: map[string]*pathNode{}}
		h.methods[method] = hosts
	}
	for _, host := range r.hosts {
		n := hosts.root(host).place(r.tokens)
		if r.tokens[len(r.tokens)-1].kind == restSegments {
			n.rest = r
		} else {
			n.route = r
		}
	}
}

// root is the root of the paths of one host.
func (h *httpHosts) root(host hostPattern) *pathNode {
	switch {
	case host.exact != "":
		if h.exact[host.exact] == nil {
			h.exact[host.exact] = &pathNode{}
		}
		return h.exact[host.exact]
	case host.below != "":
		if h.below[host.below] == nil {
			h.below[host.below] = &pathNode{}
		}
		return h.below[host.below]
	default:
		if h.any == nil {
			h.any = &pathNode{}
		}
		return h.any
	}
}

// namedHeaders are the headers that sources and routes name.
func (h *HTTP) namedHeaders() map[string]bool {
	names := map[string]bool{}
	for _, s := range slices.Concat(h.AgentFrom, h.SubjectFrom) {
		if s.Kind == SourceHeader {
			names[s.Name] = true
		}
	}
	for _, r := range h.routes {
		for _, p := range r.Headers {
			names[p.Header] = true
		}
	}
	return names
}
