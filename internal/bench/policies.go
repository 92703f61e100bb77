package main

import (
	"fmt"
	"strings"

	"github.com/kelpie-authz/kelpie/policy"
)

// shape is the size of a generated policy.
type shape struct {
	agents, scopes, scopesPerAgent int
}

// generate writes a policy of that shape in several documents. Scope i covers
// read and list on svc<i%100>/things<i>/**; agent a holds scopesPerAgent scopes
// from a on. No limit of it is ever reached by a benchmark.
func generate(s shape) []policy.Document {
	docs := []policy.Document{{Name: "base.yaml", Data: baseDocument(s.scopes)}}
	const perDocument = 5000
	var b strings.Builder
	flush := func(n int) {
		if b.Len() > 0 {
			docs = append(docs, policy.Document{Name: fmt.Sprintf("agents-%d.yaml", n), Data: []byte("agents:\n" + b.String())})
			b.Reset()
		}
	}
	for a := range s.agents {
		fmt.Fprintf(&b, "  agent-%d:\n    owner: team-%d@example.com\n    networks: [cluster]\n    scopes: [", a, a%50)
		for k := range s.scopesPerAgent {
			if k > 0 {
				b.WriteString(", ")
			}
			fmt.Fprintf(&b, "s%d", (a+k)%s.scopes)
		}
		b.WriteString("]\n")
		if (a+1)%perDocument == 0 || b.Len() > 4<<20 {
			flush(a)
		}
	}
	flush(s.agents)
	return docs
}

func baseDocument(scopes int) []byte {
	var b strings.Builder
	b.WriteString("networks:\n  cluster: {cidrs: [10.8.0.0/16, \"fd00:8::/32\"]}\n")
	b.WriteString("limits:\n  per-agent: {rate: 1000000/second, burst: 1000000000, per: [agent]}\n")
	b.WriteString("approvers:\n  security: {members: [oncall@example.com]}\n")
	b.WriteString("approvals:\n  destructive: {match: {risk: [delete, admin]}, approvers: [security]}\n")
	b.WriteString("deny:\n  no-export: {match: {actions: [export]}}\n")
	b.WriteString("scopes:\n")
	for i := range scopes {
		fmt.Fprintf(&b, "  s%d: {actions: [read, list], resources: [\"svc%d/things%d/**\"]}\n", i, i%100, i)
	}
	return []byte(b.String())
}

// resourceOf is a resource that scope i covers.
func resourceOf(i int) string { return fmt.Sprintf("svc%d/things%d/items/42", i%100, i) }

// httpDocument says how an HTTP request becomes the call for a resource of
// resourceOf. An agent is named by Envoy's configuration or, where one
// configuration serves many agents, by a header.
func httpDocument(trustedHops int) policy.Document {
	return policy.Document{Name: "http.yaml", Data: fmt.Appendf(nil, `http:
  agent_from:
    - {from: context_extension, name: agent}
    - {from: header, name: x-agent-id}
  source_ip: {trusted_hops: %d}
  request_bodies: sent
  routes:
    read: {methods: [GET], path: "/{service}/{thing}/{rest...}", action: read, resource: "{service}/{thing}/{rest}"}
    export: {methods: [POST], path: "/{service}/{thing}/{rest...}", action: export, resource: "{service}/{thing}/{rest}"}
`, trustedHops)}
}

// opaData is the policy of generate and httpDocument as data for the rules of
// tools/opacheck, which look everything up by a key.
func opaData(s shape) map[string]any {
	agents, scopes := map[string]any{}, map[string]map[string]any{}
	for a := range s.agents {
		held := map[string]bool{}
		for k := range s.scopesPerAgent {
			held[fmt.Sprintf("s%d", (a+k)%s.scopes)] = true
		}
		agents[fmt.Sprintf("agent-%d", a)] = map[string]any{"networks": []string{"cluster"}, "scopes": held}
	}
	for i := range s.scopes {
		service, covering := fmt.Sprintf("svc%d", i%100), []string{fmt.Sprintf("s%d", i)}
		if scopes[service] == nil {
			scopes[service] = map[string]any{}
		}
		scopes[service][fmt.Sprintf("things%d", i)] = map[string]any{"read": covering, "list": covering}
	}
	return map[string]any{
		"agents": agents, "scopes": scopes,
		"networks":       map[string][]string{"cluster": {"10.8.0.0/16", "fd00:8::/32"}},
		"routes":         map[string]string{"GET": "read", "POST": "export"},
		"denied_actions": map[string]bool{"export": true},
	}
}
