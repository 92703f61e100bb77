package policy_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kelpie-authz/kelpie/policy"
)

// httpFaults are documents and all that is said of each. A text that begins
// with + is a route named a and what follows it, one with @ a list of sources
// of the agent's id.
var httpFaults = []struct {
	text string
	want []string
}{
	{"http:", []string{"1:6: : no value; leave the key out, or write a value"}},
	{"http: []", []string{"1:7: : http takes keys with values, not a list; write key: value pairs below it"}},
	{"http: {}", []string{"1:1: http: http has no routes, so that every request is denied; write at least one under routes"}},
	{"http: {agent_from: [{from: principal}], routes: {}}", []string{"1:1: http: http has no routes, so that every request is denied; write at least one under routes"}},
	{"http: {agent_from: [{from: principal}], routes: [a]}", []string{"1:49: http: routes takes keys with values, not a list; write key: value pairs below it"}},
	{"http: {agent_from: [{from: principal}], routes: ~}", []string{"1:49: http: no value; leave the key out, or write a value"}},
	{"http: {routes: {a: {methods: [GET], path: /a, action: read, resource: a}}}", []string{"1:1: http: http does not say where the agent's id comes from; write agent_from, such as [{from: principal}]"}},
	{"@", []string{"2:15: http/agent_from: agent_from is an empty list; name at least one"}},
	{"@~", []string{"2:16: http/agent_from: no value; leave the key out, or write a value"}},
	{"http: {agentFrom: [{from: principal}], routes: {a: {methods: [GET], path: /a, action: read, resource: a}}}", []string{`1:8: http: unknown key "agentFrom"; write agent_from`}},
	{"http: {agent_from: [{from: principal}], route: {a: {}}, routes: {a: {methods: [GET], path: /a, action: read, resource: a}}}", []string{`1:41: http: unknown key "route"; write routes`}},
	{"http: {agent_from: [{from: principal}], request_bodies: all, routes: {a: {methods: [GET], path: /a, action: read, resource: a}}}", []string{"1:41: http/request_bodies: request_bodies: must be in list [sent]; write one of them"}},
	{`http: {agent_from: [{from: principal}], request_bodies: "", routes: {a: {methods: [GET], path: /a, action: read, resource: a}}}`, []string{"1:57: http/request_bodies: request_bodies is an empty text; leave it out, or write what it is"}},
	{"http: {agent_from: [{from: principal}], source_ip: ~, routes: {a: {methods: [GET], path: /a, action: read, resource: a}}}", []string{"1:52: http/source_ip: no value; leave the key out, or write a value"}},
	{"http: {agent_from: [{from: principal}], source_ip: {trusted_hops: 17, peer_appended: no}, routes: {a: {methods: [GET], path: /a, action: read, resource: a}}}", []string{"1:67: http/source_ip: trusted_hops: must be less than or equal to 16; write less", `1:86: http/source_ip: peer_appended takes true or false, not "no"; write true or false`}},
	{"@{from: cookie, name: a}", []string{"2:23: http/agent_from: from: must be in list [principal, forwarded_client_cert, jwt, header, context_extension]; write one of them"}},
	{"@{form: principal}", []string{`2:17: http/agent_from: unknown key "form"; write one of from, name, claim, hops`}},
	{"@{name: a}", []string{"2:16: http/agent_from: from: must be in list [principal, forwarded_client_cert, jwt, header, context_extension]; write one of them"}},
	{`@{from: header, name: ""}`, []string{"2:37: http/agent_from: name is an empty text; leave it out, or write what it is"}},
	{"@{from: header}", []string{"2:16: http/agent_from: the source has no name; write name: the header, the key, or the provider's payload_in_metadata"}},
	{"@{from: context_extension}", []string{"2:16: http/agent_from: the source has no name; write name: the header, the key, or the provider's payload_in_metadata"}},
	{"@{from: jwt, claim: [sub]}", []string{"2:16: http/agent_from: the source has no name; write name: the header, the key, or the provider's payload_in_metadata"}},
	{"@{from: jwt, name: a}", []string{"2:16: http/agent_from: the source does not say which claim; write claim, such as [client_id]"}},
	{"@{from: jwt, name: a, claim: []}", []string{"2:44: http/agent_from: claim is an empty list; name at least one"}},
	{`@{from: jwt, name: a, claim: [""]}`, []string{"2:45: http/agent_from: claim is an empty text; leave it out, or write what it is"}},
	{"@{from: jwt, name: a, claim: [1]}", []string{`2:45: http/agent_from: claim takes a text, and YAML reads "1" as a number; write it in quotes`}},
	{"@{from: principal, name: a}", []string{"2:16: http/agent_from: the source has a name that nothing uses; remove name"}},
	{"@{from: header, name: x-a, claim: [a]}", []string{"2:16: http/agent_from: the source has a claim, and is no token; remove claim, or write from: jwt"}},
	{"@{from: header, name: x-a, hops: 1}", []string{"2:16: http/agent_from: the source has hops, and is not forwarded_client_cert; remove hops"}},
	{"@{from: forwarded_client_cert, hops: 17}", []string{"2:52: http/agent_from: hops: must be less than or equal to 16; write less"}},
	{"@{from: header, name: X-Agent}", []string{`2:16: http/agent_from: "X-Agent" is no name of a header; write it in small letters, such as x-agent-id`}},
	{"@{from: header, name: -agent}", []string{`2:16: http/agent_from: "-agent" is no name of a header; write it in small letters, such as x-agent-id`}},
	{`@{from: header, name: ":path"}`, []string{`2:16: http/agent_from: ":path" is no name of a header; write it in small letters, such as x-agent-id`}},
	{"@{from: header, name: x-forwarded-client-cert}", []string{"2:16: http/agent_from: the header holds more than an id; write from: forwarded_client_cert"}},
	{"@{from: header, name: authorization}", []string{"2:16: http/agent_from: the header authorization holds a secret, and an id is written to the log; have the proxy check it, and write from: jwt"}},
	{"@{from: header, name: proxy-authorization}", []string{"2:16: http/agent_from: the header proxy-authorization holds a secret, and an id is written to the log; have the proxy check it, and write from: jwt"}},
	{"@{from: header, name: cookie}", []string{"2:16: http/agent_from: the header cookie holds a secret, and an id is written to the log; have the proxy check it, and write from: jwt"}},
	{"@{from: header, name: x-kelpie-agent}", []string{"2:16: http/agent_from: headers that start with x-kelpie- are Kelpie's own; write another name"}},
	{"@{from: principal}, {from: jwt}", []string{"2:35: http/agent_from: the source has no name; write name: the header, the key, or the provider's payload_in_metadata"}},
	{"http: {agent_from: [{from: principal}], subject_from: [{from: header, name: A}], routes: {a: {methods: [GET], path: /a, action: read, resource: a}}}", []string{`1:56: http/subject_from: "A" is no name of a header; write it in small letters, such as x-agent-id`}},
	{"+~", []string{"4:8: http/a: no value; leave the key out, or write a value"}},
	{"+{}", []string{"4:5: http/a: action is missing; write action", "4:5: http/a: methods is missing; write methods", "4:5: http/a: path is missing; write path", "4:5: http/a: resource is missing; write resource"}},
	{"+{methods: [GET], path: /a, action: read, resource: a}\n    -b: {methods: [GET], path: /b, action: read, resource: b}", []string{`5:5: http/-b: the name "-b" cannot be used; write at most 128 ASCII letters, digits, _, . and -, the first a letter or digit`}},
	{"+{methods: [GET], path: /a, action: read, resource: a}\n    a: {methods: [GET], path: /b, action: read, resource: b}", []string{`5:5: http/a: the key "a" is given here and at p.yaml:4:5; keep one of them`}},
	{"+{methods: [GET], path: /a, path: /b, action: read, resource: a}", []string{`4:35: http/a: the key "path" is given here and at p.yaml:4:25; keep one of them`}},
	{"+{method: [GET], path: /a, action: read, resource: a}", []string{`4:9: http/a: unknown key "method"; write methods`}},
	{"+{methods: [], hosts: [], query_lists: [], path: /a, action: read, resource: a}", []string{"4:18: http/a: methods is an empty list; name at least one", "4:29: http/a: hosts is an empty list; name at least one", "4:46: http/a: query_lists is an empty list; name at least one"}},
	{`+{methods: [""], hosts: [""], query_lists: [""], headers: {"": ""}, body: "", path: "", action: "", resource: ""}`, []string{"4:19: http/a: methods is an empty text; leave it out, or write what it is", "4:32: http/a: hosts is an empty text; leave it out, or write what it is", "4:51: http/a: query_lists is an empty text; leave it out, or write what it is", "4:66: http/a: a name in headers is an empty text; leave it out, or write what it is", "4:70: http/a:  is an empty text; leave it out, or write what it is", "4:81: http/a: body is an empty text; leave it out, or write what it is", "4:91: http/a: path is an empty text; leave it out, or write what it is", "4:103: http/a: action is an empty text; leave it out, or write what it is", "4:117: http/a: resource is an empty text; leave it out, or write what it is"}},
	{"+{methods: [GET], path: /a, action: read, resource: a, body: seen}", []string{"4:68: http/a: body: must be in list [unseen]; write one of them"}},
	{"+{methods: [GET], path: /a, action: 1, resource: 2}", []string{`4:43: http/a: action takes a text, and YAML reads "1" as a number; write it in quotes`, `4:56: http/a: resource takes a text, and YAML reads "2" as a number; write it in quotes`}},
	{"+{methods: [get], path: /a, action: read, resource: a}", []string{"4:19: http/a: methods holds what is no method; write each in capitals, such as GET"}},
	{"+{methods: [GET, GET], path: /a, action: read, resource: a}", []string{"4:9: http/a: methods names one twice; name each once"}},
	{"+{methods: [GET, CONNECT], path: /a, action: read, resource: a}", []string{"4:9: http/a: a CONNECT has no path, and what goes through its tunnel is not seen; remove it"}},
	{"+{methods: [GET], query_lists: [q, q], path: /a, action: read, resource: a}", []string{"4:25: http/a: query_lists names one twice; name each once"}},
	{`+{methods: [GET], hosts: ["*"], path: /a, action: read, resource: a}`, []string{"4:33: http/a: the host * is every host; leave hosts out to mean every host"}},
	{`+{methods: [GET], hosts: [a.example.com, "a.*.com"], path: /a, action: read, resource: a}`, []string{`4:48: http/a: the host "a.*.com" has a * in another place than at its start; write *.example.com for every host below example.com`}},
	{`+{methods: [GET], hosts: ["*.*.com"], path: /a, action: read, resource: a}`, []string{`4:33: http/a: the host "*.*.com" has a * in another place than at its start; write *.example.com for every host below example.com`}},
	{`+{methods: [GET], hosts: ["*."], path: /a, action: read, resource: a}`, []string{`4:33: http/a: no request has the host "*."; write it as in crm.example.com`}},
	{"+{methods: [GET], hosts: [A.example.com], path: /a, action: read, resource: a}", []string{`4:33: http/a: the host "A.example.com" is written "a.example.com"; write it in small letters, without a port`}},
	{`+{methods: [GET], hosts: ["*.example.com:443"], path: /a, action: read, resource: a}`, []string{`4:33: http/a: the host "*.example.com:443" is written "*.example.com"; write it in small letters, without a port`}},
	{"+{methods: [GET], hosts: [a.example.com.], path: /a, action: read, resource: a}", []string{`4:33: http/a: no request has the host "a.example.com."; write it as in crm.example.com`}},
	{`+{methods: [GET], hosts: ["https://a.example.com"], path: /a, action: read, resource: a}`, []string{`4:33: http/a: no request has the host "https://a.example.com"; write it as in crm.example.com`}},
	{`+{methods: [GET], hosts: ["*.[::1]"], path: /a, action: read, resource: a}`, []string{`4:33: http/a: no request has the host "*.[::1]"; write it as in crm.example.com`}},
	{"+{methods: [GET], path: a, action: read, resource: a}", []string{`4:31: http/a: the path "a" does not start with a slash; write one, such as /leads/{id}`}},
	{"+{methods: [GET], path: /a//b, action: read, resource: a}", []string{"4:31: http/a: the path has an empty segment, which no request that is judged has; write one slash between segments"}},
	{"+{methods: [GET], path: //, action: read, resource: a}", []string{"4:31: http/a: the path has an empty segment, which no request that is judged has; write one slash between segments"}},
	{`+{methods: [GET], path: "/{p...}/b", action: read, resource: a}`, []string{"4:31: http/a: the path goes on behind {p...}, which takes all that follows; put it last"}},
	{`+{methods: [GET], path: "/{p}/{p}", action: read, resource: a}`, []string{`4:31: http/a: the path has the name "p" twice; give each part a name of its own`}},
	{`+{methods: [GET], path: "/{p}{q}", action: read, resource: a}`, []string{`4:31: http/a: the segment "{p}{q}" is not text with one {name} in it; write one name in braces in a segment`}},
	{`+{methods: [GET], path: "/{p", action: read, resource: a}`, []string{`4:31: http/a: the segment "{p" is not text with one {name} in it; write one name in braces in a segment`}},
	{`+{methods: [GET], path: "/p}", action: read, resource: a}`, []string{`4:31: http/a: the segment "p}" is not text with one {name} in it; write one name in braces in a segment`}},
	{`+{methods: [GET], path: "/}p{", action: read, resource: a}`, []string{`4:31: http/a: the segment "}p{" is not text with one {name} in it; write one name in braces in a segment`}},
	{`+{methods: [GET], path: "/{{p}}", action: read, resource: a}`, []string{`4:31: http/a: the segment "{{p}}" is not text with one {name} in it; write one name in braces in a segment`}},
	{`+{methods: [GET], path: "/a{p...}", action: read, resource: a}`, []string{"4:31: http/a: {p...} has text beside it; write it as a segment of its own"}},
	{`+{methods: [GET], path: "/{}", action: read, resource: a}`, []string{`4:31: http/a: the name "" cannot be used; write letters, digits and _, the first a letter`}},
	{`+{methods: [GET], path: "/{...}", action: read, resource: a}`, []string{`4:31: http/a: the name "" cannot be used; write letters, digits and _, the first a letter`}},
	{`+{methods: [GET], path: "/{a-b}", action: read, resource: a}`, []string{`4:31: http/a: the name "a-b" cannot be used; write letters, digits and _, the first a letter`}},
	{`+{methods: [GET], path: "/{1a}", action: read, resource: a}`, []string{`4:31: http/a: the name "1a" cannot be used; write letters, digits and _, the first a letter`}},
	{`+{methods: [GET], path: "/a/*", action: read, resource: a}`, []string{`4:31: http/a: the segment "*" holds a *; write {name} for one segment, {name...} for all that follow`}},
	{`+{methods: [GET], path: "/a*{id}", action: read, resource: a}`, []string{`4:31: http/a: the segment "a*{id}" holds a *; write {name} for one segment, {name...} for all that follow`}},
	{"+{methods: [GET], path: /a/../b, action: read, resource: a}", []string{`4:31: http/a: no request has the segment "..": it is . or .., which a server may resolve; write the path as it is after decoding`}},
	{`+{methods: [GET], path: "/a%20b", action: read, resource: a}`, []string{`4:31: http/a: no request has the segment "a%20b": it is encoded twice; write the path as it is after decoding`}},
	{`+{methods: [GET], path: "/a?b=c", action: read, resource: a}`, []string{`4:31: http/a: no request has the segment "a?b=c": it holds ? or #, which end a path; write the path as it is after decoding`}},
	{`+{methods: [GET], path: "/{id};v", action: read, resource: a}`, []string{`4:31: http/a: no request has the segment "{id};v": it holds a semicolon, behind which a server may read parameters; write the path as it is after decoding`}},
	{`+{methods: [GET], path: '/a\b', action: read, resource: a}`, []string{`4:31: http/a: no request has the segment "a\\b": it holds a slash or a backslash, which a server may take for a separator; write the path as it is after decoding`}},
	{`+{methods: [GET], path: "/{id}", action: "{verb}", resource: a}`, []string{`4:48: http/a: the path has no part named "verb"; write {verb} into the path, or remove it here`}},
	{`+{methods: [GET], path: "/{id}", action: "{}", resource: a}`, []string{`4:48: http/a: the path has no part named ""; write {name} into the path, or remove it here`}},
	{`+{methods: [GET], path: "/{id}", action: read, resource: "a/{id"}`, []string{`4:64: http/a: "a/{id" has a brace without its other one; write {name} for a part of the path`}},
	{`+{methods: [GET], path: "/{id}", action: read, resource: "a/id}"}`, []string{`4:64: http/a: "a/id}" has a brace without its other one; write {name} for a part of the path`}},
	{`+{methods: [GET], path: "/{id}", action: read, resource: "a/{id}}"}`, []string{`4:64: http/a: "a/{id}}" has a brace without its other one; write {name} for a part of the path`}},
	{`+{methods: [GET], path: "/{id}", action: read, resource: "/a/{id}"}`, []string{`4:64: http/a: no well-formed resource comes out of "/a/{id}": its resource starts with a slash; leave it out`}},
	{`+{methods: [GET], path: "/{id}", action: read, resource: "a/{id}/"}`, []string{`4:64: http/a: no well-formed resource comes out of "a/{id}/": its resource ends with a slash; leave it out`}},
	{`+{methods: [GET], path: "/{id}", action: read, resource: "a%2f{id}"}`, []string{`4:64: http/a: no well-formed resource comes out of "a%2f{id}": its resource holds %2e, %2f or %5c; decode it exactly once before asking`}},
	{`+{methods: [GET], path: "/{id}", action: "a..{id}", resource: "a"}`, []string{`4:48: http/a: no well-formed action comes out of "a..{id}": its action has an empty segment; write something before, between and after . and /`}},
	{`+{methods: [GET], path: "/{id}", action: "a.*", resource: "a/**"}`, []string{`4:48: http/a: "a.*" holds a *, and a request's action is no pattern; write what is asked, with {name} for what varies`, `4:65: http/a: "a/**" holds a *, and a request's resource is no pattern; write what is asked, with {name} for what varies`}},
	{`+{methods: [GET], path: "/{id}", action: "é", resource: "a"}`, []string{`4:48: http/a: no well-formed action comes out of "é": its action holds a byte that is not ASCII; write ASCII letters, digits and punctuation`}},
	{`+{methods: [GET], path: "/{id}", action: read, resource: "a", headers: {a: X-A, b: authorization, c: cookie, d: proxy-authorization, id: x-id, ok: x-ok}}`, []string{`4:82: http/a: the header of the parameter "a" is no header's name; write it in small letters, such as x-request-id`, "4:90: http/a: the header authorization holds a secret, and parameters are read by rules and shown to approvers; remove it", "4:108: http/a: the header cookie holds a secret, and parameters are read by rules and shown to approvers; remove it", "4:119: http/a: the header proxy-authorization holds a secret, and parameters are read by rules and shown to approvers; remove it", `4:144: http/a: the parameter "id" is a part of the path too, so that every request would be refused; give one of them another name`}},
	{"+{methods: [GET, POST], path: \"/{id}\", action: read, resource: \"a\"}\n    b: {methods: [POST, PUT], path: \"/{name}\", action: read, resource: b}", []string{"5:37: http/b: shares requests with http/a, such as POST /x on any host, and they match the same requests; remove one of them, or give each its own hosts, methods or path"}},
	{"+{methods: [GET], path: \"/{x}/b\", action: read, resource: \"a\"}\n    b: {methods: [GET], path: \"/a/{y}\", action: read, resource: b}", []string{"5:31: http/b: shares requests with http/a, such as GET /a/b on any host, and neither is more specific; narrow one of them, by host, method or path"}},
	{"+{methods: [GET], hosts: [crm.example.com], path: \"/{x}\", action: read, resource: \"a\"}\n    b: {methods: [GET], path: \"/a\", action: read, resource: b}", []string{"5:31: http/b: shares requests with http/a, such as GET /a on crm.example.com, and neither is more specific; narrow one of them, by host, method or path"}},
	{`+{methods: [GET], path: "/{id}", action: "{a{id}", resource: "{id}}"}`, []string{`4:48: http/a: the path has no part named "a{id"; write {a{id} into the path, or remove it here`, `4:68: http/a: "{id}}" has a brace without its other one; write {name} for a part of the path`}},
	{`+{methods: [GET], path: "/1/2/3/4/5/6/7/8/9/0/1/2/3/4/5/6/7/8/9/0/1/2/3/4/5/6/7/8/9/0/1/2/3/4/5/6/7/8/9/0/1/2/3/4/5/6/7/8/9/0/1/2/3/4/5/6/7/8/9/0/1/2/3/4/5", action: read, resource: a}`, []string{"4:31: http/a: the path has 65 segments; write at most 64"}},
}

// httpText is the document that a text of httpFaults stands for.
func httpText(text string) string {
	switch text[0] {
	case '+':
		return "http:\n  agent_from: [{from: principal}]\n  routes:\n    a: " + text[1:] + "\n"
	case '@':
		return "http:\n  agent_from: [" + text[1:] + "]\n  routes: {a: {methods: [GET], path: /a, action: read, resource: a}}\n"
	default:
		return text + "\n"
	}
}

// faultLines are the errors of documents, without their snippets and, in a
// document named p.yaml, without its name.
func faultLines(t *testing.T, docs ...policy.Document) []string {
	t.Helper()
	_, err := policy.Compile(docs)
	if err == nil {
		return nil
	}
	var list policy.Errors
	if !errors.As(err, &list) {
		t.Fatalf("%v is no list of errors", err)
	}
	var lines []string
	for _, e := range list {
		line := fmt.Sprintf("%s:%d:%d: %s: %s; %s", e.File, e.Line, e.Column, e.Rule, e.Message, e.Fix)
		lines = append(lines, strings.TrimPrefix(line, "p.yaml:"))
	}
	return lines
}

// TestHTTPFaults holds every fault of an http section to its place, its rule
// and its words, and to being the only thing said.
func TestHTTPFaults(t *testing.T) {
	t.Parallel()
	for _, tt := range httpFaults {
		got := faultLines(t, policy.Document{Name: "p.yaml", Data: []byte(httpText(tt.text))})
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.text, diff)
		}
	}
}

// TestHTTPBounds holds the longest of what a route may have, and one more.
func TestHTTPBounds(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		text, refused string // %s is what is too long
		most          int
		one           string
	}{
		{"{methods: [GET], path: \"%s\", action: read, resource: a}", "the path has 65 segments", 64, "/a"},
		{"{methods: [GET], path: \"/{%s}\", action: read, resource: a}", "cannot be used", 64, "a"},
		{"{methods: [GET], hosts: [\"%s\"], path: /a, action: read, resource: a}", "no request has the host", 255, "a"},
		{"{methods: [GET], path: /a, action: %s, resource: a}", "256 bytes", 256, "a"},
		{"{methods: [GET], path: /a, action: read, resource: \"b/%s\"}", "2048 bytes", 2046, "a"},
		{"{methods: [\"%s\"], path: /a, action: read, resource: a}", "no method", 32, "A"},
		{"{methods: [GET], headers: {a: \"%s\"}, path: /a, action: read, resource: a}", "no header's name", 128, "a"},
	} {
		for _, n := range []int{tt.most, tt.most + 1} {
			text := httpText("+" + fmt.Sprintf(tt.text, strings.Repeat(tt.one, n)))
			lines := faultLines(t, policy.Document{Name: "p.yaml", Data: []byte(text)})
			refused := slices.ContainsFunc(lines, func(line string) bool { return strings.Contains(line, tt.refused) })
			if refused != (n > tt.most) || len(lines) > 1 {
				t.Errorf("%d times %q in %s: %q", n, tt.one, tt.text, lines)
			}
		}
	}
}
