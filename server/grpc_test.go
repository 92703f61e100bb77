package server_test

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
	"github.com/kelpie-authz/kelpie/internal/testkit"
	"github.com/kelpie-authz/kelpie/server"
)

// broken panics in every method.
type broken struct {
	authzv1.UnimplementedAuthorizationServiceServer
}

func (broken) Authorize(context.Context, *authzv1.AuthorizeRequest) (*authzv1.AuthorizeResponse, error) {
	panic("secret of the caller")
}

func (broken) Explain(context.Context, *authzv1.ExplainRequest) (*authzv1.ExplainResponse, error) {
	panic("secret of the caller")
}

func (broken) AuthorizeStream(grpc.BidiStreamingServer[authzv1.AuthorizeStreamRequest, authzv1.AuthorizeStreamResponse]) error {
	panic("secret of the caller")
}

// A panic is one call's failure: told to nobody outside, counted, and its slot comes back.
func TestPanicIsContained(t *testing.T) {
	t.Parallel()
	log := &testkit.Buffer{}
	reg := prometheus.NewRegistry()
	metrics, err := server.NewGRPCMetrics(reg)
	if err != nil {
		t.Fatal(err)
	}
	srv := server.NewGRPC(server.GRPCConfig{
		Logger: slog.New(slog.NewJSONHandler(log, nil)), Metrics: metrics, Credentials: server.Credentials(nil),
		Counted: []string{authzv1.AuthorizationService_Authorize_FullMethodName}, MaxInFlight: 1,
		Answers: map[string]func(error) any{authzv1.AuthorizationService_Explain_FullMethodName: func(err error) any {
			return &authzv1.ExplainResponse{Risk: status.Code(err).String()}
		}},
	})
	authzv1.RegisterAuthorizationServiceServer(srv, broken{})
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(lis) }()
	conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	client := authzv1.NewAuthorizationServiceClient(conn)
	for range 3 {
		if _, err := client.Authorize(t.Context(), &authzv1.AuthorizeRequest{}); status.Code(err) != codes.Internal || strings.Contains(err.Error(), "secret") {
			t.Errorf("Authorize: %v", err)
		}
	}
	// A method that answers in place of failing does so here too.
	if out, err := client.Explain(t.Context(), &authzv1.ExplainRequest{}); err != nil || out.GetRisk() != "Internal" {
		t.Errorf("Explain: %v, %v", out, err)
	}
	stream, err := client.AuthorizeStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Internal || strings.Contains(err.Error(), "secret") {
		t.Errorf("AuthorizeStream: %v", err)
	}
	if srv.InFlight() != 0 {
		t.Errorf("%d slots are taken", srv.InFlight())
	}
	want := map[string]float64{"kelpie_panics_total": 5}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if v, ok := want[f.GetName()]; ok && f.GetMetric()[0].GetCounter().GetValue() != v {
			t.Errorf("%s is %v", f.GetName(), f.GetMetric()[0])
		}
		delete(want, f.GetName())
	}
	if len(want) != 0 {
		t.Errorf("no metric %v", want)
	}
	if text := log.String(); !strings.Contains(text, "grpc_test.go") || strings.Contains(text, "secret") {
		t.Errorf("log: %s", text)
	}
	_ = conn.Close()
	if err := srv.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := testkit.Receive(t, "the end of Serve", ended); err != nil {
		t.Fatal(err)
	}
}
