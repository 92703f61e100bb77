package policy_test

import (
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/kelpie-authz/kelpie/policy"
)

// versionBase is the policy that the tests of versions change.
const versionBase = `
scopes:
  leads: {actions: [read, list], resources: ["crm/leads/**", "crm/accounts/*"]}
  wipe: {actions: [delete], resources: ["crm/**"], risk: write, risk_reason: soft}
networks:
  a: {cidrs: [10.8.0.0/16, "fd00:8::/32"]}
  b: {cidrs: [192.0.2.7/32]}
roles:
  reader: {scopes: [leads]}
agents:
  one:
    owner: o@example.com
    scopes: [leads, wipe]
    roles: [reader]
    networks: [a, b]
    limits: {calls: {rate: 10/minute}}
  "team/*":
    owner: o@example.com
    networks: [any]
    grants:
      - {scope: leads, when: 'context.x == 1 && action == "read"', until: 2030-01-01T00:00:00Z}
      - {scope: wipe, unattended: agreed}
limits:
  calls: {rate: 60/minute, per: [agent]}
  day: {quota: 5000/day, per: [agent, tool], match: {risk: [write, delete]}}
  slots: {concurrency: 4, per: [agent]}
  span: {window: 100/1h, per: [agent]}
approvers:
  sec: {members: [s@example.com, t@example.com]}
  fin: {members: [f@example.com]}
approvals:
  big: {match: {actions: [delete, wipe], when: "parameters.n > 3"}, approvers: [sec, fin]}
deny:
  no: {match: {agents: [one], resources: ["crm/x/**"]}, message: no}
`

// replaced is versionBase with one text in another's place.
func replaced(t *testing.T, old, with string) string {
	t.Helper()
	if strings.Count(versionBase, old) != 1 {
		t.Fatalf("%q stands %d times in the policy", old, strings.Count(versionBase, old))
	}
	return strings.Replace(versionBase, old, with, 1)
}

func TestVersionOfTheSamePolicy(t *testing.T) {
	t.Parallel()
	want := compile(t, versionBase).Version()
	if len(want) != 32 || strings.Trim(want, "0123456789abcdef") != "" {
		t.Errorf("version %q is not 32 hexadecimal digits", want)
	}
	for _, tt := range [][2]string{
		{"\nscopes:", "\n# a comment\nscopes:"},
		{"[read, list]", "[list, read, read]"},
		{`["crm/leads/**", "crm/accounts/*"]`, `["crm/accounts/*", "crm/leads/**"]`},
		{"  leads: {actions", "  leads: {description: what, actions"},
		{"actions: [read, list]", "risk: read, actions: [read, list]"},
		{"{cidrs: [10.8.0.0/16, ", `{cidrs: ["::ffff:10.8.0.0/112", `},
		{`"fd00:8::/32"`, `"FD00:0008::/32"`},
		{"scopes: [leads, wipe]\n", "scopes: [wipe]\n    grants: [{scope: leads}]\n"},
		{"networks: [a, b]", "networks: [b, a]"},
		{"owner: o@example.com\n    scopes", "owner: p@example.com\n    suspended: false\n    scopes"},
		{"{calls: {rate: 10/minute}}", "{calls: {rate: 10/minute, burst: 10, per: [agent], count: calls, on_unavailable: deny}}"},
		{`'context.x == 1 && action == "read"'`, `"context.x==1&&(action == 'read') // why"`},
		{"2030-01-01T00:00:00Z", `"2030-01-01T01:00:00+01:00"`},
		{"rate: 60/minute, per: [agent]", "rate: 60/minute, burst: 60, shadow: false, per: [agent]"},
		{"quota: 5000/day, per: [agent, tool]", "timezone: UTC, quota: 5000/day, per: [tool, agent]"},
		{"risk: [write, delete]", "risk: [delete, write]"},
		{"{concurrency: 4,", "{concurrency: 4, hold: 300s,"},
		{"100/1h", "100/60m"},
		{"[s@example.com, t@example.com]", "[t@example.com, s@example.com]"},
		{"approvers: [sec, fin]}", "approvers: [fin, sec], quorum: 1, expires: 15m, use_within: 300s}"},
		{"actions: [delete, wipe]", "actions: [wipe, delete]"},
		{"wipe: {actions: [delete]", "wipe: {description: of leads, actions: [delete]"},
	} {
		if got := compile(t, replaced(t, tt[0], tt[1])).Version(); got != want {
			t.Errorf("%q instead of %q changes the version", tt[1], tt[0])
		}
	}
}

func TestVersionOfAnotherPolicy(t *testing.T) {
	t.Parallel()
	seen := map[string]string{compile(t, versionBase).Version(): "the base"}
	for _, tt := range [][2]string{
		{"[read, list]", "[read]"},
		{"[read, list]", "[read, get]"},
		{`, "crm/accounts/*"]`, `]`},
		{"risk_reason: soft", "risk_reason: hard"},
		{"risk: write, risk_reason: soft", "risk: read, risk_reason: soft"},
		{", risk: write, risk_reason: soft", ""},
		{"10.8.0.0/16", "10.8.0.0/17"},
		{"  reader: {scopes: [leads]}", "  reader: {scopes: [leads, wipe]}"},
		{"    roles: [reader]\n", ""},
		{"scopes: [leads, wipe]\n", "scopes: [leads]\n"},
		{"scopes: [leads, wipe]\n", "scopes: [leads]\n    grants: [{scope: wipe, shadow: true}]\n"},
		{"scopes: [leads, wipe]\n", "scopes: [leads, wipe]\n    suspended: true\n"},
		{"networks: [a, b]", "networks: [a]"},
		{"networks: [a, b]", "networks: [any]"},
		{"  one:\n", "  two:\n    {owner: o@example.com, networks: [a]}\n  one:\n"},
		{"{calls: {rate: 10/minute}}", "{calls: {rate: 10/minute, burst: 3}}"},
		{"{calls: {rate: 10/minute}}", "{calls: {rate: 10/minute}, other: {rate: 10/minute}}"},
		{"\n    limits: {calls: {rate: 10/minute}}", ""},
		{"context.x == 1", "context.x == 2"},
		{"2030-01-01T00:00:00Z", "2030-01-01T00:00:01Z"},
		{"unattended: agreed", "unattended: agreed, shadow: true"},
		{"rate: 60/minute, per: [agent]", "rate: 60/hour, per: [agent]"},
		{"rate: 60/minute, per: [agent]", "rate: 60/minute, burst: 61, per: [agent]"},
		{"rate: 60/minute, per: [agent]", "rate: 60/minute, per: [agent, action]"},
		{"rate: 60/minute, per: [agent]", "rate: 60/minute, per: [agent], count: cost"},
		{"rate: 60/minute, per: [agent]", "rate: 60/minute, per: [agent], on_unavailable: allow"},
		{"rate: 60/minute, per: [agent]", "rate: 60/minute, per: [agent], lease: true"},
		{"rate: 60/minute, per: [agent]", "rate: 60/minute, per: [agent], shadow: true"},
		{"quota: 5000/day, per", "quota: 5000/week, per"},
		{"quota: 5000/day, per", "quota: 5000/day, timezone: Europe/Berlin, per"},
		{"risk: [write, delete]", "risk: [write]"},
		{"{concurrency: 4,", "{concurrency: 5,"},
		{"{concurrency: 4,", "{concurrency: 4, hold: 4m,"},
		{"100/1h", "100/2h"},
		{"t@example.com", "u@example.com"},
		{"[sec, fin]", "[sec]"},
		{"[sec, fin]}", "[sec, fin], quorum: 2}"},
		{"[sec, fin]}", "[sec, fin], expires: 1m}"},
		{"[sec, fin]}", "[sec, fin], use_within: 1m}"},
		{"[sec, fin]}", "[sec, fin], bind: path_only, bind_reason: why}"},
		{"[sec, fin]}", "[sec, fin], shadow: true}"},
		{"actions: [delete, wipe]", "resources: [delete, wipe]"},
		{"parameters.n > 3", "parameters.n > 3.0"},
		{"agents: [one], resources", "agents: [one], actions: [read], resources"},
		{"agents: [one], resources", "agents: [\"*\"], resources"},
		{"message: no}", "message: never}"},
		{"message: no}", "message: no, shadow: true}"},
		{"  no: {", "  not: {"},
	} {
		version := compile(t, replaced(t, tt[0], tt[1])).Version()
		if before, twice := seen[version]; twice {
			t.Errorf("%q instead of %q has the version of %s", tt[1], tt[0], before)
		}
		seen[version] = tt[1]
	}
}

// TestCompileIsDeterministic compiles one policy many times, its documents and
// the sections within them in any order, and asks each snapshot everything.
func TestCompileIsDeterministic(t *testing.T) {
	t.Parallel()
	want := compile(t, versionBase)
	sections := strings.Split(strings.TrimSpace(versionBase), "\n")
	var parts []string
	for _, line := range sections {
		if line[0] != ' ' {
			parts = append(parts, "")
		}
		parts[len(parts)-1] += line + "\n"
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		random.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
		cut := random.IntN(len(parts) + 1)
		docs := []policy.Document{
			{Name: "b.yaml", Data: []byte(strings.Join(parts[:cut], ""))},
			{Name: "a.yaml", Data: []byte(strings.Join(parts[cut:], ""))},
		}
		docs = slices.DeleteFunc(docs, func(d policy.Document) bool { return len(d.Data) == 0 })
		got, err := policy.Compile(docs)
		if err != nil {
			t.Fatal(err)
		}
		if got.Version() != want.Version() {
			t.Fatalf("version %s, want %s", got.Version(), want.Version())
		}
		if !slices.Equal(got.RuleIDs(), want.RuleIDs()) || !slices.Equal(got.ScopeNames(), want.ScopeNames()) || got.Counts() != want.Counts() {
			t.Fatal("the snapshots list different rules")
		}
		for i, spec := range got.LimitSpecs() {
			if *spec != *want.LimitSpecs()[i] {
				t.Fatalf("limit %d is %+v, want %+v", i, spec, want.LimitSpecs()[i])
			}
		}
	}
}

func TestSnapshotLists(t *testing.T) {
	t.Parallel()
	s := compile(t, versionBase)
	if got, want := s.Counts(), (policy.Counts{Agents: 2, Scopes: 2, Deny: 1, Approvals: 1, Limits: 4}); got != want {
		t.Errorf("counts %+v, want %+v", got, want)
	}
	want := []string{
		"approvals/big", "deny/no", "grants/one/leads", "grants/one/wipe", "grants/team/*/leads", "grants/team/*/wipe",
		"limits/calls", "limits/day", "limits/slots", "limits/span", "roles/reader/leads",
	}
	if got := s.RuleIDs(); !slices.Equal(got, want) {
		t.Errorf("rules %q", got)
	}
	for id, scope := range map[string]string{
		"grants/team/*/leads": "leads", "roles/reader/leads": "leads", "limits/calls": "", "builtin/destructive": "",
	} {
		if got := policy.ScopeOfGrant(id); got != scope {
			t.Errorf("the scope of %s is %q", id, got)
		}
	}
}

// TestCompileErrors holds each fault to its place, and to words for what to do.
func TestCompileErrors(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ old, with, want string }{
		{"scopes: [leads, wipe]\n", "scopes: [leads, wipes]\n", `agents/one: "wipes" is not defined under scopes; write wipe`},
		{"{scopes: [leads]}", "{scopes: [lead]}", `roles/reader: "lead" is not defined under scopes; write leads`},
		{"    roles: [reader]\n", "    roles: [writer]\n", `agents/one: "writer" is not defined under roles`},
		{"networks: [a, b]", "networks: [a, all]", `agents/one: "all" is not defined under networks`},
		{"[sec, fin]", "[sec, legal]", `approvals/big: "legal" is not defined under approvers`},
		{"{scope: wipe,", "{scope: wiped,", `agents/team/*: "wiped" is not defined under scopes`},
		{"  b: {cidrs", "  any: {cidrs", `networks/any: the name any is reserved`},
		{"192.0.2.7/32", "192.0.2.7/24", `networks/b: "192.0.2.7/24" has bits set beyond its length; write 192.0.2.0/24`},
		{"192.0.2.7/32", "192.0.2.7", `networks/b: "192.0.2.7" is not a CIDR prefix; write 192.0.2.7/32`},
		{"192.0.2.7/32", `"::ffff:192.0.2.0/24"`, `is wider than the IPv4 addresses in it`},
		{"[read, list]", "[read, a..b]", `scopes/leads: no well-formed action matches the pattern "a..b"`},
		{`"crm/accounts/*"`, `"crm/accounts/*/"`, `scopes/leads: no well-formed resource matches`},
		{`"team/*":`, `"team/*/":`, `agents/team/*/: no well-formed agent matches`},
		{"risk: write, risk_reason: soft", "risk: write", `scopes/wipe: risk write is lower than its actions say, which is delete; write risk: delete, or say in risk_reason why`},
		{"risk: write, risk_reason: soft", "risk: admin, risk_reason: soft", `risk_reason stands beside a risk that is not lower`},
		{"risk: write, risk_reason: soft", "risk_reason: soft", `risk_reason stands beside a risk that is not lower`},
		{"agents: [one]", "agents: [own]", `deny/no: no agent can match "own"; remove it, or define the agent`},
		{"agents: [one]", `agents: ["teams/**"]`, `deny/no: no agent can match "teams/**"`},
		{"[sec, fin]}", "[sec, fin], quorum: 4}", `approvals/big: quorum 4, and the groups have 3 distinct members; write 1 to 3`},
		{"[sec, fin]}", "[sec, fin], bind: path_only}", `bind stands without a reason`},
		{"[sec, fin]}", "[sec, fin], bind_reason: why}", `bind_reason stands without bind`},
		{"parameters.n > 3", "parameter.n > 3", `approvals/big: the condition is wrong at its line 1, column 1: undeclared reference to 'parameter'`},
		{"parameters.n > 3", "1 + 2", `the condition gives int, not true or false`},
		{"context.x == 1", "context.x == ", `agents/team/*: the condition is wrong`},
		{"rate: 60/minute, per: [agent]", "rate: 60/minute", `limits/calls: per is missing`},
		{"rate: 60/minute, per: [agent]", "rate: 60/minute, per: [agent, all]", `limits/calls: per has all beside other dimensions`},
		{"rate: 60/minute, per: [agent]", "rate: 60/minute, window: 1/1h, per: [agent]", `limits/calls: the limit has 2 kinds`},
		{"rate: 60/minute, per: [agent]", "per: [agent]", `limits/calls: the limit has no kind`},
		{"rate: 60/minute, per: [agent]", "rate: 60/week, per: [agent]", `limits/calls: a rate has no unit week; write`},
		{"rate: 60/minute, per: [agent]", "rate: 1/day, burst: 367, per: [agent]", `limits/calls: a burst of 367 at 1/day takes more than 366 days to come back; write 1 to 366`},
		{"quota: 5000/day, per", "quota: 5000/day, burst: 3, per", `limits/day: burst stands without a rate`},
		{"quota: 5000/day, per", "quota: 5000/day, timezone: Local, per", `limits/day: the time zone "Local" is not known`},
		{"window: 100/1h,", "window: 100/1h, timezone: UTC,", `limits/span: timezone stands without a quota`},
		{"window: 100/1h,", "window: 100/1h, hold: 1m,", `limits/span: hold stands without concurrency`},
		{"{concurrency: 4,", "{concurrency: 10001,", `limits/slots: concurrency 10001 is out of range`},
		{"{concurrency: 4,", "{concurrency: 4, hold: 9000h,", `limits/slots: hold 9000h0m0s is out of range`},
		{"{calls: {rate: 10/minute}}", "{calls: {burst: 3}}", `agents/one: burst stands without a rate`},
		{"{calls: {rate: 10/minute}}", "{calls: {per: [all]}}", `agents/one: an agent's own limit "calls" does not count per agent`},
		{"{calls: {rate: 10/minute}}", "{extra: {shadow: true}}", `agents/one: the limit has no kind`},
		{`"team/*":`, `"team/**": {owner: o@example.com, networks: [any]}` + "\n" + `  "team/*":`, `agents/team/**: an id can match both this key and "team/*" at policy.yaml:18:3`},
	} {
		_, err := policy.Compile([]policy.Document{{Name: "policy.yaml", Data: []byte(replaced(t, tt.old, tt.with))}})
		var list policy.Errors
		if !errors.As(err, &list) {
			t.Errorf("%s: no error", tt.with)
			continue
		}
		found := slices.ContainsFunc(list, func(e *policy.Error) bool {
			return strings.Contains(e.Rule+": "+e.Message+"; "+e.Fix, tt.want) && e.Line > 0 && e.Fix != ""
		})
		if !found {
			t.Errorf("%s: no error %q in:\n%v", tt.with, tt.want, err)
		}
	}
}

// TestAllErrorsAtOnce makes independent faults, and expects each to be told.
func TestAllErrorsAtOnce(t *testing.T) {
	t.Parallel()
	text := versionBase
	for old, with := range map[string]string{"{scopes: [leads]}": "{scopes: [lead]}", "agents: [one]": "agents: [own]", "100/1h": "0/1h", "context.x == 1": "x == 1"} {
		text = strings.Replace(text, old, with, 1)
	}
	_, err := policy.Compile([]policy.Document{{Name: "policy.yaml", Data: []byte(text)}})
	var list policy.Errors
	if !errors.As(err, &list) || len(list) != 4 {
		t.Fatalf("want four errors, got:\n%v", err)
	}
}

func TestRevopsCompiles(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../examples/revops/policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s := compile(t, string(text))
	if got, want := s.Counts(), (policy.Counts{Agents: 9, Scopes: 10, Deny: 1, Approvals: 2, Limits: 3}); got != want {
		t.Errorf("counts %+v, want %+v", got, want)
	}
}
