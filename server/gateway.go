package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"
)

// Names of gateways that showed no certificate, by where they call from.
const (
	GatewayUnix     = "unix"
	GatewayLoopback = "loopback"
	GatewayRemote   = "remote"
)

// Credentials returns the transport credentials of a listener: TLS with cfg,
// plaintext if cfg is nil. They establish the name of the gateway once per
// connection, for [Gateway].
func Credentials(cfg *tls.Config) credentials.TransportCredentials {
	inner := insecure.NewCredentials()
	if cfg != nil {
		inner = credentials.NewTLS(cfg)
	}
	return gatewayCredentials{TransportCredentials: inner}
}

// Gateway names who calls, for records: `mtls:` and the SPIFFE id or subject
// of a verified client certificate, else unix, loopback or remote. It says
// nothing of what the caller may do.
func Gateway(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(gatewayInfo); ok {
			return info.name
		}
	}
	return GatewayRemote
}

type gatewayCredentials struct {
	credentials.TransportCredentials
}

type gatewayInfo struct {
	credentials.AuthInfo
	name string
}

// GetCommonAuthInfo keeps the security level visible to grpc.
func (g gatewayInfo) GetCommonAuthInfo() credentials.CommonAuthInfo {
	if c, ok := g.AuthInfo.(interface {
		GetCommonAuthInfo() credentials.CommonAuthInfo
	}); ok {
		return c.GetCommonAuthInfo()
	}
	return credentials.CommonAuthInfo{}
}

// ServerHandshake implements credentials.TransportCredentials.
func (g gatewayCredentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := g.TransportCredentials.ServerHandshake(raw)
	if err != nil || info == nil {
		return conn, info, err //nolint:wrapcheck // grpc compares this error with ErrConnDispatched.
	}
	return conn, gatewayInfo{AuthInfo: info, name: gatewayName(raw.RemoteAddr(), info)}, nil
}

// Clone implements credentials.TransportCredentials.
func (g gatewayCredentials) Clone() credentials.TransportCredentials {
	return gatewayCredentials{TransportCredentials: g.TransportCredentials.Clone()}
}

func gatewayName(addr net.Addr, info credentials.AuthInfo) string {
	if t, ok := info.(credentials.TLSInfo); ok && len(t.State.VerifiedChains) > 0 {
		return "mtls:" + certificateName(t.State.VerifiedChains[0][0])
	}
	switch a := addr.(type) {
	case *net.UnixAddr:
		return GatewayUnix
	case *net.TCPAddr:
		if a.IP.IsLoopback() {
			return GatewayLoopback
		}
	}
	return GatewayRemote
}

func certificateName(cert *x509.Certificate) string {
	for _, uri := range cert.URIs {
		if uri.Scheme == "spiffe" {
			return uri.String()
		}
	}
	if name := cert.Subject.String(); name != "" {
		return name
	}
	if len(cert.DNSNames) > 0 {
		return cert.DNSNames[0]
	}
	return fmt.Sprintf("serial %x", cert.SerialNumber)
}
