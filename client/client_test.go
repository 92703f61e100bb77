package client_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/kelpie-authz/kelpie/client"
	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
)

func TestOnlyAllowAllows(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name      string
		resp      *authzv1.AuthorizeResponse
		dryRun    bool
		handles   []string
		allowed   bool
		wantError codes.Code
	}{
		{name: "ALLOW", resp: &authzv1.AuthorizeResponse{Decision: authzv1.Decision_DECISION_ALLOW}, allowed: true},
		{name: "DENY", resp: &authzv1.AuthorizeResponse{Decision: authzv1.Decision_DECISION_DENY}},
		{
			name: "REQUIRE_APPROVAL",
			resp: &authzv1.AuthorizeResponse{Decision: authzv1.Decision_DECISION_REQUIRE_APPROVAL},
		},
		{name: "no decision", resp: &authzv1.AuthorizeResponse{}, wantError: codes.Internal},
		{name: "a decision of a later version", resp: &authzv1.AuthorizeResponse{Decision: 77}},
		{
			name: "a dry run that would be ALLOW", dryRun: true,
			resp: &authzv1.AuthorizeResponse{WouldBe: authzv1.Decision_DECISION_ALLOW},
		},
		{
			name: "ALLOW with an unknown obligation",
			resp: &authzv1.AuthorizeResponse{
				Decision:    authzv1.Decision_DECISION_ALLOW,
				Obligations: []*authzv1.Obligation{{Id: "1", Type: "mask"}},
			},
		},
		{
			name: "ALLOW with one obligation that is met and one that is not", handles: []string{"mask"},
			resp: &authzv1.AuthorizeResponse{
				Decision:    authzv1.Decision_DECISION_ALLOW,
				Obligations: []*authzv1.Obligation{{Type: "mask"}, {Type: "notify"}},
			},
		},
		{
			name: "ALLOW with an obligation that is met", handles: []string{"mask"}, allowed: true,
			resp: &authzv1.AuthorizeResponse{
				Decision:    authzv1.Decision_DECISION_ALLOW,
				Obligations: []*authzv1.Obligation{{Id: "1", Type: "mask"}},
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			addr := start(t, &fakeServer{authorize: answering(tt.resp)})
			c := dial(t, addr, client.WithObligations(tt.handles...))
			req := readRequest()
			req.DryRun = tt.dryRun
			d, err := c.Authorize(t.Context(), req)
			if got := status.Code(err); got != tt.wantError {
				t.Fatalf("error %v, want code %v", err, tt.wantError)
			}
			if d.Allowed() != tt.allowed {
				t.Errorf("Allowed() = %v, want %v (%v)", d.Allowed(), tt.allowed, d)
			}
		})
	}
}

func TestZeroDecisionAllowsNothing(t *testing.T) {
	t.Parallel()
	var d client.Decision
	if d.Allowed() || d.FailedOpen() || d.NeedsApproval() || d.ID() != "" || d.Reason() != "" || d.RetryAfter() != 0 {
		t.Errorf("the zero Decision says something: %v", d)
	}
	if client.NewDecision(nil).Allowed() {
		t.Error("no answer is allowed")
	}
}

func TestDecisionReadsTheAnswer(t *testing.T) {
	t.Parallel()
	d := client.NewDecision(&authzv1.AuthorizeResponse{
		Decision: authzv1.Decision_DECISION_DENY, Reason: authzv1.Reason_REASON_RATE_LIMITED,
		DecisionId: "d-1", RetryAfter: durationpb.New(2 * time.Second),
	})
	if d.ID() != "d-1" || d.Reason() != "rate_limited" || d.RetryAfter() != 2*time.Second {
		t.Errorf("got %q %q %v", d.ID(), d.Reason(), d.RetryAfter())
	}
	if got, want := d.String(), "DENY rate_limited"; got != want {
		t.Errorf("String() = %q, want %q", got, want)
	}
}

func TestServerDownIsAnErrorAtOnce(t *testing.T) {
	t.Parallel()
	c := dial(t, freeAddr(t), client.WithTimeout(time.Minute))
	d, err := c.Authorize(t.Context(), readRequest())
	if status.Code(err) != codes.Unavailable {
		t.Fatalf("error %v, want UNAVAILABLE", err)
	}
	if d.Allowed() {
		t.Error("allowed without a server")
	}
}

// hang answers only when the caller gives up.
func hang(ctx context.Context, _ *authzv1.AuthorizeRequest) (*authzv1.AuthorizeResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestSlowServerRunsIntoTheDeadline(t *testing.T) {
	t.Parallel()
	c := dial(t, start(t, &fakeServer{authorize: hang}), client.WithTimeout(50*time.Millisecond))
	d, err := c.Authorize(t.Context(), readRequest())
	if status.Code(err) != codes.DeadlineExceeded || d.Allowed() {
		t.Fatalf("got %v, %v; want DEADLINE_EXCEEDED", d, err)
	}
}

func TestWaitIsAddedToTheDeadline(t *testing.T) {
	t.Parallel()
	var left time.Duration
	f := &fakeServer{authorize: func(ctx context.Context, _ *authzv1.AuthorizeRequest) (*authzv1.AuthorizeResponse, error) {
		deadline, _ := ctx.Deadline()
		left = time.Until(deadline)
		return &authzv1.AuthorizeResponse{Decision: authzv1.Decision_DECISION_DENY}, nil
	}}
	c := dial(t, start(t, f))
	req := readRequest()
	req.Wait = durationpb.New(30 * time.Second)
	if _, err := c.Authorize(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if left < 25*time.Second || left > 31*time.Second {
		t.Errorf("the server saw a deadline in %v, want about 31s", left)
	}
}

// A decision charges limits: an error must not make the client ask again,
// whatever policy a server or its name service recommends.
func TestNothingIsSentTwice(t *testing.T) {
	t.Parallel()
	for _, code := range []codes.Code{codes.Unavailable, codes.ResourceExhausted, codes.Aborted, codes.Internal} {
		t.Run(code.String(), func(t *testing.T) {
			t.Parallel()
			f := &fakeServer{authorize: func(context.Context, *authzv1.AuthorizeRequest) (*authzv1.AuthorizeResponse, error) {
				return nil, status.Error(code, "charged, and then lost")
			}}
			retrying := grpc.WithDefaultServiceConfig(`{"methodConfig":[{"name":[{}],"retryPolicy":{"maxAttempts":5,
				"initialBackoff":"0.001s","maxBackoff":"0.001s","backoffMultiplier":1,
				"retryableStatusCodes":["UNAVAILABLE","RESOURCE_EXHAUSTED","ABORTED","INTERNAL"]}}]}`)
			c := dial(t, start(t, f), client.WithDialOptions(retrying))
			if _, err := c.Authorize(t.Context(), readRequest()); status.Code(err) != code {
				t.Fatalf("error %v, want code %v", err, code)
			}
			if n := f.calls.Load(); n != 1 {
				t.Errorf("the server was asked %d times", n)
			}
		})
	}
}

func TestWaitForReadyWaitsForTheServer(t *testing.T) {
	t.Parallel()
	addr := freeAddr(t)
	c := dial(t, addr, client.WithWaitForReady(), client.WithTimeout(30*time.Second))
	done := make(chan error, 1)
	go func() {
		_, err := c.Authorize(context.Background(), readRequest())
		done <- err
	}()
	lis, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeServer{authorize: answering(&authzv1.AuthorizeResponse{Decision: authzv1.Decision_DECISION_ALLOW})}
	serve(t, lis, f)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := f.calls.Load(); n != 1 {
		t.Errorf("the server was asked %d times", n)
	}
}

func TestFailOpen(t *testing.T) {
	t.Parallel()
	fail := func(code codes.Code) func(context.Context, *authzv1.AuthorizeRequest) (*authzv1.AuthorizeResponse, error) {
		return func(context.Context, *authzv1.AuthorizeRequest) (*authzv1.AuthorizeResponse, error) {
			return nil, status.Error(code, "x")
		}
	}
	tests := []struct {
		name      string
		authorize func(context.Context, *authzv1.AuthorizeRequest) (*authzv1.AuthorizeResponse, error)
		dryRun    bool
		open      bool
	}{
		{"unavailable", fail(codes.Unavailable), false, true},
		{"slow", hang, false, true},
		{"no decision", answering(&authzv1.AuthorizeResponse{}), false, true},
		{"DENY", answering(&authzv1.AuthorizeResponse{Decision: authzv1.Decision_DECISION_DENY}), false, false},
		{
			"REQUIRE_APPROVAL",
			answering(&authzv1.AuthorizeResponse{Decision: authzv1.Decision_DECISION_REQUIRE_APPROVAL}), false, false,
		},
		{"a decision of a later version", answering(&authzv1.AuthorizeResponse{Decision: 77}), false, false},
		{"a dry run", answering(&authzv1.AuthorizeResponse{WouldBe: authzv1.Decision_DECISION_ALLOW}), true, false},
		{"a dry run that fails", fail(codes.Unavailable), true, false},
		{"malformed", fail(codes.InvalidArgument), false, false},
		{"shed or too large", fail(codes.ResourceExhausted), false, false},
		{"not permitted", fail(codes.PermissionDenied), false, false},
		{"unauthenticated", fail(codes.Unauthenticated), false, false},
		{"unimplemented", fail(codes.Unimplemented), false, false},
		{"internal", fail(codes.Internal), false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			var reported []error
			c := dial(t, start(t, &fakeServer{authorize: tt.authorize}), client.WithTimeout(200*time.Millisecond),
				client.WithFailOpen(func(_ context.Context, _ *authzv1.AuthorizeRequest, err error) {
					mu.Lock()
					defer mu.Unlock()
					reported = append(reported, err)
				}))
			req := readRequest()
			req.DryRun = tt.dryRun
			d, err := c.Authorize(t.Context(), req)
			if d.Allowed() != tt.open || d.FailedOpen() != tt.open {
				t.Errorf("Allowed %v, FailedOpen %v, want %v (error %v)", d.Allowed(), d.FailedOpen(), tt.open, err)
			}
			if tt.open && err != nil {
				t.Errorf("error %v beside an open gate", err)
			}
			if (len(reported) == 1) != tt.open {
				t.Errorf("reported %v", reported)
			}
		})
	}
}

func TestFailOpenNotWhenTheCallerGivesUp(t *testing.T) {
	t.Parallel()
	c := dial(t, start(t, &fakeServer{authorize: hang}),
		client.WithFailOpen(func(context.Context, *authzv1.AuthorizeRequest, error) {
			t.Error("failed open for a caller that had gone")
		}))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	d, err := c.Authorize(ctx, readRequest())
	if err == nil || d.Allowed() {
		t.Errorf("got %v, %v", d, err)
	}
}

func TestBatch(t *testing.T) {
	t.Parallel()
	answers := []*authzv1.AuthorizeResponse{
		{Decision: authzv1.Decision_DECISION_ALLOW},
		{Decision: authzv1.Decision_DECISION_DENY},
	}
	f := &fakeServer{batch: func(context.Context, *authzv1.BatchAuthorizeRequest) (*authzv1.BatchAuthorizeResponse, error) {
		return &authzv1.BatchAuthorizeResponse{Responses: answers}, nil
	}}
	c := dial(t, start(t, f))
	ask := func(n int) ([]client.Decision, error) {
		req := &authzv1.BatchAuthorizeRequest{}
		for range n {
			req.Requests = append(req.Requests, readRequest())
		}
		return c.BatchAuthorize(t.Context(), req)
	}
	ds, err := ask(3)
	if err != nil || len(ds) != 2 || !ds[0].Allowed() || ds[1].Allowed() {
		t.Errorf("got %v, %v", ds, err)
	}
	if ds, err := ask(1); err == nil {
		t.Errorf("two answers to one request were taken: %v", ds)
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	f := &fakeServer{explain: func(_ context.Context, req *authzv1.ExplainRequest) (*authzv1.ExplainResponse, error) {
		return &authzv1.ExplainResponse{Risk: "read", Checks: []*authzv1.Check{{Name: req.GetRequest().GetAgent()}}}, nil
	}}
	c := dial(t, start(t, f))
	e, err := c.Explain(t.Context(), readRequest())
	if err != nil || e.GetRisk() != "read" || e.GetChecks()[0].GetName() != "lead-router" {
		t.Errorf("got %v, %v", e, err)
	}
}

func TestUnixSocket(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "k.sock")
	lis, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, lis, &fakeServer{authorize: answering(&authzv1.AuthorizeResponse{Decision: authzv1.Decision_DECISION_ALLOW})})
	d, err := dial(t, "unix://"+path).Authorize(t.Context(), readRequest())
	if err != nil || !d.Allowed() {
		t.Errorf("got %v, %v", d, err)
	}
}

// A name that looks local and leads elsewhere must not get plaintext.
func TestPlaintextStopsAtTheHandshakeOffLoopback(t *testing.T) {
	t.Parallel()
	f := &fakeServer{authorize: answering(&authzv1.AuthorizeResponse{Decision: authzv1.Decision_DECISION_ALLOW})}
	addr := start(t, f)
	elsewhere := grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		return farConn{conn}, err
	})
	d, err := dial(t, "127.0.0.1:7070", client.WithDialOptions(elsewhere)).Authorize(t.Context(), readRequest())
	if err == nil || d.Allowed() || !strings.Contains(err.Error(), "non-local") {
		t.Errorf("got %v, %v", d, err)
	}
	d, err = dial(t, "127.0.0.1:7070", client.WithDialOptions(elsewhere), client.WithInsecure()).
		Authorize(t.Context(), readRequest())
	if err != nil || !d.Allowed() {
		t.Errorf("with WithInsecure: %v, %v", d, err)
	}
}

// farConn is a connection that says its peer is elsewhere.
type farConn struct{ net.Conn }

func (farConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(203, 0, 113, 9), Port: 7070} }

func TestOffLoopbackSpeaksTLS(t *testing.T) {
	t.Parallel()
	f := &fakeServer{authorize: answering(&authzv1.AuthorizeResponse{Decision: authzv1.Decision_DECISION_ALLOW})}
	addr := start(t, f)
	toFake := grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	})
	d, err := dial(t, "passthrough:///pdp.example.com:7070", client.WithDialOptions(toFake)).
		Authorize(t.Context(), readRequest())
	if status.Code(err) != codes.Unavailable || d.Allowed() || f.calls.Load() != 0 {
		t.Errorf("got %v, %v after %d calls; want a failed TLS handshake", d, err, f.calls.Load())
	}
}

func TestIsLocal(t *testing.T) {
	t.Parallel()
	for target, want := range map[string]bool{
		"127.0.0.1:7070": true, "127.9.9.9:1": true, "[::1]:7070": true, "localhost:7070": true, "LOCALHOST:1": true,
		"dns:///localhost:7070": true, "passthrough:///127.0.0.1:1": true, "unix:///run/k.sock": true,
		"unix:k.sock": true, "unix-abstract:k": true,
		"10.0.0.1:7070": false, "pdp.example.com:7070": false, "localhost.example.com:7070": false,
		"0.0.0.0:7070": false, "[::]:7070": false, "127.0.0.1.example.com:7070": false, "": false,
		"dns://8.8.8.8/localhost:7070": false,
	} {
		if got := client.IsLocal(target); got != want {
			t.Errorf("IsLocal(%q) = %v, want %v", target, got, want)
		}
	}
}

func TestNewRefusesNonsense(t *testing.T) {
	t.Parallel()
	for name, construct := range map[string]func() (*client.Client, error){
		"no target":        func() (*client.Client, error) { return client.New("") },
		"no deadline":      func() (*client.Client, error) { return client.New("127.0.0.1:1", client.WithTimeout(0)) },
		"nil TLS":          func() (*client.Client, error) { return client.New("127.0.0.1:1", client.WithTLS(nil)) },
		"silent fail open": func() (*client.Client, error) { return client.New("127.0.0.1:1", client.WithFailOpen(nil)) },
	} {
		c, err := construct()
		if err == nil {
			t.Errorf("%s: made %v", name, c)
		}
	}
}

func TestErrorsKeepTheirStatus(t *testing.T) {
	t.Parallel()
	f := &fakeServer{authorize: func(context.Context, *authzv1.AuthorizeRequest) (*authzv1.AuthorizeResponse, error) {
		return nil, status.Error(codes.InvalidArgument, "resource: has an empty segment")
	}}
	_, err := dial(t, start(t, f)).Authorize(t.Context(), readRequest())
	var grpcErr interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &grpcErr) || grpcErr.GRPCStatus().Code() != codes.InvalidArgument {
		t.Errorf("error %v lost its status", err)
	}
}
