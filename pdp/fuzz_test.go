package pdp_test

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/kelpie-authz/kelpie/pdp"
)

// FuzzAuthorize sends any request through every use-case: none panics, and
// none is allowed that the policy does not grant, by a rule written down here
// once more in the plainest way.
func FuzzAuthorize(f *testing.F) {
	f.Add("reader", "read", "notes/1", "10.1.2.3", "", []byte(nil), byte(0), 0.0, "email")
	f.Add("cleaner", "delete", "notes/1", "10.1.2.3", "user@example.com", []byte(`{"a":1}`), byte(0), 2.5, "")
	f.Add("payer", "pay", "bank/rent", "::ffff:10.1.2.3", "", []byte(`{"amount":1e3}`), byte(1), 1.0, "email")
	f.Add("reader", "read", "notes/locked/x", "10.1.2.3", "", []byte(nil), byte(2), 1e300, "x")
	f.Add("roamer", "read", "notes/%2e%2e/bank", "", "", []byte(`{"a":{"a":{"a":[]}}}`), byte(3), -1.0, "\xff")
	f.Add("ghost", "read", "vault/x", "fe80::1%eth0", "", []byte(`{"a":1,"a":2}`), byte(9), 0.0, "")
	fix := newFixture(f, notesPolicy)
	f.Fuzz(func(t *testing.T, agent, action, resource, ip, subject string, params []byte, state byte, cost float64, channel string) {
		req := &pdp.Request{
			Agent: agent, Action: action, Resource: resource, SourceIP: ip, Subject: subject,
			ParametersJSON: params, ParametersState: pdp.ParametersState(state), Cost: cost,
			Context: map[string]any{"channel": channel},
		}
		var dec, judged pdp.Decision
		err := fix.svc.Authorize(context.Background(), req, &dec)
		if err := fix.svc.Judge(context.Background(), req, &judged); err != nil {
			t.Fatalf("judge: %v", err)
		}
		if (err != nil) != (judged.Reason == pdp.ReasonParametersInvalid) {
			t.Fatalf("authorize said %v, judge %s", err, judged.Reason)
		}
		decs, batchErr := fix.svc.Batch(context.Background(), []pdp.Request{*req, *req}, pdp.ExecuteAll, nil)
		if batchErr != nil || len(decs) != 2 {
			t.Fatalf("batch: %d answers, %v", len(decs), batchErr)
		}
		var out pdp.Explanation
		if explained := fix.svc.Explain(context.Background(), req, &out); (explained != nil) != (err != nil) {
			t.Fatalf("authorize said %v, explain %v", err, explained)
		}
		for _, d := range []pdp.Decision{dec, judged, decs[0], decs[1]} {
			if d.Verdict == pdp.Allow && !mayPass(req) {
				t.Fatalf("ALLOW for %+v", req)
			}
		}
		if out.Decision.Verdict != pdp.VerdictNone || (out.Decision.WouldBe == pdp.Allow && !mayPass(req)) {
			t.Fatalf("explained as %v, would be %v: %+v", out.Decision.Verdict, out.Decision.WouldBe, req)
		}
		if fix.panics.Load() != 0 {
			t.Fatalf("a panic for %+v", req)
		}
		fix.rec.taken()
		fix.clock.advance(5e9)
	})
}

// mayPass is what notesPolicy allows at most.
func mayPass(r *pdp.Request) bool {
	addr, err := netip.ParseAddr(r.SourceIP)
	inOffice := err == nil && netip.MustParsePrefix("10.0.0.0/8").Contains(addr.Unmap())
	notes := r.Action == "read" && (r.Resource == "notes" || strings.HasPrefix(r.Resource, "notes/")) &&
		r.Resource != "notes/locked" && !strings.HasPrefix(r.Resource, "notes/locked/")
	switch r.Agent {
	case "reader", "cleaner":
		return notes && inOffice
	case "roamer":
		return notes
	case "payer":
		return r.Action == "pay" && strings.HasPrefix(r.Resource, "bank/") && inOffice && r.Context["channel"] != "email"
	default:
		return false
	}
}
