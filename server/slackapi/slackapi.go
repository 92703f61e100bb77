// Package slackapi is the door for what people press on cards in Slack: it
// verifies that a call is Slack's, of our app and workspace, and hands the word to
// the desk as that of the human behind the Slack user.
//
// It is not for cards, which notify/slack posts, and it decides nothing: whose word
// counts is the desk's to say.
//
//	h, err := slackapi.New(slackapi.Config{Desk: desk, Secret: secret, AppID: "A1", TeamID: "T1", Channel: "C1", ...})
//	...
//	go h.Run(ctx)
//	err = server.NewHTTP(h).Serve(listener) // POST /slack/interactions
package slackapi

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/kelpie-authz/kelpie/pdp"
)

// Path is where Slack posts what people press.
const Path = "/slack/interactions"

// Bounds of what is taken.
const (
	maxBody    = 64 << 10
	maxQueue   = 64
	workWithin = 30 * time.Second
)

// Config is what a [Handler] is made of. All but Count and Now are needed.
type Config struct {
	Desk pdp.ApprovalDesk
	// Secret returns the app's signing secret. It is asked for each call.
	Secret func() (string, error)
	// AppID, TeamID and Channel are those whose calls are taken.
	AppID, TeamID, Channel string
	// Users are the canonical names of humans by Slack user id. Nothing else that a
	// call says of its user is looked at.
	Users map[string]string
	// Approval reads a button's value: which approval it is of, and whether the
	// card is ours.
	Approval func(value string) (id string, ours bool)
	// Tell shows one user a text, alone.
	Tell func(ctx context.Context, user, text string) error
	Log  *slog.Logger
	// Count is told what became of each call: one of Outcomes. Nil: nobody is told.
	Count func(outcome string)
	// Now is the clock. Nil: time.Now.
	Now func() time.Time
}

// Outcomes of calls.
const (
	Unsigned  = "unsigned"  // the signature is not Slack's
	Stale     = "stale"     // the signature's time is more than five minutes off
	Foreign   = "foreign"   // of another app, workspace or channel
	Malformed = "malformed" // it cannot be read, or is too large
	Duplicate = "duplicate" // it came before
	Busy      = "busy"      // too many wait
	Ignored   = "ignored"   // nothing that we asked for
	Unknown   = "unknown"   // of a user, or on a card, that we do not know
	Counted   = "counted"   // the word counts
	Refused   = "refused"   // the desk did not take it
)

// Outcomes are all there are, for a metric of each.
func Outcomes() []string {
	return []string{Unsigned, Stale, Foreign, Malformed, Duplicate, Busy, Ignored, Unknown, Counted, Refused}
}

// Handler is an http.Handler. Make it with New, and let Run work for it.
type Handler struct {
	cfg   Config
	queue chan *click
	seen  *seen
}

// New makes a Handler, or says what of the configuration is missing.
func New(cfg Config) (*Handler, error) {
	if cfg.Desk == nil || cfg.Secret == nil || cfg.AppID == "" || cfg.TeamID == "" || cfg.Channel == "" || cfg.Approval == nil || cfg.Tell == nil || cfg.Log == nil {
		return nil, errors.New("slackapi: a part of Config is missing; without it anybody's answers would be taken, or nobody's")
	}
	if _, err := cfg.Secret(); err != nil {
		return nil, err
	}
	if cfg.Count == nil {
		cfg.Count = func(string) {}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Handler{cfg: cfg, queue: make(chan *click, maxQueue), seen: newSeen()}, nil
}

// ServeHTTP implements http.Handler. It answers at once; the work is Run's.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	code, outcome := h.take(w, r)
	if outcome != "" {
		h.cfg.Count(outcome)
		h.cfg.Log.WarnContext(r.Context(), "a call that says it is Slack's was not taken", slog.String("why", outcome))
	}
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
}

// take verifies a call and queues it. outcome is "" if it was.
func (h *Handler) take(w http.ResponseWriter, r *http.Request) (code int, outcome string) {
	if r.URL.Path != Path {
		return http.StatusNotFound, Ignored
	}
	if r.Method != http.MethodPost {
		return http.StatusMethodNotAllowed, Ignored
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return http.StatusRequestEntityTooLarge, Malformed
	}
	secret, err := h.cfg.Secret()
	if err != nil {
		h.cfg.Log.ErrorContext(r.Context(), "Slack's signing secret cannot be read; no answer is taken", slog.Any("error", err))
		return http.StatusServiceUnavailable, Busy
	}
	now := h.cfg.Now()
	// Before anything of it is read.
	if outcome := verify(r.Header, body, secret, now); outcome != "" {
		return http.StatusUnauthorized, outcome
	}
	p, err := parse(body)
	if err != nil {
		return http.StatusBadRequest, Malformed
	}
	if p.AppID != h.cfg.AppID || p.Team.ID != h.cfg.TeamID {
		return http.StatusForbidden, Foreign
	}
	c, ok := p.click()
	if !ok {
		return http.StatusOK, Ignored
	}
	if p.Channel.ID != h.cfg.Channel {
		return http.StatusForbidden, Foreign
	}
	return h.enqueue(c, body, now)
}

// enqueue queues a press that did not come before.
func (h *Handler) enqueue(c *click, body []byte, now time.Time) (code int, outcome string) {
	keys := []string{bodyKey(body), c.key()}
	switch outcome := h.seen.add(now, keys); outcome {
	case "":
	case Duplicate:
		return http.StatusOK, Duplicate
	default:
		return http.StatusServiceUnavailable, outcome
	}
	select {
	case h.queue <- c:
		return http.StatusOK, ""
	default:
		h.seen.forget(keys)
		return http.StatusServiceUnavailable, Busy // Slack tells the user so.
	}
}

// Run counts the words that were taken, until ctx ends; those that wait then are
// counted still. Call it once.
func (h *Handler) Run(ctx context.Context) {
	for {
		select {
		case c := <-h.queue:
			h.work(ctx, c)
			continue
		case <-ctx.Done():
		}
		select {
		case c := <-h.queue:
			h.work(ctx, c)
		default:
			return
		}
	}
}
