package adminapi_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	adminv1 "github.com/kelpie-authz/kelpie/gen/kelpie/admin/v1"
	approvalv1 "github.com/kelpie-authz/kelpie/gen/kelpie/approval/v1"
	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/server"
	"github.com/kelpie-authz/kelpie/server/adminapi"
)

// served is an admin listener with both services, over a real connection.
type served struct {
	server    *server.GRPC
	conn      *grpc.ClientConn
	approvals approvalv1.ApprovalServiceClient
	// admin is a context with the admin token.
	admin context.Context
}

func serveAdmin(t *testing.T, d pdp.ApprovalDesk, person func(context.Context) (pdp.Person, error)) *served {
	t.Helper()
	state := filepath.Join(t.TempDir(), "state")
	token, err := server.LoadAdminToken(state)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(state, server.AdminTokenFile))
	if err != nil {
		t.Fatal(err)
	}
	metrics, err := server.NewGRPCMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	s := &served{server: server.NewGRPC(server.GRPCConfig{
		Logger: slog.New(slog.DiscardHandler), Metrics: metrics, Credentials: server.Credentials(nil),
		Unary:  []grpc.UnaryServerInterceptor{token.Unary},
		Stream: []grpc.StreamServerInterceptor{token.Stream},
	})}
	api := adminapi.NewApprovals(d, person)
	api.Draining = s.server.Draining()
	approvalv1.RegisterApprovalServiceServer(s.server, api)
	adminv1.RegisterAdminServiceServer(s.server, newAPI(&keeper{}))
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.server.Serve(lis) }()
	t.Cleanup(func() {
		s.server.Stop()
		if err := <-ended; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
	})
	if s.conn, err = grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.conn.Close() })
	s.approvals = approvalv1.NewApprovalServiceClient(s.conn)
	s.admin = metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+strings.TrimSpace(string(text)))
	return s
}

// call makes one call of any method, and reads one answer.
func (s *served) call(ctx context.Context, m protoreflect.MethodDescriptor, in proto.Message) error {
	path := "/" + string(m.Parent().FullName()) + "/" + string(m.Name())
	out := dynamicpb.NewMessage(m.Output())
	if !m.IsStreamingClient() && !m.IsStreamingServer() {
		return s.conn.Invoke(ctx, path, in, out)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := s.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: m.IsStreamingClient()}, path)
	if err != nil {
		return err
	}
	// Where the stream has ended already, the answer says why.
	_ = stream.SendMsg(in)
	_ = stream.CloseSend()
	return stream.RecvMsg(out)
}

// credentialsOfOthers are what an agent or a gateway could show.
func credentialsOfOthers(ctx context.Context) map[string]context.Context {
	with := func(name, value string) context.Context { return metadata.AppendToOutgoingContext(ctx, name, value) }
	const agentToken = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJkYXRhLWNsZWFuZXIifQ."
	return map[string]context.Context{
		"nothing":                    ctx,
		"an empty token":             with("authorization", "Bearer "),
		"a token that is made up":    with("authorization", "Bearer wrong"),
		"an agent's token":           with("authorization", "Bearer "+agentToken),
		"an agent's API key":         with("x-api-key", "klp_agent_0123456789abcdef"),
		"a key as a password":        with("authorization", "Basic ZGF0YS1jbGVhbmVyOng="),
		"an agent's name":            with("x-kelpie-agent", "data-cleaner"),
		"an agent's DPoP":            with("authorization", "DPoP "+agentToken),
		"two tokens":                 metadata.AppendToOutgoingContext(with("authorization", "Bearer a"), "authorization", "Bearer b"),
		"a forwarded client's proof": with("x-forwarded-client-cert", `URI=spiffe://prod.example/admin`),
	}
}

// Every method of every service on the admin listener asks for the admin token.
func TestEveryAdminMethodAsksForTheToken(t *testing.T) {
	t.Parallel()
	d := &desk{list: []pdp.ApprovalRecord{fullRecord()}, changes: make(chan pdp.ApprovalRecord)}
	close(d.changes)
	s := serveAdmin(t, d, adminapi.LocalAdmin)
	counted := map[string]int{}
	for service, info := range s.server.GetServiceInfo() {
		for _, method := range info.Methods {
			found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service + "." + method.Name))
			if err != nil {
				t.Fatal(err)
			}
			m := found.(protoreflect.MethodDescriptor)
			counted[service]++
			for who, ctx := range credentialsOfOthers(t.Context()) {
				if err := s.call(ctx, m, dynamicpb.NewMessage(m.Input())); status.Code(err) != codes.Unauthenticated {
					t.Errorf("%s with %s: %v, want UNAUTHENTICATED", m.FullName(), who, err)
				}
			}
			if err := s.call(s.admin, m, dynamicpb.NewMessage(m.Input())); status.Code(err) == codes.Unauthenticated {
				t.Errorf("%s with the admin token: %v", m.FullName(), err)
			}
		}
	}
	if counted["kelpie.approval.v1.ApprovalService"] != 8 || counted["kelpie.admin.v1.AdminService"] < 3 {
		t.Errorf("methods by service: %v", counted)
	}
	if len(d.ballots) != 0 {
		t.Errorf("the desk was told %q", d.ballots)
	}
}
