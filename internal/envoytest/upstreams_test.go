package envoytest_test

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/kelpie-authz/kelpie/internal/testkit"
)

// overHTTP2 is a client that speaks HTTP/2 without TLS.
func overHTTP2(t *testing.T) *http.Client {
	t.Helper()
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: &protocols}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func TestHTTP2(t *testing.T) {
	t.Parallel()
	s := start(t, setup{})
	client := overHTTP2(t)
	// HTTP/2 needs no content-length, and Envoy shows no framing: the body must be seen all the same.
	body := s.request(t, http.MethodPost, "refund-bot", "/refunds", `{"amount": 50}`)
	body.ContentLength = -1
	large := s.request(t, http.MethodPost, "refund-bot", "/refunds", `{"amount": 5000}`)
	large.ContentLength = -1
	for _, tt := range []struct {
		req    *http.Request
		status int
	}{
		{s.request(t, http.MethodGet, "lead-router", "/leads/42", ""), http.StatusOK},
		{s.request(t, http.MethodDelete, "lead-router", "/leads/42", ""), http.StatusForbidden},
		{body, http.StatusOK},
		{large, http.StatusForbidden},
	} {
		got, err := try(client, tt.req)
		if err != nil || got.status != tt.status {
			t.Errorf("%s %s: %+v, %v, want %d", tt.req.Method, tt.req.URL, got, err, tt.status)
		}
	}
	for _, r := range s.seen(t) {
		if r.Protocol != "HTTP/2.0" {
			t.Errorf("%s %s reached the upstream as %s", r.Method, r.Path, r.Protocol)
		}
	}
	s.reached(t, 2)
}

// grpcUpstream is a gRPC server with the health service, which notes the decision ids that reached it.
type grpcUpstream struct {
	addr string
	mu   sync.Mutex
	ids  map[string][]string // by full method
}

func startGRPCUpstream(t *testing.T) *grpcUpstream {
	t.Helper()
	lis := testkit.Listen(t)
	u := &grpcUpstream{addr: lis.Addr().String(), ids: map[string][]string{}}
	srv := grpc.NewServer(
		grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			u.note(ctx, info.FullMethod)
			return next(ctx, req)
		}),
		grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			u.note(stream.Context(), info.FullMethod)
			return next(srv, stream)
		}),
	)
	healthpb.RegisterHealthServer(srv, health.NewServer())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(lis) }()
	t.Cleanup(func() {
		srv.Stop()
		<-served
	})
	return u
}

func (u *grpcUpstream) note(ctx context.Context, method string) {
	md, _ := metadata.FromIncomingContext(ctx)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.ids[method] = append(u.ids[method], md.Get("x-kelpie-decision-id")...)
}

func (u *grpcUpstream) calls() map[string][]string {
	u.mu.Lock()
	defer u.mu.Unlock()
	all := map[string][]string{}
	for method, ids := range u.ids {
		all[method] = append([]string(nil), ids...)
	}
	return all
}

// gRPC goes through: a call, and a stream whose messages come while it is open. A refusal is a status of gRPC.
func TestGRPCUpstream(t *testing.T) {
	t.Parallel()
	up := startGRPCUpstream(t)
	s := start(t, setup{upstream: up.addr})
	conn, err := grpc.NewClient(s.envoy.Addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	client := healthpb.NewHealthClient(conn)
	as := func(agent string) context.Context {
		return metadata.AppendToOutgoingContext(t.Context(), "x-agent-id", agent)
	}

	if got, err := client.Check(as("lead-router"), &healthpb.HealthCheckRequest{}); err != nil || got.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("got %v, %v", got, err)
	}
	ctx, cancel := context.WithCancel(as("lead-router"))
	defer cancel()
	watch, err := client.Watch(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := watch.Recv(); err != nil || got.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("got %v, %v", got, err)
	}
	cancel()
	for agent, want := range map[string]codes.Code{"data-cleaner": codes.PermissionDenied, "": codes.Unauthenticated} {
		ctx := t.Context()
		if agent != "" {
			ctx = as(agent)
		}
		if _, err := client.Check(ctx, &healthpb.HealthCheckRequest{}); status.Code(err) != want {
			t.Errorf("%q: %v, want %v", agent, err, want)
		}
	}
	calls := up.calls()
	for _, method := range []string{healthpb.Health_Check_FullMethodName, healthpb.Health_Watch_FullMethodName} {
		if len(calls[method]) != 1 {
			t.Errorf("%s reached the upstream with the ids %q, want one", method, calls[method])
			continue
		}
		d := s.kelpie.Decision(t, calls[method][0])
		if d.Decision != "ALLOW" || d.Resource != "grpc/health/"+filepath.Base(method) {
			t.Errorf("%s reached the upstream by %+v", method, d)
		}
	}
}

// The sidecar: over a unix socket, and the agent is named by the place, whatever a header says. Envoy starts first here, and a
// Kelpie that died gives way to one that makes the socket anew.
func TestSidecar(t *testing.T) {
	t.Parallel()
	// The path of a socket must be short.
	dir, err := os.MkdirTemp("", "k")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "grpc.sock")
	s := &stack{policy: policy(t)}
	var want setup
	s.startUpstream(t, &want)
	startKelpie := func() {
		s.kelpie = testkit.StartKelpie(t, testkit.KelpieConfig{Binary: programs.kelpie, Policy: s.policy, GRPCAddr: "unix://" + socket})
		s.envoy.SeesKelpies(t, 1)
	}
	s.envoy = testkit.StartEnvoy(t, testkit.EnvoyConfig{
		Binary: programs.envoy, File: example(t, "sidecar.yaml"),
		Edits: []testkit.Edit{{Old: "{path: /run/kelpie/grpc.sock}", New: "{path: " + socket + "}"}, testkit.Port(t, 8081, want.upstream)},
	})
	failedClosed(t, s.get(t, "", "/leads/42"))
	startKelpie()
	for _, header := range []string{"", "refund-bot", "nobody-knows-me"} {
		got := s.get(t, header, "/leads/42")
		if got.status != http.StatusOK {
			t.Fatalf("x-agent-id %q: %+v", header, got)
		}
		if d := s.kelpie.Decision(t, got.id()); d.Agent != "lead-router" {
			t.Errorf("x-agent-id %q: decided about %q", header, d.Agent)
		}
	}
	if got := s.send(t, s.request(t, http.MethodPost, "refund-bot", "/refunds", `{"amount": 50}`)); got.status != http.StatusForbidden {
		t.Errorf("a header borrowed another agent's grant: %+v", got)
	}
	s.reached(t, 3)
	s.kelpie.Kill(t)
	failedClosed(t, s.get(t, "", "/leads/42"))
	if n := len(s.seen(t)); n != 3 {
		t.Errorf("%d requests reached the upstream", n)
	}
	s.envoy.SeesKelpies(t, 0)
	startKelpie()
	if got := s.get(t, "", "/leads/42"); got.status != http.StatusOK {
		t.Errorf("after the new start: %+v", got)
	}
}
