package pdp_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/kelpie-authz/kelpie/pdp"
)

func sum(text string) string {
	hash := sha256.Sum256([]byte(text))
	return hex.EncodeToString(hash[:])
}

// What the parameters of a request are, by the digest of their bytes.
func TestHTTPParameters(t *testing.T) {
	t.Parallel()
	with := header
	noBody := func(in *pdp.HTTPRequest) {
		in.Body, in.BodyState = nil, pdp.BodyNone
		in.Headers = maps.Clone(in.Headers)
		delete(in.Headers, "content-type")
	}
	for name, tc := range map[string]struct {
		in   *pdp.HTTPRequest
		want string // "": none
	}{
		"none":                       {web(), ""},
		"query":                      {web(target("/notes/1?a=1&b=x%20y+z&c=&d")), `{"a":"1","b":"x y z","c":"","d":""}`},
		"query, empty pairs":         {web(target("/notes/1?&&a=1&")), `{"a":"1"}`},
		"query, equals in a value":   {web(target("/notes/1?a=b=c")), `{"a":"b=c"}`},
		"query, a question mark":     {web(target("/notes/1?a=?b")), `{"a":"?b"}`},
		"query, quotes":              {web(target("/notes/1?a=%22%7D%5C")), `{"a":"\"}\\"}`},
		"query, only a mark":         {web(target("/notes/1?")), ""},
		"path and header":            {web(post("/t/x%20y/pay", ""), noBody, with("idempotency-key", "k")), `{"tenant":"x y","key":"k"}`},
		"brackets":                   {web(target("/notes/1?filter[a]=1&filter[b]=2")), `{"filter[a]":"1","filter[b]":"2"}`},
		"lists":                      {web(post("/t/x/pay?tag=a&q=1&tag=b", ""), noBody), `{"tenant":"x","q":"1","tag":["a","b"]}`},
		"a list of one":              {web(post("/t/x/pay?tag=a", ""), noBody), `{"tenant":"x","tag":["a"]}`},
		"body":                       {web(post("/pay/rent", `{"amount":82.50, "n":9007199254740991}`)), `{"amount":82.50, "n":9007199254740991}`},
		"body, blanks around":        {web(post("/pay/rent", " \n{ \"a\" : 1 } \t")), `{"a" : 1}`},
		"body, nothing in it":        {web(post("/pay/rent", `{ }`)), `{}`},
		"body behind the path":       {web(post("/t/x/pay", `{"a":1}`)), `{"tenant":"x","a":1}`},
		"empty body behind the path": {web(post("/t/x/pay", `{}`)), `{"tenant":"x"}`},
		"body, charset":              {web(post("/pay/rent", `{"a":1}`), with("content-type", "application/json; charset=UTF-8")), `{"a":1}`},
		"body, +json":                {web(post("/pay/rent", `{"a":1}`), with("content-type", "application/merge-patch+json")), `{"a":1}`},
		"body, capitals":             {web(post("/pay/rent", `{"a":1}`), with("content-type", "Application/JSON")), `{"a":1}`},
		"body, identity":             {web(post("/pay/rent", `{"a":1}`), with("content-encoding", "identity")), `{"a":1}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, webPolicy)
			out := f.askHTTP(t, tc.in)
			rec := f.rec.taken()[0]
			state, want := pdp.ParametersComplete, sum(tc.want)
			if tc.want == "" {
				state, want = pdp.ParametersUnspecified, ""
			}
			if rec.ParametersState != state || rec.ParametersDigest != want {
				t.Errorf("state %v, %v %s %s", rec.ParametersState, out.Verdict, out.Reason, out.Message)
			}
		})
	}
}

// A body that was not seen whole is never taken for what was seen, and a
// malformed one never for an object.
func TestHTTPBodies(t *testing.T) {
	t.Parallel()
	state := func(s pdp.BodyState) func(*pdp.HTTPRequest) {
		return func(in *pdp.HTTPRequest) { in.BodyState = s }
	}
	empty := func(in *pdp.HTTPRequest) { in.Body = nil }
	with := header
	for name, tc := range map[string]struct {
		in    *pdp.HTTPRequest
		state pdp.ParametersState
		deny  pdp.Reason // "": judged
	}{
		"cut":                           {web(post("/pay/rent?a=1", `{"a":1}`), state(pdp.BodyCut)), pdp.ParametersTruncated, ""},
		"not passed on":                 {web(post("/pay/rent?a=1", ""), empty, state(pdp.BodyUnseen)), pdp.ParametersNotSeen, ""},
		"none, all are sent":            {web(post("/pay/rent", ""), empty, state(pdp.BodyUnknown)), pdp.ParametersUnspecified, ""},
		"text":                          {web(post("/pay/rent", `{"a":1}`), with("content-type", "text/plain")), pdp.ParametersNotSeen, ""},
		"no type":                       {web(post("/pay/rent", `{"a":1}`), with("content-type", "")), pdp.ParametersNotSeen, ""},
		"a type of no form":             {web(post("/pay/rent", `{"a":1}`), with("content-type", "application/json; =")), pdp.ParametersNotSeen, ""},
		"json in a name":                {web(post("/pay/rent", `{"a":1}`), with("content-type", "application/jsonx")), pdp.ParametersNotSeen, ""},
		"+json of another tree":         {web(post("/pay/rent", `{"a":1}`), with("content-type", "text/x+json")), pdp.ParametersNotSeen, ""},
		"another charset":               {web(post("/pay/rent", `{"a":1}`), with("content-type", "application/json; charset=ISO-8859-1")), pdp.ParametersNotSeen, ""},
		"another alphabet":              {web(post("/pay/rent", `{"a":1}`), with("content-type", "application/json; charset=utf-16")), 0, "parameters_invalid"},
		"compressed":                    {web(post("/pay/rent", `{"a":1}`), with("content-encoding", "gzip")), 0, "parameters_invalid"},
		"a compressed form":             {web(post("/pay/rent", `a`), with("content-encoding", "gzip"), with("content-type", "application/x-www-form-urlencoded")), 0, "parameters_invalid"},
		"compressed text":               {web(post("/pay/rent", `a`), with("content-encoding", "gzip"), with("content-type", "text/plain")), pdp.ParametersNotSeen, ""},
		"compressed, unread":            {web(post("/upload", `{"a":1}`), with("content-encoding", "gzip")), pdp.ParametersNotSeen, ""},
		"a form":                        {web(post("/pay/rent", "a=1&_method=POST"), with("content-type", "application/x-www-form-urlencoded")), pdp.ParametersNotSeen, ""},
		"a multipart form":              {web(post("/upload", "--x\r\nContent-Disposition: form-data; name=\"request_method\"\r\n\r\n_method"), with("content-type", "multipart/form-data; boundary=x")), pdp.ParametersNotSeen, ""},
		"a route without":               {web(post("/upload", `{"a":1,"a":2}`)), pdp.ParametersNotSeen, ""},
		"a route without, cut":          {web(post("/upload", `{"a":1}`), state(pdp.BodyCut)), pdp.ParametersNotSeen, ""},
		"a route without, nobody knows": {web(post("/upload", ""), empty, state(pdp.BodyUnknown)), pdp.ParametersNotSeen, ""},
		"a route without, none":         {web(post("/upload", ""), empty, state(pdp.BodyNone)), pdp.ParametersUnspecified, ""},
		"large":                         {web(post("/pay/rent", `{"a":"`+strings.Repeat("x", 64<<10)+`"}`)), pdp.ParametersTruncated, ""},
		"large with its query":          {web(post("/pay/rent?q="+strings.Repeat("y", 200), `{"a":"`+strings.Repeat("x", 64<<10-100)+`"}`)), pdp.ParametersTruncated, ""},
		"a list":                        {web(post("/pay/rent", `[{"a":1}]`)), 0, "parameters_invalid"},
		"in other brackets":             {web(post("/pay/rent", `["a":1]`)), 0, "parameters_invalid"},
		"a number":                      {web(post("/pay/rent", `1`)), 0, "parameters_invalid"},
		"nothing":                       {web(post("/pay/rent", ` `)), 0, "parameters_invalid"},
		"half":                          {web(post("/pay/rent", `{"a":1`)), 0, "parameters_invalid"},
		"two objects":                   {web(post("/pay/rent", `{"a":1}{"b":2}`)), 0, "parameters_invalid"},
		"two with a comma":              {web(post("/pay/rent", `{"a":1},{"b":2}`)), 0, "parameters_invalid"},
		"closing and opening":           {web(post("/t/x/pay", `{}, "b":{}`)), 0, "parameters_invalid"},
		"a comma alone":                 {web(post("/t/x/pay", `{,}`)), 0, "parameters_invalid"},
		"a comma in front":              {web(post("/t/x/pay", `{,"a":1}`)), 0, "parameters_invalid"},
		"a comma behind":                {web(post("/pay/rent", `{"a":1,}`)), 0, "parameters_invalid"},
		"a comment":                     {web(post("/pay/rent", `{/**/"a":1}`)), 0, "parameters_invalid"},
		"a byte order mark":             {web(post("/pay/rent", "\ufeff{}")), 0, "parameters_invalid"},
		"a name twice":                  {web(post("/pay/rent", `{"a":1,"a":2}`)), 0, "parameters_invalid"},
		"a name twice, escaped":         {web(post("/pay/rent", `{"a":1,"\u0061":2}`)), 0, "parameters_invalid"},
		"a name twice, below":           {web(post("/pay/rent", `{"x":{"a":1,"a":2}}`)), 0, "parameters_invalid"},
		"in other capitals":             {web(post("/pay/rent", `{"amount":50,"AMOUNT":5000}`)), 0, "parameters_invalid"},
		"in capitals, below":            {web(post("/pay/rent", `{"x":[{"amount":50,"Amount":5000}]}`)), 0, "parameters_invalid"},
		"in capitals of Unicode":        {web(post("/pay/rent", `{"ask":1,"a\u017fk":2}`)), 0, "parameters_invalid"},
		"in capitals, in the query":     {web(post("/pay/rent?Amount=1", `{"amount":2}`)), 0, "parameters_invalid"},
		"told apart by a dot":           {web(post("/pay/rent?owner_id=me&owner.id=you", `{}`)), 0, "parameters_invalid"},
		"told apart by a blank":         {web(post("/pay/rent?owner_id=me&+owner_id=you", `{}`)), 0, "parameters_invalid"},
		"plain and in brackets":         {web(post("/pay/rent?owner=me&owner[]=you", `{}`)), 0, "parameters_invalid"},
		"a NUL in a name":               {web(post("/pay/rent", `{"amount":1,"amount\u0000":820}`)), 0, "parameters_invalid"},
		"too many names":                {web(post("/pay/rent?a"+strings.Repeat("&b", 256), "")), 0, "parameters_invalid"},
		"in query and body":             {web(post("/pay/rent?amount=1", `{"amount":2}`)), 0, "parameters_invalid"},
		"in path and body":              {web(post("/t/x/pay", `{"tenant":"y"}`)), 0, "parameters_invalid"},
		"in header and body":            {web(post("/t/x/pay", `{"key":"y"}`), with("idempotency-key", "k")), 0, "parameters_invalid"},
		"in path and query":             {web(post("/t/x/pay?tenant=y", `{}`)), 0, "parameters_invalid"},
		"a list, and the body":          {web(post("/t/x/pay?tag=y", `{"tag":[]}`)), 0, "parameters_invalid"},
		"not UTF-8":                     {web(post("/pay/rent", "{\"a\":\"\xff\"}")), 0, "parameters_invalid"},
		"a header, not UTF-8":           {web(post("/t/x/pay", `{}`), with("idempotency-key", "\xff")), 0, "parameters_invalid"},
		"deep":                          {web(post("/pay/rent", strings.Repeat(`{"a":`, 33)+"1"+strings.Repeat("}", 33))), 0, "parameters_invalid"},
		"large integers":                {web(post("/pay/rent", `{"a":9007199254740993}`)), 0, "parameters_invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, webPolicy)
			out := f.askHTTP(t, tc.in)
			rec := f.rec.taken()[0]
			if tc.deny != "" {
				if out.Verdict != pdp.Deny || out.Reason != tc.deny {
					t.Errorf("%v %s, want DENY %s", out.Verdict, out.Reason, tc.deny)
				}
				return
			}
			if out.Reason == pdp.ReasonParametersInvalid || rec.ParametersState != tc.state || rec.ParametersDigest != "" {
				t.Errorf("%v %s, state %v", out.Verdict, out.Reason, rec.ParametersState)
			}
			if n := f.panics.Load(); n != 0 {
				t.Errorf("%d panics", n)
			}
		})
	}
}

// Without the policy's word that bodies are sent, a request of which nothing
// says that it has no body has parameters that were not seen.
func TestHTTPBodiesNotSent(t *testing.T) {
	t.Parallel()
	f := newFixture(t, strings.Replace(webPolicy, "  request_bodies: sent\n", "", 1))
	f.askHTTP(t, web(target("/notes/1?a=1")))
	f.askHTTP(t, web(target("/notes/1?a=1"), func(in *pdp.HTTPRequest) { in.BodyState = pdp.BodyNone }))
	recs := f.rec.taken()
	if recs[0].ParametersState != pdp.ParametersNotSeen || recs[1].ParametersState != pdp.ParametersComplete {
		t.Errorf("states %v and %v", recs[0].ParametersState, recs[1].ParametersState)
	}
	// An approval binds the parameters, so it is not asked for where they were not seen.
	out := f.askHTTP(t, web(agent("cleaner"), func(in *pdp.HTTPRequest) { in.Method = "DELETE" }))
	if out.Reason != pdp.ReasonParametersUnavailable {
		t.Errorf("%v %s", out.Verdict, out.Reason)
	}
}

// What is bound by an approval holds every part of the path, the query and the body.
func TestHTTPApprovalBindsTheRequest(t *testing.T) {
	t.Parallel()
	f := newFixture(t, strings.Replace(webPolicy, "actions: [pay], when: 'context.channel == \"email\"'", "actions: [pay]", 1))
	seenDigests := map[string]string{}
	for _, in := range []*pdp.HTTPRequest{
		web(post("/t/x/pay?q=1", `{"a":1}`)), web(post("/t/y/pay?q=1", `{"a":1}`)), web(post("/t/x/pay?q=2", `{"a":1}`)),
		web(post("/t/x/pay?q=1", `{"a":2}`)), web(post("/t/x/pay?q=1", `{"a":1}`), header("idempotency-key", "k")), web(post("/pay/rent", `{"a":1}`)),
	} {
		out := f.askHTTP(t, in)
		if out.Verdict != pdp.RequireApproval || out.Approval == nil || out.Approval.Digest == "" {
			t.Fatalf("%s: %v %s", in.Target, out.Verdict, out.Reason)
		}
		if before, twice := seenDigests[out.Approval.Digest]; twice {
			t.Errorf("%s %s has the digest of %s", in.Target, in.Body, before)
		}
		seenDigests[out.Approval.Digest] = in.Target + " " + string(in.Body)
	}
}

// FuzzAuthorizeHTTP sends any request: none panics, and none is allowed but
// for a path and an agent that the policy grants, by a rule written down here
// once more in the plainest way.
func FuzzAuthorizeHTTP(f *testing.F) {
	f.Add("GET", "notes.example.com", "/notes/1", "reader", "10.1.2.3", "x-agent", "reader", "application/json", []byte(nil), byte(1))
	f.Add("DELETE", "NOTES.example.com:80", "/notes/%61?x=1", "cleaner", "::ffff:10.1.2.3", "x-forwarded-client-cert", `URI="spiffe://a/b";Hash=1,By=x`, "", []byte(`{}`), byte(2))
	f.Add("POST", "bank.example.com", "/t/a/pay?tag=1&tag=2&_method=POST", "", "10.1.2.3", "x-agent", "payer", "application/json; charset=utf-8", []byte(`{"a":1}`), byte(2))
	f.Add("POST", "[::1]:1", "/pay/%2e%2e", "payer", "", "x-http-method-override", "GET", "application/x+json", []byte(`{"a":1,"a":2}`), byte(3))
	f.Add("GET", "a", "/tree/a//b", "reader", "10.1.2.3", "x-forwarded-for", "1.1.1.1,2.2.2.2", "application/x-www-form-urlencoded", []byte(`_method=%44`), byte(2))
	fix := newFixture(f, strings.Replace(webPolicy, "http:\n", "http:\n  source_ip: {trusted_hops: 0}\n", 1))
	f.Fuzz(func(t *testing.T, method, host, path, extension, peer, name, value, kind string, body []byte, state byte) {
		in := &pdp.HTTPRequest{
			Method: method, Host: host, Target: path, Peer: peer, Body: body, BodyState: pdp.BodyState(state),
			Headers: map[string]string{name: value, "content-type": kind},
		}
		if extension != "" {
			in.Extensions = map[string]string{"agent": extension}
		}
		var out pdp.HTTPDecision
		if err := fix.svc.AuthorizeHTTP(context.Background(), in, &out); err != nil {
			t.Fatal(err)
		}
		if fix.panics.Swap(0) != 0 {
			t.Fatalf("a panic for %+v", in)
		}
		if out.Verdict == pdp.Allow && !mayPassHTTP(in, &out) {
			t.Fatalf("ALLOW %s %s for %+v", out.Action, out.Resource, in)
		}
		if recs := fix.rec.taken(); len(recs) != 1 || recs[0].Verdict != out.Verdict {
			t.Fatalf("records %+v", recs)
		}
		fix.clock.advance(5e9)
	})
}

var anEscape = regexp.MustCompile(`%[0-9A-Fa-f]{2}`)

// mayPassHTTP is what the policy grants: reading notes, by a path whose
// segments are plain once decoded.
func mayPassHTTP(in *pdp.HTTPRequest, out *pdp.HTTPDecision) bool {
	path, _, _ := strings.Cut(in.Target, "?")
	segments := strings.Split(path, "/")
	if len(segments) < 3 || segments[0] != "" {
		return false
	}
	segments = segments[1:]
	for i, raw := range segments {
		text, err := url.PathUnescape(raw)
		plain := err == nil && text != "" && text != "." && text != ".." && utf8.ValidString(text) &&
			!strings.ContainsAny(text, `/\;?#`) && !strings.ContainsFunc(text, unicode.IsControl) && !anEscape.MatchString(text)
		if !plain {
			return false
		}
		segments[i] = text
	}
	reads := in.Method == http.MethodGet && (segments[0] == "tree" || len(segments) == 2 && segments[0] == "notes") ||
		in.Method == http.MethodHead && len(segments) == 2 && segments[0] == "notes"
	rest := strings.Join(segments[1:], "/")
	agents := []string{"reader", "roamer", "cleaner"}
	return reads && out.Action == "read" && out.Resource == "notes/"+rest && slices.Contains(agents, out.Agent) &&
		rest != "locked" && !strings.HasPrefix(rest, "locked/")
}
