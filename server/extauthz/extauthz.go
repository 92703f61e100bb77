// Package extauthz is the door for Envoy and whatever else speaks its external
// authorization: it translates envoy.service.auth.v3.Authorization/Check into
// pdp's use-case for HTTP requests and back. It never decides, and it does not
// know which request is which call: that is the policy's http section.
//
// Every answer is, on the wire, a CheckResponse with a status and one of its two
// bodies. A gRPC error, which opens gateways that fail open, is none: what no
// decision was made of is answered as denied too, see [Refuse]. (What grpc-go
// answers by itself is left: a message over its bound.)
//
//	door, err := extauthz.New(extauthz.Config{Decider: service, Standing: standing})
//	...
//	authv3.RegisterAuthorizationServer(srv, door)
package extauthz

import (
	"context"
	"errors"
	"sync"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/kelpie-authz/kelpie/pdp"
)

// Method is the full name of the one method, whose calls compete for the
// server's capacity.
const Method = authv3.Authorization_Check_FullMethodName

// Decider is what the door asks; *pdp.Service is one.
type Decider interface {
	AuthorizeHTTP(ctx context.Context, in *pdp.HTTPRequest, out *pdp.HTTPDecision) error
}

// Config is what an API is made of.
type Config struct {
	// Decider is needed.
	Decider Decider
	// Standing establishes the gateway that calls and whether it may ask at
	// all; the error is a gRPC status. Needed.
	Standing func(ctx context.Context) (gateway string, err error)
}

// API implements authv3.AuthorizationServer. It is safe for concurrent use.
type API struct {
	authv3.UnimplementedAuthorizationServer

	cfg   Config
	calls sync.Pool
}

// call is what one Check needs and gives back.
type call struct {
	in   request
	out  pdp.HTTPDecision
	wire encoder
}

// New makes an API, or says which part of the configuration is missing.
func New(cfg Config) (*API, error) {
	switch {
	case cfg.Decider == nil:
		return nil, errors.New("extauthz: Config.Decider is missing; set what decides")
	case cfg.Standing == nil:
		return nil, errors.New("extauthz: Config.Standing is missing; no caller may go unestablished")
	}
	a := &API{cfg: cfg}
	a.calls.New = func() any { return new(call) }
	return a, nil
}

// Check decides one HTTP request. It returns no error: see the package comment.
// The message that it returns for an ALLOW is made for the wire and shows
// nothing before it was written and read: see encoder.
func (a *API) Check(ctx context.Context, in *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	gateway, err := a.cfg.Standing(ctx)
	if err != nil {
		return refusal(err), nil // An error would open gateways that fail open.
	}
	c, _ := a.calls.Get().(*call)
	defer a.giveBack(c)
	c.in.fill(in, gateway)
	if err := a.cfg.Decider.AuthorizeHTTP(ctx, &c.in.request, &c.out); err != nil {
		return refusal(undecided(ctx, err)), nil
	}
	if c.out.Verdict == pdp.Allow {
		return c.wire.allowed(&c.out, c.in.request.Headers), nil
	}
	return denied(&c.out), nil
}

// giveBack keeps nothing of the caller's message. The buffers of the decision
// and of the answer stay as they are, to be overwritten.
func (a *API) giveBack(c *call) {
	c.in.release()
	a.calls.Put(c)
}

// undecided words what pdp says when it made no decision.
func undecided(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return status.FromContextError(ctx.Err()).Err()
	case errors.Is(err, pdp.ErrNoPolicy):
		return status.Error(codes.Unavailable, "no policy is loaded yet")
	default:
		return status.Error(codes.Unavailable, "something that the decision needs cannot be asked")
	}
}

// Refuse answers a Check that ended with a gRPC error, or that no handler saw:
// it is denied, in a form that Envoy takes for a decision.
func Refuse(err error) any { return refusal(err) }

// Undecodable tells whether a message that could not be decoded is answered by
// this door all the same. It is emptied then, and Check denies it as malformed.
func Undecodable(v any) bool {
	in, ours := v.(*authv3.CheckRequest)
	if ours {
		proto.Reset(in)
	}
	return ours
}
