package slackapi

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"
)

// tolerance is how far the time of a signature may be off (docs.slack.dev,
// "Verifying requests from Slack").
const tolerance = 300 * time.Second

// verify tells what keeps a body from being Slack's, as an outcome; "" if nothing
// does. The body is as it came.
func verify(header http.Header, body []byte, secret string, now time.Time) string {
	stamp := header.Get("X-Slack-Request-Timestamp")
	at, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil || secret == "" {
		return Unsigned
	}
	if now.Sub(time.Unix(at, 0)).Abs() > tolerance {
		return Stale
	}
	mac := hmac.New(sha256.New, []byte(secret))
	_, _ = fmt.Fprintf(mac, "v0:%s:", stamp) // A hash takes all.
	_, _ = mac.Write(body)
	want := "v0=" + hex.EncodeToString(mac.Sum(nil))
	if !hmac.Equal([]byte(want), []byte(header.Get("X-Slack-Signature"))) {
		return Unsigned
	}
	return ""
}

// payload is what of a call is looked at.
type payload struct {
	Type      string `json:"type"`
	AppID     string `json:"api_app_id"`
	TriggerID string `json:"trigger_id"`
	Team      object `json:"team"`
	User      object `json:"user"`
	Channel   object `json:"channel"`
	Actions   []struct {
		ID    string `json:"action_id"`
		Value string `json:"value"`
		At    string `json:"action_ts"`
	} `json:"actions"`
}

type object struct {
	ID string `json:"id"`
}

// parse reads a verified body.
func parse(body []byte) (*payload, error) {
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, errors.New("it is no form")
	}
	if len(form["payload"]) != 1 {
		return nil, errors.New("it has no payload, or several")
	}
	var p payload
	if err := json.Unmarshal([]byte(form.Get("payload")), &p); err != nil {
		return nil, errors.New("its payload is not JSON")
	}
	return &p, nil
}

// The buttons of a card.
const (
	actionApprove = "kelpie_approve"
	actionDeny    = "kelpie_deny"
)

// click is one button that one user pressed.
type click struct {
	user, value string
	yes         bool
	// trigger and at name the press.
	trigger, at string
}

// click is the press that the payload tells of; false if it tells of none of ours.
func (p *payload) click() (*click, bool) {
	if p.Type != "block_actions" || len(p.Actions) != 1 || p.User.ID == "" {
		return nil, false
	}
	a := &p.Actions[0]
	if a.ID != actionApprove && a.ID != actionDeny || a.Value == "" || a.At == "" || p.TriggerID == "" {
		return nil, false
	}
	return &click{user: p.User.ID, value: a.Value, yes: a.ID == actionApprove, trigger: p.TriggerID, at: a.At}, true
}

// key is equal for one press told twice.
func (c *click) key() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "press %q %q %q", c.trigger, c.at, c.user))
	return string(sum[:])
}

func bodyKey(body []byte) string {
	sum := sha256.Sum256(append([]byte("body "), body...))
	return string(sum[:])
}

// seen remembers what came, for longer than a signature holds. It is bounded: when
// it is full nothing more is taken, rather than something taken twice.
type seen struct {
	mu   sync.Mutex
	at   map[string]time.Time
	last time.Time
}

const (
	seenFor = 2*tolerance + time.Minute
	maxSeen = 20_000
)

func newSeen() *seen { return &seen{at: map[string]time.Time{}} }

// add remembers keys, unless any of them is known, or there is no room; that is
// the outcome then.
func (s *seen) add(now time.Time, keys []string) (outcome string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.last) > time.Minute {
		s.last = now
		for key, at := range s.at {
			if now.Sub(at) > seenFor {
				delete(s.at, key)
			}
		}
	}
	for _, key := range keys {
		if _, known := s.at[key]; known {
			return Duplicate
		}
	}
	if len(s.at)+len(keys) > maxSeen {
		return Busy
	}
	for _, key := range keys {
		s.at[key] = now
	}
	return ""
}

func (s *seen) forget(keys []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range keys {
		delete(s.at, key)
	}
}
