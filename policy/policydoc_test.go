package policy_test

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kelpie-authz/kelpie/policy"
)

//go:generate env UPDATE_DOCS=1 go test -run TestPolicyPageKeys .

const (
	policyPage   = "../docs/policy.md"
	policyMarker = "TestPolicyPageKeys -->\n"
)

// policyPageParts splits docs/policy.md into the tour and the generated keys.
func policyPageParts(t *testing.T) (string, string) {
	t.Helper()
	page, err := os.ReadFile(policyPage)
	if err != nil {
		t.Fatal(err)
	}
	tour, keys, found := strings.Cut(string(page), policyMarker)
	if !found {
		t.Fatalf("%s has no line that ends in %q", policyPage, policyMarker)
	}
	return tour + policyMarker, keys
}

func TestPolicyPageKeys(t *testing.T) {
	t.Parallel()
	tour, got := policyPageParts(t)
	var want strings.Builder
	for _, part := range []struct{ title, file string }{{"The keys of a policy", "policy.proto"}, {"The keys of a test file", "test_file.proto"}} {
		text, err := os.ReadFile("../proto/kelpie/policy/v1/" + part.file)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&want, "\n## %s\n", part.title)
		for _, m := range protoMessages(t, string(text)) {
			m.write(&want)
		}
	}
	if os.Getenv("UPDATE_DOCS") != "" {
		if err := os.WriteFile(policyPage, []byte(tour+want.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want.String(), got); diff != "" {
		t.Errorf("%s is not what the protos say; run UPDATE_DOCS=1 go test ./policy -run TestPolicyPageKeys (-want +got):\n%s", policyPage, diff)
	}
}

type protoMessage struct {
	name, comment string
	fields        []protoField
}

type protoField struct {
	name, comment, kind, options string
	repeated                     bool
}

var (
	protoMessageLine = regexp.MustCompile(`^message (\w+) \{$`)
	protoFieldLine   = regexp.MustCompile(`^  (optional |repeated )?(map<string, (\w+)>|[\w.]+) (\w+) = \d+(.*)$`)
	protoIn          = regexp.MustCompile(`(?s)in: \[(.*?)\]`)
	protoNeeded      = regexp.MustCompile(`required = true|repeated\.min_items = 1|repeated = \{\s+min_items: 1|\.string\.min_bytes = 1|\.string = \{\s+min_bytes: 1`)
)

// protoMessages reads the messages of a proto file as buf formats it.
func protoMessages(t *testing.T, text string) []protoMessage {
	t.Helper()
	var messages []protoMessage
	var comment []string
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		if said, found := strings.CutPrefix(strings.TrimSpace(line), "// "); found {
			comment = append(comment, said)
			continue
		}
		if m := protoMessageLine.FindStringSubmatch(line); m != nil {
			messages = append(messages, protoMessage{name: m[1], comment: strings.Join(comment, " ")})
		} else if f := protoFieldLine.FindStringSubmatch(line); f != nil {
			options := f[5]
			for !strings.HasSuffix(lines[i], ";") {
				i++
				options += "\n" + lines[i]
			}
			kind := f[2]
			if f[3] != "" {
				kind = "map " + f[3]
			}
			last := &messages[len(messages)-1]
			last.fields = append(last.fields, protoField{
				name: f[4], comment: strings.Join(comment, " "), kind: kind, options: options, repeated: f[1] == "repeated ",
			})
		}
		comment = nil
	}
	if len(messages) < 5 {
		t.Fatalf("only %d messages were found", len(messages))
	}
	return messages
}

func (m protoMessage) write(b *strings.Builder) {
	fmt.Fprintf(b, "\n### %s\n\n%s\n\n| key | value | meaning |\n|---|---|---|\n", m.name, m.comment)
	for _, f := range m.fields {
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", f.name, f.value(), strings.ReplaceAll(f.comment, "|", `\|`))
	}
}

// value says in words what a key takes.
func (f protoField) value() string {
	kind, isMap := strings.CutPrefix(f.kind, "map ")
	one := map[string]string{
		"string": "text", "bool": "`true` or `false`", "uint32": "whole number", "double": "number",
		"google.protobuf.Duration": "duration, such as `15m`", "google.protobuf.Timestamp": "instant, such as `2027-01-31T00:00:00Z`",
		"google.protobuf.Struct": "any keys and values",
	}[kind]
	if one == "" {
		one = fmt.Sprintf("[%s](#%s)", kind, strings.ToLower(kind))
	}
	if in := protoIn.FindStringSubmatch(f.options); in != nil {
		words := strings.Fields(strings.NewReplacer(`"`, "`", ",", " ").Replace(in[1]))
		one = strings.Join(words, ", ")
	}
	switch {
	case isMap:
		one = "name: " + one
	case f.repeated:
		one = "list of " + one
	}
	if protoNeeded.MatchString(f.options) {
		one += "; needed"
	}
	return one
}

// tourBlocks are the examples of the tour, by what the fence says.
func tourBlocks(t *testing.T) (policies []policy.Document, tests []policy.Test) {
	t.Helper()
	tour, _ := policyPageParts(t)
	for i, found := range regexp.MustCompile("(?s)```yaml( test)?\n(.*?)```").FindAllStringSubmatch(tour, -1) {
		doc := policy.Document{Name: fmt.Sprintf("tour-%d.yaml", i), Data: []byte(found[2])}
		if found[1] == "" {
			policies = append(policies, doc)
			continue
		}
		parsed, err := policy.ParseTests(doc)
		if err != nil {
			t.Fatal(err)
		}
		tests = append(tests, parsed...)
	}
	return policies, tests
}

func TestPolicyPageTour(t *testing.T) {
	t.Parallel()
	docs, tests := tourBlocks(t)
	if len(docs) < 4 || len(tests) < 4 {
		t.Fatalf("the tour has %d examples and %d tests", len(docs), len(tests))
	}
	snapshot, err := policy.Compile(docs)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range policy.Lint(docs, lintNow) {
		if f.Severity != policy.SeverityNote {
			t.Errorf("%v", f)
		}
	}
	want := map[string]policy.Outcome{"allow": policy.OutcomeAllow, "deny": policy.OutcomeDeny, "require_approval": policy.OutcomeApproval}
	for _, test := range tests {
		q := tourCall(t, snapshot, &test)
		if q == nil {
			continue // no route, which the expectation was held to
		}
		ip, err := policy.ParseSourceIP(q.SourceIP)
		if err != nil {
			t.Fatal(err)
		}
		call := policy.Call{
			Agent: q.Agent, Action: q.Action, Resource: q.Resource, SourceIP: ip,
			Now: time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC), Context: q.Context,
		}
		if test.Request.ParametersJSON != nil {
			if call.Parameters, err = policy.ParseParameters(test.Request.ParametersJSON); err != nil {
				t.Fatal(err)
			}
		}
		var v policy.Verdict
		snapshot.Decide(&call, &v)
		if v.Outcome != want[test.Expect.Decision] || test.Expect.Reason != "" && v.Reason != test.Expect.Reason {
			t.Errorf("%s: outcome %v, reason %s; want %s, %s", test.Name, v.Outcome, v.Reason, test.Expect.Decision, test.Expect.Reason)
		}
	}
}

// tourCall is the call of a test, made by its route where it is of an HTTP
// request; nil if there is no route.
func tourCall(t *testing.T, s *policy.Snapshot, test *policy.Test) *policy.TestRequest {
	t.Helper()
	in := test.Request.HTTP
	if in == nil {
		return &test.Request
	}
	host, err := policy.NormalHost(in.Host)
	if err != nil {
		t.Fatal(err)
	}
	segments := strings.Split(strings.TrimPrefix(in.Target, "/"), "/")
	r := s.HTTP().Route(in.Method, host, segments)
	if r == nil {
		if test.Expect.Route != "" || test.Expect.Reason != policy.ReasonNoMatchingScope {
			t.Errorf("%s: no route", test.Name)
		}
		return nil
	}
	q := &policy.TestRequest{Agent: in.Extensions["agent"], SourceIP: in.Peer}
	q.Action, q.Resource = r.Call(segments)
	if r.ID != test.Expect.Route || q.Action != test.Expect.Action || q.Resource != test.Expect.Resource {
		t.Errorf("%s: %s, %s on %s", test.Name, r.ID, q.Action, q.Resource)
	}
	return q
}
