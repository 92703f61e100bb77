// Package oidcid knows humans by the tokens of an OpenID Connect provider: those
// who decide approvals. What a token says is believed once its signature, issuer,
// audience and times are right (OpenID Connect Core 1.0, section 3.1.3.7), and it
// is a human's.
//
// It is not for agents: a token that was made for a machine is refused, as is one
// that an agent acts by.
//
//	v, err := oidcid.New(ctx, oidcid.Config{Issuer: "https://login.example.com", Audience: "kelpie"})
//	...
//	human, err := v.Verify(ctx, token)
package oidcid

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/time/rate"
)

// Config says whose tokens are believed. Issuer and Audience are needed.
type Config struct {
	// Issuer is the provider's URL, as its tokens have it in iss: https, or http on a
	// loopback address.
	Issuer string
	// Audience is the client or API that a token must be made for. No agent and no
	// other service may get tokens for it.
	Audience string
	// NameClaim is the claim that names the human; "": email, which then has to be
	// verified by the provider.
	NameClaim string
	// GroupsClaim is the claim that lists his groups; "": groups.
	GroupsClaim string
	// ACR are the values of acr that are strong enough; empty: any.
	ACR []string
	// MaxAge is for how long a log-in is good, by auth_time, or iat where there is
	// none. Zero: 12 hours.
	MaxAge time.Duration
	// Transport asks the provider. Nil: http.DefaultTransport.
	Transport http.RoundTripper
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
}

// Human is who a token is of.
type Human struct {
	// Name is what the name claim says, Groups what the groups claim does.
	Name   string
	Groups []string
}

const (
	defaultMaxAge = 12 * time.Hour
	// skew is how far the provider's clock may be ahead.
	skew           = time.Minute
	askTimeout     = 5 * time.Second
	maxNameBytes   = 1024
	maxGroups      = 500
	emailClaim     = "email"
	defaultGroups  = "groups"
	maxBodyOfAsker = 1 << 20
	// Whoever makes up the names of keys has the provider asked for each: so often it is
	// asked, and what it says then is known to all.
	asksPerSecond = 1
	mostAsks      = 10
)

// Errors of Verify, each wrapped with what is wrong.
var (
	// ErrRefused says that the token is not one that is believed.
	ErrRefused = errors.New("the token is refused")
	// ErrUnavailable says that the provider could not be asked for its keys.
	ErrUnavailable = errors.New("the identity provider cannot be asked")
)

// Verifier verifies tokens. It is safe for concurrent use.
type Verifier struct {
	cfg      Config
	verifier *oidc.IDTokenVerifier
}

// algorithms are those whose keys are public: with an HMAC, whoever verifies could
// sign (RFC 8725, section 3.1).
func algorithms() []string {
	return []string{oidc.RS256, oidc.RS384, oidc.RS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.PS256, oidc.PS384, oidc.PS512, oidc.EdDSA}
}

// New asks the provider how it is set up (OpenID Connect Discovery 1.0). The error
// says what is wrong with the configuration or with what it answered.
func New(ctx context.Context, cfg Config) (*Verifier, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if cfg.NameClaim == "" {
		cfg.NameClaim = emailClaim
	}
	if cfg.GroupsClaim == "" {
		cfg.GroupsClaim = defaultGroups
	}
	if cfg.MaxAge == 0 {
		cfg.MaxAge = defaultMaxAge
	}
	if cfg.Transport == nil {
		cfg.Transport = http.DefaultTransport
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	client := &http.Client{Timeout: askTimeout, Transport: bounded{cfg.Transport, rate.NewLimiter(asksPerSecond, mostAsks), cfg.Now}}
	// The provider keeps this context for as long as it asks for keys.
	provider, err := oidc.NewProvider(oidc.ClientContext(context.WithoutCancel(ctx), client), cfg.Issuer)
	if err != nil {
		return nil, fmt.Errorf("ask %s how it is set up: %w", cfg.Issuer, err)
	}
	return &Verifier{cfg: cfg, verifier: provider.Verifier(&oidc.Config{
		ClientID: cfg.Audience, SupportedSigningAlgs: algorithms(), Now: cfg.Now,
	})}, nil
}

func (c *Config) check() error {
	u, err := url.Parse(c.Issuer)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return errors.New("the issuer is no URL of a provider; write it as its tokens have it in iss: https://login.example.com")
	case u.Scheme != "https" && (u.Scheme != "http" || !loopback(u.Hostname())):
		return errors.New("the issuer is not https: whoever is on the way could make approvers; http is for a loopback address alone")
	case c.Audience == "":
		return errors.New("the audience is missing; name the client or API that only the log-ins of approvers are made for")
	case c.MaxAge < 0:
		return errors.New("the age of a log-in is negative; write a duration such as 12h")
	}
	return nil
}

func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback() || host == "localhost"
}

// errAskedOften is why the provider is not asked again at once.
var errAskedOften = errors.New("it was asked for its keys too often")

// bounded bounds how often a provider is asked, and cuts what it answers.
type bounded struct {
	next http.RoundTripper
	asks *rate.Limiter
	now  func() time.Time
}

// RoundTrip implements http.RoundTripper.
func (b bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	if !b.asks.AllowN(b.now(), 1) {
		return nil, errAskedOften
	}
	resp, err := b.next.RoundTrip(req)
	if err == nil {
		resp.Body = http.MaxBytesReader(nil, resp.Body, maxBodyOfAsker)
	}
	return resp, err //nolint:wrapcheck // The client wraps it.
}

// claims are those that say whether a token is a human's.
type claims struct {
	AuthorizedParty string          `json:"azp"`
	ClientID        string          `json:"client_id"`
	CID             string          `json:"cid"` // the client, where client_id is not said
	GrantType       string          `json:"gty"` // client-credentials: nobody logged in
	GrantTypeToo    string          `json:"grant_type"`
	Events          json.RawMessage `json:"events"` // of a logout or security event token (RFC 8417)
	TypeOfIdentity  string          `json:"idtyp"`  // app: nobody logged in
	Actor           json.RawMessage `json:"act"`
	EmailVerified   any             `json:"email_verified"`
	ACR             string          `json:"acr"`
	AuthTime        json.RawMessage `json:"auth_time"`
}

// Verify returns who a token is of. The error is an ErrRefused, an ErrUnavailable
// or ctx's, and holds nothing of the token.
func (v *Verifier) Verify(ctx context.Context, token string) (Human, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	t, err := v.verifier.Verify(ctx, token)
	if err != nil {
		return Human{}, v.failed(ctx, err)
	}
	all := map[string]any{}
	var raw json.RawMessage
	if err := errors.Join(t.Claims(&raw), t.Claims(&all)); err != nil {
		return Human{}, refuse("its claims cannot be read")
	}
	c, err := readClaims(raw)
	if err != nil {
		return Human{}, refuse("its claims cannot be read")
	}
	if name := misspelt(all, v.cfg); name != "" {
		return Human{}, refuse("it has a claim that some would read as " + name)
	}
	if err := v.checkClaims(t, &c); err != nil {
		return Human{}, err
	}
	return v.human(&c, all, t.Subject)
}

// misspelt is a claim that counts and that another one reads like but for capitals:
// the library that verifies tokens takes either for it.
func misspelt(all map[string]any, cfg Config) string {
	counts := []string{
		"iss", "sub", "aud", "exp", "iat", "nbf", "azp", "act", "client_id", "cid", "gty", "grant_type", "idtyp", "events", "email", "email_verified",
		"acr", "auth_time", cfg.NameClaim, cfg.GroupsClaim,
	}
	for claim := range all {
		for _, name := range counts {
			if claim != name && strings.EqualFold(claim, name) {
				return name
			}
		}
	}
	return ""
}

// readClaims reads claims by their exact names, each of which occurs once: a reader
// that takes EMAIL_VERIFIED for email_verified believes what others do not.
func readClaims(raw []byte) (c claims, err error) {
	err = jsonv2.Unmarshal(raw, &c, jsonv2.MatchCaseInsensitiveNames(false), jsontext.AllowDuplicateNames(false))
	return c, err //nolint:wrapcheck // Whoever reads them has words of his own.
}

// failed words what the library says, which can hold parts of the token.
func (v *Verifier) failed(ctx context.Context, err error) error {
	var expired *oidc.TokenExpiredError
	var dial net.Error
	text := err.Error()
	switch {
	case errors.As(err, &expired):
		return refuse("it has expired; log in again")
	case ctx.Err() != nil:
		return fmt.Errorf("%w: it did not answer in time", ErrUnavailable)
	case errors.As(err, &dial), strings.Contains(text, "fetching keys"), strings.Contains(text, "get keys failed"):
		return fmt.Errorf("%w: its keys could not be fetched", ErrUnavailable)
	case strings.Contains(text, "different provider"):
		return refuse("it is of another issuer than " + v.cfg.Issuer)
	case strings.Contains(text, "expected audience"):
		return refuse("it is not made for " + v.cfg.Audience)
	case strings.Contains(text, "nbf"):
		return refuse("it is not valid yet; see the clocks")
	case strings.Contains(text, "malformed"), strings.Contains(text, "unmarshal"):
		return refuse("it is not a token of an identity provider (a JWT)")
	default:
		return refuse("its signature is not one of the provider's")
	}
}

func refuse(why string) error { return fmt.Errorf("%w: %s", ErrRefused, why) }

func (v *Verifier) checkClaims(t *oidc.IDToken, c *claims) error {
	now := v.cfg.Now()
	since, err := loggedIn(t, c)
	switch {
	case err != nil:
		return err
	case since.After(now.Add(skew)) || t.IssuedAt.After(now.Add(skew)):
		return refuse("it is from the future; see the clocks")
	case now.Sub(since) >= v.cfg.MaxAge:
		return refuse(fmt.Sprintf("the log-in is older than %v; log in again", v.cfg.MaxAge))
	case len(c.Actor) > 0 && string(c.Actor) != "null":
		return refuse("somebody else acts by it (act): an agent decides nothing")
	case t.Subject == "" || slices.Contains([]string{c.ClientID, c.AuthorizedParty, c.CID}, t.Subject):
		return refuse("it is a machine's: its subject is the client itself")
	case plain(c.GrantType) == "clientcredentials" || plain(c.GrantTypeToo) == "clientcredentials" || strings.EqualFold(c.TypeOfIdentity, "app"):
		return refuse("it is a machine's: nobody logged in for it (gty, grant_type, idtyp)")
	case len(c.Events) > 0:
		return refuse("it tells of an event, such as a log-out, and not of a log-in (events)")
	case len(t.Audience) > 1 && c.AuthorizedParty != v.cfg.Audience:
		// Who asked for it may be any of the audiences, so an agent's client too.
		return refuse("it was made for another party (azp); have the provider make one for " + v.cfg.Audience + " alone")
	case len(v.cfg.ACR) > 0 && !slices.Contains(v.cfg.ACR, c.ACR):
		return refuse("the log-in was not strong enough (acr); it has to be " + strings.Join(v.cfg.ACR, " or "))
	}
	return nil
}

// plain is a name without what separates its words.
func plain(name string) string {
	return strings.NewReplacer("-", "", "_", "", " ", "").Replace(strings.ToLower(name))
}

// loggedIn is when the human logged in, as far as the token tells.
func loggedIn(t *oidc.IDToken, c *claims) (time.Time, error) {
	if text := string(c.AuthTime); text != "" && text != "null" {
		seconds, err := strconv.ParseFloat(text, 64)
		if err != nil || seconds < 0 || seconds > 1<<40 {
			return time.Time{}, refuse("its auth_time is no time")
		}
		return time.Unix(int64(seconds), 0), nil
	}
	if t.IssuedAt.Unix() <= 0 {
		return time.Time{}, refuse("it does not say when it was issued (iat)")
	}
	return t.IssuedAt, nil
}

// human reads who it is.
func (v *Verifier) human(c *claims, all map[string]any, subject string) (Human, error) {
	name, _ := all[v.cfg.NameClaim].(string)
	if v.cfg.NameClaim == "sub" {
		name = subject
	}
	switch {
	case name == "":
		return Human{}, refuse("it does not name a human (" + v.cfg.NameClaim + ")")
	case len(name) > maxNameBytes:
		return Human{}, refuse("the name in " + v.cfg.NameClaim + " is too long")
	case v.cfg.NameClaim == emailClaim && c.EmailVerified != true && c.EmailVerified != "true":
		return Human{}, refuse("the provider has not verified the email (email_verified)")
	}
	h := Human{Name: name}
	switch groups := all[v.cfg.GroupsClaim].(type) {
	case string:
		h.Groups = []string{groups}
	case []any:
		if len(groups) > maxGroups {
			return Human{}, refuse(fmt.Sprintf("it lists more than %d groups; have the provider send those that matter", maxGroups))
		}
		for _, g := range groups {
			if text, ok := g.(string); ok && text != "" {
				h.Groups = append(h.Groups, text)
			}
		}
	}
	return h, nil
}
