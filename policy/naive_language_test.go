package policy_test

import (
	"slices"
	"strings"
	"testing"

	"buf.build/go/protoyaml"
	"google.golang.org/protobuf/proto"

	policyv1 "github.com/kelpie-authz/kelpie/gen/kelpie/policy/v1"
	"github.com/kelpie-authz/kelpie/policy"
)

// TestNaiveLanguage holds the naive evaluator itself to the cases of the page,
// so that it and the engine cannot be wrong in the same way unseen.
func TestNaiveLanguage(t *testing.T) {
	t.Parallel()
	asked := 0
	for _, c := range languageCases(t) {
		if len(c.Errors) > 0 || (c.Policy == "" && c.Files == nil) {
			continue
		}
		files := c.Files
		if c.Policy != "" {
			files = map[string]string{"policy.yaml": c.Policy}
		}
		doc := &policyv1.Policy{}
		for _, document := range languageDocuments(files) {
			part := &policyv1.Policy{}
			if err := protoyaml.Unmarshal(document.Data, part); err != nil {
				t.Fatalf("%s: %v", c.Case, err)
			}
			proto.Merge(doc, part)
		}
		for _, ask := range c.Asks {
			if ask.Many > 0 {
				continue // the naive evaluator has no cost limit
			}
			asked++
			ask.runNaive(t, c.Case, naivePolicy{doc})
		}
	}
	if asked < 300 {
		t.Errorf("only %d calls were asked", asked)
	}
}

func (a languageAsk) runNaive(t *testing.T, name string, n naivePolicy) {
	t.Helper()
	c := a.call(t)
	v := n.decide(c)
	if got := languageOutcome(v.Outcome) + " " + string(v.Reason); got != a.Want {
		t.Errorf("%s: %s: %s %q, want %s", name, a.Ask, got, v.Matched, a.Want)
		return
	}
	same := func(what string, got []string, want *string) {
		if want != nil && !slices.Equal(got, strings.Fields(*want)) {
			t.Errorf("%s: %s: %s %q, want %q", name, a.Ask, what, got, strings.Fields(*want))
		}
	}
	same("matched", v.Matched, a.Matched)
	same("grants", v.Grants, a.Grants)
	same("required", v.Required, a.Required)
	if a.Risk != "" && v.Risk.String() != a.Risk {
		t.Errorf("%s: %s: risk %s, want %s", name, a.Ask, v.Risk, a.Risk)
	}
	if v.Outcome == policy.OutcomeDeny {
		return
	}
	buckets, reason, rules := n.limits(c, v.Risk)
	if v.Outcome == policy.OutcomeAllow && string(reason) != a.LimitReason {
		t.Errorf("%s: %s: limits came to %q, want %q", name, a.Ask, reason, a.LimitReason)
	}
	same("limits that failed", rules, a.LimitRules)
	var ids []string
	for _, bucket := range buckets {
		ids = append(ids, bucket.ID)
	}
	same("limits", ids, a.Limits)
}
