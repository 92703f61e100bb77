package policy_test

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/kelpie-authz/kelpie/policy"
)

// TestLanguageParameterBounds shows the bounds of "Names and patterns/9" that are too long for a case file.
func TestLanguageParameterBounds(t *testing.T) {
	t.Parallel()
	nested := func(depth int) string {
		return strings.Repeat(`{"a":`, depth-1) + "{}" + strings.Repeat("}", depth-1)
	}
	arrays := func(depth int) string {
		return `{"a":` + strings.Repeat("[", depth-1) + strings.Repeat("]", depth-1) + "}"
	}
	sized := func(size int) string { return `{"a":"` + strings.Repeat("x", size-8) + `"}` }
	for _, c := range []struct {
		name, json string
		refused    bool
	}{
		{"objects 32 deep", nested(32), false},
		{"objects 33 deep", nested(33), true},
		{"arrays 32 deep", arrays(32), false},
		{"arrays 33 deep", arrays(33), true},
		{"objects 10,000 deep", nested(10_000), true},
		{"64 KiB", sized(64 << 10), false},
		{"64 KiB and a byte", sized(64<<10 + 1), true},
		{"invalid UTF-8 in a value", "{\"a\":\"\xff\"}", true},
		{"invalid UTF-8 in a name", "{\"\xc3\":1}", true},
		{"a lone surrogate", `{"a":"\udc00"}`, true},
		{"a surrogate pair", `{"a":"\ud83d\ude00"}`, false},
		{"a byte order mark", "\xef\xbb\xbf{}", true},
		{"a name twice, once escaped, 31 deep", strings.Repeat(`{"a":`, 31) + `{"b":1,"\u0062":2}` + strings.Repeat("}", 31), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			raw := []byte(c.json)
			before := bytes.Clone(raw)
			parameters, err := policy.ParseParameters(raw)
			if (err != nil) != c.refused {
				t.Fatalf("error %v, want refused: %v", err, c.refused)
			}
			if !bytes.Equal(raw, before) {
				t.Error("the caller's bytes were changed")
			}
			if err == nil && (parameters.State != policy.ParametersComplete || parameters.Values == nil) {
				t.Errorf("state %v with values %v, want complete", parameters.State, parameters.Values)
			}
		})
	}
}

// TestLanguageParameterValues shows what conditions see: integers as int64, other numbers as float64.
func TestLanguageParameterValues(t *testing.T) {
	t.Parallel()
	parameters, err := policy.ParseParameters([]byte(`{"i":82,"n":-0,"d":1.5,"s":"82","b":true,"z":null,"l":[1,{"x":2.5}],"m":9007199254740991}`))
	if err != nil {
		t.Fatalf("parse: %v", err)
	}
	want := `map[b:bool d:float64 i:int64 l:[]interface {} m:int64 n:int64 s:string z:<nil>]`
	types := map[string]string{}
	for name, value := range parameters.Values {
		types[name] = fmt.Sprintf("%T", value)
	}
	if got := fmt.Sprint(types); got != want {
		t.Errorf("types %s, want %s", got, want)
	}
	if parameters.Values["m"] != int64(1<<53-1) {
		t.Errorf("2^53-1 came as %v", parameters.Values["m"])
	}
}

// TestLanguageContextIsChecked shows that a context of values that no Struct holds, or with control characters in its names, is refused.
func TestLanguageContextIsChecked(t *testing.T) {
	t.Parallel()
	for _, bad := range []map[string]any{
		{"a\x00b": 1.0}, {"a": math.NaN()}, {"a": math.Inf(1)}, {"a": []any{map[string]any{"b\n": true}}},
	} {
		if policy.CheckContext(bad) == nil {
			t.Errorf("context %v is not refused", bad)
		}
	}
	for _, good := range []map[string]any{nil, {}, {"a": 1.0, "b": []any{"c", nil, true, map[string]any{"d": "e"}}}} {
		if err := policy.CheckContext(good); err != nil {
			t.Errorf("context %v is refused: %v", good, err)
		}
	}
}
