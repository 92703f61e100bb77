package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// measureCheck puts Envoy's question to Kelpie, to the empty service, and to
// OPA's library with the same rules. OPA's is no budget: it tells the reader
// what a general engine costs in the same place.
func measureCheck(ctx context.Context, env *environment) ([]row, error) {
	kelpie, err := env.startKelpieHTTP(ctx, "check", 0)
	if err != nil {
		return nil, err
	}
	defer kelpie.stop()
	empty, opa, err := env.startBeside(ctx, kelpie)
	if err != nil {
		return nil, err
	}
	defer empty.stop()
	defer opa.stop()
	var rows []row
	for _, callers := range []int{1, 16, 128} {
		pairs, err := env.rounds(ctx, callers, kelpie.side("kelpie", env.check),
			empty.side("the empty service", env.check), opa.side("OPA", env.check))
		if err != nil {
			return nil, err
		}
		what := fmt.Sprintf("Check, %d callers, against ", callers)
		rows = append(rows, ratioRows(what+"empty", pairs[0])...)
		rows = append(rows, unjudged(ratioRows(what+"OPA's library", pairs[1]))...)
	}
	return rows, nil
}

// startBeside starts the other sides, which answer with what Kelpie answers.
func (e *environment) startBeside(ctx context.Context, kelpie *server) (empty, opa *server, err error) {
	reply, err := askCheck(ctx, kelpie, e.checkRequest(0))
	if err != nil {
		return nil, nil, err
	}
	if empty, err = e.startEmpty(ctx, reply); err != nil {
		return nil, nil, err
	}
	if opa, err = e.startOPA(ctx, reply); err != nil {
		empty.stop()
		return nil, nil, err
	}
	return empty, opa, nil
}

// startKelpieHTTP starts Kelpie with a policy that maps HTTP requests.
func (e *environment) startKelpieHTTP(ctx context.Context, name string, trustedHops int) (*server, error) {
	dir := filepath.Join(filepath.Dir(e.binary), "policy-"+name)
	if err := writePolicy(dir, append(generate(e.shape), httpDocument(trustedHops))); err != nil {
		return nil, err
	}
	return e.startKelpie(ctx, name, dir)
}

// startOPA builds and starts tools/opacheck with the rules of the generated
// policy and, as the answer to an allowed call, reply.
func (e *environment) startOPA(ctx context.Context, reply proto.Message) (*server, error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return nil, err
	}
	home := filepath.Dir(e.binary)
	program, data := filepath.Join(home, "opacheck"), filepath.Join(home, "opa.json")
	if err := build(ctx, "-C", filepath.Join(root, "tools", "opacheck"), "-o", program, "."); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(opaData(e.shape))
	if err != nil {
		return nil, fmt.Errorf("encode OPA's data: %w", err)
	}
	if err := os.WriteFile(data, raw, 0o600); err != nil {
		return nil, fmt.Errorf("write OPA's data: %w", err)
	}
	arg, err := encodeReply(reply)
	if err != nil {
		return nil, err
	}
	return startTelling(exec.CommandContext(ctx, program, data, filepath.Join(e.dir, "opa.log"), arg))
}

func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", ourModule).Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// check is the method Check of Envoy's API.
func (e *environment) check(conn *grpc.ClientConn, c int) call {
	client := authv3.NewAuthorizationClient(conn)
	requests := requestsOf(c, e.checkRequest)
	return func(ctx context.Context, i int) error {
		resp, err := client.Check(ctx, requests[i%perCaller])
		if err != nil {
			return fmt.Errorf("call: %w", err)
		}
		if !allows(resp) {
			return fmt.Errorf("%w: %v", errWrongAnswer, resp)
		}
		return nil
	}
}

// allows tells whether Envoy would let the request through.
func allows(resp *authv3.CheckResponse) bool {
	return resp.GetStatus().GetCode() == 0 && resp.GetOkResponse() != nil
}

// askCheck asks once, over a connection of its own.
func askCheck(ctx context.Context, s *server, req *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	conn, err := s.dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	resp, err := authv3.NewAuthorizationClient(conn).Check(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("ask: %w", err)
	}
	return resp, nil
}

// checkRequest is the i-th request of the load.
func (e *environment) checkRequest(i int) *authv3.CheckRequest {
	agent, resource := e.pick(i)
	return httpCall{agent: agent, method: "GET", path: "/" + resource, source: callerAddress}.check(i)
}

// httpCall is what the rules read of an HTTP request.
type httpCall struct{ agent, method, path, source string }

// check is the i-th question that Envoy asks about such a call, with all that
// it sends beside what the rules read: the fields and twelve headers of an
// Envoy 1.40 that terminates HTTP/2 and knows the agent from its route.
func (h httpCall) check(i int) *authv3.CheckRequest {
	const host = "crm.internal.example.com"
	headers := map[string]string{
		":authority": host, ":method": h.method, ":path": h.path, ":scheme": "https",
		"accept":            "application/json",
		"accept-encoding":   "gzip, deflate, br",
		"user-agent":        "python-httpx/0.28.1",
		"traceparent":       fmt.Sprintf("00-%032x-%016x-01", uint64(i)+1, uint64(i)+1),
		"x-envoy-internal":  "true",
		"x-forwarded-for":   h.source,
		"x-forwarded-proto": "https",
		"x-request-id":      fmt.Sprintf("5f6321d9-db1f-43e4-8422-%012x", i),
	}
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source:      &authv3.AttributeContext_Peer{Address: socket(h.source, 44786)},
		Destination: &authv3.AttributeContext_Peer{Address: socket("10.8.0.20", 8443)},
		Request: &authv3.AttributeContext_Request{
			Time: timestamppb.Now(),
			Http: &authv3.AttributeContext_HttpRequest{
				Id: fmt.Sprint(uint64(i+1) * 0x9e3779b97f4a7c15), Method: h.method, Headers: headers,
				Path: h.path, Host: host, Scheme: "https", Protocol: "HTTP/2",
			},
		},
		ContextExtensions:    map[string]string{"agent": h.agent},
		MetadataContext:      &corev3.Metadata{},
		RouteMetadataContext: &corev3.Metadata{},
	}}
}

func socket(address string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: address, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}
}
