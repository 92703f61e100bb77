package app

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kelpie-authz/kelpie/notify/slack"
	"github.com/kelpie-authz/kelpie/server"
	"github.com/kelpie-authz/kelpie/server/slackapi"
)

// slackAnswers are the parts that take what people press in Slack. The zero value
// takes nothing.
type slackAnswers struct {
	listener net.Listener
	tls      *server.TLSKeeper
	handler  *slackapi.Handler
	http     *http.Server
	// ended is closed once nothing more can be queued.
	ended chan struct{}
}

// buildSlack opens where Slack's calls arrive, if anything is decided over Slack.
func (a *App) buildSlack(ctx context.Context) error {
	s := &a.cfg.Slack
	if s.Addr == "" {
		return nil
	}
	outcomes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kelpie_slack_answers_total", Help: "Calls that say they are Slack's, by what became of them.",
	}, []string{"outcome"})
	for _, outcome := range slackapi.Outcomes() {
		outcomes.WithLabelValues(outcome)
	}
	if err := a.register(outcomes); err != nil {
		return err
	}
	var err error
	a.slack.handler, err = slackapi.New(slackapi.Config{
		Desk: a.approvals.desk, Secret: slack.TokenFile(s.SigningSecretFile), AppID: s.AppID, TeamID: s.TeamID, Channel: s.Channel, Users: s.Users,
		Approval: a.cardOfValue, Tell: a.notices.slack.Tell, Log: a.log, Now: a.deps.Now,
		Count: func(outcome string) { outcomes.WithLabelValues(outcome).Inc() },
	})
	if err != nil {
		return fmt.Errorf("slack: signing_secret_file: %w", err)
	}
	lis, err := server.Listen(ctx, s.Addr)
	if err != nil {
		return fmt.Errorf("slack: addr: %w", err)
	}
	a.slack.listener = lis
	if a.tls != nil {
		// Slack has no certificate of ours: the signature is what tells.
		a.slack.tls, err = server.NewTLSKeeper(server.TLSFiles{Cert: a.cfg.TLSCert, Key: a.cfg.TLSKey})
		if err != nil {
			return fmt.Errorf("slack: TLS: %w", err)
		}
		cfg := a.slack.tls.Config()
		cfg.NextProtos = append(cfg.NextProtos, "http/1.1")
		a.slack.listener = tls.NewListener(lis, cfg)
	}
	a.slack.http = server.NewHTTP(a.slack.handler)
	a.slack.http.ErrorLog = slog.NewLogLogger(a.log.Handler(), slog.LevelDebug)
	a.slack.ended = make(chan struct{})
	if a.cfg.Approvers.ClientCA == "" && a.cfg.Approvers.OIDC.Issuer == "" {
		a.log.WarnContext(ctx, "approvers are known by Slack alone: the admin token decides nothing, and nobody can decide what has risk delete or admin; "+
			"set approver_oidc_issuer or approver_client_ca", slog.String("key", "slack"))
	}
	return nil
}

func (s *slackAnswers) serve() error {
	if s.http == nil {
		return nil
	}
	if err := s.http.Serve(s.listener); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("slack: addr: %w", err)
	}
	return nil
}

// work counts answers until nothing more can come in after ctx ended.
func (s *slackAnswers) work(ctx context.Context) {
	if s.handler == nil {
		return
	}
	ending, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	go func() {
		defer end()
		<-s.ended
	}()
	s.handler.Run(ending)
}

func (s *slackAnswers) drain(ctx context.Context) error {
	if s.http == nil {
		return nil
	}
	defer close(s.ended)
	if err := s.http.Shutdown(ctx); err != nil {
		return s.http.Close() //nolint:wrapcheck // Nobody can mend it.
	}
	return nil
}

// cardMAC proves that a card is ours: of this channel, and of this approval.
func (a *App) cardMAC(approval string) ([]byte, error) {
	secret, err := slack.TokenFile(a.cfg.Slack.SigningSecretFile)()
	if err != nil {
		return nil, err
	}
	mac := hmac.New(sha256.New, []byte(secret))
	_, _ = fmt.Fprintf(mac, "kelpie-slack-card-v1\x00%s\x00%s", a.cfg.Slack.Channel, approval) // A hash takes all.
	return mac.Sum(nil)[:16], nil
}

// cardValue is the value of an approval's buttons: its id and the proof.
func (a *App) cardValue(approval string) (string, error) {
	mac, err := a.cardMAC(approval)
	if err != nil {
		return "", err
	}
	return approval + "." + hex.EncodeToString(mac), nil
}

// cardOfValue reads the value of a button.
func (a *App) cardOfValue(value string) (approval string, ours bool) {
	approval, digits, _ := strings.Cut(value, ".")
	got, err := hex.DecodeString(digits)
	if err != nil {
		return "", false
	}
	want, err := a.cardMAC(approval)
	if err != nil || !hmac.Equal(got, want) {
		return "", false
	}
	return approval, true
}
