// Package servertest is the parity suite of the doors: the same call gets the
// same decision, reason and matched rules through each of them. A door that is
// added implements [Door] and joins the list that its test passes to [Run].
//
// It is not for what the right decision is, save where a case says so, and is
// never imported outside tests.
//
//	ran := servertest.Run(t, cases, func(t *testing.T) []servertest.Door {
//		return servertest.GRPCDoors(startServer(t)) // A server of its own for each call of it.
//	})
package servertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
)

// Case is one call.
type Case struct {
	Name string
	// Request is asked Repeat times (at least once); the last answer counts.
	Request *authzv1.AuthorizeRequest
	Repeat  int
	// Want is what must come; nil: only parity is looked at.
	Want *Want
}

// Want is what an answer must hold.
type Want struct {
	Decision authzv1.Decision
	// Reason, if not UNSPECIFIED.
	Reason authzv1.Reason
	// Matched are rules that must be among the answer's.
	Matched []string
	// RequiredScopes, in any order, if not nil.
	RequiredScopes []string
}

// Answer is what every door can say of a decision.
type Answer struct {
	Decision       authzv1.Decision
	Reason         authzv1.Reason
	Matched        []string
	RequiredScopes []string
}

// Door is one way to ask a server.
type Door interface {
	Name() string
	// Ask asks n times and returns the last answer. An error means that no
	// decision was made.
	Ask(ctx context.Context, req *authzv1.AuthorizeRequest, n int) (Answer, error)
}

// Run asks every case through every door and returns how many askings that
// were. start is called for each asking and returns the doors of a fresh
// server, always the same ones, so that no asking sees what another has spent.
func Run(t *testing.T, cases []Case, start func(t *testing.T) []Door) int {
	t.Helper()
	ran := 0
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			var first Answer
			for i, n := 0, 1; i < n; i++ {
				doors := start(t)
				n = len(doors)
				got, err := doors[i].Ask(t.Context(), c.Request, max(c.Repeat, 1))
				if err != nil {
					t.Errorf("%s: %v", doors[i].Name(), err)
					continue
				}
				ran++
				check(t, doors[i].Name(), c.Want, got)
				if i == 0 {
					first = got
				} else if diff := cmp.Diff(first, got); diff != "" {
					t.Errorf("%s answers other than %s (-%s +%s):\n%s",
						doors[i].Name(), doors[0].Name(), doors[0].Name(), doors[i].Name(), diff)
				}
			}
		})
	}
	return ran
}

func check(t *testing.T, door string, want *Want, got Answer) {
	t.Helper()
	if want == nil {
		return
	}
	if got.Decision != want.Decision {
		t.Errorf("%s: decision %v, want %v", door, got.Decision, want.Decision)
	}
	if want.Reason != authzv1.Reason_REASON_UNSPECIFIED && got.Reason != want.Reason {
		t.Errorf("%s: reason %v, want %v", door, got.Reason, want.Reason)
	}
	for _, rule := range want.Matched {
		if !slices.Contains(got.Matched, rule) {
			t.Errorf("%s: matched %v lacks %s", door, got.Matched, rule)
		}
	}
	if want.RequiredScopes != nil && !slices.Equal(slices.Sorted(slices.Values(got.RequiredScopes)), slices.Sorted(slices.Values(want.RequiredScopes))) {
		t.Errorf("%s: required_scopes %v, want %v", door, got.RequiredScopes, want.RequiredScopes)
	}
}

// GRPCDoors are the three doors of kelpie.authz.v1 over one connection:
// Authorize, BatchAuthorize and AuthorizeStream.
func GRPCDoors(conn grpc.ClientConnInterface) []Door {
	client := authzv1.NewAuthorizationServiceClient(conn)
	return []Door{unary{client}, batch{client}, stream{client}}
}

// errNoAnswer means that a door gave fewer answers than it was asked for.
var errNoAnswer = errors.New("an answer is missing")

func answerOf(r *authzv1.AuthorizeResponse) Answer {
	return Answer{
		Decision: r.GetDecision(), Reason: r.GetReason(),
		Matched: slices.Clone(r.GetMatched()), RequiredScopes: slices.Clone(r.GetRequiredScopes()),
	}
}

// numbered gives each asking a request_id of its own.
func numbered(req *authzv1.AuthorizeRequest, i int) *authzv1.AuthorizeRequest {
	out := proto.CloneOf(req)
	out.RequestId = strconv.Itoa(i)
	return out
}

type unary struct {
	client authzv1.AuthorizationServiceClient
}

// Name implements Door.
func (unary) Name() string { return "Authorize" }

// Ask implements Door.
func (d unary) Ask(ctx context.Context, req *authzv1.AuthorizeRequest, n int) (Answer, error) {
	var last Answer
	for i := range n {
		out, err := d.client.Authorize(ctx, numbered(req, i))
		if err != nil {
			return Answer{}, fmt.Errorf("authorize: %w", err)
		}
		last = answerOf(out)
	}
	return last, nil
}

type batch struct {
	client authzv1.AuthorizationServiceClient
}

// Name implements Door.
func (batch) Name() string { return "BatchAuthorize" }

// Ask implements Door.
func (d batch) Ask(ctx context.Context, req *authzv1.AuthorizeRequest, n int) (Answer, error) {
	in := &authzv1.BatchAuthorizeRequest{}
	for i := range n {
		in.Requests = append(in.Requests, numbered(req, i))
	}
	out, err := d.client.BatchAuthorize(ctx, in)
	if err != nil {
		return Answer{}, fmt.Errorf("authorize a batch: %w", err)
	}
	if len(out.GetResponses()) != n {
		return Answer{}, fmt.Errorf("authorize a batch: %d of %d: %w", len(out.GetResponses()), n, errNoAnswer)
	}
	return answerOf(out.GetResponses()[n-1]), nil
}

type stream struct {
	client authzv1.AuthorizationServiceClient
}

// Name implements Door.
func (stream) Name() string { return "AuthorizeStream" }

// Ask implements Door. It waits for each answer before it asks again, since
// answers may come out of order and the last asking is the one that counts.
func (d stream) Ask(ctx context.Context, req *authzv1.AuthorizeRequest, n int) (Answer, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := d.client.AuthorizeStream(ctx)
	if err != nil {
		return Answer{}, fmt.Errorf("open a stream: %w", err)
	}
	var last Answer
	for i := range n {
		if err := s.Send(&authzv1.AuthorizeStreamRequest{Request: numbered(req, i)}); err != nil {
			return Answer{}, fmt.Errorf("send on a stream: %w", err)
		}
		out, err := s.Recv()
		if err != nil {
			return Answer{}, fmt.Errorf("receive on a stream: %w", err)
		}
		if out.GetRequestId() != strconv.Itoa(i) || out.GetResponse() == nil {
			return Answer{}, fmt.Errorf("receive on a stream: %v: %w", out, errNoAnswer)
		}
		last = answerOf(out.GetResponse())
	}
	return last, nil
}
