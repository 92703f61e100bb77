package oidcid_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"go.uber.org/goleak"

	"github.com/kelpie-authz/kelpie/identity/oidcid"
	"github.com/kelpie-authz/kelpie/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newVerifier(tb testing.TB, p *testkit.Provider, change func(*oidcid.Config)) *oidcid.Verifier {
	tb.Helper()
	transport := &http.Transport{}
	tb.Cleanup(transport.CloseIdleConnections)
	cfg := oidcid.Config{Issuer: p.Issuer, Audience: "kelpie", Transport: transport}
	if change != nil {
		change(&cfg)
	}
	v, err := oidcid.New(context.Background(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return v
}

type claims = map[string]any

// What a token may say and be believed.
func TestHumans(t *testing.T) {
	t.Parallel()
	p := testkit.StartProvider(t)
	ago := func(d time.Duration) int64 { return time.Now().Add(-d).Unix() }
	for name, tc := range map[string]struct {
		change func(*oidcid.Config)
		claims claims
		name   string
		groups []string
	}{
		"plain":                 {nil, nil, "security-oncall@example.com", []string{"staff"}},
		"several audiences":     {nil, claims{"aud": []string{"other", "kelpie"}, "azp": "kelpie"}, "security-oncall@example.com", []string{"staff"}},
		"by subject":            {func(c *oidcid.Config) { c.NameClaim = "sub" }, claims{"email": nil}, "u-1", []string{"staff"}},
		"by another claim":      {func(c *oidcid.Config) { c.NameClaim = "upn" }, claims{"upn": "ann@corp", "email_verified": false}, "ann@corp", []string{"staff"}},
		"verified as a text":    {nil, claims{"email_verified": "true"}, "security-oncall@example.com", []string{"staff"}},
		"no groups":             {nil, claims{"groups": nil}, "security-oncall@example.com", nil},
		"one group":             {nil, claims{"groups": "sec"}, "security-oncall@example.com", []string{"sec"}},
		"groups elsewhere":      {func(c *oidcid.Config) { c.GroupsClaim = "roles" }, claims{"roles": []any{"a", 1, "", "b"}}, "security-oncall@example.com", []string{"a", "b"}},
		"strong enough":         {func(c *oidcid.Config) { c.ACR = []string{"x", "phr"} }, claims{"acr": "phr"}, "security-oncall@example.com", []string{"staff"}},
		"logged in hours ago":   {nil, claims{"auth_time": ago(11 * time.Hour)}, "security-oncall@example.com", []string{"staff"}},
		"nobody acts by it":     {nil, claims{"act": nil}, "security-oncall@example.com", []string{"staff"}},
		"a clock that is ahead": {nil, claims{"iat": ago(-30 * time.Second)}, "security-oncall@example.com", []string{"staff"}},
	} {
		got, err := newVerifier(t, p, tc.change).Verify(t.Context(), p.Token(t, tc.claims))
		if err != nil || got.Name != tc.name || !slices.Equal(got.Groups, tc.groups) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

// What is not believed, each for its own reason, and without a word of the token.
func TestRefused(t *testing.T) {
	t.Parallel()
	p := testkit.StartProvider(t)
	other := testkit.StartProvider(t)
	at := func(d time.Duration) int64 { return time.Now().Add(d).Unix() }
	good := p.Token(t, nil)
	parts := strings.Split(good, ".")
	b64 := base64.RawURLEncoding.EncodeToString
	theirs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	hmac := jose.SigningKey{Algorithm: jose.HS256, Key: []byte("0123456789abcdef0123456789abcdef")}
	strong := func(c *oidcid.Config) { c.ACR = []string{"phr"} }
	for name, tc := range map[string]struct {
		change func(*oidcid.Config)
		token  string
		want   string
	}{
		"nothing":               {nil, "", "not a token of an identity provider"},
		"no token":              {nil, "hunter2", "not a token of an identity provider"},
		"three dots":            {nil, "a.b.c", "not a token of an identity provider"},
		"expired":               {nil, p.Token(t, claims{"exp": at(-time.Second)}), "it has expired"},
		"no end":                {nil, p.Token(t, claims{"exp": nil}), "it has expired"},
		"not yet":               {nil, p.Token(t, claims{"nbf": at(time.Hour)}), "not valid yet"},
		"from the future":       {nil, p.Token(t, claims{"iat": at(time.Hour)}), "from the future"},
		"log-in of the future":  {nil, p.Token(t, claims{"auth_time": at(time.Hour)}), "from the future"},
		"no beginning":          {nil, p.Token(t, claims{"iat": nil}), "when it was issued"},
		"an old log-in":         {nil, p.Token(t, claims{"auth_time": at(-13 * time.Hour)}), "older than 12h0m0s"},
		"an odd time":           {nil, p.Token(t, claims{"auth_time": -1}), "auth_time is no time"},
		"another audience":      {nil, p.Token(t, claims{"aud": "agents"}), "not made for kelpie"},
		"no audience":           {nil, p.Token(t, claims{"aud": nil}), "not made for kelpie"},
		"another party":         {nil, p.Token(t, claims{"aud": []string{"kelpie", "x"}, "azp": "mallory"}), "another party (azp)"},
		"a party among those":   {nil, p.Token(t, claims{"aud": []string{"kelpie", "agents"}, "azp": "agents"}), "another party (azp)"},
		"no party of several":   {nil, p.Token(t, claims{"aud": []string{"kelpie", "agents"}}), "another party (azp)"},
		"another issuer":        {nil, p.Token(t, claims{"iss": "https://evil.example.com"}), "another issuer"},
		"another provider":      {nil, other.Token(t, claims{"iss": p.Issuer}), "signature is not one of the provider's"},
		"email not verified":    {nil, p.Token(t, claims{"email_verified": false}), "email_verified"},
		"nothing of the email":  {nil, p.Token(t, claims{"email_verified": nil}), "email_verified"},
		"no name":               {nil, p.Token(t, claims{"email": nil}), "does not name a human (email)"},
		"a name that is none":   {nil, p.Token(t, claims{"email": 5}), "does not name a human (email)"},
		"a long name":           {nil, p.Token(t, claims{"email": strings.Repeat("a", 1025)}), "too long"},
		"many groups":           {nil, p.Token(t, claims{"groups": slices.Repeat([]string{"g"}, 501)}), "more than 500 groups"},
		"weak":                  {strong, p.Token(t, claims{"acr": "pwd"}), "not strong enough"},
		"weak, and not told":    {strong, good, "not strong enough"},
		"an agent acts by it":   {nil, p.Token(t, claims{"act": claims{"sub": "agent"}}), "an agent decides nothing"},
		"a machine's, azp":      {nil, p.Token(t, claims{"sub": "svc", "azp": "svc"}), "a machine's"},
		"a machine's, client":   {nil, p.Token(t, claims{"sub": "svc", "client_id": "svc"}), "a machine's"},
		"a machine's, cid":      {nil, p.Token(t, claims{"sub": "svc", "cid": "svc"}), "a machine's"},
		"a machine's, gty":      {nil, p.Token(t, claims{"sub": "svc@clients", "azp": "svc", "gty": "client-credentials"}), "a machine's"},
		"a machine's, idtyp":    {nil, p.Token(t, claims{"idtyp": "app", "roles": []string{"security"}}), "a machine's"},
		"a machine's, other":    {nil, p.Token(t, claims{"gty": "Client_Credentials"}), "a machine's"},
		"a machine's, grant":    {nil, p.Token(t, claims{"grant_type": "client_credentials"}), "a machine's"},
		"a log-out":             {nil, p.Token(t, claims{"events": claims{"http://schemas.openid.net/event/backchannel-logout": claims{}}}), "a log-out"},
		"a subject in disguise": {func(c *oidcid.Config) { c.NameClaim = "sub" }, p.Token(t, claims{"sub": "mallory", "\u017fub": "alice@example.com"}), "some would read as sub"},
		"an issuer in disguise": {nil, p.Token(t, claims{"i\u017fs": p.Issuer}), "some would read as iss"},
		"verified in capitals":  {nil, p.Token(t, claims{"email_verified": nil, "EMAIL_VERIFIED": true}), "email_verified"},
		"of nobody":             {nil, p.Token(t, claims{"sub": ""}), "a machine's"},
		"not signed":            {nil, b64([]byte(`{"alg":"none","typ":"JWT"}`)) + "." + parts[1] + ".", "not a token of an identity provider"},
		"signature left out":    {nil, parts[0] + "." + parts[1] + ".", "signature"},
		"signed by an HMAC":     {nil, p.TokenBy(t, hmac, nil), "not a token of an identity provider"},
		"signed by another":     {nil, p.TokenBy(t, jose.SigningKey{Algorithm: jose.RS256, Key: theirs}, nil), "signature is not one of the provider's"},
		"another content":       {nil, parts[0] + "." + b64([]byte(`{"iss":"`+p.Issuer+`","aud":"kelpie","exp":99999999999,"email":"mallory@example.com"}`)) + "." + parts[2], "signature"},
	} {
		got, err := newVerifier(t, p, tc.change).Verify(t.Context(), tc.token)
		if !errors.Is(err, oidcid.ErrRefused) || !strings.Contains(err.Error(), tc.want) || got.Name != "" {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "mallory") || len(tc.token) > 20 && strings.Contains(err.Error(), tc.token[:20])) {
			t.Errorf("%s: the error tells of the token: %v", name, err)
		}
	}
}

// Keys come and go, and so does the provider; what it cannot vouch for is not believed.
func TestProviderChanges(t *testing.T) {
	t.Parallel()
	p := testkit.StartProvider(t)
	v := newVerifier(t, p, nil)
	before := p.Token(t, nil)
	if _, err := v.Verify(t.Context(), before); err != nil {
		t.Fatal(err)
	}
	p.SetDown(true)
	if _, err := v.Verify(t.Context(), before); err != nil {
		t.Errorf("with a key that is known, while the provider is away: %v", err)
	}
	p.Rotate(t)
	after := p.Token(t, nil)
	if _, err := v.Verify(t.Context(), after); !errors.Is(err, oidcid.ErrUnavailable) {
		t.Errorf("with a key that nobody can tell: %v", err)
	}
	p.SetDown(false)
	if _, err := v.Verify(t.Context(), after); err != nil {
		t.Errorf("with the new key: %v", err)
	}
	if _, err := v.Verify(t.Context(), before); !errors.Is(err, oidcid.ErrRefused) {
		t.Errorf("with the key of before: %v", err)
	}
}

// Whoever makes up keys has the provider asked a few times and not each time, and
// keeps nobody out for long.
func TestProviderIsNotAskedWithoutEnd(t *testing.T) {
	t.Parallel()
	p := testkit.StartProvider(t)
	begun := time.Now()
	var later atomic.Int64
	v := newVerifier(t, p, func(c *oidcid.Config) { c.Now = func() time.Time { return begun.Add(time.Duration(later.Load())) } })
	theirs := testkit.StartProvider(t)
	for range 100 {
		if _, err := v.Verify(t.Context(), theirs.Token(t, claims{"iss": p.Issuer})); err == nil {
			t.Fatal("a token by a key that the provider does not have is believed")
		}
	}
	if got := p.Asked(); got < 5 || got > 10 {
		t.Errorf("asked %d times for 100 tokens", got)
	}
	p.Rotate(t)
	if _, err := v.Verify(t.Context(), p.Token(t, nil)); !errors.Is(err, oidcid.ErrUnavailable) {
		t.Errorf("a key that cannot be asked for yet: %v", err)
	}
	later.Store(int64(time.Second))
	if _, err := v.Verify(t.Context(), p.Token(t, nil)); err != nil {
		t.Errorf("a second later: %v", err)
	}
}

func TestConfigIsRefused(t *testing.T) {
	t.Parallel()
	p := testkit.StartProvider(t)
	for name, tc := range map[string]struct {
		cfg  oidcid.Config
		want string
	}{
		"no issuer":         {oidcid.Config{Audience: "kelpie"}, "no URL of a provider"},
		"plain":             {oidcid.Config{Issuer: "http://login.example.com", Audience: "kelpie"}, "is not https"},
		"a user in it":      {oidcid.Config{Issuer: "https://a:b@login.example.com", Audience: "kelpie"}, "no URL of a provider"},
		"no audience":       {oidcid.Config{Issuer: p.Issuer}, "audience is missing"},
		"an age below zero": {oidcid.Config{Issuer: p.Issuer, Audience: "kelpie", MaxAge: -1}, "negative"},
		"nobody there":      {oidcid.Config{Issuer: "http://" + testkit.FreeAddr(t), Audience: "kelpie"}, "how it is set up"},
		"of another name":   {oidcid.Config{Issuer: strings.Replace(p.Issuer, "127.0.0.1", "localhost", 1), Audience: "kelpie"}, "how it is set up"},
	} {
		transport := &http.Transport{}
		tc.cfg.Transport = transport
		if _, err := oidcid.New(t.Context(), tc.cfg); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
		transport.CloseIdleConnections()
	}
}

// No bytes whatever are believed that the provider has not signed.
func FuzzVerify(f *testing.F) {
	p := testkit.StartProvider(f)
	v := newVerifier(f, p, nil)
	good := p.Token(f, nil)
	parts := strings.Split(good, ".")
	for _, seed := range []string{good, "", "..", parts[0] + "." + parts[1] + ".", parts[0] + ".e30." + parts[2], strings.Repeat("a.", 40)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, token string) {
		if strings.HasPrefix(token, good) {
			return
		}
		if got, err := v.Verify(t.Context(), token); err == nil && strings.TrimRight(token, "=") != good {
			t.Errorf("%q is believed: %+v", token, got)
		}
	})
}
