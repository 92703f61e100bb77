// Package slack posts a card to a channel of Slack for each approval that waits,
// and edits it when the approval is decided, so that no card asks for what is
// over.
//
// It is not for answers: those come in at server/slackapi. A card may have
// buttons, whose value names the approval and proves that the card is ours.
//
//	c, err := slack.New(slack.Config{Channel: "C0123456789", Token: slack.TokenFile("/run/secrets/slack"), Look: look})
package slack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/slack-go/slack"

	"github.com/kelpie-authz/kelpie/notify"
)

// Name is the channel's in logs and metrics.
const Name = "slack"

// ErrNoApproval is what Config.Look returns for an approval that is not there any more.
var ErrNoApproval = errors.New("there is no such approval")

// Config is how Slack is reached. Channel, Token and Look are needed.
type Config struct {
	// Channel is the id of a channel that the bot is in.
	Channel string
	// Token returns the bot's token, which needs chat:write. It is asked for each call.
	Token func() (string, error)
	// Look returns an approval as it stands, or ErrNoApproval.
	Look func(ctx context.Context, id string) (*Card, error)
	// Value makes the value of a card's buttons for an approval; at most 2,000
	// bytes. Nil: cards have no buttons.
	Value func(approval string) (string, error)
	// APIURL is Slack's unless it is set, for tests; it ends with a slash.
	APIURL string
}

// Channel implements [notify.Channel]. It is safe for concurrent use.
type Channel struct {
	cfg    Config
	client *http.Client
}

var _ notify.Channel = (*Channel)(nil)

const (
	timeout   = 10 * time.Second
	maxAnswer = 1 << 20
)

// New makes a Channel, or says what of the configuration is wrong. It opens no
// connection, and reads the token once to see that it is there.
func New(cfg Config) (*Channel, error) {
	if cfg.Channel == "" || cfg.Token == nil || cfg.Look == nil {
		return nil, errors.New("slack: Config.Channel, Token or Look is missing")
	}
	if _, err := cfg.Token(); err != nil {
		return nil, err
	}
	return &Channel{cfg: cfg, client: &http.Client{
		Timeout:       timeout,
		Transport:     &bounded{&http.Transport{Proxy: nil, DisableKeepAlives: true, TLSHandshakeTimeout: timeout}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// bounded reads no more of an answer than there can sensibly be.
type bounded struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (b *bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.next.RoundTrip(r)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxAnswer), resp.Body}
	}
	return resp, err //nolint:wrapcheck // It is the transport's.
}

// TokenFile reads a token from a file at each call, so that it can be changed while
// the server runs. The end of its last line is left out.
func TokenFile(path string) func() (string, error) {
	const most = 4096
	return func() (string, error) {
		raw, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("read Slack's secret: %w", err)
		}
		text := strings.TrimRight(string(raw), "\r\n")
		if text == "" || len(text) > most || strings.ContainsAny(text, " \t\r\n") {
			return "", fmt.Errorf("read Slack's secret: %s holds none; write it alone, in one line", path)
		}
		return text, nil
	}
}

// Name implements [notify.Channel].
func (*Channel) Name() string { return Name }

// Wants implements [notify.Channel]: whatever ends a card edits it.
func (*Channel) Wants(notify.Type) bool { return true }

// receipt is where the card of an approval is.
type receipt struct {
	Channel string `json:"channel"`
	TS      string `json:"ts"`
	// Event is the one that it was posted for.
	Event string `json:"event"`
}

// Deliver implements [notify.Channel].
func (c *Channel) Deliver(ctx context.Context, d *notify.Delivery) (string, error) {
	var at receipt
	if d.Receipt != "" && json.Unmarshal([]byte(d.Receipt), &at) != nil {
		at = receipt{} // Of another release: it is posted anew.
	}
	if d.Event.Type == notify.Requested && at.Event == d.Event.ID || d.Event.Type != notify.Requested && at.TS == "" {
		return d.Receipt, nil // It is posted already, or there is none to edit.
	}
	card, err := c.cfg.Look(ctx, d.Event.Approval.ID)
	if errors.Is(err, ErrNoApproval) {
		return d.Receipt, nil
	}
	if err != nil {
		return "", fmt.Errorf("look at the approval: %w", err)
	}
	if d.Event.Type == notify.Requested {
		return c.post(ctx, d, card)
	}
	return d.Receipt, c.edit(ctx, &at, card)
}

func (c *Channel) api() (*slack.Client, error) {
	token, err := c.cfg.Token()
	if err != nil {
		return nil, err
	}
	options := []slack.Option{slack.OptionHTTPClient(c.client)}
	if c.cfg.APIURL != "" {
		options = append(options, slack.OptionAPIURL(c.cfg.APIURL))
	}
	return slack.New(token, options...), nil
}

// post asks for a yes, unless it was decided meanwhile.
func (c *Channel) post(ctx context.Context, d *notify.Delivery, card *Card) (string, error) {
	if !card.Pending {
		return d.Receipt, nil
	}
	value := ""
	if c.cfg.Value != nil && card.Buttons {
		var err error
		if value, err = c.cfg.Value(card.ID); err != nil {
			return "", err
		}
	}
	api, err := c.api()
	if err != nil {
		return "", err
	}
	channel, ts, err := api.PostMessageContext(ctx, c.cfg.Channel, message(card, value)...)
	if err != nil {
		return "", refusal(err)
	}
	raw, err := json.Marshal(&receipt{Channel: channel, TS: ts, Event: d.Event.ID})
	if err != nil {
		return "", fmt.Errorf("write down where the card is: %w", err)
	}
	return string(raw), nil
}

// edit takes the buttons off a card, and says what became of the approval.
func (c *Channel) edit(ctx context.Context, at *receipt, card *Card) error {
	api, err := c.api()
	if err != nil {
		return err
	}
	_, _, _, err = api.UpdateMessageContext(ctx, at.Channel, at.TS, message(card, "")...) //nolint:dogsled // What it says of the message is known.
	if answer, ok := errors.AsType[slack.SlackErrorResponse](err); ok {
		switch answer.Err {
		case "message_not_found", "cant_update_message", "edit_window_closed", "channel_not_found", "is_archived":
			return nil // Nobody can press its buttons either.
		}
	}
	return refusal(err)
}

// Tell shows one person a text in the channel, which nobody else sees. The text is
// ours, and shown as it is.
func (c *Channel) Tell(ctx context.Context, user, text string) error {
	api, err := c.api()
	if err != nil {
		return err
	}
	_, err = api.PostEphemeralContext(ctx, c.cfg.Channel, user, slack.MsgOptionText(text, true), slack.MsgOptionDisableMarkdown())
	return refusal(err)
}

// longestRetryAfter bounds for how long Slack can ask to be left alone.
const longestRetryAfter = time.Hour

// refusal is an error of Slack in the words of notify. It holds no token.
func refusal(err error) error {
	if err == nil {
		return nil
	}
	if limited, ok := errors.AsType[*slack.RateLimitedError](err); ok {
		return &notify.RefusedError{Why: "Slack's rate limit", RetryAfter: min(max(limited.RetryAfter, time.Second), longestRetryAfter)}
	}
	if answer, ok := errors.AsType[slack.SlackErrorResponse](err); ok {
		const most = 100
		return fmt.Errorf("the answer of Slack is %.*q", most, answer.Err)
	}
	return fmt.Errorf("ask Slack: %w", err)
}
