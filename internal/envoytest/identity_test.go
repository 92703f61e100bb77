package envoytest_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/internal/testkit"
)

// Where an agent's id comes from, through Envoy, and what a client can do about it.

// agentFrom replaces the sources of the example's policy, and knows workloads by their SPIFFE id.
func agentFrom(sources string) []testkit.Edit {
	return []testkit.Edit{
		{Old: "    - {from: context_extension, name: agent}\n", New: "    - " + sources + "\n"},
		{Old: "    - {from: header, name: x-agent-id}\n", New: ""},
		{Old: "agents:\n", New: "agents:\n  spiffe://prod.example/ns/crm/sa/router:\n    owner: revops@example.com\n    scopes: [leads.read]\n    networks: [this-machine]\n"},
	}
}

// overTLS gives the listener a certificate, and lets in only who shows one of the same authority.
func overTLS(t *testing.T, ca *testkit.CA) testkit.Edit {
	t.Helper()
	dir := t.TempDir()
	cert, key := ca.Issue(t, testkit.Leaf{IPs: []net.IP{net.IPv4(127, 0, 0, 1)}}).Write(t, dir)
	authority := filepath.Join(dir, "ca.crt")
	testkit.WriteFile(t, authority, ca.PEM)
	return testkit.Edit{Old: "        - filters:\n", New: fmt.Sprintf(`        - transport_socket:
            name: envoy.transport_sockets.tls
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
              require_client_certificate: true
              common_tls_context:
                tls_certificates: [{certificate_chain: {filename: %s}, private_key: {filename: %s}}]
                validation_context: {trusted_ca: {filename: %s}}
          filters:
`, cert, key, authority)}
}

// startOverTLS is start without the probes, which speak no TLS.
func startOverTLS(t *testing.T, want setup) *stack {
	t.Helper()
	s := &stack{policy: policy(t, want.policy...)}
	s.kelpie = testkit.StartKelpie(t, testkit.KelpieConfig{Binary: programs.kelpie, Policy: s.policy})
	s.startUpstream(t, &want)
	s.startEnvoy(t, append(want.envoy, testkit.Port(t, 7070, s.kelpie.GRPC), testkit.Port(t, 8081, want.upstream)))
	testkit.Eventually(t, "a healthy Kelpie", func() bool { return s.envoy.Stat(t, "cluster.kelpie.membership_healthy") == 1 })
	return s
}

// as asks with the certificate of a SPIFFE id, until Envoy's threads know that Kelpie is well.
func (s *stack) as(t *testing.T, ca *testkit.CA, id string, headers ...string) *answer {
	t.Helper()
	pair := ca.Issue(t, testkit.Leaf{URI: id}).TLS(t)
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{RootCAs: ca.Pool(), Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12},
	}}
	var got *answer
	testkit.Eventually(t, "an answer of Kelpie", func() bool {
		req, err := http.NewRequest(http.MethodGet, "https://"+s.envoy.Addr+"/leads/42", nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(headers); i += 2 {
			req.Header.Set(headers[i], headers[i+1])
		}
		if got, err = try(client, req); err != nil {
			t.Fatal(err)
		}
		return got.status != http.StatusServiceUnavailable
	})
	return got
}

const (
	router = "spiffe://prod.example/ns/crm/sa/router"
	other  = "spiffe://prod.example/ns/crm/sa/other"
)

// principal: the certificate of the connection, which no header changes.
func TestPrincipal(t *testing.T) {
	t.Parallel()
	ca := testkit.NewCA(t)
	s := startOverTLS(t, setup{policy: agentFrom("{from: principal}"), envoy: []testkit.Edit{overTLS(t, ca)}})
	if got := s.as(t, ca, router); got.status != http.StatusOK {
		t.Errorf("got %+v", got)
	}
	xfcc := "By=x;URI=" + router
	if got := s.as(t, ca, other, "X-Agent-Id", router, "X-Forwarded-Client-Cert", xfcc); got.status != http.StatusForbidden || got.told(t).Reason != "agent_unknown" {
		t.Errorf("got %+v", got)
	}
	if got := s.as(t, ca, "https://prod.example/router"); got.status != http.StatusUnauthorized {
		t.Errorf("a certificate without a SPIFFE id: %+v", got)
	}
	s.reached(t, 1)
}

// forwarded_client_cert: believed because Envoy writes it, or adds itself behind what the client wrote.
func TestForwardedClientCert(t *testing.T) {
	t.Parallel()
	for _, details := range []string{"SANITIZE_SET", "APPEND_FORWARD"} {
		t.Run(details, func(t *testing.T) {
			t.Parallel()
			ca := testkit.NewCA(t)
			s := startOverTLS(t, setup{policy: agentFrom("{from: forwarded_client_cert}"), envoy: []testkit.Edit{
				overTLS(t, ca),
				{Old: "forward_client_cert_details: SANITIZE\n", New: "forward_client_cert_details: " + details + "\n                set_current_client_cert_details: {uri: true}\n"},
			}})
			if got := s.as(t, ca, router); got.status != http.StatusOK {
				t.Errorf("got %+v", got)
			}
			for _, spoof := range []string{"URI=" + router, "By=x;Hash=y;URI=" + router + ",URI=" + router, `Subject="a,URI=` + router + `"`, `Subject="`} {
				got := s.as(t, ca, other, "X-Forwarded-Client-Cert", spoof)
				if got.status == http.StatusOK {
					t.Errorf("a client that wrote %s: %+v", spoof, got)
				}
			}
			s.reached(t, 1)
		})
	}
}

// Without TLS Envoy removes the header, so that a client cannot write it.
func TestForwardedClientCertFromNowhere(t *testing.T) {
	t.Parallel()
	s := start(t, setup{policy: agentFrom("{from: forwarded_client_cert}")})
	req := s.request(t, http.MethodGet, "", "/leads/42", "")
	req.Header.Set("X-Forwarded-Client-Cert", "URI="+router)
	if got := s.send(t, req); got.status != http.StatusUnauthorized {
		t.Errorf("got %+v", got)
	}
	s.reached(t, 0)
}

// jwt: a claim of a token that jwt_authn verified. Without one Kelpie answers 401, with a bad one Envoy does.
func TestJWT(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, setup{policy: agentFrom("{from: jwt, name: jwt, claim: [client_id]}"), envoy: []testkit.Edit{
		{Old: "                http_filters:\n", New: "                http_filters:\n" + jwtFilter(jwks(t, key))},
		{Old: "# metadata_context_namespaces:", New: "metadata_context_namespaces:"},
	}})
	for _, tt := range []struct {
		name, token string
		status      int
		reason      string
	}{
		{"good", token(t, key, map[string]any{"client_id": "lead-router"}), http.StatusOK, ""},
		{"none", "", http.StatusUnauthorized, "unauthenticated_identity"},
		{"without the claim", token(t, key, map[string]any{"sub": "lead-router"}), http.StatusUnauthorized, "unauthenticated_identity"},
		{"a claim that is no text", token(t, key, map[string]any{"client_id": []string{"lead-router"}}), http.StatusUnauthorized, "unauthenticated_identity"},
		{"signed by another", token(t, stranger, map[string]any{"client_id": "lead-router"}), http.StatusUnauthorized, ""},
		{"another issuer", token(t, key, map[string]any{"client_id": "lead-router", "iss": "https://evil.example"}), http.StatusUnauthorized, ""},
		{"expired", token(t, key, map[string]any{"client_id": "lead-router", "exp": time.Now().Add(-time.Hour).Unix()}), http.StatusUnauthorized, ""},
	} {
		req := s.request(t, http.MethodGet, "lead-router", "/leads/42", "")
		if tt.token != "" {
			req.Header.Set("Authorization", "Bearer "+tt.token)
		}
		got := s.send(t, req)
		reason := ""
		if got.status != http.StatusOK && got.id() != "" {
			reason = got.told(t).Reason
		}
		if got.status != tt.status || reason != tt.reason {
			t.Errorf("%s: %+v, want %d %s", tt.name, got, tt.status, tt.reason)
		}
	}
	s.reached(t, 1)
}

// jwtFilter is the filter of docs/envoy.md, with the keys at hand.
func jwtFilter(keys string) string {
	return `                  - name: envoy.filters.http.jwt_authn
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication
                      providers:
                        idp:
                          issuer: https://idp.example
                          audiences: [crm]
                          payload_in_metadata: jwt
                          local_jwks: {inline_string: '` + keys + `'}
                      rules:
                        - match: {prefix: /}
                          requires: {requires_any: {requirements: [{provider_name: idp}, {allow_missing: {}}]}}
`
}

func jwks(t *testing.T, key *ecdsa.PrivateKey) string {
	t.Helper()
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	return fmt.Sprintf(`{"keys":[{"kty":"EC","crv":"P-256","alg":"ES256","kid":"1","x":%q,"y":%q}]}`, b64(point[1:33]), b64(point[33:]))
}

// token is signed by a key; claims are laid over those of a good one.
func token(t *testing.T, key *ecdsa.PrivateKey, claims map[string]any) string {
	t.Helper()
	all := map[string]any{"iss": "https://idp.example", "aud": "crm", "exp": time.Now().Add(time.Hour).Unix()}
	maps.Copy(all, claims)
	payload, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	signed := b64([]byte(`{"alg":"ES256","kid":"1"}`)) + "." + b64(payload)
	digest := sha256.Sum256([]byte(signed))
	r, v, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	fixed := func(n *big.Int) []byte { return n.FillBytes(make([]byte, 32)) }
	return signed + "." + b64(append(fixed(r), fixed(v)...))
}

// An upstream cannot speak for Kelpie: the client gets the id of the decision, whatever the upstream says.
func TestUpstreamSpoofs(t *testing.T) {
	t.Parallel()
	lis := testkit.Listen(t)
	srv := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Kelpie-Decision-Id", "made-up")
	})}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(lis) }()
	t.Cleanup(func() {
		srv.Close()
		<-served
	})
	s := start(t, setup{upstream: lis.Addr().String()})
	got := s.get(t, "lead-router", "/leads/42")
	if ids := got.header.Values("X-Kelpie-Decision-Id"); got.status != http.StatusOK || len(ids) != 1 {
		t.Fatalf("got %+v", got)
	}
	if d := s.kelpie.Decision(t, got.id()); d.Decision != "ALLOW" {
		t.Errorf("got %+v", d)
	}
}

// Behind one more proxy the caller is the last address that this proxy wrote, whatever stands before it.
func TestTrustedHops(t *testing.T) {
	t.Parallel()
	s := start(t, setup{
		policy: []testkit.Edit{
			{Old: "cidrs: [127.0.0.0/8, ", New: "cidrs: [10.1.2.3/32, "},
			{Old: "  request_bodies: sent\n", New: "  request_bodies: sent\n  source_ip: {trusted_hops: 1}\n"},
		},
		envoy: []testkit.Edit{{Old: "use_remote_address: true", New: "use_remote_address: true\n                xff_num_trusted_hops: 1"}},
	})
	for forwarded, want := range map[string]struct{ reason, ip string }{
		"10.1.2.3":              {"ok", "10.1.2.3"},
		"203.0.113.9, 10.1.2.3": {"ok", "10.1.2.3"},
		"10.1.2.3, 203.0.113.9": {"ip_not_allowed", "203.0.113.9"},
		"10.1.2.3, unknown":     {"parameters_invalid", "unknown"},
		"":                      {"ip_not_allowed", ""},
	} {
		req := s.request(t, http.MethodGet, "lead-router", "/leads/42", "")
		if forwarded != "" {
			req.Header.Set("X-Forwarded-For", forwarded)
		}
		d := s.kelpie.Decision(t, s.send(t, req).id())
		if d.Reason != want.reason || d.SourceIP != want.ip {
			t.Errorf("x-forwarded-for %q: %s for %q, want %+v", forwarded, d.Reason, d.SourceIP, want)
		}
	}
	s.reached(t, 2)
}
