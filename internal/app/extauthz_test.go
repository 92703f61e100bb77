package app_test

import (
	"bytes"
	"context"
	"net"
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/kelpie-authz/kelpie/internal/config"
	"github.com/kelpie-authz/kelpie/internal/testkit"
)

const policyHTTP = policyA + `
http:
  agent_from: [{from: header, name: x-agent}]
  request_bodies: sent
  routes:
    doc: {methods: [GET], path: "/docs/{id}", action: read, resource: "docs/{id}"}
`

func checkRequest() *authv3.CheckRequest {
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source: &authv3.AttributeContext_Peer{Address: &corev3.Address{Address: &corev3.Address_SocketAddress{
			SocketAddress: &corev3.SocketAddress{Address: "10.1.2.3"},
		}}},
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Method: "GET", Path: "/docs/1?token=hunter2", Host: "docs.example.com", Headers: map[string]string{"x-agent": "reader", "x-request-id": "r1"},
		}},
	}}
}

func startHTTP(t *testing.T, change func(*config.Config)) *running {
	t.Helper()
	return start(t, func(c *config.Config) {
		c.Policy = policyDir(t, policyHTTP)
		if change != nil {
			change(c)
		}
	})
}

func httpStatus(out *authv3.CheckResponse) int {
	if out.GetStatus() != nil && out.GetStatus().GetCode() == 0 && out.GetOkResponse() != nil {
		return 200
	}
	return int(out.GetDeniedResponse().GetStatus().GetCode())
}

func TestCheckAndItsRecord(t *testing.T) {
	t.Parallel()
	r := startHTTP(t, nil)
	out, err := authv3.NewAuthorizationClient(dial(t, r.Addrs().GRPC.String(), nil)).Check(t.Context(), checkRequest())
	if err != nil || httpStatus(out) != 200 {
		t.Fatalf("%v, %v", out, err)
	}
	if err := r.end(t); err != nil {
		t.Fatal(err)
	}
	recs := r.records(t)
	if len(recs) != 1 {
		t.Fatalf("%d records", len(recs))
	}
	for key, want := range map[string]any{
		"decision_id": out.GetDynamicMetadata().AsMap()["decision_id"], "gateway": "loopback", "agent": "reader", "action": "read", "resource": "docs/1",
		"source_ip": "10.1.2.3", "decision": "ALLOW", "reason": "ok", "route": "http/doc", "http_method": "GET", "http_host": "docs.example.com",
		"http_path": "/docs/1", "request_id": "r1",
	} {
		if recs[0][key] != want {
			t.Errorf("%s is %v, want %v", key, recs[0][key], want)
		}
	}
	if strings.Contains(r.stdout.String()+r.stderr.String(), "hunter2") {
		t.Error("the query was logged")
	}
}

// A Check beyond max_in_flight is answered as denied: a gRPC error would open
// a gateway that fails open.
func TestCheckIsShedAsADenial(t *testing.T) {
	t.Parallel()
	const limit = 3
	r := startHTTP(t, func(c *config.Config) { c.MaxInFlight = limit })
	conn := dial(t, r.Addrs().GRPC.String(), nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range limit {
		halfOpen(ctx, t, conn)
	}
	testkit.Eventually(t, "the slots to be taken", func() bool {
		_, body := r.get(t, "/metrics")
		return strings.Contains(body, "\nkelpie_in_flight 3\n")
	})
	client := authv3.NewAuthorizationClient(conn)
	out, err := client.Check(t.Context(), checkRequest())
	if err != nil || httpStatus(out) != 503 || !strings.Contains(out.GetDeniedResponse().GetBody(), "overloaded") {
		t.Errorf("%v, %v", out, err)
	}
	if _, body := r.get(t, "/metrics"); !strings.Contains(body, `kelpie_grpc_refused_total{why="shed"} 1`) {
		t.Error("the shed call was not counted")
	}
	cancel()
	testkit.Eventually(t, "a decision", func() bool {
		out, err := client.Check(t.Context(), checkRequest())
		return err == nil && httpStatus(out) == 200
	})
}

// bytesCodec sends bytes as they are and decodes as grpc does.
type bytesCodec struct{ encoding.CodecV2 }

func (c bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	if raw, ok := v.([]byte); ok {
		return mem.BufferSlice{mem.SliceBuffer(raw)}, nil
	}
	return c.CodecV2.Marshal(v)
}

// What cannot be decoded is denied too: Envoy sends header bytes as they come.
func TestUndecodableCheckIsDenied(t *testing.T) {
	t.Parallel()
	r := startHTTP(t, nil)
	conn := dial(t, r.Addrs().GRPC.String(), nil)
	whole, err := proto.Marshal(checkRequest())
	if err != nil {
		t.Fatal(err)
	}
	for name, wire := range map[string][]byte{
		"not UTF-8": bytes.Replace(whole, []byte("docs/1"), []byte("docs/\xff"), 1),
		"cut":       whole[:len(whole)-3],
		"nonsense":  []byte("nonsense"),
	} {
		out := &authv3.CheckResponse{}
		err := conn.Invoke(t.Context(), authv3.Authorization_Check_FullMethodName, wire, out, grpc.ForceCodecV2(bytesCodec{encoding.GetCodecV2("proto")}))
		if err != nil || httpStatus(out) != 400 || !strings.Contains(out.GetDeniedResponse().GetBody(), "parameters_invalid") {
			t.Errorf("%s: %v, %v", name, out, err)
		}
	}
	if _, body := r.get(t, "/metrics"); !strings.Contains(body, `kelpie_grpc_refused_total{why="undecodable"} 3`) {
		t.Error("not counted")
	}
	// The service of its own is as strict as it was.
	err = conn.Invoke(t.Context(), "/kelpie.authz.v1.AuthorizationService/Authorize", []byte("nonsense"), &authv3.CheckResponse{},
		grpc.ForceCodecV2(bytesCodec{encoding.GetCodecV2("proto")}))
	if status.Code(err) != codes.Internal {
		t.Errorf("Authorize: %v", err)
	}
}

// A gateway that is not admitted gets a denial, and nothing is decided.
func TestCheckOffLoopbackIsDenied(t *testing.T) {
	t.Parallel()
	ca := testkit.NewCA(t)
	pair := ca.Issue(t, testkit.Leaf{Name: "server", IPs: here})
	r := startHTTP(t, func(c *config.Config) {
		c.GRPCAddr = "0.0.0.0:0"
		c.TLSCert, c.TLSKey = pair.Write(t, t.TempDir())
	})
	_, port, err := net.SplitHostPort(r.Addrs().GRPC.String())
	if err != nil {
		t.Fatal(err)
	}
	out, err := authv3.NewAuthorizationClient(dial(t, "127.0.0.1:"+port, clientTLS(ca, nil))).Check(t.Context(), checkRequest())
	if err != nil || httpStatus(out) != 403 {
		t.Errorf("%v, %v", out, err)
	}
	if err := r.end(t); err != nil {
		t.Fatal(err)
	}
	if n := len(r.records(t)); n != 0 {
		t.Errorf("%d records", n)
	}
}

// A message beyond grpc's own bound is the one thing that it answers by itself:
// docs/envoy.md says which body sizes stay below it.
func TestOversizedCheck(t *testing.T) {
	t.Parallel()
	r := startHTTP(t, nil)
	in := checkRequest()
	in.GetAttributes().GetRequest().GetHttp().RawBody = make([]byte, 9<<20)
	client := authv3.NewAuthorizationClient(dial(t, r.Addrs().GRPC.String(), nil))
	if _, err := client.Check(t.Context(), in); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("9 MiB: %v", err)
	}
	in.GetAttributes().GetRequest().GetHttp().RawBody = make([]byte, 7<<20)
	if out, err := client.Check(t.Context(), in); err != nil || httpStatus(out) != 200 {
		t.Errorf("7 MiB: %v, %v", out, err)
	}
}

// While the decision log cannot be written a Check is denied with 503, and says
// when to come back.
func TestNoAllowedCheckWithoutALog(t *testing.T) {
	t.Parallel()
	out := &failing{}
	r := startTo(t, out, func(c *config.Config) { c.Policy = policyDir(t, policyHTTP) })
	client := authv3.NewAuthorizationClient(dial(t, r.Addrs().GRPC.String(), nil))
	out.set(true)
	testkit.Eventually(t, "503 audit_unavailable", func() bool {
		resp, err := client.Check(t.Context(), checkRequest())
		if err != nil {
			t.Fatal(err)
		}
		return httpStatus(resp) == 503 && resp.GetDynamicMetadata().AsMap()["reason"] == "audit_unavailable" &&
			slices.ContainsFunc(resp.GetDeniedResponse().GetHeaders(), func(h *corev3.HeaderValueOption) bool {
				return h.GetHeader().GetKey() == "retry-after" && h.GetHeader().GetValue() != ""
			})
	})
	out.set(false)
	testkit.Eventually(t, "ALLOW", func() bool {
		resp, err := client.Check(t.Context(), checkRequest())
		return err == nil && httpStatus(resp) == 200
	})
}
