package app_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	adminv1 "github.com/kelpie-authz/kelpie/gen/kelpie/admin/v1"
	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
	"github.com/kelpie-authz/kelpie/internal/app"
	"github.com/kelpie-authz/kelpie/internal/config"
	"github.com/kelpie-authz/kelpie/internal/testkit"
	"github.com/kelpie-authz/kelpie/server"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const policyA = `
scopes:
  docs.read: {actions: [read], resources: ["docs/**"]}
networks:
  here: {cidrs: [10.0.0.0/8]}
agents:
  reader: {owner: o@example.com, scopes: [docs.read], networks: [here]}
limits:
  all: {rate: 1000000/second, burst: 1000000, per: [agent]}
`

// policyB is policyA with a deny rule.
const policyB = policyA + `
deny:
  closed: {match: {resources: ["docs/**"]}}
`

// running is an App under test.
type running struct {
	*app.App
	cfg    *config.Config
	stdout *testkit.Buffer
	stderr *testkit.Buffer
	stop   context.CancelFunc
	ended  chan error
}

// start runs an App on free ports until the test ends; change may alter its configuration.
func start(t *testing.T, change func(*config.Config)) *running {
	t.Helper()
	out := &testkit.Buffer{}
	r := startTo(t, out, change)
	r.stdout = out
	return r
}

// startTo is start with another writer for the decision log.
func startTo(t *testing.T, stdout io.Writer, change func(*config.Config)) *running {
	t.Helper()
	cfg := config.Default()
	cfg.GRPCAddr, cfg.AdminAddr, cfg.HealthAddr = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.State = filepath.Join(t.TempDir(), "state")
	if change != nil {
		change(cfg)
	}
	if cfg.Policy == "" {
		cfg.Policy = policyDir(t, policyA)
	}
	r := &running{cfg: cfg, stderr: &testkit.Buffer{}, ended: make(chan error, 1)}
	var err error
	r.App, err = app.New(t.Context(), cfg, app.Deps{Stdout: stdout, Stderr: r.stderr, Version: "test", Embedded: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	go func() { r.ended <- r.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		r.Abort()
		select {
		case <-r.ended:
		default:
			<-r.ended
		}
		r.noSecrets(t, stdout)
	})
	return r
}

// noSecrets looks for the tests' secrets, and for the admin token, in all that the App wrote.
func (r *running) noSecrets(t *testing.T, stdout io.Writer) {
	t.Helper()
	token, err := os.ReadFile(filepath.Join(r.cfg.State, server.AdminTokenFile))
	if err != nil {
		t.Error(err)
		return
	}
	text := strings.TrimSpace(string(token))
	testkit.NoSecretsUnder(t, r.cfg.State, []string{server.AdminTokenFile}, text)
	testkit.NoSecrets(t, "the server's log", r.stderr.String(), text)
	if log, ok := stdout.(*testkit.Buffer); ok {
		testkit.NoSecrets(t, "the decision log", log.String(), text)
	}
}

// end drains and returns what Run said.
func (r *running) end(t *testing.T) error {
	t.Helper()
	r.stop()
	err := testkit.Receive(t, "the end of Run", r.ended)
	r.ended <- nil // For the cleanup.
	return err
}

func policyDir(t *testing.T, text string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "policy")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	testkit.WriteFile(t, filepath.Join(dir, "policy.yaml"), []byte(text))
	return dir
}

func insecureCredentials() credentials.TransportCredentials { return insecure.NewCredentials() }

func dial(t *testing.T, target string, creds credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	if creds == nil {
		creds = insecureCredentials()
	}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (r *running) client(t *testing.T) authzv1.AuthorizationServiceClient {
	t.Helper()
	return authzv1.NewAuthorizationServiceClient(dial(t, r.Addrs().GRPC.String(), nil))
}

func (r *running) admin(t *testing.T) (context.Context, adminv1.AdminServiceClient) {
	t.Helper()
	token, err := os.ReadFile(filepath.Join(r.cfg.State, server.AdminTokenFile))
	if err != nil {
		t.Fatal(err)
	}
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+strings.TrimSpace(string(token)))
	return ctx, adminv1.NewAdminServiceClient(dial(t, r.Addrs().Admin.String(), nil))
}

func request() *authzv1.AuthorizeRequest {
	return &authzv1.AuthorizeRequest{Agent: "reader", Action: "read", Resource: "docs/1", SourceIp: "10.1.2.3", RequestId: "r1"}
}

func (r *running) ask(t *testing.T, c authzv1.AuthorizationServiceClient) authzv1.Decision {
	t.Helper()
	out, err := c.Authorize(t.Context(), request())
	if err != nil {
		t.Fatal(err)
	}
	return out.GetDecision()
}

// get asks the health listener.
func (r *running) get(t *testing.T, path string) (int, string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + r.Addrs().Health.String() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// records parses the decision log.
func (r *running) records(t *testing.T) []map[string]any {
	t.Helper()
	var out []map[string]any
	for line := range strings.Lines(r.stdout.String()) {
		var rec map[string]any
		if err := json.Unmarshal([]byte(line), &rec); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		out = append(out, rec)
	}
	return out
}
