package pdp_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"pgregory.net/rapid"

	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/policy"
)

func fullBinding() pdp.Binding {
	return pdp.Binding{
		Agent: "payer", Subject: "user@example.com", ActorChain: []string{"planner", "router"},
		Action: "pay", Resource: "bank/rent", ToolServer: "bank", ToolName: "transfer", ToolDefinitionDigest: "ab12",
		ParametersState: policy.ParametersComplete, ParametersRaw: []byte(`{"amount":82000,"to":["x",{"y":1.5}]}`),
		Cost:    1.5,
		Context: map[string]any{"channel": "email", "nested": map[string]any{"n": 1.0, "l": []any{nil, true, "s"}}},
		Rules:   []pdp.BoundRule{{Rule: "approvals/a", Version: "v1"}, {Rule: "builtin/destructive", Version: "v2"}},
	}
}

func jsonText(s string) []byte {
	text, err := jsontext.AppendQuote(nil, s)
	if err != nil {
		panic(err)
	}
	return text
}

func digest(tb testing.TB, b *pdp.Binding) string {
	tb.Helper()
	d, err := b.Digest()
	if err != nil {
		tb.Fatalf("digest: %v", err)
	}
	return d
}

func canonicalDigest(canonical string) string {
	sum := sha256.Sum256([]byte("kelpie-approval-v1\x00" + canonical))
	return hex.EncodeToString(sum[:])
}

// The canonical form is written out by hand, so that the digest cannot change
// without this test: approvals that wait in a store would be lost.
func TestDigestIsTheHashOfTheCanonicalForm(t *testing.T) {
	t.Parallel()
	b := fullBinding()
	const canonical = `{"action":"pay","actor_chain":["planner","router"],"agent":"payer",` +
		`"context":{"channel":"email","nested":{"l":[null,true,"s"],"n":1}},"cost":1.5,` +
		`"parameters":{"amount":82000,"to":["x",{"y":1.5}]},"resource":"bank/rent",` +
		`"rules":[["approvals/a","v1"],["builtin/destructive","v2"]],"subject":"user@example.com",` +
		`"tool":{"definition_digest":"ab12","name":"transfer","server":"bank"}}`
	if got, want := digest(t, &b), canonicalDigest(canonical); got != want {
		t.Errorf("digest %s, want %s", got, want)
	}
	const empty = `{"action":"","actor_chain":[],"agent":"","context":{},"cost":0,"parameters":null,"resource":"",` +
		`"rules":[],"subject":"","tool":{"definition_digest":"","name":"","server":""}}`
	if got, want := digest(t, &pdp.Binding{}), canonicalDigest(empty); got != want {
		t.Errorf("digest of nothing %s, want %s", got, want)
	}
}

// The examples of RFC 8785: section 3.2.2 and 3.2.3, and numbers of appendix B.
func TestDigestOfRFC8785Vectors(t *testing.T) {
	t.Parallel()
	const around = `{"action":"","actor_chain":[],"agent":"","context":{},"cost":0,"parameters":%s,"resource":"",` +
		`"rules":[],"subject":"","tool":{"definition_digest":"","name":"","server":""}}`
	for name, tc := range map[string]struct{ raw, canonical string }{
		"values": {
			`{"numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
			  "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/", "literals": [null, true, false]}`,
			`{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],` +
				`"string":"€$\u000f\nA'B\"\\\\\"/"}`,
		},
		"order": {
			`{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh","1":"One",` +
				`"\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis"}`,
			"{\"\\r\":\"Carriage Return\",\"1\":\"One\",\"\u0080\":\"Control\",\"\u00f6\":\"Latin Small Letter O With Diaeresis\"," +
				"\"\u20ac\":\"Euro Sign\",\"\U0001f600\":\"Emoji: Grinning Face\",\"\ufb33\":\"Hebrew Letter Dalet With Dagesh\"}",
		},
		"numbers": {
			`{"n":[0.0,-0.0,5e-324,1.7976931348623157e308,9007199254740992.0,295147905179352830000.0,9.999999999999997e22,
			  1e23,1.0000000000000001e23,999999999999999700000.0,999999999999999900000.0,1e21,9.999999999999997e-7,0.000001,
			  333333333.3333332,333333333.33333325,-0.0000033333333333333333,1424953923781206.2]}`,
			`{"n":[0,0,5e-324,1.7976931348623157e+308,9007199254740992,295147905179352830000,9.999999999999997e+22,` +
				`1e+23,1.0000000000000001e+23,999999999999999700000,999999999999999900000,1e+21,9.999999999999997e-7,0.000001,` +
				`333333333.3333332,333333333.33333325,-0.0000033333333333333333,1424953923781206.2]}`,
		},
	} {
		// Large numbers of more than 15 digits are canonical and all the same malformed.
		if _, err := policy.ParseParameters([]byte(tc.raw)); (err != nil) != (name == "numbers") {
			t.Errorf("%s: well-formed? %v", name, err)
		}
		b := pdp.Binding{ParametersState: policy.ParametersComplete, ParametersRaw: []byte(tc.raw)}
		if got, want := digest(t, &b), canonicalDigest(fmt.Sprintf(around, tc.canonical)); got != want {
			t.Errorf("%s: the canonical form differs from the RFC's", name)
		}
	}
}

// bindingMutations change one bound field each.
var bindingMutations = map[string]func(b *pdp.Binding, s string, f float64){
	"agent":           func(b *pdp.Binding, s string, _ float64) { b.Agent += s },
	"subject":         func(b *pdp.Binding, s string, _ float64) { b.Subject += s },
	"actor":           func(b *pdp.Binding, s string, _ float64) { b.ActorChain = []string{"planner", "router" + s} },
	"actor order":     func(b *pdp.Binding, _ string, _ float64) { b.ActorChain = []string{"router", "planner"} },
	"actor added":     func(b *pdp.Binding, s string, _ float64) { b.ActorChain = append(slices.Clone(b.ActorChain), s) },
	"action":          func(b *pdp.Binding, s string, _ float64) { b.Action += s },
	"resource":        func(b *pdp.Binding, s string, _ float64) { b.Resource += s },
	"tool server":     func(b *pdp.Binding, s string, _ float64) { b.ToolServer += s },
	"tool name":       func(b *pdp.Binding, s string, _ float64) { b.ToolName += s },
	"tool definition": func(b *pdp.Binding, s string, _ float64) { b.ToolDefinitionDigest += s },
	"method":          func(b *pdp.Binding, s string, _ float64) { b.HTTPMethod += s },
	"host":            func(b *pdp.Binding, s string, _ float64) { b.HTTPHost += s },
	"route":           func(b *pdp.Binding, s string, _ float64) { b.HTTPRoute += s },
	"cost":            func(b *pdp.Binding, _ string, f float64) { b.Cost += f },
	"parameters": func(b *pdp.Binding, s string, _ float64) {
		b.ParametersRaw = fmt.Appendf(nil, `{"amount":820000,"s":%s}`, jsonText(s))
	},
	"parameters absent": func(b *pdp.Binding, _ string, _ float64) { b.ParametersState = policy.ParametersAbsent },
	"parameters unseen": func(b *pdp.Binding, _ string, _ float64) { b.ParametersState = policy.ParametersNotSeen },
	"parameters cut":    func(b *pdp.Binding, _ string, _ float64) { b.ParametersState = policy.ParametersTruncated },
	"context value":     func(b *pdp.Binding, s string, _ float64) { b.Context = map[string]any{"channel": "email" + s} },
	"context number":    func(b *pdp.Binding, _ string, f float64) { b.Context = map[string]any{"channel": f} },
	"context null":      func(b *pdp.Binding, _ string, _ float64) { b.Context = map[string]any{"channel": nil} },
	"context gone":      func(b *pdp.Binding, _ string, _ float64) { b.Context = nil },
	"rule": func(b *pdp.Binding, s string, _ float64) {
		b.Rules = []pdp.BoundRule{{Rule: "approvals/a" + s, Version: "v1"}}
	},
	"rule version": func(b *pdp.Binding, s string, _ float64) {
		b.Rules = []pdp.BoundRule{{Rule: "approvals/a", Version: "v1" + s}}
	},
	"rule gone": func(b *pdp.Binding, _ string, _ float64) { b.Rules = nil },
}

func TestEveryBoundFieldChangesTheDigest(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		s := rapid.StringN(1, 8, 32).Draw(r, "text")
		if strings.ToValidUTF8(s, "") != s {
			r.Skip("JSON has no such text")
		}
		f := rapid.Float64Range(0.5, 1e6).Draw(r, "number")
		seen := map[string]string{}
		add := func(name string, b *pdp.Binding) {
			d, err := b.Digest()
			if err != nil {
				r.Fatalf("%s: %v", name, err)
			}
			if other, same := seen[d]; same {
				r.Fatalf("%q and %q have one digest", name, other)
			}
			seen[d] = name
		}
		base := fullBinding()
		add("base", &base)
		for name, mutate := range bindingMutations {
			b := fullBinding()
			mutate(&b, s, f)
			add(name, &b)
		}
	})
}

// Text must not move between neighbouring fields.
func TestDigestKeepsFieldsApart(t *testing.T) {
	t.Parallel()
	a := pdp.Binding{Agent: `x","subject":"y`, Subject: ""}
	b := pdp.Binding{Agent: "x", Subject: "y"}
	if digest(t, &a) == digest(t, &b) {
		t.Error("a quote in one field reads as the next field")
	}
	for _, raw := range []string{``, `[]`, `{"a":1},"cost":7`, `{"a":1}{}`, `{"a":1,"a":1}`, "{\"a\":\"\xff\"}", `{"a":"\ud800"}`} {
		b := pdp.Binding{ParametersState: policy.ParametersComplete, ParametersRaw: []byte(raw)}
		if d, err := b.Digest(); err == nil {
			t.Errorf("parameters %q have the digest %s, want an error", raw, d)
		}
	}
	for _, b := range []pdp.Binding{
		{Agent: "\xff"},
		{Cost: math.NaN()},
		{Cost: math.Inf(1)},
		{Context: map[string]any{"n": math.Inf(-1)}},
		{Context: map[string]any{"n": 7}},
		{ParametersState: 99},
	} {
		if d, err := b.Digest(); err == nil {
			t.Errorf("%+v has the digest %s, want an error", b, d)
		}
	}
}

func TestSpellingDoesNotChangeTheDigest(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		n := rapid.IntRange(1, 1_000_000).Draw(r, "number")
		spellings := []string{fmt.Sprint(n), fmt.Sprintf("%d.0", n), fmt.Sprintf("%de0", n), fmt.Sprintf("%d0e-1", n), fmt.Sprintf("%d.00E+0", n)}
		space := rapid.StringMatching(`[ \t\n\r]{0,3}`)
		object := func(label string) string {
			members := []string{
				`"n"` + space.Draw(r, label) + `:` + rapid.SampledFrom(spellings).Draw(r, label),
				rapid.SampledFrom([]string{`"ü"`, `"\u00fc"`, `"\u00FC"`}).Draw(r, label) + `:` + space.Draw(r, label) +
					rapid.SampledFrom([]string{`"a/b"`, `"a\/b"`, `"\u0061/b"`}).Draw(r, label),
				`"list":[1,` + space.Draw(r, label) + `{"x":true}]`,
			}
			members = rapid.Permutation(members).Draw(r, label)
			return space.Draw(r, label) + `{` + strings.Join(members, space.Draw(r, label)+`,`) + `}` + space.Draw(r, label)
		}
		one, two := fullBinding(), fullBinding()
		one.ParametersRaw, two.ParametersRaw = []byte(object("one")), []byte(object("two"))
		a, err := one.Digest()
		if err != nil {
			r.Fatalf("%s: %v", one.ParametersRaw, err)
		}
		b, err := two.Digest()
		if err != nil {
			r.Fatalf("%s: %v", two.ParametersRaw, err)
		}
		if a != b {
			r.Fatalf("%s and %s are equal and have different digests", one.ParametersRaw, two.ParametersRaw)
		}
	})
}
