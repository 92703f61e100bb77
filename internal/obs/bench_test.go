package obs_test

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kelpie-authz/kelpie/internal/obs"
	"github.com/kelpie-authz/kelpie/pdp"
)

// BenchmarkRecord is what the decision log and its metrics add to each call.
func BenchmarkRecord(b *testing.B) {
	rec, err := obs.NewRecorder(obs.NewLineHandler(io.Discard), prometheus.NewRegistry())
	if err != nil {
		b.Fatal(err)
	}
	r := &pdp.Record{
		Time: time.Date(2026, 11, 22, 1, 2, 3, 4, time.UTC), DecisionID: "019368a4-5c6e-7f3a-8b1d-0123456789ab", Gateway: "loopback",
		Agent: "agent-17", Action: "read", Resource: "svc17/things17/items/42", SourceIP: "10.8.0.5", Risk: "read",
		Verdict: pdp.Allow, Reason: pdp.ReasonOK, PolicyVersion: "83d0e5b04e138b338b3f9a6064efe170",
		Matched: []string{"grants/agent-17/s17"}, Latency: 1500 * time.Nanosecond,
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := rec.Record(context.Background(), r); err != nil {
			b.Fatal(err)
		}
	}
}
