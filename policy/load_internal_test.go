package policy

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
)

func loadText(texts ...string) (*source, Errors) {
	docs := make([]Document, len(texts))
	for i, text := range texts {
		docs[i] = Document{Name: fmt.Sprintf("%c.yaml", 'a'+i), Data: []byte(text)}
	}
	var r report
	s := load(docs, &r)
	var list Errors
	errors.As(r.err(), &list)
	return s, list
}

const smallPolicy = `scopes:
  s: {actions: [read], resources: ["x/**"]}
networks:
  n: {cidrs: [10.0.0.0/8]}
agents:
  a:
    owner: o@example.com
    scopes: [s]
    networks: [n]
approvers:
  g: {members: [m@example.com]}
`

// TestLoadRefuses gives each document one fault, and asks for its place, rule and words.
func TestLoadRefuses(t *testing.T) {
	t.Parallel()
	cases := map[string]struct{ text, want string }{
		"an empty document":                        {"", "a.yaml:1:1: the document is empty"},
		"only comments":                            {"# nothing\n", "a.yaml:1:1: the document is empty"},
		"a null document":                          {"~\n", "a.yaml:1:1: no value"},
		"a list":                                   {"- a\n", "a.yaml:1:1: the document takes keys with values, not a list"},
		"a text":                                   {"hello\n", "a.yaml:1:1: the document takes keys with values, not a single value"},
		"broken YAML":                              {"scopes: [\n", "a.yaml:1:1: did not find expected node content"},
		"a second YAML document":                   {"scopes: {}\n---\nagents: {}\n", "a.yaml:2:1: a second YAML document"},
		"an empty second YAML document":            {"scopes: {}\n---\n", "a.yaml:2:1: a second YAML document"},
		"what follows the end":                     {"scopes: {}\n...\nagents: {}\n", "a.yaml:2:1: the YAML document ends here"},
		"a directive":                              {"%YAML 1.2\n---\nscopes: {}\n", "a.yaml:1:1: a YAML directive"},
		"a byte order mark":                        {"\xef\xbb\xbfscopes: {}\n", "a.yaml:1:1: the document starts with a byte order mark"},
		"bytes that are not UTF-8":                 {"scopes: {}\n# \xff\n", "a.yaml:2:3: the document is not UTF-8"},
		"UTF-16":                                   {"\xff\xfes\x00", "a.yaml:1:1: the document is not UTF-8"},
		"a control character":                      {"scopes: {}\n# \x1b\n", "a.yaml:2:3: control character 0x1b"},
		"a lone carriage return":                   {"scopes: {}\r# x\n", "a.yaml:1:11: a carriage return"},
		"a line separator":                         {"scopes: {}\n# \u2028\n", "a.yaml:2:3: the character U+2028"},
		"a turn of writing":                        {"scopes: {}\n# \u202e\n", "a.yaml:2:3: the character U+202E"},
		"a turn of writing by escape":              {"agents:\n  a: {owner: \"x\\u202e\", networks: [any]}\n", `a.yaml:2:14: agents/a: owner holds the invisible character U+202E`},
		"a control character by escape":            {"agents:\n  a: {owner: \"x\\0\", networks: [any]}\n", `a.yaml:2:14: agents/a: owner holds the invisible character U+0000`},
		"an unknown section":                       {"scope: {}\n", `a.yaml:1:1: unknown key "scope"; write scopes`},
		"an unknown key":                           {"approvals:\n  big:\n    match: {}\n    aprovers: [g]\n    approvers: [g]\n", `a.yaml:4:5: approvals/big: unknown key "aprovers"; write approvers`},
		"a key in another spelling":                {"scopes:\n  s: {actions: [read], resources: [x], riskReason: y}\n", `a.yaml:2:40: scopes/s: unknown key "riskReason"; write risk_reason`},
		"a field under two spellings":              {"scopes:\n  s: {actions: [read], resources: [x], risk_reason: z, riskReason: y}\n", `a.yaml:2:56: scopes/s: unknown key "riskReason"; write risk_reason`},
		"a key by number":                          {"1: {}\n", `a.yaml:1:1: unknown key "1"`},
		"a key in brackets":                        {"\"[x]\": {}\n", `a.yaml:1:1: unknown key "[x]"`},
		"a list as a key":                          {"scopes: {}\n[x]: {}\n", `a.yaml:2:1: a key takes a single value`},
		"a section twice":                          {"scopes: {}\nagents: {}\nscopes: {}\n", `a.yaml:3:1: the key "scopes" is given here and at a.yaml:1:1`},
		"a name twice":                             {"deny:\n  d: {match: {}}\n  d: {match: {}}\n", `a.yaml:3:3: deny/d: the key "d" is given here and at a.yaml:2:3`},
		"a key of a rule twice":                    {"deny:\n  d: {match: {}, message: a, message: b}\n", `a.yaml:2:30: deny/d: the key "message" is given here and at a.yaml:2:18`},
		"a name quoted and not":                    {"deny:\n  d: {match: {}}\n  \"d\": {match: {}}\n", `a.yaml:3:3: deny/d: the key "d" is given`},
		"a null section":                           {"scopes:\n", "a.yaml:1:8: no value"},
		"a null rule":                              {"deny:\n  d:\n", "a.yaml:2:5: deny/d: no value"},
		"a null field":                             {"deny:\n  d: {match: {}, message: null}\n", "a.yaml:2:27: deny/d: no value"},
		"a null match":                             {"deny:\n  d: {match: ~}\n", "a.yaml:2:14: deny/d: no value"},
		"a null in a list":                         {"scopes:\n  s: {actions: [~], resources: [x]}\n", "a.yaml:2:17: scopes/s: no value"},
		"a blank reason":                           {"scopes:\n  s: {actions: [delete], resources: [x], risk: read, risk_reason: \" \"}\n", "a.yaml:2:67: scopes/s: risk_reason is a blank text"},
		"a reason of joiners":                      {"agents:\n  a: {owner: o, networks: [any], grants: [{scope: s, unattended: \"\u200b\u2060\"}]}\nscopes:\n  s: {actions: [delete], resources: [x]}\n", "a.yaml:2:66: agents/a: unattended is a blank text"},
		"a reason of fillers":                      {"approvals:\n  a: {match: {risk: [delete]}, approvers: [g], bind: path_only, bind_reason: \"\u3164\u2800\"}\napprovers:\n  g: {members: [m]}\n", "a.yaml:2:78: approvals/a: bind_reason is a blank text"},
		"a blank owner":                            {"agents:\n  a: {owner: \"\\t\", networks: [any]}\n", "a.yaml:2:14: agents/a: owner is a blank text"},
		"an empty text":                            {"deny:\n  d: {match: {}, message: \"\"}\n", "a.yaml:2:27: deny/d: message is an empty text"},
		"an empty text in a list":                  {"scopes:\n  s: {actions: [\"\"], resources: [x]}\n", "a.yaml:2:17: scopes/s: actions is an empty text"},
		"an empty name":                            {"agents:\n  \"\": {owner: o, networks: [any]}\n", "a.yaml:2:3: agents/: a name in agents is an empty text"},
		"a number for a text":                      {"deny:\n  d: {match: {}, message: 42}\n", `a.yaml:2:27: deny/d: message takes a text, and YAML reads "42" as a number; write it in quotes`},
		"a number in a list":                       {"scopes:\n  s: {actions: [1e3], resources: [x]}\n", `a.yaml:2:17: scopes/s: actions takes a text, and YAML reads "1e3" as a number`},
		"a bool for a text":                        {"deny:\n  d: {match: {}, message: true}\n", `a.yaml:2:27: deny/d: message takes a text, and YAML reads "true" as true or false`},
		"a date for a text":                        {"deny:\n  d: {match: {}, message: 2026-01-01}\n", `a.yaml:2:27: deny/d: message takes a text, and YAML reads "2026-01-01" as a date`},
		"a number as a name":                       {"agents:\n  42: {owner: o, networks: [any]}\n", `a.yaml:2:3: agents/42: a name in agents takes a text`},
		"a text for a list":                        {"scopes:\n  s: {actions: read, resources: [x]}\n", "a.yaml:2:16: scopes/s: actions takes a list, not a single value; write [one, two]"},
		"a list for a text":                        {"deny:\n  d: {match: {}, message: [a]}\n", "a.yaml:2:27: deny/d: message takes a single value, not a list"},
		"a list for a map":                         {"deny: [d]\n", "a.yaml:1:7: deny takes keys with values, not a list"},
		"a text for a rule":                        {"deny:\n  d: x\n", "a.yaml:2:6: deny/d: d takes keys with values, not a single value"},
		"yes for true":                             {"deny:\n  d: {match: {}, shadow: yes}\n", `a.yaml:2:26: deny/d: shadow takes true or false, not "yes"`},
		"a quoted true":                            {"deny:\n  d: {match: {}, shadow: \"true\"}\n", `a.yaml:2:26: deny/d: shadow takes true or false, not "true"`},
		"a quoted number":                          {"limits:\n  l: {rate: 1/minute, burst: \"3\", per: [agent]}\n", `a.yaml:2:30: limits/l: burst takes a whole number, not "3"`},
		"bytes for a number":                       {"limits:\n  l: {rate: 1/minute, burst: 1k, per: [agent]}\n", `a.yaml:2:30: limits/l: burst takes a whole number, not "1k"`},
		"a hexadecimal number":                     {"limits:\n  l: {rate: 1/minute, burst: 0x10, per: [agent]}\n", `a.yaml:2:30: limits/l: burst takes a whole number, not "0x10"`},
		"a negative number":                        {"limits:\n  l: {rate: 1/minute, burst: -1, per: [agent]}\n", `a.yaml:2:30: limits/l: burst takes a whole number, not "-1"`},
		"a fraction":                               {"limits:\n  l: {rate: 1/minute, burst: 1.5, per: [agent]}\n", `a.yaml:2:30: limits/l: burst takes a whole number, not "1.5"`},
		"a number of more than 32 bits":            {"limits:\n  l: {rate: 1/minute, burst: 4294967296, per: [agent]}\n", `a.yaml:2:30: limits/l: burst takes a whole number`},
		"zero":                                     {"limits:\n  l: {rate: 1/minute, burst: 0, per: [agent]}\n", "a.yaml:2:30: limits/l: burst is zero"},
		"a duration without a unit":                {"limits:\n  l: {concurrency: 1, hold: 5, per: [agent]}\n", `a.yaml:2:29: limits/l: hold takes a duration, not "5"`},
		"a negative duration":                      {"limits:\n  l: {concurrency: 1, hold: -5m, per: [agent]}\n", `a.yaml:2:29: limits/l: hold takes a duration, not "-5m"`},
		"a duration of nothing":                    {"limits:\n  l: {concurrency: 1, hold: 0s, per: [agent]}\n", "a.yaml:2:29: limits/l: hold is zero"},
		"a date for an instant":                    {"roles:\n  r: {grants: [{scope: s, until: 2026-01-01}]}\n", `a.yaml:2:34: roles/r: until takes an instant, not "2026-01-01"`},
		"an instant without a zone":                {"roles:\n  r: {grants: [{scope: s, until: 2026-01-01T00:00:00}]}\n", `a.yaml:2:34: roles/r: until takes an instant`},
		"an anchor":                                {"deny: &x\n  d: {match: {}}\n", "a.yaml:1:7: an anchor"},
		"an alias":                                 {"deny:\n  d: *x\n  e: &x {match: {}}\n", "a.yaml:2:6: an alias without anchor"},
		"a merge key":                              {"deny:\n  d: {<<: {match: {}}}\n", "a.yaml:2:7: deny/d: a merge key"},
		"a tag":                                    {"deny:\n  d: {match: {}, message: !!str 42}\n", "a.yaml:2:27: deny/d: a tag"},
		"an unknown word":                          {"scopes:\n  s: {actions: [read], resources: [x], risk: huge}\n", "a.yaml:2:46: scopes/s: risk: must be in list"},
		"an unknown word in a list":                {"deny:\n  d: {match: {risk: [read, huge]}}\n", "a.yaml:2:28: deny/d: risk: must be in list"},
		"a name with a slash":                      {"scopes:\n  a/b: {actions: [read], resources: [x]}\n", `a.yaml:2:3: scopes/a/b: the name "a/b" cannot be used`},
		"a missing match":                          {"deny:\n  d: {message: x}\n", "a.yaml:2:3: deny/d: match is missing; write match"},
		"a missing owner":                          {"agents:\n  a: {networks: [any]}\n", "a.yaml:2:3: agents/a: owner is missing"},
		"missing networks":                         {"agents:\n  a: {owner: o}\n", "a.yaml:2:3: agents/a: networks is missing"},
		"empty networks":                           {"agents:\n  a: {owner: o, networks: []}\n", "a.yaml:2:27: agents/a: networks is an empty list"},
		"empty actions":                            {"scopes:\n  s: {actions: [], resources: [x]}\n", "a.yaml:2:16: scopes/s: actions is an empty list"},
		"empty resources":                          {"scopes:\n  s: {actions: [read], resources: []}\n", "a.yaml:2:35: scopes/s: resources is an empty list"},
		"missing resources":                        {"scopes:\n  s: {actions: [read]}\n", "a.yaml:2:3: scopes/s: resources is missing"},
		"empty cidrs":                              {"networks:\n  n: {cidrs: []}\n", "a.yaml:2:14: networks/n: cidrs is an empty list"},
		"empty members":                            {"approvers:\n  g: {members: []}\n", "a.yaml:2:16: approvers/g: members is an empty list"},
		"empty approvers":                          {"approvals:\n  r: {match: {}, approvers: []}\n", "a.yaml:2:29: approvals/r: approvers is an empty list"},
		"missing approvers":                        {"approvals:\n  r: {match: {}}\n", "a.yaml:2:3: approvals/r: approvers is missing"},
		"empty per":                                {"limits:\n  l: {rate: 1/minute, per: []}\n", "a.yaml:2:28: limits/l: per is an empty list"},
		"an empty list in a match":                 {"deny:\n  d: {match: {actions: []}}\n", "a.yaml:2:24: deny/d: actions is an empty list; leave it out to match every call"},
		"a dimension twice":                        {"limits:\n  l: {rate: 1/minute, per: [agent, agent]}\n", "a.yaml:2:23: limits/l: per names one twice"},
		"a quorum of nobody":                       {"approvals:\n  r: {match: {}, approvers: [g], quorum: 0}\n", "a.yaml:2:42: approvals/r: quorum is zero"},
		"an own limit per session":                 {"agents:\n  a: {owner: o, networks: [any], limits: {l: {rate: 1/minute, per: [agent, session_id]}}}\n", "a.yaml:2:43: agents/a/limits/l: the caller chooses session_id"},
		"a session limit beside another one":       {"limits:\n  l: {rate: 1/minute, per: [agent, run_id]}\n  m: {rate: 1/minute, per: [agent], match: {actions: [read]}}\n", "a.yaml:2:3: limits/l: the caller chooses run_id"},
		"a session limit beside a shadow":          {"limits:\n  l: {rate: 1/minute, per: [tool, subject]}\n  m: {rate: 1/minute, per: [agent], shadow: true}\n", "a.yaml:2:3: limits/l: the caller chooses tool and subject"},
		"an own limit that takes the agent's away": {"limits:\n  l: {rate: 1/minute, per: [session_id]}\n  m: {rate: 1/minute, per: [agent]}\nagents:\n  a: {owner: o, networks: [any], limits: {m: {shadow: true}}}\n", "a.yaml:5:34: agents/a/limits: the caller chooses session_id"},
		"a session limit alone":                    {"limits:\n  l: {rate: 1/minute, per: [session_id]}\n", "a.yaml:2:3: limits/l: the caller chooses session_id"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, list := loadText(c.text)
			if !slices.ContainsFunc(list, func(e *Error) bool { return strings.HasPrefix(e.Error(), c.want) }) {
				t.Fatalf("got %v\nwant %s", list, c.want)
			}
			if len(list) != 1 {
				t.Errorf("one fault is told as %d:\n%v", len(list), list)
			}
		})
	}
}

func TestLoadTellsAllFaultsAtOnce(t *testing.T) {
	t.Parallel()
	_, list := loadText("deny:\n  d: {match: {}, message: 42, foo: 1}\n  e: {}\n", "scopes: 5\nagents:\n  a: {}\n")
	var got []string
	for _, e := range list {
		got = append(got, fmt.Sprintf("%s:%d:%d %s", e.File, e.Line, e.Column, e.Rule))
	}
	want := []string{"a.yaml:2:27 deny/d", "a.yaml:2:31 deny/d", "a.yaml:3:3 deny/e", "b.yaml:1:9 ", "b.yaml:3:3 agents/a", "b.yaml:3:3 agents/a"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

func TestLoadBoundsWhatItTells(t *testing.T) {
	t.Parallel()
	_, list := loadText("scopes:\n  s:\n    resources: [x]\n    actions:\n" + strings.Repeat("      - 1\n", 5000))
	if len(list) != maxErrors+1 || !strings.Contains(list[maxErrors].Message, "4000 more faults") {
		t.Errorf("%d faults, the last %v", len(list), list[len(list)-1])
	}
}

func TestLoadMergesDocuments(t *testing.T) {
	t.Parallel()
	first, second := smallPolicy, "agents:\n  b: {owner: o@example.com, networks: [any]}\ndeny:\n  d: {match: {}}\n"
	s, list := loadText(first, second)
	if list != nil {
		t.Fatal(list)
	}
	if len(s.policy.GetAgents()) != 2 || len(s.policy.GetDeny()) != 1 || len(s.policy.GetScopes()) != 1 {
		t.Errorf("merged to %v", s.policy)
	}
	other, _ := loadText(second, first)
	if !proto.Equal(s.policy, other.policy) {
		t.Error("the order of documents matters")
	}
}

func TestLoadNamesBothPlacesOfANameDefinedTwice(t *testing.T) {
	t.Parallel()
	_, list := loadText(smallPolicy, "# second\nagents:\n  a: {owner: o@example.com, networks: [any]}\n")
	if len(list) != 1 || !strings.HasPrefix(list[0].Error(), "b.yaml:3:3: agents/a: defined here and at a.yaml:6:3; keep one of them") {
		t.Errorf("got %v", list)
	}
}

func TestLoadRefusesTwoDocumentsOfOneName(t *testing.T) {
	t.Parallel()
	var r report
	load([]Document{{Name: "p.yaml", Data: []byte("scopes: {}\n")}, {Name: "p.yaml", Data: []byte("deny: {}\n")}}, &r)
	if err := r.err(); err == nil || !strings.Contains(err.Error(), "two documents have this name") {
		t.Errorf("got %v", err)
	}
}

func TestLoadRefusesAHugeDocument(t *testing.T) {
	t.Parallel()
	_, list := loadText(strings.Repeat("#\n", maxDocumentBytes/2) + "#")
	if len(list) != 1 || !strings.Contains(list[0].Message, "more than 16777216") {
		t.Errorf("got %v", list)
	}
}

func TestLoadTakesSessionLimitsBesideOnePerAgent(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"limits: {l: {rate: 1/minute, per: [session_id]}, m: {rate: 9/minute, per: [agent]}}",
		"limits: {l: {rate: 1/minute, per: [agent, tool]}, m: {window: 9/1m, per: [agent]}}",
		"limits: {l: {rate: 1/minute, per: [run_id], match: {actions: [read]}}, m: {rate: 9/minute, per: [agent], match: {actions: [read]}}}",
		"limits: {l: {rate: 1/minute, per: [subject], shadow: true}}",
		"limits: {m: {rate: 9/minute, per: [agent]}}\nagents: {a: {owner: o, networks: [any], limits: {l: {rate: 1/minute, per: [agent, session_id]}, m: {rate: 1/minute}}}}",
		"agents: {a: {owner: o, networks: [any], limits: {l: {rate: 1/minute, per: [agent, session_id]}, m: {rate: 1/minute}}}}",
		"limits: {l: {rate: 1/minute, per: [agent, resource]}}",
	} {
		if _, list := loadText(text + "\n"); list != nil {
			t.Errorf("%s\n%v", text, list)
		}
	}
}

func TestSourceAt(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../examples/revops/policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	s, list := loadText(string(text))
	if list != nil {
		t.Fatal(list)
	}
	cases := []struct{ path, starts string }{
		{"scopes", "scopes:"},
		{"scopes leads.read", "leads.read:"},
		{"scopes leads.read actions", "actions: [read"},
		{"scopes leads.read actions 1", "list]"},
		{"scopes leads.read risk", "leads.read:"},
		{"agents spiffe://prod.example/ns/agents/sa/*", `"spiffe://`},
		{"agents ticket-triage grants 1 until", "2099-01-01"},
		{"agents ticket-triage grants 7 until", "grants:"},
		{"approvals large-refunds match when", `"parameters.amount`},
		{"agents nobody owner", "agents:"},
		{"nowhere", "#"},
	}
	for _, c := range cases {
		at := s.at(strings.Fields(c.path)...)
		if got := lines[at.line-1][at.column-1:]; at.file != "a.yaml" || !strings.HasPrefix(got, c.starts) {
			t.Errorf("at(%s) = %v, %q; want %q", c.path, at, got, c.starts)
		}
	}
}

func TestErrorText(t *testing.T) {
	t.Parallel()
	_, list := loadText("approvals:\n  large-refunds:\n    match: {}\n    approvers: [finance]\n    quorun: 2\n")
	want := `a.yaml:5:5: approvals/large-refunds: unknown key "quorun"; write quorum
     5 |     quorun: 2
       |     ^`
	if list.Error() != want {
		t.Errorf("got\n%s\nwant\n%s", list, want)
	}
}

// FuzzLoad asks that no document makes the loader panic, and that what loads
// does so again with the same result, alone and beside an empty one.
func FuzzLoad(f *testing.F) {
	text, err := os.ReadFile("../examples/revops/policy.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	for _, seed := range []string{smallPolicy, "deny: {d: {match: {}}}", "a: &a [*a]", "? [x]\n: y", "---\n", "\"\\x85\": 1\r\n", "{", "limits: {l: {rate: 1/minute, hold: 5m, per: [all]}}"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var first, second report
		doc := Document{Name: "a.yaml", Data: data}
		one := load([]Document{doc}, &first)
		two := load([]Document{{Name: "b.yaml", Data: []byte("deny: {}\n")}, doc}, &second)
		if (first.err() == nil) != (second.err() == nil) || !proto.Equal(one.policy, two.policy) {
			t.Fatalf("loaded as\n%v, %v\nthen as\n%v, %v", one.policy, first.err(), two.policy, second.err())
		}
		for _, e := range first.errors() {
			if !strings.HasPrefix(e.Error(), fmt.Sprintf("a.yaml:%d:%d: ", e.Line, e.Column)) || e.Line < 1 || e.Column < 1 {
				t.Fatalf("an error without a place: %v", e)
			}
		}
	})
}
