package app_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
	"github.com/kelpie-authz/kelpie/internal/config"
	"github.com/kelpie-authz/kelpie/internal/testkit"
)

// halfOpen opens an Authorize call and sends no message: it holds a slot.
func halfOpen(ctx context.Context, t *testing.T, conn *grpc.ClientConn, opts ...grpc.CallOption) grpc.ClientStream {
	t.Helper()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, authzv1.AuthorizationService_Authorize_FullMethodName, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// More calls than max_in_flight are shed before any work, counted, and the
// health stays SERVING; slots come back, also those of calls that never began.
func TestShedding(t *testing.T) {
	t.Parallel()
	const limit = 3
	r := start(t, func(c *config.Config) { c.MaxInFlight = limit })
	conn := dial(t, r.Addrs().GRPC.String(), nil)
	c := authzv1.NewAuthorizationServiceClient(conn)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range limit {
		halfOpen(ctx, t, conn)
	}
	inFlight := func(want string) bool {
		_, body := r.get(t, "/metrics")
		return strings.Contains(body, "\nkelpie_in_flight "+want+"\n")
	}
	testkit.Eventually(t, "the slots to be taken", func() bool { return inFlight("3") })
	if _, err := c.Authorize(t.Context(), request()); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "overloaded") {
		t.Errorf("the call beyond: %v", err)
	}
	health, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil || health.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", health, err)
	}
	if _, body := r.get(t, "/metrics"); !strings.Contains(body, `kelpie_grpc_refused_total{why="shed"} 1`) {
		t.Error("the shed call was not counted")
	}
	cancel()
	testkit.Eventually(t, "the slots to come back", func() bool { return inFlight("0") })
	if got := r.ask(t, c); got != allow {
		t.Errorf("decision %v", got)
	}
}

// noCompressor is one that the server does not have: grpc ends such a call
// without a handler.
type noCompressor struct{}

func (noCompressor) Compress(w io.Writer) (io.WriteCloser, error) { return nopCloser{w}, nil }
func (noCompressor) Decompress(r io.Reader) (io.Reader, error)    { return r, nil }
func (noCompressor) Name() string                                 { return "none-such" }
func (noCompressor) Do(w io.Writer, p []byte) error               { _, err := w.Write(p); return err }
func (noCompressor) Type() string                                 { return "none-such" }

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

func TestCallsThatNeverBeginLoseNoSlot(t *testing.T) {
	t.Parallel()
	r := start(t, func(c *config.Config) { c.MaxInFlight = 2 })
	bad, err := grpc.NewClient(r.Addrs().GRPC.String(), grpc.WithTransportCredentials(insecureCredentials()),
		grpc.WithCompressor(noCompressor{})) //nolint:staticcheck // The registry of compressors is global; this one must not be.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = bad.Close() })
	badClient := authzv1.NewAuthorizationServiceClient(bad)
	for range 10 {
		testkit.Eventually(t, "an answer other than shed", func() bool {
			_, err := badClient.Authorize(t.Context(), request())
			return status.Code(err) == codes.Unimplemented
		})
	}
	c := r.client(t)
	testkit.Eventually(t, "a decision", func() bool { _, err := c.Authorize(t.Context(), request()); return err == nil })
}

// Many at once: each is decided or shed, and nothing is left over.
func TestSheddingUnderLoad(t *testing.T) {
	t.Parallel()
	r := start(t, func(c *config.Config) { c.MaxInFlight = 1 })
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[codes.Code]int{}
	for range 8 {
		c := r.client(t)
		wg.Go(func() {
			for range 100 {
				_, err := c.Authorize(t.Context(), request())
				mu.Lock()
				seen[status.Code(err)]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if seen[codes.OK] == 0 || seen[codes.OK]+seen[codes.ResourceExhausted] != 800 {
		t.Errorf("%v", seen)
	}
	if _, body := r.get(t, "/metrics"); !strings.Contains(body, "\nkelpie_in_flight 0\n") {
		t.Error("a slot was lost")
	}
}

// failing is a writer that fails while it is told to.
type failing struct {
	testkit.Buffer
	mu  sync.Mutex
	bad bool
}

func (f *failing) set(bad bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bad = bad
}

func (f *failing) Write(p []byte) (int, error) {
	f.mu.Lock()
	bad := f.bad
	f.mu.Unlock()
	if bad {
		return 0, errDisk
	}
	return f.Buffer.Write(p)
}

var errDisk = errors.New("no space left on device")

// While the decision log cannot be written no call is allowed; it mends itself.
func TestNoAllowWithoutALog(t *testing.T) {
	t.Parallel()
	out := &failing{}
	r := startTo(t, out, nil)
	c := r.client(t)
	out.set(true)
	testkit.Eventually(t, "DENY audit_unavailable", func() bool {
		resp, err := c.Authorize(t.Context(), request())
		return err == nil && resp.GetDecision() == deny && resp.GetReason() == authzv1.Reason_REASON_AUDIT_UNAVAILABLE
	})
	if code, body := r.get(t, "/readyz"); code != 503 || !strings.Contains(body, "decision log") {
		t.Errorf("/readyz: %d %s", code, body)
	}
	conn := dial(t, r.Addrs().GRPC.String(), nil)
	health := func() healthpb.HealthCheckResponse_ServingStatus {
		resp, err := healthpb.NewHealthClient(conn).Check(t.Context(),
			&healthpb.HealthCheckRequest{Service: authzv1.AuthorizationService_ServiceDesc.ServiceName})
		if err != nil {
			t.Error(err)
		}
		return resp.GetStatus()
	}
	testkit.Eventually(t, "gRPC health NOT_SERVING", func() bool { return health() == healthpb.HealthCheckResponse_NOT_SERVING })
	out.set(false)
	testkit.Eventually(t, "gRPC health SERVING", func() bool { return health() == healthpb.HealthCheckResponse_SERVING })
	testkit.Eventually(t, "ALLOW", func() bool { return r.ask(t, c) == allow })
}
