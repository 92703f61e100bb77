package policy_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/policy"
)

// languageAsk is one call and what must come. What is not written is not compared.
type languageAsk struct {
	// Ask is "agent action resource".
	Ask        string         `yaml:"ask"`
	IP         string         `yaml:"ip"`
	Now        string         `yaml:"now"`
	Subject    string         `yaml:"subject"`
	Session    string         `yaml:"session"`
	Run        string         `yaml:"run"`
	Tool       string         `yaml:"tool"` // "server name"
	Parameters *string        `yaml:"parameters"`
	State      string         `yaml:"state"` // truncated or not_seen
	Context    map[string]any `yaml:"context"`
	Many       int            `yaml:"many"` // a context whose member l is a list of that many numbers

	// Want is "outcome reason"; lists are words.
	Want         string   `yaml:"want"`
	Matched      *string  `yaml:"matched"`
	Grants       *string  `yaml:"grants"`
	Required     *string  `yaml:"required"`
	Risk         string   `yaml:"risk"`
	Message      *string  `yaml:"message"`
	Shadow       *string  `yaml:"shadow"` // "rule outcome reason, ..."
	Requirements []string `yaml:"requirements"`
	Limits       *string  `yaml:"limits"`
	Specs        []string `yaml:"specs"`
	Bucket       string   `yaml:"bucket"` // "limit=label ...": equal labels are equal buckets
	LimitReason  string   `yaml:"limit_reason"`
	LimitRules   *string  `yaml:"limit_rules"`
	Explain      string   `yaml:"explain"` // "check=reason ..."
}

func languageCost(s string) error {
	cost, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return fmt.Errorf("the case is wrong: %w", err)
	}
	return policy.CheckCost(cost)
}

func (a languageAsk) call(t *testing.T) *policy.Call {
	t.Helper()
	words := strings.Fields(a.Ask)
	if len(words) != 3 {
		t.Fatalf("ask %q is not agent, action and resource", a.Ask)
	}
	c := &policy.Call{
		Agent: words[0], Action: words[1], Resource: words[2], Subject: a.Subject, SessionID: a.Session, RunID: a.Run,
		Now: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC),
	}
	var err error
	if a.Now != "" {
		if c.Now, err = time.Parse(time.RFC3339Nano, a.Now); err != nil {
			t.Fatalf("now: %v", err)
		}
	}
	if a.IP != "" {
		if c.SourceIP, err = policy.ParseSourceIP(a.IP); err != nil {
			t.Fatalf("ip: %v", err)
		}
	}
	c.Tool.Server, c.Tool.Name, _ = strings.Cut(a.Tool, " ")
	if a.Parameters != nil {
		if c.Parameters, err = policy.ParseParameters([]byte(*a.Parameters)); err != nil {
			t.Fatalf("parameters: %v", err)
		}
	}
	states := map[string]policy.ParametersState{"truncated": policy.ParametersTruncated, "not_seen": policy.ParametersNotSeen}
	if a.State != "" {
		c.Parameters.State = states[a.State]
	}
	c.Context, _ = languageStruct(a.Context).(map[string]any)
	if a.Many > 0 {
		list := make([]any, a.Many)
		for i := range list {
			list[i] = float64(i)
		}
		c.Context = map[string]any{"l": list}
	}
	return c
}

// languageStruct makes a value what google.protobuf.Struct can hold.
func languageStruct(v any) any {
	switch v := v.(type) {
	case map[string]any:
		if v == nil {
			return nil
		}
		out := map[string]any{}
		for name, member := range v {
			out[name] = languageStruct(member)
		}
		return out
	case int:
		return float64(v)
	default:
		return v
	}
}

// languageBuckets remembers which label stands for which key, both ways.
type languageBuckets struct{ keys, labels map[string]string }

func (a languageAsk) run(t *testing.T, snapshot *policy.Snapshot, buckets languageBuckets) {
	t.Helper()
	c := a.call(t)
	var v policy.Verdict
	snapshot.Decide(c, &v)
	outcome := languageOutcome(v.Outcome)
	if got := outcome + " " + string(v.Reason); got != a.Want {
		t.Errorf("%s: %s %q, want %s", a.Ask, got, v.Matched, a.Want)
		return
	}
	same := func(what string, got []string, want *string) {
		if want != nil && !slices.Equal(got, strings.Fields(*want)) {
			t.Errorf("%s: %s %q, want %q", a.Ask, what, got, strings.Fields(*want))
		}
	}
	same("matched", v.Matched, a.Matched)
	same("grants", v.Grants, a.Grants)
	same("required scopes", v.RequiredScopes, a.Required)
	if a.Risk != "" && v.Risk.String() != a.Risk {
		t.Errorf("%s: risk %s, want %s", a.Ask, v.Risk, a.Risk)
	}
	if a.Message != nil && v.Message != *a.Message {
		t.Errorf("%s: message %q, want %q", a.Ask, v.Message, *a.Message)
	}
	a.checkShadow(t, v.Shadow)
	if a.Requirements != nil {
		var got []string
		for _, r := range v.Requirements {
			text := fmt.Sprintf("%s %v quorum=%d expires=%v use_within=%v", r.Rule, r.Approvers, r.Quorum, r.Expires, r.UseWithin)
			if r.PathOnly {
				text += " path_only"
			}
			got = append(got, text)
		}
		if !slices.Equal(got, a.Requirements) {
			t.Errorf("%s: requirements\n%q, want\n%q", a.Ask, got, a.Requirements)
		}
	}
	a.checkExplain(t, snapshot, c)
	if v.Outcome != policy.OutcomeDeny {
		a.checkLimits(t, snapshot, c, &v, buckets)
	}
}

func languageOutcome(o policy.Outcome) string {
	return map[policy.Outcome]string{policy.OutcomeAllow: "allow", policy.OutcomeDeny: "deny", policy.OutcomeApproval: "approval"}[o]
}

func (a languageAsk) checkShadow(t *testing.T, shadow []policy.ShadowOutcome) {
	t.Helper()
	var got []string
	for _, s := range shadow {
		got = append(got, fmt.Sprintf("%s %s %s", s.Rule, languageOutcome(s.Outcome), s.Reason))
	}
	if text := strings.Join(got, ", "); a.Shadow != nil && text != *a.Shadow {
		t.Errorf("%s: shadow %q, want %q", a.Ask, text, *a.Shadow)
	}
}

func (a languageAsk) checkExplain(t *testing.T, snapshot *policy.Snapshot, c *policy.Call) {
	t.Helper()
	checks, _ := snapshot.Explain(c)
	for want := range strings.FieldsSeq(a.Explain) {
		found := slices.ContainsFunc(checks, func(check policy.Check) bool {
			failed := check.Status == policy.StatusDeny || check.Status == policy.StatusApproval
			return failed && check.Name+"="+string(check.Reason) == want
		})
		if !found {
			t.Errorf("%s: explain has no %s but %+v", a.Ask, want, checks)
		}
	}
}

func (a languageAsk) checkLimits(t *testing.T, snapshot *policy.Snapshot, c *policy.Call, v *policy.Verdict, buckets languageBuckets) {
	t.Helper()
	var set policy.LimitSet
	snapshot.Limits(c, v, &set)
	if (v.Outcome == policy.OutcomeAllow || a.LimitReason != "") && string(set.Reason) != a.LimitReason {
		t.Errorf("%s: limits came to %q %q, want %q", a.Ask, set.Reason, set.Matched, a.LimitReason)
	}
	if a.LimitRules != nil && !slices.Equal(set.Matched, strings.Fields(*a.LimitRules)) {
		t.Errorf("%s: limits that failed %q, want %q", a.Ask, set.Matched, *a.LimitRules)
	}
	var ids, specs []string
	keys := map[string]string{}
	for _, charge := range set.Charges {
		ids = append(ids, charge.Spec.ID)
		specs = append(specs, languageSpec(charge.Spec))
		keys[charge.Spec.ID] = string(charge.Key)
	}
	if a.Limits != nil && !slices.Equal(ids, strings.Fields(*a.Limits)) {
		t.Errorf("%s: limits %q, want %q", a.Ask, ids, *a.Limits)
	}
	if a.Specs != nil && !slices.Equal(specs, a.Specs) {
		t.Errorf("%s: limits\n%q, want\n%q", a.Ask, specs, a.Specs)
	}
	for bucket := range strings.FieldsSeq(a.Bucket) {
		id, _, _ := strings.Cut(bucket, "=")
		key, charged := keys[id]
		if !charged {
			t.Errorf("%s: %s is not charged, but %q", a.Ask, id, ids)
		}
		if known, ok := buckets.labels[bucket]; ok && known != key {
			t.Errorf("%s: %s has the keys %q and %q, want one bucket", a.Ask, bucket, known, key)
		}
		if known, ok := buckets.keys[key]; ok && known != bucket {
			t.Errorf("%s: %s and %s share the key %q, want two buckets", a.Ask, bucket, known, key)
		}
		buckets.labels[bucket], buckets.keys[key] = key, bucket
	}
}

// languageSpec writes a compiled limit as the cases do.
func languageSpec(spec *policy.LimitSpec) string {
	b := randomBucket(spec)
	text := fmt.Sprintf("%s %s %d", b.ID, b.Kind, b.Count)
	switch spec.Kind {
	case policy.LimitRate:
		text += fmt.Sprintf(" burst=%d period=%v", b.Burst, b.Period)
	case policy.LimitWindow:
		text += fmt.Sprintf(" period=%v", b.Period)
	case policy.LimitQuota:
		text += fmt.Sprintf(" unit=%s zone=%s", b.Unit, b.Zone)
	case policy.LimitConcurrency:
		text += fmt.Sprintf(" hold=%v", b.Period)
	case policy.LimitNone:
	}
	text += " " + b.Down
	if b.Cost {
		text += " cost"
	}
	if b.Shadow {
		text += " shadow"
	}
	if b.Lease > 0 {
		text += fmt.Sprintf(" lease=%v", b.Lease)
	}
	return text
}
