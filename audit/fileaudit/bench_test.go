package fileaudit_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/kelpie-authz/kelpie/audit"
	"github.com/kelpie-authz/kelpie/audit/audittest"
	"github.com/kelpie-authz/kelpie/audit/fileaudit"
)

// BenchmarkAppend is one record a time by so many callers. The budget of Sync is
// judged by internal/bench, which measures both in turn.
func BenchmarkAppend(b *testing.B) {
	for _, d := range []audit.Durability{audit.Async, audit.Sync} {
		for _, callers := range []int{1, 16, 128} {
			b.Run(fmt.Sprintf("%v/callers=%d", d, callers), func(b *testing.B) { benchmarkAppend(b, d, callers) })
		}
	}
}

func benchmarkAppend(b *testing.B, d audit.Durability, callers int) {
	b.Helper()
	l, err := fileaudit.Open(fileaudit.Config{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	before := l.Stats()
	b.ReportAllocs()
	b.ResetTimer()
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			r := usual()
			for left.Add(-1) >= 0 {
				if err := l.Append(context.Background(), &r, d); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if err := l.Close(); err != nil { // What Async left to do is part of its cost.
		b.Fatal(err)
	}
	b.StopTimer()
	after := l.Stats()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
	b.ReportMetric(float64(after.Bytes-before.Bytes)/float64(b.N), "bytes/record")
	b.ReportMetric(float64(b.N)/float64(max(after.Fsyncs-before.Fsyncs, 1)), "records/fsync")
}

// usual is a decision as a gateway's call leaves it.
func usual() audit.Record {
	r := audittest.Full()
	return audit.Record{
		Time: r.Time, Kind: r.Kind, DecisionID: "01HZX3V5J9Q8W7E6R5T4Y3U2I1", RequestID: "c2f1a7de", Gateway: r.Gateway, Agent: r.Agent,
		Subject: r.Subject, Action: "records.update", Resource: r.Resource, SourceIP: "10.8.0.5", Risk: "write",
		Decision: "ALLOW", Reason: "ok", Matched: []string{"agents/data-cleaner", "scopes/leads"}, PolicyVersion: r.PolicyVersion,
		Limits:           r.Limits[:1],
		ParametersDigest: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", Latency: r.Latency,
	}
}

// BenchmarkEncode is the encoder alone.
func BenchmarkEncode(b *testing.B) {
	r := usual()
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = audit.AppendRecord(buf[:0], &r)
	}
	b.SetBytes(int64(len(buf)))
}
