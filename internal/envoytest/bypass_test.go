package envoytest_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/kelpie-authz/kelpie/internal/testkit"
)

// The bypass suite: requests that Envoy, Kelpie and an upstream could read in
// different ways, through two Envoys: the example as it is, and the same without
// its hardening, where Kelpie stands alone.
//
// Each case says what must happen. Whatever happens, it is judged at the
// upstream: a request that arrived there has the id of one decision, that
// decision is ALLOW, and its action and resource are those of the request as the
// upstream received it, which is worked out here by code that shares nothing with
// Kelpie's.

// trick is one case.
type trick struct {
	name string
	h1   string // bytes to send, or
	h2   *h2

	// want is what the example must do, bare what the same Envoy without hardening must; nil: the same.
	want verdict
	bare *verdict
}

// verdict is what must happen to a request.
type verdict struct {
	// reached: it arrives at the upstream once, as this call.
	reached          bool
	action, resource string
	// Otherwise it does not, and Kelpie refused it for this reason, or Envoy refused it itself (no reason).
	status int
	reason string
}

func reaches(action, resource string) verdict {
	return verdict{reached: true, action: action, resource: resource, status: 200}
}
func kelpie(status int, reason string) verdict { return verdict{status: status, reason: reason} }

// envoy refuses without asking; status 0: it only closes the stream or the connection.
func envoy(status int) verdict { return verdict{status: status} }

func (v verdict) String() string {
	switch {
	case v.reached:
		return fmt.Sprintf("reaches the upstream as %s %s", v.action, v.resource)
	case v.reason != "":
		return fmt.Sprintf("refused by Kelpie with %d %s", v.status, v.reason)
	default:
		return fmt.Sprintf("refused by Envoy with %d", v.status)
	}
}

// secret is what no agent may read, so that a path that is read differently shows.
const secret = `
deny:
  secret: {match: {resources: ["crm/leads/secret/**", "crm/files/secret/**"]}}
`

// softened takes the hardening out of the example.
var softened = []testkit.Edit{
	{Old: "normalize_path: true", New: "normalize_path: false"},
	{Old: "merge_slashes: true", New: "merge_slashes: false"},
	{Old: "path_with_escaped_slashes_action: REJECT_REQUEST", New: "path_with_escaped_slashes_action: KEEP_UNCHANGED"},
	{Old: "headers_with_underscores_action: REJECT_REQUEST", New: "headers_with_underscores_action: ALLOW"},
}

// hasty closes a connection soon after it was refused, where Envoy would wait a second for the client to do it.
var hasty = testkit.Edit{Old: "stat_prefix: agents", New: "stat_prefix: agents\n                delayed_close_timeout: 0.1s"}

// How many there are of each; a case that got lost would be missed by nobody else.
const (
	pathTricks   = 86
	headerTricks = 85
	bodyTricks   = 92
	http2Tricks  = 73
)

func TestBypass(t *testing.T) {
	t.Parallel()
	for _, envoyIs := range []string{"hardened", "bare"} {
		t.Run(envoyIs, func(t *testing.T) {
			t.Parallel()
			want := setup{extra: secret, policy: []testkit.Edit{
				roomy,
				{Old: "rate: 6/minute, burst: 3", New: "rate: 1000000/minute, burst: 1000000"},
				// A route that takes a body and whose grant does not look at it.
				{Old: "lead-update: {methods: [PATCH]", New: "lead-update: {methods: [PATCH, POST]"},
			}}
			if envoyIs == "bare" {
				want.envoy = slices.Clone(softened)
			}
			want.envoy = append(want.envoy, hasty)
			up := startRecorder(t)
			want.upstream = up.addr
			b := &bypass{stack: start(t, want), up: up, bare: envoyIs == "bare"}
			for _, family := range []struct {
				name  string
				cases []trick
				count int
			}{
				{"paths", paths(), pathTricks},
				{"headers", headers(), headerTricks},
				{"bodies", bodies(), bodyTricks},
				{"http2", overHTTP2Tricks(), http2Tricks},
			} {
				b.ran = 0
				for _, c := range family.cases {
					t.Run(family.name+"/"+c.name, func(t *testing.T) { b.run(t, c) })
				}
				t.Logf("%d bypass cases of %s ran through the %s Envoy", b.ran, family.name, envoyIs)
				if b.ran != family.count {
					t.Errorf("%d cases of %s ran, want %d", b.ran, family.name, family.count)
				}
			}
			b.judgeAll(t)
		})
	}
}

// bypass runs cases against one Envoy.
type bypass struct {
	*stack

	up   *recorder
	bare bool
	ran  int
}

func (b *bypass) run(t *testing.T, c trick) {
	t.Helper()
	b.ran++
	want := c.want
	if b.bare && c.bare != nil {
		want = *c.bare
	}
	before := b.up.count()
	got := b.ask(t, c)
	arrived := b.up.since(before)
	for _, r := range arrived {
		b.judge(t, r)
	}
	if !want.reached {
		if len(arrived) != 0 {
			t.Errorf("it reached the upstream: %q; want: %v", arrived, want)
		}
		b.checkRefusal(t, got, want)
		return
	}
	if len(arrived) != 1 {
		t.Fatalf("%d requests reached the upstream, want 1 (%v); the answer is %+v", len(arrived), want, got)
	}
	if action, resource := callOf(arrived[0]); action != want.action || resource != want.resource {
		t.Errorf("the upstream received %s %s; want: %v", action, resource, want)
	}
	if got == nil || got.status != want.status {
		t.Errorf("the answer is %+v", got)
	}
}

// ask sends the case and returns its one answer, nil if there was none.
func (b *bypass) ask(t *testing.T, c trick) *answer {
	t.Helper()
	if c.h2 != nil {
		return sendHTTP2(t, b.envoy.Addr, *c.h2)
	}
	all := sendRaw(t, b.envoy.Addr, c.h1)
	if len(all) > 1 {
		t.Errorf("%d answers to one request", len(all))
	}
	if len(all) == 0 {
		return nil
	}
	return all[0]
}

func (b *bypass) checkRefusal(t *testing.T, got *answer, want verdict) {
	t.Helper()
	if got == nil {
		if want != envoy(0) {
			t.Errorf("no answer; want: %v", want)
		}
		return
	}
	reason := ""
	if got.id() != "" {
		d := b.kelpie.Decision(t, got.id())
		reason = d.Reason
		if d.Decision == "ALLOW" {
			t.Errorf("the record of the refusal is %+v", d)
		}
		// To who says that it is gRPC Envoy answers by a status of gRPC, without a body.
		if got.header.Get("Grpc-Status") == "" && got.told(t).Reason != reason {
			t.Errorf("the answer %s gives another reason than the record, %s", got.text, reason)
		}
	}
	if got.status != want.status || reason != want.reason {
		t.Errorf("the answer is %d %q %s; want: %v", got.status, reason, got.text, want)
	}
}

// judge fails unless a request that reached the upstream had every right to.
func (b *bypass) judge(t *testing.T, r received) {
	t.Helper()
	ids := r.values("x-kelpie-decision-id")
	if len(ids) != 1 {
		t.Fatalf("%q reached the upstream with the decision ids %q", r, ids)
	}
	d := b.kelpie.Decision(t, ids[0])
	if d.Decision != "ALLOW" {
		t.Errorf("%q reached the upstream by %+v", r, d)
	}
	if action, resource := callOf(r); action != d.Action || resource != d.Resource {
		t.Errorf("decided was %s %s, and the upstream received %s %s (%q)", d.Action, d.Resource, action, resource, r)
	}
	if d.SourceIP != "127.0.0.1" {
		t.Errorf("decided was about a caller at %s", d.SourceIP)
	}
	for _, f := range r.fields {
		name := strings.ReplaceAll(f.name, "_", "-")
		if strings.HasPrefix(name, "x-kelpie-") && f.name != "x-kelpie-decision-id" {
			t.Errorf("the client's %s: %s reached the upstream", f.name, f.value)
		}
	}
	// The agent of the record is the one header that the upstream has, if it looks too.
	if agents := r.values("x-agent-id"); len(agents) != 1 || agents[0] != d.Agent {
		t.Errorf("decided was about %s, and the upstream received x-agent-id %q", d.Agent, agents)
	}
	if d.Resource == "crm/refunds" {
		judgeRefund(t, r.body)
	}
}

// judgeAll looks at everything that ever reached the upstream, so that nothing that came late is missed.
func (b *bypass) judgeAll(t *testing.T) {
	t.Helper()
	var ids []string
	for _, r := range b.up.since(0) {
		b.judge(t, r)
		ids = append(ids, r.values("x-kelpie-decision-id")...)
	}
	slices.Sort(ids)
	if n := len(ids); len(slices.Compact(ids)) != n {
		t.Error("one decision let two requests through")
	}
}

// callOf is the call that an upstream makes of a request, by the naive reading: the path to the question mark, cut at
// slashes, each part decoded once.
func callOf(r received) (action, resource string) {
	path, _, _ := strings.Cut(r.target, "?")
	parts := strings.Split(path, "/")
	if parts[0] != "" || len(parts) < 2 {
		return "?", "a path without a slash: " + path
	}
	for i := range parts {
		parts[i] = unescape(parts[i])
	}
	host, _, _ := strings.Cut(strings.ToLower(r.authority), ":")
	host = strings.TrimSuffix(host, ".")
	verb := map[string]string{"GET": "read", "HEAD": "read", "PATCH": "update", "POST": "update", "DELETE": "delete"}[r.method]
	switch rest := strings.Join(parts[2:], "/"); {
	case parts[1] == "leads" && len(parts) == 2 && r.method == "GET":
		return "list", "crm/leads"
	case parts[1] == "leads" && len(parts) == 3 && verb != "":
		return verb, "crm/leads/" + rest
	case parts[1] == "files" && r.method == "GET":
		return verb, "crm/files/" + rest
	case parts[1] == "refunds" && len(parts) == 2 && r.method == "POST":
		return "create", "crm/refunds"
	case parts[1] == "reports" && len(parts) == 3 && r.method == "GET" && host == "reports.example.com":
		return verb, "reports/" + rest
	default:
		return r.method, "what no route is about: " + path
	}
}

// unescape decodes %XX once and leaves what is none.
func unescape(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if b, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				out.WriteByte(byte(b))
				i += 2
				continue
			}
		}
		out.WriteByte(s[i])
	}
	return out.String()
}

// judgeRefund fails if any way to read the body finds an amount above 100: the first member of the name or the last.
func judgeRefund(t *testing.T, body []byte) {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(body))
	if tok, err := dec.Token(); err != nil || tok != json.Delim('{') {
		t.Errorf("a refund without an object reached the upstream: %q", body)
		return
	}
	amounts := 0
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			t.Errorf("a broken refund reached the upstream: %q: %v", body, err)
			return
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			t.Errorf("a broken refund reached the upstream: %q: %v", body, err)
			return
		}
		if name != "amount" {
			continue
		}
		amounts++
		if n, err := strconv.ParseFloat(string(value), 64); err != nil || n > 100 {
			t.Errorf("a refund of %s reached the upstream", value)
		}
	}
	if amounts != 1 {
		t.Errorf("a refund with %d amounts reached the upstream: %q", amounts, body)
	}
}
