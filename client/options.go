package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
)

// DefaultTimeout is how long one call may take at most. A decision takes well
// under a millisecond; a second leaves room for a reconnect and for a pause of
// the machine, and keeps the gateway's own callers from piling up.
const DefaultTimeout = time.Second

// keepaliveTime and keepaliveTimeout bound how long a dead connection is used:
// while calls are under way, and only then, the server is pinged after this
// much silence.
const (
	keepaliveTime    = 30 * time.Second
	keepaliveTimeout = 5 * time.Second
)

// maxAnswerBytes has room for the answers of a full batch.
const maxAnswerBytes = 16 << 20

// Option changes how a [Client] asks.
type Option func(*options) error

type options struct {
	timeout      time.Duration
	tls          *tls.Config
	insecure     bool
	waitForReady bool
	obligations  map[string]bool
	failOpen     func(context.Context, *authzv1.AuthorizeRequest, error)
	dial         []grpc.DialOption
}

// WithTimeout replaces [DefaultTimeout]. A sooner deadline of the call's
// context still counts. A request's wait is added to it.
func WithTimeout(d time.Duration) Option {
	return func(o *options) error {
		if d <= 0 {
			return fmt.Errorf("timeout %v is not positive; a call without a deadline can hang its caller", d)
		}
		o.timeout = d
		return nil
	}
}

// WithTLS speaks TLS with this configuration, to this machine too. Put a client
// certificate into it where the server asks for one.
func WithTLS(config *tls.Config) Option {
	return func(o *options) error {
		if config == nil {
			return errors.New("TLS configuration is nil; use &tls.Config{} for the system's roots")
		}
		o.tls = config
		return nil
	}
}

// WithInsecure speaks plaintext to any address. Whoever can touch the network
// in between can then read every request and forge every ALLOW: for tests, and
// for networks that are encrypted below.
func WithInsecure() Option {
	return func(o *options) error {
		o.insecure = true
		return nil
	}
}

// WithWaitForReady makes calls wait for the server, up to their deadline, while
// it cannot be reached. Without it they fail at once. Such a call has not been
// sent, so waiting never charges twice.
func WithWaitForReady() Option {
	return func(o *options) error {
		o.waitForReady = true
		return nil
	}
}

// WithObligations names the types of obligations that the caller meets after an
// ALLOW. An ALLOW with any other obligation is not allowed.
func WithObligations(types ...string) Option {
	return func(o *options) error {
		for _, t := range types {
			o.obligations[t] = true
		}
		return nil
	}
}

// WithFailOpen lets calls through UNCHECKED when no decision came: the server
// cannot be reached (UNAVAILABLE), does not answer in time (DEADLINE_EXCEEDED)
// or answers without a decision (DECISION_UNSPECIFIED outside a dry run).
//
// THIS TURNS THE GUARD OFF WHENEVER KELPIE IS DOWN. An agent that can make the
// server slow or unreachable can then do what it likes, a suspended or revoked
// agent included. Use it only where a stopped agent does more harm than an
// unchecked one, and alert on every call of report.
//
// A DENY and a REQUIRE_APPROVAL stay what they are, and so do the errors that
// the content of a request can provoke (too large, malformed, not permitted) and
// a context that the caller cancelled or let expire.
//
// Report is told each time, before the call goes through; it must be safe for
// concurrent use. It is required, because nobody may fail open unseen.
func WithFailOpen(report func(ctx context.Context, req *authzv1.AuthorizeRequest, err error)) Option {
	return func(o *options) error {
		if report == nil {
			return errors.New("failing open needs a report function, so that it is seen")
		}
		o.failOpen = report
		return nil
	}
}

// WithDialOptions adds gRPC dial options: a dialer, interceptors, statistics.
// They come after this package's own. One that resends calls breaks the promise
// that a decision is charged once.
func WithDialOptions(opts ...grpc.DialOption) Option {
	return func(o *options) error {
		o.dial = append(o.dial, opts...)
		return nil
	}
}
