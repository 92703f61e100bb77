package policy_test

import (
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kelpie-authz/kelpie/policy"
)

// httpTable is a policy whose routes lie within each other in every way.
const httpTable = `http:
  agent_from: [{from: principal}]
  routes:
    root: {methods: [GET], path: /, action: read, resource: root}
    any: {methods: [GET], path: "/{all...}", action: read, resource: "any/{all...}"}
    any-slash: {methods: [GET], path: "/{dir}/", action: list, resource: "dir/{dir}"}
    leads: {methods: [GET, POST], path: /leads, action: list, resource: leads}
    leads-slash: {methods: [GET], path: /leads/, action: list, resource: leads-slash}
    lead: {methods: [GET], path: "/leads/{id}", action: read, resource: "leads/{id}"}
    lead-new: {methods: [GET], path: /leads/new, action: read, resource: leads-new}
    lead-merge: {methods: [GET], path: "/leads/{id}:merge", action: merge, resource: "leads/{id}"}
    lead-vip-merge: {methods: [GET], path: "/leads/vip-{id}:merge", action: merge, resource: "vips/{id}"}
    lead-owner: {methods: [GET], path: "/leads/{id}/owner", action: "owner.{id}", resource: "leads/{id}/owner"}
    lead-below: {methods: [GET], path: "/leads/{id}/{below...}", action: read, resource: "leads/{id}/{below...}"}
    vip: {methods: [GET], path: "/vips/vip-{id}", action: read, resource: "vips/{id}"}
    vip-a: {methods: [GET], path: "/vips/vip-a{id}", action: read, resource: "vips/a-{id}"}
    files: {methods: [GET], path: "/files/{path...}", action: read, resource: "files/{path}"}
    loose: {methods: [PUT], path: "/a/{one}/{two}/{rest...}", action: "put", resource: "a/{two}"}
`

// httpHosts is a policy whose hosts lie within each other.
const httpHosts = `http:
  agent_from: [{from: principal}]
  routes:
    any: {methods: [GET], path: "/{all...}", action: read, resource: "any/{all...}"}
    any-slash: {methods: [GET], path: "/{dir}/", action: list, resource: "dir/{dir}"}
    below: {hosts: ["*.example.com"], methods: [GET], path: "/{all...}", action: read, resource: "below/{all...}"}
    below-leads: {hosts: ["*.example.com"], methods: [GET], path: "/leads/{id...}", action: read, resource: "below/leads/{id...}"}
    deeper: {hosts: ["*.eu.example.com"], methods: [GET], path: "/leads/{id}", action: read, resource: "eu/{id}"}
    crm: {hosts: [crm.example.com], methods: [GET], path: "/leads/{id}", action: read, resource: "crm/{id}"}
    six: {hosts: ["[fd00::1]"], methods: [GET], path: /, action: read, resource: six}
    two: {hosts: [a.test, "*.b.test"], methods: [PATCH], path: /x, action: update, resource: x}
`

func TestHTTPRoutePaths(t *testing.T) {
	t.Parallel()
	checkRoutes(t, httpTable, []routed{
		{"GET a.test /", "root", "read", "root"},
		{"GET a.test /x", "any", "read", "any/x"},
		{"GET a.test /x/y/z", "any", "read", "any/x/y/z"},
		{"GET a.test /x/", "any-slash", "list", "dir/x"},
		{"GET a.test /x/y/", "", "", ""},
		{"GET a.test /leads", "leads", "list", "leads"},
		{"POST a.test /leads", "leads", "list", "leads"},
		{"PUT a.test /leads", "", "", ""},
		{"get a.test /leads", "", "", ""},
		{"HEAD a.test /leads", "", "", ""},
		{"GET a.test /Leads", "any", "read", "any/Leads"},
		{"GET a.test /leads/", "leads-slash", "list", "leads-slash"},
		{"GET a.test /leads/42", "lead", "read", "leads/42"},
		{"GET a.test /leads/new", "lead-new", "read", "leads-new"},
		{"GET a.test /leads/News", "lead", "read", "leads/News"},
		{"GET a.test /leads/42:merge", "lead-merge", "merge", "leads/42"},
		{"GET a.test /leads/:merge", "lead", "read", "leads/:merge"},
		{"GET a.test /leads/vip-7:merge", "lead-vip-merge", "merge", "vips/7"},
		{"GET a.test /leads/vip-:merge", "lead-merge", "merge", "leads/vip-"},
		{"GET a.test /leads/42/owner", "lead-owner", "owner.42", "leads/42/owner"},
		{"GET a.test /leads/42/notes", "lead-below", "read", "leads/42/notes"},
		{"GET a.test /leads/42/owner/history", "lead-below", "read", "leads/42/owner/history"},
		{"GET a.test /leads/42/", "", "", ""},
		// Nothing lies below leads/new and below {id}:merge: the wider token is looked at again.
		{"GET a.test /leads/new/owner", "lead-owner", "owner.new", "leads/new/owner"},
		{"GET a.test /leads/vip-7:merge/notes", "lead-below", "read", "leads/vip-7:merge/notes"},
		{"GET a.test /vips/vip-7", "vip", "read", "vips/7"},
		{"GET a.test /vips/vip-a", "vip", "read", "vips/a"},
		{"GET a.test /vips/vip-a7", "vip-a", "read", "vips/a-7"},
		{"GET a.test /vips/vip-", "any", "read", "any/vips/vip-"},
		{"GET a.test /vips/vip-7/x", "any", "read", "any/vips/vip-7/x"},
		{"GET a.test /files", "any", "read", "any/files"},
		{"GET a.test /files/", "any-slash", "list", "dir/files"},
		{"GET a.test /files/a", "files", "read", "files/a"},
		{"GET a.test /files/a/b", "files", "read", "files/a/b"},
		{"GET a.test /files/a/", "", "", ""},
		{"GET a.test /files/é/ü", "files", "read", "files/é/ü"},
		{"PUT a.test /a/1/2/3/4", "loose", "put", "a/2"},
		{"PUT a.test /a/1/2", "", "", ""},
	})
}

func TestHTTPRouteHosts(t *testing.T) {
	t.Parallel()
	checkRoutes(t, httpHosts, []routed{
		{"GET crm.example.com /leads/42", "crm", "read", "crm/42"},
		{"GET crm.example.com /leads/42/x", "below-leads", "read", "below/leads/42/x"},
		{"GET crm.example.com /x", "below", "read", "below/x"},
		{"GET crm.example.com /x/", "any-slash", "list", "dir/x"},
		{"GET www.example.com /leads/42", "below-leads", "read", "below/leads/42"},
		{"GET a.b.example.com /x", "below", "read", "below/x"},
		{"GET a.eu.example.com /leads/42", "deeper", "read", "eu/42"},
		{"GET a.b.eu.example.com /leads/42", "deeper", "read", "eu/42"},
		{"GET a.eu.example.com /leads/42/x", "below-leads", "read", "below/leads/42/x"},
		{"GET a.eu.example.com /x", "below", "read", "below/x"},
		{"GET eu.example.com /leads/42", "below-leads", "read", "below/leads/42"},
		{"GET example.com /x", "any", "read", "any/x"},
		{"GET notexample.com /x", "any", "read", "any/x"},
		{"GET crm.example.com.test /leads/42", "any", "read", "any/leads/42"},
		{"GET localhost /x", "any", "read", "any/x"},
		{"GET [fd00::1] /", "six", "read", "six"},
		{"GET [fd00::2] /", "", "", ""},
		{"PATCH a.test /x", "two", "update", "x"},
		{"PATCH c.b.test /x", "two", "update", "x"},
		{"PATCH b.test /x", "", "", ""},
		{"PATCH a.a.test /x", "", "", ""},
	})
}

// routed is a request, and what must come of it: no route if want is empty.
type routed struct{ request, want, action, resource string }

func checkRoutes(t *testing.T, text string, cases []routed) {
	t.Helper()
	h := compile(t, text).HTTP()
	for _, tt := range cases {
		method, host, segments := httpRequest(t, tt.request)
		r := h.Route(method, host, segments)
		if r == nil {
			if tt.want != "" {
				t.Errorf("%s: no route, want %s", tt.request, tt.want)
			}
			continue
		}
		action, resource := r.Call(segments)
		if r.ID != "http/"+tt.want || action != tt.action || resource != tt.resource {
			t.Errorf("%s: %s, %s on %s; want %s, %s on %s", tt.request, r.ID, action, resource, tt.want, tt.action, tt.resource)
		}
	}
}

// httpRequest splits "METHOD HOST PATH".
func httpRequest(t *testing.T, text string) (method, host string, segments []string) {
	t.Helper()
	words := strings.SplitN(text, " ", 3)
	if len(words) != 3 || words[2][0] != '/' {
		t.Fatalf("%q is not method, host and path", text)
	}
	return words[0], words[1], strings.Split(words[2][1:], "/")
}

func TestHTTPRouteBounds(t *testing.T) {
	t.Parallel()
	h := compile(t, httpText(`+{methods: [GET], path: "/{all...}", action: read, resource: a}`)).HTTP()
	many := slices.Repeat([]string{"a"}, 65)
	if h.Route("GET", "a", many[:64]) == nil {
		t.Error("a path of 64 segments has no route")
	}
	if h.Route("GET", "a", many) != nil || h.Route("GET", "a", nil) != nil || h.Route("GET", "a", []string{""}) != nil {
		t.Error("a path of 65 segments, none, or an empty one has a route")
	}
}

func TestHTTPPathParameters(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		path, action, resource, request string
		want                            map[string]string
	}{
		{"/a/{one}/{two}/{rest...}", "put", "a/{two}", "/a/1/2/3/4", map[string]string{"one": "1", "rest": "3/4"}},
		{"/a/{one}/{two}/{rest...}", "{one}", "{two}/{rest...}", "/a/1/2/3/4", nil},
		{"/a/{one}/{two}/{rest...}", "{one}", "{two}/{rest}", "/a/1/2/3/4", nil},
		{"/a/x-{one}:merge", "read", "a", "/a/x-é:merge", map[string]string{"one": "é"}},
		{"/a/b", "read", "a", "/a/b", nil},
	} {
		text := httpText(`+{methods: [GET], path: "` + tt.path + `", action: "` + tt.action + `", resource: "` + tt.resource + `"}`)
		_, _, segments := httpRequest(t, "GET a "+tt.request)
		r := compile(t, text).HTTP().Route("GET", "a", segments)
		if r == nil {
			t.Fatalf("%s is not of %s", tt.request, tt.path)
		}
		got := maps.Collect(r.PathParameters(segments))
		if len(got) > 0 || tt.want != nil {
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("%s of %s (-want +got):\n%s", tt.request, tt.path, diff)
			}
		}
		for range r.PathParameters(segments) {
			break // a loop may end early
		}
	}
}

func TestHTTPSources(t *testing.T) {
	t.Parallel()
	h := compile(t, httpVersionBase).HTTP()
	want := []policy.IdentitySource{
		{Kind: policy.SourcePrincipal},
		{Kind: policy.SourceJWT, Name: "jwt", Claim: []string{"act", "sub"}},
		{Kind: policy.SourceForwardedClientCert, Hops: 1},
	}
	if diff := cmp.Diff(want, h.AgentFrom); diff != "" {
		t.Errorf("agent_from (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]policy.IdentitySource{{Kind: policy.SourceHeader, Name: "x-user"}}, h.SubjectFrom); diff != "" {
		t.Errorf("subject_from (-want +got):\n%s", diff)
	}
	if h.TrustedHops != 2 || !h.PeerAppended || !h.BodiesSent {
		t.Errorf("hops %d, peer appended %v, bodies sent %v", h.TrustedHops, h.PeerAppended, h.BodiesSent)
	}
	r := h.Route("GET", "a.example.com", []string{"leads", "42"})
	if r == nil || !slices.Equal(r.QueryLists, []string{"sort", "tag"}) || r.BodyUnseen ||
		!slices.Equal(r.Headers, []policy.HeaderParameter{{Name: "tenant", Header: "x-tenant"}, {Name: "trace", Header: "x-trace"}}) {
		t.Errorf("the route is %+v", r)
	}
	if r = h.Route("POST", "a", []string{"leads"}); r == nil || !r.BodyUnseen {
		t.Errorf("the route is %+v", r)
	}
	plain := compile(t, httpText(`@{from: context_extension, name: agent}`)).HTTP()
	if plain.TrustedHops != 0 || !plain.PeerAppended || plain.BodiesSent || len(plain.SubjectFrom) != 0 || plain.AgentFrom[0].Kind != policy.SourceContextExtension {
		t.Errorf("the defaults are %+v", plain)
	}
	if h := compile(t, strings.Replace(httpVersionBase, "peer_appended: true", "peer_appended: false", 1)).HTTP(); h.PeerAppended {
		t.Error("peer_appended: false is not read")
	}
}

// TestHTTPAmbiguity makes two routes that share requests with neither more
// specific, and holds the error to an example that each takes by itself.
func TestHTTPAmbiguity(t *testing.T) {
	t.Parallel()
	example := regexp.MustCompile(`such as ([A-Z]+) (/.*) on (.*), and (neither is more specific|they match the same requests)`)
	for _, tt := range [][2]string{
		{"methods: [GET], path: /a", "methods: [GET], path: /a"},
		{"methods: [GET], path: /", "methods: [GET, POST], path: /"},
		{"methods: [GET], path: '/{a}'", "methods: [PUT, GET], path: '/{b}'"},
		{"methods: [GET], path: '/{a...}'", "methods: [GET], path: '/{b...}'"},
		{"methods: [GET], path: '/{a}/b'", "methods: [GET], path: '/a/{b}'"},
		{"methods: [GET], path: '/p{a}'", "methods: [GET], path: '/{b}s'"},
		{"methods: [GET], path: '/ab{a}c'", "methods: [GET], path: '/a{b}bc'"},
		{"methods: [GET], path: '/ab{a}ba'", "methods: [GET], path: '/aba{b}a'"},
		{"methods: [GET], path: '/{a}/b/{c...}'", "methods: [GET], path: '/a/{b}/c/d'"},
		{"methods: [GET], path: '/{a}/b'", "methods: [GET], path: '/a/{c...}'"},
		{"methods: [GET], path: '/{a}/'", "methods: [GET], path: '/{c}/'"},
		{"methods: [GET], path: /a, hosts: [a.test]", "methods: [GET], path: /a, hosts: [b.test, a.test]"},
		{"methods: [GET], path: '/{a}', hosts: [a.test]", "methods: [GET], path: /a"},
		{"methods: [GET], path: '/{a}', hosts: [a.b.test]", "methods: [GET], path: /a, hosts: ['*.test']"},
		{"methods: [GET], path: '/{a...}', hosts: ['*.b.test']", "methods: [GET], path: '/{a}', hosts: ['*.test']"},
		{"methods: [GET], path: '/é{a}', hosts: ['*.b.test']", "methods: [GET], path: '/{a}ü', hosts: ['*.b.test']"},
	} {
		for _, pair := range [][2]string{tt, {tt[1], tt[0]}} {
			lines := faultLines(t, policy.Document{Name: "p.yaml", Data: []byte(
				"http:\n  agent_from: [{from: principal}]\n  routes:\n    a: {" + pair[0] + ", action: read, resource: a}\n    b: {" + pair[1] + ", action: read, resource: a}\n")})
			if len(lines) != 1 || !strings.HasPrefix(lines[0], "5:") {
				t.Errorf("%q: want one error at the second, got %q", pair, lines)
				continue
			}
			found := example.FindStringSubmatch(lines[0])
			if found == nil {
				t.Errorf("%q: no example in %s", pair, lines[0])
				continue
			}
			host := strings.NewReplacer("any host", "other.test", "*", "x").Replace(found[3])
			for _, one := range pair {
				_, _, segments := httpRequest(t, "GET a "+found[2])
				h := compile(t, httpText("+{"+one+", action: read, resource: a}")).HTTP()
				if h.Route(found[1], host, segments) == nil {
					t.Errorf("%q: %s %s%s is not of %s", pair, found[1], host, found[2], one)
				}
			}
		}
	}
}

// TestHTTPNoAmbiguity makes pairs of routes that share no request, or one of
// which is within the other.
func TestHTTPNoAmbiguity(t *testing.T) {
	t.Parallel()
	for _, tt := range [][2]string{
		{"methods: [GET], path: /a", "methods: [POST], path: /a"},
		{"methods: [GET], path: /a", "methods: [GET], path: /a/"},
		{"methods: [GET], path: /a", "methods: [GET], path: /A"},
		{"methods: [GET], path: '/{a...}'", "methods: [GET], path: '/{a}/'"},
		{"methods: [GET], path: '/a/{a...}'", "methods: [GET], path: '/{a}/{b...}'"},
		{"methods: [GET], path: '/a/{a...}'", "methods: [GET], path: '/a'"},
		{"methods: [GET], path: '/{a}:x'", "methods: [GET], path: '/{a}:y'"},
		{"methods: [GET], path: '/{a}:x'", "methods: [GET], path: '/:x'"},
		{"methods: [GET], path: '/ab{a}c'", "methods: [GET], path: '/a{b}c'"},
		{"methods: [GET], path: '/{a}', hosts: [a.test]", "methods: [GET], path: /a, hosts: [b.test]"},
		{"methods: [GET], path: '/a', hosts: [a.test]", "methods: [GET], path: /a, hosts: ['*.a.test']"},
		{"methods: [GET], path: '/a', hosts: ['*.a.test']", "methods: [GET], path: '/{a}', hosts: ['*.test']"},
		{"methods: [GET], path: '/a', hosts: [a.test, b.test]", "methods: [GET], path: '/{a}', hosts: [b.test]"},
	} {
		lines := faultLines(t, policy.Document{Name: "p.yaml", Data: []byte(
			"http:\n  agent_from: [{from: principal}]\n  routes:\n    a: {" + tt[0] + ", action: read, resource: a}\n    b: {" + tt[1] + ", action: read, resource: a}\n")})
		if len(lines) > 0 {
			t.Errorf("%q: %q", tt, lines)
		}
	}
}

// TestDecideUnmapped asks of calls of which only agent and address are known.
// Not even an agent that may do everything gets through.
func TestDecideUnmapped(t *testing.T) {
	t.Parallel()
	s := compile(t, `
scopes: {full: {actions: ["**"], resources: ["**"], risk: admin}}
networks: {cluster: {cidrs: [10.8.0.0/16]}}
agents:
  root: {owner: o, networks: [any], grants: [{scope: full, unattended: agreed}]}
  inside: {owner: o, networks: [cluster], grants: [{scope: full, unattended: agreed}]}
  old: {owner: o, networks: [cluster], suspended: true}
  "team/*": {owner: o, networks: [any], scopes: [full]}
deny: {no: {match: {}, shadow: true}}
approvals: {ask: {match: {}, approvers: [sec]}}
approvers: {sec: {members: [m]}}
`)
	var v policy.Verdict
	s.Decide(&policy.Call{Agent: "root", Action: "delete", Resource: "a"}, &v)
	if v.Outcome != policy.OutcomeApproval {
		t.Fatalf("the call to spoil the verdict with is %v", v.Outcome)
	}
	for _, tt := range []struct {
		agent, ip string
		want      policy.Reason
	}{
		{"nobody", "10.8.0.1", policy.ReasonAgentUnknown},
		{"", "10.8.0.1", policy.ReasonAgentUnknown},
		{"team/a/b", "10.8.0.1", policy.ReasonAgentUnknown},
		{"old", "10.8.0.1", policy.ReasonAgentSuspended},
		{"old", "192.0.2.1", policy.ReasonAgentSuspended},
		{"inside", "192.0.2.1", policy.ReasonIPNotAllowed},
		{"inside", "", policy.ReasonIPNotAllowed},
		{"inside", "10.8.0.1", policy.ReasonNoMatchingScope},
		{"inside", "::ffff:10.8.0.1", policy.ReasonNoMatchingScope},
		{"root", "", policy.ReasonNoMatchingScope},
		{"team/a", "192.0.2.1", policy.ReasonNoMatchingScope},
	} {
		call := policy.Call{Agent: tt.agent}
		if tt.ip != "" {
			call.SourceIP = netip.MustParseAddr(tt.ip)
		}
		s.DecideUnmapped(&call, &v)
		if v.Outcome != policy.OutcomeDeny || v.Reason != tt.want {
			t.Errorf("%s from %q: %v %s, want %s", tt.agent, tt.ip, v.Outcome, v.Reason, tt.want)
		}
		if len(v.Matched)+len(v.Grants)+len(v.RequiredScopes)+len(v.Requirements)+len(v.Shadow)+len(v.ContextRead) > 0 || v.Message != "" || v.Risk != policy.RiskNone || v.ContextWhole {
			t.Errorf("%s from %q: the verdict keeps what another call left: %+v", tt.agent, tt.ip, v)
		}
	}
	s.Decide(&policy.Call{Agent: "root", Action: "delete", Resource: "a"}, &v)
	if v.Outcome != policy.OutcomeApproval || !slices.Equal(v.Matched, []string{"approvals/ask"}) {
		t.Errorf("after an unmapped call a verdict says %v %q", v.Outcome, v.Matched)
	}
}

// A request that is another route's but for capitals or a format has a shadow;
// a less specific route is none, and neither is one of another method or host.
func TestRouteShadows(t *testing.T) {
	t.Parallel()
	s := compile(t, `http:
  agent_from: [{from: principal}]
  routes:
    lead: {methods: [GET], path: "/leads/{id}", action: read, resource: "a/{id}"}
    export: {methods: [GET], path: /leads/Export, action: read, resource: a}
    merge: {methods: [GET], path: "/leads/{id}:merge", action: read, resource: "a/{id}"}
    files: {methods: [GET], path: "/files/{path...}", action: read, resource: "a/{path}"}
    secret: {methods: [GET], path: "/files/secret/{path...}", action: read, resource: "a/{path}"}
    other: {hosts: [b.example.com], methods: [POST], path: /leads/post, action: read, resource: a}
    posts: {hosts: [b.example.com], methods: [POST], path: "/leads/{id}", action: read, resource: "a/{id}"}
`)
	for path, want := range map[string]string{
		"/leads/1": "", "/leads/ABC": "", "/leads/a.b": "", "/leads/Export": "", "/leads/export": "http/export", "/leads/EXPORT": "http/export",
		"/leads/export.json": "http/export", "/leads/Export.": "http/export", "/leads/.export": "", "/leads/exports": "", "/leads/x:MERGE": "http/merge",
		"/leads/X:merge": "", "/files/a.txt": "", "/files/Secret/x": "http/secret", "/files/SECRET/a/b": "http/secret", "/files/secret/A.b": "",
		"/files/secret.d/x": "", "/leads/post.x": "",
	} {
		segments := strings.Split(path[1:], "/")
		route := s.HTTP().Route("GET", "a.example.com", segments)
		if route == nil {
			t.Fatalf("%s: no route", path)
		}
		got := ""
		if shadow := s.HTTP().Shadows(route, "GET", "a.example.com", segments); shadow != nil {
			got = shadow.ID
		}
		if got != want {
			t.Errorf("%s: shadow %q, want %q", path, got, want)
		}
	}
	segments := []string{"leads", "POST"}
	route := s.HTTP().Route("POST", "b.example.com", segments)
	if shadow := s.HTTP().Shadows(route, "POST", "b.example.com", segments); shadow == nil || shadow.ID != "http/other" {
		t.Errorf("POST: %v", shadow)
	}
}
