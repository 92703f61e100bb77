package policy_test

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/kelpie-authz/kelpie/policy"
)

// randomTally counts what the random cases met, so that a run can show that it looked everywhere.
type randomTally struct {
	policies, invalid, calls int
	seen                     map[string]int
}

func (r *randomTally) add(what string) {
	if r.seen == nil {
		r.seen = map[string]int{}
	}
	r.seen[what]++
}

// checkRandom makes one policy and asks engine and naive evaluator the same calls.
func checkRandom(t *testing.T, data []byte, calls int, tally *randomTally) {
	t.Helper()
	d := newDice(data)
	doc := randomPolicy(d)
	documents := randomDocuments(t, d, doc)
	faults := naiveFaults(doc)
	snapshot, err := policy.Compile(documents)
	tally.policies++
	if (err != nil) != (len(faults) > 0) {
		t.Fatalf("compile: engine %v\nnaive %v\n%s", err, faults, randomText(documents))
	}
	if err != nil {
		tally.invalid++
		var list policy.Errors
		if !errors.As(err, &list) || len(list) == 0 {
			t.Fatalf("compile gave no Errors but %T", err)
		}
		for _, e := range list {
			if e.File == "" || e.Line < 1 || e.Column < 1 || e.Message == "" {
				t.Fatalf("an error without its place: %+v\n%s", e, randomText(documents))
			}
		}
		return
	}
	checkVersions(t, d, doc, snapshot)
	if got, want := snapshot.RuleIDs(), (naivePolicy{doc}).ruleIDs(); !slices.Equal(got, want) {
		t.Fatalf("rule ids %q, want %q\n%s", got, want, randomText(documents))
	}
	r := &randomReferee{naive: naivePolicy{doc}, engine: snapshot, keys: map[string]string{}, buckets: map[string]string{}, tally: tally}
	for range calls {
		c := randomCall(t, d, doc)
		tally.calls++
		if diff := r.check(c); diff != "" {
			t.Fatalf("engine (+) and naive (-) differ:\n%s\n%s\n%s", diff, randomCallText(c), randomText(documents))
		}
	}
}

func randomText(documents []policy.Document) string {
	var b strings.Builder
	for _, doc := range documents {
		text := strings.Join(strings.Fields(string(doc.Data)), " ")
		fmt.Fprintf(&b, "%s: %s\n", doc.Name, text)
	}
	return b.String()
}

type randomReferee struct {
	naive   naivePolicy
	engine  *policy.Snapshot
	verdict policy.Verdict  // reused, as a server does
	set     policy.LimitSet // reused
	keys    map[string]string
	buckets map[string]string
	tally   *randomTally
}

// randomAnswer is what both sides say, in one form.
type randomAnswer struct {
	Verdict     naiveVerdict
	Buckets     []naiveBucketOf
	LimitReason policy.Reason
	LimitRules  []string
}

func (r *randomReferee) check(c *policy.Call) string {
	want := randomAnswer{Verdict: r.naive.decide(c)}
	r.engine.Decide(c, &r.verdict)
	got := randomAnswer{Verdict: randomVerdict(&r.verdict)}
	r.tally.add(string(want.Verdict.Reason))
	for _, v := range []*naiveVerdict{&want.Verdict, &got.Verdict} {
		v.Shadow = slices.Clone(v.Shadow)
		slices.SortFunc(v.Shadow, func(a, b policy.ShadowOutcome) int {
			return cmp.Or(strings.Compare(a.Rule, b.Rule), cmp.Compare(a.Outcome, b.Outcome), strings.Compare(string(a.Reason), string(b.Reason)))
		})
		v.Shadow = slices.Compact(v.Shadow)
	}
	if len(want.Verdict.Shadow) > 0 {
		r.tally.add("shadow")
	}
	if got.Verdict.Outcome == policy.OutcomeAllow || got.Verdict.Outcome == policy.OutcomeApproval {
		want.Buckets, want.LimitReason, want.LimitRules = r.naive.limits(c, want.Verdict.Risk)
		r.engine.Limits(c, &r.verdict, &r.set)
		got.LimitReason, got.LimitRules = r.set.Reason, slices.Clone(r.set.Matched)
		for _, charge := range r.set.Charges {
			got.Buckets = append(got.Buckets, randomBucket(charge.Spec))
		}
		if want.LimitReason != "" {
			r.tally.add("limit " + string(want.LimitReason))
			got.Buckets = nil // nothing may be charged, whatever is listed
		}
	}
	if diff := gocmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.IgnoreFields(naiveBucketOf{}, "Dimensions")); diff != "" {
		return diff
	}
	if want.LimitReason == "" {
		if fault := r.bucketFault(want.Buckets); fault != "" {
			return fault
		}
	}
	return r.explainFault(c, want.Verdict)
}

// bucketFault tells where two calls share an engine's key and not the naive bucket, or the other way round.
func (r *randomReferee) bucketFault(buckets []naiveBucketOf) string {
	for i, bucket := range buckets {
		key, name := string(r.set.Charges[i].Key), bucket.ID+bucket.Dimensions
		r.tally.add(bucket.Kind)
		if bucket.Loop {
			r.tally.add("loop")
		}
		if known, ok := r.keys[key]; ok && known != name {
			return fmt.Sprintf("one key %q for the buckets %s and %s", key, known, name)
		}
		if known, ok := r.buckets[name]; ok && known != key {
			return fmt.Sprintf("two keys %q and %q for the bucket %s", known, key, name)
		}
		r.keys[key], r.buckets[name] = name, key
		if fault := r.homeFault(&r.set.Charges[i], key); fault != "" {
			return fault
		}
	}
	return ""
}

// homeFault tells where a key does not lead back to its limit.
func (r *randomReferee) homeFault(charge *policy.LimitCharge, key string) string {
	home, ok := policy.ParseLimitHome(key)
	if ok != (charge.Slot > 0) {
		return fmt.Sprintf("the home of %q is read: %v, and its slot has %d bytes", key, ok, charge.Slot)
	}
	if !ok {
		return ""
	}
	if home.Home != charge.Home || home.Slot != charge.Slot {
		return fmt.Sprintf("%q is read as %+v, want home %d and slot %d", key, home, charge.Home, charge.Slot)
	}
	if slot := policy.AppendLimitSlot(nil, home.Agent); !strings.HasPrefix(key, string(slot)) || len(slot) != charge.Slot {
		return fmt.Sprintf("%q does not begin with the slot %q", key, slot)
	}
	if rest := policy.AppendLimitRest(nil, charge.Spec.ID, charge.Spec.Shadow); key[charge.Home:] != string(rest) {
		return fmt.Sprintf("%q does not end in %q", key, rest)
	}
	for _, other := range r.engine.LimitsIn(home, key) {
		if other.Spec == charge.Spec && string(other.Key) == key && other.Home == charge.Home && other.Slot == charge.Slot {
			r.tally.add("home")
			return ""
		}
	}
	return fmt.Sprintf("%q is of no limit in its home", key)
}

// explainFault tells where Explain's first failing check is not the decision.
func (r *randomReferee) explainFault(c *policy.Call, want naiveVerdict) string {
	checks, risk := r.engine.Explain(c)
	if risk != want.Risk {
		return fmt.Sprintf("explain: risk %v, want %v", risk, want.Risk)
	}
	for _, check := range checks {
		if check.Status != policy.StatusDeny && check.Status != policy.StatusApproval {
			continue
		}
		if check.Name == "limits" && want.Outcome == policy.OutcomeAllow {
			return ""
		}
		if check.Reason != want.Reason {
			return fmt.Sprintf("explain: check %s first fails with %s, want %s", check.Name, check.Reason, want.Reason)
		}
		return ""
	}
	if want.Outcome != policy.OutcomeAllow {
		return fmt.Sprintf("explain: no check fails, want %s", want.Reason)
	}
	return ""
}

func randomVerdict(v *policy.Verdict) naiveVerdict {
	out := naiveVerdict{
		Outcome: v.Outcome, Reason: v.Reason, Message: v.Message, Risk: v.Risk,
		Matched: slices.Clone(v.Matched), Grants: slices.Clone(v.Grants), Required: slices.Clone(v.RequiredScopes), Shadow: slices.Clone(v.Shadow),
		ContextRead: slices.Clone(v.ContextRead), ContextWhole: v.ContextWhole,
	}
	for _, q := range v.Requirements {
		out.Requirements = append(out.Requirements, naiveRequirement{
			Rule: q.Rule, Groups: naiveSorted(slices.Clone(q.Groups)), Approvers: q.Approvers, Quorum: q.Quorum,
			Expires: q.Expires.String(), UseWithin: q.UseWithin.String(), PathOnly: q.PathOnly,
		})
	}
	return out
}

func randomBucket(spec *policy.LimitSpec) naiveBucketOf {
	b := naiveBucketOf{
		ID: spec.ID, Count: spec.Count, Unit: spec.Unit, Period: spec.Period, Cost: spec.CountCost, Shadow: spec.Shadow, Loop: spec.PerCall, Lease: spec.Lease,
		Kind: map[policy.LimitKind]string{
			policy.LimitRate: "rate", policy.LimitWindow: "window", policy.LimitQuota: "quota", policy.LimitConcurrency: "concurrency",
		}[spec.Kind],
		Down: map[policy.Unavailable]string{
			policy.UnavailableDeny: "deny", policy.UnavailableAllow: "allow", policy.UnavailableLocalShare: "local_share",
		}[spec.OnUnavailable],
	}
	if spec.Kind == policy.LimitRate {
		b.Burst = spec.Burst
	}
	if spec.Kind == policy.LimitQuota {
		b.Period, b.Zone = 0, spec.Location.String()
	} else {
		b.Unit = ""
	}
	return b
}
