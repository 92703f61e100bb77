package app_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	adminv1 "github.com/kelpie-authz/kelpie/gen/kelpie/admin/v1"
	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
	"github.com/kelpie-authz/kelpie/internal/app"
	"github.com/kelpie-authz/kelpie/internal/config"
	"github.com/kelpie-authz/kelpie/internal/testkit"
)

func TestAuthorizeAndItsRecord(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	c := r.client(t)
	req := request()
	req.ParametersJson = []byte(`{"secret":"hunter2"}`)
	req.Subject = "subject@example.com"
	out, err := c.Authorize(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if out.GetDecision() != authzv1.Decision_DECISION_ALLOW || out.GetReason() != authzv1.Reason_REASON_OK {
		t.Errorf("answer %v", out)
	}
	if err := r.end(t); err != nil {
		t.Fatal(err)
	}
	recs := r.records(t)
	if len(recs) != 1 {
		t.Fatalf("%d records", len(recs))
	}
	for key, want := range map[string]any{
		"decision_id": out.GetDecisionId(), "gateway": "loopback", "agent": "reader", "subject": "subject@example.com",
		"action": "read", "resource": "docs/1", "source_ip": "10.1.2.3", "decision": "ALLOW", "reason": "ok",
		"policy_version": out.GetPolicyVersion(), "request_id": "r1", "msg": "decision", "risk": "read",
	} {
		if recs[0][key] != want {
			t.Errorf("%s is %v, want %v", key, recs[0][key], want)
		}
	}
	if digest, _ := recs[0]["parameters_digest"].(string); len(digest) != 64 {
		t.Errorf("parameters_digest %q", digest)
	}
	if _, ok := recs[0]["latency_us"].(float64); !ok {
		t.Errorf("latency_us is %v", recs[0]["latency_us"])
	}
	if strings.Contains(r.stdout.String()+r.stderr.String(), "hunter2") {
		t.Error("a parameter was logged")
	}
}

func TestStartRefuses(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() })
	for name, tc := range map[string]struct {
		policy string
		change func(t *testing.T, c *config.Config)
		want   []string
	}{
		"bad policy, all faults": {
			policy: "scopes:\n  s: {actions: [read], resources: []}\nagents:\n  a: {owner: o, scopes: [nope], networks: [any]}\n",
			want:   []string{"policy.yaml:2:", "policy.yaml:4:"},
		},
		"no policy": {change: func(t *testing.T, c *config.Config) { t.Helper(); c.Policy = t.TempDir() }, want: []string{"no policy document"}},
		"no directory": {
			change: func(t *testing.T, c *config.Config) { t.Helper(); c.Policy = filepath.Join(t.TempDir(), "none") }, want: []string{"none"},
		},
		"port taken": {
			change: func(_ *testing.T, c *config.Config) { c.AdminAddr = taken.Addr().String() }, want: []string{"admin_addr", "in use"},
		},
		"TLS files missing": {
			change: func(_ *testing.T, c *config.Config) { c.TLSCert, c.TLSKey = "/nonexistent/c", "/nonexistent/k" }, want: []string{"TLS", "/nonexistent/c"},
		},
		"off loopback": {
			change: func(_ *testing.T, c *config.Config) { c.GRPCAddr = "0.0.0.0:0" }, want: []string{"grpc_addr", "insecure"},
		},
		"open state": {
			change: func(t *testing.T, c *config.Config) {
				t.Helper()
				c.State = t.TempDir()
				if err := os.Chmod(c.State, 0o777); err != nil {
					t.Fatal(err)
				}
			}, want: []string{"others may write"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := config.Default()
			cfg.GRPCAddr, cfg.AdminAddr, cfg.HealthAddr = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
			cfg.State = filepath.Join(t.TempDir(), "state")
			text := tc.policy
			if text == "" {
				text = policyA
			}
			cfg.Policy = policyDir(t, text)
			if tc.change != nil {
				tc.change(t, cfg)
			}
			_, err := app.New(t.Context(), cfg, app.Deps{Stdout: &testkit.Buffer{}, Stderr: &testkit.Buffer{}})
			if err == nil {
				t.Fatal("started")
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error lacks %q: %v", want, err)
				}
			}
		})
	}
}

func TestHealthListener(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	r.ask(t, r.client(t))
	if code, body := r.get(t, "/healthz"); code != 200 || !strings.Contains(body, "ok") {
		t.Errorf("/healthz: %d %s", code, body)
	}
	testkit.Eventually(t, "ready", func() bool { code, _ := r.get(t, "/readyz"); return code == 200 })
	_, body := r.get(t, "/metrics")
	for _, want := range []string{
		`kelpie_decisions_total{decision="ALLOW",reason="ok"} 1`, "kelpie_decision_seconds_count 1", "kelpie_policy_info{version=",
		`kelpie_build_info{version="test"} 1`, `grpc_server_handled_total{grpc_code="OK",grpc_method="Authorize"`, "go_goroutines", "kelpie_in_flight 0",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	for _, path := range []string{"/", "/debug/pprof/", "/metrics/x", "/policy"} {
		if code, _ := r.get(t, path); code != 404 {
			t.Errorf("%s: %d", path, code)
		}
	}
}

func TestAdminListener(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	ctx, admin := r.admin(t)
	out, err := admin.PolicyStatus(ctx, &adminv1.PolicyStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if out.GetPolicyVersion() == "" || out.GetCounts().GetAgents() != 1 || out.GetCounts().GetScopes() != 1 ||
		out.GetCounts().GetLimits() != 1 || len(out.GetLastErrors()) != 0 || out.GetLoadedAt() == nil {
		t.Errorf("status %v", out)
	}
	for name, ctx := range map[string]context.Context{
		"no token":    t.Context(),
		"wrong token": metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer wrong"),
	} {
		if _, err := admin.PolicyStatus(ctx, &adminv1.PolicyStatusRequest{}); status.Code(err) != codes.Unauthenticated {
			t.Errorf("%s: %v", name, err)
		}
		conn := dial(t, r.Addrs().Admin.String(), nil)
		stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.Unauthenticated {
			t.Errorf("%s, a stream: %v", name, err)
		}
	}
}

// The two doors do not serve each other's services.
func TestListenersAreApart(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	ctx, _ := r.admin(t)
	_, err := adminv1.NewAdminServiceClient(dial(t, r.Addrs().GRPC.String(), nil)).PolicyStatus(ctx, &adminv1.PolicyStatusRequest{})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("admin service on the data listener: %v", err)
	}
	_, err = authzv1.NewAuthorizationServiceClient(dial(t, r.Addrs().Admin.String(), nil)).Authorize(ctx, request())
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("data service on the admin listener: %v", err)
	}
}

func TestGRPCHealthPerService(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	health := healthpb.NewHealthClient(dial(t, r.Addrs().GRPC.String(), nil))
	for service, want := range map[string]codes.Code{
		"": codes.OK, authzv1.AuthorizationService_ServiceDesc.ServiceName: codes.OK,
		authv3.Authorization_ServiceDesc.ServiceName: codes.OK, "kelpie.admin.v1.AdminService": codes.NotFound,
	} {
		out, err := health.Check(t.Context(), &healthpb.HealthCheckRequest{Service: service})
		if status.Code(err) != want || (err == nil && out.GetStatus() != healthpb.HealthCheckResponse_SERVING) {
			t.Errorf("%q: %v, %v", service, out, err)
		}
	}
}

func TestUnixSockets(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "kelpie")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "k.sock")
	r := start(t, func(c *config.Config) { c.GRPCAddr = "unix://" + path })
	c := authzv1.NewAuthorizationServiceClient(dial(t, "unix://"+path, nil))
	if got := r.ask(t, c); got != authzv1.Decision_DECISION_ALLOW {
		t.Errorf("decision %v", got)
	}
	if err := r.end(t); err != nil {
		t.Fatal(err)
	}
	if recs := r.records(t); len(recs) != 1 || recs[0]["gateway"] != "unix" {
		t.Errorf("records %v", recs)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// A policy without gateways admits nobody on a listener that others can
// reach, unless the operator said insecure.
func TestOffLoopbackNobodyIsAdmitted(t *testing.T) {
	t.Parallel()
	ca := testkit.NewCA(t)
	pair := ca.Issue(t, testkit.Leaf{Name: "server", IPs: []net.IP{net.IPv4(127, 0, 0, 1)}})
	for _, trusting := range []bool{false, true} {
		r := start(t, func(c *config.Config) {
			c.GRPCAddr, c.Insecure = "0.0.0.0:0", trusting
			c.TLSCert, c.TLSKey = pair.Write(t, t.TempDir())
		})
		_, port, err := net.SplitHostPort(r.Addrs().GRPC.String())
		if err != nil {
			t.Fatal(err)
		}
		c := authzv1.NewAuthorizationServiceClient(dial(t, "127.0.0.1:"+port, clientTLS(ca, nil)))
		want := codes.PermissionDenied
		if trusting {
			want = codes.OK
		}
		_, err = c.Authorize(t.Context(), request())
		if status.Code(err) != want {
			t.Errorf("insecure %v: Authorize: %v", trusting, err)
		}
		_, err = c.Explain(t.Context(), &authzv1.ExplainRequest{Request: request()})
		if status.Code(err) != want {
			t.Errorf("insecure %v: Explain: %v", trusting, err)
		}
		if err := streamOnce(t, c); status.Code(err) != want {
			t.Errorf("insecure %v: AuthorizeStream: %v", trusting, err)
		}
		if warned := strings.Contains(r.stderr.String(), "trusts every caller"); warned != trusting {
			t.Errorf("insecure %v: warned %v", trusting, warned)
		}
	}
}

func streamOnce(t *testing.T, c authzv1.AuthorizationServiceClient) error {
	t.Helper()
	stream, err := c.AuthorizeStream(t.Context())
	if err != nil {
		return err
	}
	if err := stream.Send(&authzv1.AuthorizeStreamRequest{Request: request()}); err != nil {
		return err
	}
	_, err = stream.Recv()
	_ = stream.CloseSend()
	return err
}

func TestMalformedRequests(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	c := r.client(t)
	long := strings.Repeat("x", 3000)
	for name, tc := range map[string]struct {
		spoil func(*authzv1.AuthorizeRequest)
		field string
	}{
		"no action":      {func(q *authzv1.AuthorizeRequest) { q.Action = "" }, "action"},
		"no agent":       {func(q *authzv1.AuthorizeRequest) { q.Agent = "" }, "agent"},
		"no resource":    {func(q *authzv1.AuthorizeRequest) { q.Resource = "" }, "resource"},
		"long resource":  {func(q *authzv1.AuthorizeRequest) { q.Resource = long }, "resource"},
		"parent":         {func(q *authzv1.AuthorizeRequest) { q.Resource = "docs/../x" }, "resource"},
		"bad address":    {func(q *authzv1.AuthorizeRequest) { q.SourceIp = "10.0.0.1:80" }, "source_ip"},
		"duplicate keys": {func(q *authzv1.AuthorizeRequest) { q.ParametersJson = []byte(`{"a":1,"a":2}`) }, "parameters_json"},
		"large": {func(q *authzv1.AuthorizeRequest) {
			q.ParametersJson = []byte(`{"a":"` + strings.Repeat("x", 1<<16) + `"}`)
		}, "parameters_json"},
		"state":        {func(q *authzv1.AuthorizeRequest) { q.ParametersState = 77 }, "parameters_state"},
		"long request": {func(q *authzv1.AuthorizeRequest) { q.RequestId = long }, "request_id"},
	} {
		req := request()
		tc.spoil(req)
		_, err := c.Authorize(t.Context(), req)
		if st := status.Convert(err); st.Code() != codes.InvalidArgument || !strings.HasPrefix(st.Message(), tc.field+" ") {
			t.Errorf("%s: %v", name, err)
		}
		// In a batch the same request is a denied item, and the others are judged.
		out, err := c.BatchAuthorize(t.Context(), &authzv1.BatchAuthorizeRequest{Requests: []*authzv1.AuthorizeRequest{request(), req, request()}})
		if err != nil {
			t.Errorf("%s in a batch: %v", name, err)
			continue
		}
		got := out.GetResponses()
		if len(got) != 3 || got[0].GetDecision() != authzv1.Decision_DECISION_ALLOW || got[2].GetDecision() != authzv1.Decision_DECISION_ALLOW ||
			got[1].GetDecision() != authzv1.Decision_DECISION_DENY || got[1].GetReason() != authzv1.Reason_REASON_PARAMETERS_INVALID {
			t.Errorf("%s in a batch: %v", name, got)
		}
	}
	if _, body := r.get(t, "/metrics"); !strings.Contains(body, "kelpie_invalid_requests_total 10") {
		t.Error("the malformed requests were not counted")
	}
}

// What never becomes a message is counted too.
func TestUndecodableRequests(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	conn := dial(t, r.Addrs().GRPC.String(), nil)
	send := func(raw []byte) error {
		return conn.Invoke(t.Context(), authzv1.AuthorizationService_Authorize_FullMethodName, raw, &authzv1.AuthorizeResponse{}, grpc.ForceCodec(rawCodec{}))
	}
	// Field 1, agent, with a byte that is not UTF-8.
	if err := send([]byte{0x0a, 0x01, 0xff}); status.Code(err) != codes.Internal {
		t.Errorf("invalid UTF-8: %v", err)
	}
	if err := send([]byte{0x0a, 0x7f}); status.Code(err) != codes.Internal {
		t.Errorf("cut off: %v", err)
	}
	if err := send(make([]byte, 9<<20)); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("9 MiB: %v", err)
	}
	_, body := r.get(t, "/metrics")
	for _, want := range []string{`kelpie_grpc_refused_total{why="undecodable"} 2`, `kelpie_grpc_refused_total{why="oversized"} 1`} {
		if !strings.Contains(body, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
}

func TestLargeBatch(t *testing.T) {
	t.Parallel()
	c := start(t, nil).client(t)
	batch := &authzv1.BatchAuthorizeRequest{}
	for range 70 {
		q := request()
		q.ParametersJson = []byte(`{"a":"` + strings.Repeat("x", 60<<10) + `"}`)
		batch.Requests = append(batch.Requests, q)
	}
	_, err := c.BatchAuthorize(t.Context(), batch)
	if st := status.Convert(err); st.Code() != codes.InvalidArgument || !strings.HasPrefix(st.Message(), "requests holds") {
		t.Errorf("more than 4 MiB: %v", err)
	}
	batch.Requests = batch.GetRequests()[:60]
	if out, err := c.BatchAuthorize(t.Context(), batch); err != nil || len(out.GetResponses()) != 60 {
		t.Errorf("less than 4 MiB: %v", err)
	}
}

// rawCodec sends bytes as they are.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error) { return v.([]byte), nil }
func (rawCodec) Unmarshal([]byte, any) error   { return nil }
func (rawCodec) Name() string                  { return "proto" }

func TestExpiredDeadline(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	if _, err := r.client(t).Authorize(ctx, request()); status.Code(err) != codes.DeadlineExceeded {
		t.Error(err)
	}
	if err := r.end(t); err != nil {
		t.Fatal(err)
	}
	if len(r.records(t)) != 0 {
		t.Error("an expired call was decided")
	}
}
