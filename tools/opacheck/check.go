package main

import (
	"context"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/topdown"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

//go:embed policy.rego
var module string

// rules are the policy, compiled, over its data.
type rules struct {
	query rego.PreparedEvalQuery
	// cancel is never used. With one of the caller's, OPA needs no goroutine per call to wait for the end of a context.
	cancel topdown.Cancel
}

func prepare(ctx context.Context, path string) (*rules, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the data: %w", err)
	}
	var data map[string]any
	if err := json.Unmarshal(raw, &data); err != nil {
		return nil, fmt.Errorf("read the data: %w", err)
	}
	// Kept in the form that rules read, the data is not converted again for each call.
	store := inmem.NewFromObjectWithOpts(data, inmem.OptRoundTripOnWrite(false), inmem.OptReturnASTValuesOnRead(true))
	query, err := rego.New(rego.Query("data.check.reason"), rego.Module("policy.rego", module), rego.Store(store)).PrepareForEval(ctx)
	if err != nil {
		return nil, fmt.Errorf("prepare the rules: %w", err)
	}
	return &rules{query: query, cancel: topdown.NewCancel()}, nil
}

// judge is the reason of the decision; "ok" allows.
func (r *rules) judge(ctx context.Context, in ast.Value) (string, error) {
	results, err := r.query.Eval(ctx, rego.EvalParsedInput(in), rego.EvalExternalCancel(r.cancel))
	if err != nil {
		return "", fmt.Errorf("evaluate: %w", err)
	}
	if len(results) != 1 || len(results[0].Expressions) != 1 {
		return "", fmt.Errorf("evaluate: %d results, want one", len(results))
	}
	reason, ok := results[0].Expressions[0].Value.(string)
	if !ok {
		return "", fmt.Errorf("evaluate: the reason is a %T", results[0].Expressions[0].Value)
	}
	return reason, nil
}

// call is what the rules read of a request, and the decision log tells.
type call struct{ agent, method, path, source string }

func callOf(req *authv3.CheckRequest) call {
	attrs := req.GetAttributes()
	path, _, _ := strings.Cut(attrs.GetRequest().GetHttp().GetPath(), "?")
	return call{
		agent:  attrs.GetContextExtensions()["agent"],
		method: attrs.GetRequest().GetHttp().GetMethod(),
		path:   path,
		source: attrs.GetSource().GetAddress().GetSocketAddress().GetAddress(),
	}
}

// input is the call as OPA's own values, without a way through JSON.
func (c call) input() ast.Value {
	segments := strings.Split(strings.TrimPrefix(c.path, "/"), "/")
	path := make([]*ast.Term, len(segments))
	for i, s := range segments {
		path[i] = ast.StringTerm(s)
	}
	return ast.NewObject(
		ast.Item(ast.InternedTerm("agent"), ast.StringTerm(c.agent)),
		ast.Item(ast.InternedTerm("method"), ast.InternedTerm(c.method)),
		ast.Item(ast.InternedTerm("path"), ast.ArrayTerm(path...)),
		ast.Item(ast.InternedTerm("source"), ast.StringTerm(c.source)),
	)
}

// checker is the service.
type checker struct {
	authv3.UnimplementedAuthorizationServer
	rules   *rules
	log     *decisionLog
	allowed *authv3.CheckResponse
}

// Check judges a request and records the decision.
func (c *checker) Check(ctx context.Context, req *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	start := time.Now()
	asked := callOf(req)
	reason, err := c.rules.judge(ctx, asked.input())
	if err != nil {
		return nil, err
	}
	c.log.record(ctx, asked, reason, start)
	if reason == "ok" {
		return c.allowed, nil
	}
	return denied(reason), nil
}

func denied(reason string) *authv3.CheckResponse {
	return &authv3.CheckResponse{
		Status: &status.Status{Code: int32(codes.PermissionDenied), Message: reason},
		HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
			Status: &typev3.HttpStatus{Code: http.StatusForbidden},
			Headers: []*corev3.HeaderValueOption{
				{Header: &corev3.HeaderValue{Key: "x-opa-reason", Value: reason}},
			},
		}},
	}
}

// decode reads the answer to an allowed call.
func decode(arg string) (*authv3.CheckResponse, error) {
	raw, err := base64.StdEncoding.DecodeString(arg)
	if err != nil {
		return nil, fmt.Errorf("not base64: %w", err)
	}
	var (
		typed anypb.Any
		reply authv3.CheckResponse
	)
	err = proto.Unmarshal(raw, &typed)
	if err == nil {
		err = typed.UnmarshalTo(&reply)
	}
	if err != nil {
		return nil, fmt.Errorf("not a message: %w", err)
	}
	return &reply, nil
}
