package server

import (
	"context"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/kelpie-authz/kelpie/pdp"
)

// Callers knows who calls the admin listener: whoever has the admin token, and
// humans by a certificate or by a token of their identity provider. The admin
// token opens everything; humans open the services of Humans, and only if the
// policy knows them as approvers. No credential of an agent or a gateway is
// looked at. It is safe for concurrent use.
type Callers struct {
	// Token is the admin token. Needed.
	Token *AdminToken
	// Certificates says that the listener verifies the certificates of approvers,
	// and of nobody else.
	Certificates bool
	// Provider verifies a token of the identity provider. Its error is told to the
	// caller, and holds nothing of the token. Nil: there is none.
	Provider func(ctx context.Context, token string) (pdp.Person, error)
	// Humans are the full names of the services that humans may call.
	Humans []string
	// Approver tells whether the policy knows somebody as an approver. Needed where
	// humans are known.
	Approver func(p pdp.Person) bool
	// Refused is told of each call that is refused, and how its caller wanted to be
	// known: none, token, mtls or oidc. Nil: nobody is told.
	Refused func(how string, err error)
	// Now is the clock that certificates have to be good by. Nil: time.Now.
	Now func() time.Time
}

type callerKey struct{}

// Caller is who calls, as [Callers] found.
func Caller(ctx context.Context) (pdp.Person, bool) {
	p, ok := ctx.Value(callerKey{}).(pdp.Person)
	return p, ok
}

// Unary is an interceptor that lets known callers through.
func (c *Callers) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	ctx, err := c.admit(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	return next(ctx, req)
}

// Stream is an interceptor that lets known callers through.
func (c *Callers) Stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	ctx, err := c.admit(stream.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	return next(srv, callerStream{ServerStream: stream, ctx: ctx, still: func() error {
		_, err := c.admit(stream.Context(), info.FullMethod)
		return err
	}})
}

type callerStream struct {
	grpc.ServerStream
	ctx context.Context
	// still says why the caller may see no more: a stream can outlive a token, a
	// certificate, and a place among the approvers.
	still func() error
}

// SendMsg implements grpc.ServerStream.
func (s callerStream) SendMsg(m any) error {
	if err := s.still(); err != nil {
		return err
	}
	return s.ServerStream.SendMsg(m) //nolint:wrapcheck // It is grpc's own.
}

// Context implements grpc.ServerStream.
func (s callerStream) Context() context.Context { return s.ctx }

// admit finds who calls and whether he may call this method.
func (c *Callers) admit(ctx context.Context, method string) (context.Context, error) {
	p, how, err := c.identify(ctx)
	if err == nil && !p.Local() {
		err = c.permit(p, method)
	}
	if err != nil {
		if c.Refused != nil {
			c.Refused(how, err)
		}
		return nil, err
	}
	return context.WithValue(ctx, callerKey{}, p), nil
}

func (c *Callers) permit(p pdp.Person, method string) error {
	service, _, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	if !slices.Contains(c.Humans, service) {
		return status.Errorf(codes.PermissionDenied, "this takes the admin token: %s may decide approvals and nothing else here", p.Name)
	}
	if !c.Approver(p) {
		return status.Errorf(codes.PermissionDenied, "%s is in no approver group of the policy; have the name added, as it is written here", p.Name)
	}
	return nil
}

// identify finds who calls. A token, where there is one, says so alone.
func (c *Callers) identify(ctx context.Context) (p pdp.Person, how string, err error) {
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get("authorization")
	if len(values) == 0 && c.Certificates {
		if chain := clientChain(ctx); chain != nil {
			name, err := c.humanOf(chain)
			if err != nil {
				return p, pdp.KnownByMTLS, status.Error(codes.Unauthenticated, err.Error())
			}
			return pdp.Person{Name: name, How: pdp.KnownByMTLS}, pdp.KnownByMTLS, nil
		}
	}
	err = c.Token.Check(ctx)
	switch {
	case err == nil:
		return pdp.Person{How: pdp.LocalAdmin}, "token", nil
	case len(values) == 0:
		return p, "none", c.waysIn(err)
	case len(values) > 1 || c.Provider == nil:
		return p, "token", err
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if token = strings.TrimSpace(token); !strings.EqualFold(scheme, "bearer") || strings.Count(token, ".") != 2 {
		return p, "token", err
	}
	if p, err = c.Provider(ctx, token); err != nil {
		if _, is := status.FromError(err); !is {
			err = status.Error(codes.Unauthenticated, err.Error())
		}
		return pdp.Person{}, pdp.KnownByOIDC, err
	}
	return p, pdp.KnownByOIDC, nil
}

// waysIn says by what else somebody can be known.
func (c *Callers) waysIn(err error) error {
	if !c.Certificates && c.Provider == nil {
		return err
	}
	return status.Error(codes.Unauthenticated, "it is not known who you are: approvers show a certificate or a token of the identity provider, "+
		"as `authorization: Bearer TOKEN`; administrators show the token in the server's state directory, "+AdminTokenFile)
}

// clientChain is the certificate that the connection's TLS has verified, with those
// of who vouches for it; nil if there is none.
func clientChain(ctx context.Context) []*x509.Certificate {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	info, ok := p.AuthInfo.(gatewayInfo)
	if !ok {
		return nil
	}
	t, ok := info.AuthInfo.(credentials.TLSInfo)
	if !ok || len(t.State.VerifiedChains) == 0 {
		return nil
	}
	return t.State.VerifiedChains[0]
}

// humanOf is who a certificate names: its one email, else its one URI (RFC 5280,
// section 4.2.1.6). The common name is not looked at: nothing says what it is. TLS
// looked at its end when the connection was made, which can be long ago.
func (c *Callers) humanOf(chain []*x509.Certificate) (string, error) {
	now := time.Now
	if c.Now != nil {
		now = c.Now
	}
	if slices.ContainsFunc(chain, func(cert *x509.Certificate) bool { return now().After(cert.NotAfter) }) {
		return "", errors.New("the certificate has expired, or that of its authority; connect anew with one that is good")
	}
	switch emails, uris := chain[0].EmailAddresses, chain[0].URIs; {
	case len(emails) == 1:
		return emails[0], nil
	case len(emails) == 0 && len(uris) == 1:
		return uris[0].String(), nil
	case len(emails) == 0 && len(uris) == 0:
		return "", errors.New("the certificate names nobody: it needs one email or one URI as its subject alternative name")
	default:
		return "", errors.New("the certificate names several: it needs one email or one URI as its subject alternative name")
	}
}
