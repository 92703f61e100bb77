// Package testkit is what tests share: certificates, waiting without sleeping,
// writers to look into, running programs (Kelpie, Envoy, an upstream), and the
// commands in documents. It is never imported outside tests.
//
//	ca := testkit.NewCA(t)
//	server := ca.Issue(t, testkit.Leaf{IPs: []net.IP{net.IPv4(127, 0, 0, 1)}})
//	testkit.WriteFile(t, path, server.CertPEM)
package testkit

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// CA is a certificate authority of one test.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	// PEM is its certificate.
	PEM []byte
}

// Leaf is what a certificate says. The zero value is valid for nothing.
type Leaf struct {
	Name string
	IPs  []net.IP
	// URI is a SPIFFE id; "" for none.
	URI string
	// Emails are the mail addresses that it names.
	Emails []string
}

// Pair is a certificate with its key, in PEM.
type Pair struct {
	CertPEM []byte
	KeyPEM  []byte
	Serial  *big.Int
}

// NewCA makes an authority.
func NewCA(tb testing.TB) *CA {
	tb.Helper()
	return authority(tb, newKey(tb), nil)
}

// Under makes an authority that this one vouches for.
func (ca *CA) Under(tb testing.TB) *CA {
	tb.Helper()
	return authority(tb, newKey(tb), ca)
}

// Again is the same authority, key and name, by another certificate.
func (ca *CA) Again(tb testing.TB) *CA {
	tb.Helper()
	return authority(tb, ca.key, nil)
}

// authority makes one with a key, that above vouches for; nil: itself.
func authority(tb testing.TB, key *ecdsa.PrivateKey, above *CA) *CA {
	tb.Helper()
	name := "test authority"
	if above != nil {
		name += " under another"
	}
	template := &x509.Certificate{
		SerialNumber: newSerial(tb), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	parent, by := template, key
	if above != nil {
		parent, by = above.cert, above.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by)
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return &CA{cert: cert, key: key, PEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// Issue makes a certificate for servers and clients alike.
func (ca *CA) Issue(tb testing.TB, leaf Leaf) Pair {
	tb.Helper()
	key := newKey(tb)
	template := &x509.Certificate{
		SerialNumber: newSerial(tb), Subject: pkix.Name{CommonName: leaf.Name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: leaf.IPs, EmailAddresses: leaf.Emails,
	}
	if leaf.URI != "" {
		uri, err := url.Parse(leaf.URI)
		if err != nil {
			tb.Fatal(err)
		}
		template.URIs = []*url.URL{uri}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		tb.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	return Pair{
		CertPEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		KeyPEM:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
		Serial:  template.SerialNumber,
	}
}

// Pool holds the authority alone.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}

// TLS is the pair as crypto/tls wants it.
func (p Pair) TLS(tb testing.TB) tls.Certificate {
	tb.Helper()
	cert, err := tls.X509KeyPair(p.CertPEM, p.KeyPEM)
	if err != nil {
		tb.Fatal(err)
	}
	return cert
}

// Write puts the pair into dir as tls.crt and tls.key.
func (p Pair) Write(tb testing.TB, dir string) (cert, key string) {
	tb.Helper()
	cert, key = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	WriteFile(tb, cert, p.CertPEM)
	WriteFile(tb, key, p.KeyPEM)
	return cert, key
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func newSerial(tb testing.TB) *big.Int {
	tb.Helper()
	n, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

// WriteFile writes a file by a rename, so that no reader sees half of it.
func WriteFile(tb testing.TB, path string, data []byte) {
	tb.Helper()
	draft := path + ".draft"
	if err := os.WriteFile(draft, data, 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := os.Rename(draft, path); err != nil {
		tb.Fatal(err)
	}
}
