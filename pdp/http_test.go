package pdp_test

import (
	"context"
	"errors"
	"maps"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kelpie-authz/kelpie/pdp"
)

// webPolicy maps requests onto notesPolicy's rules, with one route for each
// thing that a test looks at.
const webPolicy = notesPolicy + `
http:
  agent_from:
    - {from: context_extension, name: agent}
    - {from: principal}
    - {from: forwarded_client_cert}
    - {from: jwt, name: token, claim: [act, client]}
    - {from: header, name: x-agent}
  subject_from: [{from: jwt, name: token, claim: [sub]}, {from: header, name: x-subject}]
  request_bodies: sent
  routes:
    latest: {methods: [GET], path: /notes/latest, action: export, resource: notes/latest}
    note: {methods: [GET, HEAD], path: "/notes/{id}", action: read, resource: "notes/{id}"}
    notes-below: {methods: [GET], path: "/tree/{path...}", action: read, resource: "notes/{path}"}
    remove: {methods: [DELETE], path: "/notes/{id}", action: delete, resource: "notes/{id}"}
    pay: {hosts: [bank.example.com], methods: [POST], path: "/pay/{to}", action: pay, resource: "bank/{to}"}
    tenant-pay:
      methods: [POST]
      path: /t/{tenant}/pay
      action: pay
      resource: bank/rent
      headers: {key: idempotency-key}
      query_lists: [tag]
    upload: {methods: [POST], path: /upload, action: pay, resource: bank/rent, body: unseen}
`

// web is a well-formed request of reader, changed by each of change.
func web(change ...func(*pdp.HTTPRequest)) *pdp.HTTPRequest {
	in := &pdp.HTTPRequest{
		Method: "GET", Host: "notes.example.com", Target: "/notes/1", Peer: "10.1.2.3", Gateway: "unix",
		Headers:    map[string]string{":path": "/notes/1", "x-request-id": "r-1"},
		Extensions: map[string]string{"agent": "reader"},
	}
	for _, c := range change {
		c(in)
	}
	if _, ok := in.Headers[":path"]; ok {
		in.Headers[":path"] = in.Target
	}
	return in
}

func target(text string) func(*pdp.HTTPRequest) {
	return func(in *pdp.HTTPRequest) { in.Target = text }
}

func header(name, value string) func(*pdp.HTTPRequest) {
	return func(in *pdp.HTTPRequest) {
		in.Headers = maps.Clone(in.Headers)
		in.Headers[name] = value
	}
}

func agent(id string) func(*pdp.HTTPRequest) {
	return func(in *pdp.HTTPRequest) { in.Extensions = map[string]string{"agent": id} }
}

// post makes it a payment with a body that came whole.
func post(path, body string) func(*pdp.HTTPRequest) {
	return func(in *pdp.HTTPRequest) {
		in.Method, in.Target, in.Host = "POST", path, "bank.example.com:8443"
		in.Body, in.BodyState = []byte(body), pdp.BodyWhole
		in.Headers = maps.Clone(in.Headers)
		in.Headers["content-type"] = "application/json"
		in.Extensions = map[string]string{"agent": "payer"}
	}
}

// errDiscarded keeps the recorder from copying.
var errDiscarded = errors.New("discarded")

func noAgent(in *pdp.HTTPRequest) { in.Extensions = nil }

func (f *fixture) askHTTP(tb testing.TB, in *pdp.HTTPRequest) pdp.HTTPDecision {
	tb.Helper()
	var out pdp.HTTPDecision
	if err := f.svc.AuthorizeHTTP(context.Background(), in, &out); err != nil {
		tb.Fatalf("authorize %s %s: %v", in.Method, in.Target, err)
	}
	return out
}

// seen is what is left of an answer to compare.
type seen struct {
	verdict                 pdp.Verdict
	reason                  pdp.Reason
	agent, action, resource string
}

func TestHTTPBecomesACall(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		in   *pdp.HTTPRequest
		want seen
	}{
		"a route":            {web(), seen{pdp.Allow, "ok", "reader", "read", "notes/1"}},
		"another method":     {web(func(in *pdp.HTTPRequest) { in.Method = "HEAD" }), seen{pdp.Allow, "ok", "reader", "read", "notes/1"}},
		"several segments":   {web(target("/tree/a/b/c")), seen{pdp.Allow, "ok", "reader", "read", "notes/a/b/c"}},
		"decoded once":       {web(target("/notes/a%20b%C3%A9")), seen{pdp.Allow, "ok", "reader", "read", "notes/a bé"}},
		"a literal, encoded": {web(target("/n%6ftes/1")), seen{pdp.Allow, "ok", "reader", "read", "notes/1"}},
		"a star":             {web(target("/notes/*")), seen{pdp.Allow, "ok", "reader", "read", "notes/*"}},
		"no scope":           {web(agent("payer")), seen{pdp.Deny, "insufficient_scope", "payer", "read", "notes/1"}},
		"another route": {
			web(agent("cleaner"), func(in *pdp.HTTPRequest) { in.Method = "DELETE" }),
			seen{pdp.RequireApproval, "approval_required", "cleaner", "delete", "notes/1"},
		},
		"a host with port and capitals": {
			web(post("/pay/rent", `{"amount":1}`), func(in *pdp.HTTPRequest) { in.Host = "Bank.Example.COM:8443" }),
			seen{pdp.Deny, "condition_failed", "payer", "pay", "bank/rent"},
		},
		"another host": {
			web(post("/pay/rent", `{}`), func(in *pdp.HTTPRequest) { in.Host = "other.example.com" }),
			seen{pdp.Deny, "no_matching_scope", "payer", "", ""},
		},
		"no route for the method": {web(func(in *pdp.HTTPRequest) { in.Method = "PUT" }), seen{pdp.Deny, "no_matching_scope", "reader", "", ""}},
		"no route for the path":   {web(target("/admin")), seen{pdp.Deny, "no_matching_scope", "reader", "", ""}},
		"another case":            {web(target("/Notes/1")), seen{pdp.Deny, "no_matching_scope", "reader", "", ""}},
		"a slash at the end":      {web(target("/notes/1/")), seen{pdp.Deny, "no_matching_scope", "reader", "", ""}},
		"the root":                {web(target("/")), seen{pdp.Deny, "no_matching_scope", "reader", "", ""}},
		"nobody, and no route":    {web(agent("ghost"), target("/admin")), seen{pdp.Deny, "agent_unknown", "ghost", "", ""}},
		"suspended, and no route": {web(agent("retired"), target("/admin")), seen{pdp.Deny, "agent_suspended", "retired", "", ""}},
		"elsewhere, and no route": {
			web(target("/admin"), func(in *pdp.HTTPRequest) { in.Peer = "192.0.2.1" }), seen{pdp.Deny, "ip_not_allowed", "reader", "", ""},
		},
		"another route's but for capitals": {web(target("/Notes/2"), func(in *pdp.HTTPRequest) { in.Target = "/tree/ROOT" }), seen{pdp.Allow, "ok", "reader", "read", "notes/ROOT"}},
		"a deny rule":                      {web(target("/tree/locked/x")), seen{pdp.Deny, "action_denied", "reader", "read", "notes/locked/x"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, webPolicy)
			out := f.askHTTP(t, tc.in)
			got := seen{out.Verdict, out.Reason, out.Agent, out.Action, out.Resource}
			if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(seen{})); diff != "" {
				t.Errorf("(-want +got):\n%s%s", diff, out.Message)
			}
			if n := f.panics.Load(); n != 0 {
				t.Errorf("%d panics", n)
			}
			if recs := f.rec.taken(); len(recs) != 1 || recs[0].Verdict != out.Verdict || recs[0].Reason != out.Reason {
				t.Errorf("records %+v", recs)
			}
		})
	}
}

// A request that can be read in two ways is refused, whatever the routes say.
func TestHTTPRefusesWhatIsRead2Ways(t *testing.T) {
	t.Parallel()
	paths := []string{
		"/notes/LATEST", "/notes/latest.json", // another route's but for capitals and a format
		"", "notes/1", "*", "http://notes.example.com/notes/1", "//notes/1", "/notes//1", "/./notes/1", "/notes/./1", "/notes/../notes/1",
		"/notes/..", "/notes/.", "/x/%2e%2e/notes/1", "/x/%2E./notes/1", "/notes/%2e", "/notes/a%2fb", "/notes/a%2Fb", "/notes/a%5cb", `/notes/a\b`,
		"/notes/1;v=2", "/notes/1%3bv=2", "/notes/;/1", "/notes/1%00", "/notes/1%0a", "/notes/1%7f", "/notes/%252e%252e", "/notes/%2541", "/notes/%",
		"/notes/%4", "/notes/%zz", "/notes/1%23x", "/notes/1#x", "/notes/1%3fx", "/notes/%c0%ae", "/notes/%c0%af", "/notes/%e0%80%af", "/notes/%ff",
		"/notes/\xff", "/notes/é", "/notes/1\x00", "/notes/1\n", "/notes/%c2%85", "/notes/1?a=%zz", "/notes/1?a=1;b=2", "/notes/1?=1",
		"/notes/1?a=%ff", "/notes/1?a=%00", "/notes/1?a=1&a=2", "/notes/1?a=1&%61=2", "/notes/1?a=1#x", "/notes/1?a=\xff",
		"/" + strings.Repeat("a/", 64) + "a",
	}
	f := newFixture(t, webPolicy)
	for _, path := range paths {
		out := f.askHTTP(t, web(target(path)))
		if out.Verdict != pdp.Deny || out.Reason != pdp.ReasonParametersInvalid {
			t.Errorf("%q: %v %s, want DENY parameters_invalid", path, out.Verdict, out.Reason)
		}
	}
	for _, host := range []string{"", "notes.example.com.", "a..b", "user@notes.example.com", "notes.example.com:x", "notes.example.com:1:2", "a b", "[::1", "é.example.com", "a/b", "a%2eb"} {
		out := f.askHTTP(t, web(func(in *pdp.HTTPRequest) { in.Host = host }))
		if out.Verdict != pdp.Deny || out.Reason != pdp.ReasonParametersInvalid {
			t.Errorf("host %q: %v %s, want DENY parameters_invalid", host, out.Verdict, out.Reason)
		}
	}
	if n := f.panics.Load(); n != 0 {
		t.Errorf("%d panics", n)
	}
}

func TestHTTPRefusesContradictions(t *testing.T) {
	t.Parallel()
	for name, in := range map[string]*pdp.HTTPRequest{
		"method override":               web(header("x-http-method-override", "DELETE")),
		"method override, other name":   web(header("x-http-method", "DELETE")),
		"method override, third name":   web(header("x-method-override", "DELETE")),
		"method override, twice":        web(header("x-http-method-override", "GET,DELETE")),
		"method override, in the query": web(target("/notes/1?_method=DELETE")),
		"method override, capitals":     web(target("/notes/1?_METHOD=delete")),
		"method override, in the body":  web(post("/pay/rent", `{"_method":"DELETE"}`)),
		"method override, no text":      web(post("/pay/rent", `{"_method":["DELETE"]}`)),
		"method override, in a form": web(post("/pay/rent", "a=1&%5fmethod=DELETE"), func(in *pdp.HTTPRequest) {
			in.Headers["content-type"] = "application/x-www-form-urlencoded"
		}),
		"method override, in a form not read": web(post("/upload", "_method=DELETE"), func(in *pdp.HTTPRequest) {
			in.Headers["content-type"] = "application/x-www-form-urlencoded; charset=utf-8"
		}),
		"method override, beside a body not seen": web(post("/pay/rent?_method=DELETE", ""), func(in *pdp.HTTPRequest) {
			in.Body, in.BodyState = nil, pdp.BodyUnseen
		}),
		"method override, in a form of another charset": web(post("/pay/rent", "_method=DELETE"), header("content-type", "application/x-www-form-urlencoded; charset=ISO-8859-1")),
		"method override, in a form with a bad type":    web(post("/pay/rent", "_method=DELETE"), header("content-type", "application/x-www-form-urlencoded; charset")),
		"method override, in a form that says packed":   web(post("/pay/rent", "_method=DELETE"), header("content-type", "application/x-www-form-urlencoded"), header("content-encoding", "gzip")),
		"method override, in a form without a type":     web(post("/pay/rent", "a=1&_method=DELETE"), header("content-type", "")),
		"method override, behind a semicolon":           web(post("/pay/rent", "a=1;_method=DELETE"), header("content-type", "application/x-www-form-urlencoded")),
		"method override, in a list":                    web(post("/pay/rent", "_method[]=DELETE"), header("content-type", "application/x-www-form-urlencoded")),
		"method override, in JSON of another charset":   web(post("/pay/rent", `{"_method":"DELETE"}`), header("content-type", "application/json; charset=ISO-8859-1")),
		"method override, in JSON that says packed":     web(post("/pay/rent", `{"\u005FMethod":"DELETE"}`), header("content-encoding", "gzip")),
		"method override, in JSON of a loose type":      web(post("/pay/rent", `{"_method":"DELETE"}`), header("content-type", "text/json")),
		"method override, in JSON that was cut":         web(post("/pay/rent", `{"_method":"DEL`), func(in *pdp.HTTPRequest) { in.BodyState = pdp.BodyCut }),
		"method override, in a large JSON":              web(post("/pay/rent", `{"_method":"DELETE","a":"`+strings.Repeat("x", 70000)+`"}`)),
		"method override, in a part": web(post("/pay/rent", "--x\r\nContent-Disposition: form-data; name=\"_method\"\r\n\r\nDELETE\r\n--x--\r\n"),
			header("content-type", "multipart/form-data; boundary=x")),
		"method override, in a part without quotes": web(post("/upload", "--x\r\ncontent-disposition: form-data; Name=_METHOD\r\n\r\nDELETE\r\n--x--\r\n"),
			header("content-type", "multipart/form-data; boundary=x")),
		"method override, Salesforce":          web(target("/notes/1?_HttpMethod=DELETE")),
		"method override, with a dot":          web(target("/notes/1?.method=DELETE")),
		"method override, header's name":       web(target("/notes/1?X-HTTP-Method-Override=DELETE")),
		"method override, form with a dot":     web(post("/pay/rent", ".method=DELETE"), header("content-type", "application/x-www-form-urlencoded")),
		"method override, form cut by NUL":     web(post("/pay/rent", "_method%00x=DELETE"), header("content-type", "application/x-www-form-urlencoded")),
		"method override, part's content-id":   web(post("/pay/rent", "--x\r\nContent-ID: _method\r\n\r\nDELETE"), header("content-type", "multipart/form-data; boundary=x")),
		"method override, part with backslash": web(post("/pay/rent", "--x\r\nContent-Disposition: form-data; name=\"\\_method\"\r\n\r\nDELETE"), header("content-type", "multipart/form-data; boundary=x")),
		"method override, part with a dot":     web(post("/pay/rent", "--x\r\nContent-Disposition: form-data; name=\".method\"\r\n\r\nDELETE"), header("content-type", "multipart/form-data; boundary=x")),
		"method override, part, encoded word":  web(post("/pay/rent", "--x\r\nContent-Disposition: form-data; name=\"=?UTF-8?B?X21ldGhvZA==?=\"\r\n\r\nDELETE"), header("content-type", "multipart/form-data; boundary=x")),
		"method override, part, extended":      web(post("/pay/rent", "--x\r\nContent-Disposition: form-data; name*=utf-8''%5Fmethod\r\n\r\nDELETE"), header("content-type", "multipart/form-data; boundary=x")),
		"method override, part, folded":        web(post("/pay/rent", "--x\r\nContent-Disposition: form-data;\r\n name=_method\r\n\r\nDELETE"), header("content-type", "multipart/form-data; boundary=x")),
		"method override, header with dots":    web(header("x.http.method.override", "DELETE")),
		"another host, forwarded":              web(header("x-forwarded-host", "bank.example.com")),
		"another host, x-host":                 web(header("x-host", "bank.example.com")),
		"another host, in forwarded":           web(header("forwarded", "for=1.2.3.4;Host=bank.example.com")),
		"a path in disguise":                   web(header("script_name", "/notes")),
		"an id in disguise":                    web(header("x_agent", "cleaner")),
		"an id in half a disguise":             web(header("X_agent", "cleaner")),
		"a parameter in disguise":              web(header("idempotency_key", "k")),
		"an override in disguise":              web(header("x_http-method_override", "GET")),
		"an address in disguise":               web(header("x_forwarded_for", "10.1.2.3")),
		"a type in disguise":                   web(header("content_type", "text/plain")),
		"another path":                         web(header("x-original-url", "/admin")),
		"another path, rewrite":                web(header("x-rewrite-url", "/admin")),
		"the method said twice":                web(header(":method", "DELETE")),
		"the host said twice":                  web(header(":authority", "other.example.com")),
		"the host header":                      web(header("host", "other.example.com")),
		"content-type said twice":              web(post("/pay/rent", `{}`), header("content-type", "application/json,text/plain")),
		"a parameter said twice":               web(post("/t/x/pay", `{}`), header("idempotency-key", "a,b")),
	} {
		f := newFixture(t, webPolicy)
		out := f.askHTTP(t, in)
		if out.Verdict != pdp.Deny || out.Reason != pdp.ReasonHeaderMismatch {
			t.Errorf("%s: %v %s %s, want DENY header_mismatch", name, out.Verdict, out.Reason, out.Message)
		}
	}
	// What says the same is no contradiction.
	f := newFixture(t, webPolicy)
	for name, in := range map[string]*pdp.HTTPRequest{
		"another _": web(header("x_other", "1")),
		"override":  web(header("x-http-method-override", "GET")),
		"query":     web(target("/notes/1?_method=GET")),
		"path":      web(header("x-original-url", "/notes/1")),
		"host":      web(header("host", "notes.example.com")),
	} {
		if out := f.askHTTP(t, in); out.Verdict != pdp.Allow {
			t.Errorf("%s: %v %s", name, out.Verdict, out.Reason)
		}
	}
}

// A policy without http denies every request, and says why.
func TestHTTPWithoutHTTP(t *testing.T) {
	t.Parallel()
	f := newFixture(t, notesPolicy)
	out := f.askHTTP(t, web())
	if out.Verdict != pdp.Deny || out.Reason != pdp.ReasonNoMatchingScope || !strings.Contains(out.Message, "http section") {
		t.Errorf("%v %s %s", out.Verdict, out.Reason, out.Message)
	}
	if out := f.askHTTP(t, &pdp.HTTPRequest{}); out.Verdict != pdp.Deny {
		t.Errorf("the zero request: %v", out.Verdict)
	}
}

// The record says which request it was, and nothing of its query.
func TestHTTPRecord(t *testing.T) {
	t.Parallel()
	f := newFixture(t, webPolicy)
	f.askHTTP(t, web(target("/notes/1?token=hunter2")))
	f.askHTTP(t, web(target("/"+strings.Repeat("x", 5000)+"?token=hunter2"), header("x-request-id", "bad\nid")))
	recs := f.rec.taken()
	if len(recs) != 2 {
		t.Fatalf("%d records", len(recs))
	}
	want := pdp.Origin{Route: "http/note", Method: "GET", Host: "notes.example.com", Path: "/notes/1"}
	if recs[0].Origin != want || recs[0].RequestID != "r-1" || recs[0].Gateway != "unix" {
		t.Errorf("record %+v", recs[0])
	}
	if len(recs[1].Origin.Path) != 256 || recs[1].RequestID != "" || recs[1].Origin.Route != "" {
		t.Errorf("record of a long path: %d bytes, %+v", len(recs[1].Origin.Path), recs[1].Origin)
	}
}

// Map and decision are of one snapshot.
func TestHTTPOneSnapshot(t *testing.T) {
	t.Parallel()
	f := newFixture(t, webPolicy)
	before := f.askHTTP(t, web()).PolicyVersion
	f.source.p.Store(compile(t, strings.Replace(webPolicy, `action: read, resource: "notes/{id}"`, `action: delete, resource: "notes/{id}"`, 1)))
	out := f.askHTTP(t, web())
	if out.PolicyVersion == before || out.Action != "delete" || out.Verdict == pdp.Allow {
		t.Errorf("%+v", out)
	}
	f.source.p.Store(nil)
	var none pdp.HTTPDecision
	if err := f.svc.AuthorizeHTTP(context.Background(), web(), &none); err == nil || none.Verdict != pdp.VerdictNone || none.Agent != "" {
		t.Errorf("without a policy: %v %+v", err, none)
	}
}

// Denied requests spend nothing; the limit denies with when to come back.
func TestHTTPLimits(t *testing.T) {
	t.Parallel()
	f := newFixture(t, webPolicy)
	for range 20 {
		f.askHTTP(t, web(target("/admin")))
		f.askHTTP(t, web(target("/notes//1")))
	}
	for i := range 5 {
		if out := f.askHTTP(t, web()); out.Verdict != pdp.Allow {
			t.Fatalf("request %d: %v %s", i, out.Verdict, out.Reason)
		}
	}
	out := f.askHTTP(t, web())
	if out.Reason != pdp.ReasonRateLimited || out.RetryAfter <= 0 || len(out.Limits) != 1 {
		t.Errorf("%+v", out)
	}
}

// An allocation more is a decision about the hot path: see docs/performance.md.
func TestHTTPAllocations(t *testing.T) { //nolint:paralleltest // It counts what the process allocates.
	f := newFixture(t, webPolicy+"\n")
	in := web()
	var out pdp.HTTPDecision
	f.askHTTP(t, in)
	f.rec.fail = func(*pdp.Record) error { return errDiscarded }
	// The race detector makes pools forget now and then: the least of many is what a request costs.
	plain := math.Inf(1)
	for range 100 {
		plain = min(plain, testing.AllocsPerRun(1, func() {
			if err := f.svc.AuthorizeHTTP(context.Background(), in, &out); err != nil {
				t.Fatal(err)
			}
		}))
	}
	// The id, the resource, the extension as a value, the charge's key, and what the fixture itself does.
	if plain > 5 {
		t.Errorf("%v allocations a request, want at most 5", plain)
	}
	t.Logf("%v allocations", plain)
}

// The first fault gives the reason: contradicting headers, path, host, agent,
// subject, source address, route, parameters, and then the order of every call.
func TestHTTPOrderOfFaults(t *testing.T) {
	t.Parallel()
	f := newFixture(t, strings.Replace(webPolicy, "http:\n", "http:\n  source_ip: {trusted_hops: 1}\n", 1))
	faults := []struct {
		name   string
		change func(*pdp.HTTPRequest)
		reason pdp.Reason
		words  string
	}{
		{"headers", header("x-http-method", "PUT"), "header_mismatch", "x-http-method"},
		{"path", target("/t//pay"), "parameters_invalid", "path"},
		{"host", func(in *pdp.HTTPRequest) { in.Host = "a..b" }, "parameters_invalid", "host"},
		{"agent", agent(""), "unauthenticated_identity", "empty"},
		{"subject", header("x-subject", "a,b"), "unauthenticated_identity", "x-subject"},
		{"source address", header("x-forwarded-for", "10.1.2.3,10.9.9.9"), "header_mismatch", "x-forwarded-for"},
		{"route", func(in *pdp.HTTPRequest) { in.Method = "PATCH" }, "ip_not_allowed", ""},
		{"parameters", header("idempotency-key", "a,b"), "header_mismatch", "idempotency-key"},
	}
	for first := range faults {
		in := web(post("/t/x/pay", `{}`), header("x-forwarded-for", "203.0.113.7,10.1.2.3"))
		for i := len(faults) - 1; i >= first; i-- {
			faults[i].change(in)
		}
		if in.Headers[":path"] != "" {
			in.Headers[":path"] = in.Target
		}
		out := f.askHTTP(t, in)
		if out.Reason != faults[first].reason || !strings.Contains(out.Message, faults[first].words) {
			t.Errorf("%s first: %s %s", faults[first].name, out.Reason, out.Message)
		}
	}
}

// Context extensions are the context, and parts of the path that make a
// malformed resource make a malformed request.
func TestHTTPContextAndMalformedCalls(t *testing.T) {
	t.Parallel()
	f := newFixture(t, strings.Replace(webPolicy, "  routes:\n",
		"  routes:\n    odd: {methods: [GET], path: \"/odd/x-{id}\", action: read, resource: \"notes/{id}\"}\n", 1))
	with := func(channel string) func(*pdp.HTTPRequest) {
		return func(in *pdp.HTTPRequest) { in.Extensions = map[string]string{"agent": "payer", "channel": channel} }
	}
	if out := f.askHTTP(t, web(post("/pay/rent", `{}`), with("email"))); out.Verdict != pdp.RequireApproval {
		t.Errorf("the rule for email: %v %s", out.Verdict, out.Reason)
	}
	if out := f.askHTTP(t, web(post("/pay/rent", `{}`), with("chat"))); out.Verdict != pdp.Allow {
		t.Errorf("another channel: %v %s", out.Verdict, out.Reason)
	}
	// The next call must not see the context of the last.
	if out := f.askHTTP(t, web(post("/pay/rent", `{}`))); out.Reason != pdp.ReasonConditionFailed {
		t.Errorf("no channel: %v %s", out.Verdict, out.Reason)
	}
	for path, want := range map[string]pdp.Reason{"/odd/x-1": "ok", "/odd/x-..": "parameters_invalid", "/odd/x-.": "parameters_invalid", "/odd/x-": "no_matching_scope"} {
		if out := f.askHTTP(t, web(target(path))); out.Reason != want {
			t.Errorf("%s: %v %s", path, out.Verdict, out.Reason)
		}
	}
}
