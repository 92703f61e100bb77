package cli_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/kelpie-authz/kelpie/client"
	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
	"github.com/kelpie-authz/kelpie/policy"
)

// verdict is what must be the same whatever the door.
type verdict struct {
	Decision, Reason string
	Matched          []string
}

func verdictOf(r *authzv1.AuthorizeResponse) verdict {
	v := verdict{Decision: r.GetDecision().String(), Reason: r.GetReason().String(), Matched: slices.Clone(r.GetMatched())}
	if len(v.Matched) == 0 {
		v.Matched = nil
	}
	return v
}

// Every test of the example that a door can repeat gets the same decision,
// reason and rules from `kelpie check --server` as from Authorize, each asked of
// a server of its own, whose limits are fresh, and both as the test expects.
func TestCheckParity(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(revops, "revops_test.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	tests, err := policy.ParseTests(policy.Document{Name: "revops_test.yaml", Data: text})
	if err != nil {
		t.Fatal(err)
	}
	ran, left := 0, map[string]int{}
	for i := range tests {
		test := &tests[i]
		switch {
		case !test.Now.IsZero():
			left["now"]++
			continue
		case len(test.Before) > 0:
			left["before"]++
			continue
		case test.Approval != policy.TestApprovalNone:
			left["approval"]++
			continue
		}
		ran++
		t.Run(test.Name, func(t *testing.T) {
			t.Parallel()
			byRPC := askRPC(t, test)
			byCheck := askCheck(t, test)
			if diff := cmp.Diff(byRPC, byCheck); diff != "" {
				t.Errorf("Authorize (-) and kelpie check --server (+):\n%s", diff)
			}
			if got := strings.ToLower(strings.TrimPrefix(byCheck.Decision, "DECISION_")); got != test.Expect.Decision {
				t.Errorf("decision %s, the test expects %s", got, test.Expect.Decision)
			}
			if got := strings.ToLower(strings.TrimPrefix(byCheck.Reason, "REASON_")); test.Expect.Reason != "" &&
				got != string(test.Expect.Reason) {
				t.Errorf("reason %s, the test expects %s", got, test.Expect.Reason)
			}
			for _, rule := range test.Expect.Matched {
				if !slices.Contains(byCheck.Matched, rule) {
					t.Errorf("matched %v, the test expects %s", byCheck.Matched, rule)
				}
			}
		})
	}
	t.Logf("%d tests ran; left out for now: %d, before: %d, approval: %d", ran, left["now"], left["before"], left["approval"])
	if ran != 28 || left["now"] != 2 || left["before"] != 1 || left["approval"] != 2 || len(tests) != 33 {
		t.Errorf("of %d tests %d ran and %v were left out, want 28 of 33", len(tests), ran, left)
	}
}

func askRPC(t *testing.T, test *policy.Test) verdict {
	t.Helper()
	c, err := client.New(serveRevops(t).grpc)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	q := &test.Request
	req := &authzv1.AuthorizeRequest{
		Agent: q.Agent, Action: q.Action, Resource: q.Resource, SourceIp: q.SourceIP, ParametersJson: q.ParametersJSON,
	}
	if q.Context != nil {
		if req.Context, err = structpb.NewStruct(q.Context); err != nil {
			t.Fatal(err)
		}
	}
	var d client.Decision
	for range test.Repeat {
		if d, err = c.Authorize(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	return verdictOf(d.Response())
}

func askCheck(t *testing.T, test *policy.Test) verdict {
	t.Helper()
	q := &test.Request
	a := args("check --json --server "+serveRevops(t).grpc, []string{
		"--agent", q.Agent, "--action", q.Action, "--resource", q.Resource,
	})
	if q.SourceIP != "" {
		a = append(a, "--ip", q.SourceIP)
	}
	if q.ParametersJSON != nil {
		a = append(a, "--parameters", string(q.ParametersJSON))
	}
	if q.Context != nil {
		facts, err := json.Marshal(q.Context)
		if err != nil {
			t.Fatal(err)
		}
		a = append(a, "--context", string(facts))
	}
	var o outcome
	for range test.Repeat {
		o = run(t, a...)
	}
	want := map[string]int{"allow": 0, "deny": 3, "require_approval": 4}[test.Expect.Decision]
	if o.code != want {
		t.Errorf("exit code %d, want %d\n%s%s", o.code, want, o.stdout, o.stderr)
	}
	var resp authzv1.AuthorizeResponse
	if err := protojson.Unmarshal([]byte(o.stdout), &resp); err != nil {
		t.Fatalf("%v in %q", err, o.stdout)
	}
	return verdictOf(&resp)
}
