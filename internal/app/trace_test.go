package app_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/kelpie-authz/kelpie/gen/kelpie/admin/v1"
	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
	"github.com/kelpie-authz/kelpie/internal/app"
	"github.com/kelpie-authz/kelpie/internal/config"
	"github.com/kelpie-authz/kelpie/internal/testkit"
)

// otlp is a collector.
type otlp struct {
	collectorv1.UnimplementedTraceServiceServer

	addr  string
	asked chan struct{} // Gets a value with each export, if there is room.
	// answer is what exports get; nil: all is taken.
	answer func(context.Context) (*collectorv1.ExportTraceServiceResponse, error)

	mu      sync.Mutex
	raw     [][]byte
	headers metadata.MD
	service map[string]any
	spans   []*tracev1.Span
}

func startOTLP(t *testing.T, answer func(context.Context) (*collectorv1.ExportTraceServiceResponse, error)) *otlp {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &otlp{addr: lis.Addr().String(), asked: make(chan struct{}, 1), answer: answer}
	srv := grpc.NewServer()
	collectorv1.RegisterTraceServiceServer(srv, c)
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(lis) }()
	t.Cleanup(func() {
		srv.Stop()
		<-ended
	})
	return c
}

func (c *otlp) Export(ctx context.Context, in *collectorv1.ExportTraceServiceRequest) (*collectorv1.ExportTraceServiceResponse, error) {
	select {
	case c.asked <- struct{}{}:
	default:
	}
	if c.answer != nil {
		return c.answer(ctx)
	}
	raw, err := proto.Marshal(in)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.raw = append(c.raw, raw)
	c.headers, _ = metadata.FromIncomingContext(ctx)
	for _, r := range in.GetResourceSpans() {
		c.service = otlpAttrs(r.GetResource().GetAttributes())
		for _, s := range r.GetScopeSpans() {
			c.spans = append(c.spans, s.GetSpans()...)
		}
	}
	return &collectorv1.ExportTraceServiceResponse{}, nil
}

func otlpAttrs(list []*commonv1.KeyValue) map[string]any {
	out := map[string]any{}
	for _, a := range list {
		switch v := a.GetValue().GetValue().(type) {
		case *commonv1.AnyValue_StringValue:
			out[a.GetKey()] = v.StringValue
		case *commonv1.AnyValue_IntValue:
			out[a.GetKey()] = v.IntValue
		default:
			out[a.GetKey()] = fmt.Sprint(v)
		}
	}
	return out
}

// named are the spans of a name.
func (c *otlp) named(name string) []*tracev1.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []*tracev1.Span
	for _, s := range c.spans {
		if s.GetName() == name {
			out = append(out, s)
		}
	}
	return out
}

// one is the only span of a name.
func (c *otlp) one(t *testing.T, name string) *tracev1.Span {
	t.Helper()
	all := c.named(name)
	if len(all) != 1 {
		t.Fatalf("%d spans %s, want 1", len(all), name)
	}
	return all[0]
}

// below are the names of the spans whose parent is s.
func (c *otlp) below(s *tracev1.Span) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, child := range c.spans {
		if bytes.Equal(child.GetParentSpanId(), s.GetSpanId()) && bytes.Equal(child.GetTraceId(), s.GetTraceId()) {
			out = append(out, child.GetName())
		}
	}
	return out
}

// wantAttrs wants attributes of a span.
func wantAttrs(t *testing.T, s *tracev1.Span, want map[string]any) {
	t.Helper()
	got := otlpAttrs(s.GetAttributes())
	for key, w := range want {
		if got[key] != w {
			t.Errorf("%s: %s is %v, want %v", s.GetName(), key, got[key], w)
		}
	}
}

// exportTo makes Apps of this test export to the collector.
func exportTo(t *testing.T, c *otlp) {
	t.Helper()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+c.addr)
}

const (
	authorizeSpan = "kelpie.authz.v1.AuthorizationService/Authorize"
	callersTrace  = "0af7651916cd43dd8448eb211c80319c"
	callersSpan   = "b7ad6b7169203331"
)

func fromCaller(t *testing.T, flags string) context.Context {
	t.Helper()
	return metadata.AppendToOutgoingContext(t.Context(), "traceparent", "00-"+callersTrace+"-"+callersSpan+"-"+flags,
		"authorization", "Bearer hunter2-token", "baggage", "secret=hunter2-baggage")
}

// askEverything makes a call of each kind, with a secret in all that can hold one.
func askEverything(t *testing.T, r *running) *authzv1.AuthorizeResponse {
	t.Helper()
	client := r.client(t)
	secret := func(id string) *authzv1.AuthorizeRequest {
		req := request()
		req.RequestId, req.Resource, req.Subject = id, "docs/unseen-resource", "unseen@example.com"
		req.ParametersJson = []byte(`{"secret":"hunter2-parameter"}`)
		return req
	}
	out, err := client.Authorize(fromCaller(t, "01"), secret("r1"))
	if err != nil {
		t.Fatal(err)
	}
	denied := secret("r2")
	denied.Resource = "unseen/elsewhere"
	batch := &authzv1.BatchAuthorizeRequest{Requests: []*authzv1.AuthorizeRequest{secret("r3"), denied, secret("r4")}}
	if _, err := client.BatchAuthorize(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	malformed := secret("r5")
	malformed.Agent, malformed.SourceIp = "unseen-agent", "unseen-ip"
	if _, err := client.Authorize(t.Context(), malformed); status.Code(err) != codes.InvalidArgument {
		t.Fatalf("a malformed call got %v", err)
	}
	stream, err := client.AuthorizeStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, req := range []*authzv1.AuthorizeRequest{secret("r6"), malformed, secret("r7")} {
		if err := stream.Send(&authzv1.AuthorizeStreamRequest{Request: req}); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != io.EOF { //nolint:errorlint // A stream ends with this very value.
		t.Fatalf("the stream ended with %v", err)
	}
	check, err := authv3.NewAuthorizationClient(dial(t, r.Addrs().GRPC.String(), nil)).Check(t.Context(), checkRequest())
	if err != nil || httpStatus(check) != 200 {
		t.Fatalf("%v, %v", check, err)
	}
	ctx, admin := r.admin(t)
	if _, err := admin.ShowLimits(ctx, &adminv1.ShowLimitsRequest{Agent: "reader"}); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.ShowLimits(t.Context(), &adminv1.ShowLimitsRequest{Agent: "reader"}); status.Code(err) != codes.Unauthenticated {
		t.Fatalf("without the token: %v", err)
	}
	return out
}

func TestTraces(t *testing.T) {
	c := startOTLP(t, nil)
	exportTo(t, c)
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=hunter2-header")
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
	r := startHTTP(t, nil)
	out := askEverything(t, r)
	_, metrics := r.get(t, "/metrics")
	if !strings.Contains(metrics, `kelpie_trace_spans_total{state="ended"}`) {
		t.Error("spans are not counted")
	}
	if err := r.end(t); err != nil { // What waits is exported by the shutdown.
		t.Fatal(err)
	}
	c.wantSpans(t, out)
	if got := c.headers.Get("x-key"); len(got) != 1 || got[0] != "hunter2-header" {
		t.Errorf("the collector got the header %v", got)
	}
	for key, want := range map[string]any{"service.name": "kelpie", "service.version": "test", "deployment.environment.name": "test", "telemetry.sdk.language": "go"} {
		if c.service[key] != want {
			t.Errorf("%s is %v, want %v", key, c.service[key], want)
		}
	}
	for _, raw := range c.raw {
		for _, word := range []string{testkit.Secret, "unseen"} { // what nobody may see, and what spans do not hold
			if i := bytes.Index(raw, []byte(word)); i >= 0 {
				t.Errorf("a secret was exported: %q", raw[max(0, i-20):min(len(raw), i+40)])
			}
		}
	}
	if strings.Contains(r.stderr.String(), "hunter2") || strings.Contains(r.stderr.String(), "could not be exported") {
		t.Errorf("the log: %s", r.stderr)
	}
}

func (c *otlp) wantSpans(t *testing.T, out *authzv1.AuthorizeResponse) {
	t.Helper()
	var asked, malformed *tracev1.Span
	for _, s := range c.named(authorizeSpan) {
		if hex.EncodeToString(s.GetTraceId()) == callersTrace {
			asked = s
		} else {
			malformed = s
		}
	}
	if asked == nil || malformed == nil || len(c.named(authorizeSpan)) != 2 {
		t.Fatalf("spans of Authorize: %v", c.named(authorizeSpan))
	}
	if hex.EncodeToString(asked.GetParentSpanId()) != callersSpan || asked.GetKind() != tracev1.Span_SPAN_KIND_SERVER {
		t.Errorf("parent %x, kind %v", asked.GetParentSpanId(), asked.GetKind())
	}
	wantAttrs(t, asked, map[string]any{
		"kelpie.decision": "ALLOW", "kelpie.reason": "ok", "kelpie.decision_id": out.GetDecisionId(), "kelpie.policy_version": out.GetPolicyVersion(),
		"kelpie.agent": "reader", "kelpie.action": "read", "rpc.response.status_code": "OK", "server.address": "127.0.0.1",
	})
	wantAttrs(t, malformed, map[string]any{"rpc.response.status_code": "INVALID_ARGUMENT", "kelpie.agent": nil})
	if got := strings.Join(c.below(asked), " "); got != "limiter.take" {
		t.Errorf("below Authorize: %q", got)
	}
	batch := c.one(t, "kelpie.authz.v1.AuthorizationService/BatchAuthorize")
	wantAttrs(t, batch, map[string]any{
		"kelpie.decisions": int64(3), "kelpie.decisions.allow": int64(2), "kelpie.decisions.deny": int64(1), "kelpie.agent": nil, "kelpie.decision": nil,
	})
	if got := strings.Join(c.below(batch), " "); got != "limiter.take" {
		t.Errorf("below BatchAuthorize: %q", got)
	}
	stream := c.one(t, "kelpie.authz.v1.AuthorizationService/AuthorizeStream")
	wantAttrs(t, stream, map[string]any{"kelpie.decisions": int64(2), "kelpie.decisions.allow": int64(2), "kelpie.decision": nil})
	if got := strings.Join(c.below(stream), " "); got != strings.Repeat(" decision", 3)[1:] {
		t.Errorf("below AuthorizeStream: %q", got)
	}
	takes := 0
	for _, s := range c.named("decision") {
		takes += strings.Count(strings.Join(c.below(s), " "), "limiter.take")
		if otlpAttrs(s.GetAttributes())["error.type"] == nil {
			wantAttrs(t, s, map[string]any{"kelpie.decision": "ALLOW", "kelpie.agent": "reader"})
		}
	}
	if takes != 2 {
		t.Errorf("%d limiter spans below the decisions of the stream, want 2", takes)
	}
	check := c.one(t, "envoy.service.auth.v3.Authorization/Check")
	wantAttrs(t, check, map[string]any{"kelpie.decision": "ALLOW", "kelpie.agent": "reader", "kelpie.action": "read"})
	for _, s := range c.named("kelpie.admin.v1.AdminService/ShowLimits") {
		if otlpAttrs(s.GetAttributes())["rpc.response.status_code"] == "OK" && strings.Join(c.below(s), " ") != "limiter.peek" {
			t.Errorf("below ShowLimits: %q", c.below(s))
		}
	}
	if n := len(c.named("kelpie.admin.v1.AdminService/ShowLimits")); n != 2 {
		t.Errorf("%d spans of ShowLimits, want 2", n)
	}
	for _, s := range c.named("limiter.take") {
		wantAttrs(t, s, map[string]any{"kelpie.limiter.driver": "memory", "error.type": nil})
	}
}

// What the caller did not sample is not exported, nor is anything while traces
// are off.
func TestTracesNotExported(t *testing.T) {
	for name, tc := range map[string]struct{ key, value, flags string }{
		"the caller does not sample": {"OTEL_TRACES_SAMPLER", "", "00"},
		"nothing is sampled":         {"OTEL_TRACES_SAMPLER", "always_off", "01"},
		"the SDK is disabled":        {"OTEL_SDK_DISABLED", "true", "01"},
		"another exporter":           {"OTEL_TRACES_EXPORTER", "none", "01"},
		"no endpoint":                {"OTEL_EXPORTER_OTLP_ENDPOINT", "", "01"},
	} {
		t.Run(name, func(t *testing.T) {
			c := startOTLP(t, nil)
			exportTo(t, c)
			t.Setenv(tc.key, tc.value)
			r := start(t, nil)
			if _, err := r.client(t).Authorize(fromCaller(t, tc.flags), request()); err != nil {
				t.Fatal(err)
			}
			if err := r.end(t); err != nil {
				t.Fatal(err)
			}
			if len(c.raw) != 0 {
				t.Errorf("%d exports", len(c.raw))
			}
		})
	}
}

// A collector that is not there, or does not answer, or says no, delays no
// decision, loses no more than spans, and holds up the shutdown for 3 s at most.
func TestTracesInVain(t *testing.T) {
	hang := func(ctx context.Context) (*collectorv1.ExportTraceServiceResponse, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	for name, tc := range map[string]struct {
		answer func(context.Context) (*collectorv1.ExportTraceServiceResponse, error)
		dead   bool
		late   bool // Its failure is seen at the shutdown.
		logged string
	}{
		"hanging": {answer: hang, late: true},
		"dead":    {dead: true, late: true},
		"refusing": {answer: func(ctx context.Context) (*collectorv1.ExportTraceServiceResponse, error) {
			md, _ := metadata.FromIncomingContext(ctx)
			return nil, status.Errorf(codes.PermissionDenied, "no such key: %s", md.Get("authorization"))
		}, logged: "PermissionDenied: no such key"},
		"refusing some": {answer: func(context.Context) (*collectorv1.ExportTraceServiceResponse, error) {
			return &collectorv1.ExportTraceServiceResponse{PartialSuccess: &collectorv1.ExportTracePartialSuccess{RejectedSpans: 1, ErrorMessage: "hunter2"}}, nil
		}, logged: "the collector refused some"},
	} {
		t.Run(name, func(t *testing.T) {
			c := startOTLP(t, tc.answer)
			if tc.dead {
				c.addr = testkit.FreeAddr(t)
			}
			exportTo(t, c)
			t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20hunter2")
			t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "5")
			t.Setenv("OTEL_BSP_MAX_QUEUE_SIZE", "64") // Fewer than the spans of this test: most have no place.
			r := start(t, func(cfg *config.Config) { cfg.DrainTimeout = time.Minute })
			client := r.client(t)
			for range 300 {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				out, err := client.Authorize(ctx, request())
				cancel()
				if err != nil || out.GetDecision() != authzv1.Decision_DECISION_ALLOW {
					t.Fatalf("%v, %v", out, err)
				}
			}
			if !tc.dead {
				testkit.Receive(t, "an export", c.asked)
			}
			if tc.logged != "" {
				testkit.Eventually(t, "a line in the log", func() bool { return strings.Contains(r.stderr.String(), tc.logged) })
			}
			began := time.Now()
			if err := r.end(t); err != nil {
				t.Error(err)
			}
			if took := time.Since(began); took > 8*time.Second {
				t.Errorf("the shutdown took %v, want 3 s and a little", took)
			}
			said := r.stderr.String()
			if strings.Contains(said, "hunter2") || strings.Count(said, "could not be exported") != 1 {
				t.Errorf("the log: %s", said)
			}
			if tc.late != strings.Contains(said, "before the server ended") {
				t.Errorf("the log: %s", said)
			}
			if n := len(r.records(t)); n != 300 {
				t.Errorf("%d records of decisions, want 300", n)
			}
		})
	}
}

// A second signal does not wait for the collector.
//
//nolint:paralleltest // Variables of the environment are the process's.
func TestTracesCutShort(t *testing.T) {
	c := startOTLP(t, func(ctx context.Context) (*collectorv1.ExportTraceServiceResponse, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	exportTo(t, c)
	r := start(t, nil)
	r.ask(t, r.client(t))
	r.stop()
	testkit.Receive(t, "the export of the shutdown", c.asked)
	began := time.Now()
	r.Abort()
	if err := testkit.Receive(t, "the end of Run", r.ended); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %v after the second signal, as if there had been none", took)
	}
	r.ended <- nil
}

func tryStart(t *testing.T) error {
	t.Helper()
	cfg := config.Default()
	cfg.GRPCAddr, cfg.AdminAddr, cfg.HealthAddr = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.State, cfg.Policy = filepath.Join(t.TempDir(), "state"), policyDir(t, policyA)
	_, err := app.New(t.Context(), cfg, app.Deps{Stdout: &testkit.Buffer{}, Stderr: &testkit.Buffer{}, Embedded: true})
	return err
}

func TestTracesRefuseToStart(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317")
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
	if err := tryStart(t); err == nil || !strings.Contains(err.Error(), "OTEL_EXPORTER_OTLP_PROTOCOL") {
		t.Errorf("it started, or said %v", err)
	}
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "no-value")
	if err := tryStart(t); err == nil || !strings.Contains(err.Error(), "OTEL_RESOURCE_ATTRIBUTES") {
		t.Errorf("it started, or said %v", err)
	}
}

// With limits in Redis the spans say so, and tell of its loss without a word of
// where it is; what administrators ask of it works as without traces.
//
//nolint:paralleltest // Variables of the environment are the process's.
func TestTracesOfRedis(t *testing.T) {
	c := startOTLP(t, nil)
	exportTo(t, c)
	redis := testkit.StartRedis(t, testkit.RedisConfig{})
	all := startReplicas(t, redis, 1)
	if got := all.ask(t, 0, 1, "shared/1"); got[reasonOK] != 1 {
		t.Fatalf("with Redis: %v", got)
	}
	ctx, admin := all[0].admin(t)
	shown, err := admin.ShowLimits(ctx, &adminv1.ShowLimitsRequest{Agent: "reader"})
	if err != nil || len(shown.GetLimits()) != 1 {
		t.Fatalf("limits %v, %v", shown, err)
	}
	redis.Kill(t)
	if got := all.ask(t, 0, 1, "shared/1"); got[reasonOK] != 1 {
		t.Fatalf("without Redis: %v", got)
	}
	if err := all[0].end(t); err != nil {
		t.Fatal(err)
	}
	var seen []string
	for _, s := range c.named("limiter.take") {
		got := otlpAttrs(s.GetAttributes())
		seen = append(seen, fmt.Sprint(got["kelpie.limiter.driver"], " ", got["error.type"], " ", got["kelpie.limiter.admitted"]))
	}
	if got := strings.Join(seen, ", "); got != "redis <nil> 1, redis unavailable 0, memory <nil> 1" {
		t.Errorf("limiter spans: %s", got)
	}
	for _, raw := range c.raw {
		if bytes.Contains(raw, []byte(strings.TrimPrefix(redis.URL(), "redis://"))) {
			t.Error("the address of Redis was exported")
		}
	}
}
