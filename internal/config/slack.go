package config

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// Slack is where cards of approvals are posted. The zero value is nowhere.
type Slack struct {
	// Channel is a channel's id; empty: there is none.
	Channel string
	// TokenFile holds the bot's token.
	TokenFile string
	// APIURL is empty for Slack's own.
	APIURL string
}

var slackChannel = regexp.MustCompile(`^[CG][A-Z0-9]{2,31}$`)

// checkSlack checks what can be seen without opening a file.
func (c *Config) checkSlack() []error {
	s := &c.Slack
	if *s == (Slack{}) {
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
	return faults
}
