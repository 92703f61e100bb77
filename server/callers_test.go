package server_test

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	approvalv1 "github.com/kelpie-authz/kelpie/gen/kelpie/approval/v1"
	"github.com/kelpie-authz/kelpie/internal/testkit"
	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/server"
)

// watched has approvals that change whenever it is told so.
type watched struct {
	approvalv1.UnimplementedApprovalServiceServer

	changed chan struct{}
}

func (watched) List(context.Context, *approvalv1.ListRequest) (*approvalv1.ListResponse, error) {
	return &approvalv1.ListResponse{}, nil
}

func (w watched) Watch(_ *approvalv1.WatchRequest, stream grpc.ServerStreamingServer[approvalv1.WatchResponse]) error {
	for {
		select {
		case <-w.changed:
			if err := stream.Send(&approvalv1.WatchResponse{}); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// callers is an admin listener, and one connection to it by a certificate.
type callers struct {
	desk    approvalv1.ApprovalServiceClient
	changed chan struct{}
	// ahead is by how much the server's clock is ahead.
	ahead atomic.Int64
	// approver says that the policy knows who calls.
	approver atomic.Bool
}

func serveCallers(t *testing.T) *callers {
	t.Helper()
	dir := t.TempDir()
	own, approvers := testkit.NewCA(t), testkit.NewCA(t)
	files := server.TLSFiles{ClientCA: filepath.Join(dir, "approvers.pem"), Optional: true}
	files.Cert, files.Key = own.Issue(t, testkit.Leaf{IPs: []net.IP{net.IPv4(127, 0, 0, 1)}}).Write(t, dir)
	testkit.WriteFile(t, files.ClientCA, approvers.PEM)
	keeper, err := server.NewTLSKeeper(files)
	if err != nil {
		t.Fatal(err)
	}
	token, err := server.LoadAdminToken(filepath.Join(dir, "state"))
	if err != nil {
		t.Fatal(err)
	}
	metrics, err := server.NewGRPCMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	c := &callers{changed: make(chan struct{}, 1)}
	c.approver.Store(true)
	known := &server.Callers{
		Token: token, Certificates: true, Humans: []string{approvalv1.ApprovalService_ServiceDesc.ServiceName},
		Approver: func(p pdp.Person) bool { return p.Name == "security-oncall@example.com" && c.approver.Load() },
		Now:      func() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) },
	}
	srv := server.NewGRPC(server.GRPCConfig{
		Logger: slog.New(slog.DiscardHandler), Metrics: metrics, Credentials: server.Credentials(keeper.Config()),
		Unary: []grpc.UnaryServerInterceptor{known.Unary}, Stream: []grpc.StreamServerInterceptor{known.Stream},
	})
	approvalv1.RegisterApprovalServiceServer(srv, watched{changed: c.changed})
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(lis) }()
	cert := approvers.Issue(t, testkit.Leaf{Emails: []string{"security-oncall@example.com"}}).TLS(t)
	conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		RootCAs: own.Pool(), Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12,
	})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		srv.Stop()
		<-ended
	})
	c.desk = approvalv1.NewApprovalServiceClient(conn)
	return c
}

// A connection that stands does not outlive the certificate that it was made by.
func TestCertificateEndsOnAConnection(t *testing.T) {
	t.Parallel()
	c := serveCallers(t)
	if _, err := c.desk.List(t.Context(), &approvalv1.ListRequest{}); err != nil {
		t.Fatal(err)
	}
	// testkit's certificates are good for an hour.
	c.ahead.Store(int64(2 * time.Hour))
	if _, err := c.desk.List(t.Context(), &approvalv1.ListRequest{}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("by a certificate that has expired: %v", err)
	}
	c.ahead.Store(0)
	if _, err := c.desk.List(t.Context(), &approvalv1.ListRequest{}); err != nil {
		t.Errorf("by a certificate that is good: %v", err)
	}
}

// Who stops being an approver, or has nothing good to be known by any more, sees
// nothing more on a stream that he had opened.
func TestStreamOfWhoIsNoApproverAnyMore(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(c *callers)
		want   codes.Code
	}{
		"no approver any more":  {func(c *callers) { c.approver.Store(false) }, codes.PermissionDenied},
		"an expired credential": {func(c *callers) { c.ahead.Store(int64(2 * time.Hour)) }, codes.Unauthenticated},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := serveCallers(t)
			stream, err := c.desk.Watch(t.Context(), &approvalv1.WatchRequest{})
			if err != nil {
				t.Fatal(err)
			}
			c.changed <- struct{}{}
			if _, err := stream.Recv(); err != nil {
				t.Fatal(err)
			}
			tc.change(c)
			c.changed <- struct{}{}
			if _, err := stream.Recv(); status.Code(err) != tc.want {
				t.Errorf("%v, want %v", err, tc.want)
			}
		})
	}
}
