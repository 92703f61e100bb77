package cli_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/internal/cli"
	"github.com/kelpie-authz/kelpie/internal/testkit"
)

func TestServerIsAsked(t *testing.T) {
	t.Parallel()
	s := serveRevops(t)
	at := "--server " + s.grpc
	tests := []struct {
		name string
		args []string
		code int
		want string
	}{
		{"allow", args("check "+at, call("lead-router", "read", "salesforce/leads/42", "10.8.0.5")), cli.ExitOK, "ALLOW  ok\n"},
		{"deny", args("check "+at, call("nobody", "read", "salesforce/leads/42", "10.8.0.5")), cli.ExitDeny, "DENY  agent_unknown\n"},
		{"approval", args("check "+at, call("data-cleaner", "delete", "salesforce/leads/42", "10.8.0.5")), cli.ExitRequireApproval, "approvals/destructive: 1 of security"},
		{"waits in vain", args("check --wait 50ms "+at, call("data-cleaner", "delete", "salesforce/leads/43", "10.8.0.5")), cli.ExitRequireApproval, "REQUIRE_APPROVAL  approval_required"},
		{"waits for nothing", args("check --wait 30s "+at, call("lead-router", "read", "salesforce/leads/42", "10.8.0.5")), cli.ExitOK, "ALLOW  ok\n"},
		{"waits for too long", args("check --wait 31s "+at, call("lead-router", "read", "salesforce/leads/42", "10.8.0.5")), cli.ExitError, "write at most 30s"},
		{"waits where nobody decides", args("check --wait 1s --policy "+revops, call("lead-router", "read", "salesforce/leads/42", "10.8.0.5")), cli.ExitError, "--wait and --approval-id are for a running server"},
		{"with an approval of nobody", args("check --approval-id apr_00000000000000000000000000000000 "+at, call("data-cleaner", "delete", "salesforce/leads/43", "10.8.0.5")), cli.ExitDeny, "DENY  approval_binding_mismatch"},
		{"with an approval where nobody decides", args("check --approval-id apr_00000000000000000000000000000000 --policy "+revops, call("lead-router", "read", "salesforce/leads/42", "10.8.0.5")), cli.ExitError, "--approval-id are for a running server"},
		{"dry run", args("check --dry-run "+at, call("lead-router", "read", "salesforce/leads/42", "10.8.0.5")), cli.ExitDryRun, "dry run: nothing was charged"},
		{"explain", args("explain "+at, call("nobody", "read", "salesforce/leads/42", "10.8.0.5")), cli.ExitOK, "identity"},
		{"json", args("check --json "+at, call("lead-router", "read", "salesforce/leads/42", "10.8.0.5", "--request-id", "r-7")), cli.ExitOK, `"request_id": "r-7"`},
		{"the admin listener", args("check --server "+s.admin, call("lead-router", "read", "salesforce/leads/42", "10.8.0.5")), cli.ExitError, "unknown service kelpie.authz.v1.AuthorizationService (is this its admin listener? "},
		{"malformed", args("check "+at, call("lead-router", "read", "salesforce//leads", "10.8.0.5")), cli.ExitError, "resource"},
	}
	for _, tt := range tests {
		o := run(t, tt.args...)
		if o.code != tt.code || !strings.Contains(o.stdout+o.stderr, tt.want) {
			t.Errorf("%s: exit code %d, want %d with %q:\n%s%s", tt.name, o.code, tt.code, tt.want, o.stdout, o.stderr)
		}
	}
	o := runWith(t, []string{"KELPIE_SERVER", s.grpc}, args("check", call("lead-router", "read", "salesforce/leads/42", "10.8.0.5"))...)
	if o.code != cli.ExitOK {
		t.Errorf("KELPIE_SERVER: exit code %d\n%s", o.code, o.stderr)
	}
}

// A server charges what is asked of it, and a dry run charges nothing.
func TestServerCharges(t *testing.T) {
	t.Parallel()
	s := serveRevops(t)
	refund := args("check --server "+s.grpc, call("refund-bot", "create", "stripe/refunds", "10.8.0.5", "--parameters", `{"amount":5}`))
	dry := append([]string{"check", "--dry-run"}, refund[1:]...)
	for i, step := range []struct {
		args []string
		code int
	}{
		{dry, cli.ExitDryRun},
		{dry, cli.ExitDryRun},
		{dry, cli.ExitDryRun},
		{dry, cli.ExitDryRun},
		{refund, cli.ExitOK},
		{refund, cli.ExitOK},
		{refund, cli.ExitOK},
		{refund, cli.ExitDeny},
		{dry, cli.ExitDeny},
	} {
		if o := run(t, step.args...); o.code != step.code {
			t.Errorf("step %d: exit code %d, want %d\n%s%s", i, o.code, step.code, o.stdout, o.stderr)
		}
	}
}

func TestServerOverTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, key := writeCertificate(t, dir)
	addr := testkit.FreeAddr(t)
	serveRevops(t, "--grpc-addr", addr, "--tls-cert", cert, "--tls-key", key)
	read := call("lead-router", "read", "salesforce/leads/42", "10.8.0.5")
	for _, tt := range []struct {
		name  string
		flags string
		code  int
	}{
		{"with its authority", " --tls-ca " + cert, cli.ExitOK},
		{"plaintext", "", cli.ExitError},
		{"plaintext by force", " --insecure", cli.ExitError},
	} {
		o := run(t, args("check --timeout 10s --server "+addr+tt.flags, read)...)
		if o.code != tt.code {
			t.Errorf("%s: exit code %d, want %d\n%s%s", tt.name, o.code, tt.code, o.stdout, o.stderr)
		}
	}
}

// Where an address is not known to be this machine's, TLS is spoken unless plaintext
// is asked for. The unspecified address is not, and net.Dial takes it for here.
func TestPlaintextHasToBeWritten(t *testing.T) {
	t.Parallel()
	for flag, want := range map[string]string{
		"--timeout=5s": "\x16\x03", // A TLS handshake record (RFC 8446 section 5.1).
		"--insecure":   "PR",       // The preface of HTTP/2 (RFC 9113 section 3.4).
	} {
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		first := make(chan string, 1)
		go func() {
			defer close(first)
			conn, err := lis.Accept()
			if err != nil {
				return
			}
			buf := make([]byte, len(want))
			if _, err := io.ReadFull(conn, buf); err == nil {
				first <- string(buf)
			}
			_ = conn.Close()
			_ = lis.Close()
		}()
		_, port, err := net.SplitHostPort(lis.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		o := run(t, args("check "+flag+" --server 0.0.0.0:"+port,
			call("lead-router", "read", "salesforce/leads/42", "10.8.0.5"))...)
		_ = lis.Close() // Closed already if the client came.
		if got := <-first; got != want || o.code != cli.ExitError {
			t.Errorf("%s: the client began with %q, want %q; exit code %d\n%s", flag, got, want, o.code, o.stderr)
		}
	}
}

func writeCertificate(t *testing.T, dir string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{
		cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: secret},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// A server that is told to stop while a command waits ends both in order.
func TestServeEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, log watcher
	code := cli.Run(ctx, &cli.Env{
		Args:   args("serve --grpc-addr 127.0.0.1:0 --admin-addr 127.0.0.1:0 --health-addr 127.0.0.1:0 --policy "+revops+" --state", []string{t.TempDir()}),
		Stdout: &out, Stderr: &log, Now: time.Now, Lookup: func(string) (string, bool) { return "", false },
	})
	if code != cli.ExitOK {
		t.Errorf("exit code %d\n%s", code, log.String())
	}
}
