package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/policy"
)

// Budgets of the decision core.
const (
	decideNanos    = 1000
	decideAllocs   = 2
	compileSeconds = 5
	bytesPerAgent  = 1024
	growthAtMost   = 1.5 // "no growth": what two sizes may differ by and still be noise and cache misses
)

var errWrongAnswer = errors.New("the measured call did not get the answer it should: the figures would mean nothing")

func measureDecide(ctx context.Context, _ *environment) ([]row, error) {
	sizes := []struct {
		name  string
		shape shape
	}{
		{"100 agents, 100 grants", shape{agents: 100, scopes: 100, scopesPerAgent: 1}},
		{"100 agents, 10,000 grants", shape{agents: 100, scopes: 1000, scopesPerAgent: 100}},
		{"10,000 agents, 100,000 grants", shape{agents: 10000, scopes: 1000, scopesPerAgent: 10}},
		{"100 agents, 1,000,000 grants", shape{agents: 100, scopes: 10000, scopesPerAgent: 10000}},
	}
	var (
		rows  []row
		first float64
	)
	for _, size := range sizes {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		snap, err := policy.Compile(generate(size.shape))
		if err != nil {
			return nil, fmt.Errorf("compile %s: %w", size.name, err)
		}
		res, err := benchDecide(snap, size.shape)
		if err != nil {
			return nil, err
		}
		nanos := float64(res.T.Nanoseconds()) / float64(res.N)
		allocs := float64(res.MemAllocs) / float64(res.N)
		rows = append(rows,
			row{
				what: "policy.Decide, " + size.name, ours: fmt.Sprintf("%.0f ns", nanos),
				budget: "<= 1 us", score: atMost(nanos, decideNanos),
			},
			row{
				what: "  allocations", ours: fmt.Sprintf("%.2f", allocs),
				budget: "<= 2", score: atMost(allocs, decideAllocs),
			})
		if first == 0 {
			first = nanos
			continue
		}
		rows = append(rows, row{
			what: "  growth over 100 agents", ours: fmt.Sprintf("%.2f x", nanos/first),
			budget: fmt.Sprintf("<= %.1f x", growthAtMost), score: atMost(nanos/first, growthAtMost),
		})
	}
	return rows, nil
}

func benchDecide(snap *policy.Snapshot, s shape) (testing.BenchmarkResult, error) {
	calls := make([]policy.Call, 1024)
	for i := range calls {
		a := i * 31 % s.agents
		calls[i] = policy.Call{
			Agent: fmt.Sprintf("agent-%d", a), Action: "read",
			Resource: resourceOf((a + i%s.scopesPerAgent) % s.scopes),
			SourceIP: netip.MustParseAddr("10.8.0.5"), Now: time.Now(),
		}
	}
	var wrong error
	res := testing.Benchmark(func(b *testing.B) {
		b.Helper()
		var v policy.Verdict
		b.ReportAllocs()
		for i := range b.N {
			snap.Decide(&calls[i&1023], &v)
			if v.Outcome != policy.OutcomeAllow {
				wrong = fmt.Errorf("%w: %v", errWrongAnswer, v.Reason)
				return
			}
		}
	})
	return res, wrong
}

func measureCompile(_ context.Context, _ *environment) ([]row, error) {
	s := shape{agents: 100000, scopes: 1000, scopesPerAgent: 5}
	docs := generate(s)
	before := heap()
	start := time.Now()
	snap, err := policy.Compile(docs)
	took := time.Since(start).Seconds()
	if err != nil {
		return nil, fmt.Errorf("compile: %w", err)
	}
	perAgent := float64(heap()-before) / float64(s.agents)
	runtime.KeepAlive(snap)
	runtime.KeepAlive(docs)
	return []row{
		{
			what: "load and compile 100,000 agents", ours: fmt.Sprintf("%.2f s", took),
			budget: "<= 5 s", score: atMost(took, compileSeconds),
		},
		{
			what: "  heap per agent", ours: fmt.Sprintf("%.0f B", perAgent),
			budget: "<= 1 KiB", score: atMost(perAgent, bytesPerAgent),
		},
	}, nil
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
