package policy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kelpie-authz/kelpie/policy"
)

const (
	httpHead  = "http:\n  agent_from: [{from: principal}]\n"
	httpRoute = "  routes:\n    %s: {methods: [GET], path: /%s, action: read, resource: a}\n"
)

func TestHTTPDocumentsMerge(t *testing.T) {
	t.Parallel()
	doc := func(name, text string) policy.Document { return policy.Document{Name: name, Data: []byte(text)} }
	route := func(name string) string { return fmt.Sprintf(httpRoute, name, name) }
	one := httpHead + "  subject_from: [{from: header, name: x-user}]\n  source_ip: {trusted_hops: 2}\n  request_bodies: sent\n" +
		route("a") + strings.ReplaceAll(route("b"), "  routes:\n", "")
	want := compile(t, one)
	for _, docs := range [][]policy.Document{
		{doc("1.yaml", httpHead+route("a")), doc("2.yaml", "http:\n  subject_from: [{from: header, name: x-user}]\n  source_ip: {trusted_hops: 2}\n  request_bodies: sent\n"+route("b"))},
		{doc("1.yaml", "http:\n"+route("b")), doc("2.yaml", httpHead+"  request_bodies: sent\n"), doc("3.yaml", "http:\n  source_ip: {trusted_hops: 2}\n  subject_from: [{from: header, name: x-user}]\n"+route("a"))},
	} {
		got, err := policy.Compile(docs)
		if err != nil {
			t.Fatal(err)
		}
		if got.Version() != want.Version() || len(got.HTTP().AgentFrom) != 1 || len(got.HTTP().SubjectFrom) != 1 || got.HTTP().TrustedHops != 2 || !got.HTTP().BodiesSent {
			t.Errorf("merged to %+v, version %s; want %+v, %s", got.HTTP(), got.Version(), want.HTTP(), want.Version())
		}
	}
	for name, tt := range map[string]struct {
		second string
		want   []string
	}{
		"a route":        {"http:\n" + route("a"), []string{"2.yaml:3:5: http/a: defined here and at 1.yaml:7:5; keep one of them"}},
		"agent_from":     {httpHead, []string{"2.yaml:2:3: http/agent_from: defined here and at 1.yaml:2:3; keep one of them"}},
		"subject_from":   {"http:\n  subject_from: [{from: principal}]\n", []string{"2.yaml:2:3: http/subject_from: defined here and at 1.yaml:3:3; keep one of them"}},
		"source_ip":      {"http:\n  source_ip: {trusted_hops: 2}\n", []string{"2.yaml:2:3: http/source_ip: defined here and at 1.yaml:4:3; keep one of them"}},
		"request_bodies": {"http:\n  request_bodies: sent\n", []string{"2.yaml:2:3: http/request_bodies: defined here and at 1.yaml:5:3; keep one of them"}},
		"the same path in another document": {
			"http:\n  routes:\n    c: {methods: [GET], path: /a, action: read, resource: a}\n",
			[]string{"2.yaml:3:31: http/c: shares requests with http/a, such as GET /a on any host, and they match the same requests; remove one of them, or give each its own hosts, methods or path"},
		},
	} {
		if diff := cmp.Diff(tt.want, faultLines(t, doc("1.yaml", one), doc("2.yaml", tt.second))); diff != "" {
			t.Errorf("%s in two documents (-want +got):\n%s", name, diff)
		}
	}
}

// httpVersionBase is the section that the tests of versions change.
const httpVersionBase = `http:
  agent_from:
    - {from: principal}
    - {from: jwt, name: jwt, claim: [act, sub]}
    - {from: forwarded_client_cert, hops: 1}
  subject_from: [{from: header, name: x-user}]
  source_ip: {trusted_hops: 2, peer_appended: true}
  request_bodies: sent
  routes:
    one:
      hosts: [a.example.com, b.example.com]
      methods: [GET, HEAD]
      path: "/{kind}/{id}"
      action: read
      resource: "crm/{id}"
      headers: {trace: x-trace, tenant: x-tenant}
      query_lists: [tag, sort]
    two: {methods: [POST], path: "/{id}", action: create, resource: crm, body: unseen}
`

// httpVersion compiles httpVersionBase with one text in another's place.
func httpVersion(t *testing.T, old, with string) string {
	t.Helper()
	if strings.Count(httpVersionBase, old) != 1 {
		t.Fatalf("%q stands %d times in the section", old, strings.Count(httpVersionBase, old))
	}
	return compile(t, strings.Replace(httpVersionBase, old, with, 1)).Version()
}

func TestVersionOfTheSameHTTP(t *testing.T) {
	t.Parallel()
	want := compile(t, httpVersionBase).Version()
	for _, tt := range [][2]string{
		{"http:\n", "# a comment\nhttp:\n"},
		{"[a.example.com, b.example.com]", "[b.example.com, a.example.com, b.example.com]"},
		{"[GET, HEAD]", "[HEAD, GET]"},
		{"[tag, sort]", "[sort, tag]"},
		{"{trace: x-trace, tenant: x-tenant}", "{tenant: x-tenant, trace: x-trace}"},
		{"      methods: [GET, HEAD]", "      description: in other words\n      methods: [GET, HEAD]"},
		{", peer_appended: true", ""},
	} {
		if httpVersion(t, tt[0], tt[1]) != want {
			t.Errorf("%q instead of %q changes the version", tt[1], tt[0])
		}
	}
	const two = "    two: {methods: [POST], path: \"/{id}\", action: create, resource: crm, body: unseen}\n"
	turned := strings.Replace(strings.Replace(httpVersionBase, two, "", 1), "  routes:\n", "  routes:\n"+two, 1)
	if compile(t, turned).Version() != want {
		t.Error("the order of routes changes the version")
	}
}

func TestVersionOfAnotherHTTP(t *testing.T) {
	t.Parallel()
	seen := map[string]string{compile(t, httpVersionBase).Version(): "the base"}
	for _, tt := range [][2]string{
		{"    - {from: principal}\n", ""},
		{"    - {from: principal}\n    - {from: jwt, name: jwt, claim: [act, sub]}\n", "    - {from: jwt, name: jwt, claim: [act, sub]}\n    - {from: principal}\n"},
		{"name: jwt", "name: other"},
		{"[act, sub]", "[actsub]"},
		{"[act, sub]", "[act]"},
		{"hops: 1", "hops: 2"},
		{"from: header, name: x-user", "from: context_extension, name: x-user"},
		{"name: x-user", "name: x-users"},
		{"  subject_from: [{from: header, name: x-user}]\n", ""},
		{"trusted_hops: 2", "trusted_hops: 3"},
		{"peer_appended: true", "peer_appended: false"},
		{"  source_ip: {trusted_hops: 2, peer_appended: true}\n", ""},
		{"  request_bodies: sent\n", ""},
		{"    one:\n", "    uno:\n"},
		{"      hosts: [a.example.com, b.example.com]\n", ""},
		{"[a.example.com, b.example.com]", "[a.example.com]"},
		{"[a.example.com, b.example.com]", `["*.example.com"]`},
		{"[GET, HEAD]", "[GET]"},
		{"/{kind}/{id}", "/{kind}/{id}/"},
		{"/{kind}/{id}", "/{kinds}/{id}"},
		{"/{kind}/{id}", "/{kind}/{id...}"},
		{"action: read", "action: list"},
		{"action: read", `action: "{kind}"`},
		{"crm/{id}", "crm/{kind}"},
		{"trace: x-trace", "trace: x-traces"},
		{"trace: x-trace", "traces: x-trace"},
		{"trace: x-trace, ", ""},
		{"[tag, sort]", "[tag]"},
		{"      query_lists: [tag, sort]\n", ""},
		{", body: unseen", ""},
		{"    two: {methods: [POST], path: \"/{id}\", action: create, resource: crm, body: unseen}\n", ""},
	} {
		version := httpVersion(t, tt[0], tt[1])
		if before, twice := seen[version]; twice {
			t.Errorf("%q instead of %q has the version of %s", tt[1], tt[0], before)
		}
		seen[version] = tt[1]
	}
}

// revopsVersion is what examples/revops had before policies could say anything
// of HTTP. It changes with that file, and with what a version is made of.
const revopsVersion = "83d0e5b04e138b338b3f9a6064efe170"

func TestVersionWithoutHTTP(t *testing.T) {
	t.Parallel()
	if got := revops(t).Version(); got != revopsVersion {
		t.Errorf("the version of examples/revops is %s, and was %s", got, revopsVersion)
	}
	if revops(t).HTTP() != nil {
		t.Error("a policy without http says something of it")
	}
}
