package policy_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kelpie-authz/kelpie/policy"
)

func TestParseParametersAccepts(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		raw  string
		want map[string]any
	}{
		"an empty object":                        {`{}`, map[string]any{}},
		"space around it":                        {" \n{ } \t", map[string]any{}},
		"an integer stays one":                   {`{"a":82}`, map[string]any{"a": int64(82)}},
		"a fraction is a double":                 {`{"a":1.50}`, map[string]any{"a": 1.5}},
		"1.0 and 1e3 are doubles":                {`{"a":1.0,"b":1e3,"c":1E3}`, map[string]any{"a": 1.0, "b": 1000.0, "c": 1000.0}},
		"minus zero without a point is 0":        {`{"a":-0}`, map[string]any{"a": int64(0)}},
		"a large number of few digits is double": {`{"a":1e300,"b":-123456789012345e10}`, map[string]any{"a": 1e300, "b": -123456789012345e10}},
		"the largest integers":                   {`{"a":9007199254740991,"b":-9007199254740991}`, map[string]any{"a": int64(1<<53 - 1), "b": -int64(1<<53 - 1)}},
		"escapes":                                {`{"\u0061":"\ud83d\ude00\n"}`, map[string]any{"a": "😀\n"}},
		"null, lists and objects":                {`{"a":null,"b":[true,{"c":[]}],"d":{}}`, map[string]any{"a": nil, "b": []any{true, map[string]any{"c": []any{}}}, "d": map[string]any{}}},
		"one name at two depths is no repeat":    {`{"a":{"a":1}}`, map[string]any{"a": map[string]any{"a": int64(1)}}},
		"names that differ in case are two":      {`{"a":1,"A":2}`, map[string]any{"a": int64(1), "A": int64(2)}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := policy.ParseParameters([]byte(c.raw))
			if err != nil {
				t.Fatalf("ParseParameters(%s): %v", c.raw, err)
			}
			want := policy.Parameters{State: policy.ParametersComplete, Raw: []byte(c.raw), Values: c.want}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("ParseParameters(%s) (-want +got):\n%s", c.raw, diff)
			}
		})
	}
}

// nested returns an object in lists, depth deep in all.
func nested(depth int) string {
	return `{"a":` + strings.Repeat("[", depth-1) + strings.Repeat("]", depth-1) + `}`
}

func TestParseParametersRefuses(t *testing.T) {
	t.Parallel()
	cases := map[string]struct{ raw, want string }{
		"nothing":                     {"", "ends early"},
		"only space":                  {" \n", "ends early"},
		"a list":                      {`[]`, "not a JSON object"},
		"null":                        {`null`, "not a JSON object"},
		"two objects":                 {`{}{}`, "something follows"},
		"text after it":               {`{} x`, "something follows"},
		"a name twice":                {`{"a":1,"a":2}`, "given twice"},
		"a name twice by escape":      {`{"a":1,"\u0061":2}`, "given twice"},
		"a name twice further down":   {`{"x":[{"a":1,"b":{"c":1,"c":1}}]}`, "given twice"},
		"2^53+1 with a point":         {`{"a":9007199254740993.0}`, "2^53-1"},
		"a number too small to hold":  {`{"a":1e-400}`, "more exact"},
		"more digits than a double":   {`{"a":100.000000000000001}`, "more exact"},
		"2^53+1 with an exponent":     {`{"a":-9007199254740993e0}`, "2^53-1"},
		"2^53":                        {`{"a":9007199254740992}`, "2^53-1"},
		"-2^53":                       {`{"a":-9007199254740992}`, "2^53-1"},
		"a huge integer":              {`{"a":1` + strings.Repeat("0", 400) + `}`, "2^53-1"},
		"a number beyond doubles":     {`{"a":1e999}`, "beyond the range"},
		"a leading zero":              {`{"a":01}`, "not JSON"},
		"a plus":                      {`{"a":+1}`, "not JSON"},
		"NaN":                         {`{"a":NaN}`, "not JSON"},
		"a comment":                   {`{/**/}`, "not JSON"},
		"a comma too many":            {`{"a":1,}`, "not JSON"},
		"invalid UTF-8":               {"{\"a\":\"\xff\"}", "not JSON"},
		"invalid UTF-8 in a name":     {"{\"\xc0\x80\":1}", "not JSON"},
		"a lone high surrogate":       {`{"a":"\ud800"}`, "not JSON"},
		"a lone low surrogate":        {`{"\udc00":1}`, "not JSON"},
		"surrogates the wrong way":    {`{"a":"\udc00\ud800"}`, "not JSON"},
		"a control character":         {"{\"a\":\"\n\"}", "not JSON"},
		"a byte order mark":           {"\xef\xbb\xbf{}", "not JSON"},
		"an end too early":            {`{"a":[1`, "ends early"},
		"33 deep":                     {nested(33), "more than 32 deep"},
		"objects 33 deep":             {strings.Repeat(`{"a":`, 33) + "1" + strings.Repeat("}", 33), "more than 32 deep"},
		"more than 64 KiB":            {`{"a":"` + strings.Repeat("x", 64<<10) + `"}`, "write at most 65536"},
		"more than 64 KiB of nothing": {strings.Repeat(" ", 64<<10) + "{}", "write at most 65536"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := policy.ParseParameters([]byte(c.raw))
			if err == nil {
				t.Fatalf("accepted as %v", got.Values)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q does not say %q", err, c.want)
			}
			if got.State != policy.ParametersAbsent || got.Values != nil || got.Raw != nil {
				t.Errorf("an error came with %+v", got)
			}
		})
	}
}

func TestParseParametersBounds(t *testing.T) {
	t.Parallel()
	full := `{"a":"` + strings.Repeat("x", policy.MaxParametersBytes-len(`{"a":""}`)) + `"}`
	for name, raw := range map[string]string{"32 deep": nested(32), "64 KiB": full} {
		if _, err := policy.ParseParameters([]byte(raw)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParseParametersNeverRepeatsContent(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{
		`{"secret-name":"secret-value","secret-name":1}`, `{"a":secret}`, `{"secret":1e999}`, `{"a":"secret`, `{"secret":90071992547409920}`, `{} secret`,
	} {
		if _, err := policy.ParseParameters([]byte(raw)); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: error %q", raw, err)
		}
	}
}

// FuzzParameters compares with encoding/json, which takes more than we do.
func FuzzParameters(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"a":1,"b":[1.5,-0,1e3,null,true,"x\ud83d\ude00"]}`, `{"a":{"a":{}}}`, `{"a":1,"a":2}`, `{"a":9007199254740992}`, nested(32), nested(33), "{\"a\":\"\xff\"}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := policy.ParseParameters(raw)
		if err != nil {
			return
		}
		decoder := json.NewDecoder(bytes.NewReader(raw))
		decoder.UseNumber()
		var want map[string]any
		if err := decoder.Decode(&want); err != nil {
			t.Fatalf("accepted %q, which encoding/json refuses: %v", raw, err)
		}
		if depth := compareJSON(t, want, got.Values); depth > 32 {
			t.Fatalf("accepted %q, which is %d deep", raw, depth)
		}
	})
}

// compareJSON fails unless got is what want says, and returns how deep want is.
func compareJSON(t *testing.T, want, got any) int {
	t.Helper()
	depth := 0
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok || len(g) != len(w) {
			t.Fatalf("got %T %v, want %v", got, got, want)
		}
		for name, value := range w {
			depth = max(depth, compareJSON(t, value, g[name]))
		}
		return depth + 1
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) != len(w) {
			t.Fatalf("got %T %v, want %v", got, got, want)
		}
		for i, value := range w {
			depth = max(depth, compareJSON(t, value, g[i]))
		}
		return depth + 1
	case json.Number:
		switch g := got.(type) {
		case int64:
			n, err := w.Int64()
			if err != nil || n != g || g > 1<<53-1 || g < -(1<<53-1) {
				t.Fatalf("number %v became the integer %d", w, g)
			}
		case float64:
			n, err := w.Float64()
			if err != nil || n != g || !strings.ContainsAny(w.String(), ".eE") {
				t.Fatalf("number %v became the double %v", w, g)
			}
		default:
			t.Fatalf("number %v became %T", w, got)
		}
	default:
		if want != got {
			t.Fatalf("got %v, want %v", got, want)
		}
	}
	return depth
}
