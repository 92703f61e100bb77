package app_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	vendor "github.com/slack-go/slack"

	approvalv1 "github.com/kelpie-authz/kelpie/gen/kelpie/approval/v1"
	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
	"github.com/kelpie-authz/kelpie/internal/config"
	"github.com/kelpie-authz/kelpie/internal/testkit"
)

const signingSecret = "0f1e2d3c4b5a69788796a5b4c3d2e1f0" + testkit.Secret

// withAnswers has an App take answers of a Slack, of two people.
func withAnswers(t *testing.T, s *testkit.Slack) func(*config.Config) {
	t.Helper()
	with := withSlack(t, s)
	secret := filepath.Join(t.TempDir(), "signing")
	testkit.WriteFile(t, secret, []byte(signingSecret+"\n"))
	return func(c *config.Config) {
		with(c)
		c.Slack.Addr, c.Slack.SigningSecretFile, c.Slack.AppID, c.Slack.TeamID = "127.0.0.1:0", secret, "A0123456789", "T0123456789"
		c.Slack.Users = map[string]string{"U0000000001": "security-oncall@example.com", "U0000000002": "mallory@example.com"}
	}
}

// buttonOf is the value of a card's buttons; "" if it has none.
func buttonOf(t *testing.T, m testkit.SlackMessage) string {
	t.Helper()
	var blocks vendor.Blocks
	if err := json.Unmarshal([]byte(m.Blocks), &blocks); err != nil {
		t.Fatal(err)
	}
	for _, b := range blocks.BlockSet {
		if actions, ok := b.(*vendor.ActionBlock); ok {
			for _, e := range actions.Elements.ElementSet {
				if button, ok := e.(*vendor.ButtonBlockElement); ok {
					return button.Value
				}
			}
		}
	}
	return ""
}

// pressOf is the body that Slack posts when somebody presses a button.
func pressOf(t *testing.T, user, action, value, trigger string) string {
	t.Helper()
	raw, err := json.Marshal(map[string]any{
		"type": "block_actions", "api_app_id": "A0123456789", "trigger_id": trigger, "team": map[string]any{"id": "T0123456789"},
		"user": map[string]any{"id": user, "name": "security-oncall@example.com"}, "channel": map[string]any{"id": "C0123456789"},
		"actions": []any{map[string]any{"action_id": action, "type": "button", "value": value, "action_ts": "1781697600.1"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return url.Values{"payload": {string(raw)}}.Encode()
}

// press does what Slack does when somebody presses a button.
func (r *running) press(t *testing.T, user, action, value, trigger string) {
	t.Helper()
	body := pressOf(t, user, action, value, trigger)
	stamp := strconv.FormatInt(time.Now().Unix(), 10)
	mac := hmac.New(sha256.New, []byte(signingSecret))
	_, _ = fmt.Fprintf(mac, "v0:%s:%s", stamp, body)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+r.Addrs().Slack.String()+"/slack/interactions", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("X-Slack-Request-Timestamp", stamp)
	req.Header.Set("X-Slack-Signature", "v0="+hex.EncodeToString(mac.Sum(nil)))
	verifier, err := vendor.NewSecretsVerifier(req.Header, signingSecret)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verifier.Write([]byte(body)); err != nil || verifier.Ensure() != nil {
		t.Fatal("the vendor's library does not take the signature")
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("Slack was answered %d", resp.StatusCode)
	}
}

// told waits until a user was told something.
func toldOver(t *testing.T, s *testkit.Slack, user, text string) {
	t.Helper()
	testkit.Eventually(t, user+" is told "+text, func() bool {
		for _, told := range s.Told() {
			if told.User == user && strings.Contains(told.Text, text) {
				return true
			}
		}
		return false
	})
}

func change(t *testing.T, r *running) *authzv1.AuthorizeResponse {
	t.Helper()
	out, err := r.client(t).Authorize(t.Context(), &authzv1.AuthorizeRequest{Agent: "writer", Action: "update", Resource: "docs/1", SourceIp: "10.1.1.1"})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// The whole way: a call asks, endpoint and channel are told, a human presses, the
// call goes through, once, and the card and the endpoint learn that it did.
func TestApprovalOverSlack(t *testing.T) {
	t.Parallel()
	s, h := testkit.NewSlack(t), newHook(t)
	with := withAnswers(t, s)
	r := start(t, func(c *config.Config) { with(c); h.in(c) })
	id := change(t, r).GetApproval().GetId()
	h.told(t, id, "requested")
	card := posted(t, s, id, "pending")
	value := buttonOf(t, card)
	if !regexp.MustCompile(`^` + id + `\.[0-9a-f]{32}$`).MatchString(value) {
		t.Fatalf("the buttons say %q", value)
	}
	golden(t, "slack_buttons.golden", card.Blocks)

	// Nobody else's word counts, nor that of the admin token, nor on a card that is forged.
	r.press(t, "U0000000002", "kelpie_approve", value, "1")
	toldOver(t, s, "U0000000002", "in none of the groups that may decide it")
	r.press(t, "U0000000009", "kelpie_approve", value, "2")
	toldOver(t, s, "U0000000009", "does not know who you are")
	r.press(t, "U0000000001", "kelpie_approve", id+"."+strings.Repeat("0", 32), "3")
	toldOver(t, s, "U0000000001", "out of date")
	r.press(t, "U0000000001", "kelpie_approve", id, "4")
	ctx, desk := r.desk(t)
	if _, err := desk.Approve(ctx, &approvalv1.ApproveRequest{Id: id, As: "security-oncall@example.com"}); err == nil || !strings.Contains(err.Error(), "the local admin decides nothing") {
		t.Errorf("the admin token: %v", err)
	}
	wantReason(t, "before the yes", change(t, r), authzv1.Reason_REASON_APPROVAL_PENDING)

	r.press(t, "U0000000001", "kelpie_approve", value, "5")
	h.told(t, id, "requested", "approved")
	toldOver(t, s, "U0000000001", "Your yes is counted")
	if m := posted(t, s, id, "approved"); buttonOf(t, m) != "" {
		t.Error("the card has buttons after the yes")
	}
	r.press(t, "U0000000001", "kelpie_deny", value, "6")
	toldOver(t, s, "U0000000001", "already decided")
	wantReason(t, "after the yes", change(t, r), authzv1.Reason_REASON_OK_APPROVED)
	h.told(t, id, "requested", "approved", "consumed")
	posted(t, s, id, "consumed")
	wantReason(t, "once more", change(t, r), authzv1.Reason_REASON_APPROVAL_REQUIRED)

	_, metrics := r.get(t, "/metrics")
	for _, want := range []string{`kelpie_slack_answers_total{outcome="counted"} 1`, `kelpie_slack_answers_total{outcome="unknown"} 3`, `kelpie_slack_answers_total{outcome="refused"} 2`, `kelpie_notify_dropped_total{channel="slack"} 0`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
}

// A no over Slack ends it. What has risk delete has no buttons, and is not decided
// by one that somebody made.
func TestSlackDenies(t *testing.T) {
	t.Parallel()
	s := testkit.NewSlack(t)
	with := withAnswers(t, s)
	r := start(t, with)
	id := change(t, r).GetApproval().GetId()
	value := buttonOf(t, posted(t, s, id, "pending"))
	r.press(t, "U0000000001", "kelpie_deny", value, "1")
	if m := posted(t, s, id, "denied by security-oncall@example.com"); !strings.Contains(m.Blocks, "asks for no reason") {
		t.Errorf("the card %s", m.Blocks)
	}
	wantReason(t, "after the no", change(t, r), authzv1.Reason_REASON_APPROVAL_DENIED)

	removal := erase(t, r, "").GetApproval().GetId()
	if buttonOf(t, posted(t, s, removal, "pending")) != "" {
		t.Error("a delete has buttons")
	}
	mac := hmac.New(sha256.New, []byte(signingSecret))
	_, _ = fmt.Fprintf(mac, "kelpie-slack-card-v1\x00C0123456789\x00%s", removal)
	r.press(t, "U0000000001", "kelpie_approve", removal+"."+hex.EncodeToString(mac.Sum(nil)[:16]), "2")
	toldOver(t, s, "U0000000001", "a call of risk delete is not decided over Slack")
	wantReason(t, "the delete", erase(t, r, ""), authzv1.Reason_REASON_APPROVAL_PENDING)
	if !strings.Contains(r.stderr.String(), "nobody can decide what has risk delete or admin") {
		t.Error("the start does not warn that nobody decides deletes")
	}
}

// A hundred fetches before anybody means to, and as many forms of a page, leave the
// approval as it is, though each has all that a press has but the signature.
func TestPrefetchAndFormsDecideNothing(t *testing.T) {
	t.Parallel()
	s := testkit.NewSlack(t)
	r := start(t, withAnswers(t, s))
	id := change(t, r).GetApproval().GetId()
	value := buttonOf(t, posted(t, s, id, "pending"))
	client := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(client.CloseIdleConnections)
	body := pressOf(t, "U0000000001", "kelpie_approve", value, "1")
	for range 100 {
		for method, want := range map[string]int{http.MethodGet: 405, http.MethodHead: 405, http.MethodOptions: 405, http.MethodPost: 401} {
			req, err := http.NewRequestWithContext(t.Context(), method, "http://"+r.Addrs().Slack.String()+"/slack/interactions?"+body, strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != want {
				t.Fatalf("%s is answered %d", method, resp.StatusCode)
			}
		}
	}
	out := change(t, r)
	wantReason(t, "after all of them", out, authzv1.Reason_REASON_APPROVAL_PENDING)
	if got := out.GetApproval().GetId(); got != id || len(s.Messages()) != 1 {
		t.Errorf("%s waits, on %d cards", got, len(s.Messages()))
	}
	r.press(t, "U0000000001", "kelpie_approve", value, "1")
	toldOver(t, s, "U0000000001", "Your yes is counted")
	wantReason(t, "after the press", change(t, r), authzv1.Reason_REASON_OK_APPROVED)
}

// Off loopback Slack's calls come by TLS, and need no certificate of a gateway.
func TestSlackAnswersByTLS(t *testing.T) {
	t.Parallel()
	ca := testkit.NewCA(t)
	pair := ca.Issue(t, testkit.Leaf{Name: "server", IPs: []net.IP{net.IPv4(127, 0, 0, 1)}})
	s := testkit.NewSlack(t)
	with := withAnswers(t, s)
	r := start(t, func(c *config.Config) {
		with(c)
		c.TLSCert, c.TLSKey = pair.Write(t, t.TempDir())
		c.ClientCA = filepath.Join(t.TempDir(), "ca.pem")
		testkit.WriteFile(t, c.ClientCA, ca.PEM)
		c.Slack.Addr = "0.0.0.0:0"
	})
	_, port, err := net.SplitHostPort(r.Addrs().Slack.String())
	if err != nil {
		t.Fatal(err)
	}
	for _, two := range []bool{false, true} {
		client := &http.Client{Transport: &http.Transport{
			DisableKeepAlives: true, ForceAttemptHTTP2: two, TLSClientConfig: &tls.Config{RootCAs: ca.Pool(), MinVersion: tls.VersionTLS12},
		}}
		resp, err := client.Post("https://127.0.0.1:"+port+"/slack/interactions", "application/x-www-form-urlencoded", strings.NewReader("payload={}"))
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("HTTP/2 %v: an unsigned call is answered %d", two, resp.StatusCode)
		}
	}
}
