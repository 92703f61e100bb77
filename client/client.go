package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/credentials/local"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
)

// Authorizer asks for one decision. [Client] and [Stream] are the two ways; the
// interceptors and the middleware take either.
//
// A nil error with a Decision that is not allowed is a decision. An error means
// that none was made, and the call must not go through.
type Authorizer interface {
	Authorize(ctx context.Context, req *authzv1.AuthorizeRequest) (Decision, error)
}

// Client asks one server, over one connection that it keeps and re-establishes.
// Make it with [New]; share it between goroutines.
type Client struct {
	conn *grpc.ClientConn
	rpc  authzv1.AuthorizationServiceClient
	options
}

var _ Authorizer = (*Client)(nil)

// New prepares a client of the server at target: host:port, unix:///path, or
// any gRPC target. It does not connect yet, so a server that is down is seen by
// the first call and not here.
//
// To this machine (a loopback address, localhost, a unix socket) it speaks
// plaintext, and refuses at the handshake if the peer turns out to be elsewhere.
// To any other address it speaks TLS against the system's roots. [WithTLS] and
// [WithInsecure] change that. HTTP proxies of the environment are not used.
func New(target string, opts ...Option) (*Client, error) {
	o, err := optionsOf(target, opts)
	if err != nil {
		return nil, err
	}
	conn, err := o.connect(target)
	if err != nil {
		return nil, err
	}
	return &Client{conn: conn, rpc: authzv1.NewAuthorizationServiceClient(conn), options: *o}, nil
}

// Connect prepares a connection as [New] does, for the other services of a
// server: those of its admin listener. The options about decisions have no
// effect on it. The caller closes it.
func Connect(target string, opts ...Option) (*grpc.ClientConn, error) {
	o, err := optionsOf(target, opts)
	if err != nil {
		return nil, err
	}
	return o.connect(target)
}

func optionsOf(target string, opts []Option) (*options, error) {
	o := &options{timeout: DefaultTimeout, obligations: map[string]bool{}}
	for _, opt := range opts {
		if err := opt(o); err != nil {
			return nil, fmt.Errorf("client of %s: %w", target, err)
		}
	}
	return o, nil
}

func (o *options) connect(target string) (*grpc.ClientConn, error) {
	if target == "" {
		return nil, errors.New("client: no server address; give host:port or unix:///path")
	}
	if o.insecure && o.tls != nil {
		return nil, fmt.Errorf("client of %s: both TLS and plaintext were asked for; choose one", target)
	}
	dial := append([]grpc.DialOption{
		grpc.WithTransportCredentials(o.transport(target)),
		// A retry policy from DNS would resend calls that may have been charged.
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
		grpc.WithNoProxy(),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(maxAnswerBytes),
			grpc.WaitForReady(o.waitForReady),
		),
	}, o.dial...)
	conn, err := grpc.NewClient(target, dial...)
	if err != nil {
		return nil, fmt.Errorf("client of %s: %w", target, err)
	}
	return conn, nil
}

func (o *options) transport(target string) credentials.TransportCredentials {
	switch {
	case o.insecure:
		return insecure.NewCredentials()
	case o.tls != nil:
		return credentials.NewTLS(o.tls)
	case IsLocal(target):
		return local.NewCredentials()
	default:
		return credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12})
	}
}

// IsLocal reports whether target names this machine: a loopback address,
// localhost, or a unix socket. [New] speaks plaintext to no other.
func IsLocal(target string) bool {
	for _, scheme := range []string{"unix:", "unix-abstract:"} {
		if strings.HasPrefix(target, scheme) {
			return true
		}
	}
	for _, scheme := range []string{"dns:///", "passthrough:///", "dns:"} {
		target = strings.TrimPrefix(target, scheme)
	}
	host := target
	if i := strings.LastIndexByte(target, ':'); i >= 0 {
		host = target[:i]
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && addr.IsLoopback()
}

// Close ends the connection. Calls under way get an error.
func (c *Client) Close() error {
	if err := c.conn.Close(); err != nil {
		return fmt.Errorf("close client: %w", err)
	}
	return nil
}

// Authorize asks for one decision. The error, if any, carries a gRPC status
// (status.Code works on it) and means that no decision was made.
func (c *Client) Authorize(ctx context.Context, req *authzv1.AuthorizeRequest) (Decision, error) {
	callCtx, cancel := c.withDeadline(ctx, req)
	defer cancel()
	resp, err := c.rpc.Authorize(callCtx, req)
	return c.conclude(ctx, req, resp, err)
}

// BatchAuthorize asks for up to 1,000 decisions in order. The result is as long
// as the server judged: under a short-circuit semantic it may end early, and a
// request without a Decision is not allowed. [WithFailOpen] has no effect on it.
func (c *Client) BatchAuthorize(ctx context.Context, req *authzv1.BatchAuthorizeRequest) ([]Decision, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	resp, err := c.rpc.BatchAuthorize(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("batch authorize: %w", err)
	}
	if got, asked := len(resp.GetResponses()), len(req.GetRequests()); got > asked {
		return nil, fmt.Errorf("batch authorize: %w",
			status.Errorf(codes.Internal, "the server gave %d answers to %d requests; none can be trusted", got, asked))
	}
	decisions := make([]Decision, len(resp.GetResponses()))
	for i, r := range resp.GetResponses() {
		decisions[i] = newDecision(r, c.obligations)
	}
	return decisions, nil
}

// Explain asks for every check behind a decision. It spends nothing.
func (c *Client) Explain(ctx context.Context, req *authzv1.AuthorizeRequest) (*authzv1.ExplainResponse, error) {
	ctx, cancel := c.withDeadline(ctx, req)
	defer cancel()
	resp, err := c.rpc.Explain(ctx, &authzv1.ExplainRequest{Request: req})
	if err != nil {
		return nil, fmt.Errorf("explain: %w", err)
	}
	return resp, nil
}

// Settle says what an allowed call cost in the end, so that the limits that
// count cost get back what was estimated too high and are charged what was
// estimated too low. It may be sent again: a decision is settled once.
//
// NOT_FOUND means that there is nothing to settle: the policy's limits for this
// call count no cost, or it is too long ago. FAILED_PRECONDITION means that it
// was settled to another cost. Give it a context that outlives the call.
func (c *Client) Settle(ctx context.Context, decisionID string, actual float64) (*authzv1.SettleResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	resp, err := c.rpc.Settle(ctx, &authzv1.SettleRequest{DecisionId: decisionID, Actual: &actual})
	if err != nil {
		return nil, fmt.Errorf("settle: %w", err)
	}
	return resp, nil
}

// Release says that an allowed call is over, so that its slots of concurrency
// limits return before their hold ends. It may be sent again.
//
// NOT_FOUND means that the call holds no slot (any more). Give it a context that
// outlives the call.
func (c *Client) Release(ctx context.Context, decisionID string) (*authzv1.ReleaseResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	resp, err := c.rpc.Release(ctx, &authzv1.ReleaseRequest{DecisionId: decisionID})
	if err != nil {
		return nil, fmt.Errorf("release: %w", err)
	}
	return resp, nil
}

func (c *Client) withDeadline(ctx context.Context, req *authzv1.AuthorizeRequest) (context.Context, context.CancelFunc) {
	timeout := c.timeout
	if wait := req.GetWait(); wait != nil {
		timeout += max(0, wait.AsDuration())
	}
	return context.WithTimeout(ctx, timeout)
}

// conclude turns what came into what the caller is told. ctx is the caller's
// own: if that ended, the caller gave up, and nothing fails open.
func (c *Client) conclude(
	ctx context.Context, req *authzv1.AuthorizeRequest, resp *authzv1.AuthorizeResponse, err error,
) (Decision, error) {
	if err == nil && resp.GetDecision() == authzv1.Decision_DECISION_UNSPECIFIED && !req.GetDryRun() {
		err = status.Error(codes.Internal, "the server answered without a decision; treat it as DENY and look at its version")
		return c.failOpenOr(ctx, req, newDecision(resp, c.obligations), err, true)
	}
	if err == nil {
		return newDecision(resp, c.obligations), nil
	}
	code := status.Code(err)
	outage := (code == codes.Unavailable || code == codes.DeadlineExceeded) && !gaveUp(ctx, code)
	return c.failOpenOr(ctx, req, Decision{}, err, outage)
}

// graceForClocks is how long before the caller's deadline the server may
// already answer that it has passed.
const graceForClocks = 100 * time.Millisecond

// gaveUp tells whether the caller did not wait for the answer. The server
// knows the caller's deadline too, and its word that it has passed can be here
// before this machine's timer: that is no outage either.
func gaveUp(ctx context.Context, code codes.Code) bool {
	if ctx.Err() != nil {
		return true
	}
	deadline, ok := ctx.Deadline()
	return ok && code == codes.DeadlineExceeded && time.Until(deadline) < graceForClocks
}

func (c *Client) failOpenOr(
	ctx context.Context, req *authzv1.AuthorizeRequest, d Decision, err error, outage bool,
) (Decision, error) {
	err = fmt.Errorf("authorize: %w", err)
	if c.failOpen == nil || !outage || req.GetDryRun() {
		return d, err
	}
	c.failOpen(ctx, req, err)
	d.failedOpen = true
	return d, nil
}
