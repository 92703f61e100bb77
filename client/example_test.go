package client_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httptest"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/kelpie-authz/kelpie/client"
	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
)

func plaintext() credentials.TransportCredentials { return insecure.NewCredentials() }

// readersOnly stands for a server whose policy lets agents read, and nothing else.
func readersOnly() (addr string, stop func()) {
	judge := func(req *authzv1.AuthorizeRequest) *authzv1.AuthorizeResponse {
		resp := &authzv1.AuthorizeResponse{
			Decision: authzv1.Decision_DECISION_DENY, Reason: authzv1.Reason_REASON_NO_MATCHING_SCOPE, DecisionId: "d-2",
			Message: "No scope of the policy covers this action on this resource.", RequestId: req.GetRequestId(),
		}
		if req.GetAction() == "read" {
			resp.Decision, resp.Reason = authzv1.Decision_DECISION_ALLOW, authzv1.Reason_REASON_OK
			resp.DecisionId, resp.Message = "d-1", "Granted."
		}
		return resp
	}
	f := &fakeServer{
		authorize: func(_ context.Context, req *authzv1.AuthorizeRequest) (*authzv1.AuthorizeResponse, error) {
			return judge(req), nil
		},
		batch: func(_ context.Context, req *authzv1.BatchAuthorizeRequest) (*authzv1.BatchAuthorizeResponse, error) {
			resp := &authzv1.BatchAuthorizeResponse{}
			for _, one := range req.GetRequests() {
				resp.Responses = append(resp.Responses, judge(one))
			}
			return resp, nil
		},
		stream: echo,
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	srv := grpc.NewServer()
	authzv1.RegisterAuthorizationServiceServer(srv, f)
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(lis) }()
	return lis.Addr().String(), func() {
		srv.Stop()
		if err := <-ended; err != nil {
			log.Print(err)
		}
	}
}

func ExampleClient_Authorize() {
	addr, stop := readersOnly()
	defer stop()

	c, err := client.New(addr)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	for _, action := range []string{"read", "delete"} {
		d, err := c.Authorize(context.Background(), &authzv1.AuthorizeRequest{
			Agent: "lead-router", Action: action, Resource: "salesforce/leads/42", SourceIp: "10.8.0.5",
		})
		if err != nil {
			// No decision was made: the call must not go through.
			log.Fatal(err)
		}
		fmt.Println(action, d.Allowed(), d)
	}
	// Output:
	// read true ALLOW ok
	// delete false DENY no_matching_scope
}

func ExampleClient_BatchAuthorize() {
	addr, stop := readersOnly()
	defer stop()

	c, err := client.New(addr)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	decisions, err := c.BatchAuthorize(context.Background(), &authzv1.BatchAuthorizeRequest{
		Requests: []*authzv1.AuthorizeRequest{
			{Agent: "lead-router", Action: "read", Resource: "salesforce/leads/42"},
			{Agent: "lead-router", Action: "update", Resource: "salesforce/leads/42"},
		},
		Semantic: authzv1.BatchSemantic_BATCH_SEMANTIC_EXECUTE_ALL,
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, d := range decisions {
		fmt.Println(d.Allowed(), d.Reason())
	}
	// Output:
	// true ok
	// false no_matching_scope
}

func ExampleStream() {
	addr, stop := readersOnly()
	defer stop()

	c, err := client.New(addr)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	s := c.NewStream()
	defer s.Close()

	// All goroutines of a gateway may share s.
	d, err := s.Authorize(context.Background(), &authzv1.AuthorizeRequest{
		Agent: "lead-router", Action: "read", Resource: "salesforce/leads/42",
	})
	fmt.Println(d.Allowed(), err)
	// Output: true <nil>
}

func ExampleMiddleware() {
	addr, stop := readersOnly()
	defer stop()

	c, err := client.New(addr)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	guard := client.Middleware(c, func(r *http.Request) (*authzv1.AuthorizeRequest, error) {
		if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
			return nil, client.ErrUnauthenticated
		}
		action := map[string]string{http.MethodGet: "read", http.MethodDelete: "delete"}[r.Method]
		return &authzv1.AuthorizeRequest{
			Agent:    r.TLS.PeerCertificates[0].Subject.CommonName,
			Action:   action,
			Resource: "crm" + r.URL.EscapedPath(),
		}, nil
	})
	leads := guard(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "a lead")
	}))

	// A caller without a certificate.
	w := httptest.NewRecorder()
	leads.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/leads/42", nil))
	fmt.Print(w.Code, " ", w.Body)
	// Output:
	// 401 {"decision":"DENY","reason":"unauthenticated_identity","message":"The agent could not be established."}
}

func ExampleUnaryServerInterceptor() {
	c, err := client.New("127.0.0.1:7070")
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	ask := func(_ context.Context, method string, _ any) (*authzv1.AuthorizeRequest, error) {
		if method == "/grpc.health.v1.Health/Check" {
			return nil, client.ErrUnguarded
		}
		return &authzv1.AuthorizeRequest{
			Agent: "lead-router", Action: "call", Resource: "grpc" + method,
		}, nil
	}
	srv := grpc.NewServer(
		grpc.UnaryInterceptor(client.UnaryServerInterceptor(c, ask)),
		grpc.StreamInterceptor(client.StreamServerInterceptor(c, ask)),
	)
	defer srv.Stop()
	fmt.Println(len(srv.GetServiceInfo()), "services so far")
	// Output: 0 services so far
}
