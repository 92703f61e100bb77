package pdp_test

import (
	"strings"
	"testing"

	"github.com/kelpie-authz/kelpie/pdp"
)

// One action and resource can be asked for at several hosts and by several methods:
// the humans see which, and the yes is for that one.
func TestAttackAnotherHostAfterTheYes(t *testing.T) {
	t.Parallel()
	routes := strings.Replace(webPolicy, "remove: {methods: [DELETE]", "remove: {methods: [DELETE, POST]", 1)
	o := newOfficeOf(t, strings.Replace(routes, "quorum: 2, ", "", 1), 1)
	ask := func(method, host string) *pdp.HTTPRequest {
		return web(func(in *pdp.HTTPRequest) {
			in.Method, in.Host, in.Extensions = method, host, map[string]string{"agent": "cleaner"}
		})
	}
	first := o.askHTTP(t, ask("POST", "staging.example.com"))
	if first.Verdict != pdp.RequireApproval {
		t.Fatalf("%v %s", first.Verdict, first.Reason)
	}
	r, err := o.desk.Get(t.Context(), first.Approval.ID)
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]string{}
	for _, d := range r.Details {
		shown[d.Name] = d.Value
	}
	if shown["http_method"] != "POST" || shown["http_host"] != "staging.example.com" {
		t.Errorf("the humans see %v", shown)
	}
	o.yes(t, first.Approval.ID, lead)
	for _, other := range []*pdp.HTTPRequest{ask("DELETE", "staging.example.com"), ask("POST", "prod.example.com")} {
		if out := o.askHTTP(t, other); out.Verdict == pdp.Allow || out.Reason != pdp.ReasonApprovalRequired {
			t.Errorf("%s %s: %v %s", other.Method, other.Host, out.Verdict, out.Reason)
		}
	}
	// The same host in other words is the same.
	if out := o.askHTTP(t, ask("POST", "STAGING.example.com:443")); out.Verdict != pdp.Allow {
		t.Errorf("%v %s", out.Verdict, out.Reason)
	}
}
