package pdp_test

import (
	"fmt"
	"testing"

	"github.com/gowebpki/jcs"

	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/policy"
)

// aroundParameters is the canonical form of a binding that has nothing but parameters.
const aroundParameters = `{"action":"","actor_chain":[],"agent":"","context":{},"cost":0,"parameters":%s,"resource":"",` +
	`"rules":[],"subject":"","tool":{"definition_digest":"","name":"","server":""}}`

// FuzzDigest compares the canonical form that digests are made of with that of
// another implementation of RFC 8785, for all parameters that a call may have.
// Two calls have one digest if their canonical forms are one, and only then.
func FuzzDigest(f *testing.F) {
	for _, pair := range [][2]string{
		{`{"amount":82000}`, `{"amount":820000}`},
		{`{"amount":1}`, `{"amount":1.0}`},
		{`{"amount":1e3}`, `{ "amount" : 1000 }`},
		{`{"a":1,"b":2}`, `{"b":2,"a":1}`},
		{`{"\u00e9":"\u20ac"}`, `{"é":"€"}`},
		{`{"a":"é"}`, `{"a":"é"}`},
		{`{"a":"\ud83d\ude00"}`, `{"a":"😀"}`},
		{`{"a":-0}`, `{"a":0.0}`},
		{`{"a":1e-7}`, `{"a":0.0000001}`},
		{`{"a":5e-324}`, `{"a":1.7976931348623157e308}`},
		{`{"a":[[],{},null,true,false,"\u2028\"\\\/\b\f\n\r\t\u001f"]}`, `{"a":[null]}`},
		{`{"a":1,"a":2}`, `{"a":{"b":1,"b":1}}`},
		{`{"a":"\ud800"}`, `{"a":9007199254740993}`},
		{`{"\ufb33":1,"\ud83d\ude00":2}`, `{"\ud83d\ude00":2,"\ufb33":1}`},
	} {
		f.Add(pair[0], pair[1])
	}
	f.Fuzz(func(t *testing.T, one, two string) {
		first, firstForm, ok := digestBoth(t, one)
		if !ok {
			return
		}
		second, secondForm, ok := digestBoth(t, two)
		if ok && (first == second) != (firstForm == secondForm) {
			t.Errorf("%q and %q: one digest is %t, one canonical form is %t", one, two, first == second, firstForm == secondForm)
		}
	})
}

// digestBoth is the digest of parameters, and their canonical form by the other
// implementation; false if no call may have them.
func digestBoth(t *testing.T, text string) (sum, form string, ok bool) {
	t.Helper()
	if _, err := policy.ParseParameters([]byte(text)); err != nil {
		return "", "", false
	}
	other, err := jcs.Transform([]byte(text))
	if err != nil {
		t.Fatalf("%q is well-formed, and another implementation of RFC 8785 does not take it: %v", text, err)
	}
	b := pdp.Binding{ParametersState: policy.ParametersComplete, ParametersRaw: []byte(text)}
	got, err := b.Digest()
	if err != nil {
		t.Fatalf("%q is well-formed, and has no digest: %v", text, err)
	}
	if want := canonicalDigest(fmt.Sprintf(aroundParameters, other)); got != want {
		t.Errorf("%q: the canonical form is not %q", text, other)
	}
	return got, string(other), true
}
