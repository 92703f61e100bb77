package envoytest_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kelpie-authz/kelpie/internal/testkit"
)

func TestAllow(t *testing.T) {
	t.Parallel()
	s := start(t, setup{})
	req := s.request(t, http.MethodGet, "lead-router", "/leads/42?expand=owner", "")
	req.Header.Set("X-Kelpie-Decision-Id", "made-up")
	req.Header.Set("X-Kelpie-Approved", "yes")
	got := s.send(t, req)
	if got.status != http.StatusOK || got.id() == "" {
		t.Fatalf("got %+v", got)
	}
	seen := s.seen(t)
	if len(seen) != 1 || seen[0].Method != http.MethodGet || seen[0].Path != "/leads/42?expand=owner" {
		t.Fatalf("the upstream saw %+v", seen)
	}
	if ids := seen[0].Headers["X-Kelpie-Decision-Id"]; len(ids) != 1 || ids[0] != got.id() {
		t.Errorf("the upstream got the ids %q, the client %q", ids, got.id())
	}
	if v, there := seen[0].Headers["X-Kelpie-Approved"]; there {
		t.Errorf("x-kelpie-approved: %q reached the upstream", v)
	}
	d := s.kelpie.Decision(t, got.id())
	want := testkit.Decided{
		DecisionID: got.id(), Agent: "lead-router", Action: "read", Resource: "crm/leads/42", SourceIP: "127.0.0.1",
		Decision: "ALLOW", Reason: "ok", PolicyVersion: d.PolicyVersion, Route: "http/lead-read",
		HTTPMethod: http.MethodGet, HTTPHost: s.envoy.Addr, HTTPPath: "/leads/42",
	}
	if diff := cmp.Diff(want, d); diff != "" {
		t.Errorf("the record (-want +got):\n%s", diff)
	}
	if q := got.header.Get("Ratelimit-Policy"); q != `"per-agent";q=30` {
		t.Errorf("RateLimit-Policy: %s", q)
	}
	if r := got.header.Get("Ratelimit"); !strings.HasPrefix(r, `"per-agent";r=29;t=`) {
		t.Errorf("RateLimit: %s", r)
	}
	s.reached(t, 1)
}

// The answers that are not ALLOW: status, reason and headers, and nothing at the upstream.
func TestRefusals(t *testing.T) {
	t.Parallel()
	s := start(t, setup{})
	for _, tt := range []struct {
		name, method, agent, path, body string

		status                 int
		decision, reason, next string
		header, value          string
	}{
		{
			name: "a path that no route is about", method: http.MethodGet, agent: "lead-router", path: "/invoices/1",
			status: 403, decision: "DENY", reason: "no_matching_scope", next: "none",
		},
		{
			name: "another agent's scope", method: http.MethodDelete, agent: "lead-router", path: "/leads/42",
			status: 403, decision: "DENY", reason: "insufficient_scope", next: "request",
		},
		{
			name: "an approval", method: http.MethodDelete, agent: "data-cleaner", path: "/leads/42",
			status: 403, decision: "REQUIRE_APPROVAL", reason: "approval_required", next: "wait",
		},
		{
			name: "a condition on the body", method: http.MethodPost, agent: "refund-bot", path: "/refunds", body: `{"amount": 5000}`,
			status: 403, decision: "DENY", reason: "condition_failed", next: "none",
		},
		{
			name: "nobody", method: http.MethodGet, path: "/leads/42",
			status: 401, decision: "DENY", reason: "unauthenticated_identity", next: "request",
			header: "Www-Authenticate", value: `Bearer realm="kelpie"`,
		},
		{
			name: "a stranger", method: http.MethodGet, agent: "nobody-knows-me", path: "/leads/42",
			status: 403, decision: "DENY", reason: "agent_unknown", next: "none",
		},
		{
			name: "a name twice", method: http.MethodGet, agent: "lead-router", path: "/leads/42?a=1&a=2",
			status: 400, decision: "DENY", reason: "parameters_invalid", next: "none",
		},
	} {
		got := s.send(t, s.request(t, tt.method, tt.agent, tt.path, tt.body))
		body := got.told(t)
		if got.status != tt.status || body.Decision != tt.decision || body.Reason != tt.reason || body.NextAction != tt.next {
			t.Errorf("%s: got %d %s, want %d %s %s %s", tt.name, got.status, got.text, tt.status, tt.decision, tt.reason, tt.next)
		}
		if body.DecisionID == "" || body.DecisionID != got.id() {
			t.Errorf("%s: the id is %q in the body and %q in the header", tt.name, body.DecisionID, got.id())
		}
		if body.Message == "" || got.header.Get("Content-Type") != "application/json" || got.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: got %+v", tt.name, got)
		}
		if tt.header != "" && got.header.Get(tt.header) != tt.value {
			t.Errorf("%s: %s: %q, want %q", tt.name, tt.header, got.header.Get(tt.header), tt.value)
		}
		if (tt.decision == "REQUIRE_APPROVAL") != (len(body.Approval) > 0) {
			t.Errorf("%s: approval: %s", tt.name, body.Approval)
		}
		if d := s.kelpie.Decision(t, got.id()); d.Decision != tt.decision || d.Reason != tt.reason {
			t.Errorf("%s: the record says %+v", tt.name, d)
		}
	}
	s.reached(t, 0)
}

func TestRateLimited(t *testing.T) {
	t.Parallel()
	s := start(t, setup{})
	for range 3 {
		if got := s.get(t, "report-bot", "/leads/42"); got.status != http.StatusOK {
			t.Fatalf("got %+v", got)
		}
	}
	got := s.get(t, "report-bot", "/leads/42")
	if got.status != http.StatusTooManyRequests {
		t.Fatalf("got %+v", got)
	}
	after, err := strconv.Atoi(got.header.Get("Retry-After"))
	if err != nil || after < 1 || after > 20 {
		t.Errorf("Retry-After: %q", got.header.Get("Retry-After"))
	}
	body := got.told(t)
	if body.Reason != "rate_limited" || body.NextAction != "retry" || body.RetryAfterSeconds != after {
		t.Errorf("got %s, Retry-After: %d", got.text, after)
	}
	if r := got.header.Get("Ratelimit"); !strings.HasPrefix(r, `"per-agent";r=0;t=`) {
		t.Errorf("RateLimit: %s", r)
	}
	if q := got.header.Get("Ratelimit-Policy"); q != `"per-agent";q=3` {
		t.Errorf("RateLimit-Policy: %s", q)
	}
	s.reached(t, 3)
}

// A body of exactly the size that Envoy sends is judged, one byte more is refused by Envoy, and nobody is asked.
func TestBodySize(t *testing.T) {
	t.Parallel()
	s := start(t, setup{})
	const most = 65536
	body := func(size int) string {
		const frame = `{"amount": 50, "note": ""}`
		return strings.Replace(frame, `""`, `"`+strings.Repeat("x", size-len(frame))+`"`, 1)
	}
	got := s.send(t, s.request(t, http.MethodPost, "refund-bot", "/refunds", body(most)))
	if got.status != http.StatusOK {
		t.Fatalf("%d bytes: %d %s", most, got.status, got.text)
	}
	s.kelpie.Decision(t, got.id()) // Only now the number of records can be compared.
	seen := s.seen(t)
	if len(seen) != 1 || len(seen[0].Body) != most {
		t.Fatalf("the upstream saw %d requests", len(seen))
	}
	decided := len(s.kelpie.Decisions(t))
	for name, req := range map[string]*http.Request{
		"content-length": s.request(t, http.MethodPost, "refund-bot", "/refunds", body(most+1)),
		"chunked": func() *http.Request {
			req := s.request(t, http.MethodPost, "refund-bot", "/refunds", body(most+1))
			req.ContentLength = -1
			return req
		}(),
	} {
		if got := s.send(t, req); got.status != http.StatusRequestEntityTooLarge || got.id() != "" {
			t.Errorf("%s: %d bytes: %+v", name, most+1, got)
		}
	}
	s.reached(t, 1)
	if n := len(s.kelpie.Decisions(t)); n != decided {
		t.Errorf("Kelpie decided %d times about bodies that are too large", n-decided)
	}
}

// Envoy's own log has what Kelpie said, so that one line leads to the other's record.
func TestAccessLog(t *testing.T) {
	t.Parallel()
	s := start(t, setup{})
	allowed := s.get(t, "lead-router", "/leads/42")
	denied := s.send(t, s.request(t, http.MethodDelete, "data-cleaner", "/leads/42", ""))
	host := s.envoy.Addr
	want := []testkit.Accessed{
		{
			Method: http.MethodGet, Host: host, Path: "/leads/42", Status: 200, Details: "via_upstream", Decision: "ALLOW", Reason: "ok",
			DecisionID: allowed.id(), Agent: "lead-router", Action: "read", Resource: "crm/leads/42", Route: "http/lead-read",
		},
		{
			Method: http.MethodDelete, Host: host, Path: "/leads/42", Status: 403, Details: "ext_authz_denied", Decision: "REQUIRE_APPROVAL",
			Reason: "approval_required", DecisionID: denied.id(), Agent: "data-cleaner", Action: "delete", Resource: "crm/leads/42", Route: "http/lead-delete",
		},
	}
	testkit.Eventually(t, "the access log", func() bool { return len(s.envoy.AccessLog(t)) >= len(want) })
	if diff := cmp.Diff(want, s.envoy.AccessLog(t)); diff != "" {
		t.Errorf("the access log (-want +got):\n%s", diff)
	}
	if id := s.kelpie.Decision(t, denied.id()).DecisionID; id != denied.id() {
		t.Errorf("no record of %s", denied.id())
	}
}

// context_extensions of Envoy's routes are facts that conditions read, and no client can write them.
func TestRouteFacts(t *testing.T) {
	t.Parallel()
	s := start(t, setup{envoy: []testkit.Edit{{Old: "zone: office", New: "zone: street"}}})
	req := s.request(t, http.MethodPatch, "lead-router", "/leads/42?zone=office", `{"context": {"zone": "office"}}`)
	req.Header.Set("Zone", "office")
	if got := s.send(t, req); got.status != http.StatusForbidden || got.told(t).Reason != "condition_failed" {
		t.Errorf("got %+v", got)
	}
	s.reached(t, 0)

	s = start(t, setup{})
	if got := s.send(t, s.request(t, http.MethodPatch, "lead-router", "/leads/42", `{}`)); got.status != http.StatusOK {
		t.Errorf("got %+v", got)
	}
	s.reached(t, 1)
}

// The upstream reads the same bytes that were judged.
func TestBodyUnchanged(t *testing.T) {
	t.Parallel()
	s := start(t, setup{})
	const body = "{\"amount\": 50,\t\"note\": \"\\u00e4 \u00fc\"}\n"
	if got := s.send(t, s.request(t, http.MethodPost, "refund-bot", "/refunds", body)); got.status != http.StatusOK {
		t.Fatalf("got %+v", got)
	}
	seen := s.seen(t)
	if len(seen) != 1 || seen[0].Body != body {
		t.Errorf("the upstream saw %+v", seen)
	}
	var v map[string]any
	if err := json.NewDecoder(bytes.NewReader([]byte(seen[0].Body))).Decode(&v); err != nil || v["amount"] != 50.0 {
		t.Errorf("%v %v", v, err)
	}
}
