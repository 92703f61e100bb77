package client_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/kelpie-authz/kelpie/client"
	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeServer answers as told and counts what reaches it.
type fakeServer struct {
	authzv1.UnimplementedAuthorizationServiceServer
	calls     atomic.Int64
	authorize func(context.Context, *authzv1.AuthorizeRequest) (*authzv1.AuthorizeResponse, error)
	batch     func(context.Context, *authzv1.BatchAuthorizeRequest) (*authzv1.BatchAuthorizeResponse, error)
	explain   func(context.Context, *authzv1.ExplainRequest) (*authzv1.ExplainResponse, error)
	stream    func(authzv1.AuthorizationService_AuthorizeStreamServer) error
	settle    func(context.Context, *authzv1.SettleRequest) (*authzv1.SettleResponse, error)
	release   func(context.Context, *authzv1.ReleaseRequest) (*authzv1.ReleaseResponse, error)
}

func (f *fakeServer) Settle(ctx context.Context, req *authzv1.SettleRequest) (*authzv1.SettleResponse, error) {
	f.calls.Add(1)
	return f.settle(ctx, req)
}

func (f *fakeServer) Release(ctx context.Context, req *authzv1.ReleaseRequest) (*authzv1.ReleaseResponse, error) {
	f.calls.Add(1)
	return f.release(ctx, req)
}

func (f *fakeServer) Authorize(
	ctx context.Context, req *authzv1.AuthorizeRequest,
) (*authzv1.AuthorizeResponse, error) {
	f.calls.Add(1)
	return f.authorize(ctx, req)
}

func (f *fakeServer) BatchAuthorize(
	ctx context.Context, req *authzv1.BatchAuthorizeRequest,
) (*authzv1.BatchAuthorizeResponse, error) {
	f.calls.Add(1)
	return f.batch(ctx, req)
}

func (f *fakeServer) Explain(
	ctx context.Context, req *authzv1.ExplainRequest,
) (*authzv1.ExplainResponse, error) {
	f.calls.Add(1)
	return f.explain(ctx, req)
}

func (f *fakeServer) AuthorizeStream(stream authzv1.AuthorizationService_AuthorizeStreamServer) error {
	f.calls.Add(1)
	return f.stream(stream)
}

// answering is a handler that always gives resp.
func answering(
	resp *authzv1.AuthorizeResponse,
) func(context.Context, *authzv1.AuthorizeRequest) (*authzv1.AuthorizeResponse, error) {
	return func(context.Context, *authzv1.AuthorizeRequest) (*authzv1.AuthorizeResponse, error) {
		return resp, nil
	}
}

// start serves f on loopback until the test ends, and returns its address.
func start(t *testing.T, f *fakeServer, opts ...grpc.ServerOption) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serve(t, lis, f, opts...)
	return lis.Addr().String()
}

func serve(t *testing.T, lis net.Listener, f *fakeServer, opts ...grpc.ServerOption) *grpc.Server {
	t.Helper()
	srv := grpc.NewServer(opts...)
	authzv1.RegisterAuthorizationServiceServer(srv, f)
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(lis) }()
	t.Cleanup(func() {
		srv.Stop()
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return srv
}

// dial makes a client of target that is closed when the test ends.
func dial(t *testing.T, target string, opts ...client.Option) *client.Client {
	t.Helper()
	c, err := client.New(target, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return c
}

func readRequest() *authzv1.AuthorizeRequest {
	return &authzv1.AuthorizeRequest{
		Agent: "lead-router", Action: "read", Resource: "salesforce/leads/42", SourceIp: "10.8.0.5",
	}
}

// freeAddr is a loopback address where nobody listens.
func freeAddr(t *testing.T) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	return lis.Addr().String()
}
