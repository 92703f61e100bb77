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
	// known says that the admin token will not do.
	known bool

	// shown is what says to the server who asks, once it is known, and ofHuman says that
	// it is meant for a token of a human.
	shown   string
	ofHuman bool
	// set are the flags of the command.
	set *pflag.FlagSet
}

// registerHuman is register for commands of which the server wants to know who gives them.
func (f *adminFlags) registerHuman(set *pflag.FlagSet) {
	f.register(set)
	f.human = true
	set.StringVar(&f.humanFile, "token-file", "", "`file` with a token of your identity provider, which says who you are (KELPIE_APPROVER_TOKEN_FILE)")
	set.Lookup("tls-cert").Usage = "PEM `file` of your certificate, which says who you are where no token does (KELPIE_TLS_CERT)"
}

// registerKnown is registerHuman for commands that take no admin token: it stays a flag,
// so that who gives it is told why.
func (f *adminFlags) registerKnown(set *pflag.FlagSet) {
	f.registerHuman(set)
	f.known = true
	_ = set.MarkHidden("admin-token-file") // It is there.
}

func (f *adminFlags) register(set *pflag.FlagSet) {
	f.set = set
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

// The variables that name a credential.
const (
	adminVariable = "KELPIE_ADMIN_TOKEN_FILE"
	humanVariable = "KELPIE_APPROVER_TOKEN_FILE"
)

// credential is the token to show; "" where a certificate says who asks. What a flag
// names goes before what a variable names.
func (f *adminFlags) credential(env *Env) (string, error) {
	human, admin := env.or("", humanVariable), env.or("", adminVariable)
	if !f.human {
		human = ""
	}
	switch byFlag := f.human && (f.cert != "" || f.key != ""); {
	case f.humanFile != "" && f.tokenFile != "":
		return "", errors.New("both a token of yours and the admin token are named; give --token-file or --admin-token-file")
	case f.humanFile != "":
		return f.token(f.humanFile, "--token-file")
	case f.tokenFile != "":
		return f.token(f.tokenFile, "--admin-token-file")
	case byFlag:
		f.shown = "a certificate, named by --tls-cert"
		return "", nil
	case human != "" && admin != "" && !f.known:
		return "", fmt.Errorf("both a token of yours and the admin token are named, by %s and %s; give --token-file or --admin-token-file", humanVariable, adminVariable)
	case human != "":
		return f.token(human, humanVariable)
	case admin != "" && !f.known:
		return f.token(admin, adminVariable)
	case f.human && env.or("", "KELPIE_TLS_CERT") != "":
		f.shown = "a certificate, named by KELPIE_TLS_CERT"
		return "", nil
	case f.known:
		return "", errors.New("nothing says who you are, which the admin token does not; give --token-file, or --tls-cert and --tls-key")
	default:
		return f.token(defaultTokenFile(), "")
	}
}

// token reads a file with a token. by is the flag or the variable that names it; "": none
// does, and it is the admin token where a server leaves it.
func (f *adminFlags) token(file, by string) (string, error) {
	raw, err := os.ReadFile(file)
	f.shown = "the token in " + file
	if by != "" {
		f.shown += ", named by " + by
	}
	f.ofHuman = by == "--token-file" || by == humanVariable
	advice := "it is in the server's state directory: name it with --admin-token-file"
	switch {
	case f.human && by == "":
		advice += ", or say who you are with --token-file or --tls-cert"
	case f.ofHuman:
		advice = "have your identity provider give a token, and write it there"
	}
	token := strings.TrimSpace(string(raw))
	switch {
	case err != nil && f.ofHuman:
		return "", fmt.Errorf("%s: %w", by, err)
	case err != nil:
		return "", fmt.Errorf("the admin token cannot be read: %w; %s", err, advice)
	case token == "" && f.ofHuman:
		return "", fmt.Errorf("%s: %s is empty; %s", by, file, advice)
	case token == "":
		return "", fmt.Errorf("the admin token cannot be read: %s is empty; %s", file, advice)
	}
	return token, nil
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
	case code == codes.Unauthenticated:
		what = a.wayIn(text)
	case code == codes.InvalidArgument:
		text = a.flags.byFlag(text)
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

// wayIn says what was given to a server that does not take it, and what else there is.
func (a *admin) wayIn(text string) string {
	f := a.flags
	what := "given was " + f.shown + "; "
	switch {
	case f.ofHuman && strings.Contains(text, "not the admin token"):
		return what + "it is no token of an identity provider, or the server knows none: see its approver_oidc_issuer"
	case f.known:
		return what + "see --token-file and --tls-cert"
	case f.human:
		return what + "see --token-file, --tls-cert and --admin-token-file"
	default:
		return what + "see --admin-token-file"
	}
}

// flagFor is the flag for a field of a request, where it has another name.
func flagFor(field string) string {
	switch field {
	case "within", "standing.within":
		return "for"
	case "standing", "standing.uses":
		return "standing"
	case "standing.max_cost":
		return "max-cost"
	case "standing.resource":
		return "resource"
	}
	if strings.HasPrefix(field, "standing.bounds") {
		return "bound"
	}
	return field
}

// byFlag names the flag where what the server says begins with the field of a request.
func (f *adminFlags) byFlag(text string) string {
	end := strings.IndexAny(text, " :")
	if end < 0 {
		return text
	}
	if flag := flagFor(text[:end]); f.set.Lookup(flag) != nil {
		return "--" + flag + text[end:]
	}
	return text
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
