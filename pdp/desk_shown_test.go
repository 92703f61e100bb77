package pdp_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/store"
)

// details asks for an approval with these parameters and returns what a person
// is shown of them, by name.
func details(tb testing.TB, o *office, parameters string, change ...func(*pdp.Request)) map[string]string {
	tb.Helper()
	o.clock.advance(3600e9)
	id := o.opened(tb, with(payRent, func(r *pdp.Request) {
		r.ParametersJSON = []byte(parameters)
		for _, c := range change {
			c(r)
		}
	}))
	rec, err := o.desk.Get(tb.Context(), id)
	if err != nil {
		tb.Fatal(err)
	}
	if row := o.store.row(id); !json.Valid(row.Shown) {
		tb.Errorf("stored %s", row.Shown)
	}
	out := map[string]string{}
	for _, d := range rec.Details {
		if before, twice := out[d.Name]; twice {
			tb.Errorf("%s is shown twice: %s and %s", d.Name, before, d.Value)
		}
		out[d.Name] = d.Value
	}
	return out
}

func TestSecretsAreMasked(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1)
	for _, tc := range []struct{ parameters, name, want string }{
		{`{"token":"hunter2"}`, "parameters.token", "[masked]"},
		{`{"accessToken":"hunter2"}`, "parameters.accessToken", "[masked]"},
		{`{"Password":"hunter2"}`, "parameters.Password", "[masked]"},
		{`{"client_secret":"hunter2"}`, "parameters.client_secret", "[masked]"},
		{`{"api_key":"hunter2"}`, "parameters.api_key", "[masked]"},
		{`{"X-Api-Key":"hunter2"}`, "parameters.X-Api-Key", "[masked]"},
		{`{"Authorization":"hunter2"}`, "parameters.Authorization", "[masked]"},
		{`{"pin":1234}`, "parameters.pin", "[masked]"},
		{`{"credentials":{"user":"bob","code":[7,"hunter2"]}}`, "parameters.credentials.code[1]", "[masked]"},
		{`{"credentials":{"user":"bob","code":[7,"hunter2"]}}`, "parameters.credentials.code[0]", "[masked]"},
		{`{"header":"Bearer abcdefgh12345678"}`, "parameters.header", "[masked]"},
		{`{"url":"https://bob:hunter2@example.com/"}`, "parameters.url", `"[masked]example.com/"`},
		{`{"text":"use password: hunter2"}`, "parameters.text", `"use [masked]"`},
		{`{"text":"rm -rf /srv/prod # token=hunter2 then"}`, "parameters.text", `"rm -rf /srv/prod # [masked] then"`},
		{`{"text":"password: hunter2"}`, "parameters.text", "[masked]"},
		{`{"user_pwd":"hunter2"}`, "parameters.user_pwd", "[masked]"},
		{`{"passcode":"hunter2"}`, "parameters.passcode", "[masked]"},
		{`{"a":"[masked]"}`, "parameters.a", `"[masked]"`},
		{`{"text":"ghp_abcdefghijklmnop1234"}`, "parameters.text", "[masked]"},
		{`{"text":"AKIAIOSFODNN7EXAMPLE"}`, "parameters.text", "[masked]"},
		{`{"text":"-----BEGIN RSA PRIVATE KEY-----"}`, "parameters.text", "[masked]"},
		{`{"text":"eyJhbGciOiJIUzI1NiJ9.e30.x"}`, "parameters.text", "[masked]"},
		{`{"text":"wJalrXUtnFEMI7K7MDENGbPxRfiCYEX4MPL3KEY"}`, "parameters.text", "[masked]"},
		{`{"card":"4111 1111 1111 1111"}`, "parameters.card", "[masked]...1111"},
		{`{"text":"4111111111111111"}`, "parameters.text", "[masked]...1111"},
		{`{"n":4111111111111111}`, "parameters.n", "[masked]...1111"},
		{`{"text":"pay with 4111-1111-1111-1111 please"}`, "parameters.text", `"pay with [masked]...1111 please"`},
		{`{"iban":"DE89 3704 0044 0532 0130 00"}`, "parameters.iban", "[masked]...3000"},
		{`{"to":"GB82WEST12345698765432"}`, "parameters.to", "[masked]...5432"},
		{`{"iban":"DE"}`, "parameters.iban", "[masked]"},
		// What is none stays to be seen.
		{`{"amount":82000}`, "parameters.amount", "82000"},
		{`{"to":"alice@example.com"}`, "parameters.to", `"alice@example.com"`},
		{`{"id":"123e4567-e89b-12d3-a456-426614174000"}`, "parameters.id", `"123e4567-e89b-12d3-a456-426614174000"`},
		{`{"path":"reports/quarterly/2026/first-half-of-the-year.pdf"}`, "parameters.path", `"reports/quarterly/2026/first-half-of-the-year.pdf"`},
		{`{"text":"4111111111111112"}`, "parameters.text", `"4111111111111112"`},
		{`{"text":"DE88370400440532013000"}`, "parameters.text", `"DE88370400440532013000"`},
		{`{"keyboard":"qwerty"}`, "parameters.keyboard", `"qwerty"`},
		{`{"token":""}`, "parameters.token", `""`},
		{`{"token":null}`, "parameters.token", "null"},
	} {
		got := details(t, o, tc.parameters)
		if got[tc.name] != tc.want {
			t.Errorf("%s: %q, want %s", tc.parameters, got, tc.want)
		}
		if raw := fmt.Sprint(got); strings.Contains(tc.want, "masked") && strings.Contains(raw, "hunter2") {
			t.Errorf("%s: the secret is in %s", tc.parameters, raw)
		}
	}
	got := details(t, o, `{}`, func(r *pdp.Request) {
		r.Context = map[string]any{"channel": map[string]any{"token": "hunter2", "kind": "email"}}
	})
	if got["context.channel.token"] != "[masked]" || got["context.channel.kind"] != `"email"` {
		t.Errorf("context: %q", got)
	}
	if got := details(t, o, `{"ghp_abcdefghijklmnop1234":1}`); strings.Contains(fmt.Sprint(got), "ghp_") {
		t.Errorf("a secret for a name: %q", got)
	}
}

func TestAttackCardSpoofing(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1)
	for _, tc := range []struct{ parameters, name, want string }{
		{`{"a":"x\nparameters.amount: 1"}`, "parameters.a", `"x\u000aparameters.amount: 1"`},
		{`{"a":"\u202e0008"}`, "parameters.a", `"\u202e0008"`},
		{`{"a":"\u200b\ufeff\u00ad"}`, "parameters.a", `"\u200b\ufeff\u00ad"`},
		{`{"a":"\u001b[2J"}`, "parameters.a", `"\u001b[2J"`},
		{`{"a":"\udb40\udc41"}`, "parameters.a", `"\U000e0041"`},
		{`{"a":"\u00a0\u3164\u2028"}`, "parameters.a", `"\u00a0\u3164\u2028"`},
		{`{"a":"say \"hi\" \\"}`, "parameters.a", `"say \"hi\" \\"`},
		{`{"a":"82000"}`, "parameters.a", `"82000"`},
		{`{"amount: 1\nreal":2}`, `parameters["amount: 1\u000areal"]`, "2"},
		{`{"to.name":"x"}`, `parameters["to.name"]`, `"x"`},
		{`{"a\"]":{"b":"x"}}`, `parameters["a\"]"].b`, `"x"`},
		{`{"":"x"}`, `parameters[""]`, `"x"`},
		{`{"a":{}}`, "parameters.a", "{}"},
		{`{"a":[]}`, "parameters.a", "[]"},
	} {
		if got := details(t, o, tc.parameters); got[tc.name] != tc.want {
			t.Errorf("%s: %q, want %s", tc.parameters, got, tc.want)
		}
	}
}

// However much there is, a human is shown all of it or not asked; where there are
// many, what is shown of each is bounded, and says what is left out.
func TestWhatIsShownIsBounded(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1)
	if long := details(t, o, `{"a":"`+strings.Repeat("long word ", 5000)+`"}`)["parameters.a"]; len(long) != 50_002 {
		t.Errorf("%d bytes of a text of 50,000", len(long))
	}
	cutHere := brief(t, o, `{"a":"`+strings.Repeat("€", 5000)+`"}`)["parameters.a"]
	if strings.Contains(cutHere, `\x`) || len(cutHere) > 600 || !strings.HasSuffix(cutHere, "... (the beginning of 15002 bytes)") {
		t.Errorf("%d bytes: %s", len(cutHere), cutHere)
	}
	if got := details(t, o, members(1500)); len(got) != 1502 {
		t.Errorf("%d shown of 1,500", len(got))
	}
	if got := brief(t, o, members(1500)); got["parameters"] != "1422 more members are not shown" {
		t.Errorf("%d shown, %q", len(got), got["parameters"])
	}
	escapes := brief(t, o, `{"a":[`+strings.Repeat(`"`+strings.Repeat(`\u0001`, 300)+`",`, 30)+`1]}`)
	total := 0
	for name, value := range escapes {
		total += len(name) + len(value)
	}
	if total > 34<<10 {
		t.Errorf("%d bytes", total)
	}
	for what, parameters := range map[string]string{
		"many members":  members(3000),
		"a long path":   strings.Repeat(`{"`+strings.Repeat("n", 250)+`":`, 31) + "1" + strings.Repeat("}", 31),
		"a long name":   `{"` + strings.Repeat("n", 1025) + `":1}`,
		"what is large": `{"a":[` + strings.Repeat(`"`+strings.Repeat(`\u0001`, 1000)+`",`, 8) + strings.Repeat(`"`+strings.Repeat("\u200b", 1000)+`",`, 5) + `1],"b":{"` + strings.Repeat("m", 900) + `":[` + strings.Repeat("1,", 400) + `1]}}`,
	} {
		o.clock.advance(3600e9)
		dec := o.want(t, with(payRent, func(r *pdp.Request) { r.ParametersJSON = []byte(parameters) }), pdp.Deny, pdp.ReasonParametersUnavailable)
		if !strings.Contains(dec.Message, "send fewer") || dec.Approval != nil {
			t.Errorf("%s: %s, %+v", what, dec.Message, dec.Approval)
		}
	}
}

// members are parameters with so many members.
func members(n int) string {
	var out strings.Builder
	for i := range n {
		fmt.Fprintf(&out, `,"m%d":%d`, i, i)
	}
	return "{" + out.String()[1:] + "}"
}

// brief is details as a list has them.
func brief(tb testing.TB, o *office, parameters string) map[string]string {
	tb.Helper()
	details(tb, o, parameters)
	list, _, err := o.desk.List(tb.Context(), pdp.ApprovalFilter{})
	if err != nil {
		tb.Fatal(err)
	}
	out := map[string]string{}
	for _, d := range list[0].Details {
		out[d.Name] = d.Value
	}
	return out
}

func TestParametersThatWereNotSeen(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1)
	o.source.p.Store(compile(t, strings.Replace(deskPolicy, "approvers: [security], expires: 10m",
		"bind: path_only, bind_reason: the gateway sees no bodies, approvers: [security], expires: 10m", 1)))
	for state, want := range map[pdp.ParametersState]string{pdp.ParametersNotSeen: "not seen: ", pdp.ParametersTruncated: "not seen whole: "} {
		id := o.opened(t, with(removeNote, func(r *pdp.Request) { r.ParametersState = state }))
		rec, err := o.desk.Get(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		last := rec.Details[len(rec.Details)-1]
		if last.Name != "parameters" || !strings.HasPrefix(last.Value, want) || !rec.Partial {
			t.Errorf("%+v, want it to say %q", last, want)
		}
	}
}

// Whatever is cut or hidden says so apart from the words, so that nobody offers a
// quick yes to a part.
func TestWhatIsCutIsPartial(t *testing.T) {
	t.Parallel()
	value := func(n int) string { return `{"a":"` + strings.Repeat("v ", n/2) + `"}` }
	for what, tc := range map[string]struct {
		parameters      string
		change          func(*pdp.Request)
		partial, masked bool
	}{
		"nothing":                  {parameters: `{}`},
		"no parameters":            {change: func(r *pdp.Request) { r.ParametersJSON = nil }},
		"the longest value":        {parameters: value(510)}, // and its quotes
		"a longer value":           {parameters: value(512), partial: true},
		"a longer value in a list": {parameters: `{"a":[{"b":` + value(514) + `}]}`, partial: true},
		"a secret":                 {parameters: `{"password":"` + strings.Repeat("hunter2", 100) + `"}`, masked: true},
		"a secret in a text":       {parameters: `{"text":"use password: hunter2 for it"}`, masked: true},
		"a secret of the context": {parameters: `{}`, change: func(r *pdp.Request) {
			r.Context = map[string]any{"channel": map[string]any{"token": "hunter2"}}
		}, masked: true},
		"as many members": {parameters: members(78)},
		"a member more":   {parameters: members(79), partial: true},
		"a longer value of the context": {parameters: `{}`, change: func(r *pdp.Request) {
			r.Context = map[string]any{"channel": strings.Repeat("v ", 257)}
		}, partial: true},
	} {
		o := newOffice(t, 1)
		id := o.opened(t, with(payRent, func(r *pdp.Request) {
			r.ParametersJSON = []byte(tc.parameters)
			if tc.change != nil {
				tc.change(r)
			}
		}))
		list, _, err := o.desk.List(t.Context(), pdp.ApprovalFilter{})
		if err != nil || list[0].Partial != tc.partial || list[0].Masked != tc.masked {
			t.Errorf("%s: partial %v, masked %v, %v: %v", what, list[0].Partial, list[0].Masked, err, list[0].Details)
		}
		if rec, err := o.desk.Get(t.Context(), id); err != nil || rec.Partial || rec.Masked != tc.masked {
			t.Errorf("%s: by itself: partial %v, masked %v, %v", what, rec.Partial, rec.Masked, err)
		}
		o.no(t, id, lead)
		if rec, err := o.desk.Get(t.Context(), id); err != nil || len(o.store.row(id).Shown) > 40<<10 || len(rec.Details) == 0 {
			t.Errorf("%s: once it has ended: %d bytes, %v", what, len(o.store.row(id).Shown), err)
		}
	}
	o := newOffice(t, 1)
	id := o.opened(t, with(payRent, func(r *pdp.Request) { r.ParametersJSON = []byte(value(60_000)) }))
	o.no(t, id, lead)
	if rec, err := o.desk.Get(t.Context(), id); err != nil || !rec.Partial || len(o.store.row(id).Shown) > 2<<10 {
		t.Errorf("of what has ended %d bytes are kept, partial %v, %v", len(o.store.row(id).Shown), rec.Partial, err)
	}
}

// What an earlier release kept does not say whether it was cut, and what cannot be
// read shows nothing.
func TestWhatIsNotKnownWholeIsPartial(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1)
	id := o.opened(t, payRent)
	for _, kept := range []string{`{"details":[{"name":"a","value":"1"}]}`, `{"details":[`, ``} {
		o.store.change(id, func(a *store.Approval) { a.Shown = []byte(kept) })
		if rec, err := o.desk.Get(t.Context(), id); err != nil || !rec.Partial {
			t.Errorf("%s: %+v, %v", kept, rec, err)
		}
	}
}
