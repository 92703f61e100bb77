package policy_test

import (
	"encoding/json"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kelpie-authz/kelpie/policy"
)

func parseTests(text string) ([]policy.Test, error) {
	return policy.ParseTests(policy.Document{Name: "p_test.yaml", Data: []byte(text)})
}

func TestParseTestsReadsEveryField(t *testing.T) {
	t.Parallel()
	tests, err := parseTests(`# a comment
tests:
  - name: all of it
    now: 2098-12-31T23:59:59.5+01:00
    repeat: 3
    approval: approved
    before:
      - repeat: 2
        approval: denied
        request: {agent: b, parameters_json: "{ }", parameters_state: truncated}
      - request: {agent: c}
    request:
      agent: a
      action: create
      resource: x/y
      source_ip: "::1"
      subject: u
      actor_chain: [p, q]
      session_id: "7"
      run_id: r
      tool: {name: n, server: s, definition_digest: d}
      parameters: {amount: 82, rate: 1.50, big: 12345678901234567890, exp: 1e3, text: "82", yes: yes, day: 2026-01-01, none: null, ok: true, list: [1, {a: b}], nl: "a\nb<"}
      context: {channel: email, n: 1, deep: {l: [1.5, null, true]}}
      cost: 2.5
    expect: {decision: deny, reason: ok, matched: [deny/x], required_scopes: []}
  - name: little of it
    request: {parameters_state: not_seen}
    expect: {decision: allow}
`)
	if err != nil {
		t.Fatal(err)
	}
	want := []policy.Test{{
		Name: "all of it", Line: 3, Now: time.Date(2098, 12, 31, 22, 59, 59, 5e8, time.UTC), Repeat: 3, Approval: policy.TestApprovalApproved,
		Before: []policy.TestBefore{
			{Repeat: 2, Approval: policy.TestApprovalDenied, Request: policy.TestRequest{Agent: "b", ParametersJSON: []byte("{ }"), ParametersState: policy.ParametersTruncated}},
			{Repeat: 1, Request: policy.TestRequest{Agent: "c"}},
		},
		Request: policy.TestRequest{
			Agent: "a", Action: "create", Resource: "x/y", SourceIP: "::1", Subject: "u", ActorChain: []string{"p", "q"}, SessionID: "7", RunID: "r",
			Tool: policy.Tool{Server: "s", Name: "n"}, ToolDefinitionDigest: "d",
			ParametersJSON: []byte(`{"amount":82,"rate":1.50,"big":12345678901234567890,"exp":1e3,"text":"82","yes":"yes","day":"2026-01-01","none":null,"ok":true,"list":[1,{"a":"b"}],"nl":"a\nb<"}`),
			Context:        map[string]any{"channel": "email", "n": 1.0, "deep": map[string]any{"l": []any{1.5, nil, true}}},
			Cost:           2.5,
		},
		Expect: policy.TestExpect{Decision: "deny", Reason: "ok", Matched: []string{"deny/x"}, RequiredScopes: []string{}},
	}, {
		Name: "little of it", Line: 26, Repeat: 1, Request: policy.TestRequest{ParametersState: policy.ParametersNotSeen}, Expect: policy.TestExpect{Decision: "allow"},
	}}
	if diff := cmp.Diff(want, tests); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestParseTestsTakesMalformedRequests(t *testing.T) {
	t.Parallel()
	for _, request := range []string{
		`{agent: "a/", action: "é", resource: "/x\\0", source_ip: "10.0.0.1:80"}`, `{parameters_json: "[", parameters_state: complete}`, `{parameters_state: complete}`, `{cost: -1}`,
	} {
		if _, err := parseTests("tests:\n  - {name: n, request: " + request + ", expect: {decision: deny}}\n"); err != nil {
			t.Errorf("%s: %v", request, err)
		}
	}
	for text, want := range map[string]float64{".nan": math.NaN(), ".inf": math.Inf(1), "-.inf": math.Inf(-1)} {
		tests, err := parseTests("tests:\n  - {name: n, request: {cost: " + text + "}, expect: {decision: deny}}\n")
		if err != nil || tests[0].Request.Cost != want && !(math.IsNaN(want) && math.IsNaN(tests[0].Request.Cost)) {
			t.Errorf("cost %s: %+v, %v", text, tests, err)
		}
	}
}

func TestParseTestsRefuses(t *testing.T) {
	t.Parallel()
	one := func(request string) string {
		return "tests:\n  - {name: n, expect: {decision: allow}, request: " + request + "}\n"
	}
	cases := map[string]struct{ text, want string }{
		"an empty file":                     {"", "p_test.yaml:1:1: the document is empty"},
		"no tests":                          {"tests: []\n", "tests is an empty list"},
		"a policy":                          {"agents: {}\n", `unknown key "agents"`},
		"no name":                           {"tests:\n  - {request: {}, expect: {decision: allow}}\n", "p_test.yaml:2:5: tests/0: name is missing"},
		"no request":                        {"tests:\n  - {name: n, expect: {decision: allow}}\n", "request is missing"},
		"no expectation":                    {"tests:\n  - {name: n, request: {}}\n", "expect is missing"},
		"no decision":                       {"tests:\n  - {name: n, request: {}, expect: {reason: ok}}\n", "decision: must be in list"},
		"another decision":                  {"tests:\n  - {name: n, request: {}, expect: {decision: ALLOW}}\n", "decision: must be in list"},
		"another approval":                  {"tests:\n  - {name: n, approval: maybe, request: {}, expect: {decision: allow}}\n", "approval: must be in list"},
		"repeat 0":                          {"tests:\n  - {name: n, repeat: 0, request: {}, expect: {decision: allow}}\n", "p_test.yaml:2:23: tests/0: repeat"},
		"a credential":                      {one(`{credential: {token: x}}`), `unknown key "credential"`},
		"a wait":                            {one(`{wait: 5s}`), `unknown key "wait"`},
		"a dry run":                         {one(`{dry_run: true}`), `unknown key "dry_run"`},
		"a request id":                      {one(`{request_id: x}`), `unknown key "request_id"`},
		"an approval id":                    {one(`{approval_id: x}`), `unknown key "approval_id"`},
		"a number as a resource":            {one(`{resource: 42}`), `resource takes a text, and YAML reads "42" as a number`},
		"parameters twice":                  {one(`{parameters: {}, parameters_json: "{}"}`), "parameters are given twice"},
		"a map that is not whole":           {one(`{parameters: {}, parameters_state: truncated}`), "written as a map are complete"},
		"parameters as a list":              {one(`{parameters: [1]}`), "parameters takes keys with values, not a list"},
		"parameters as null":                {one(`{parameters: ~}`), "no value"},
		"a parameter twice":                 {one(`{parameters: {a: 1, a: 2}}`), `the key "a" is given here`},
		"a parameter twice further down":    {one(`{parameters: {x: [{a: 1, "a": 2}]}}`), `the key "a" is given here`},
		"a parameter without value":         {one(`{parameters: {a: }}`), "no value; write null"},
		"a number that JSON cannot write":   {one(`{parameters: {a: 0x10}}`), "a number that JSON cannot write"},
		"a number with underscores":         {one(`{parameters: {a: 1_000}}`), "a number that JSON cannot write"},
		"a number with a leading zero":      {one(`{parameters: {a: 010}}`), "a number that JSON cannot write"},
		"a number that starts with a dot":   {one(`{parameters: {a: .5}}`), "a number that JSON cannot write"},
		"not a number":                      {one(`{parameters: {a: .nan}}`), "a number that JSON cannot write"},
		"True":                              {one(`{parameters: {a: True}}`), "neither true nor false in JSON"},
		"a number as a name":                {one(`{parameters: {1: a}}`), "a key in parameters takes a text"},
		"a tag in parameters":               {one(`{parameters: {a: !!str 1}}`), "a tag"},
		"an anchor in parameters":           {one(`{parameters: {a: &x 1}}`), "an anchor"},
		"an alias in the context":           {one(`{parameters: {a: &x 1}, context: {a: *x}}`), "an alias"},
		"parameters that are too deep":      {one(`{parameters: {a: ` + strings.Repeat("[", 32) + strings.Repeat("]", 32) + `}}`), "more than 32 deep"},
		"a context number out of range":     {one(`{context: {a: 1e999}}`), "beyond what YAML reads as one"},
		"a second document with more of it": {one(`{}`) + "---\ntests: []\n", "a second YAML document"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tests, err := parseTests(c.text)
			if err == nil || tests != nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, %v; want %s", tests, err, c.want)
			}
		})
	}
}

func TestParseTestsReadsRevops(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../examples/revops/revops_test.yaml")
	if err != nil {
		t.Fatal(err)
	}
	tests, err := parseTests(string(text))
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.Count(string(text), "\n  - name:"); len(tests) != want || want == 0 {
		t.Errorf("%d tests, want %d", len(tests), want)
	}
}

// FuzzTests asks that no file makes the reader panic, and that the parameters
// it writes are JSON objects.
func FuzzTests(f *testing.F) {
	f.Add([]byte("tests:\n  - {name: n, request: {parameters: {a: [1, 1.5, x, null]}, context: {b: 1}}, expect: {decision: allow}}\n"))
	f.Add([]byte("tests: [{name: n, request: {cost: .nan, parameters: {\"\\u00e9\": ''}}, expect: {decision: deny}}]"))
	f.Add([]byte("tests: &a [*a]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		tests, err := policy.ParseTests(policy.Document{Name: "p_test.yaml", Data: data})
		if (err == nil) != (len(tests) > 0) {
			t.Fatalf("%d tests, %v", len(tests), err)
		}
		for _, test := range tests {
			if test.Name == "" || test.Repeat < 1 || test.Line < 1 {
				t.Fatalf("%+v", test)
			}
			if raw := test.Request.ParametersJSON; raw != nil && !strings.Contains(string(data), "parameters_json") {
				var object map[string]any
				decoder := json.NewDecoder(strings.NewReader(string(raw)))
				decoder.UseNumber()
				if err := decoder.Decode(&object); err != nil {
					t.Fatalf("parameters %s: %v", raw, err)
				}
			}
		}
	})
}
