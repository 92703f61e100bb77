package app_test

import (
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/credentials"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
	"github.com/kelpie-authz/kelpie/internal/config"
	"github.com/kelpie-authz/kelpie/internal/testkit"
)

func clientTLS(ca *testkit.CA, own *tls.Certificate) credentials.TransportCredentials {
	cfg := &tls.Config{RootCAs: ca.Pool(), MinVersion: tls.VersionTLS12}
	if own != nil {
		cfg.Certificates = []tls.Certificate{*own}
	}
	return credentials.NewTLS(cfg)
}

// serial is the certificate that a fresh connection is shown.
func serial(t *testing.T, addr string, pool *x509.CertPool) *big.Int {
	t.Helper()
	conn, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if conn.ConnectionState().Version != tls.VersionTLS13 {
		t.Errorf("version %x", conn.ConnectionState().Version)
	}
	return conn.ConnectionState().PeerCertificates[0].SerialNumber
}

var here = []net.IP{net.IPv4(127, 0, 0, 1)}

// The certificate is renewed while a connection stands and while calls go on;
// a bad file changes nothing and is told.
func TestTLSReload(t *testing.T) {
	t.Parallel()
	ca := testkit.NewCA(t)
	first := ca.Issue(t, testkit.Leaf{Name: "first", IPs: here})
	dir := t.TempDir()
	r := start(t, func(c *config.Config) { c.TLSCert, c.TLSKey = first.Write(t, dir) })
	addr := r.Addrs().GRPC.String()
	old := authzv1.NewAuthorizationServiceClient(dial(t, addr, clientTLS(ca, nil)))
	if got := r.ask(t, old); got != authzv1.Decision_DECISION_ALLOW {
		t.Fatal(got)
	}
	if serial(t, addr, ca.Pool()).Cmp(first.Serial) != 0 {
		t.Fatal("not the first certificate")
	}
	second := ca.Issue(t, testkit.Leaf{Name: "second", IPs: here})
	second.Write(t, dir)
	testkit.Eventually(t, "the second certificate", func() bool { return serial(t, addr, ca.Pool()).Cmp(second.Serial) == 0 })
	if got := r.ask(t, old); got != authzv1.Decision_DECISION_ALLOW {
		t.Error("the standing connection was dropped")
	}
	if serial(t, r.Addrs().Admin.String(), ca.Pool()).Cmp(second.Serial) != 0 {
		t.Error("the admin listener has the old certificate")
	}

	testkit.WriteFile(t, filepath.Join(dir, "tls.crt"), []byte("not a certificate"))
	testkit.Eventually(t, "the fault in /readyz", func() bool {
		code, body := r.get(t, "/readyz")
		return code == 200 && strings.Contains(body, "TLS files cannot be loaded")
	})
	if serial(t, addr, ca.Pool()).Cmp(second.Serial) != 0 {
		t.Error("a bad file changed the certificate")
	}
	if _, body := r.get(t, "/metrics"); !strings.Contains(body, "kelpie_tls_reload_failures_total 1") {
		t.Error("the fault was not counted")
	}
	second.Write(t, dir)
	testkit.Eventually(t, "the fault to go", func() bool { _, body := r.get(t, "/readyz"); return !strings.Contains(body, "TLS") })
}

func TestMTLS(t *testing.T) {
	t.Parallel()
	ca, clients, strangers := testkit.NewCA(t), testkit.NewCA(t), testkit.NewCA(t)
	dir := t.TempDir()
	caFile := filepath.Join(dir, "ca.crt")
	testkit.WriteFile(t, caFile, clients.PEM)
	r := start(t, func(c *config.Config) {
		c.TLSCert, c.TLSKey = ca.Issue(t, testkit.Leaf{Name: "server", IPs: here}).Write(t, dir)
		c.ClientCA = caFile
	})
	addr := r.Addrs().GRPC.String()
	own := clients.Issue(t, testkit.Leaf{Name: "gw", URI: "spiffe://prod.example/gateway"}).TLS(t)
	foreign := strangers.Issue(t, testkit.Leaf{Name: "gw"}).TLS(t)
	if got := r.ask(t, authzv1.NewAuthorizationServiceClient(dial(t, addr, clientTLS(ca, &own)))); got != authzv1.Decision_DECISION_ALLOW {
		t.Error(got)
	}
	for name, cert := range map[string]*tls.Certificate{"none": nil, "foreign": &foreign} {
		c := authzv1.NewAuthorizationServiceClient(dial(t, addr, clientTLS(ca, cert)))
		if _, err := c.Authorize(t.Context(), request()); err == nil {
			t.Errorf("%s: was let in", name)
		}
	}
	// A new authority is taken up for new connections; the old one is out.
	testkit.WriteFile(t, caFile, strangers.PEM)
	testkit.Eventually(t, "the new authority", func() bool {
		c := authzv1.NewAuthorizationServiceClient(dial(t, addr, clientTLS(ca, &foreign)))
		_, err := c.Authorize(t.Context(), request())
		return err == nil
	})
	if _, err := authzv1.NewAuthorizationServiceClient(dial(t, addr, clientTLS(ca, &own))).Authorize(t.Context(), request()); err == nil {
		t.Error("the old authority still lets in")
	}
	if err := r.end(t); err != nil {
		t.Fatal(err)
	}
	if got := r.records(t)[0]["gateway"]; got != "mtls:spiffe://prod.example/gateway" {
		t.Errorf("gateway %v", got)
	}
}

func TestPlaintextIsNotServedWithTLS(t *testing.T) {
	t.Parallel()
	ca := testkit.NewCA(t)
	r := start(t, func(c *config.Config) {
		c.TLSCert, c.TLSKey = ca.Issue(t, testkit.Leaf{Name: "server", IPs: here}).Write(t, t.TempDir())
	})
	if _, err := r.client(t).Authorize(t.Context(), request()); err == nil {
		t.Error("answered in plaintext")
	}
	if info, err := os.Stat(r.cfg.TLSKey); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
}
