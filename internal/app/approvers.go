package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	approvalv1 "github.com/kelpie-authz/kelpie/gen/kelpie/approval/v1"
	"github.com/kelpie-authz/kelpie/identity/oidcid"
	"github.com/kelpie-authz/kelpie/internal/config"
	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/server"
)

// verified tells whether approvers are known by more than the admin token.
func (a *App) verified() bool {
	return a.cfg.Approvers.ClientCA != "" || a.cfg.Approvers.OIDC.Issuer != "" || a.cfg.Slack.Addr != ""
}

// buildCallers makes what knows the callers of the admin listener.
func (a *App) buildCallers(ctx context.Context) error {
	refused := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kelpie_admin_refused_total", Help: "Calls of the admin listener that were refused, by how their callers wanted to be known: none, token, mtls, oidc.",
	}, []string{"how"})
	for _, how := range []string{"none", "token", pdp.KnownByMTLS, pdp.KnownByOIDC} {
		refused.WithLabelValues(how)
	}
	a.callers = &server.Callers{
		Token: a.token, Certificates: a.cfg.Approvers.ClientCA != "", Humans: []string{approvalv1.ApprovalService_ServiceDesc.ServiceName},
		Approver: func(p pdp.Person) bool {
			snap := a.policy.Snapshot()
			return snap != nil && snap.Approver(p.Name, p.Groups)
		},
		Refused: func(how string, err error) {
			refused.WithLabelValues(how).Inc()
			a.log.WarnContext(ctx, "a call of the admin listener was refused", slog.String("known_by", how), slog.String("why", status.Convert(err).Message()))
		},
	}
	if a.cfg.Approvers.OIDC.Issuer != "" {
		verifier, err := newVerifier(ctx, &a.cfg.Approvers.OIDC)
		if err != nil {
			return fmt.Errorf("approver_oidc_issuer: %w", err)
		}
		a.callers.Provider = personOf(verifier)
	}
	return a.register(refused)
}

func newVerifier(ctx context.Context, c *config.OIDC) (*oidcid.Verifier, error) {
	cfg := oidcid.Config{
		Issuer: c.Issuer, Audience: c.Audience, NameClaim: c.NameClaim, GroupsClaim: c.GroupsClaim, ACR: c.ACR, MaxAge: c.MaxAge,
	}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, fmt.Errorf("approver_oidc_ca: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("approver_oidc_ca: %s holds no certificate in PEM", c.CA)
		}
		cfg.Transport = &http.Transport{
			Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
		}
	}
	return oidcid.New(ctx, cfg)
}

// personOf makes a person of a token.
func personOf(v *oidcid.Verifier) func(ctx context.Context, token string) (pdp.Person, error) {
	return func(ctx context.Context, token string) (pdp.Person, error) {
		human, err := v.Verify(ctx, token)
		switch {
		case errors.Is(err, oidcid.ErrUnavailable):
			return pdp.Person{}, status.Error(codes.Unavailable, err.Error()+"; try again")
		case err != nil:
			return pdp.Person{}, status.Error(codes.Unauthenticated, err.Error())
		}
		return pdp.Person{Name: human.Name, How: pdp.KnownByOIDC, Groups: human.Groups}, nil
	}
}

// callerOf is the person behind a call of the admin listener.
func callerOf(ctx context.Context) (pdp.Person, error) {
	p, ok := server.Caller(ctx)
	if !ok {
		return p, errors.New("it is not known who you are")
	}
	return p, nil
}

// adminTLS is the TLS of the admin listener: where approvers are known by certificates
// or by tokens, those of gateways are none there, and a token will do.
func (a *App) adminTLS() (*server.TLSKeeper, error) {
	if a.tls == nil || a.cfg.Approvers.ClientCA == "" && a.cfg.Approvers.OIDC.Issuer == "" {
		return a.tls, nil
	}
	if err := a.authoritiesApart(); err != nil {
		return nil, err
	}
	keeper, err := server.NewTLSKeeper(server.TLSFiles{Cert: a.cfg.TLSCert, Key: a.cfg.TLSKey, ClientCA: a.cfg.Approvers.ClientCA, Others: a.cfg.ClientCA, Optional: true})
	if err != nil {
		return nil, fmt.Errorf("approver_client_ca: %w", err)
	}
	return keeper, nil
}

// authoritiesApart says why a gateway could pass for an approver, or the other way round.
func (a *App) authoritiesApart() error {
	if a.cfg.ClientCA == "" || a.cfg.Approvers.ClientCA == "" {
		return nil
	}
	if err := server.Apart(a.cfg.Approvers.ClientCA, a.cfg.ClientCA); err != nil {
		return fmt.Errorf("approver_client_ca: %w; give approvers an authority of their own", err)
	}
	return nil
}

// keepers are those that are set, once each.
func (a *App) keepers() []*server.TLSKeeper {
	all := slices.DeleteFunc([]*server.TLSKeeper{a.tls, a.tlsAdmin, a.slack.tls}, func(k *server.TLSKeeper) bool { return k == nil })
	return slices.Compact(all)
}
