package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kelpie-authz/kelpie/client"
	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
)

type serverStream = authzv1.AuthorizationService_AuthorizeStreamServer

// respond is an answer whose reason tells which call it was for.
func respond(req *authzv1.AuthorizeRequest, d authzv1.Decision) *authzv1.AuthorizeStreamResponse {
	return &authzv1.AuthorizeStreamResponse{
		RequestId: req.GetRequestId(),
		Result: &authzv1.AuthorizeStreamResponse_Response{Response: &authzv1.AuthorizeResponse{
			Decision: d, DecisionId: req.GetResource(), RequestId: req.GetRequestId(),
		}},
	}
}

// echo allows each call as it comes.
func echo(s serverStream) error {
	for {
		m, err := s.Recv()
		if err != nil {
			return nil //nolint:nilerr // The client has gone.
		}
		if err := s.Send(respond(m.GetRequest(), authzv1.Decision_DECISION_ALLOW)); err != nil {
			return err
		}
	}
}

func newStream(t *testing.T, c *client.Client) *client.Stream {
	t.Helper()
	s := c.NewStream()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close stream: %v", err)
		}
	})
	return s
}

// Answers in the reverse order must still reach their own callers.
func TestStreamMatchesAnswersToCallers(t *testing.T) {
	t.Parallel()
	const n = 50
	f := &fakeServer{stream: func(s serverStream) error {
		var held []*authzv1.AuthorizeRequest
		for range n {
			m, err := s.Recv()
			if err != nil {
				return err
			}
			held = append(held, m.GetRequest())
		}
		for _, req := range slices.Backward(held) {
			d := authzv1.Decision_DECISION_DENY
			if req.GetAgent() == "even" {
				d = authzv1.Decision_DECISION_ALLOW
			}
			if err := s.Send(respond(req, d)); err != nil {
				return err
			}
		}
		return echo(s)
	}}
	s := newStream(t, dial(t, start(t, f), client.WithTimeout(time.Minute)))
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			agent := "odd"
			if i%2 == 0 {
				agent = "even"
			}
			req := &authzv1.AuthorizeRequest{Agent: agent, Action: "read", Resource: fmt.Sprintf("r/%d", i)}
			d, err := s.Authorize(context.Background(), req)
			if err != nil || d.ID() != req.GetResource() || d.Allowed() != (agent == "even") {
				t.Errorf("call %d: got %v of %q, %v", i, d, d.ID(), err)
			}
			if req.GetRequestId() != "" {
				t.Errorf("the caller's request was changed: %v", req)
			}
		})
	}
	wg.Wait()
	if got := f.calls.Load(); got != 1 {
		t.Errorf("%d streams were opened, want 1", got)
	}
}

func TestStreamKeepsTheCallersID(t *testing.T) {
	t.Parallel()
	s := newStream(t, dial(t, start(t, &fakeServer{stream: echo})))
	req := readRequest()
	req.RequestId = "mine"
	d, err := s.Authorize(t.Context(), req)
	if err != nil || d.Response().GetRequestId() != "mine" {
		t.Errorf("got %v, %v", d.Response(), err)
	}
}

// The late answer to a call that was given up on must not be taken for the
// answer to a later call of the same id.
func TestStreamLateAnswerIsNobodyElses(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	f := &fakeServer{stream: func(s serverStream) error {
		m, err := s.Recv()
		if err != nil {
			return err
		}
		<-release
		if err := s.Send(respond(m.GetRequest(), authzv1.Decision_DECISION_ALLOW)); err != nil {
			return err
		}
		for {
			m, err := s.Recv()
			if err != nil {
				return nil //nolint:nilerr // The client has gone.
			}
			if err := s.Send(respond(m.GetRequest(), authzv1.Decision_DECISION_DENY)); err != nil {
				return err
			}
		}
	}}
	s := newStream(t, dial(t, start(t, f), client.WithTimeout(time.Minute)))
	slow := readRequest()
	slow.RequestId = "same"
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if d, err := s.Authorize(ctx, slow); status.Code(err) != codes.DeadlineExceeded || d.Allowed() {
		t.Fatalf("got %v, %v; want DEADLINE_EXCEEDED", d, err)
	}
	again := readRequest()
	again.RequestId = "same"
	if d, err := s.Authorize(t.Context(), again); status.Code(err) != codes.AlreadyExists || d.Allowed() {
		t.Fatalf("while the answer is overdue: %v, %v; want ALREADY_EXISTS", d, err)
	}
	close(release)
	for { // Free again once the late answer has come.
		d, err := s.Authorize(t.Context(), again)
		if d.Allowed() {
			t.Fatal("the late ALLOW of another call was taken")
		}
		if err == nil {
			break
		}
		if status.Code(err) != codes.AlreadyExists {
			t.Fatal(err)
		}
	}
}

func TestStreamAnswersThatAreNone(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		give func(id string) *authzv1.AuthorizeStreamResponse
		code codes.Code
	}{
		{"a call error", func(id string) *authzv1.AuthorizeStreamResponse {
			return &authzv1.AuthorizeStreamResponse{RequestId: id, Result: &authzv1.AuthorizeStreamResponse_Error{
				Error: &authzv1.CallError{Code: uint32(codes.InvalidArgument), Message: "resource: empty"},
			}}
		}, codes.InvalidArgument},
		{"a call error that says OK", func(id string) *authzv1.AuthorizeStreamResponse {
			return &authzv1.AuthorizeStreamResponse{RequestId: id, Result: &authzv1.AuthorizeStreamResponse_Error{
				Error: &authzv1.CallError{},
			}}
		}, codes.Unknown},
		{"nothing", func(id string) *authzv1.AuthorizeStreamResponse {
			return &authzv1.AuthorizeStreamResponse{RequestId: id}
		}, codes.Internal},
		{"no decision", func(id string) *authzv1.AuthorizeStreamResponse {
			return respond(&authzv1.AuthorizeRequest{RequestId: id}, authzv1.Decision_DECISION_UNSPECIFIED)
		}, codes.Internal},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := &fakeServer{stream: func(s serverStream) error {
				for {
					m, err := s.Recv()
					if err != nil {
						return nil //nolint:nilerr // The client has gone.
					}
					if m.GetRequest().GetAgent() == "good" {
						err = s.Send(respond(m.GetRequest(), authzv1.Decision_DECISION_ALLOW))
					} else {
						err = s.Send(tt.give(m.GetRequest().GetRequestId()))
					}
					if err != nil {
						return err
					}
				}
			}}
			s := newStream(t, dial(t, start(t, f)))
			if d, err := s.Authorize(t.Context(), readRequest()); status.Code(err) != tt.code || d.Allowed() {
				t.Errorf("got %v, %v; want code %v", d, err, tt.code)
			}
			good := readRequest()
			good.Agent = "good"
			if d, err := s.Authorize(t.Context(), good); err != nil || !d.Allowed() {
				t.Errorf("the next call: %v, %v", d, err)
			}
			if n := f.calls.Load(); n != 1 {
				t.Errorf("%d streams were opened", n)
			}
		})
	}
}

// The calls under way when a stream breaks fail and are not sent again; the
// next call opens a stream anew.
func TestStreamBreaks(t *testing.T) {
	t.Parallel()
	for _, end := range []struct {
		name string
		err  error
	}{{"with an error", status.Error(codes.Aborted, "gone")}, {"orderly", nil}} {
		t.Run(end.name, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			seen := map[string]int{}
			f := &fakeServer{}
			f.stream = func(s serverStream) error {
				for {
					m, err := s.Recv()
					if err != nil {
						return nil //nolint:nilerr // The client has gone.
					}
					mu.Lock()
					seen[m.GetRequest().GetResource()]++
					mu.Unlock()
					if m.GetRequest().GetAgent() == "breaker" {
						return end.err
					}
					if err := s.Send(respond(m.GetRequest(), authzv1.Decision_DECISION_ALLOW)); err != nil {
						return err
					}
				}
			}
			s := newStream(t, dial(t, start(t, f), client.WithTimeout(time.Minute)))
			breaker := &authzv1.AuthorizeRequest{Agent: "breaker", Action: "read", Resource: "r/breaker"}
			for range 3 {
				if d, err := s.Authorize(t.Context(), breaker); status.Code(err) != codes.Unavailable || d.Allowed() {
					t.Fatalf("got %v, %v; want UNAVAILABLE", d, err)
				}
				if d, err := s.Authorize(t.Context(), readRequest()); err != nil || !d.Allowed() {
					t.Fatalf("after the break: %v, %v", d, err)
				}
			}
			if seen["r/breaker"] != 3 {
				t.Errorf("3 calls reached the server %d times", seen["r/breaker"])
			}
		})
	}
}

func TestStreamServerDownAndBack(t *testing.T) {
	t.Parallel()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := serve(t, lis, &fakeServer{stream: echo})
	c := dial(t, lis.Addr().String(), client.WithTimeout(30*time.Second))
	s := newStream(t, c)
	if _, err := s.Authorize(t.Context(), readRequest()); err != nil {
		t.Fatal(err)
	}
	srv.Stop()
	for range 3 {
		if d, err := s.Authorize(t.Context(), readRequest()); status.Code(err) != codes.Unavailable || d.Allowed() {
			t.Fatalf("server down: %v, %v; want UNAVAILABLE", d, err)
		}
	}
	again, err := net.Listen("tcp", lis.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	serve(t, again, &fakeServer{stream: echo})
	for { // Until gRPC's backoff lets it connect.
		d, err := s.Authorize(t.Context(), readRequest())
		if err == nil && d.Allowed() {
			return
		}
		if status.Code(err) != codes.Unavailable {
			t.Fatal(err)
		}
		select {
		case <-t.Context().Done():
			t.Fatal("the stream did not come back")
		default:
		}
	}
}

func TestStreamClose(t *testing.T) {
	t.Parallel()
	got := make(chan struct{}, 1)
	f := &fakeServer{stream: func(s serverStream) error {
		if _, err := s.Recv(); err != nil {
			return err
		}
		got <- struct{}{}
		_, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	}}
	c := dial(t, start(t, f), client.WithTimeout(time.Minute),
		client.WithFailOpen(func(context.Context, *authzv1.AuthorizeRequest, error) { t.Error("failed open at Close") }))
	s := c.NewStream()
	done := make(chan error, 1)
	go func() {
		d, err := s.Authorize(context.Background(), readRequest())
		if d.Allowed() {
			t.Error("allowed by Close")
		}
		done <- err
	}()
	<-got
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; status.Code(err) != codes.Canceled {
		t.Errorf("the call under way: %v, want CANCELLED", err)
	}
	if _, err := s.Authorize(t.Context(), readRequest()); status.Code(err) != codes.Canceled {
		t.Errorf("after Close: %v, want CANCELLED", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func TestStreamNeverOpened(t *testing.T) {
	t.Parallel()
	if err := dial(t, freeAddr(t)).NewStream().Close(); err != nil {
		t.Error(err)
	}
}

func TestStreamFailsOpenOnlyWhereTheClientDoes(t *testing.T) {
	t.Parallel()
	c := dial(t, freeAddr(t), client.WithFailOpen(func(context.Context, *authzv1.AuthorizeRequest, error) {}))
	d, err := newStream(t, c).Authorize(t.Context(), readRequest())
	if err != nil || !d.FailedOpen() {
		t.Errorf("got %v, %v", d, err)
	}
}

// Many callers, breaks in between: run with -race.
func TestStreamUnderLoad(t *testing.T) {
	t.Parallel()
	f := &fakeServer{stream: func(s serverStream) error {
		for i := range 40 {
			m, err := s.Recv()
			if err != nil {
				return nil //nolint:nilerr // The client has gone.
			}
			if i == 39 {
				break
			}
			if err := s.Send(respond(m.GetRequest(), authzv1.Decision_DECISION_ALLOW)); err != nil {
				return err
			}
		}
		return status.Error(codes.Unavailable, "enough")
	}}
	s := newStream(t, dial(t, start(t, f), client.WithTimeout(time.Minute)))
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			for i := range 50 {
				req := readRequest()
				req.Resource = fmt.Sprintf("r/%d/%d", w, i)
				d, err := s.Authorize(context.Background(), req)
				switch {
				case err == nil && d.ID() != req.GetResource():
					t.Errorf("got the answer to %q for %q", d.ID(), req.GetResource())
				case err != nil && (status.Code(err) != codes.Unavailable || d.Allowed()):
					t.Errorf("got %v, %v", d, err)
				}
			}
		})
	}
	wg.Wait()
}
