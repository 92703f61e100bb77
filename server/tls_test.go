package server_test

import (
	"crypto/tls"
	"encoding/pem"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kelpie-authz/kelpie/internal/testkit"
	"github.com/kelpie-authz/kelpie/server"
)

// shakes tells whether a listener with these files takes a client's certificate.
func shakes(t *testing.T, keeper *server.TLSKeeper, own *testkit.CA, cert *tls.Certificate) error {
	t.Helper()
	lis := testkit.Listen(t)
	defer func() { _ = lis.Close() }()
	served := make(chan error, 1)
	go func() {
		conn, err := lis.Accept()
		if err != nil {
			served <- err
			return
		}
		defer func() { _ = conn.Close() }()
		secure := tls.Server(conn, keeper.Config())
		err = secure.HandshakeContext(t.Context())
		if err == nil {
			_, err = secure.Write([]byte("x"))
		}
		served <- err
	}()
	cfg := &tls.Config{RootCAs: own.Pool(), ServerName: "127.0.0.1", NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12}
	if cert != nil {
		cfg.Certificates = []tls.Certificate{*cert}
	}
	conn, err := tls.Dial("tcp", lis.Addr().String(), cfg)
	if err == nil {
		_, _ = io.ReadAll(conn)
		_ = conn.Close()
	}
	return <-served
}

// An authority of the one door may vouch for one of the other by others that no file
// has: the client sends them, and is refused all the same.
func TestCertificatesOfAnotherDoor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	own, corporate := testkit.NewCA(t), testkit.NewCA(t)
	middle := corporate.Under(t)
	gateways := middle.Under(t)
	files := server.TLSFiles{ClientCA: filepath.Join(dir, "approvers.pem"), Others: filepath.Join(dir, "gateways.pem"), Optional: true}
	files.Cert, files.Key = own.Issue(t, testkit.Leaf{IPs: []net.IP{net.IPv4(127, 0, 0, 1)}}).Write(t, dir)
	testkit.WriteFile(t, files.ClientCA, corporate.PEM)
	testkit.WriteFile(t, files.Others, gateways.PEM)
	keeper, err := server.NewTLSKeeper(files)
	if err != nil {
		t.Fatal(err)
	}
	der := func(ca *testkit.CA) []byte {
		block, _ := pem.Decode(ca.PEM)
		return block.Bytes
	}
	approver := middle.Issue(t, testkit.Leaf{Emails: []string{"security-lead@example.com"}}).TLS(t)
	approver.Certificate = append(approver.Certificate, der(middle))
	gateway := gateways.Issue(t, testkit.Leaf{Emails: []string{"security-lead@example.com"}}).TLS(t)
	gateway.Certificate = append(gateway.Certificate, der(gateways), der(middle))
	if err := shakes(t, keeper, own, nil); err != nil {
		t.Errorf("without a certificate: %v", err)
	}
	if err := shakes(t, keeper, own, &approver); err != nil {
		t.Errorf("an approver: %v", err)
	}
	if err := shakes(t, keeper, own, &gateway); err == nil || !strings.Contains(err.Error(), "which opens another door") {
		t.Errorf("a gateway: %v", err)
	}
	files.Others = ""
	loose, err := server.NewTLSKeeper(files)
	if err != nil {
		t.Fatal(err)
	}
	if err := shakes(t, loose, own, &gateway); err != nil {
		t.Errorf("the gateway's chain is none: the test proves nothing: %v", err)
	}
}
