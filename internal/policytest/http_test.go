package policytest_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/internal/policytest"
	"github.com/kelpie-authz/kelpie/policy"
)

const notesHTTP = notes + `
http:
  agent_from: [{from: jwt, name: token, claim: [client_id]}, {from: principal}, {from: context_extension, name: agent}, {from: header, name: x-agent}]
  request_bodies: sent
  routes:
    note: {hosts: [notes.example.com], methods: [GET], path: "/notes/{id}", action: read, resource: "notes/{id}"}
    remove: {methods: [DELETE], path: "/notes/{id}", action: delete, resource: "notes/{id}"}
    pin: {methods: [POST], path: "/notes/{id}/pin", action: pin, resource: "notes/{id}"}
`

const httpTests = `tests:
  - name: a note is read through the proxy
    request: {http: {url: "https://Notes.example.com:8443/notes/a%20b?x=1", headers: {x-agent: helper}, peer: 10.0.0.1}}
    expect: {decision: allow, reason: ok, route: http/note, action: read, resource: notes/a b, matched: [roles/reader/notes.read]}
  - name: by a token
    request: {http: {url: "https://notes.example.com/notes/1", jwt: {token: {client_id: helper}}, peer: 10.0.0.1}}
    expect: {decision: allow}
  - name: a token that is no text
    request: {http: {url: "https://notes.example.com/notes/1", jwt: {token: {client_id: 7}}, headers: {x-agent: helper}, peer: 10.0.0.1}}
    expect: {decision: deny, reason: unauthenticated_identity}
  - name: by the proxy's configuration
    request: {http: {url: "https://notes.example.com/notes/1", context_extensions: {agent: helper}, peer: 10.0.0.1}}
    expect: {decision: allow}
  - name: by a certificate
    request: {http: {url: "https://notes.example.com/notes/1", principal: "spiffe://a/helper", peer: 10.0.0.1}}
    expect: {decision: deny, reason: agent_unknown}
  - name: another host has no such route
    request: {http: {url: "https://other.example.com/notes/1", headers: {x-agent: helper}, peer: 10.0.0.1}}
    expect: {decision: deny, reason: no_matching_scope}
  - name: from elsewhere
    request: {http: {url: "https://notes.example.com/notes/1", headers: {x-agent: helper}, peer: 192.0.2.1}}
    expect: {decision: deny, reason: ip_not_allowed}
  - name: two slashes
    request: {http: {url: "https://notes.example.com//notes/1", headers: {x-agent: helper}, peer: 10.0.0.1}}
    expect: {decision: deny, reason: parameters_invalid}
  - name: a removal waits
    request: {http: {method: DELETE, url: "https://notes.example.com/notes/1", headers: {x-agent: helper}, peer: 10.0.0.1}}
    expect: {decision: require_approval, route: http/remove, matched: [approvals/deletes]}
  - name: and goes through
    approval: approved
    request: {http: {method: DELETE, url: "https://notes.example.com/notes/1", headers: {x-agent: helper}, peer: 10.0.0.1, body_state: none}}
    expect: {decision: allow, reason: ok_approved}
  - name: what was not seen cannot be approved
    request: {http: {method: DELETE, url: "https://notes.example.com/notes/1", headers: {x-agent: helper}, peer: 10.0.0.1, body_state: unseen}}
    expect: {decision: deny, reason: parameters_unavailable}
  - name: nor what was cut
    request: {http: {method: DELETE, url: "https://notes.example.com/notes/1", headers: {x-agent: helper, content-type: application/json}, peer: 10.0.0.1, body: "{}", body_state: cut}}
    expect: {decision: deny, reason: parameters_unavailable}
  - name: a body that is no object
    request: {http: {method: POST, url: "https://notes.example.com/notes/1/pin", headers: {x-agent: helper, content-type: application/json}, peer: 10.0.0.1, body: "[]"}}
    expect: {decision: deny, reason: parameters_invalid}
  - name: three at once are the burst
    before:
      - {repeat: 2, request: {http: {url: "https://notes.example.com/notes/1", headers: {x-agent: helper}, peer: 10.0.0.1}}}
      - {request: {agent: helper, action: read, resource: notes/1, source_ip: 10.0.0.1}}
    request: {http: {url: "https://notes.example.com/notes/1", headers: {x-agent: helper}, peer: 10.0.0.1}}
    expect: {decision: deny, reason: rate_limited}
`

func runHTTP(t *testing.T, text string) *policytest.Report {
	t.Helper()
	tests, err := policy.ParseTests(policy.Document{Name: "a_test.yaml", Data: []byte(text)})
	if err != nil {
		t.Fatal(err)
	}
	report, err := policytest.Run(context.Background(), policytest.Config{
		Snapshot: compile(t, notesHTTP), Files: []policytest.File{{Name: "a_test.yaml", Tests: tests}}, Now: time.Date(2026, 11, 2, 9, 0, 0, 0, time.UTC),
	})
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// A test may ask by an HTTP request, and says what it must become.
func TestHTTPRequests(t *testing.T) {
	t.Parallel()
	report := runHTTP(t, httpTests)
	for _, r := range report.Results {
		if !r.Passed() {
			t.Errorf("%s: %v %+v", r.Name, r.Failures, r.Got)
		}
	}
	if len(report.Results) != 14 {
		t.Errorf("%d results", len(report.Results))
	}
	if got := report.Coverage.Routes; got.Total != 3 || len(got.Missing) != 0 {
		t.Errorf("routes %+v", got)
	}
}

func TestHTTPRequestsFail(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ test, want string }{
		{`{name: n, request: {http: {url: "https://notes.example.com/notes/1", headers: {x-agent: helper}, peer: 10.0.0.1}}, expect: {decision: allow, resource: notes/2}}`, "resource: expected notes/2, came notes/1"},
		{`{name: n, request: {http: {url: "https://notes.example.com/notes/1", headers: {x-agent: helper}, peer: 10.0.0.1}}, expect: {decision: allow, route: http/remove}}`, "route: expected http/remove, came http/note"},
		{`{name: n, request: {http: {url: "https://notes.example.com/x", headers: {x-agent: helper}, peer: 10.0.0.1}}, expect: {decision: deny, action: read}}`, "action: expected read, came none"},
		{`{name: n, request: {agent: helper, action: read, resource: notes/1, source_ip: 10.0.0.1}, expect: {decision: allow, action: read}}`, "are of HTTP requests"},
	} {
		r := runHTTP(t, "tests:\n  - "+tc.test+"\n").Results[0]
		if len(r.Failures) != 1 || !strings.Contains(r.Failures[0], tc.want) {
			t.Errorf("%s: %v", tc.want, r.Failures)
		}
	}
	for _, tc := range []struct{ request, want string }{
		{`{agent: a, http: {url: "https://a/b"}}`, "stands beside http"},
		{`{http: {url: "a/b"}}`, "no scheme and host"},
		{`{http: {url: "https://a/b", headers: {X-A: b}}}`, "has capitals"},
		{`{http: {headers: {x-a: b}}}`, "url is missing"},
		{`{http: {url: "https://a/b", method: get}}`, "in capitals"},
		{`{http: {url: "https://a/b", body_state: half}}`, "body_state"},
	} {
		_, err := policy.ParseTests(policy.Document{Name: "a_test.yaml", Data: []byte("tests:\n  - {name: n, request: " + tc.request + ", expect: {decision: allow}}\n")})
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", tc.want, err)
		}
	}
}
