package pdp_test

import (
	"maps"
	"net/netip"
	"strings"
	"testing"

	"github.com/kelpie-authz/kelpie/pdp"
)

// tokens are verified payloads: name, then the path to the claim.
type tokens map[string]any

func (c tokens) Claim(name string, path []string) (claim any, found bool) {
	at, found := c[name]
	for _, step := range path {
		inner, _ := at.(map[string]any)
		at = inner[step]
	}
	return at, found
}

func token(claims map[string]any) func(*pdp.HTTPRequest) {
	return func(in *pdp.HTTPRequest) { in.Claims = tokens{"token": claims} }
}

func principal(id string) func(*pdp.HTTPRequest) {
	return func(in *pdp.HTTPRequest) { in.Principal = id }
}

// Each source gives the agent where it is the first that the request has; one
// that is there and bad is never stepped over.
func TestHTTPAgentSources(t *testing.T) {
	t.Parallel()
	const web1 = "spiffe://prod.example/ns/agents/sa/web"
	xfcc := func(v string) func(*pdp.HTTPRequest) { return header("x-forwarded-client-cert", v) }
	for name, tc := range map[string]struct {
		change []func(*pdp.HTTPRequest)
		want   string // "": not established
	}{
		"none":                            {nil, ""},
		"extension":                       {[]func(*pdp.HTTPRequest){agent("ext"), principal(web1), header("x-agent", "h")}, "ext"},
		"extension, empty":                {[]func(*pdp.HTTPRequest){agent(""), principal(web1)}, ""},
		"extension of another name":       {[]func(*pdp.HTTPRequest){func(in *pdp.HTTPRequest) { in.Extensions = map[string]string{"x": "y"} }, principal(web1)}, web1},
		"principal":                       {[]func(*pdp.HTTPRequest){principal(web1), header("x-agent", "h")}, web1},
		"principal, no SPIFFE id":         {[]func(*pdp.HTTPRequest){principal("CN=web"), header("x-agent", "h")}, ""},
		"principal, no path":              {[]func(*pdp.HTTPRequest){principal("spiffe://prod.example/")}, ""},
		"principal, dots":                 {[]func(*pdp.HTTPRequest){principal("spiffe://prod.example/../x")}, ""},
		"forwarded certificate":           {[]func(*pdp.HTTPRequest){xfcc("By=spiffe://p/x;Hash=ab;URI=" + web1)}, web1},
		"forwarded, quoted subject":       {[]func(*pdp.HTTPRequest){xfcc(`Hash=ab;Subject="CN=a;URI=spiffe://evil/x,O=\"b\"";URI=` + web1)}, web1},
		"forwarded, two elements":         {[]func(*pdp.HTTPRequest){xfcc("URI=spiffe://evil/x;Hash=1,By=p;URI=" + web1)}, web1},
		"forwarded, quoted URI":           {[]func(*pdp.HTTPRequest){xfcc(`URI="` + web1 + `"`)}, web1},
		"forwarded, two URIs":             {[]func(*pdp.HTTPRequest){xfcc("URI=" + web1 + ";URI=spiffe://evil/x")}, ""},
		"forwarded, no URI":               {[]func(*pdp.HTTPRequest){xfcc("Hash=ab;Subject=\"CN=x\""), header("x-agent", "h")}, ""},
		"forwarded, last without a URI":   {[]func(*pdp.HTTPRequest){xfcc("URI=" + web1 + ",Hash=ab")}, ""},
		"forwarded, open quote":           {[]func(*pdp.HTTPRequest){xfcc(`Subject="CN=x;URI=` + web1)}, ""},
		"forwarded, quote then text":      {[]func(*pdp.HTTPRequest){xfcc(`Subject="x"y;URI=` + web1)}, ""},
		"forwarded, nonsense":             {[]func(*pdp.HTTPRequest){xfcc("x"), header("x-agent", "h")}, ""},
		"forwarded, empty":                {[]func(*pdp.HTTPRequest){xfcc(""), header("x-agent", "h")}, ""},
		"forwarded, ends with a comma":    {[]func(*pdp.HTTPRequest){xfcc("URI=" + web1 + ",")}, ""},
		"forwarded, ends in an escape":    {[]func(*pdp.HTTPRequest){xfcc(`Subject="x\`)}, ""},
		"token":                           {[]func(*pdp.HTTPRequest){token(map[string]any{"act": map[string]any{"client": "bot"}}), header("x-agent", "h")}, "bot"},
		"token, claim is no text":         {[]func(*pdp.HTTPRequest){token(map[string]any{"act": map[string]any{"client": 7.0}}), header("x-agent", "h")}, ""},
		"token, claim is empty":           {[]func(*pdp.HTTPRequest){token(map[string]any{"act": map[string]any{"client": ""}}), header("x-agent", "h")}, ""},
		"token without the claim":         {[]func(*pdp.HTTPRequest){token(map[string]any{"act": map[string]any{}}), header("x-agent", "h")}, ""},
		"header":                          {[]func(*pdp.HTTPRequest){header("x-agent", "h")}, "h"},
		"header, twice":                   {[]func(*pdp.HTTPRequest){header("x-agent", "a,b")}, ""},
		"header, with a blank":            {[]func(*pdp.HTTPRequest){header("x-agent", "Bearer x")}, ""},
		"forwarded, an empty URI first":   {[]func(*pdp.HTTPRequest){xfcc("URI=;URI=" + web1)}, ""},
		"header, empty":                   {[]func(*pdp.HTTPRequest){header("x-agent", "")}, ""},
		"header, a slash at the end":      {[]func(*pdp.HTTPRequest){header("x-agent", "a/")}, ""},
		"header, control character":       {[]func(*pdp.HTTPRequest){header("x-agent", "a\x01")}, ""},
		"header, not UTF-8":               {[]func(*pdp.HTTPRequest){header("x-agent", "a\xff")}, ""},
		"header, too long":                {[]func(*pdp.HTTPRequest){header("x-agent", strings.Repeat("a", 1025))}, ""},
		"another header is not looked at": {[]func(*pdp.HTTPRequest){header("x-agent-id", "h"), header("x-kelpie-agent", "h")}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, webPolicy) // It knows none of these agents: what is looked at is who was established.
			out := f.askHTTP(t, web(append([]func(*pdp.HTTPRequest){noAgent}, tc.change...)...))
			if tc.want == "" {
				if out.Reason != pdp.ReasonUnauthenticatedIdentity || out.Verdict != pdp.Deny {
					t.Errorf("%v %s for agent %q", out.Verdict, out.Reason, out.Agent)
				}
				return
			}
			if out.Agent != tc.want || out.Reason != pdp.ReasonAgentUnknown {
				t.Errorf("agent %q, %v %s", out.Agent, out.Verdict, out.Reason)
			}
		})
	}
}

// A source that the policy does not name is not looked at.
func TestHTTPOnlyNamedSources(t *testing.T) {
	t.Parallel()
	only := strings.Replace(webPolicy, `    - {from: context_extension, name: agent}
    - {from: principal}
    - {from: forwarded_client_cert}
    - {from: jwt, name: token, claim: [act, client]}
    - {from: header, name: x-agent}
`, "    - {from: jwt, name: token, claim: [agent]}\n", 1)
	if only == webPolicy {
		t.Fatal("the policy has changed")
	}
	f := newFixture(t, only)
	all := web(agent("reader"), principal("spiffe://a/b"), header("x-agent", "reader"), header("x-forwarded-client-cert", "URI=spiffe://a/b"))
	if out := f.askHTTP(t, all); out.Reason != pdp.ReasonUnauthenticatedIdentity {
		t.Errorf("%v %s", out.Verdict, out.Reason)
	}
	token(map[string]any{"agent": "reader", "sub": "ada@example.com"})(all)
	if out := f.askHTTP(t, all); out.Verdict != pdp.Allow || out.Agent != "reader" {
		t.Errorf("%v %s", out.Verdict, out.Reason)
	}
	recs := f.rec.taken()
	if got := recs[len(recs)-1].Subject; got != "ada@example.com" {
		t.Errorf("subject %q", got)
	}
	// A token that names no human says that there is none, whatever a header says.
	token(map[string]any{"agent": "reader"})(all)
	all.Headers["x-subject"] = "eve@example.com"
	if out := f.askHTTP(t, all); out.Verdict != pdp.Allow {
		t.Errorf("%v %s", out.Verdict, out.Reason)
	}
	if recs := f.rec.taken(); recs[0].Subject != "" {
		t.Errorf("subject %q", recs[0].Subject)
	}
	token(map[string]any{"agent": "reader", "sub": 7.0})(all)
	if out := f.askHTTP(t, all); out.Reason != pdp.ReasonUnauthenticatedIdentity {
		t.Errorf("%v %s", out.Verdict, out.Reason)
	}
}

func TestHTTPHopsOfCertificates(t *testing.T) {
	t.Parallel()
	f := newFixture(t, strings.Replace(webPolicy, "{from: forwarded_client_cert}", "{from: forwarded_client_cert, hops: 1}", 1))
	for value, want := range map[string]string{
		"URI=spiffe://a/client,URI=spiffe://a/proxy":                       "spiffe://a/client",
		"URI=spiffe://evil/x,URI=spiffe://a/client,URI=spiffe://a/proxy":   "spiffe://a/client",
		"URI=spiffe://a/client":                                            "",
		"URI=spiffe://a/client;URI=spiffe://a/other,URI=spiffe://a/proxy,": "",
	} {
		if out := f.askHTTP(t, web(noAgent, header("x-forwarded-client-cert", value))); out.Agent != want {
			t.Errorf("%s: agent %q, want %q", value, out.Agent, want)
		}
	}
}

func TestHTTPSourceAddress(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		config, forwarded, peer string
		want                    string
		reason                  pdp.Reason // "" means ok
	}{
		"the peer":                           {"", "192.0.2.9", "10.1.2.3", "10.1.2.3", ""},
		"the peer, IPv4 in IPv6":             {"", "", "::ffff:10.1.2.3", "10.1.2.3", ""},
		"no peer":                            {"", "10.1.2.3", "", "", "ip_not_allowed"},
		"one hop":                            {"{trusted_hops: 1}", "10.9.9.9,10.1.2.3,192.0.2.1", "192.0.2.1", "10.1.2.3", ""},
		"one hop, spaces":                    {"{trusted_hops: 1}", "10.9.9.9, 10.1.2.3 ,\t192.0.2.1", "192.0.2.1", "10.1.2.3", ""},
		"one hop, spoofed":                   {"{trusted_hops: 1}", "10.1.2.3,203.0.113.7,192.0.2.1", "192.0.2.1", "203.0.113.7", "ip_not_allowed"},
		"one hop, none in front":             {"{trusted_hops: 1}", "192.0.2.1", "192.0.2.1", "", "ip_not_allowed"},
		"one hop, peer not added":            {"{trusted_hops: 1}", "10.1.2.3", "192.0.2.1", "", "header_mismatch"},
		"one hop, no header":                 {"{trusted_hops: 1}", "", "192.0.2.1", "", "header_mismatch"},
		"one hop, no peer":                   {"{trusted_hops: 1}", "10.1.2.3,192.0.2.1", "", "", "header_mismatch"},
		"one hop, a local proxy":             {"{trusted_hops: 1}", "10.1.2.3,192.0.2.1", "127.0.0.1", "10.1.2.3", ""},
		"one hop, a local proxy by loopback": {"{trusted_hops: 1}", "10.1.2.3,127.0.0.1", "127.0.0.1", "10.1.2.3", ""},
		"one hop, a local proxy, no address of this machine": {"{trusted_hops: 1}", "10.9.9.9,203.0.113.7", "127.0.0.1", "", "header_mismatch"},
		"two hops":                           {"{trusted_hops: 2}", "10.7.7.7,10.1.2.3,198.51.100.1,192.0.2.1", "192.0.2.1", "10.1.2.3", ""},
		"peer not appended":                  {"{trusted_hops: 1, peer_appended: false}", "10.9.9.9,10.1.2.3", "192.0.2.1", "10.1.2.3", ""},
		"peer not appended, no header":       {"{trusted_hops: 1, peer_appended: false}", "", "10.1.2.3", "", "ip_not_allowed"},
		"a port":                             {"{trusted_hops: 1}", "10.1.2.3:80,192.0.2.1", "192.0.2.1", "", "parameters_invalid"},
		"no address":                         {"{trusted_hops: 1}", "unknown,192.0.2.1", "192.0.2.1", "", "parameters_invalid"},
		"the peer in other clothes":          {"{trusted_hops: 1}", "10.1.2.3,192.0.2.1", "::ffff:192.0.2.1", "10.1.2.3", ""},
		"an empty place is no nearer one":    {"{trusted_hops: 1}", "10.1.2.3,,192.0.2.1", "192.0.2.1", "", "ip_not_allowed"},
		"the header is not looked at":        {"{trusted_hops: 0}", "10.1.2.3", "203.0.113.7", "203.0.113.7", "ip_not_allowed"},
		"the last address is not an address": {"{trusted_hops: 1}", "10.1.2.3,x", "192.0.2.1", "", "header_mismatch"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := webPolicy
			if tc.config != "" {
				text = strings.Replace(text, "http:\n", "http:\n  source_ip: "+tc.config+"\n", 1)
			}
			f := newFixture(t, text, func(c *pdp.Config) {
				c.Local = func(a netip.Addr) bool { return a == netip.MustParseAddr("192.0.2.1") }
			})
			out := f.askHTTP(t, web(header("x-forwarded-for", tc.forwarded), func(in *pdp.HTTPRequest) {
				in.Peer = tc.peer
				if tc.forwarded == "" {
					in.Headers = maps.Clone(in.Headers)
					delete(in.Headers, "x-forwarded-for")
				}
			}))
			want := tc.reason
			if want == "" {
				want = pdp.ReasonOK
			}
			if out.Reason != want || (out.Verdict == pdp.Allow) != (want == pdp.ReasonOK) {
				t.Errorf("%v %s %s, want %s", out.Verdict, out.Reason, out.Message, want)
			}
			if recs := f.rec.taken(); tc.want != "" && recs[0].SourceIP != tc.want {
				t.Errorf("source_ip %q, want %q", recs[0].SourceIP, tc.want)
			}
		})
	}
}
