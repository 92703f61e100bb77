// Package webhook posts events to an HTTPS endpoint, signed as Standard Webhooks
// says (https://www.standardwebhooks.com). It calls no address that is not of the
// public Internet: a name is resolved once, what it resolves to is checked, and
// that very address is called.
//
// It is not for answers: what the endpoint says but for the status is not read.
//
//	c, err := webhook.New(webhook.Config{
//		Name: "tickets", URL: "https://hooks.example.com/kelpie", Secrets: webhook.SecretFiles("/run/secrets/hook"),
//	})
package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/kelpie-authz/kelpie/notify"
)

// Bounds of one call.
const (
	// Timeout is how long a call may take, from the look-up to the last byte.
	Timeout = 10 * time.Second

	maxAnswer  = 16 << 10
	maxHeaders = 16 << 10
	maxSecrets = 8
)

// Config says where to post. Name, URL and Secrets are needed.
type Config struct {
	// Name is the channel's, without the prefix "webhook:".
	Name string
	// URL is https, without a user; http is for loopback alone, see Loopback.
	URL string
	// Secrets returns whsec_ secrets, newest first; each one signs, so that a
	// secret can be changed without a gap. It is asked for each call.
	Secrets func() ([]string, error)
	// Types are those wanted; empty: all.
	Types []notify.Type
	// Loopback calls this machine too, also by http. For tests and development.
	Loopback bool
	// Resolve looks a name up. Nil: the system's resolver.
	Resolve Resolver
	// TLS verifies the endpoint's certificate. Nil: as the system does.
	TLS *tls.Config
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
}

// Channel implements [notify.Channel].
type Channel struct {
	cfg    Config
	client *http.Client
}

var _ notify.Channel = (*Channel)(nil)

// New makes a Channel, or says what of the configuration is wrong. It opens no
// connection, and reads the secrets once to see that they are there.
func New(cfg Config) (*Channel, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if err := CheckURL(cfg.URL, cfg.Loopback); err != nil {
		return nil, err
	}
	if cfg.Secrets == nil {
		return nil, errors.New("there are no secrets to sign by")
	}
	c := &Channel{cfg: cfg}
	if _, err := c.signers(); err != nil {
		return nil, err
	}
	transport := &http.Transport{
		// No proxy: it would resolve the name again, where nobody checks.
		Proxy:                  nil,
		DialContext:            (&dialer{resolve: cfg.Resolve, loopback: cfg.Loopback}).dial,
		DisableKeepAlives:      true, // Each call looks the name up and checks anew.
		MaxResponseHeaderBytes: maxHeaders,
		TLSHandshakeTimeout:    Timeout,
		TLSClientConfig:        cfg.TLS,
	}
	c.client = &http.Client{
		Transport: transport,
		Timeout:   Timeout,
		// A redirect could lead to where the URL may not.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

// CheckURL says what is wrong with an endpoint's URL; nil if nothing is. The text
// holds nothing of the URL but its scheme.
func CheckURL(text string, loopback bool) error {
	u, err := url.Parse(text)
	if err != nil {
		return errors.New("is not a URL; write https://HOST/PATH") // The cause repeats the URL, which can hold a secret.
	}
	switch {
	case u.Scheme != "https" && (u.Scheme != "http" || !loopback || !isLoopback(u.Hostname())):
		return fmt.Errorf("begins with %q; write https:// (http:// is for loopback alone, with `loopback: true`)", u.Scheme)
	case u.Host == "" || u.Hostname() == "":
		return errors.New("names no host; write https://HOST/PATH")
	case u.User != nil:
		return errors.New("holds a user or a password; the signature is what tells who calls")
	case u.Fragment != "":
		return errors.New("holds a fragment, which is never sent; leave it out")
	}
	return nil
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback() || strings.EqualFold(host, "localhost")
}

// Name implements [notify.Channel].
func (c *Channel) Name() string { return "webhook:" + c.cfg.Name }

// Wants implements [notify.Channel].
func (c *Channel) Wants(t notify.Type) bool {
	return len(c.cfg.Types) == 0 || slices.Contains(c.cfg.Types, t)
}

// payload is the body of a call.
type payload struct {
	Type      notify.Type `json:"type"`
	Timestamp time.Time   `json:"timestamp"`
	Data      data        `json:"data"`
}

type data struct {
	ApprovalID string     `json:"approval_id"`
	Digest     string     `json:"digest"`
	Agent      string     `json:"agent"`
	Subject    string     `json:"subject,omitempty"`
	Action     string     `json:"action"`
	Resource   string     `json:"resource"`
	Risk       string     `json:"risk,omitempty"`
	ExpiresAt  *time.Time `json:"expires_at,omitempty"`
}

// Deliver implements [notify.Channel]. Any 2xx takes the event. 410 ends the
// channel; other statuses of 400 to 499 are tried ten times at most, but for 408,
// 425 and 429.
func (c *Channel) Deliver(ctx context.Context, d *notify.Delivery) (string, error) {
	about := &d.Event.Approval
	body := payload{Type: d.Event.Type, Timestamp: d.Event.Time.UTC(), Data: data{
		ApprovalID: about.ID, Digest: about.Digest, Agent: about.Agent, Subject: about.Subject,
		Action: about.Action, Resource: about.Resource, Risk: about.Risk,
	}}
	if !about.ExpiresAt.IsZero() {
		at := about.ExpiresAt.UTC()
		body.Data.ExpiresAt = &at
	}
	raw, err := json.Marshal(&body)
	if err != nil {
		return "", fmt.Errorf("write the body: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.cfg.URL, bytes.NewReader(raw))
	if err != nil {
		return "", errors.New("the URL cannot be called")
	}
	if err := c.sign(req, d.Event.ID, raw); err != nil {
		return "", err
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return "", bare(err)
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.CopyN(io.Discard, resp.Body, maxAnswer) // Nothing in it matters.
	return "", c.judge(resp)
}

// sign sets the headers of Standard Webhooks.
func (c *Channel) sign(req *http.Request, id string, body []byte) error {
	signers, err := c.signers()
	if err != nil {
		return err
	}
	now := c.cfg.Now()
	signatures := make([]string, 0, len(signers))
	for _, s := range signers {
		signature, err := s.Sign(id, now, body)
		if err != nil {
			return fmt.Errorf("sign: %w", err)
		}
		signatures = append(signatures, signature)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "kelpie")
	req.Header.Set(standardwebhooks.HeaderWebhookID, id)
	req.Header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
	req.Header.Set(standardwebhooks.HeaderWebhookSignature, strings.Join(signatures, " "))
	return nil
}

// judge says why the endpoint did not take it; nil: it did.
func (c *Channel) judge(resp *http.Response) error {
	code := resp.StatusCode
	if code >= 200 && code <= 299 {
		return nil
	}
	r := &notify.RefusedError{Why: "the endpoint answered " + strconv.Itoa(code)}
	switch {
	case code == http.StatusGone:
		r.Gone = true
	case code >= 300 && code <= 399:
		r.Why += ", a redirect, which is not followed"
		r.Final = true
	case code == http.StatusTooManyRequests || code == http.StatusServiceUnavailable:
		r.RetryAfter = RetryAfter(resp.Header.Get("Retry-After"), c.cfg.Now())
	case code == http.StatusRequestTimeout || code == http.StatusTooEarly:
	case code >= 400 && code <= 499:
		r.Final = true
	}
	return r
}

// bare is an error of a call without the URL, which can hold a secret.
func bare(err error) error {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		return wrapped.Err
	}
	return err
}

// longestRetryAfter bounds for how long an endpoint can ask to be left alone.
const longestRetryAfter = time.Hour

// RetryAfter reads a Retry-After header: seconds, or a date of HTTP (RFC 9110
// section 10.2.3). The result is from 0, for nothing that can be read, to an hour.
func RetryAfter(header string, now time.Time) time.Duration {
	header = strings.TrimSpace(header)
	if header == "" {
		return 0
	}
	if strings.Trim(header, "0123456789") == "" {
		n, err := strconv.ParseUint(header, 10, 31)
		if err != nil {
			return longestRetryAfter // Too large a number.
		}
		return min(time.Duration(n)*time.Second, longestRetryAfter)
	}
	at, err := http.ParseTime(header)
	if err != nil {
		return 0
	}
	return min(max(at.Sub(now), 0), longestRetryAfter)
}
