package policy

import (
	"bytes"
	"fmt"
	"net/netip"
	"runtime"
	"strconv"
	"testing"
	"time"

	policyv1 "github.com/kelpie-authz/kelpie/gen/kelpie/policy/v1"
)

// benchPolicy has agents that hold grants scopes each, of as many scopes in all.
func benchPolicy(agents, grants, scopes int) *policyv1.Policy {
	p := &policyv1.Policy{
		Scopes: map[string]*policyv1.Scope{}, Agents: map[string]*policyv1.Agent{},
		Networks: map[string]*policyv1.Network{"cluster": {Cidrs: []string{"10.8.0.0/16", "fd00:8::/32"}}},
		Limits:   map[string]*policyv1.Limit{"per-agent": {Rate: "120/minute", Per: []string{"agent"}}},
	}
	for i := range scopes {
		p.Scopes["scope-"+strconv.Itoa(i)] = &policyv1.Scope{
			Actions: []string{"read", "list"}, Resources: []string{fmt.Sprintf("store/bucket-%d/**", i)},
		}
	}
	for i := range agents {
		a := &policyv1.Agent{Owner: "ops@example.com", Networks: []string{"cluster"}}
		for j := range grants {
			a.Scopes = append(a.Scopes, "scope-"+strconv.Itoa((i*grants+j)%scopes))
		}
		p.Agents["agent-"+strconv.Itoa(i)] = a
	}
	return p
}

func mustCompile(tb testing.TB, p *policyv1.Policy) *Snapshot {
	tb.Helper()
	r := &report{}
	s := compileSource(&source{policy: p}, r)
	if err := r.err(); err != nil {
		tb.Fatal(err)
	}
	return s
}

// benchCall is a call that agent 0 of a benchPolicy may make.
func benchCall() *Call {
	return &Call{
		Agent: "agent-0", Action: "read", Resource: "store/bucket-0/reports/2026",
		SourceIP: netip.MustParseAddr("10.8.0.5"), Now: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC),
	}
}

// benchPolicies are the policies whose decisions are measured, each with a
// call that it allows.
var benchPolicies = []struct {
	name  string
	build func() *policyv1.Policy
	call  func(c *Call)
}{
	{name: "100agents", build: func() *policyv1.Policy { return benchPolicy(100, 5, 100) }},
	{name: "10000agents", build: func() *policyv1.Policy { return benchPolicy(10_000, 5, 1_000) }},
	{name: "1Mgrants", build: func() *policyv1.Policy { return benchPolicy(10_000, 100, 20_000) }},
	{name: "conditions", build: benchConditions, call: func(c *Call) { c.Context = map[string]any{"channel": "email"} }},
	{name: "deny1000rules", build: benchDeny},
	{name: "globs", build: benchGlobs, call: func(c *Call) { c.Resource = "store/bucket-77-x/a" }},
}

func benchConditions() *policyv1.Policy {
	p := benchPolicy(100, 5, 100)
	p.Agents["agent-0"].Scopes = nil
	p.Agents["agent-0"].Grants = []*policyv1.Grant{{Scope: "scope-0", When: `context.channel == "email" && resource.startsWith("store/")`}}
	return p
}

// benchDeny has rules of every sort, one half in shadow of another agent's.
func benchDeny() *policyv1.Policy {
	p := benchPolicy(100, 5, 100)
	p.Deny = map[string]*policyv1.DenyRule{}
	for i := range 1000 {
		m := &policyv1.Match{Resources: []string{fmt.Sprintf("store/bucket-%d/secret/**", i)}, Actions: []string{"*"}}
		switch i % 4 {
		case 1:
			m = &policyv1.Match{Agents: []string{fmt.Sprintf("agent-%d", 1+i%99)}, Actions: []string{"list"}}
		case 2:
			m = &policyv1.Match{Actions: []string{fmt.Sprintf("job-%d.*", i)}}
		case 3:
			m = &policyv1.Match{Agents: []string{"agent-*"}, Resources: []string{fmt.Sprintf("store/b*-%d/**", i)}, Risk: []string{"delete"}}
		}
		p.Deny[fmt.Sprintf("rule-%d", i)] = &policyv1.DenyRule{Match: m}
	}
	return p
}

func benchGlobs() *policyv1.Policy {
	p := benchPolicy(100, 5, 100)
	for i := range 200_000 {
		p.Scopes["glob-"+strconv.Itoa(i)] = &policyv1.Scope{
			Actions: []string{"read"}, Resources: []string{fmt.Sprintf("store/bucket-%d-*/**", i)},
		}
	}
	p.Agents["agent-0"].Scopes = append(p.Agents["agent-0"].Scopes, "glob-77")
	return p
}

func BenchmarkDecide(b *testing.B) {
	for _, bench := range benchPolicies {
		b.Run(bench.name, func(b *testing.B) {
			s := mustCompile(b, bench.build())
			c := benchCall()
			if bench.call != nil {
				bench.call(c)
			}
			v := &Verdict{}
			runtime.GC()
			b.ReportAllocs()
			for b.Loop() {
				s.Decide(c, v)
			}
			if v.Outcome != OutcomeAllow {
				b.Fatalf("the call is not allowed but %s", v.Reason)
			}
		})
	}
}

// BenchmarkDecideAgents asks for another agent each time, so that what a call
// touches is not in the processor's cache.
func BenchmarkDecideAgents(b *testing.B) {
	for _, agents := range []int{100, 100_000} {
		b.Run(strconv.Itoa(agents), func(b *testing.B) {
			s := mustCompile(b, benchPolicy(agents, 10, 1_000))
			names := make([]string, agents)
			for i := range names {
				names[i] = "agent-" + strconv.Itoa(i)
			}
			resources := make([]string, 1_000)
			for i := range resources {
				resources[i] = fmt.Sprintf("store/bucket-%d/a", i)
			}
			c, v := benchCall(), &Verdict{}
			b.ReportAllocs()
			for i := 0; b.Loop(); i += 7919 {
				c.Agent, c.Resource = names[i%agents], resources[i%agents*10%1000]
				s.Decide(c, v)
			}
			if v.Outcome != OutcomeAllow {
				b.Fatalf("the call is not allowed but %s", v.Reason)
			}
		})
	}
}

func BenchmarkLimits(b *testing.B) {
	s := mustCompile(b, benchPolicy(100, 5, 100))
	c, v, set := benchCall(), &Verdict{}, &LimitSet{}
	s.Decide(c, v)
	b.ReportAllocs()
	for b.Loop() {
		s.Limits(c, v, set)
	}
}

// benchDocument is the YAML of a policy of so many agents.
func benchDocument(agents int) []byte {
	var b bytes.Buffer
	b.WriteString("networks: {cluster: {cidrs: [10.8.0.0/16]}}\nscopes:\n")
	for i := range 1000 {
		fmt.Fprintf(&b, "  scope-%d: {actions: [read, list], resources: [\"store/bucket-%d/**\"]}\n", i, i)
	}
	b.WriteString("roles:\n  reader: {scopes: [scope-1, scope-2, scope-3]}\nlimits: {per-agent: {rate: 120/minute, per: [agent]}}\nagents:\n")
	for i := range agents {
		fmt.Fprintf(&b, "  agent-%d:\n    owner: team-%d@example.com\n    roles: [reader]\n    scopes: [scope-%d, scope-%d]\n    networks: [cluster]\n",
			i, i%100, i%1000, (i+7)%1000)
	}
	return b.Bytes()
}

// BenchmarkCompile compiles 100,000 agents from their YAML, and says what one
// agent takes of the heap.
func BenchmarkCompile(b *testing.B) {
	const agents = 100_000
	docs := []Document{{Name: "policy.yaml", Data: benchDocument(agents)}}
	var s *Snapshot
	before := heapInUse()
	for b.Loop() {
		compiled, err := Compile(docs)
		if err != nil {
			b.Fatal(err)
		}
		s = compiled
	}
	b.ReportMetric(float64(heapInUse()-before)/agents, "heapB/agent")
	runtime.KeepAlive(s)
	runtime.KeepAlive(docs)
}

func heapInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
