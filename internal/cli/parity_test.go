package cli_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/local"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
	"github.com/kelpie-authz/kelpie/internal/cli"
	"github.com/kelpie-authz/kelpie/policy"
	"github.com/kelpie-authz/kelpie/server/servertest"
)

// Every test of the example that needs neither another time, nor other calls
// first, nor an approval, gets the same from `kelpie check --server` as through
// the three doors of gRPC, each asked of a server of its own.
func TestParityOfCheck(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(revops, "revops_test.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	tests, err := policy.ParseTests(policy.Document{Name: "revops_test.yaml", Data: text})
	if err != nil {
		t.Fatal(err)
	}
	var cases []servertest.Case
	left := map[string]int{}
	for i := range tests {
		switch test := &tests[i]; {
		case !test.Now.IsZero():
			left["now"]++
		case len(test.Before) > 0:
			left["before"]++
		case test.Approval != policy.TestApprovalNone:
			left["approval"]++
		default:
			cases = append(cases, caseOf(t, test))
		}
	}
	doors := 0
	ran := servertest.Run(t, cases, func(t *testing.T) []servertest.Door {
		t.Helper()
		s := serveRevops(t)
		conn, err := grpc.NewClient(s.grpc, grpc.WithTransportCredentials(local.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := conn.Close(); err != nil {
				t.Error(err)
			}
		})
		list := append(servertest.GRPCDoors(conn), checkDoor{s.grpc})
		doors = len(list)
		return list
	})
	t.Logf("%d of %d tests ran, each through %d doors; left out: %d with now, %d with before, %d with approval",
		len(cases), len(tests), doors, left["now"], left["before"], left["approval"])
	if len(tests) != 33 || len(cases) != 28 || ran != len(cases)*4 {
		t.Errorf("%d tests, %d of them run, %d askings; want 33, 28 and 112", len(tests), len(cases), ran)
	}
}

func caseOf(t *testing.T, test *policy.Test) servertest.Case {
	t.Helper()
	q := &test.Request
	req := &authzv1.AuthorizeRequest{
		Agent: q.Agent, Action: q.Action, Resource: q.Resource, SourceIp: q.SourceIP,
		Subject: q.Subject, SessionId: q.SessionID, RunId: q.RunID, ParametersJson: q.ParametersJSON, Cost: q.Cost,
	}
	if q.Tool != (policy.Tool{}) {
		req.Tool = &authzv1.Tool{Name: q.Tool.Name, Server: q.Tool.Server}
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

// checkDoor asks with `kelpie check --server`.
type checkDoor struct{ addr string }

func (checkDoor) Name() string { return "kelpie check" }

func (d checkDoor) Ask(ctx context.Context, req *authzv1.AuthorizeRequest, n int) (servertest.Answer, error) {
	a := []string{"check", "--json", "--server", d.addr}
	for flag, value := range map[string]string{
		"--agent": req.GetAgent(), "--action": req.GetAction(), "--resource": req.GetResource(), "--ip": req.GetSourceIp(),
		"--parameters": string(req.GetParametersJson()), "--subject": req.GetSubject(), "--session": req.GetSessionId(),
		"--run": req.GetRunId(), "--tool": req.GetTool().GetName(), "--tool-server": req.GetTool().GetServer(),
	} {
		if value != "" {
			a = append(a, flag, value)
		}
	}
	if req.GetCost() != 0 {
		a = append(a, "--cost", fmt.Sprint(req.GetCost()))
	}
	if req.GetContext() != nil {
		facts, err := protojson.Marshal(req.GetContext())
		if err != nil {
			return servertest.Answer{}, err
		}
		a = append(a, "--context", string(facts))
	}
	var answer servertest.Answer
	for range n {
		var err error
		if answer, err = askOnce(ctx, a); err != nil {
			return servertest.Answer{}, err
		}
	}
	return answer, nil
}

// askOnce runs the command, and holds its exit code to its answer.
func askOnce(ctx context.Context, a []string) (servertest.Answer, error) {
	var stdout, stderr bytes.Buffer
	code := cli.Run(ctx, &cli.Env{
		Args: a, Stdout: &stdout, Stderr: &stderr, Now: noon, Lookup: func(string) (string, bool) { return "", false },
	})
	if code == cli.ExitError {
		return servertest.Answer{}, fmt.Errorf("exit code %d: %s", code, stderr.String())
	}
	var resp authzv1.AuthorizeResponse
	if err := protojson.Unmarshal(stdout.Bytes(), &resp); err != nil {
		return servertest.Answer{}, err
	}
	want := map[authzv1.Decision]int{
		authzv1.Decision_DECISION_ALLOW: cli.ExitOK, authzv1.Decision_DECISION_DENY: cli.ExitDeny,
		authzv1.Decision_DECISION_REQUIRE_APPROVAL: cli.ExitRequireApproval,
	}
	if expected, ok := want[resp.GetDecision()]; !ok || code != expected {
		return servertest.Answer{}, fmt.Errorf("exit code %d with %v", code, resp.GetDecision())
	}
	return servertest.Answer{
		Decision: resp.GetDecision(), Reason: resp.GetReason(),
		Matched: slices.Clone(resp.GetMatched()), RequiredScopes: slices.Clone(resp.GetRequiredScopes()),
	}, nil
}
