package policy_test

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/kelpie-authz/kelpie/policy"
)

const limitsPolicy = `
scopes:
  every: {actions: ["*"], resources: ["**"], risk: write, risk_reason: a test}
agents:
  plain: {owner: o@example.com, networks: [any], scopes: [every]}
  own:
    owner: o@example.com
    networks: [any]
    scopes: [every]
    limits:
      common: {window: 7/1h}
      sensitive: {match: {actions: [peek]}}
      extra: {concurrency: 2}
      shaded: {shadow: false}
  "team/*": {owner: o@example.com, networks: [any], scopes: [every], limits: {common: {rate: 9/second, per: [agent, action]}}}
limits:
  common: {rate: 60/minute, per: [agent], match: {resources: ["crm/**"]}, count: cost, on_unavailable: local_share}
  sensitive: {quota: 5/day, timezone: Europe/Berlin, per: [all], match: {risk: [delete], when: "context.n > 1"}}
  shaded: {rate: 1/second, per: [agent], match: {actions: [shade]}, shadow: true}
  dims: {rate: 3/hour, burst: 2, per: [tool, run_id, session_id, subject, resource, action, agent], match: {actions: [dims]}}
  loop: {window: 5/1m, per: [agent, call], match: {actions: [again]}}
  dimsagent: {rate: 30/hour, per: [agent], match: {actions: [dims]}}
`

// limited are the ids and keys of the limits of a call, each key with a bar
// behind its slot and its home, or the reason and rules why there are none.
func limited(t *testing.T, s *policy.Snapshot, c policy.Call) []string {
	t.Helper()
	v, set := &policy.Verdict{}, &policy.LimitSet{}
	s.Decide(&c, v)
	if v.Outcome != policy.OutcomeAllow {
		t.Fatalf("%+v is not allowed but %s", c, v.Reason)
	}
	s.Limits(&c, v, set)
	if set.Reason != "" {
		return append([]string{string(set.Reason)}, set.Matched...)
	}
	var out []string
	for _, charge := range set.Charges {
		out = append(out, fmt.Sprintf("%s %s|%s|%s", charge.Spec.ID, charge.Key[:charge.Slot], charge.Key[charge.Slot:charge.Home], charge.Key[charge.Home:]))
		if s.LimitSpecs()[charge.Spec.Index] != charge.Spec {
			t.Errorf("%s is not at its index", charge.Spec.ID)
		}
	}
	return out
}

// loopDigest is the digest of plain's call, as another program computes it: it is
// part of a key in a store, so it stays what it is.
//
//	printf 'kelpie-call-v1\x005:again1:a0:0:0:\x00' | sha256sum | cut -c 1-32
const loopDigest = "\xee\x3e\xc1\x31\x2d\x29\x70\xf1\x3a\x7a\x69\x26\x17\xda\x48\x57"

func TestLimits(t *testing.T) {
	t.Parallel()
	full := policy.Call{
		Agent: "plain", Action: "dims", Resource: "a", Subject: "su", SessionID: "se", RunID: "ru", Tool: policy.Tool{Server: "sv", Name: "tn"},
	}
	tests := map[string]struct {
		call policy.Call
		want []string
	}{
		"the common one": {
			policy.Call{Agent: "plain", Action: "read", Resource: "crm/a"},
			[]string{"limits/common a5:plain|0:|13:limits/common"},
		},
		"none matches: the built-in one": {
			policy.Call{Agent: "plain", Action: "read", Resource: "a"},
			[]string{"builtin/default a5:plain|0:|15:builtin/default"},
		},
		"shared by everyone, and the built-in one beside it": {
			policy.Call{Agent: "plain", Action: "delete", Resource: "a", Context: map[string]any{"n": 2.0}},
			[]string{"builtin/default a5:plain|0:|15:builtin/default", "limits/sensitive |*0:|16:limits/sensitive"},
		},
		"a condition that is false": {
			policy.Call{Agent: "plain", Action: "delete", Resource: "crm/a", Context: map[string]any{"n": 1.0}},
			[]string{"limits/common a5:plain|0:|13:limits/common"},
		},
		"a condition that cannot be evaluated": {
			policy.Call{Agent: "plain", Action: "delete", Resource: "crm/a"},
			[]string{"condition_failed", "limits/sensitive"},
		},
		"in shadow, which bounds nobody": {
			policy.Call{Agent: "plain", Action: "shade", Resource: "a"},
			[]string{"builtin/default a5:plain|0:|15:builtin/default", "limits/shaded a5:plain|0:|14:limits/shaded!"},
		},
		"every dimension": {full, []string{
			"limits/dims a5:plain|47:+action+resource+subject+session_id+run_id+tool4:dims1:a2:su2:se2:ru2:sv2:tn|11:limits/dims",
			"limits/dimsagent a5:plain|0:|16:limits/dimsagent",
		}},
		"an own entry over the common one keeps its match; an extra one is per agent": {
			policy.Call{Agent: "own", Action: "read", Resource: "crm/a"},
			[]string{"limits/common a3:own|0:|13:limits/common", "limits/extra a3:own|0:|12:limits/extra"},
		},
		"an own entry enforces what is in shadow for others": {
			policy.Call{Agent: "own", Action: "shade", Resource: "a"},
			[]string{"limits/extra a3:own|0:|12:limits/extra", "limits/shaded a3:own|0:|13:limits/shaded"},
		},
		"a repeated call, by its digest": {
			policy.Call{Agent: "plain", Action: "again", Resource: "a"},
			[]string{"builtin/default a5:plain|0:|15:builtin/default", "limits/loop a5:plain|5:+call16:" + loopDigest + "|11:limits/loop"},
		},
		"agents under one pattern have each their own": {
			policy.Call{Agent: "team/b", Action: "read", Resource: "crm/a"},
			[]string{"limits/common a6:team/b|7:+action4:read|13:limits/common"},
		},
	}
	// An own entry of sensitive would have to be per agent.
	s := compile(t, strings.Replace(limitsPolicy, "sensitive: {match: {actions: [peek]}}", "sensitive: {match: {actions: [peek]}, per: [agent]}", 1))
	if _, err := policy.Compile([]policy.Document{{Name: "p.yaml", Data: []byte(limitsPolicy)}}); err == nil {
		t.Error("an own entry that keeps per: [all] compiles")
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := gocmp.Diff(tt.want, limited(t, s, tt.call)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestLimitKeysAreApart gives texts that would run together without their lengths.
func TestLimitKeysAreApart(t *testing.T) {
	t.Parallel()
	s := compile(t, strings.Replace(limitsPolicy, "      sensitive: {match: {actions: [peek]}}\n", "", 1))
	seen := map[string]policy.Tool{}
	for _, tool := range []policy.Tool{{}, {Server: "a"}, {Name: "a"}, {Server: "a", Name: "b"}, {Server: "a1:b"}, {Server: "a", Name: "1:b"}, {Server: "1:a"}} {
		c := policy.Call{Agent: "plain", Action: "dims", Resource: "a", Tool: tool}
		key := strings.Join(limited(t, s, c), "\n")
		if other, twice := seen[key]; twice {
			t.Errorf("%+v and %+v share the bucket %q", tool, other, key)
		}
		seen[key] = tool
	}
}

func TestLimitSpecs(t *testing.T) {
	t.Parallel()
	s := compile(t, strings.Replace(limitsPolicy, "      sensitive: {match: {actions: [peek]}}\n", "", 1))
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	want := []policy.LimitSpec{
		{ID: "builtin/default", Name: "builtin/default", Kind: policy.LimitRate, Count: 60, Burst: 60, Period: time.Minute},
		{ID: "limits/common", Name: "common", Kind: policy.LimitRate, Count: 60, Burst: 60, Period: time.Minute, CountCost: true, OnUnavailable: policy.UnavailableLocalShare},
		{ID: "limits/common", Name: "common", Kind: policy.LimitRate, Count: 9, Burst: 9, Period: time.Second, CountCost: true, OnUnavailable: policy.UnavailableLocalShare},
		{ID: "limits/common", Name: "common", Kind: policy.LimitWindow, Count: 7, Period: time.Hour, CountCost: true, OnUnavailable: policy.UnavailableLocalShare},
		{ID: "limits/dims", Name: "dims", Kind: policy.LimitRate, Count: 3, Burst: 2, Period: time.Hour},
		{ID: "limits/dimsagent", Name: "dimsagent", Kind: policy.LimitRate, Count: 30, Burst: 30, Period: time.Hour},
		{ID: "limits/extra", Name: "extra", Kind: policy.LimitConcurrency, Count: 2, Period: 5 * time.Minute},
		{ID: "limits/loop", Name: "loop", Kind: policy.LimitWindow, Count: 5, Period: time.Minute, PerCall: true},
		{ID: "limits/sensitive", Name: "sensitive", Kind: policy.LimitQuota, Count: 5, Unit: "day", Location: berlin},
		{ID: "limits/shaded", Name: "shaded", Kind: policy.LimitRate, Count: 1, Burst: 1, Period: time.Second},
		{ID: "limits/shaded", Name: "shaded", Kind: policy.LimitRate, Count: 1, Burst: 1, Period: time.Second, Shadow: true},
	}
	var got []policy.LimitSpec
	for i, spec := range s.LimitSpecs() {
		if spec.Index != i {
			t.Errorf("%s has index %d at %d", spec.ID, spec.Index, i)
		}
		got = append(got, *spec)
	}
	slices.SortFunc(got, compareSpecs)
	slices.SortFunc(want, compareSpecs)
	sameZone := gocmp.Comparer(func(a, b *time.Location) bool { return a.String() == b.String() })
	if diff := gocmp.Diff(want, got, sameZone, cmpopts.IgnoreFields(policy.LimitSpec{}, "Index")); diff != "" {
		t.Error(diff)
	}
}

func compareSpecs(a, b policy.LimitSpec) int {
	shadow := map[bool]int{true: 1}
	return cmp.Or(
		strings.Compare(a.ID, b.ID), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Count, b.Count), cmp.Compare(shadow[a.Shadow], shadow[b.Shadow]),
	)
}

func TestLimitsOfAnotherSnapshot(t *testing.T) {
	t.Parallel()
	one, other := revops(t), revops(t)
	c, v := &policy.Call{Agent: "status-page", Action: "read", Resource: "salesforce/leads"}, &policy.Verdict{}
	one.Decide(c, v)
	defer func() {
		if recover() == nil {
			t.Error("a verdict of another snapshot was taken")
		}
	}()
	other.Limits(c, v, &policy.LimitSet{})
}

// The limits of one agent over the same dimensions are kept in one value, which
// holds so many.
func TestLimitsOverTheSameDimensions(t *testing.T) {
	t.Parallel()
	text := func(n int, own string) string {
		var b strings.Builder
		b.WriteString("scopes: {s: {actions: [read], resources: [a]}}\nagents: {bot: {owner: o@example.com, networks: [any], scopes: [s]" + own + "}}\nlimits:\n")
		for i := range n {
			fmt.Fprintf(&b, "  l%d: {quota: 10/day, per: [agent]}\n", i)
		}
		b.WriteString("  other: {quota: 10/day, per: [agent, action]}\n")
		return b.String()
	}
	var own strings.Builder
	for i := range 101 {
		fmt.Fprintf(&own, "o%d: {quota: 10/day}, ", i)
	}
	for name, tt := range map[string]struct {
		text string
		want string
	}{
		"as many as there may be": {text(100, ""), ""},
		"one more":                {text(101, ""), "policy.yaml:3:1: limits: more than 100 limits have the same per"},
		"an agent's own":          {text(1, ", limits: {"+own.String()+"}"), "more than 100 limits have the same per"},
	} {
		_, err := policy.Compile([]policy.Document{{Name: "policy.yaml", Data: []byte(tt.text)}})
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		default:
		}
	}
}
