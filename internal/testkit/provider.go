package testkit

import (
	"crypto/ecdsa"
	"encoding/json"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Provider is an OpenID Connect provider: discovery, keys, and tokens with
// whatever claims a test wants. It ends with the test.
type Provider struct {
	// Issuer is its URL, on loopback and without TLS.
	Issuer string

	mu    sync.Mutex
	key   *ecdsa.PrivateKey
	kid   string
	down  bool
	asked int // for its keys
}

// StartProvider starts one.
func StartProvider(tb testing.TB) *Provider {
	tb.Helper()
	lis := Listen(tb)
	p := &Provider{Issuer: "http://" + lis.Addr().String()}
	p.Rotate(tb)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{
			"issuer": p.Issuer, "jwks_uri": p.Issuer + "/keys", "authorization_endpoint": p.Issuer + "/auth", "token_endpoint": p.Issuer + "/token",
			"id_token_signing_alg_values_supported": []string{"ES256"}, "response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"},
		})
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.asked++; p.down {
			http.Error(w, "down", http.StatusServiceUnavailable)
			return
		}
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: p.key.Public(), KeyID: p.kid, Algorithm: "ES256", Use: "sig"}}})
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(lis) }()
	tb.Cleanup(func() { _ = srv.Close(); <-done })
	return p
}

// Rotate gives it another key; the one before is forgotten.
func (p *Provider) Rotate(tb testing.TB) {
	tb.Helper()
	key := newKey(tb)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.key, p.kid = key, newSerial(tb).String()
}

// SetDown makes it answer no more about its keys, or again.
func (p *Provider) SetDown(down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = down
}

// Asked is how often it was asked for its keys.
func (p *Provider) Asked() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

// Token is a token of a human who has just logged in at Kelpie, with the claims
// changed; a nil one is left out.
func (p *Provider) Token(tb testing.TB, changes map[string]any) string {
	tb.Helper()
	p.mu.Lock()
	key, kid := p.key, p.kid
	p.mu.Unlock()
	return p.TokenBy(tb, jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, changes)
}

// TokenBy is Token with another key.
func (p *Provider) TokenBy(tb testing.TB, key jose.SigningKey, changes map[string]any) string {
	tb.Helper()
	now := time.Now()
	claims := map[string]any{
		"iss": p.Issuer, "aud": "kelpie", "sub": "u-1", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
		"email": "security-oncall@example.com", "email_verified": true, "groups": []string{"staff"},
	}
	for name, value := range changes {
		if value == nil {
			delete(claims, name)
			continue
		}
		claims[name] = value
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		tb.Fatal(err)
	}
	signer, err := jose.NewSigner(key, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		tb.Fatal(err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		tb.Fatal(err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		tb.Fatal(err)
	}
	return token
}
