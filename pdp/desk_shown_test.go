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
		{`{"url":"https://bob:hunter2@example.com/"}`, "parameters.url", "[masked]"},
		{`{"text":"use password: hunter2"}`, "parameters.text", "[masked]"},
		{`{"text":"ghp_abcdefghijklmnop1234"}`, "parameters.text", "[masked]"},
		{`{"text":"AKIAIOSFODNN7EXAMPLE"}`, "parameters.text", "[masked]"},
		{`{"text":"-----BEGIN RSA PRIVATE KEY-----"}`, "parameters.text", "[masked]"},
		{`{"text":"eyJhbGciOiJIUzI1NiJ9.e30.x"}`, "parameters.text", "[masked]"},
		{`{"text":"wJalrXUtnFEMI7K7MDENGbPxRfiCYEX4MPL3KEY"}`, "parameters.text", "[masked]"},
		{`{"card":"4111 1111 1111 1111"}`, "parameters.card", "[masked]...1111"},
		{`{"text":"4111111111111111"}`, "parameters.text", "[masked]...1111"},
		{`{"n":4111111111111111}`, "parameters.n", "[masked]...1111"},
		{`{"text":"pay with 4111-1111-1111-1111 please"}`, "parameters.text", "[masked]"},
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

// However much there is, what is shown is bounded, and says what is left out.
func TestWhatIsShownIsBounded(t *testing.T) {
	t.Parallel()
	o := newOffice(t, 1)
	long := details(t, o, `{"a":"`+strings.Repeat("long word ", 5000)+`"}`)["parameters.a"]
	if len(long) > 700 || !strings.Contains(long, "(the beginning of 50000 bytes; SHA-256 ") {
		t.Errorf("%d bytes: %s", len(long), long)
	}
	cutHere := details(t, o, `{"a":"`+strings.Repeat("€", 5000)+`"}`)["parameters.a"]
	if strings.Contains(cutHere, `\x`) {
		t.Errorf("cut within a character: %s", cutHere)
	}
	var members strings.Builder
	for i := range 3000 {
		fmt.Fprintf(&members, `,"m%d":%d`, i, i)
	}
	if got := details(t, o, "{"+members.String()[1:]+"}"); got["parameters"] != "2936 more members are not shown" {
		t.Errorf("%d shown, %q", len(got), got["parameters"])
	}
	escapes := details(t, o, `{"a":[`+strings.Repeat(`"`+strings.Repeat(`\u0001`, 300)+`",`, 30)+`1]}`)
	total := 0
	for name, value := range escapes {
		total += len(name) + len(value)
	}
	if total > 20<<10 || !strings.Contains(escapes["parameters"], "more members are not shown") {
		t.Errorf("%d bytes, %q", total, escapes["parameters"])
	}
	deep := strings.Repeat(`{"`+strings.Repeat("n", 250)+`":`, 31) + "1" + strings.Repeat("}", 31)
	for name := range details(t, o, deep) {
		if len(name) > 300 {
			t.Errorf("a name of %d bytes", len(name))
		}
	}
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

// Whatever is cut says so apart from the words, so that nobody offers a quick yes
// to a part, and nothing like it is allowed in future. A masked secret is no cut.
func TestWhatIsCutIsPartial(t *testing.T) {
	t.Parallel()
	members := func(n int) string {
		var out strings.Builder
		for i := range n {
			fmt.Fprintf(&out, `,"m%d":%d`, i, i)
		}
		return "{" + out.String()[1:] + "}"
	}
	value := func(n int) string { return `{"a":"` + strings.Repeat("v ", n/2) + `"}` }
	name := func(n int) string { return `{"` + strings.Repeat("n ", n/2) + `":1}` }
	for what, tc := range map[string]struct {
		parameters string
		change     func(*pdp.Request)
		partial    bool
	}{
		"nothing":                   {parameters: `{}`},
		"no parameters":             {change: func(r *pdp.Request) { r.ParametersJSON = nil }},
		"the longest value":         {parameters: value(512)},
		"a longer value":            {parameters: value(514), partial: true},
		"a longer value in a list":  {parameters: `{"a":[{"b":` + value(514) + `}]}`, partial: true},
		"a secret":                  {parameters: `{"password":"` + strings.Repeat("hunter2", 100) + `"}`},
		"as many members":           {parameters: members(64)},
		"a member more":             {parameters: members(65), partial: true},
		"a long name":               {parameters: name(200)},
		"a longer name":             {parameters: name(258), partial: true},
		"a longer name of letters":  {parameters: `{"` + strings.Repeat("n", 258) + `":1}`, partial: true},
		"a longer name with values": {parameters: `{"` + strings.Repeat("n ", 129) + `":{"a":1}}`, partial: true},
		"a longer path":             {parameters: `{"` + strings.Repeat("n", 200) + `":{"` + strings.Repeat("m", 200) + `":1}}`, partial: true},
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
		rec, err := o.desk.Get(t.Context(), id)
		if err != nil || rec.Partial != tc.partial {
			t.Errorf("%s: partial %v, %v: %v", what, rec.Partial, err, rec.Details)
		}
		if tc.partial {
			terms := pdp.StandingTerms{Uses: 3}
			if _, err := o.desk.Approve(t.Context(), &pdp.Ballot{ApprovalID: id, Person: controller, Standing: &terms}); err == nil || terms.Made != "" {
				t.Errorf("%s: a standing grant, %v", what, err)
			}
		}
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
