package policy_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	policyv1 "github.com/kelpie-authz/kelpie/gen/kelpie/policy/v1"
	"github.com/kelpie-authz/kelpie/policy"
)

var (
	randomParameters = []string{
		`{}`, `{"amount":5}`, `{"amount":500}`, `{"amount":4.5}`, `{"amount":"x"}`, `{"amount":null}`, `{"x":"y"}`, `{"x":"z","amount":1}`,
		`{"list":[1,"a"]}`, `{ "amount": 5.0 }`, `{"amount":1,"x":"\u007a"}`, `{"amount":{"amount":500}}`,
	}
	randomContexts = []map[string]any{
		nil,
		{},
		{"flag": true},
		{"flag": false, "n": 1.0},
		{"n": 1.5, "list": []any{"a", "b"}},
		{"flag": "true", "list": "a"},
		{"parameters": "p"},
		{"missing": map[string]any{"x": 1.0}, "list": []any{}},
		{"missing": nil},
	}
)

// randomCall makes a call that passed the syntax checks.
func randomCall(t testing.TB, d *dice, doc *policyv1.Policy) *policy.Call {
	t.Helper()
	g := &randomGenerator{dice: d, doc: doc}
	c := &policy.Call{
		Agent:    pick(d, randomAgentIDs),
		Action:   g.joined(randomActionWords, []string{"*", "**", "x"}, "../", 3, 5),
		Resource: g.joined(randomPathWords, []string{"*", "**", "x"}, "/", 4, 5),
		Now:      randomNow.Add(time.Duration(d.below(5)-2) * 500 * time.Millisecond),
		Subject:  pick(d, []string{"", "u", "v"}), SessionID: pick(d, []string{"", "s", "t"}), RunID: pick(d, []string{"", "s", "r"}),
		Tool:    pick(d, []policy.Tool{{}, {Server: "a", Name: "bc"}, {Server: "ab", Name: "c"}, {Name: "abc"}, {Server: "abc"}}),
		Context: pick(d, randomContexts),
	}
	g.aim(c)
	if text := pick(d, randomAddresses); text != "" {
		address, err := policy.ParseSourceIP(text)
		if err != nil {
			t.Fatalf("address %q: %v", text, err)
		}
		c.SourceIP = address
	}
	switch d.below(6) {
	case 0:
	case 1, 2:
		c.Parameters.State = pick(d, []policy.ParametersState{policy.ParametersTruncated, policy.ParametersNotSeen})
	default:
		parameters, err := policy.ParseParameters([]byte(pick(d, randomParameters)))
		if err != nil {
			t.Fatalf("parameters: %v", err)
		}
		c.Parameters = parameters
	}
	for _, err := range []error{policy.CheckAgent(c.Agent), policy.CheckAction(c.Action), policy.CheckResource(c.Resource)} {
		if err != nil {
			t.Fatalf("a well-formed request is refused: %v", err)
		}
	}
	return c
}

// aim lets most calls meet an agent and a scope of the policy.
func (g *randomGenerator) aim(c *policy.Call) {
	if g.chance(80) {
		key := pick(g.dice, slices.Sorted(maps.Keys(g.doc.GetAgents())))
		c.Agent = g.instance(key, naivePathSeparators, randomAgentWords, c.Agent)
	}
	if g.chance(80) {
		scope := g.doc.GetScopes()[pick(g.dice, slices.Sorted(maps.Keys(g.doc.GetScopes())))]
		c.Action = g.instance(pick(g.dice, scope.GetActions()), naiveActionSeparators, randomActionWords, c.Action)
		if g.chance(90) {
			c.Resource = g.instance(pick(g.dice, scope.GetResources()), naivePathSeparators, randomPathWords, c.Resource)
		}
	}
}

// instance makes a name that the pattern matches, most of the time.
func (g *randomGenerator) instance(pattern, separators string, words []string, instead string) string {
	var b strings.Builder
	for _, token := range naiveTokens(pattern, separators) {
		segments := []string{strings.ReplaceAll(token.text, "*", pick(g.dice, words))}
		if token.text == "**" {
			segments = listOf(g.below(3), func() string { return pick(g.dice, words) })
		}
		for i, segment := range segments {
			if b.Len() > 0 && token.sep == 0 {
				b.WriteByte(separators[0])
			}
			if b.Len() > 0 && token.sep != 0 {
				b.WriteByte(map[bool]byte{true: token.sep, false: pick(g.dice, []byte(separators))}[i == 0])
			}
			b.WriteString(segment)
		}
	}
	if b.Len() == 0 {
		return instead
	}
	return b.String()
}

// randomDocuments writes the policy as one or two documents. YAML holds JSON.
func randomDocuments(t testing.TB, d *dice, doc *policyv1.Policy) []policy.Document {
	t.Helper()
	first := policyv1.Policy{
		Scopes: map[string]*policyv1.Scope{}, Agents: map[string]*policyv1.Agent{},
		Networks: doc.GetNetworks(), Approvals: doc.GetApprovals(), Limits: doc.GetLimits(),
	}
	second := policyv1.Policy{
		Scopes: map[string]*policyv1.Scope{}, Agents: map[string]*policyv1.Agent{},
		Roles: doc.GetRoles(), Approvers: doc.GetApprovers(), Deny: doc.GetDeny(),
	}
	split := d.chance(30)
	for name, scope := range doc.GetScopes() {
		into := &first
		if split && name > "s2" {
			into = &second
		}
		into.Scopes[name] = scope
	}
	for key, agent := range doc.GetAgents() {
		into := &first
		if split && key > "bo" {
			into = &second
		}
		into.Agents[key] = agent
	}
	if !split {
		return []policy.Document{randomDocument(t, "policy.yaml", doc)}
	}
	return []policy.Document{randomDocument(t, "b.yaml", &second), randomDocument(t, "a.yaml", &first)}
}

func randomDocument(t testing.TB, name string, doc *policyv1.Policy) policy.Document {
	t.Helper()
	data, err := protojson.MarshalOptions{UseProtoNames: true, Multiline: true}.Marshal(doc)
	if err != nil {
		t.Fatalf("write %s: %v", name, err)
	}
	return policy.Document{Name: name, Data: data}
}

// randomCallText writes a call compactly, for a report.
func randomCallText(c *policy.Call) string {
	return fmt.Sprintf("agent=%q action=%q resource=%q ip=%v now=%s subject=%q session=%q run=%q tool=%+v parameters=%d%s context=%v",
		c.Agent, c.Action, c.Resource, c.SourceIP, c.Now.Format(time.RFC3339Nano), c.Subject, c.SessionID, c.RunID, c.Tool,
		c.Parameters.State, c.Parameters.Raw, c.Context)
}
