package testkit

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/slack-go/slack"
)

// SlackToken is what opens a [Slack].
const SlackToken = "xoxb-" + Secret

// Slack is a server that answers the calls of Slack's API that Kelpie makes, and
// holds messages to the bounds of Block Kit. Its API is at URL + "/api/".
type Slack struct {
	*httptest.Server

	tb testing.TB
	mu sync.Mutex
	// cards are the messages by ts, in the order in which they were posted.
	order []string
	cards map[string]*SlackMessage
	told  []SlackTold
	next  func(w http.ResponseWriter, method string) bool
	calls int
}

// SlackMessage is one message in a channel.
type SlackMessage struct {
	Channel, TS, Text string
	Blocks            string
	Edits             int
}

// SlackTold is what one person was shown.
type SlackTold struct{ Channel, User, Text string }

// NewSlack starts one, which ends with the test.
func NewSlack(tb testing.TB) *Slack {
	tb.Helper()
	s := &Slack{tb: tb, cards: map[string]*SlackMessage{}}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	tb.Cleanup(s.Close)
	return s
}

// Next lets f answer calls until it returns false once; nil: nobody does.
func (s *Slack) Next(f func(w http.ResponseWriter, method string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = f
}

// Calls is how many there were.
func (s *Slack) Calls() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

// Messages are those that were posted, as they are now.
func (s *Slack) Messages() []SlackMessage {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]SlackMessage, 0, len(s.order))
	for _, ts := range s.order {
		out = append(out, *s.cards[ts])
	}
	return out
}

// Told is what people were shown alone.
func (s *Slack) Told() []SlackTold {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.told)
}

func (s *Slack) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	method, ok := strings.CutPrefix(r.URL.Path, "/api/")
	if !ok || r.Method != http.MethodPost || r.ParseForm() != nil {
		s.tb.Errorf("Slack was asked %s %s", r.Method, r.URL)
		return
	}
	if s.next != nil {
		if s.next(w, method) {
			return
		}
		s.next = nil
	}
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if token == "" {
		token = r.PostForm.Get("token")
	}
	w.Header().Set("Content-Type", "application/json")
	if token != SlackToken {
		_, _ = fmt.Fprint(w, `{"ok":false,"error":"invalid_auth"}`)
		return
	}
	answer := map[string]any{"ok": true, "channel": r.PostForm.Get("channel")}
	if err := s.do(method, r, answer); err != "" {
		answer = map[string]any{"ok": false, "error": err}
	}
	raw, err := json.Marshal(answer)
	if err != nil {
		s.tb.Error(err)
	}
	_, _ = w.Write(raw)
}

// do changes what is there, and returns Slack's word for what is wrong.
func (s *Slack) do(method string, r *http.Request, answer map[string]any) string {
	form := r.PostForm
	if form.Get("channel") == "" {
		return "channel_not_found"
	}
	switch method {
	case "chat.postMessage":
		s.check(form.Get("blocks"))
		ts := "1781697600." + fmt.Sprintf("%06d", len(s.order)+1)
		s.order = append(s.order, ts)
		s.cards[ts] = &SlackMessage{Channel: form.Get("channel"), TS: ts, Text: form.Get("text"), Blocks: form.Get("blocks")}
		answer["ts"] = ts
	case "chat.update":
		s.check(form.Get("blocks"))
		m := s.cards[form.Get("ts")]
		if m == nil || m.Channel != form.Get("channel") {
			return "message_not_found"
		}
		m.Text, m.Blocks = form.Get("text"), form.Get("blocks")
		m.Edits++
		answer["ts"] = m.TS
	case "chat.postEphemeral":
		s.told = append(s.told, SlackTold{form.Get("channel"), form.Get("user"), form.Get("text")})
		answer["message_ts"] = strconv.Itoa(len(s.told))
	default:
		return "unknown_method"
	}
	return ""
}

// check holds blocks to the bounds of Block Kit, read by the vendor's library.
func (s *Slack) check(raw string) {
	var blocks slack.Blocks
	if err := json.Unmarshal([]byte(raw), &blocks); err != nil {
		s.tb.Errorf("blocks that Slack cannot read: %v: %s", err, raw)
		return
	}
	if n := len(blocks.BlockSet); n == 0 || n > 50 {
		s.tb.Errorf("%d blocks", n)
	}
	text := func(what string, t *slack.TextBlockObject, most int) {
		switch {
		case t == nil:
		case t.Type != slack.PlainTextType:
			s.tb.Errorf("%s is %s, and can hold markup", what, t.Type)
		case t.Emoji != nil && *t.Emoji:
			s.tb.Errorf("%s can hold emoji", what)
		case t.Text == "" || utf8.RuneCountInString(t.Text) > most:
			s.tb.Errorf("%s has %d characters, of at most %d", what, utf8.RuneCountInString(t.Text), most)
		}
	}
	for _, b := range blocks.BlockSet {
		switch b := b.(type) {
		case *slack.HeaderBlock:
			text("a header", b.Text, 150)
		case *slack.SectionBlock:
			text("a section", b.Text, 3000)
			if len(b.Fields) > 10 || b.Text == nil && len(b.Fields) == 0 {
				s.tb.Errorf("a section has %d fields", len(b.Fields))
			}
			for _, f := range b.Fields {
				text("a field", f, 2000)
			}
		case *slack.ActionBlock:
			for _, e := range b.Elements.ElementSet {
				if button, ok := e.(*slack.ButtonBlockElement); ok {
					text("a button", button.Text, 75)
					if len(button.Value) > 2000 {
						s.tb.Error("the value of a button is too long")
					}
				}
			}
		}
	}
}
