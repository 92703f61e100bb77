package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestConditionReads(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		parameters bool
		context    []string
		whole      bool
	}{
		`agent == "a"`:                              {},
		`parameters.n > 1`:                          {parameters: true},
		`.parameters.n > 1`:                         {parameters: true},
		`false && parameters.n > 1`:                 {parameters: true},
		`true || has(parameters.n)`:                 {parameters: true},
		`size(parameters) == 0`:                     {parameters: true},
		`context.parameters == 1`:                   {context: []string{"parameters"}},
		`context.x == 1 && context["y"] == 2`:       {context: []string{"x", "y"}},
		`has(context.x) || context.x.context == 1`:  {context: []string{"x"}},
		`"x" in context`:                            {whole: true},
		`context[agent] == 1`:                       {whole: true},
		`context.x == 1 && size(context) == 1`:      {context: []string{"x"}, whole: true},
		`context.exists(k, k == "x")`:               {whole: true},
		`context.l.all(x, x > 1) || context.m == 1`: {context: []string{"l", "m"}},
		`[1].exists(p, p == parameters.n)`:          {parameters: true},
	}
	cs, err := newConditions()
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range tests {
		c, err := cs.compile(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if c.parameters != want.parameters || !slices.Equal(c.context, want.context) || c.whole != want.whole {
			t.Errorf("%s reads parameters %v, of the context %q, whole %v", text, c.parameters, c.context, c.whole)
		}
	}
}

func TestConditionEvaluate(t *testing.T) {
	t.Parallel()
	few := make([]any, 1000)
	for i := range few {
		few[i] = fmt.Sprintf("person%d@example.com", i)
	}
	call := &Call{
		Agent: "bot", Action: "read", Resource: "a/b", Subject: "ann@example.com", SourceIP: netip.MustParseAddr("::ffff:10.8.0.5"),
		Now: time.Date(2026, 11, 22, 23, 30, 0, 0, time.FixedZone("x", 3600)),
		Parameters: Parameters{State: ParametersComplete, Values: map[string]any{
			"i": int64(82), "f": 82.5, "s": "x", "l": []any{int64(1), 2.5, "x", nil}, "m": map[string]any{"k": true}, "big": int64(1<<53 - 1), "few": few,
		}},
		Context: map[string]any{"n": 3.0, "long": strings.Repeat("a", 60_000), "many": make([]any, 20_000)},
	}
	tests := map[string]outcome{
		`agent == "bot" && action == "read" && resource.startsWith("a/") && subject == "ann@example.com"`: isTrue,
		`source_ip == "10.8.0.5"`:                                                                isTrue,
		`now == timestamp("2026-11-22T22:30:00Z")`:                                               isTrue,
		`now.getHours() == 22 && now.getDayOfWeek() == 0`:                                        isTrue,
		`string(now) == "2026-11-22T22:30:00Z"`:                                                  isTrue,
		`parameters.i == 82 && parameters.i == 82.0 && parameters.i < 82.5 && parameters.f > 82`: isTrue,
		`parameters.l[0] == 1 && parameters.l[1] > 2 && parameters.l[3] == null`:                 isTrue,

		`parameters.m.k`:                   isTrue,
		`parameters.big % 2 == 1`:          isTrue,
		`context.n == 3`:                   isTrue,
		`context.n == 4`:                   isFalse,
		`has(context.missing)`:             isFalse,
		`context.missing == 1`:             isFailing,
		`parameters.s > 1`:                 isFailing,
		`parameters.i`:                     isFailing,
		`parameters.i / 0 == 1`:            isFailing,
		`context.long.matches("(a|aa)+$")`: isTrue,

		`context.many.all(x, context.many.all(y, x == y))`:                 isFailing, // costs too much
		`context.many.all(x, context == context)`:                          isFailing,
		`context.many.all(x, context.many in [context.many])`:              isFailing,
		`context.many.all(x, size(context.long) > 0)`:                      isFailing,
		`parameters.few.all(s, s.endsWith("@example.com"))`:                isTrue,
		`context.many.map(x, context.long + context.long).size() == 20000`: isFailing,
	}
	cs, err := newConditions()
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range tests {
		c, err := cs.compile(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := c.evaluate(call); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
	c, err := cs.compile(`size(context) == 0 && source_ip == "" && subject == ""`)
	if err != nil {
		t.Fatal(err)
	}
	if got := c.evaluate(&Call{}); got != isTrue {
		t.Errorf("of an empty call: %v", got)
	}
	for _, state := range []ParametersState{ParametersAbsent, ParametersTruncated, ParametersNotSeen} {
		c, err := cs.compile(`true || parameters.x == 1`)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.evaluate(&Call{Parameters: Parameters{State: state}}); got != isLacking {
			t.Errorf("state %d: %v", state, got)
		}
	}
}

// TestConditionBounds compiles what is made to be slow: it is refused, or
// compiled soon and stopped when it runs.
func TestConditionBounds(t *testing.T) {
	t.Parallel()
	loops := "context.l"
	for i := range 30 {
		loops = fmt.Sprintf("%s.map(v%d, %s)", "[1,2,3,4,5,6,7,8,9]", i, loops)
	}
	literals := "[0]"
	for i := range 8 {
		literals = fmt.Sprintf("[1,2,3,4,5,6,7,8,9,10].map(v%d, %s)", i, literals)
	}
	tests := map[string]string{
		"brackets":     strings.Repeat("(", 8000) + "true" + strings.Repeat(")", 8000),
		"open":         strings.Repeat("(", 16000),
		"nots":         strings.Repeat("!", 16000) + "true",
		"minus":        strings.Repeat("-", 16000) + "1 == 1",
		"selects":      "context" + strings.Repeat(".a", 8000) + " == 1",
		"indices":      "context" + strings.Repeat("[0]", 5000) + " == 1",
		"lists":        strings.Repeat("[", 8000) + strings.Repeat("]", 8000) + " == []",
		"ternaries":    strings.Repeat("true ? true : ", 1100) + "true",
		"ors":          strings.Repeat("true || ", 2000) + "true",
		"strings":      strings.Repeat(`"a"+`, 4000) + `"a" == "b"`,
		"loops":        loops + " == []",
		"literal":      "size(" + literals + ") == 1",
		"has":          strings.Repeat("has(context.x) && ", 900) + "true",
		"regex":        `"a".matches("` + strings.Repeat("(a{100}){10}", 100) + `")`,
		"regexnesting": `"a".matches("((((a{30}){30}){30}){30})")`,
		"too long":     strings.Repeat(" ", 17000) + "true",
	}
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cs, err := newConditions()
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			c, err := cs.compile(text)
			result := "refused"
			if err == nil {
				result = fmt.Sprint(c.evaluate(&Call{Context: map[string]any{"l": make([]any, 1000)}}))
			}
			took := time.Since(start)
			t.Logf("%s in %v", result, took)
			if took > 30*time.Second { // each takes a fraction of a second alone
				t.Errorf("took %v", took)
			}
		})
	}
}

func TestConditionErrors(t *testing.T) {
	t.Parallel()
	cs, err := newConditions()
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"foo == 1":                        "line 1, column 1: undeclared reference to 'foo'",
		"agent ==\n 1":                    "line 1, column 7: found no matching overload",
		"agent":                           "the condition gives string, not true or false",
		"[1, 2]":                          "the condition gives list(int), not true or false",
		"agent == ":                       "Syntax error",
		`now > timestamp("yesterday")`:    "invalid timestamp",
		`agent.matches("(")`:              "missing closing )",
		`agent.matches(subject)`:          "the pattern of matches is not a plain text",
		`agent.matches("a" + "b")`:        "the pattern of matches is not a plain text",
		`matches(agent, "(a{100}){10}")`:  "the pattern of matches is too large",
		"parameters.exists(x, undefined)": "undeclared reference to 'undefined'",
	} {
		_, err := cs.compile(text)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
		if _, again := cs.compile(text); again == nil || again.Error() != err.Error() {
			t.Errorf("%q: another error the second time: %v", text, again)
		}
	}
}
