package policy_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/kelpie-authz/kelpie/policy"
)

// lintHTTP lints a policy with http beside the page's, and returns "code rule" of what is about it.
func lintHTTP(t *testing.T, texts ...string) []string {
	t.Helper()
	base, _ := lintExamples(t)
	var got []string
	for _, f := range lintTexts(append([]string{base}, texts...)...) {
		if f.Code == policy.CodeInvalid {
			t.Fatalf("the policy does not load: %v", f)
		}
		if strings.HasPrefix(f.Rule, "http") {
			got = append(got, f.Code+" "+f.Rule)
		}
	}
	return got
}

// TestLintRouteWithoutScope asks which routes make calls that a scope covers,
// whatever the parts of the path are.
func TestLintRouteWithoutScope(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		actions, resources, path, action, resource string
		covered                                    bool
	}{
		{"read", "crm/**", "/{id}", "read", "crm/{id}", true},
		{"read", "crm/**", "/{id}", "list", "crm/{id}", false},
		{"read", "crm/**", "/{id}", "read", "erp/{id}", false},
		{"read", "crm/*", "/{id}", "read", "crm/x-{id}", true},
		{"read", "crm/x-*", "/{id}", "read", "crm/{id}", true},
		{"read", "crm/x-*", "/{id}", "read", "crm/y-{id}", false},
		{"read", "crm/x-1", "/{id}", "read", "crm/{id}", true},
		{"read", "crm/*/x", "/{id}", "read", "crm/{id}", false},
		{"read", "crm/*/x", "/{path...}", "read", "crm/{path}", true},
		{"read", "crm/*/x", "/{path...}", "read", "crm/{path}/y", false},
		{"read", "crm/a/b/c", "/{path...}", "read", "crm/{path...}", true},
		{"read", "crm/b/b/c", "/{path...}", "read", "crm/a{path...}", false},
		{"read", "crm/a/b/d", "/{path...}", "read", "crm/{path...}c", false},
		{"read", "crm/ab/b/bc", "/{path...}", "read", "crm/a{path...}c", true},
		{"read", "crm", "/{path...}", "read", "crm/{path...}", false},
		{"pulls.merge", "crm/*", "/{verb}", "pulls.{verb}", "crm/x", true},
		{"pulls.merge", "crm/*", "/{verb}", "issues.{verb}", "crm/x", false},
		{"pulls.merge", "crm/*", "/{verb}", "{verb}", "crm/x", true}, // a segment may hold a dot
		{"tools/call", "crm/*", "/{verb}", "tools/{verb}", "crm/x", true},
		{"tools/call", "crm/*", "/{verb...}", "{verb}", "crm/x", true},
		{"read", "crm/*", "/{a}/{b}", "read", "crm/{a}{b}", true},
		{"read", "crm/*", "/{a...}", "read", "crm/{a...}-{a...}", true},
		{"read", "crm/**", "/{a}", "{a}{a}{a}{a}{a}{a}{a}{a}", "crm/x", true},
	} {
		got := lintHTTP(t,
			"scopes: {s: {actions: ["+tt.actions+"], resources: [\""+tt.resources+"\"]}}\nagents: {a: {owner: o, networks: [cluster], scopes: [s]}}\n",
			`http: {agent_from: [{from: principal}], routes: {r: {methods: [GET], path: "`+tt.path+`", action: "`+tt.action+`", resource: "`+tt.resource+`"}}}`)
		var want []string
		if !tt.covered {
			want = []string{"route-without-scope http/r"}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%+v: %q", tt, got)
		}
	}
}

func TestLintHTTP(t *testing.T) {
	t.Parallel()
	const (
		approvers = "approvers: {s: {members: [m]}}\n"
		head      = "http:\n  agent_from: [{from: principal}]\n"
		list      = "  routes: {r: {methods: [GET], path: /leads, action: list, resource: salesforce/leads}}\n"
		ask       = "approvals: {ask: {match: {actions: [list]}, approvers: [s]}}\n"
	)
	for name, tt := range map[string]struct {
		text string
		want []string
	}{
		"nothing to say":                {head + list, nil},
		"an approval rule":              {approvers + ask + head + list, []string{"bodies-not-sent http"}},
		"and bodies are sent":           {approvers + ask + head + "  request_bodies: sent\n" + list, nil},
		"an approval rule in shadow":    {approvers + strings.Replace(ask, "approvers: [s]", "approvers: [s], shadow: true", 1) + head + list, nil},
		"that binds the path only":      {approvers + strings.Replace(ask, "approvers: [s]", "approvers: [s], bind: path_only, bind_reason: agreed", 1) + head + list, nil},
		"that binds it and reads more":  {approvers + strings.Replace(ask, "actions: [list]}", "actions: [list], when: 'parameters.x == 1'}", 1) + head + list, []string{"bodies-not-sent http"}},
		"about what no route makes":     {approvers + strings.Replace(ask, "[list]", "[read]", 1) + head + list, nil},
		"a deny rule":                   {"deny: {d: {match: {when: 'parameters.x == 1'}}}\n" + head + list, []string{"bodies-not-sent http"}},
		"a deny rule on something else": {"deny: {d: {match: {when: 'context.parameters == 1'}}}\n" + head + list, nil},
		"a deny rule in shadow":         {"deny: {d: {match: {when: 'parameters.x == 1'}, shadow: true}}\n" + head + list, nil},
		"a limit":                       {"limits: {l: {rate: 1/second, per: [agent], match: {when: 'parameters.x == 1'}}}\n" + head + list, []string{"bodies-not-sent http"}},
		"a grant":                       {"agents: {a: {owner: o, networks: [cluster], grants: [{scope: leads.read, when: 'parameters.x == 1'}]}}\n" + head + list, []string{"bodies-not-sent http"}},
		"a grant in shadow":             {"agents: {a: {owner: o, networks: [cluster], grants: [{scope: leads.read, when: 'parameters.x == 1', shadow: true}]}}\n" + head + list, nil},
		"a grant that is over":          {"agents: {a: {owner: o, networks: [cluster], grants: [{scope: leads.read, when: 'parameters.x == 1', until: 2026-01-01T00:00:00Z}]}}\n" + head + list, nil},
		"a role's grant":                {"roles: {r: {grants: [{scope: leads.read, when: 'parameters.x == 1'}]}}\nagents: {a: {owner: o, networks: [cluster], roles: [r]}}\n" + head + list, []string{"bodies-not-sent http"}},
		"the guardrail": {
			"scopes: {d: {actions: [delete, archive], resources: [\"salesforce/**\"]}}\nagents: {a: {owner: o, networks: [cluster], scopes: [d]}}\n" + approvers + head +
				"  routes: {r: {methods: [DELETE], path: \"/leads/{id}\", action: delete, resource: \"salesforce/leads/{id}\"}}\n", []string{"bodies-not-sent http"},
		},
		"the guardrail, about what no route makes": {
			"scopes: {d: {actions: [delete, archive], resources: [\"salesforce/**\"]}}\nagents: {a: {owner: o, networks: [cluster], scopes: [d]}}\n" + approvers + head +
				"  routes: {r: {methods: [DELETE], path: \"/leads/{id}\", action: archive, resource: \"salesforce/leads/{id}\"}}\n", nil,
		},
		"the guardrail, unattended": {
			"scopes: {d: {actions: [delete], resources: [\"salesforce/**\"]}}\nagents: {a: {owner: o, networks: [cluster], grants: [{scope: d, unattended: agreed}]}}\n" + head +
				"  routes: {r: {methods: [DELETE], path: \"/leads/{id}\", action: delete, resource: \"salesforce/leads/{id}\"}}\n", nil,
		},
		"a read by POST":              {head + strings.Replace(list, "GET", "HEAD, POST", 1), []string{"read-by-write-method http/r"}},
		"a part of the path as verb":  {head + "  routes: {r: {methods: [POST], path: \"/{verb}\", action: \"{verb}\", resource: salesforce/leads}}\n", nil},
		"ids from headers":            {"http:\n  agent_from: [{from: principal}, {from: header, name: x-a}]\n  subject_from: [{from: header, name: x-b}]\n" + list, []string{"agent-from-header http/agent_from"}},
		"peer_appended without hops":  {head + "  source_ip: {peer_appended: true}\n" + list, []string{"idle-peer-appended http/source_ip"}},
		"peer_appended beside a hop":  {head + "  source_ip: {trusted_hops: 1, peer_appended: true}\n" + list, nil},
		"a source_ip with nothing in": {head + "  source_ip: {}\n" + list, nil},
	} {
		if got := lintHTTP(t, tt.text); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

func TestLintBodiesSaysWhat(t *testing.T) {
	t.Parallel()
	base, _ := lintExamples(t)
	for _, f := range lintTexts(base, "approvers: {s: {members: [m]}}\napprovals: {ask: {match: {}, approvers: [s]}}\ndeny: {d: {match: {when: 'parameters.x == 1'}}}\n"+
		"http:\n  agent_from: [{from: principal}]\n  routes: {r: {methods: [GET], path: /leads, action: list, resource: salesforce/leads}}\n") {
		if f.Code == "bodies-not-sent" {
			if f.Line != 4 || f.Column != 1 || !strings.Contains(f.Message, "by approvals/ask and 1 more") {
				t.Errorf("%v", f)
			}
			return
		}
	}
	t.Error("nothing is said of bodies")
}
