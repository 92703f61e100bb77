package app_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/structpb"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
	"github.com/kelpie-authz/kelpie/internal/config"
	"github.com/kelpie-authz/kelpie/internal/policydir"
	"github.com/kelpie-authz/kelpie/internal/testkit"
	"github.com/kelpie-authz/kelpie/policy"
	"github.com/kelpie-authz/kelpie/server/servertest"
)

const revops = "../../examples/revops"

// Every test of the example that needs neither another time, nor other calls
// first, nor an approval, gets through each door what `kelpie test` demands.
func TestParityOfDoors(t *testing.T) {
	t.Parallel()
	dir, err := policydir.Read(revops)
	if err != nil {
		t.Fatal(err)
	}
	var cases []servertest.Case
	all, leftOut := 0, map[string]int{}
	for _, doc := range dir.Tests {
		tests, err := policy.ParseTests(doc)
		if err != nil {
			t.Fatal(err)
		}
		for i := range tests {
			all++
			if key := needs(&tests[i]); key != "" {
				leftOut[key]++
				continue
			}
			cases = append(cases, caseOf(t, &tests[i]))
		}
	}
	doors := 0
	ran := servertest.Run(t, cases, func(t *testing.T) []servertest.Door {
		t.Helper()
		r := start(t, func(c *config.Config) { c.Policy = revopsOverHTTP(t) })
		conn := dial(t, r.Addrs().GRPC.String(), nil)
		list := append(servertest.GRPCDoors(conn), servertest.ExtAuthzDoor(conn))
		doors = len(list)
		return list
	})
	t.Logf("%d of %d tests ran, each through %d doors; left out: %d with now, %d with before, %d with approval",
		len(cases), all, doors, leftOut["now"], leftOut["before"], leftOut["approval"])
	if all != 33 || len(cases) != 28 || ran != len(cases)*4 {
		t.Errorf("%d tests, %d of them run, %d askings; want 33, 28 and 112", all, len(cases), ran)
	}
}

// revopsOverHTTP is the example as it stands, with the document beside it that
// lets HTTP requests ask the same.
func revopsOverHTTP(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(revops)); err != nil {
		t.Fatal(err)
	}
	testkit.WriteFile(t, filepath.Join(dir, "servertest.yaml"), []byte(servertest.HTTPPolicy))
	return dir
}

// needs names the key that a server cannot be given from outside.
func needs(test *policy.Test) string {
	switch {
	case !test.Now.IsZero():
		return "now"
	case len(test.Before) > 0:
		return "before"
	case test.Approval != policy.TestApprovalNone:
		return "approval"
	default:
		return ""
	}
}

func caseOf(t *testing.T, test *policy.Test) servertest.Case {
	t.Helper()
	q := &test.Request
	req := &authzv1.AuthorizeRequest{
		Agent: q.Agent, Action: q.Action, Resource: q.Resource, SourceIp: q.SourceIP, Subject: q.Subject, ActorChain: q.ActorChain,
		SessionId: q.SessionID, RunId: q.RunID, ParametersJson: q.ParametersJSON, Cost: q.Cost,
		ParametersState: authzv1.ParametersState(q.ParametersState),
	}
	if q.Tool != (policy.Tool{}) || q.ToolDefinitionDigest != "" {
		req.Tool = &authzv1.Tool{Name: q.Tool.Name, Server: q.Tool.Server, DefinitionDigest: q.ToolDefinitionDigest}
	}
	if q.Context != nil {
		var err error
		if req.Context, err = structpb.NewStruct(q.Context); err != nil {
			t.Fatal(err)
		}
	}
	return servertest.Case{
		Name: test.Name, Request: req, Repeat: test.Repeat,
		Want: &servertest.Want{
			Decision:       authzv1.Decision(authzv1.Decision_value["DECISION_"+strings.ToUpper(test.Expect.Decision)]),
			Reason:         authzv1.Reason(authzv1.Reason_value["REASON_"+strings.ToUpper(string(test.Expect.Reason))]),
			Matched:        test.Expect.Matched,
			RequiredScopes: test.Expect.RequiredScopes,
		},
	}
}
