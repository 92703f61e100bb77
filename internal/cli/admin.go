package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/kelpie-authz/kelpie/client"
	adminv1 "github.com/kelpie-authz/kelpie/gen/kelpie/admin/v1"
	"github.com/kelpie-authz/kelpie/internal/config"
	"github.com/kelpie-authz/kelpie/limiter"
)

// adminFlags say which server to administer, and by which token.
type adminFlags struct {
	serverFlags

	tokenFile string
	asJSON    bool
	// human says that a human can be known by more than the admin token: by the
	// token in humanFile, or by his certificate.
	human     bool
	humanFile string
}

// registerHuman is register for commands of which the server wants to know who gives them.
func (f *adminFlags) registerHuman(set *pflag.FlagSet) {
	f.register(set)
	f.human = true
	set.StringVar(&f.humanFile, "token-file", "", "`file` with a token of your identity provider, which says who you are (KELPIE_APPROVER_TOKEN_FILE)")
	set.Lookup("tls-cert").Usage = "PEM `file` of your certificate, which says who you are where no token does (KELPIE_TLS_CERT)"
}

func (f *adminFlags) register(set *pflag.FlagSet) {
	f.serverFlags.register(set)
	at := set.Lookup("server")
	at.Usage = "ask the admin listener at this `address`, host:port or unix:///path (KELPIE_ADMIN_SERVER; " + config.DefaultAdminAddr + ")"
	set.StringVar(&f.tokenFile, "admin-token-file", "",
		"`file` with the admin token, which the server writes into its state directory (KELPIE_ADMIN_TOKEN_FILE; "+defaultTokenFile()+")")
	set.BoolVar(&f.asJSON, "json", false, "print JSON")
}

// defaultTokenFile is where a server without --state writes its token.
func defaultTokenFile() string { return filepath.Join(config.DefaultState, "admin.token") }

// admin asks the admin listener of a running server.
type admin struct {
	conn    *grpc.ClientConn
	service adminv1.AdminServiceClient
	flags   *adminFlags
	addr    string
	token   string
}

func (f *adminFlags) connect(env *Env) (*admin, error) {
	f.addr = env.or(f.addr, "KELPIE_ADMIN_SERVER")
	if f.addr == "" {
		f.addr = config.DefaultAdminAddr
	}
	token, err := f.credential(env)
	if err != nil {
		return nil, err
	}
	opts, err := f.options(env)
	if err != nil {
		return nil, err
	}
	conn, err := client.Connect(f.addr, opts...)
	if err != nil {
		return nil, fmt.Errorf("--server %s: %w", f.addr, err)
	}
	return &admin{
		conn: conn, service: adminv1.NewAdminServiceClient(conn), flags: f, addr: f.addr, token: token,
	}, nil
}

// credential is the token to show; "" where a certificate says who asks.
func (f *adminFlags) credential(env *Env) (string, error) {
	f.tokenFile = env.or(f.tokenFile, "KELPIE_ADMIN_TOKEN_FILE")
	if f.human {
		file := env.or(f.humanFile, "KELPIE_APPROVER_TOKEN_FILE")
		switch {
		case file != "" && f.tokenFile != "":
			return "", errors.New("both a token of yours and the admin token are named; give --token-file or --admin-token-file")
		case file != "":
			token, err := os.ReadFile(file)
			if err != nil {
				return "", fmt.Errorf("--token-file: %w", err)
			}
			return strings.TrimSpace(string(token)), nil
		case f.tokenFile == "" && env.or(f.cert, "KELPIE_TLS_CERT") != "":
			return "", nil
		}
	}
	if f.tokenFile == "" {
		f.tokenFile = defaultTokenFile()
	}
	token, err := os.ReadFile(f.tokenFile)
	if err != nil {
		return "", fmt.Errorf("the admin token cannot be read: %w; it is in the server's state directory: name it with --admin-token-file", err)
	}
	return strings.TrimSpace(string(token)), nil
}

// show gives calls the token, if there is one.
func (a *admin) show(ctx context.Context) context.Context {
	if a.token == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+a.token)
}

// ask makes one call with the token and a deadline, and closes the connection.
func (a *admin) ask(ctx context.Context, call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, a.flags.timeout)
	defer cancel()
	err := call(a.show(ctx))
	if closeErr := a.conn.Close(); err == nil && closeErr != nil {
		return fmt.Errorf("close the connection to %s: %w", a.addr, closeErr)
	}
	if err != nil {
		return a.advise(err)
	}
	return nil
}

// advise tells what the server said, or that it said nothing, and what to do.
func (a *admin) advise(err error) error {
	text, code := err.Error(), status.Code(err)
	var carrier interface{ GRPCStatus() *status.Status }
	if errors.As(err, &carrier) {
		text = carrier.GRPCStatus().Message()
	}
	silent, what := false, ""
	switch {
	case code == codes.DeadlineExceeded:
		silent, what = true, "it did not answer in time; see --timeout"
	case code == codes.Unavailable && isCut(text):
		silent, what = true, "is it running, and is this its admin listener? see --server, --tls-ca and --insecure"
	case code == codes.Unauthenticated && a.flags.human:
		what = "see --token-file, --tls-cert and --admin-token-file"
	case code == codes.Unauthenticated:
		what = "see --admin-token-file"
	case code == codes.Unimplemented:
		what = "is this its admin listener, and is it as new as this program? see --server"
	case code == codes.Unavailable && strings.Contains(text, limiter.ErrUnavailable.Error()):
		what = "the server asks Redis for them: see faults in its /readyz, its log, and the Redis section of docs/operations.md"
	}
	if what != "" {
		text += " (" + what + ")"
	}
	if silent {
		return fmt.Errorf("no answer from %s: %s", a.addr, clean(text))
	}
	return fmt.Errorf("the server at %s says: %s", a.addr, clean(text))
}

// isCut tells whether an UNAVAILABLE is about the way to the server, and not from
// the server itself. gRPC has no code for that.
func isCut(text string) bool {
	for _, about := range []string{"connection error", "error reading from server", "transport is closing", "name resolver error", "no children to pick from"} {
		if strings.Contains(text, about) {
			return true
		}
	}
	return false
}
