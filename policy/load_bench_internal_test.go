package policy

import (
	"bytes"
	"fmt"
	"testing"
)

// BenchmarkLoad reads 100,000 agents from one document, and from eight.
func BenchmarkLoad(b *testing.B) {
	for _, files := range []int{1, 8} {
		b.Run(fmt.Sprintf("documents=%d", files), func(b *testing.B) {
			docs := manyAgents(100_000, files)
			b.ReportAllocs()
			for b.Loop() {
				var r report
				if load(docs, &r); r.err() != nil {
					b.Fatal(r.err())
				}
			}
		})
	}
}

func manyAgents(agents, files int) []Document {
	docs := []Document{{Name: "base.yaml", Data: []byte(
		"scopes: {a: {actions: [read], resources: [x/**]}}\nnetworks: {n: {cidrs: [10.0.0.0/8]}}\nlimits: {per-agent: {rate: 60/minute, per: [agent]}}\n",
	)}}
	for f := range files {
		var text bytes.Buffer
		text.WriteString("agents:\n")
		for i := f; i < agents; i += files {
			fmt.Fprintf(&text, "  agent-%d:\n    owner: team-%d@example.com\n    scopes: [a]\n    networks: [n]\n    limits: {per-agent: {rate: 10/minute, burst: 3}}\n", i, i)
		}
		docs = append(docs, Document{Name: fmt.Sprintf("%d.yaml", f), Data: text.Bytes()})
	}
	return docs
}
