package slack_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kelpie-authz/kelpie/internal/testkit"
	"github.com/kelpie-authz/kelpie/notify"
	"github.com/kelpie-authz/kelpie/notify/slack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const approval = "apr_00112233445566778899aabbccddeeff"

func card() *slack.Card {
	return &slack.Card{
		ID: approval, Digest: "898ef09ddf043305bc57ebe216baf3a6", Pending: true, Buttons: true, State: "pending", Risk: "write", Action: "refund", Agent: "billing",
		Owner: "finance@example.com", Resource: "stripe/refunds/1", Needs: []string{"approvals/large: 0 of 1 said yes, of finance"},
		Known: []slack.Fact{{"source_ip", "10.8.0.5"}}, Said: []slack.Fact{{"parameters.amount", "820"}},
		ExpiresAt: time.Date(2026, 6, 17, 12, 15, 0, 0, time.UTC),
	}
}

// desk is a Slack and a channel to it over one approval.
type desk struct {
	*testkit.Slack
	*slack.Channel
	card  *slack.Card
	token string
}

func newDesk(t *testing.T, change func(*slack.Config)) *desk {
	t.Helper()
	d := &desk{Slack: testkit.NewSlack(t), card: card(), token: filepath.Join(t.TempDir(), "token")}
	testkit.WriteFile(t, d.token, []byte(testkit.SlackToken+"\n"))
	cfg := slack.Config{
		Channel: "C1", Token: slack.TokenFile(d.token), APIURL: d.URL + "/api/",
		Value: func(id string) (string, error) { return "value of " + id, nil },
		Look: func(_ context.Context, id string) (*slack.Card, error) {
			if d.card == nil {
				return nil, slack.ErrNoApproval
			}
			if d.card.ID != id {
				return nil, errors.New("another approval")
			}
			return d.card, nil
		},
	}
	if change != nil {
		change(&cfg)
	}
	c, err := slack.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	d.Channel = c
	return d
}

func (d *desk) deliver(t *testing.T, kind notify.Type, version, receipt string) string {
	t.Helper()
	got, err := d.Deliver(t.Context(), event(kind, version, receipt))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func event(kind notify.Type, version, receipt string) *notify.Delivery {
	return &notify.Delivery{Channel: slack.Name, Receipt: receipt, Event: notify.Event{
		ID: approval + "_" + string(kind)[9:] + "_" + version, Type: kind, Approval: notify.About{ID: approval},
	}}
}

// A card is posted once, and loses its buttons when it is decided.
func TestCardIsPostedAndEdited(t *testing.T) {
	t.Parallel()
	d := newDesk(t, nil)
	receipt := d.deliver(t, notify.Requested, "1", "")
	if again := d.deliver(t, notify.Requested, "1", receipt); again != receipt {
		t.Errorf("receipt %s", again)
	}
	all := d.Messages()
	if len(all) != 1 || !strings.Contains(all[0].Blocks, `"kelpie_approve"`) || !strings.Contains(all[0].Blocks, "value of "+approval) || all[0].Channel != "C1" {
		t.Fatalf("posted %+v", all)
	}
	if all[0].Text != "Approval "+approval+": pending" {
		t.Errorf("a notification shows %q", all[0].Text)
	}
	d.card.Pending, d.card.State, d.card.Why = false, "denied by ann@example.com", "not today"
	if got := d.deliver(t, notify.Denied, "2", receipt); got != receipt {
		t.Errorf("receipt %s", got)
	}
	all = d.Messages()
	if len(all) != 1 || all[0].Edits != 1 || strings.Contains(all[0].Blocks, "button") || !strings.Contains(all[0].Blocks, "denied by ann@example.com") || !strings.Contains(all[0].Blocks, "not today") {
		t.Errorf("edited %+v", all)
	}
	// Asked again, it is another card.
	d.card.Pending, d.card.State = true, "pending"
	if got := d.deliver(t, notify.Requested, "4", receipt); got == receipt || len(d.Messages()) != 2 {
		t.Errorf("asked again: %s, %d cards", got, len(d.Messages()))
	}
}

// Nothing is posted of what is over, nor edited where no card is.
func TestNothingToDo(t *testing.T) {
	t.Parallel()
	d := newDesk(t, nil)
	d.deliver(t, notify.Denied, "2", "")
	d.card.Pending = false
	d.deliver(t, notify.Requested, "1", "")
	d.card = nil
	d.deliver(t, notify.Requested, "1", "")
	d.deliver(t, notify.Denied, "1", `{"channel":"C1","ts":"1"}`)
	if n := d.Calls(); n != 0 {
		t.Errorf("%d calls", n)
	}
	// A card that was removed by hand is no failure.
	d.card = card()
	d.card.Pending = false
	d.deliver(t, notify.Denied, "2", `{"channel":"C1","ts":"7"}`)
	if n := d.Calls(); n != 1 {
		t.Errorf("%d calls", n)
	}
}

// Where nobody may decide over Slack there is no button, but a command.
func TestNoButtons(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*slack.Config, *slack.Card){
		"answers are off":      func(c *slack.Config, _ *slack.Card) { c.Value = nil },
		"the risk is too high": func(_ *slack.Config, c *slack.Card) { c.Buttons = false },
		"the resource is cut":  func(_ *slack.Config, c *slack.Card) { c.Resource = strings.Repeat("r", 701) },
		"a fact is left out": func(_ *slack.Config, c *slack.Card) {
			for range 100 {
				c.Said = append(c.Said, slack.Fact{Name: strings.Repeat("n", 20), Value: strings.Repeat("v", 20)})
			}
		},
		"a fact is cut": func(_ *slack.Config, c *slack.Card) {
			c.Said = append(c.Said, slack.Fact{Name: "n", Value: strings.Repeat("v", 701)}, slack.Fact{Name: "m", Value: "v"})
		},
		"a known fact is cut":  func(_ *slack.Config, c *slack.Card) { c.Known[0].Value = strings.Repeat("v", 701) },
		"a fact's name is cut": func(_ *slack.Config, c *slack.Card) { c.Said[0].Name = strings.Repeat("n", 701) },
		"the action is cut":    func(_ *slack.Config, c *slack.Card) { c.Action = strings.Repeat("a", 101) },
	} {
		one := card()
		d := newDesk(t, func(c *slack.Config) { change(c, one) })
		d.card = one
		d.deliver(t, notify.Requested, "1", "")
		all := d.Messages()
		if len(all) != 1 || strings.Contains(all[0].Blocks, "kelpie_approve") || strings.Contains(all[0].Blocks, "kelpie_deny") ||
			!strings.Contains(all[0].Blocks, "kelpie approvals show "+approval) {
			t.Errorf("%s: %+v", name, all)
		}
	}
}

func TestSlackRefuses(t *testing.T) {
	t.Parallel()
	d := newDesk(t, nil)
	status := func(code int, headers ...string) {
		d.Next(func(w http.ResponseWriter, _ string) bool {
			for i := 0; i+1 < len(headers); i += 2 {
				w.Header().Set(headers[i], headers[i+1])
			}
			w.WriteHeader(code)
			return true
		})
	}
	try := func() error {
		_, err := d.Deliver(t.Context(), event(notify.Requested, "1", ""))
		if err == nil || strings.Contains(err.Error(), testkit.Secret) {
			t.Errorf("the error is %v", err)
		}
		return err
	}
	status(429, "Retry-After", "30")
	var refused *notify.RefusedError
	if err := try(); !errors.As(err, &refused) || refused.RetryAfter != 30*time.Second {
		t.Errorf("a rate limit: %v", err)
	}
	status(429, "Retry-After", "9999999")
	if err := try(); !errors.As(err, &refused) || refused.RetryAfter != time.Hour {
		t.Errorf("a rate limit of days: %v", err)
	}
	status(500)
	_ = try()
	status(302, "Location", "http://169.254.169.254/")
	_ = try()
	d.Next(nil)
	testkit.WriteFile(t, d.token, []byte("xoxb-another\n"))
	if err := try(); !strings.Contains(err.Error(), `the answer of Slack is "invalid_auth"`) {
		t.Errorf("another token: %v", err)
	}
	// A token is read at each call.
	testkit.WriteFile(t, d.token, []byte(testkit.SlackToken))
	d.deliver(t, notify.Requested, "1", "")
	if err := os.Remove(d.token); err != nil {
		t.Fatal(err)
	}
	_ = try()
}

func TestTell(t *testing.T) {
	t.Parallel()
	d := newDesk(t, nil)
	if err := d.Tell(t.Context(), "U1", "it is <!channel> decided"); err != nil {
		t.Fatal(err)
	}
	if got := d.Told(); len(got) != 1 || got[0] != (testkit.SlackTold{Channel: "C1", User: "U1", Text: "it is &lt;!channel&gt; decided"}) {
		t.Errorf("told %+v", got)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	look := func(context.Context, string) (*slack.Card, error) { return nil, slack.ErrNoApproval }
	path := filepath.Join(t.TempDir(), "token")
	for name, text := range map[string]string{"empty": "", "blank": " \n", "two": "a b\n", "two lines": "a\nb\n", "long": strings.Repeat("x", 5000)} {
		testkit.WriteFile(t, path, []byte(text))
		if _, err := slack.New(slack.Config{Channel: "C1", Token: slack.TokenFile(path), Look: look}); err == nil {
			t.Errorf("a token that is %s", name)
		}
	}
	if _, err := slack.New(slack.Config{}); err == nil {
		t.Error("nothing")
	}
}
