// Package grpcapi is the gRPC door: it translates kelpie.authz.v1 into pdp's
// use-cases and back. It never decides.
//
// A field that this build does not enforce is answered UNIMPLEMENTED, also one
// that a newer client sent and this build does not know: a call is not judged
// without what it says.
//
//	api, err := grpcapi.New(grpcapi.Config{Decider: service, Standing: standing})
//	...
//	authzv1.RegisterAuthorizationServiceServer(srv, api)
package grpcapi

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
	"github.com/kelpie-authz/kelpie/pdp"
)

// MaxBatch is how many requests one batch may hold, and MaxBatchBytes how
// large it may be on the wire.
const (
	MaxBatch      = 1000
	MaxBatchBytes = 4 << 20
)

// Counted are the methods whose calls compete for the server's capacity.
func Counted() []string {
	return []string{
		authzv1.AuthorizationService_Authorize_FullMethodName,
		authzv1.AuthorizationService_BatchAuthorize_FullMethodName,
		authzv1.AuthorizationService_Explain_FullMethodName,
		authzv1.AuthorizationService_Settle_FullMethodName,
		authzv1.AuthorizationService_Release_FullMethodName,
	}
}

// Decider is what the door asks; *pdp.Service is one.
type Decider interface {
	Authorize(ctx context.Context, req *pdp.Request, dec *pdp.Decision) error
	Batch(ctx context.Context, reqs []pdp.Request, semantic pdp.Semantic, decs []pdp.Decision) ([]pdp.Decision, error)
	Explain(ctx context.Context, req *pdp.Request, ex *pdp.Explanation) error
	Settle(ctx context.Context, gateway, decisionID string, actual float64) (pdp.Settlement, error)
	Release(ctx context.Context, gateway, decisionID string) (pdp.Settlement, error)
}

// Holder decides calls that may wait for their approval; *pdp.Holder is one.
type Holder interface {
	Authorize(ctx context.Context, req *pdp.Request, wait time.Duration, dec *pdp.Decision) error
}

// Config is what an API is made of.
type Config struct {
	// Decider is needed.
	Decider Decider
	// Holder decides the calls that say wait. Nil: wait is not enforced.
	Holder Holder
	// Standing establishes the gateway that calls and whether it may ask at
	// all; the error is a gRPC status. It is asked for every call, and for
	// every message of a stream. Needed.
	Standing func(ctx context.Context) (gateway string, err error)
	// Draining, when closed, ends streams. Nil: they end when the client does.
	Draining <-chan struct{}
	// Invalid is told of every request that was refused as malformed, for
	// counting. Nil: not told.
	Invalid func()
}

// API implements authzv1.AuthorizationServiceServer. It is safe for concurrent use.
type API struct {
	authzv1.UnimplementedAuthorizationServiceServer

	cfg     Config
	single  sync.Pool
	batches sync.Pool
}

// single is what one call needs and gives back.
type single struct {
	req pdp.Request
	dec pdp.Decision
}

// New makes an API, or says which part of the configuration is missing.
func New(cfg Config) (*API, error) {
	switch {
	case cfg.Decider == nil:
		return nil, errors.New("grpcapi: Config.Decider is missing; set what decides")
	case cfg.Standing == nil:
		return nil, errors.New("grpcapi: Config.Standing is missing; no caller may go unestablished")
	}
	if cfg.Invalid == nil {
		cfg.Invalid = func() {}
	}
	a := &API{cfg: cfg}
	a.single.New = func() any { return new(single) }
	a.batches.New = func() any { return new(batch) }
	return a, nil
}

// Authorize decides one call.
func (a *API) Authorize(ctx context.Context, in *authzv1.AuthorizeRequest) (*authzv1.AuthorizeResponse, error) {
	gateway, err := a.cfg.Standing(ctx)
	if err != nil {
		return nil, err
	}
	s, _ := a.single.Get().(*single)
	defer a.giveBack(s)
	out := newAnswer()
	if in.GetWait() != nil {
		err = a.hold(ctx, gateway, in, s, out)
	} else {
		err = a.decide(ctx, gateway, in, s, out)
	}
	if err != nil {
		return nil, err
	}
	return &out.response, nil
}

// hold judges one call that may wait for its approval. Whether its gateway may
// ask is looked at again when it has waited.
func (a *API) hold(ctx context.Context, gateway string, in *authzv1.AuthorizeRequest, s *single, out *answer) error {
	if a.cfg.Holder == nil {
		return a.refuse(unenforced("wait"))
	}
	if err := in.GetWait().CheckValid(); err != nil {
		return a.refuse(malformed("wait", "is malformed: it is no duration; write at most 30s"))
	}
	if fault := translateHeld(in, gateway, &s.req); fault != nil {
		return a.refuse(fault)
	}
	if err := a.cfg.Holder.Authorize(ctx, &s.req, in.GetWait().AsDuration(), &s.dec); err != nil {
		return a.mapError(err, "")
	}
	now, err := a.cfg.Standing(ctx)
	if err != nil {
		return err
	}
	if now != gateway {
		return status.Error(codes.PermissionDenied, "the gateway is another one now than when it asked")
	}
	out.fill(&s.dec)
	return nil
}

// decide judges one call, of Authorize or of a stream, into out.
func (a *API) decide(ctx context.Context, gateway string, in *authzv1.AuthorizeRequest, s *single, out *answer) error {
	if fault := translate(in, gateway, &s.req); fault != nil {
		return a.refuse(fault)
	}
	if err := a.cfg.Decider.Authorize(ctx, &s.req, &s.dec); err != nil {
		return a.mapError(err, "")
	}
	out.fill(&s.dec)
	return nil
}

// giveBack keeps the buffers and nothing of the caller's.
func (a *API) giveBack(s *single) {
	s.req = pdp.Request{}
	a.single.Put(s)
}

// Explain judges every check of a call.
func (a *API) Explain(ctx context.Context, in *authzv1.ExplainRequest) (*authzv1.ExplainResponse, error) {
	gateway, err := a.cfg.Standing(ctx)
	if err != nil {
		return nil, err
	}
	if fault := unknownField(in, ""); fault != nil {
		return nil, a.refuse(fault)
	}
	if in.GetRequest() == nil {
		return nil, a.refuse(malformed("request", "is missing; write the call to explain"))
	}
	var req pdp.Request
	if fault := translate(in.GetRequest(), gateway, &req); fault != nil {
		return nil, a.refuse(fault.under("request."))
	}
	var ex pdp.Explanation
	if err := a.cfg.Decider.Explain(ctx, &req, &ex); err != nil {
		return nil, a.mapError(err, "request.")
	}
	out := newAnswer()
	out.fill(&ex.Decision)
	resp := &authzv1.ExplainResponse{Response: &out.response, Risk: ex.Risk}
	for i := range ex.Checks {
		c := &ex.Checks[i]
		resp.Checks = append(resp.Checks, &authzv1.Check{
			Name: c.Name, Outcome: outcomeOf(c.Outcome), Reason: reasonOf(c.Reason), Rules: c.Rules, Detail: c.Detail,
		})
	}
	return resp, nil
}

// fault is a request that is not judged.
type fault struct {
	code  codes.Code
	field string
	why   string
}

func malformed(field, why string) *fault { return &fault{codes.InvalidArgument, field, why} }

func unenforced(field string) *fault {
	return &fault{codes.Unimplemented, field, "is not enforced by this build; leave it out"}
}

func (f *fault) under(prefix string) *fault {
	return &fault{code: f.code, field: prefix + f.field, why: f.why}
}

// refuse words a fault as a gRPC status that names the field.
func (a *API) refuse(f *fault) error {
	st := status.New(f.code, f.field+" "+f.why)
	if f.code != codes.InvalidArgument {
		return st.Err()
	}
	a.cfg.Invalid()
	detailed, err := st.WithDetails(&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{
		{Field: f.field, Description: f.why},
	}})
	if err != nil {
		return st.Err()
	}
	return detailed.Err()
}

// mapError words what pdp says when it made no decision.
func (a *API) mapError(err error, prefix string) error {
	var invalid *pdp.InvalidError
	switch {
	case errors.As(err, &invalid):
		return a.refuse(malformed(prefix+invalid.Field, "is malformed: "+invalid.Why))
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	case errors.Is(err, pdp.ErrNoPolicy):
		return status.Error(codes.Unavailable, "no decision was made: no policy is loaded yet")
	default:
		return status.Error(codes.Unavailable, "no decision was made: something that it needs cannot be asked; try again")
	}
}

// item names a request of a batch.
func item(i int) string { return fmt.Sprintf("requests[%d].", i) }
