package config

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"

	configv1 "github.com/kelpie-authz/kelpie/gen/kelpie/config/v1"
)

// Slack is where cards of approvals are posted. The zero value is nowhere.
type Slack struct {
	// Channel is a channel's id; empty: there is none.
	Channel string
	// TokenFile holds the bot's token.
	TokenFile string
	// APIURL is empty for Slack's own.
	APIURL string
	// Addr is where answers come in; empty: none do.
	Addr string
	// SigningSecretFile, AppID and TeamID say whose calls are taken there.
	SigningSecretFile, AppID, TeamID string
	// Users are canonical names by Slack user id.
	Users map[string]string
}

func slackOf(m *configv1.Slack) Slack {
	return Slack{
		Channel: m.GetChannel(), TokenFile: m.GetTokenFile(), APIURL: m.GetApiUrl(), Addr: m.GetAddr(),
		SigningSecretFile: m.GetSigningSecretFile(), AppID: m.GetAppId(), TeamID: m.GetTeamId(), Users: m.GetUsers(),
	}
}

var (
	slackChannel = regexp.MustCompile(`^[CG][A-Z0-9]{2,31}$`)
	slackApp     = regexp.MustCompile(`^A[A-Z0-9]{2,31}$`)
	slackTeam    = regexp.MustCompile(`^T[A-Z0-9]{2,31}$`)
	slackUser    = regexp.MustCompile(`^[UW][A-Z0-9]{2,31}$`)
)

// checkSlack checks what can be seen without opening a file.
func (c *Config) checkSlack() []error {
	s := &c.Slack
	if reflect.ValueOf(*s).IsZero() {
		return nil
	}
	var faults []error
	if !slackChannel.MatchString(s.Channel) {
		faults = append(faults, fmt.Errorf("slack: channel: %q is not the id of one; write it as Slack's channel details show it, such as C0123456789", s.Channel))
	}
	if s.TokenFile == "" {
		faults = append(faults, errors.New("slack: token_file: is missing; name a file with the bot's token (xoxb-...)"))
	}
	if s.APIURL != "" {
		u, err := url.Parse(s.APIURL)
		if err != nil || u.Scheme != "http" || u.Port() == "" || !Local(u.Host) || u.User != nil || !strings.HasSuffix(s.APIURL, "/") {
			faults = append(faults, errors.New("slack: api_url: is for tests alone; write http://127.0.0.1:PORT/PATH/, or leave it out"))
		}
	}
	return append(faults, c.checkSlackAnswers()...)
}

// checkSlackAnswers checks what answers need: all of it, or nothing.
func (c *Config) checkSlackAnswers() []error {
	s := &c.Slack
	var faults []error
	add := func(format string, args ...any) { faults = append(faults, fmt.Errorf("slack: "+format, args...)) }
	if s.Addr == "" {
		if s.SigningSecretFile != "" || s.AppID != "" || s.TeamID != "" || len(s.Users) > 0 {
			add("addr: is missing, so no answer comes in; say where Slack's calls arrive, or leave signing_secret_file, app_id, team_id and users out")
		}
		return faults
	}
	if err := checkAddr(s.Addr); err != nil {
		add("addr: %w", err)
	} else if !Local(s.Addr) && c.TLSCert == "" && !c.Insecure {
		add("addr: %s is not a loopback address, and TLS is off: set tls_cert and tls_key, or listen on 127.0.0.1 or a unix socket behind what Slack can reach", s.Addr)
	}
	if s.SigningSecretFile == "" {
		add("signing_secret_file: is missing; name a file with the app's signing secret, or anybody could answer")
	}
	if !slackApp.MatchString(s.AppID) {
		add("app_id: %q is not the id of an app; write it as the app's page shows it, such as A0123456789", s.AppID)
	}
	if !slackTeam.MatchString(s.TeamID) {
		add("team_id: %q is not the id of a workspace; write it as the workspace's URL has it, such as T0123456789", s.TeamID)
	}
	if len(s.Users) == 0 {
		add("users: is missing, so nobody may answer; write a line for each human: U0123456789: ann@example.com")
	}
	for _, id := range slices.Sorted(maps.Keys(s.Users)) {
		if !slackUser.MatchString(id) {
			add("users: %q is not the id of a user; write it as the profile in Slack shows it, such as U0123456789", id)
		}
	}
	return faults
}
