package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/kelpie-authz/kelpie/client"
	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
)

// fixedAuthorizer always gives one answer.
type fixedAuthorizer struct {
	decision client.Decision
	err      error
}

func (f fixedAuthorizer) Authorize(context.Context, *authzv1.AuthorizeRequest) (client.Decision, error) {
	return f.decision, f.err
}

// doorCase is one answer and how both doors pass it on.
type doorCase struct {
	name   string
	resp   *authzv1.AuthorizeResponse
	err    error
	mapErr error
	http   int
	grpc   codes.Code
	retry  string
	body   client.HTTPRefusal
}

func deny(r authzv1.Reason) *authzv1.AuthorizeResponse {
	return &authzv1.AuthorizeResponse{Decision: authzv1.Decision_DECISION_DENY, Reason: r, DecisionId: "d-1", Message: "No."}
}

func doorCases() []doorCase {
	limited := deny(authzv1.Reason_REASON_RATE_LIMITED)
	limited.RetryAfter = durationpb.New(1200 * time.Millisecond)
	lacking := deny(authzv1.Reason_REASON_INSUFFICIENT_SCOPE)
	lacking.RequiredScopes = []string{"leads.read"}
	return []doorCase{
		{
			name: "denied", resp: deny(authzv1.Reason_REASON_ACTION_DENIED), http: 403, grpc: codes.PermissionDenied,
			body: client.HTTPRefusal{Decision: "DENY", Reason: "action_denied", Message: "No.", DecisionID: "d-1"},
		},
		{
			name: "lacks a scope", resp: lacking, http: 403, grpc: codes.PermissionDenied,
			body: client.HTTPRefusal{
				Decision: "DENY", Reason: "insufficient_scope", Message: "No.", DecisionID: "d-1",
				RequiredScopes: []string{"leads.read"},
			},
		},
		{
			name: "waits for a human",
			resp: &authzv1.AuthorizeResponse{
				Decision: authzv1.Decision_DECISION_REQUIRE_APPROVAL, Reason: authzv1.Reason_REASON_APPROVAL_REQUIRED,
				DecisionId: "d-1", Approval: &authzv1.Approval{Id: "a-1", Digest: "ff"},
			},
			http: 403, grpc: codes.PermissionDenied,
			body: client.HTTPRefusal{
				Decision: "REQUIRE_APPROVAL", Reason: "approval_required", DecisionID: "d-1",
				Approval: &client.HTTPApproval{ID: "a-1", Digest: "ff"},
			},
		},
		{
			name: "token does not hold", resp: deny(authzv1.Reason_REASON_TOKEN_INVALID), http: 401, grpc: codes.Unauthenticated,
			body: client.HTTPRefusal{Decision: "DENY", Reason: "token_invalid", Message: "No.", DecisionID: "d-1"},
		},
		{
			name: "over the limit", resp: limited, http: 429, grpc: codes.ResourceExhausted, retry: "2",
			body: client.HTTPRefusal{
				Decision: "DENY", Reason: "rate_limited", Message: "No.", DecisionID: "d-1", RetryAfterSeconds: 2,
			},
		},
		{
			name: "a limit cannot be asked", resp: deny(authzv1.Reason_REASON_DEPENDENCY_UNAVAILABLE),
			http: 503, grpc: codes.Unavailable, retry: "1",
			body: client.HTTPRefusal{
				Decision: "DENY", Reason: "dependency_unavailable", Message: "No.", DecisionID: "d-1", RetryAfterSeconds: 1,
			},
		},
		{
			name: "malformed", resp: deny(authzv1.Reason_REASON_PARAMETERS_INVALID), http: 400, grpc: codes.InvalidArgument,
			body: client.HTTPRefusal{Decision: "DENY", Reason: "parameters_invalid", Message: "No.", DecisionID: "d-1"},
		},
		{
			name: "an obligation that nobody meets",
			resp: &authzv1.AuthorizeResponse{
				Decision: authzv1.Decision_DECISION_ALLOW, Reason: authzv1.Reason_REASON_OK,
				Obligations: []*authzv1.Obligation{{Type: "mask"}},
			},
			http: 403, grpc: codes.PermissionDenied,
			body: client.HTTPRefusal{
				Decision: "DENY", Reason: "ok",
				Message: "The decision is ALLOW with an obligation that this service does not meet.",
			},
		},
		{
			name: "a decision of a later version", resp: &authzv1.AuthorizeResponse{Decision: 77},
			http: 403, grpc: codes.PermissionDenied, body: client.HTTPRefusal{Decision: "77"},
		},
		{
			name: "no decision", err: fmt.Errorf("authorize: %w", status.Error(codes.Unavailable, "dial 10.1.2.3: refused")),
			http: 503, grpc: codes.Unavailable, retry: "1",
			body: client.HTTPRefusal{
				Decision: "UNSPECIFIED", Message: "No decision could be made; try again later.", RetryAfterSeconds: 1,
			},
		},
		{
			name: "the server refuses the request", err: status.Error(codes.InvalidArgument, "resource: //"),
			http: 400, grpc: codes.InvalidArgument,
			body: client.HTTPRefusal{
				Decision: "DENY", Reason: "parameters_invalid", Message: "The request cannot be judged as it is.",
			},
		},
		{
			name: "nobody", mapErr: fmt.Errorf("no certificate: %w", client.ErrUnauthenticated),
			http: 401, grpc: codes.Unauthenticated,
			body: client.HTTPRefusal{
				Decision: "DENY", Reason: "unauthenticated_identity", Message: "The agent could not be established.",
			},
		},
		{
			name: "cannot be mapped", mapErr: errors.New("no such path"), http: 400, grpc: codes.InvalidArgument,
			body: client.HTTPRefusal{
				Decision: "DENY", Reason: "parameters_invalid", Message: "The request cannot be judged as it is.",
			},
		},
	}
}

func (tt *doorCase) authorizer() client.Authorizer {
	return fixedAuthorizer{decision: client.NewDecision(tt.resp), err: tt.err}
}

func TestHTTPRefusals(t *testing.T) {
	t.Parallel()
	for _, tt := range doorCases() {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			door := client.Middleware(tt.authorizer(), func(*http.Request) (*authzv1.AuthorizeRequest, error) {
				return readRequest(), tt.mapErr
			})
			h := door(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the request went through") }))
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/leads/42", nil))
			if w.Code != tt.http {
				t.Errorf("status %d, want %d", w.Code, tt.http)
			}
			var body client.HTTPRefusal
			if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
				t.Fatalf("body %q: %v", w.Body, err)
			}
			if diff := cmp.Diff(tt.body, body); diff != "" {
				t.Errorf("body (-want +got):\n%s", diff)
			}
			if strings.Contains(w.Body.String(), "10.1.2.3") {
				t.Error("the body tells an inner address")
			}
			h2 := w.Header()
			if h2.Get("Retry-After") != tt.retry || h2.Get(client.DecisionIDHeader) != tt.body.DecisionID ||
				h2.Get("Cache-Control") != "no-store" || h2.Get("Content-Type") != "application/json" {
				t.Errorf("header %v", h2)
			}
			if (h2.Get("WWW-Authenticate") != "") != (tt.http == 401) {
				t.Errorf("WWW-Authenticate %q with %d", h2.Get("WWW-Authenticate"), tt.http)
			}
		})
	}
}

func TestHTTPAllows(t *testing.T) {
	t.Parallel()
	allow := client.NewDecision(&authzv1.AuthorizeResponse{Decision: authzv1.Decision_DECISION_ALLOW, DecisionId: "d-9"})
	for _, tt := range []struct {
		name     string
		a        client.Authorizer
		mapErr   error
		id       string
		decision bool
	}{
		{"ALLOW", fixedAuthorizer{decision: allow}, nil, "d-9", true},
		{"unguarded", fixedAuthorizer{err: errors.New("not asked")}, client.ErrUnguarded, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			door := client.Middleware(tt.a, func(*http.Request) (*authzv1.AuthorizeRequest, error) {
				return readRequest(), tt.mapErr
			})
			through := false
			h := door(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				through = true
				d, ok := client.DecisionFromContext(r.Context())
				if ok != tt.decision || d.ID() != tt.id {
					t.Errorf("the handler sees %v %v", d, ok)
				}
			}))
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
			if !through || w.Code != 200 || w.Header().Get(client.DecisionIDHeader) != tt.id {
				t.Errorf("through %v, status %d, header %v", through, w.Code, w.Header())
			}
		})
	}
}

func TestNilRequestIsRefused(t *testing.T) {
	t.Parallel()
	allow := fixedAuthorizer{decision: client.NewDecision(&authzv1.AuthorizeResponse{Decision: authzv1.Decision_DECISION_ALLOW})}
	door := client.Middleware(allow, func(*http.Request) (*authzv1.AuthorizeRequest, error) {
		return nil, nil //nolint:nilnil // The mistake under test.
	})
	w := httptest.NewRecorder()
	door(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("went through") })).
		ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	if w.Code != 400 {
		t.Errorf("status %d, want 400", w.Code)
	}
}

// guarded serves gRPC health, which has a unary and a streaming method, behind
// the interceptors.
func guarded(t *testing.T, a client.Authorizer, mapErr error) healthv1.HealthClient {
	t.Helper()
	m := func(_ context.Context, method string, message any) (*authzv1.AuthorizeRequest, error) {
		if (method == healthv1.Health_Watch_FullMethodName) != (message == nil) {
			t.Errorf("method %s came with %v", method, message)
		}
		return readRequest(), mapErr
	}
	srv := grpc.NewServer(
		grpc.UnaryInterceptor(client.UnaryServerInterceptor(a, m)),
		grpc.StreamInterceptor(client.StreamServerInterceptor(a, m)),
	)
	healthv1.RegisterHealthServer(srv, health.NewServer())
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(lis) }()
	t.Cleanup(func() {
		srv.Stop()
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(plaintext()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return healthv1.NewHealthClient(conn)
}

func TestGRPCRefusals(t *testing.T) {
	t.Parallel()
	for _, tt := range doorCases() {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			hc := guarded(t, tt.authorizer(), tt.mapErr)
			var header metadata.MD
			_, err := hc.Check(t.Context(), &healthv1.HealthCheckRequest{}, grpc.Header(&header))
			checkRefusal(t, &tt, err)
			if got := strings.Join(header.Get(client.DecisionIDHeader), ""); got != tt.body.DecisionID {
				t.Errorf("header %v", header)
			}
			stream, err := hc.Watch(t.Context(), &healthv1.HealthCheckRequest{})
			if err != nil {
				t.Fatal(err)
			}
			_, err = stream.Recv()
			checkRefusal(t, &tt, err)
		})
	}
}

func checkRefusal(t *testing.T, tt *doorCase, err error) {
	t.Helper()
	st := status.Convert(err)
	if st.Code() != tt.grpc {
		t.Fatalf("error %v, want code %v", err, tt.grpc)
	}
	var info *errdetails.ErrorInfo
	var retry *errdetails.RetryInfo
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			info = d
		case *errdetails.RetryInfo:
			retry = d
		}
	}
	if info.GetReason() != strings.ToUpper(tt.body.Reason) || info.GetDomain() != "kelpie" ||
		info.GetMetadata()["decision"] != tt.body.Decision || info.GetMetadata()["decision_id"] != tt.body.DecisionID {
		t.Errorf("ErrorInfo %v", info)
	}
	if (retry != nil) != (tt.retry != "") {
		t.Errorf("RetryInfo %v, want one: %v", retry, tt.retry != "")
	}
	if strings.Contains(err.Error(), "10.1.2.3") {
		t.Error("the error tells an inner address")
	}
}

func TestGRPCAllows(t *testing.T) {
	t.Parallel()
	allow := client.NewDecision(&authzv1.AuthorizeResponse{Decision: authzv1.Decision_DECISION_ALLOW, DecisionId: "d-9"})
	hc := guarded(t, fixedAuthorizer{decision: allow}, nil)
	var header metadata.MD
	if _, err := hc.Check(t.Context(), &healthv1.HealthCheckRequest{}, grpc.Header(&header)); err != nil {
		t.Fatal(err)
	}
	if got := header.Get(client.DecisionIDHeader); len(got) != 1 || got[0] != "d-9" {
		t.Errorf("header %v", header)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := hc.Watch(ctx, &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	unguarded := guarded(t, fixedAuthorizer{err: errors.New("not asked")}, client.ErrUnguarded)
	if _, err := unguarded.Check(t.Context(), &healthv1.HealthCheckRequest{}); err != nil {
		t.Errorf("unguarded: %v", err)
	}
}
