package extauthz_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/proto"

	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/policy"
	"github.com/kelpie-authz/kelpie/server/extauthz"
)

// bypassPolicy grants bot to read leads but the locked ones, and to make small
// refunds; all the rest has to be talked out of it.
const bypassPolicy = `
scopes:
  leads.read: {actions: [read], resources: ["crm/leads/**"]}
  leads.delete: {actions: [delete], resources: ["crm/leads/*"]}
  refunds.create: {actions: [create], resources: [crm/refunds]}
  admin.read: {actions: [read], resources: ["crm/admin/**"]}
networks: {office: {cidrs: [10.0.0.0/8]}}
agents:
  bot: {owner: o@example.com, scopes: [leads.read, refunds.create], networks: [office]}
  "spiffe://prod.example/boss": {owner: o@example.com, scopes: [leads.read, refunds.create, admin.read], networks: [office]}
  boss:
    owner: o@example.com
    scopes: [leads.read, refunds.create, admin.read]
    grants: [{scope: leads.delete, unattended: Removes duplicates}]
    networks: [office]
deny:
  locked: {match: {resources: ["crm/leads/locked/**"]}}
  large: {match: {resources: [crm/refunds], when: "type(parameters.amount) != int || parameters.amount > 100"}}
limits: {all: {rate: 1000000/second, burst: 1000000, per: [agent]}}
http:
  agent_from: [{from: forwarded_client_cert}, {from: header, name: x-agent}]
  source_ip: {trusted_hops: 1}
  request_bodies: sent
  routes:
    lead: {hosts: [crm.example.com], methods: [GET], path: "/leads/{path...}", action: read, resource: "crm/leads/{path}"}
    remove: {hosts: [crm.example.com], methods: [DELETE], path: "/leads/{id}", action: delete, resource: "crm/leads/{id}"}
    refund: {hosts: [crm.example.com], methods: [POST], path: /refunds, action: create, resource: crm/refunds}
    admin: {hosts: [admin.example.com], methods: [GET], path: "/{path...}", action: read, resource: "crm/admin/{path}"}
`

type fixed struct{ snap *policy.Snapshot }

func (f fixed) Snapshot() *policy.Snapshot { return f.snap }

func realDoor(tb testing.TB, text string) *extauthz.API {
	tb.Helper()
	snap, err := policy.Compile([]policy.Document{{Name: "policy.yaml", Data: []byte(text)}})
	if err != nil {
		tb.Fatal(err)
	}
	memory, err := limiter.NewMemory(limiter.MemoryConfig{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = memory.Close() })
	service, err := pdp.New(pdp.Config{
		Policy: fixed{snap}, Limiter: memory, Panicked: func(_ string, value any, stack []byte) { panic(fmt.Sprintf("%v\n%s", value, stack)) },
		Recorder: pdp.RecorderFunc(func(context.Context, *pdp.Record) error { return nil }),
	})
	if err != nil {
		tb.Fatal(err)
	}
	return newDoor(tb, service)
}

// call is a request of bot that is allowed, before a case changes it.
func call() *authv3.CheckRequest {
	in := request(&authv3.AttributeContext_HttpRequest{
		Method: "GET", Path: "/leads/1", Host: "crm.example.com", Scheme: "https", Protocol: "HTTP/1.1",
		Headers: map[string]string{"x-agent": "bot", "x-forwarded-for": "10.9.9.9,10.1.2.3", "user-agent": "t"},
	})
	in.Attributes.Source.Principal = ""
	return in
}

type change = func(*authv3.CheckRequest)

func path(p string) change {
	return func(in *authv3.CheckRequest) { in.Attributes.Request.Http.Path = p }
}

func method(m string) change {
	return func(in *authv3.CheckRequest) { in.Attributes.Request.Http.Method = m }
}

func host(h string) change {
	return func(in *authv3.CheckRequest) { in.Attributes.Request.Http.Host = h }
}

func set(name, value string) change {
	return func(in *authv3.CheckRequest) { in.Attributes.Request.Http.Headers[name] = value }
}

// raw sends the headers as a list, with one more.
func raw(name, value string) change {
	return func(in *authv3.CheckRequest) {
		asked := in.GetAttributes().GetRequest().GetHttp()
		list := &corev3.HeaderMap{}
		for n, v := range asked.GetHeaders() {
			list.Headers = append(list.Headers, &corev3.HeaderValue{Key: n, Value: v})
		}
		list.Headers = append(list.Headers, &corev3.HeaderValue{Key: name, RawValue: []byte(value)})
		asked.Headers, asked.HeaderMap = nil, list
	}
}

// refund is one of the body's amount, whole unless a later change says otherwise.
func refund(body string) change {
	return func(in *authv3.CheckRequest) {
		asked := in.GetAttributes().GetRequest().GetHttp()
		asked.Method, asked.Path, asked.RawBody, asked.Size = "POST", "/refunds", []byte(body), int64(len(body))
		asked.Headers = maps.Clone(asked.GetHeaders())
		asked.Headers["content-type"] = "application/json"
		asked.Headers["x-envoy-auth-partial-body"] = "false"
	}
}

func bypassCases() map[string][]change {
	cases := map[string][]change{
		"locked by its plain name": {path("/leads/locked/1")},
		"an encoded letter":        {path("/leads/%6cocked/1")},
		"the other agent's verb":   {method("DELETE")},
		"method in small letters":  {method("get")},
		"method with a blank":      {method("GET ")},
		"CONNECT":                  {method("CONNECT"), path("")},
		"OPTIONS *":                {method("OPTIONS"), path("*")},
		"another host":             {host("other.example.com")},
		"the admin's host":         {host("admin.example.com")},
		"a host below":             {host("x.crm.example.com")},
		"a dot behind the host":    {host("crm.example.com.")},
		"user info in the host":    {host("crm.example.com@admin.example.com")},
		"a port that is none":      {host("crm.example.com:admin")},
		"a port twice":             {host("crm.example.com:1:2")},
		"two hosts":                {host("crm.example.com,admin.example.com")},
		"authority and host":       {set("host", "admin.example.com")},
		"authority said twice":     {set(":authority", "admin.example.com")},
		"path said twice":          {set(":path", "/leads/locked/1")},
		"method said twice":        {set(":method", "DELETE")},
		"x-original-url":           {set("x-original-url", "/leads/locked/1")},
		"x-rewrite-url":            {set("x-rewrite-url", "/leads/locked/1")},
		"method override":          {set("x-http-method-override", "DELETE")},
		"method override, second":  {set("x-method-override", "DELETE")},
		"method override, third":   {set("x-http-method", "DELETE")},
		"method override, query":   {path("/leads/1?_method=DELETE")},
		"method override, body":    {refund(`{"amount":1,"_method":"DELETE"}`)},
		"agent said twice":         {set("x-agent", "nobody,bot")},
		"agent listed twice":       {raw("X-Agent", "boss")},
		"agent with a slash":       {set("x-agent", "bot/")},
		"agent with capitals":      {set("x-agent", "Bot")},
		"agent with a blank":       {set("x-agent", "bot ")},
		"no agent":                 {set("x-agent", "")},
		"a bad certificate first":  {set("x-forwarded-client-cert", "URI=bot")},
		"a certificate of another": {set("x-forwarded-client-cert", "URI=spiffe://evil/bot")},
		"an address in front":      {set("x-forwarded-for", "10.9.9.9,203.0.113.7,10.1.2.3")},
		"an address behind":        {set("x-forwarded-for", "203.0.113.7,10.9.9.9")},
		"an address alone":         {set("x-forwarded-for", "10.1.2.3")},
		"an address listed twice":  {raw("x-forwarded-for", "203.0.113.7")},
		"an address with a port":   {set("x-forwarded-for", "10.9.9.9:1,10.1.2.3")},
		"too large":                {refund(`{"amount":820}`)},
		"amount twice":             {refund(`{"amount":1,"amount":820}`)},
		"amount twice, escaped":    {refund(`{"amount":1,"\u0061mount":820}`)},
		"amount as text":           {refund(`{"amount":"820"}`)},
		"amount as a fraction":     {refund(`{"amount":820.5}`)},
		"amount as an exponent":    {refund(`{"amount":8.2e2}`)},
		"amount in a list":         {refund(`{"amount":[820]}`)},
		"amount null":              {refund(`{"amount":null}`)},
		"amount missing":           {refund(`{}`)},
		"amount in another case":   {refund(`{"Amount":820}`)},
		"amount in the query too":  {refund(`{"amount":1}`), path("/refunds?amount=820")},
		"amount in the query":      {refund(`{"x":1}`), path("/refunds?amount=1")},
		"two objects":              {refund(`{"amount":1}{"amount":820}`)},
		"a list of objects":        {refund(`[{"amount":820}]`)},
		"cut":                      {refund(`{"amount":1}`), set("x-envoy-auth-partial-body", "true")},
		"cut, says the length":     {refund(`{"amount":1}`), set("content-length", "99")},
		"cut, says the size":       {refund(`{"amount":1}`), func(in *authv3.CheckRequest) { in.Attributes.Request.Http.Size = 99 }},
		"nobody says it is whole": {refund(`{"amount":1}`), func(in *authv3.CheckRequest) {
			delete(in.GetAttributes().GetRequest().GetHttp().GetHeaders(), "x-envoy-auth-partial-body")
		}},
		"partial said twice": {refund(`{"amount":1}`), raw("x-envoy-auth-partial-body", "true")},
		"text with a replacement": {refund(`{"amount":1,"to":"a!"}`), func(in *authv3.CheckRequest) {
			h := in.GetAttributes().GetRequest().GetHttp()
			h.Body, h.RawBody = string(h.GetRawBody()), nil
		}},
		"not passed on": {refund(`{"amount":1}`), func(in *authv3.CheckRequest) { in.Attributes.Request.Http.RawBody = nil }},
		"no body": {refund(`{"amount":1}`), func(in *authv3.CheckRequest) {
			h := in.GetAttributes().GetRequest().GetHttp()
			h.RawBody, h.Size = nil, 0
		}},
		"an upgrade": {func(in *authv3.CheckRequest) {
			h := in.GetAttributes().GetRequest().GetHttp()
			h.Method, h.Path, h.Headers["upgrade"], h.Headers["content-type"] = "POST", "/refunds?amount=1", "websocket", "application/json"
		}},
		"as text":                  {refund(`{"amount":1}`), set("content-type", "text/plain")},
		"as a form":                {refund(`{"amount":1}`), set("content-type", "application/x-www-form-urlencoded")},
		"types twice":              {refund(`{"amount":1}`), set("content-type", "application/json,text/plain")},
		"types listed twice":       {refund(`{"amount":1}`), raw("content-type", "text/plain")},
		"compressed":               {refund(`{"amount":1}`), set("content-encoding", "gzip")},
		"UTF-16":                   {refund(`{"amount":1}`), set("content-type", "application/json; charset=utf-16")},
		"a byte order mark":        {refund("\ufeff{\"amount\":1}")},
		"not UTF-8":                {refund("{\"amount\":1,\"a\":\"\xff\"}")},
		"no HTTP request":          {func(in *authv3.CheckRequest) { in.Attributes.Request = nil }},
		"nothing":                  {func(in *authv3.CheckRequest) { proto.Reset(in) }},
		"another principal":        {func(in *authv3.CheckRequest) { in.Attributes.Source.Principal = "spiffe://prod.example/boss" }, host("admin.example.com")},
		"extensions are no source": {func(in *authv3.CheckRequest) { in.Attributes.ContextExtensions = map[string]string{"x-agent": "boss"} }, method("DELETE")},
		"override in capitals":     {set("X-HTTP-Method-Override", "DELETE")},
		"original url in capitals": {set("X-Original-URL", "/leads/locked/1")},
		"encoding in capitals":     {refund(`{"amount":1}`), set("Content-Encoding", "gzip")},
		"agent in capitals":        {set("X-Agent", "boss")},
	}
	for _, p := range []string{
		"", "leads/1", "//leads/1", "/leads//1", "/leads/./1", "/./leads/1", "/leads/x/../1", "/leads/..", "/leads/1/..", "/leads/.", "/leads/1/",
		"/leads", "/leads/", "/Leads/1", "/LEADS/1", "/leads/x/..%2f..%2flocked/1", "/leads/x%2f1", "/leads/x%2F1", "/leads/x%5c1", `/leads/x\1`, "/leads/%2e%2e/1",
		"/leads/.%2e/1", "/leads/%2E%2E/1", "/leads/%252e%252e/1", "/leads/%25252e/1", "/leads/%2525", "/leads/1;x=y", "/leads;x/1", "/leads/..;/1", "/leads/1%3bx",
		"/leads/1%00", "/leads/%00/1", "/leads/1%0d%0aX: y", "/leads/1%09", "/leads/1#x", "/leads/1%23x", "/leads/1%3f", "/leads/%c0%ae%c0%ae/1", "/leads/%c0%af1",
		"/leads/%e0%80%ae/1", "/leads/%f0%80%80%ae", "/leads/%ff", "/leads/\xc3\xa9", "/leads/%", "/leads/%1", "/leads/%u002e", "/leads/%g0",
		"http://crm.example.com/leads/1", "https://admin.example.com/x", "*", "/leads/1?a=1&a=2", "/leads/1?a=%zz", "/leads/1?a;b", "/leads/1?%00=1",
		"/leads/1?a=%c0%ae", "/leads/1?=x", "/leads/locked/%2e", "/leads/locked%2f1", "/leads/%6c%6f%63%6b%65%64/1", "/" + strings.Repeat("a/", 70) + "leads/1",
		"/leads/" + strings.Repeat("x", 3000),
	} {
		cases["path "+p] = []change{path(p)}
	}
	return cases
}

// None of it opens.
func TestBypassSuite(t *testing.T) {
	t.Parallel()
	api := realDoor(t, bypassPolicy)
	if out := check(t, api, call()); out.GetOkResponse() == nil {
		t.Fatalf("what is granted is denied: %v", out)
	}
	small := call()
	refund(`{"amount":82}`)(small)
	if out := check(t, api, small); out.GetOkResponse() == nil {
		t.Fatalf("a small refund is denied: %v", out)
	}
	// What the tricks are after is there: another agent, and another host, would open.
	for _, theirs := range [][]change{{set("x-agent", "boss"), method("DELETE")}, {set("x-agent", "boss"), host("admin.example.com")}} {
		in := call()
		for _, c := range theirs {
			c(in)
		}
		if out := check(t, api, in); out.GetOkResponse() == nil {
			t.Fatalf("what is granted to boss is denied: %v", out)
		}
	}
	ran := 0
	for name, changes := range bypassCases() {
		in := call()
		for _, c := range changes {
			c(in)
		}
		if out := check(t, api, in); out.GetOkResponse() != nil {
			t.Errorf("%s: allowed as %v", name, out.GetDynamicMetadata())
		}
		ran++
	}
	t.Logf("%d bypass cases ran against the adapter alone", ran)
	if ran != 139 {
		t.Errorf("%d cases, want 139", ran)
	}
}

// What is allowed is exactly what the server will read: the same path, decoded once.
func TestAllowedIsWhatIsForwarded(t *testing.T) {
	t.Parallel()
	api := realDoor(t, bypassPolicy)
	for p, want := range map[string]string{
		"/leads/1": "crm/leads/1", "/leads/a/b/c": "crm/leads/a/b/c", "/leads/a%20b": "crm/leads/a b", "/leads/%C3%A9": "crm/leads/é",
		"/leads/1?x=/../locked": "crm/leads/1", "/leads/..a": "crm/leads/..a", "/leads/a+b": "crm/leads/a+b", "/leads/100%25": "crm/leads/100%",
		"/leads/Locked/1": "crm/leads/Locked/1", "/leads/a%3Ab@c": "crm/leads/a:b@c", "/leads/locked1": "crm/leads/locked1",
	} {
		in := call()
		in.Attributes.Request.Http.Path = p
		out := check(t, api, in)
		if got := out.GetDynamicMetadata().AsMap()["resource"]; out.GetOkResponse() == nil || got != want {
			t.Errorf("%s: %v %v, want %s", p, got, out.GetStatus(), want)
		}
	}
}

// FuzzCheck sends any CheckRequest that can be encoded: no panic, no gRPC
// error, every answer well-formed, and no ALLOW but for a plain reading of leads.
func FuzzCheck(f *testing.F) {
	add := func(changes ...change) {
		in := call()
		for _, c := range changes {
			c(in)
		}
		wire, err := proto.Marshal(in)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire)
	}
	add()
	for _, changes := range bypassCases() {
		in := call()
		for _, c := range changes {
			c(in)
		}
		if wire, err := proto.Marshal(in); err == nil {
			f.Add(wire)
		}
	}
	api := realDoor(f, bypassPolicy)
	f.Fuzz(func(t *testing.T, wire []byte) {
		in := &authv3.CheckRequest{}
		if proto.Unmarshal(wire, in) != nil {
			extauthz.Undecodable(in)
		}
		out := check(t, api, in)
		if out.GetOkResponse() != nil {
			mayPass(t, in, out.GetDynamicMetadata().AsMap())
		}
	})
}

// mayPass fails for an ALLOW that bypassPolicy does not grant, by its rules
// written down once more in the plainest way.
func mayPass(t *testing.T, in *authv3.CheckRequest, meta map[string]any) {
	t.Helper()
	asked := in.GetAttributes().GetRequest().GetHttp()
	agent, _ := meta["agent"].(string)
	resource, _ := meta["resource"].(string)
	boss := agent == "boss" || agent == "spiffe://prod.example/boss"
	path, _, _ := strings.Cut(asked.GetPath(), "?")
	decoded, err := url.PathUnescape(path)
	leads := strings.HasPrefix(decoded, "/leads/") && !strings.HasPrefix(decoded+"/", "/leads/locked/")
	ok := err == nil && (agent == "bot" || boss) && fromOffice(in)
	switch asked.GetMethod() {
	case http.MethodGet:
		ok = ok && (leads && cutEqual(resource, "crm"+decoded) || boss && cutEqual(resource, "crm/admin"+decoded))
	case http.MethodDelete:
		ok = ok && boss && leads && cutEqual(resource, "crm"+decoded)
	case http.MethodPost:
		ok = ok && decoded == "/refunds" && resource == "crm/refunds" && smallRefund(asked)
	default:
		ok = false
	}
	if !ok {
		t.Fatalf("allowed %v for %v", meta, in)
	}
}

// cutEqual compares with what metadata may have cut.
func cutEqual(got, want string) bool {
	start, cut := strings.CutSuffix(got, "...")
	return got == want || cut && strings.HasPrefix(want, start)
}

// fromOffice tells whether the address in front of the proxy's own is of 10/8.
func fromOffice(in *authv3.CheckRequest) bool {
	var list []string
	asked := in.GetAttributes().GetRequest().GetHttp()
	for name, value := range asked.GetHeaders() {
		if strings.EqualFold(name, "x-forwarded-for") {
			list = append(list, value)
		}
	}
	for _, h := range asked.GetHeaderMap().GetHeaders() {
		if strings.EqualFold(h.GetKey(), "x-forwarded-for") {
			list = append(list, h.GetValue()+string(h.GetRawValue()))
		}
	}
	addresses := strings.Split(strings.Join(list, ","), ",")
	if len(addresses) < 2 {
		return false
	}
	addr, err := netip.ParseAddr(strings.Trim(addresses[len(addresses)-2], " \t"))
	return err == nil && netip.MustParsePrefix("10.0.0.0/8").Contains(addr.Unmap())
}

// smallRefund tells whether the body is one object with one amount of at most 100.
func smallRefund(asked *authv3.AttributeContext_HttpRequest) bool {
	body := asked.GetRawBody()
	if len(body) == 0 {
		body = []byte(asked.GetBody())
	}
	var members map[string]any
	amount, _ := 0.0, json.Unmarshal(body, &members)
	named := 0
	for name, value := range members {
		if strings.EqualFold(name, "amount") {
			number, ok := value.(float64)
			if !ok {
				return false
			}
			amount = number
			named++
		}
	}
	return named == 1 && amount <= 100 && amount == math.Trunc(amount)
}
