package audit_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/kelpie-authz/kelpie/audit"
)

func TestMaskPicksWhatIsNamed(t *testing.T) {
	t.Parallel()
	const parameters = `{"id":42,"big":12345678901234567890,"customer":{"name":"Ann","a.b":"dot","deep":{"x":null}},
		"items":[{"sku":"A1","price":1.50},{"sku":"B2"}],"ok":true,"other":"not shown"}`
	m, err := audit.NewMask("id", "big", "customer.name", `customer.a\.b`, "customer.deep", "customer.deep.x", "items", "items.*.sku", "items.1.sku", "ok", "absent.x", "id.x")
	if err != nil {
		t.Fatal(err)
	}
	want := "[{big 12345678901234567890} {customer.a.b dot} {customer.deep {1 members}} {customer.deep.x null} {customer.name Ann} " +
		"{id 42} {items [2 elements]} {items.0.sku A1} {items.1.sku B2} {ok true}]"
	if got := fmt.Sprint(m.Pick([]byte(parameters))); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	for name, text := range map[string]string{"none": "", "no JSON": "{", "two values": `{"id":1} {"id":2}`, "a list": "[1]", "a text": `"id"`} {
		if got := m.Pick([]byte(text)); len(got) != 0 {
			t.Errorf("%s: %v", name, got)
		}
	}
	if got := new(audit.Mask).Pick([]byte(parameters)); got != nil {
		t.Errorf("the zero mask picks %v", got)
	}
	for _, wrong := range []string{"", ".", "a.", "a..b", `a\`, strings.Repeat("a.", 20) + "a"} {
		if _, err := audit.NewMask(wrong); err == nil {
			t.Errorf("%q is a path", wrong)
		}
	}
}

func TestMaskIsBounded(t *testing.T) {
	t.Parallel()
	m, err := audit.NewMask("*")
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	text.WriteString(`{"a":"` + strings.Repeat("é ", 500) + `"`)
	for i := range 1000 {
		fmt.Fprintf(&text, `,"m%d":%d`, i, i)
	}
	got := m.Pick([]byte(text.String() + "}"))
	if len(got) != 64 || len(got[0].Value) > 260 || strings.ToValidUTF8(got[0].Value, "!") != got[0].Value {
		t.Errorf("%d members, the first of %d bytes", len(got), len(got[0].Value))
	}
}

func TestSecretsAreMasked(t *testing.T) {
	t.Parallel()
	m, err := audit.NewMask("*", "*.*")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		`"password":"x"`, `"Api-Key":"1"`, `"access_token":"a"`, `"clientSecret":"s"`, `"pin":1234`, `"auth":{"value":"v"}`,
		`"a":"Bearer abcdefgh12345"`, `"a":"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln"`, `"a":"sk-proj-abcdefghijkl12345"`,
		`"a":"ghp_abcdefghijklmnop1234567890"`, `"a":"AKIAABCDEFGHIJKLMNOP"`, `"a":"xoxb-123456789-abc"`,
		`"a":"-----BEGIN RSA PRIVATE KEY-----\nMII"`, `"a":"postgres://u:p@db/x"`, `"a":"https://x.example/?token=abc"`,
		`"a":"use password: hunter2"`, `"a":"q7Zk2Xv9Rb4Tn8Lm3Wc6Ys1Pd5"`, `"a":"5f4dcc3b5aa765d61d8327deb882cf99"`, `"a":"kelpie_live_abcdef1234567"`,
		`"token_count_secret":7`,
	} {
		got := m.Pick([]byte("{" + text + "}"))
		shown := false
		for _, member := range got {
			shown = shown || (member.Value != audit.Masked && !strings.HasPrefix(member.Value, "{"))
		}
		if len(got) == 0 || shown {
			t.Errorf("%s: %v", text, got)
		}
	}
	for _, text := range []string{
		`"id":"lead-42"`, `"max_tokens":4096`, `"a":"2026-06-17T12:00:00Z"`, `"a":"f47ac10b-58cc-4372-a567-0e02b2c3d479"`,
		`"a":"salesforce/leads/42/notes/internal"`, `"a":"ann@example.com"`, `"a":"remove-duplicate-contacts-from-the-list"`, `"amount":1234567.89`,
	} {
		for _, member := range m.Pick([]byte("{" + text + "}")) {
			if member.Value == audit.Masked {
				t.Errorf("%s is masked", text)
			}
		}
	}
}

// What looks like a secret is masked to its end, and what stands beside it is left.
func TestMaskSecrets(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"nothing of it":                           "nothing of it",
		"rm -rf /srv/prod # token=hunter2 then":   "rm -rf /srv/prod # [masked] then",
		"use password: hunter2":                   "use [masked]",
		"password=@hunter2-very-secret":           "[masked]",
		"token: @hunter2 x":                       "[masked] x",
		"sig=@abcdef0123":                         "[masked]",
		"password: \"correct horse staple\" to x": "[masked]\" to x",
		"secret='a b c' d":                        "[masked]' d",
		"a password: correct horse\nof all":       "a [masked]\nof all",
		"Server=db;Password=a b c;Timeout=3":      "Server=db;[masked];Timeout=3",
		"pwd: a\u2028b":                           "[masked]\u2028b",
		"token=a\u00a0b c":                        "[masked] c",
		"go to https://bob:hunter2@example.com/x": "go to [masked]example.com/x",
		"key -----BEGIN PRIVATE KEY----- a\nb":    "key [masked]",
		"Bearer abcdefgh12345678 is it":           "[masked] is it",
		"ghp_abcdefghijklmnop1234 and more":       "[masked] and more",
		"q7Zk2Xv9Rb4Tn8Lm3Wc6Ys1Pd5 and more":     "[masked] and more",
	} {
		if got := audit.MaskSecrets(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
		if masked := audit.MaskSecrets(text) != text; masked != audit.LooksSecret(text) {
			t.Errorf("%q: masked %v, looks like a secret %v", text, masked, audit.LooksSecret(text))
		}
	}
}

// FuzzMaskSecrets: what is found is masked, and nothing of it is left to be found.
func FuzzMaskSecrets(f *testing.F) {
	for _, seed := range []string{"password: \"a b\" c", "https://a:b@c token=d", "-----begin private key", "q7Zk2Xv9Rb4Tn8Lm3Wc6Ys1Pd5", "pwd:\u2028x;"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got := audit.MaskSecrets(text)
		if (got != text) != audit.LooksSecret(text) && !strings.Contains(text, audit.Masked) {
			t.Errorf("%q: %q, looks like a secret: %v", text, got, audit.LooksSecret(text))
		}
	})
}
