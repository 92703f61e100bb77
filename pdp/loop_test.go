package pdp_test

import (
	"strings"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/pdp"
)

const loopLimits = `  calls: {rate: 600/minute, burst: 50, per: [agent]}
  loop: {window: 3/1m, per: [agent, call], match: {actions: [read]}}
`

// The same call too often is a loop, whatever it is called by; another call is none.
func TestLoopDetected(t *testing.T) {
	t.Parallel()
	f := newFixture(t, limited(loopLimits))
	same := []*pdp.Request{
		with(readNote, func(r *pdp.Request) { r.ParametersJSON = []byte(`{"a":1,"b":"x"}`) }),
		with(readNote, func(r *pdp.Request) {
			r.ParametersJSON, r.RequestID, r.SessionID, r.RunID = []byte(`{ "b": "\u0078", "a": 1.0 }`), "r", "s", "t"
		}),
		with(readNote, func(r *pdp.Request) {
			r.ParametersJSON, r.SourceIP, r.Cost = []byte(`{"b":"x","a":1e0}`), "10.9.9.9", 7
			r.Context = map[string]any{"n": 1.0}
		}),
	}
	for _, req := range same {
		f.want(t, req, pdp.Allow, pdp.ReasonOK)
	}
	for _, req := range same {
		dec := f.want(t, req, pdp.Deny, pdp.ReasonLoopDetected, "limits/loop")
		if dec.Next != pdp.NextRetry || dec.RetryAfter <= 0 || !strings.Contains(dec.Message, "same call") {
			t.Errorf("next %v after %v: %q", dec.Next, dec.RetryAfter, dec.Message)
		}
	}
	for name, other := range map[string]*pdp.Request{
		"no parameters":    readNote,
		"other parameters": with(readNote, func(r *pdp.Request) { r.ParametersJSON = []byte(`{"a":1,"b":"y"}`) }),
		"another resource": with(same[0], func(r *pdp.Request) { r.Resource = "notes/2" }),
		"another agent":    with(same[0], func(r *pdp.Request) { r.Agent = "roamer" }),
		"another tool":     with(same[0], func(r *pdp.Request) { r.Tool.Name = "t" }),
		"another subject":  with(same[0], func(r *pdp.Request) { r.Subject = "ann" }),
		"not seen":         with(readNote, func(r *pdp.Request) { r.ParametersState = pdp.ParametersNotSeen }),
	} {
		if dec := f.ask(t, other); dec.Verdict != pdp.Allow {
			t.Errorf("%s: %s", name, dec.Reason)
		}
	}
	out := explain(t, f, same[0])
	if c := checkNamed(t, &out, "limits"); c.Outcome != pdp.CheckDeny || c.Reason != pdp.ReasonLoopDetected || !strings.Contains(c.Detail, "loop is reached") {
		t.Errorf("explained as %+v", c)
	}
	f.clock.advance(65 * time.Second)
	f.want(t, same[0], pdp.Allow, pdp.ReasonOK)
}

// Of a loop and a rate that both lack, the longer wait gives the reason.
func TestLoopBesideARate(t *testing.T) {
	t.Parallel()
	f := newFixture(t, limited("  calls: {rate: 3/hour, per: [agent]}\n  loop: {window: 3/1m, per: [agent, call]}\n"))
	for range 3 {
		f.want(t, readNote, pdp.Allow, pdp.ReasonOK)
	}
	f.want(t, readNote, pdp.Deny, pdp.ReasonRateLimited, "limits/calls", "limits/loop")
}
