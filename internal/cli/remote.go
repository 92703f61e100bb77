package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kelpie-authz/kelpie/client"
	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
)

// serverFlags say which server to ask, and how to trust it.
type serverFlags struct {
	addr      string
	ca        string
	cert, key string
	insecure  bool
	timeout   time.Duration
}

func (f *serverFlags) register(set *pflag.FlagSet) {
	set.StringVar(&f.addr, "server", "", "ask the server at this `address`, host:port or unix:///path (KELPIE_SERVER)")
	set.StringVar(&f.ca, "tls-ca", "", "PEM `file` of the authorities that the server's certificate must be from (KELPIE_TLS_CA)")
	set.StringVar(&f.cert, "tls-cert", "", "PEM `file` of this client's certificate (KELPIE_TLS_CERT)")
	set.StringVar(&f.key, "tls-key", "", "PEM `file` of its private key (KELPIE_TLS_KEY)")
	set.BoolVar(&f.insecure, "insecure", false, "speak plaintext to a server off this machine")
	set.DurationVar(&f.timeout, "timeout", 5*time.Second, "how long the server may take to answer")
}

// remote asks a running server.
type remote struct {
	client *client.Client
	addr   string
}

func newRemote(env *Env, f *serverFlags, addr string) (*remote, error) {
	opts, err := f.options(env)
	if err != nil {
		return nil, err
	}
	c, err := client.New(addr, opts...)
	if err != nil {
		return nil, fmt.Errorf("--server %s: %w", addr, err)
	}
	return &remote{client: c, addr: addr}, nil
}

// options are those of a connection to the server.
func (f *serverFlags) options(env *Env) ([]client.Option, error) {
	opts := []client.Option{client.WithTimeout(f.timeout)}
	ca, cert, key := env.or(f.ca, "KELPIE_TLS_CA"), env.or(f.cert, "KELPIE_TLS_CERT"), env.or(f.key, "KELPIE_TLS_KEY")
	secure := ca != "" || cert != "" || key != ""
	switch {
	case f.insecure && secure:
		return nil, errors.New("--insecure and TLS files are both given; choose one")
	case f.insecure:
		opts = append(opts, client.WithInsecure())
	case secure:
		config, err := tlsConfig(ca, cert, key)
		if err != nil {
			return nil, err
		}
		opts = append(opts, client.WithTLS(config))
	}
	return opts, nil
}

// or returns the flag's value, or else the environment variable's.
func (e *Env) or(flag, name string) string {
	if flag != "" {
		return flag
	}
	value, _ := e.Lookup(name)
	return value
}

func tlsConfig(ca, cert, key string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("--tls-ca: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--tls-ca: %s holds no certificate in PEM form", ca)
		}
	}
	if (cert == "") != (key == "") {
		return nil, errors.New("--tls-cert and --tls-key belong together; give both")
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("--tls-cert, --tls-key: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

func (r *remote) authorize(
	ctx context.Context, req *authzv1.AuthorizeRequest,
) (*authzv1.AuthorizeResponse, error) {
	d, err := r.client.Authorize(ctx, req)
	if err != nil {
		return nil, r.advise(err)
	}
	return d.Response(), nil
}

func (r *remote) explain(ctx context.Context, req *authzv1.AuthorizeRequest) (*authzv1.ExplainResponse, error) {
	e, err := r.client.Explain(ctx, req)
	if err != nil {
		return nil, r.advise(err)
	}
	return e, nil
}

func (r *remote) close() error {
	if err := r.client.Close(); err != nil {
		return fmt.Errorf("close the connection to %s: %w", r.addr, err)
	}
	return nil
}

// advise says what to do about an error of the server.
func (r *remote) advise(err error) error {
	what := map[codes.Code]string{
		codes.Unavailable:      "is it running, and does it speak TLS or plaintext as you do? see --tls-ca and --insecure",
		codes.DeadlineExceeded: "it did not answer in time; see --timeout",
		codes.InvalidArgument:  "correct that field",
		codes.Unimplemented:    "this server does not know that; leave the field out or ask a newer one",
		codes.Unauthenticated:  "present a client certificate with --tls-cert and --tls-key",
		codes.PermissionDenied: "this caller may not ask that",
	}[status.Code(err)]
	text := err.Error()
	var carrier interface{ GRPCStatus() *status.Status }
	if errors.As(err, &carrier) {
		// Without "rpc error: code = ", which says nothing to a person.
		text = carrier.GRPCStatus().Message()
	}
	if status.Code(err) == codes.Unimplemented && strings.HasPrefix(text, "unknown service ") {
		what = "is this its admin listener? gateways, and this command, ask its grpc_addr; see --server"
	}
	if what != "" {
		text += " (" + what + ")"
	}
	return fmt.Errorf("no decision from %s: %s", r.addr, clean(text))
}
