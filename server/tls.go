package server

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
)

// TLSFiles are the PEM files of a listener. ClientCA may be empty: then no
// client certificate is asked for.
type TLSFiles struct {
	Cert     string
	Key      string
	ClientCA string
	// Optional admits callers without a client certificate as well.
	Optional bool
	// Others is the file of authorities that open another door: a client certificate is
	// refused if one of them is anywhere between it and ClientCA. Empty: there are none.
	// It is looked at only where there is a ClientCA.
	Others string
}

// paths are those that are set.
func (f TLSFiles) paths() []string {
	paths := []string{f.Cert, f.Key}
	if f.ClientCA != "" {
		paths = append(paths, f.ClientCA)
		if f.Others != "" {
			paths = append(paths, f.Others)
		}
	}
	return paths
}

// TLSKeeper holds the TLS configuration that new connections get and replaces
// it when the files change. Connections that stand are not touched. It is safe
// for concurrent use.
type TLSKeeper struct {
	files   TLSFiles
	current atomic.Pointer[tls.Config]

	mu  sync.Mutex
	sum [sha256.Size]byte
}

// NewTLSKeeper reads the files; any fault in them is an error.
func NewTLSKeeper(files TLSFiles) (*TLSKeeper, error) {
	k := &TLSKeeper{files: files}
	if _, err := k.Reload(); err != nil {
		return nil, err
	}
	return k, nil
}

// Reload reads the files again and tells whether they changed. On an error the
// configuration in force stays.
func (k *TLSKeeper) Reload() (changed bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var contents [][]byte
	hash := sha256.New()
	for _, path := range k.files.paths() {
		data, err := os.ReadFile(path)
		if err != nil {
			return false, fmt.Errorf("read TLS files: %w", err)
		}
		contents = append(contents, data)
		one := sha256.Sum256(data)
		hash.Write(one[:])
	}
	var sum [sha256.Size]byte
	hash.Sum(sum[:0])
	if sum == k.sum {
		return false, nil
	}
	cfg, err := k.build(contents)
	if err != nil {
		return false, err
	}
	k.current.Store(cfg)
	k.sum = sum
	return true, nil
}

func (k *TLSKeeper) build(contents [][]byte) (*tls.Config, error) {
	cert, err := tls.X509KeyPair(contents[0], contents[1])
	if err != nil {
		return nil, fmt.Errorf("load %s and %s: %w", k.files.Cert, k.files.Key, err)
	}
	cfg := &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{cert},
		NextProtos:   []string{"h2"},
	}
	if k.files.ClientCA == "" {
		return cfg, nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(bytes.TrimSpace(contents[2])) {
		return nil, fmt.Errorf("load %s: %w", k.files.ClientCA, errors.New("it holds no certificate in PEM"))
	}
	cfg.ClientCAs = pool
	cfg.ClientAuth = tls.RequireAndVerifyClientCert
	if k.files.Optional {
		cfg.ClientAuth = tls.VerifyClientCertIfGiven
	}
	if k.files.Others != "" {
		cfg.VerifyConnection = notBy(certificates(contents[3]), k.files.Others)
	}
	return cfg, nil
}

// notBy refuses a certificate that one of some authorities vouches for, however far
// off: an authority that is asked for may vouch for theirs by others between them,
// which no file has and the client sends.
func notBy(others []*x509.Certificate, file string) func(tls.ConnectionState) error {
	return func(state tls.ConnectionState) error {
		for _, chain := range state.VerifiedChains {
			for _, cert := range chain {
				if slices.ContainsFunc(others, func(o *x509.Certificate) bool {
					return bytes.Equal(o.RawSubjectPublicKeyInfo, cert.RawSubjectPublicKeyInfo)
				}) {
					return fmt.Errorf("the certificate of %q is one of an authority of %s, which opens another door", chain[0].Subject, file)
				}
			}
		}
		return nil
	}
}

// Config returns a configuration that gives each new connection the one then in force.
func (k *TLSKeeper) Config() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		NextProtos:         []string{"h2"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return k.current.Load(), nil },
	}
}

// Files are the files it reads, for whoever watches them.
func (k *TLSKeeper) Files() []string { return k.files.paths() }

// Apart says why two files of authorities are not apart: one of the one is, or
// vouches for, one of the other, so that a certificate could pass where those of the
// other file are asked for.
func Apart(one, other string) error {
	a, err := authorities(one)
	if err != nil {
		return err
	}
	b, err := authorities(other)
	if err != nil {
		return err
	}
	for _, x := range a {
		for _, y := range b {
			if bytes.Equal(x.RawSubjectPublicKeyInfo, y.RawSubjectPublicKeyInfo) || x.CheckSignatureFrom(y) == nil || y.CheckSignatureFrom(x) == nil {
				return fmt.Errorf("%q of %s and %q of %s are one authority, or one vouches for the other", x.Subject, one, y.Subject, other)
			}
		}
	}
	return nil
}

// authorities are the certificates of a PEM file.
func authorities(path string) (all []*x509.Certificate, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read TLS files: %w", err)
	}
	return certificates(data), nil
}

// certificates are those of PEM blocks.
func certificates(data []byte) (all []*x509.Certificate) {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			continue // A pool leaves it out too.
		}
		all = append(all, cert)
	}
	return all
}
