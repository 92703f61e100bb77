package config_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kelpie-authz/kelpie/internal/config"
)

func TestWebhooks(t *testing.T) {
	t.Parallel()
	got, err := config.Load(config.Sources{File: file(t, `webhooks:
  - name: tickets
    url: https://hooks.example.com/x?key=hunter2
    secret_files: [/run/secrets/a, /run/secrets/b]
    events: [approval.requested, approval.denied]
  - name: "local"
    url: http://127.0.0.1:1/
    secret_files:
      - c
    loopback: true
`), Flags: map[string]string{"policy": "p"}})
	if err != nil {
		t.Fatal(err)
	}
	want := []config.Webhook{
		{
			Name: "tickets", URL: "https://hooks.example.com/x?key=hunter2", SecretFiles: []string{"/run/secrets/a", "/run/secrets/b"},
			Events: []string{"approval.requested", "approval.denied"},
		},
		{Name: "local", URL: "http://127.0.0.1:1/", SecretFiles: []string{"c"}, Loopback: true},
	}
	if diff := cmp.Diff(want, got.Webhooks); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestNestedFaults(t *testing.T) {
	t.Parallel()
	const good = "  - name: a\n    url: https://h/hunter2\n    secret_files: [s]\n"
	for name, tc := range map[string]struct {
		yaml string
		want []string
	}{
		"no list":        {"webhooks: https://h/\n", []string{"config.yaml:1:11: webhooks: is not a list"}},
		"an empty list":  {"webhooks: []\n", []string{"webhooks: is not a list"}},
		"no map":         {"webhooks: [https://h/]\n", []string{"webhooks: entry 1: line 1: is not a map of keys"}},
		"unknown key":    {"webhooks:\n" + good + "    secret: hunter2\n", []string{"entry 1: line 5: secret: there is no such key"}},
		"a key twice":    {"webhooks:\n" + good + "    name: b\n", []string{"entry 1: line 5: name: is given twice"}},
		"no value":       {"webhooks:\n" + good + "    events:\n", []string{"line 5: events: is not a list"}},
		"an empty value": {"webhooks:\n  - name: a\n    url: \"\"\n", []string{"line 3: url: has no value"}},
		"a list in it":   {"webhooks:\n  - name: [a]\n", []string{"line 2: name: is not a single value"}},
		"a list in one":  {"webhooks:\n  - secret_files: [[a]]\n", []string{"line 2: secret_files: line 2: entry 1: is not a single value"}},
		"no bool":        {"webhooks:\n" + good + "    loopback: perhaps\n", []string{`line 5: loopback: "perhaps" is neither true nor false`}},
		"several":        {"webhooks:\n  - what: 1\n  - that: 2\n", []string{"entry 1: line 2: what: there is no such key", "entry 2: line 3: that: there is no such key"}},
		"parts missing":  {"webhooks:\n  - name: a\n", []string{"webhooks, entry 1 (a): url: is missing", "webhooks, entry 1 (a): secret_files: is missing"}},
		"a bad name":     {"webhooks:\n  - name: A B\n    url: https://h/hunter2\n", []string{`webhooks, entry 1: name: "A B" cannot name it; write 1 to 32 of a-z, 0-9 and dashes`}},
		"a name twice":   {"webhooks:\n" + good + good, []string{"webhooks, entry 2: name: another webhook is a already"}},
		"an event":       {"webhooks:\n" + good + "    events: [approval.opened]\n", []string{`events: "approval.opened" is not known; write approval.requested, approval.approved,`}},
		"too many":       {"webhooks:\n" + strings.Repeat(good, 17), []string{"webhooks: there are 17; write at most 16"}},
	} {
		cfg, err := config.Load(config.Sources{File: file(t, tc.yaml), Flags: map[string]string{"policy": "p"}})
		if err == nil {
			t.Errorf("%s: loaded %+v", name, cfg)
			continue
		}
		for _, want := range tc.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: the error lacks %q:\n%v", name, want, err)
			}
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error tells a URL:\n%v", name, err)
		}
	}
	if _, err := config.Load(config.Sources{Lookup: env(map[string]string{"KELPIE_POLICY": "p", "KELPIE_WEBHOOKS": "x"})}); err != nil {
		t.Errorf("a variable that is no key: %v", err)
	}
	if _, err := config.Load(config.Sources{Flags: map[string]string{"policy": "p", "webhooks": "x"}}); err == nil {
		t.Error("a flag that holds a list")
	}
}

// FuzzFile reads any bytes as a configuration file: nothing panics.
func FuzzFile(f *testing.F) {
	for _, seed := range []string{"policy: p\n", "webhooks:\n  - name: a\n    url: https://h\n    secret_files: [s]\n", "webhooks: &a [*a]\n", "webhooks: [{secret_files: [1, ~]}]\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := config.Load(config.Sources{File: file(t, string(data)), Flags: map[string]string{"policy": "p"}})
		if (cfg == nil) != (err != nil) {
			t.Errorf("%v and %v", cfg, err)
		}
	})
}

func TestSlackAnswers(t *testing.T) {
	t.Parallel()
	const posts = "slack:\n  channel: C0123456789\n  token_file: f\n"
	const all = posts + "  addr: 127.0.0.1:7074\n  signing_secret_file: s\n  app_id: A0123456789\n  team_id: T0123456789\n"
	load := func(yaml string) (*config.Config, error) {
		return config.Load(config.Sources{File: file(t, "policy: p\n"+yaml)})
	}
	got, err := load(all + "  users:\n    U0123456789: ann@example.com\n    W0123456789: bob@example.com\n")
	if err != nil {
		t.Fatal(err)
	}
	want := config.Slack{
		Channel: "C0123456789", TokenFile: "f", Addr: "127.0.0.1:7074", SigningSecretFile: "s", AppID: "A0123456789", TeamID: "T0123456789",
		Users: map[string]string{"U0123456789": "ann@example.com", "W0123456789": "bob@example.com"},
	}
	if diff := cmp.Diff(want, got.Slack); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	const users = "  users: {U0123456789: ann@example.com}\n"
	for name, tc := range map[string]struct{ yaml, want string }{
		"nothing but addr":     {posts + "  addr: 127.0.0.1:7074\n", "slack: signing_secret_file: is missing"},
		"no app":               {posts + "  addr: 127.0.0.1:7074\n", `slack: app_id: "" is not the id of an app`},
		"no team":              {posts + "  addr: 127.0.0.1:7074\n", `slack: team_id: "" is not the id of a workspace`},
		"no users":             {all, "slack: users: is missing, so nobody may answer"},
		"a user by name":       {all + "  users: {ann: ann@example.com}\n", `slack: users: "ann" is not the id of a user`},
		"a user twice":         {all + "  users:\n    U0123456789: ann@example.com\n    U0123456789: bob@example.com\n", "U0123456789: is given twice"},
		"a user who is nobody": {all + "  users: {U0123456789: ''}\n", "U0123456789: has no value"},
		"a list of users":      {all + "  users: [U0123456789]\n", "users: line 9: is not a map of keys"},
		"no addr":              {posts + users, "slack: addr: is missing, so no answer comes in"},
		"addr is none":         {strings.Replace(all, "127.0.0.1:7074", "7074", 1) + users, `slack: addr: "7074" is not an address`},
		"addr off loopback":    {strings.Replace(all, "127.0.0.1", "0.0.0.0", 1) + users, "slack: addr: 0.0.0.0:7074 is not a loopback address, and TLS is off"},
	} {
		if cfg, err := load(tc.yaml); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %+v, %v", name, cfg, err)
		}
	}
}

func TestSlack(t *testing.T) {
	t.Parallel()
	load := func(yaml string) (*config.Config, error) {
		return config.Load(config.Sources{File: file(t, "policy: p\n"+yaml)})
	}
	got, err := load("slack:\n  channel: C0123456789\n  token_file: /run/secrets/slack\n  api_url: http://127.0.0.1:1/api/\n")
	if err != nil {
		t.Fatal(err)
	}
	want := config.Slack{Channel: "C0123456789", TokenFile: "/run/secrets/slack", APIURL: "http://127.0.0.1:1/api/"}
	if diff := cmp.Diff(want, got.Slack); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for name, tc := range map[string]struct{ yaml, want string }{
		"no map":            {"slack: C0123456789\n", "config.yaml:2:8: slack: line 2: is not a map of keys"},
		"a list":            {"slack:\n  - channel: C1\n", "is not a map of keys"},
		"a name":            {"slack:\n  channel: '#approvals'\n  token_file: f\n", `slack: channel: "#approvals" is not the id of one`},
		"no channel":        {"slack:\n  token_file: f\n", "slack: channel: "},
		"no token":          {"slack:\n  channel: C0123456789\n", "slack: token_file: is missing"},
		"the token itself":  {"slack:\n  channel: C0123456789\n  token: xoxb-hunter2\n", "token: there is no such key"},
		"another API":       {"slack:\n  channel: C0123456789\n  token_file: f\n  api_url: https://slack.example.com/api/\n", "slack: api_url: is for tests alone"},
		"an API by a name":  {"slack:\n  channel: C0123456789\n  token_file: f\n  api_url: http://slack.example.com:80/api/\n", "slack: api_url: is for tests alone"},
		"an API without /":  {"slack:\n  channel: C0123456789\n  token_file: f\n  api_url: http://127.0.0.1:1/api\n", "slack: api_url: is for tests alone"},
		"a number for text": {"slack:\n  channel: [C0123456789]\n", "channel: is not a single value"},
	} {
		if cfg, err := load(tc.yaml); err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %+v, %v", name, cfg, err)
		}
	}
}
