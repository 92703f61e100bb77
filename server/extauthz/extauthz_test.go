package extauthz_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/server/extauthz"
)

// decider answers with what it holds, and keeps what it was asked.
type decider struct {
	dec   pdp.HTTPDecision
	err   error
	asked pdp.HTTPRequest
	claim func(pdp.Claims)
}

func (d *decider) AuthorizeHTTP(_ context.Context, in *pdp.HTTPRequest, out *pdp.HTTPDecision) error {
	d.asked = *in
	d.asked.Headers, d.asked.Extensions = maps.Clone(in.Headers), maps.Clone(in.Extensions)
	if d.claim != nil {
		d.claim(in.Claims)
	}
	*out = d.dec
	return d.err
}

// testingT is what the tests of this package and rapid's have alike.
type testingT interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Fatal(args ...any)
}

func newDoor(tb testingT, d extauthz.Decider) *extauthz.API {
	tb.Helper()
	api, err := extauthz.New(extauthz.Config{Decider: d, Standing: func(context.Context) (string, error) { return "unix", nil }})
	if err != nil {
		tb.Fatal(err)
	}
	return api
}

func check(tb testingT, api *extauthz.API, in *authv3.CheckRequest) *authv3.CheckResponse {
	tb.Helper()
	out, err := api.Check(context.Background(), in)
	if err != nil {
		tb.Fatalf("a gRPC error: %v", err)
	}
	wire, err := proto.Marshal(out)
	if err != nil {
		tb.Fatalf("an answer that cannot be sent: %v", err)
	}
	got := &authv3.CheckResponse{}
	if err := proto.Unmarshal(wire, got); err != nil {
		tb.Fatalf("an answer that cannot be read: %v", err)
	}
	wellFormed(tb, got)
	return got
}

// wellFormed holds of every answer: a status, one body, and both agree.
func wellFormed(tb testingT, out *authv3.CheckResponse) {
	tb.Helper()
	if out.GetStatus() == nil || out.GetHttpResponse() == nil {
		tb.Fatalf("an answer without status or body: %v", out)
	}
	ok, denied := out.GetOkResponse(), out.GetDeniedResponse()
	switch code := codes.Code(out.GetStatus().GetCode()); {
	case code == codes.OK && ok != nil && denied == nil:
	case (code == codes.PermissionDenied || code == codes.Unauthenticated) && denied != nil && ok == nil:
		if s := denied.GetStatus().GetCode(); s < 400 || s > 599 {
			tb.Errorf("denied with HTTP %d", s)
		}
		if !json.Valid([]byte(denied.GetBody())) {
			tb.Errorf("the body is no JSON: %s", denied.GetBody())
		}
	default:
		tb.Fatalf("status %v with %v", code, out)
	}
	if unknown := unknownIn(out.ProtoReflect()); unknown != "" {
		tb.Fatalf("an answer with fields that nobody knows, in %s", unknown)
	}
}

// unknownIn names the message of an answer that has unknown fields.
func unknownIn(m protoreflect.Message) string {
	if len(m.GetUnknown()) > 0 {
		return string(m.Descriptor().FullName())
	}
	found := ""
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				found += unknownIn(v.List().Get(i).Message())
			}
		case f.IsMap():
			v.Map().Range(func(_ protoreflect.MapKey, e protoreflect.Value) bool { found += unknownIn(e.Message()); return true })
		default:
			found += unknownIn(v.Message())
		}
		return true
	})
	return found
}

func headersOf(list []*corev3.HeaderValueOption) map[string]string {
	out := map[string]string{}
	for _, h := range list {
		out[h.GetHeader().GetKey()] = h.GetHeader().GetValue()
	}
	return out
}

func request(asked *authv3.AttributeContext_HttpRequest) *authv3.CheckRequest {
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source: &authv3.AttributeContext_Peer{
			Principal: "spiffe://a/b",
			Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
				Address: "10.1.2.3", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 4711},
			}}},
		},
		Request:           &authv3.AttributeContext_Request{Http: asked},
		ContextExtensions: map[string]string{"agent": "x"},
	}}
}

func TestNewWantsItsParts(t *testing.T) {
	t.Parallel()
	for _, cfg := range []extauthz.Config{{}, {Decider: &decider{}}} {
		if _, err := extauthz.New(cfg); err == nil {
			t.Errorf("made of %+v", cfg)
		}
	}
}

func TestAllowed(t *testing.T) {
	t.Parallel()
	d := &decider{dec: pdp.HTTPDecision{
		Decision: pdp.Decision{
			Verdict: pdp.Allow, Reason: pdp.ReasonOK, ID: "d-1", PolicyVersion: "v1", Matched: []string{"grants/a/s"},
			Limits: []pdp.LimitStatus{{Name: "per-agent", Limit: 30, Remaining: 29, Reset: 1500 * time.Millisecond}, {Name: "all", Limit: 5, Remaining: -1}},
		},
		Agent: "a", Action: "read", Resource: "notes/1", Route: "http/note",
	}}
	out := check(t, newDoor(t, d), request(&authv3.AttributeContext_HttpRequest{
		Method: "GET", Path: "/notes/1", Host: "h", Headers: map[string]string{
			"x-kelpie-decision-id": "spoofed", "x-kelpie-agent": "spoofed", "x_kelpie_agent": "spoofed", "x-kelpie_x": "s", "x-kelpiex": "kept", "x-kelpi": "kept",
			"x.kelpie.agent": "spoofed", "x-envoy-max-retries": "20", "x-envoy-retry-on": "5xx", "x-envoy-retriable-status-codes": "200",
			"x-envoy-hedge-on-per-try-timeout": "true", "x-envoy-original-dst-host": "10.0.0.1", "x-envoy-attempt-count": "kept",
		},
	}))
	ok := out.GetOkResponse()
	if diff := cmp.Diff(map[string]string{"x-kelpie-decision-id": "d-1"}, headersOf(ok.GetHeaders())); diff != "" {
		t.Errorf("upstream headers (-want +got):\n%s", diff)
	}
	want := map[string]string{
		"x-kelpie-decision-id": "d-1", "ratelimit-policy": `"per-agent";q=30, "all";q=5`, "ratelimit": `"per-agent";r=29;t=2, "all";r=0;t=0`,
	}
	if diff := cmp.Diff(want, headersOf(ok.GetResponseHeadersToAdd())); diff != "" {
		t.Errorf("response headers (-want +got):\n%s", diff)
	}
	removed := slices.Sorted(slices.Values(ok.GetHeadersToRemove()))
	if diff := cmp.Diff([]string{
		"x-envoy-hedge-on-per-try-timeout", "x-envoy-max-retries", "x-envoy-original-dst-host", "x-envoy-retriable-status-codes", "x-envoy-retry-on",
		"x-kelpie-agent", "x-kelpie_x", "x.kelpie.agent", "x_kelpie_agent",
	}, removed); diff != "" {
		t.Errorf("removed (-want +got):\n%s", diff)
	}
	for _, h := range append(ok.GetHeaders(), ok.GetResponseHeadersToAdd()...) {
		overwrite := h.GetAppendAction() == corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD
		if own := h.GetHeader().GetKey() == "x-kelpie-decision-id"; own != overwrite {
			t.Errorf("%s: %v", h.GetHeader().GetKey(), h.GetAppendAction())
		}
	}
	if ok.GetDynamicMetadata() != nil { //nolint:staticcheck // It is deprecated, and set it would override the other.
		t.Error("the deprecated metadata is set")
	}
	meta := map[string]any{
		"decision": "ALLOW", "reason": "ok", "decision_id": "d-1", "agent": "a", "action": "read",
		"resource": "notes/1", "route": "http/note", "matched": []any{"grants/a/s"},
	}
	if diff := cmp.Diff(meta, out.GetDynamicMetadata().AsMap()); diff != "" {
		t.Errorf("metadata (-want +got):\n%s", diff)
	}
}

// Every reason has a status; ALLOW alone opens, whatever the reason says.
func TestStatusOfReasons(t *testing.T) {
	t.Parallel()
	other := map[pdp.Reason]int{
		"unauthenticated_identity": 401, "token_invalid": 401, "token_audience": 401, "token_lifetime_exceeded": 401, "sender_constraint_failed": 401,
		"credential_unknown": 401, "credential_revoked": 401, "credential_age_exceeded": 401,
		"rate_limited": 429, "quota_exhausted": 429, "loop_detected": 429, "approval_quota": 429,
		"parameters_invalid": 400, "header_mismatch": 400,
		"dependency_unavailable": 503, "audit_unavailable": 503, "internal_error": 503,
	}
	seen := 0
	for _, reason := range pdp.AllReasons() {
		for _, verdict := range []pdp.Verdict{pdp.Deny, pdp.RequireApproval, pdp.VerdictNone, pdp.Verdict(9)} {
			d := &decider{dec: pdp.HTTPDecision{Decision: pdp.Decision{Verdict: verdict, Reason: reason, ID: "d-1", WouldBe: pdp.Allow}}}
			out := check(t, newDoor(t, d), request(nil))
			want := other[reason]
			if want == 0 {
				want = http.StatusForbidden
			}
			if got := int(out.GetDeniedResponse().GetStatus().GetCode()); got != want {
				t.Errorf("%v %s: HTTP %d, want %d", verdict, reason, got, want)
			}
			wantCode := codes.PermissionDenied
			if want == http.StatusUnauthorized {
				wantCode = codes.Unauthenticated
			}
			if got := codes.Code(out.GetStatus().GetCode()); got != wantCode {
				t.Errorf("%v %s: %v", verdict, reason, got)
			}
			h := headersOf(out.GetDeniedResponse().GetHeaders())
			if (want == 401) != strings.HasPrefix(h["www-authenticate"], "Bearer ") || h["x-kelpie-decision-id"] != "d-1" || h["content-type"] != "application/json" {
				t.Errorf("%s: headers %v", reason, h)
			}
			seen++
		}
	}
	if seen != 42*4 {
		t.Errorf("%d answers", seen)
	}
}

func TestDenied(t *testing.T) {
	t.Parallel()
	expires := time.Date(2026, 11, 2, 9, 0, 0, 0, time.UTC)
	for name, tc := range map[string]struct {
		dec     pdp.Decision
		headers map[string]string
		body    string
	}{
		"limited": {
			pdp.Decision{
				Verdict: pdp.Deny, Reason: pdp.ReasonRateLimited, Message: "Later.", ID: "d", Next: pdp.NextRetry, RetryAfter: 1001 * time.Millisecond,
				Matched: []string{"limits/per-agent"}, Limits: []pdp.LimitStatus{{Name: "per-agent", Limit: 3, Reset: time.Minute}},
			},
			map[string]string{"retry-after": "2", "ratelimit-policy": `"per-agent";q=3`, "ratelimit": `"per-agent";r=0;t=60`},
			`{"decision":"DENY","reason":"rate_limited","message":"Later.","decision_id":"d","next_action":"retry","retry_after_seconds":2}`,
		},
		"scope": {
			pdp.Decision{Verdict: pdp.Deny, Reason: pdp.ReasonInsufficientScope, Message: "No.", ID: "d", Next: pdp.NextRequest, RequiredScopes: []string{"a", "b"}},
			map[string]string{"www-authenticate": `Bearer realm="kelpie", error="insufficient_scope", scope="a"`},
			`{"decision":"DENY","reason":"insufficient_scope","message":"No.","decision_id":"d","next_action":"request","required_scopes":["a","b"]}`,
		},
		"approval": {
			pdp.Decision{
				Verdict: pdp.RequireApproval, Reason: pdp.ReasonApprovalPending, Message: "Wait.", ID: "d", Next: pdp.NextWait,
				Approval: &pdp.Approval{ID: "ap", State: pdp.ApprovalPending, Digest: "ff", ExpiresAt: expires, Rules: []pdp.ApprovalRequirement{{Rule: "approvals/secret", Groups: []string{"secret"}}}},
			},
			map[string]string{},
			`{"decision":"REQUIRE_APPROVAL","reason":"approval_pending","message":"Wait.","decision_id":"d","next_action":"wait","approval":{"id":"ap","state":"pending","digest":"ff","expires_at":"2026-11-02T09:00:00Z"}}`,
		},
		"token": {
			pdp.Decision{Verdict: pdp.Deny, Reason: pdp.ReasonTokenInvalid, Message: "No.", ID: "d", Next: pdp.NextNone},
			map[string]string{"www-authenticate": `Bearer realm="kelpie", error="invalid_token"`},
			`{"decision":"DENY","reason":"token_invalid","message":"No.","decision_id":"d","next_action":"none"}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out := check(t, newDoor(t, &decider{dec: pdp.HTTPDecision{Decision: tc.dec}}), request(nil))
			maps.Copy(tc.headers, map[string]string{"content-type": "application/json", "cache-control": "no-store", "x-kelpie-decision-id": "d"})
			if diff := cmp.Diff(tc.headers, headersOf(out.GetDeniedResponse().GetHeaders())); diff != "" {
				t.Errorf("headers (-want +got):\n%s", diff)
			}
			if got := out.GetDeniedResponse().GetBody(); got != tc.body+"\n" {
				t.Errorf("body %s", got)
			}
			if got := out.GetDynamicMetadata().AsMap()["reason"]; got != string(tc.dec.Reason) {
				t.Errorf("metadata %v", out.GetDynamicMetadata())
			}
		})
	}
}

// Where no decision was made the answer is denied all the same.
func TestNoDecisionIsDenied(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]int{
		pdp.ErrNoPolicy: 503, context.Canceled: 503, io.EOF: 503, errors.New("secret"): 503,
	} {
		d := &decider{err: err, dec: pdp.HTTPDecision{Decision: pdp.Decision{Verdict: pdp.Allow}}}
		out := check(t, newDoor(t, d), request(nil))
		if got := int(out.GetDeniedResponse().GetStatus().GetCode()); got != want || strings.Contains(out.GetDeniedResponse().GetBody(), "secret") {
			t.Errorf("%v: %v", err, out)
		}
		if headersOf(out.GetDeniedResponse().GetHeaders())["retry-after"] != "1" {
			t.Errorf("%v: no Retry-After", err)
		}
	}
	for code := codes.OK + 1; code <= codes.Unauthenticated; code++ {
		out, ok := extauthz.Refuse(status.Error(code, "why")).(*authv3.CheckResponse)
		if !ok || out.GetDeniedResponse() == nil {
			t.Fatalf("%v: %v", code, out)
		}
		wellFormed(t, out)
	}
	api, err := extauthz.New(extauthz.Config{Decider: &decider{dec: pdp.HTTPDecision{Decision: pdp.Decision{Verdict: pdp.Allow}}}, Standing: func(context.Context) (string, error) {
		return "", status.Error(codes.PermissionDenied, "no gateway is admitted here")
	}})
	if err != nil {
		t.Fatal(err)
	}
	if out := check(t, api, request(nil)); out.GetDeniedResponse().GetStatus().GetCode() != 403 {
		t.Errorf("a gateway that is not admitted: %v", out)
	}
}

func TestUndecodable(t *testing.T) {
	t.Parallel()
	in := request(&authv3.AttributeContext_HttpRequest{Method: "GET"})
	if !extauthz.Undecodable(in) || in.GetAttributes() != nil {
		t.Errorf("not emptied: %v", in)
	}
	if extauthz.Undecodable(&structpb.Struct{}) {
		t.Error("takes the messages of others")
	}
}

func TestRequestIsTranslatedWhole(t *testing.T) {
	t.Parallel()
	in := request(&authv3.AttributeContext_HttpRequest{Method: "GET", Path: "/a?b", Host: "h:1", Headers: map[string]string{"a": "1"}})
	in.Attributes.MetadataContext = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
		"envoy.filters.http.jwt_authn": object(t, map[string]any{"token": map[string]any{"sub": "ada", "n": 1.0, "act": map[string]any{"sub": "bot"}}}),
		"another":                      object(t, map[string]any{"token": map[string]any{"sub": "eve"}}),
	}}
	d := &decider{claim: func(c pdp.Claims) {
		for _, tc := range []struct {
			name  string
			path  []string
			claim any // "?": something that is no text
			found bool
		}{
			{"token", []string{"sub"}, "ada", true},
			{"token", []string{"act", "sub"}, "bot", true},
			{"token", []string{"n"}, "?", true},
			{"token", []string{"act"}, "?", true},
			{"token", []string{"none"}, nil, true},
			{"token", []string{"sub", "deeper"}, nil, true},
			{"none", []string{"sub"}, nil, false},
		} {
			claim, found := c.Claim(tc.name, tc.path)
			if _, text := claim.(string); claim != nil && !text {
				claim = "?"
			}
			if claim != tc.claim || found != tc.found {
				t.Errorf("%v: %v %v", tc.path, claim, found)
			}
		}
	}}
	check(t, newDoor(t, d), in)
	want := pdp.HTTPRequest{
		Method: "GET", Host: "h:1", Target: "/a?b", Headers: map[string]string{"a": "1"}, Peer: "10.1.2.3",
		Principal: "spiffe://a/b", Extensions: map[string]string{"agent": "x"}, Gateway: "unix",
	}
	d.asked.Claims, d.claim = nil, nil
	if diff := cmp.Diff(want, d.asked); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// A TCP connection, and nothing at all.
	for _, in := range []*authv3.CheckRequest{request(nil), {}, nil} {
		check(t, newDoor(t, d), in)
		if d.asked.Method != "" || d.asked.Target != "" || d.asked.Claims != nil {
			t.Errorf("%+v", d.asked)
		}
	}
}

func object(tb testing.TB, m map[string]any) *structpb.Struct {
	tb.Helper()
	s, err := structpb.NewStruct(m)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// The raw list of headers is read as the map is, whatever the calls before held.
func TestRawHeaders(t *testing.T) {
	t.Parallel()
	d := &decider{}
	api := newDoor(t, d)
	for range 3 {
		check(t, api, request(&authv3.AttributeContext_HttpRequest{HeaderMap: &corev3.HeaderMap{Headers: []*corev3.HeaderValue{
			{Key: "X-Agent", Value: "a"}, {Key: "x-agent", RawValue: []byte("b")}, {Key: "bad", RawValue: []byte("\xff")},
		}}}))
		if diff := cmp.Diff(map[string]string{"x-agent": "a,b", "bad": "\xff"}, d.asked.Headers); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
		check(t, api, request(&authv3.AttributeContext_HttpRequest{HeaderMap: &corev3.HeaderMap{}}))
		if len(d.asked.Headers) != 0 {
			t.Fatalf("headers of another call: %v", d.asked.Headers)
		}
	}
}

func TestBodies(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		raw, text string
		size      int64
		headers   map[string]string
		want      pdp.BodyState
	}{
		"nothing is known":              {want: pdp.BodyUnknown},
		"no body":                       {headers: map[string]string{"content-length": "0"}, want: pdp.BodyNone},
		"not sent":                      {headers: map[string]string{"content-length": "5"}, want: pdp.BodyUnseen},
		"not sent, some arrived":        {size: 3, want: pdp.BodyUnseen},
		"a length that is none":         {headers: map[string]string{"content-length": "0,0"}, want: pdp.BodyUnseen},
		"a negative length":             {headers: map[string]string{"content-length": "-0"}, want: pdp.BodyUnseen},
		"an upgrade":                    {headers: map[string]string{"upgrade": "websocket"}, want: pdp.BodyUnseen},
		"an upgrade that says none":     {headers: map[string]string{"upgrade": "websocket", "content-length": "0"}, want: pdp.BodyUnseen},
		"gRPC":                          {headers: map[string]string{"content-type": "application/grpc+proto"}, want: pdp.BodyUnseen},
		"spoofed, no body":              {headers: map[string]string{"x-envoy-auth-partial-body": "false"}, want: pdp.BodyUnknown},
		"whole by length":               {raw: "{}", headers: map[string]string{"content-length": "2"}, want: pdp.BodyWhole},
		"whole by Envoy":                {raw: "{}", size: 2, headers: map[string]string{"x-envoy-auth-partial-body": "false"}, want: pdp.BodyWhole},
		"nobody says":                   {raw: "{}", want: pdp.BodyCut},
		"cut by length":                 {raw: "{}", headers: map[string]string{"content-length": "3", "x-envoy-auth-partial-body": "false"}, want: pdp.BodyCut},
		"cut by Envoy":                  {raw: "{}", headers: map[string]string{"content-length": "2", "x-envoy-auth-partial-body": "true"}, want: pdp.BodyCut},
		"said twice":                    {raw: "{}", headers: map[string]string{"x-envoy-auth-partial-body": "false,true"}, want: pdp.BodyCut},
		"said twice the same":           {raw: "{}", headers: map[string]string{"x-envoy-auth-partial-body": "false,false"}, want: pdp.BodyCut},
		"more arrived":                  {raw: "{}", size: 9, headers: map[string]string{"x-envoy-auth-partial-body": "false"}, want: pdp.BodyCut},
		"text":                          {text: "{}", headers: map[string]string{"content-length": "2"}, want: pdp.BodyWhole},
		"text that may be changed":      {text: `{"a":"!"}`, headers: map[string]string{"content-length": "9"}, want: pdp.BodyCut},
		"bytes with the same character": {raw: `{"a":"!"}`, headers: map[string]string{"content-length": "9"}, want: pdp.BodyWhole},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := &decider{}
			check(t, newDoor(t, d), request(&authv3.AttributeContext_HttpRequest{RawBody: []byte(tc.raw), Body: tc.text, Size: tc.size, Headers: tc.headers}))
			if d.asked.BodyState != tc.want {
				t.Errorf("state %v, want %v", d.asked.BodyState, tc.want)
			}
			if (len(d.asked.Body) > 0) != (tc.want == pdp.BodyWhole || tc.want == pdp.BodyCut) {
				t.Errorf("body %q", d.asked.Body)
			}
		})
	}
}

// Metadata goes into access logs: it is bounded, and stays UTF-8.
func TestMetadataIsBounded(t *testing.T) {
	t.Parallel()
	d := &decider{dec: pdp.HTTPDecision{
		Decision: pdp.Decision{Verdict: pdp.Allow, Reason: pdp.ReasonOK, Matched: slices.Repeat([]string{"grants/" + strings.Repeat("x", 2000)}, 40)},
		Agent:    strings.Repeat("é", 500), Resource: "x" + strings.Repeat("é", 1000),
	}}
	out := check(t, newDoor(t, d), request(nil))
	if n := proto.Size(out.GetDynamicMetadata()); n > 16<<10 {
		t.Errorf("%d bytes", n)
	}
	if rules, _ := out.GetDynamicMetadata().AsMap()["matched"].([]any); len(rules) != 16 {
		t.Errorf("%d rules", len(rules))
	}
}
