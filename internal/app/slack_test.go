package app_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	approvalv1 "github.com/kelpie-authz/kelpie/gen/kelpie/approval/v1"
	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
	"github.com/kelpie-authz/kelpie/internal/config"
	"github.com/kelpie-authz/kelpie/internal/testkit"
)

var update = flag.Bool("update", false, "write the golden files anew")

// updatesWait is a policy by which a write waits for a human, so that it can be
// decided over Slack.
const updatesWait = auditedPolicy + "approvals:\n  updates: {match: {actions: [update]}, approvers: [sec]}\n"

// withSlack has an App post cards to a Slack.
func withSlack(t *testing.T, s *testkit.Slack) func(*config.Config) {
	t.Helper()
	token := filepath.Join(t.TempDir(), "token")
	testkit.WriteFile(t, token, []byte(testkit.SlackToken+"\n"))
	policy := policyDir(t, updatesWait)
	return func(c *config.Config) {
		c.Policy = policy
		c.Slack.Channel, c.Slack.TokenFile, c.Slack.APIURL = "C0123456789", token, s.URL+"/api/"
	}
}

// posted waits for the card of an approval, in a state.
func posted(t *testing.T, s *testkit.Slack, approval, state string) testkit.SlackMessage {
	t.Helper()
	var found testkit.SlackMessage
	testkit.Eventually(t, "the card of "+approval+", "+state, func() bool {
		for _, m := range s.Messages() {
			if m.Text == "Approval "+approval+": "+state {
				found = m
				return true
			}
		}
		return false
	})
	return found
}

// changing is what differs each time, behind what stays.
var changing = regexp.MustCompile(`(apr_|digest |SHA-256 |expires |last hour = |kelpie approvals show )([0-9a-f]{12,32}|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC|[^"]* server knows)`)

// proof is what a button's value has behind the approval.
var proof = regexp.MustCompile(`\.[0-9a-f]{32}"`)

// golden compares a card with what was written down, but for what differs each time.
func golden(t *testing.T, name, blocks string) {
	t.Helper()
	var out bytes.Buffer
	if err := json.Indent(&out, []byte(blocks), "", "  "); err != nil {
		t.Fatal(err)
	}
	got := proof.ReplaceAllString(changing.ReplaceAllString(out.String(), "$1(...)"), `"`) + "\n"
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o750); err != nil {
			t.Fatal(err)
		}
		testkit.WriteFile(t, path, []byte(got))
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

// Card spoofing: whatever an agent writes is shown as text, where its words are.
// With answers on, there are buttons where nothing is cut, and nowhere else.
func TestCardSpoofing(t *testing.T) {
	t.Parallel()
	partial := []string{"50 kB", "many", "a secret", "a secret in a text", "a value cut by the card", "a long name", "many short members"}
	for name, parameters := range map[string]string{
		"plain":       `{"title":"a duplicate","amount":820}`,
		"markup":      `{"note":"*approved* <!channel> <https://evil.example|Approve> :white_check_mark: &amp; ~_` + "`x`" + `"}`,
		"lines":       `{"note":"x\nOwner\nsecurity-lead@example.com\r\n\u2028risk read\u0085"}`,
		"order":       `{"note":"\u202eevorppa\u202c \u2066x\u2069 \u200e\u200b\ufeff"}`,
		"homoglyph":   `{"to":"аdmin@example.com","not\u200de":"\u2800"}`,
		"50 kB":       `{"note":"` + strings.Repeat("A", 50<<10) + `"}`,
		"many":        `{` + strings.TrimSuffix(manyMembers(60), ",") + `}`,
		"fake blocks": `{"note":"\"},{\"type\":\"actions\",\"elements\":[{\"type\":\"button\"}]},{\"a\":\""}`,
		"a secret":    `{"password":"` + testkit.Secret + `","card":"4111111111111111"}`,

		"a long value":            `{"note":"` + strings.Repeat("A ", 300) + `"}`,
		"a value cut by the card": `{"note":"` + strings.Repeat(`\u0001`, 200) + `"}`,
		"a long name":             `{"` + strings.Repeat("A ", 400) + `":1}`,
		"64 members":              `{` + strings.TrimSuffix(shortMembers(64), ",") + `}`,
		"many short members":      `{` + strings.TrimSuffix(shortMembers(1500), ",") + `}`,
		"a secret in a text":      `{"note":"rm -rf /srv/prod # token=` + testkit.Secret + `"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := testkit.NewSlack(t)
			r := start(t, withAnswers(t, s))
			out, err := r.client(t).Authorize(t.Context(), &authzv1.AuthorizeRequest{
				Agent: "writer", Action: "update", Resource: "docs/1", SourceIp: "10.1.1.1", ParametersJson: []byte(parameters), Subject: "аnn@example.com",
			})
			if err != nil {
				t.Fatal(err)
			}
			m := posted(t, s, out.GetApproval().GetId(), "pending")
			golden(t, "slack_"+strings.ReplaceAll(name, " ", "_")+".golden", m.Blocks)
			if got, want := buttonOf(t, m) != "", !slices.Contains(partial, name); got != want {
				t.Errorf("buttons: %v, want %v", got, want)
			}
			testkit.NoSecrets(t, "the card", m.Blocks)
		})
	}
}

// Parameters that the gateway did not see whole cannot be judged on a card.
func TestCardOfUnseenParameters(t *testing.T) {
	t.Parallel()
	s := testkit.NewSlack(t)
	with := withAnswers(t, s)
	policy := policyDir(t, strings.Replace(updatesWait, "approvers: [sec]", "approvers: [sec], bind: path_only, bind_reason: the gateway sees no bodies", 1))
	r := start(t, func(c *config.Config) { with(c); c.Policy = policy })
	for i, state := range []authzv1.ParametersState{authzv1.ParametersState_PARAMETERS_STATE_UNSPECIFIED, authzv1.ParametersState_PARAMETERS_STATE_TRUNCATED, authzv1.ParametersState_PARAMETERS_STATE_NOT_SEEN} {
		out, err := r.client(t).Authorize(t.Context(), &authzv1.AuthorizeRequest{
			Agent: "writer", Action: "update", Resource: fmt.Sprint("docs/", i), SourceIp: "10.1.1.1", ParametersState: state,
		})
		if err != nil {
			t.Fatal(err)
		}
		m := posted(t, s, out.GetApproval().GetId(), "pending")
		if got, want := buttonOf(t, m) != "", state == authzv1.ParametersState_PARAMETERS_STATE_UNSPECIFIED; got != want {
			t.Errorf("%v: buttons: %v", state, got)
		}
	}
}

func shortMembers(n int) string {
	var out strings.Builder
	for i := range n {
		fmt.Fprintf(&out, `"m%d":%d,`, i, i)
	}
	return out.String()
}

func manyMembers(n int) string {
	var out strings.Builder
	for i := range n {
		out.WriteString(`"member_` + strings.Repeat("x", 60) + string(rune('A'+i%26)) + string(rune('A'+i/26)) + `":"` + strings.Repeat("y", 60) + `",`)
	}
	return out.String()
}

// A card is edited as soon as it is decided, here over gRPC, and is not posted
// again by a restart. Of risk delete it names a command and has no button.
func TestSlackCard(t *testing.T) {
	t.Parallel()
	s := testkit.NewSlack(t)
	with := withSlack(t, s)
	r := start(t, with)
	id := erase(t, r, "").GetApproval().GetId()
	if m := posted(t, s, id, "pending"); strings.Contains(m.Blocks, "button") || !strings.Contains(m.Blocks, "kelpie approvals show "+id) {
		t.Errorf("the card %s", m.Blocks)
	}
	if err := r.end(t); err != nil {
		t.Fatal(err)
	}
	state := r.cfg.State
	r = start(t, func(c *config.Config) {
		with(c)
		c.State = state
	})
	ctx, desk := r.desk(t)
	if _, err := desk.Deny(ctx, &approvalv1.DenyRequest{Id: id, As: "security-oncall@example.com", Reason: "not *today*"}); err != nil {
		t.Fatal(err)
	}
	m := posted(t, s, id, "denied by local-admin as security-oncall@example.com (unverified)")
	golden(t, "slack_denied.golden", m.Blocks)
	if n := len(s.Messages()); n != 1 {
		t.Errorf("%d cards", n)
	}
}

// The card of one replica is edited when another one decides.
func TestSlackCardOverReplicas(t *testing.T) {
	t.Parallel()
	s := testkit.NewSlack(t)
	with, share := withSlack(t, s), sharing(t, testkit.StartRedis(t, testkit.RedisConfig{}))
	both := func(c *config.Config) { share(c); policy := c.Policy; with(c); c.Policy = policy }
	one, two := start(t, both), start(t, both)
	id := erase(t, one, "").GetApproval().GetId()
	posted(t, s, id, "pending")
	ctx, desk := two.desk(t)
	if _, err := desk.Deny(ctx, &approvalv1.DenyRequest{Id: id, As: "security-oncall@example.com", Reason: "no"}); err != nil {
		t.Fatal(err)
	}
	posted(t, s, id, "denied by local-admin as security-oncall@example.com (unverified)")
	if n := len(s.Messages()); n != 1 {
		t.Errorf("%d cards", n)
	}
}
