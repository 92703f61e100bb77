package slackapi_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slack-go/slack"
	"go.uber.org/goleak"

	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/server/slackapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	secret   = "8f742231b10e8888abcd99yyyzzz85a5"
	approval = "apr_00112233445566778899aabbccddeeff"
)

// desk remembers the words that it was given, and answers as a test says.
type desk struct {
	pdp.ApprovalDesk

	mu     sync.Mutex
	words  []string
	votes  []string
	answer func() (*pdp.ApprovalRecord, error)
}

func (d *desk) say(word string, b *pdp.Ballot) (*pdp.ApprovalRecord, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.words = append(d.words, strings.Join([]string{word, b.ApprovalID, b.Person.Name, b.Person.How, b.Reason}, " "))
	d.votes = append(d.votes, b.VoteID)
	if d.answer != nil {
		return d.answer()
	}
	return &pdp.ApprovalRecord{State: pdp.ApprovalApproved}, nil
}

func (d *desk) Approve(_ context.Context, b *pdp.Ballot) (*pdp.ApprovalRecord, error) {
	return d.say("yes", b)
}

func (d *desk) Deny(_ context.Context, b *pdp.Ballot) (*pdp.ApprovalRecord, error) {
	return d.say("no", b)
}

// door is a Handler over a desk, whose work is done once flush returns.
type door struct {
	*slackapi.Handler
	desk *desk
	now  time.Time

	mu       sync.Mutex
	outcomes []string
	told     []string
	log      bytes.Buffer
}

func newDoor(t *testing.T) *door {
	t.Helper()
	d := &door{desk: &desk{}, now: time.Unix(1531420618, 0)}
	var err error
	d.Handler, err = slackapi.New(slackapi.Config{
		Desk: d.desk, Secret: func() (string, error) { return secret, nil }, AppID: "A1", TeamID: "T1", Channel: "C1",
		Users: map[string]string{"U1": "ann@example.com", "U2": "bob@example.com"},
		Approval: func(value string) (string, bool) {
			id, ok := strings.CutPrefix(value, "ours ")
			return id, ok
		},
		Tell: func(_ context.Context, user, text string) error {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.told = append(d.told, user+": "+text)
			return nil
		},
		Count: func(outcome string) {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.outcomes = append(d.outcomes, outcome)
		},
		Log: slog.New(slog.NewTextHandler(&d.log, nil)), Now: func() time.Time { return d.now },
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// flush does the work that was queued.
func (d *door) flush() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	d.Run(ctx)
}

// press is what Slack sends when somebody presses a button.
type press struct {
	app, team, channel, user, action, value, trigger, at, kind string
}

func pressed(change func(*press)) *press {
	p := &press{app: "A1", team: "T1", channel: "C1", user: "U1", action: "kelpie_approve", value: "ours " + approval, trigger: "13345224609.738474920", at: "1531420617.9", kind: "block_actions"}
	if change != nil {
		change(p)
	}
	return p
}

func (p *press) body() []byte {
	raw, err := json.Marshal(map[string]any{
		"type": p.kind, "api_app_id": p.app, "token": "legacy", "trigger_id": p.trigger, "team": map[string]any{"id": p.team, "domain": "example"},
		// What a user calls himself is not who he is.
		"user":         map[string]any{"id": p.user, "username": "security-lead@example.com", "name": "security-lead@example.com", "team_id": p.team},
		"channel":      map[string]any{"id": p.channel, "name": "approvals"},
		"container":    map[string]any{"type": "message", "message_ts": "1548261231.000200", "channel_id": p.channel},
		"response_url": "https://169.254.169.254/latest",
		"actions":      []any{map[string]any{"action_id": p.action, "block_id": "kelpie", "type": "button", "value": p.value, "action_ts": p.at}},
	})
	if err != nil {
		panic(err)
	}
	return []byte(url.Values{"payload": {string(raw)}}.Encode())
}

func sign(key string, at time.Time, body []byte) http.Header {
	stamp := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, []byte(key))
	_, _ = fmt.Fprintf(mac, "v0:%s:%s", stamp, body)
	return http.Header{
		"Content-Type": {"application/x-www-form-urlencoded"}, "X-Slack-Request-Timestamp": {stamp}, "X-Slack-Signature": {"v0=" + hex.EncodeToString(mac.Sum(nil))},
	}
}

func (d *door) post(header http.Header, body []byte) int {
	r := httptest.NewRequest(http.MethodPost, slackapi.Path, bytes.NewReader(body))
	r.Header = header
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r)
	if w.Body.Len() > 0 {
		panic("an answer with a body")
	}
	return w.Code
}

func (d *door) want(t *testing.T, what string, code, wantCode int, outcomes ...string) {
	t.Helper()
	d.flush()
	d.mu.Lock()
	defer d.mu.Unlock()
	if code != wantCode || !slices.Equal(d.outcomes, outcomes) {
		t.Errorf("%s: %d %v, want %d %v", what, code, d.outcomes, wantCode, outcomes)
	}
	d.outcomes = nil
}

// The example of Slack's own documentation (docs.slack.dev, "Verifying requests
// from Slack") has the signature that it says, and the vendor's library takes what
// the tests sign.
func TestSignatureIsSlacks(t *testing.T) {
	t.Parallel()
	body := []byte("token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c")
	header := sign(secret, time.Unix(1531420618, 0), body)
	if got := header.Get("X-Slack-Signature"); got != "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503" {
		t.Errorf("the signature is %s", got)
	}
	d := newDoor(t)
	d.want(t, "the example", d.post(header, body), 400, slackapi.Malformed) // It is signed, and no press.

	body = pressed(nil).body()
	header = sign(secret, time.Now(), body)
	v, err := slack.NewSecretsVerifier(header, secret)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Write(body); err != nil {
		t.Fatal(err)
	}
	if err := v.Ensure(); err != nil {
		t.Errorf("the vendor's library: %v", err)
	}
}

func TestPress(t *testing.T) {
	t.Parallel()
	d := newDoor(t)
	yes, no := pressed(nil), pressed(func(p *press) { p.user, p.action, p.trigger = "U2", "kelpie_deny", "2" })
	d.want(t, "a yes", d.post(sign(secret, d.now, yes.body()), yes.body()), 200, slackapi.Counted)
	d.want(t, "a no", d.post(sign(secret, d.now, no.body()), no.body()), 200, slackapi.Counted)
	want := []string{
		"yes " + approval + " ann@example.com slack ",
		"no " + approval + " bob@example.com slack denied by a button in Slack, which asks for no reason",
	}
	if !slices.Equal(d.desk.words, want) {
		t.Errorf("the desk was told %q", d.desk.words)
	}
	if len(d.told) != 2 || !strings.HasPrefix(d.told[0], "U1: Your yes is counted") || !strings.HasPrefix(d.told[1], "U2: Your no is counted") {
		t.Errorf("told %q", d.told)
	}
}

// Forged, stale and replayed calls of Slack, each in turn.
func TestForgedCalls(t *testing.T) {
	t.Parallel()
	d := newDoor(t)
	body := pressed(nil).body()
	changed := bytes.Replace(body, []byte("U1"), []byte("U2"), 1)
	if bytes.Equal(body, changed) {
		t.Fatal("nothing changed")
	}
	drop := func(name string) http.Header {
		h := sign(secret, d.now, body)
		h.Del(name)
		return h
	}
	set := func(name, value string) http.Header {
		h := sign(secret, d.now, body)
		h.Set(name, value)
		return h
	}
	for _, tc := range []struct {
		name    string
		header  http.Header
		body    []byte
		code    int
		outcome string
	}{
		{"a bad signature", set("X-Slack-Signature", "v0="+strings.Repeat("0", 64)), body, 401, slackapi.Unsigned},
		{"another secret's signature", sign("another", d.now, body), body, 401, slackapi.Unsigned},
		{"another body", sign(secret, d.now, body), changed, 401, slackapi.Unsigned},
		{"no signature", drop("X-Slack-Signature"), body, 401, slackapi.Unsigned},
		{"no version", set("X-Slack-Signature", sign(secret, d.now, body).Get("X-Slack-Signature")[3:]), body, 401, slackapi.Unsigned},
		{"no time", drop("X-Slack-Request-Timestamp"), body, 401, slackapi.Unsigned},
		{"no number", set("X-Slack-Request-Timestamp", "now"), body, 401, slackapi.Unsigned},
		{"another time", set("X-Slack-Request-Timestamp", strconv.FormatInt(d.now.Unix()+1, 10)), body, 401, slackapi.Unsigned},
		{"301 s old", sign(secret, d.now.Add(-301*time.Second), body), body, 401, slackapi.Stale},
		{"301 s early", sign(secret, d.now.Add(301*time.Second), body), body, 401, slackapi.Stale},
		{"of long ago", set("X-Slack-Request-Timestamp", "-9223372036854775808"), body, 401, slackapi.Stale},
	} {
		d.want(t, tc.name, d.post(tc.header, tc.body), tc.code, tc.outcome)
	}
	for name, change := range map[string]func(*press){
		"another team id": func(p *press) { p.team = "T2" }, "no team id": func(p *press) { p.team = "" },
		"another app id": func(p *press) { p.app = "A2" }, "no app id": func(p *press) { p.app = "" },
		"another channel": func(p *press) { p.channel = "C2" },
	} {
		b := pressed(change).body()
		d.want(t, name, d.post(sign(secret, d.now, b), b), 403, slackapi.Foreign)
	}
	if len(d.desk.words) != 0 {
		t.Fatalf("the desk was told %q", d.desk.words)
	}
	// At the edges of the five minutes it is taken, once: the same body twice, with
	// another time too, and the same press in another body.
	d.want(t, "300 s old", d.post(sign(secret, d.now.Add(-300*time.Second), body), body), 200, slackapi.Counted)
	d.want(t, "the same body twice", d.post(sign(secret, d.now.Add(-300*time.Second), body), body), 200, slackapi.Duplicate)
	d.want(t, "the same body, signed anew", d.post(sign(secret, d.now, body), body), 200, slackapi.Duplicate)
	longer := append(slices.Clone(body), "&more=1"...)
	d.want(t, "the same press in another body", d.post(sign(secret, d.now, longer), longer), 200, slackapi.Duplicate)
	d.now = d.now.Add(5 * time.Minute)
	d.want(t, "five minutes later", d.post(sign(secret, d.now, body), body), 200, slackapi.Duplicate)
	if len(d.desk.words) != 1 {
		t.Errorf("the desk was told %q", d.desk.words)
	}
	if strings.Contains(d.log.String(), secret) {
		t.Error("the secret is logged")
	}
}

// The same press told to two servers is the same word.
func TestOneVoteOverServers(t *testing.T) {
	t.Parallel()
	one, two := newDoor(t), newDoor(t)
	body, other := pressed(nil).body(), pressed(func(p *press) { p.trigger = "2" }).body()
	for _, d := range []*door{one, two} {
		d.want(t, "a press", d.post(sign(secret, d.now, body), body), 200, slackapi.Counted)
	}
	one.want(t, "another press", one.post(sign(secret, one.now, other), other), 200, slackapi.Counted)
	if one.desk.votes[0] != two.desk.votes[0] || one.desk.votes[0] == one.desk.votes[1] || len(one.desk.votes[0]) < 32 {
		t.Errorf("the votes are %q and %q", one.desk.votes, two.desk.votes)
	}
}

func TestWhoAndWhat(t *testing.T) {
	t.Parallel()
	d := newDoor(t)
	for i, tc := range []struct {
		name    string
		change  func(*press)
		outcome string
		told    string
	}{
		{"a user who is not known", func(p *press) { p.user = "U9" }, slackapi.Unknown, "does not know who you are"},
		{"a card that is not ours", func(p *press) { p.value = "forged " + approval }, slackapi.Unknown, "out of date, or not Kelpie's"},
		{"no user", func(p *press) { p.user = "" }, slackapi.Ignored, ""},
		{"another button", func(p *press) { p.action = "other" }, slackapi.Ignored, ""},
		{"no value", func(p *press) { p.value = "" }, slackapi.Ignored, ""},
		{"no press", func(p *press) { p.trigger = "" }, slackapi.Ignored, ""},
		{"a shortcut", func(p *press) { p.kind = "shortcut" }, slackapi.Ignored, ""},
	} {
		p := pressed(func(p *press) { p.trigger = strconv.Itoa(i) })
		tc.change(p)
		d.want(t, tc.name, d.post(sign(secret, d.now, p.body()), p.body()), 200, tc.outcome)
		if tc.told != "" && (len(d.told) == 0 || !strings.Contains(d.told[len(d.told)-1], tc.told)) {
			t.Errorf("%s: told %q", tc.name, d.told)
		}
	}
	if len(d.desk.words) != 0 {
		t.Errorf("the desk was told %q", d.desk.words)
	}
}

// Whoever presses learns what became of it, and nothing of what failed inside.
func TestWhatIsTold(t *testing.T) {
	t.Parallel()
	d := newDoor(t)
	for i, tc := range []struct {
		answer func() (*pdp.ApprovalRecord, error)
		want   string
		out    string
	}{
		{func() (*pdp.ApprovalRecord, error) { return &pdp.ApprovalRecord{State: pdp.ApprovalPending}, nil }, "needs others too", slackapi.Counted},
		{func() (*pdp.ApprovalRecord, error) {
			return nil, fmt.Errorf("%w: it is denied", pdp.ErrApprovalDecided)
		}, "is already decided", slackapi.Refused},
		{func() (*pdp.ApprovalRecord, error) { return nil, pdp.ErrNoSuchApproval }, "any more", slackapi.Refused},
		{func() (*pdp.ApprovalRecord, error) { return nil, fmt.Errorf("%w: because", pdp.ErrNotEligible) }, "because", slackapi.Refused},
		{func() (*pdp.ApprovalRecord, error) { return nil, errors.New("disk hunter2") }, "Nothing is known to be counted", slackapi.Refused},
	} {
		d.desk.answer = tc.answer
		p := pressed(func(p *press) { p.trigger = strconv.Itoa(i) })
		d.want(t, tc.want, d.post(sign(secret, d.now, p.body()), p.body()), 200, tc.out)
		if got := d.told[len(d.told)-1]; !strings.Contains(got, tc.want) || strings.Contains(got, "hunter2") {
			t.Errorf("told %q, want %q", got, tc.want)
		}
	}
}

// Whatever fetches the address before anybody means to, and a page that sends a
// form, decide nothing: not by any method but POST, though it is signed, and not by
// a form that is not.
func TestPrefetchAndForms(t *testing.T) {
	t.Parallel()
	d := newDoor(t)
	body := pressed(nil).body()
	call := func(method string, header http.Header, code int, outcome string) {
		t.Helper()
		r := httptest.NewRequest(method, slackapi.Path+"?"+string(body), bytes.NewReader(body))
		r.Header = header
		w := httptest.NewRecorder()
		d.ServeHTTP(w, r)
		d.want(t, method, w.Code, code, outcome)
	}
	for range 100 {
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodOptions} {
			call(method, sign(secret, d.now, body), 405, slackapi.Ignored)
		}
		call(http.MethodPost, http.Header{"Content-Type": {"application/x-www-form-urlencoded"}, "Origin": {"https://evil.example"}}, 401, slackapi.Unsigned)
	}
	if len(d.desk.words) != 0 || len(d.told) != 0 {
		t.Fatalf("the desk was told %q, users %q", d.desk.words, d.told)
	}
	// It still waits for the press that all of them copied.
	call(http.MethodPost, sign(secret, d.now, body), 200, slackapi.Counted)
	if len(d.desk.words) != 1 {
		t.Errorf("the desk was told %q", d.desk.words)
	}
}

func TestBounds(t *testing.T) {
	t.Parallel()
	d := newDoor(t)
	large := []byte("payload=" + strings.Repeat("x", 64<<10))
	d.want(t, "a large body", d.post(sign(secret, d.now, large), large), 413, slackapi.Malformed)
	for _, body := range []string{"", "payload=", "payload=%zz", "payload={}&payload={}", "payload=[]", "x=1", `payload={"team":1}`} {
		d.want(t, body, d.post(sign(secret, d.now, []byte(body)), []byte(body)), 400, slackapi.Malformed)
	}
	for _, r := range []*http.Request{httptest.NewRequest(http.MethodGet, slackapi.Path, nil), httptest.NewRequest(http.MethodPost, "/", nil)} {
		w := httptest.NewRecorder()
		d.ServeHTTP(w, r)
		d.want(t, r.Method+r.URL.Path, w.Code, map[string]int{http.MethodGet: 405, http.MethodPost: 404}[r.Method], slackapi.Ignored)
	}
	// Nobody works: so many wait, and one more is told to come again, and can.
	codes := map[int]int{}
	for i := range 70 {
		b := pressed(func(p *press) { p.trigger = strconv.Itoa(i) }).body()
		codes[d.post(sign(secret, d.now, b), b)]++
	}
	if codes[200] != 64 || codes[503] != 6 {
		t.Errorf("codes %v", codes)
	}
	d.flush()
	d.outcomes = nil
	b := pressed(func(p *press) { p.trigger = "69" }).body()
	d.want(t, "again", d.post(sign(secret, d.now, b), b), 200, slackapi.Counted)
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	if _, err := slackapi.New(slackapi.Config{}); err == nil {
		t.Error("a door without a secret")
	}
}

// FuzzInteraction posts any body, signed: nothing panics, and nobody's word is
// counted but by a press of ours.
func FuzzInteraction(f *testing.F) {
	f.Add(pressed(nil).body())
	f.Add([]byte("payload=%7B%22type%22%3A%22block_actions%22%2C%22actions%22%3A%5Bnull%5D%7D"))
	f.Add([]byte("payload={}"))
	f.Fuzz(func(t *testing.T, body []byte) {
		d := newDoor(t)
		code := d.post(sign(secret, d.now, body), body)
		d.flush()
		form, _ := url.ParseQuery(string(body))
		var p struct {
			App  string `json:"api_app_id"`
			Team struct {
				ID string `json:"id"`
			} `json:"team"`
			User struct {
				ID string `json:"id"`
			} `json:"user"`
		}
		_ = json.Unmarshal([]byte(form.Get("payload")), &p)
		if len(d.desk.words) > 0 && (code != 200 || p.App != "A1" || p.Team.ID != "T1" || p.User.ID != "U1" && p.User.ID != "U2") {
			t.Errorf("%d, the desk was told %q of %q", code, d.desk.words, body)
		}
	})
}
