package policy_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	policyv1 "github.com/kelpie-authz/kelpie/gen/kelpie/policy/v1"
	"github.com/kelpie-authz/kelpie/policy"
)

func naiveContains(cidr string, ip netip.Addr) bool {
	prefix, err := netip.ParsePrefix(cidr)
	return err == nil && ip.IsValid() && prefix.Contains(ip.Unmap())
}

// naiveLimit is one limit as it stands for one agent.
type naiveLimit struct {
	id  string
	doc *policyv1.Limit
}

// naiveOverlay lays an agent's own entry over the common one of its name.
// The message cannot tell `shadow: false` from no shadow; the random policies never write it, the cases of Limits/8 do.
func naiveOverlay(common, own *policyv1.Limit) *policyv1.Limit {
	out := &policyv1.Limit{
		Rate: common.GetRate(), Burst: common.Burst, Window: common.GetWindow(), Quota: common.GetQuota(), Timezone: common.GetTimezone(),
		Concurrency: common.Concurrency, Hold: common.GetHold(), Per: common.GetPer(), Count: common.GetCount(),
		Match: common.GetMatch(), OnUnavailable: common.GetOnUnavailable(), Shadow: common.GetShadow() || own.GetShadow(),
		Lease: common.GetLease(),
	}
	if naiveKinds(own) > 0 {
		out.Rate, out.Burst, out.Window, out.Quota = own.GetRate(), own.Burst, own.GetWindow(), own.GetQuota()
		out.Timezone, out.Concurrency, out.Hold = own.GetTimezone(), own.Concurrency, own.GetHold()
		out.Lease = false // it goes with the kind
	}
	out.Lease = out.GetLease() || own.GetLease()
	if len(own.GetPer()) > 0 {
		out.Per = own.GetPer()
	}
	if own.GetMatch() != nil {
		out.Match = own.GetMatch()
	}
	if own.GetCount() != "" {
		out.Count = own.GetCount()
	}
	if own.GetOnUnavailable() != "" {
		out.OnUnavailable = own.GetOnUnavailable()
	}
	return out
}

func naiveKinds(l *policyv1.Limit) int {
	kinds := 0
	for _, written := range []bool{l.GetRate() != "", l.GetWindow() != "", l.GetQuota() != "", l.Concurrency != nil} {
		if written {
			kinds++
		}
	}
	return kinds
}

// limitsOf are the limits that stand for one agent, by the rules of overlay.
func (n naivePolicy) limitsOf(agent *policyv1.Agent) []naiveLimit {
	var out []naiveLimit
	for name, common := range n.doc.GetLimits() {
		limit := common
		if own := agent.GetLimits()[name]; own != nil {
			limit = naiveOverlay(common, own)
		}
		out = append(out, naiveLimit{"limits/" + name, limit})
	}
	for name, own := range agent.GetLimits() {
		if n.doc.GetLimits()[name] == nil {
			extra := naiveOverlay(&policyv1.Limit{Per: []string{"agent"}}, own)
			out = append(out, naiveLimit{"limits/" + name, extra})
		}
	}
	return out
}

// limits are the buckets that the call falls into, or the failure of a condition.
func (n naivePolicy) limits(c *policy.Call, risk policy.Risk) (buckets []naiveBucketOf, reason policy.Reason, matched []string) {
	_, agent := n.agentOf(c.Agent)
	failed := map[string]naiveResult{}
	perAgent := false
	for _, limit := range n.limitsOf(agent) {
		result := naiveMatch(limit.doc.GetMatch(), c, risk)
		switch {
		case result == naiveTrue:
			buckets = append(buckets, naiveBucket(limit, c))
			per := limit.doc.GetPer()
			perAgent = perAgent || (!limit.doc.GetShadow() && slices.Contains(per, "agent") && !slices.Contains(per, "call"))
		case result != naiveFalse && !limit.doc.GetShadow():
			failed[limit.id] = result
		}
	}
	if len(failed) > 0 {
		reason, matched = naiveFailure(failed)
		return nil, reason, matched
	}
	if !perAgent {
		buckets = append(buckets, naiveBucket(naiveLimit{"builtin/default", &policyv1.Limit{Rate: "60/minute", Per: []string{"agent"}}}, c))
	}
	slices.SortFunc(buckets, func(a, b naiveBucketOf) int { return strings.Compare(a.ID, b.ID) })
	return buckets, "", nil
}

// naiveBucketOf is one limit that the call is charged to, and the bucket.
type naiveBucketOf struct {
	ID, Kind, Unit, Zone, Down string
	Count, Burst               int64
	Period                     time.Duration
	Cost, Shadow, Loop         bool
	Lease                      time.Duration
	Dimensions                 string
}

func naiveBucket(limit naiveLimit, c *policy.Call) naiveBucketOf {
	doc := limit.doc
	b := naiveBucketOf{
		ID: limit.id, Down: cmp.Or(doc.GetOnUnavailable(), "deny"), Cost: doc.GetCount() == "cost", Shadow: doc.GetShadow(),
		Loop:       slices.Contains(doc.GetPer(), "call"),
		Dimensions: fmt.Sprintf("%q", naiveDimensions(doc.GetPer(), c)),
	}
	switch {
	case doc.GetRate() != "":
		count, unit, _ := strings.Cut(doc.GetRate(), "/")
		b.Kind, b.Count, b.Period = "rate", naiveInt(count), naiveUnits[unit]
		b.Burst = b.Count
		if doc.Burst != nil {
			b.Burst = int64(doc.GetBurst())
		}
		if doc.GetLease() {
			empty := time.Duration(float64(b.Burst) * float64(b.Period) / float64(b.Count))
			b.Lease = min(100*time.Millisecond, empty/10)
			if b.Lease < time.Millisecond {
				b.Lease = 0
			}
		}
	case doc.GetWindow() != "":
		count, span, _ := strings.Cut(doc.GetWindow(), "/")
		b.Kind, b.Count = "window", naiveInt(count)
		b.Period, _ = time.ParseDuration(span)
	case doc.GetQuota() != "":
		if doc.GetLease() {
			b.Lease = 100 * time.Millisecond
		}
		count, unit, _ := strings.Cut(doc.GetQuota(), "/")
		b.Kind, b.Count, b.Unit, b.Zone = "quota", naiveInt(count), unit, cmp.Or(doc.GetTimezone(), "UTC")
	default:
		b.Kind, b.Count, b.Period = "concurrency", int64(doc.GetConcurrency()), 5*time.Minute
		if doc.GetHold() != nil {
			b.Period = doc.GetHold().AsDuration()
		}
	}
	return b
}

var naiveUnits = map[string]time.Duration{"second": time.Second, "minute": time.Minute, "hour": time.Hour, "day": 24 * time.Hour}

func naiveInt(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		panic(err) // the generator writes no other
	}
	return n
}

// naiveParameters writes parameters so that equal ones read alike: members
// sorted, and every number as the double it is.
func naiveParameters(p policy.Parameters) string {
	if p.State != policy.ParametersComplete {
		return fmt.Sprint("state ", p.State)
	}
	var value any
	if err := json.Unmarshal(p.Raw, &value); err != nil {
		panic(err) // it was parsed before
	}
	text, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return string(text)
}

func naiveDimensions(per []string, c *policy.Call) []string {
	values := map[string][]string{
		"agent": {c.Agent}, "action": {c.Action}, "resource": {c.Resource}, "subject": {c.Subject},
		"session_id": {c.SessionID}, "run_id": {c.RunID}, "tool": {c.Tool.Server, c.Tool.Name}, "all": nil,
		"call": {c.Action, c.Resource, c.Subject, c.Tool.Server, c.Tool.Name, naiveParameters(c.Parameters)},
	}
	var out []string
	for _, dimension := range slices.Sorted(maps.Keys(values)) {
		if slices.Contains(per, dimension) {
			out = append(append(out, dimension), values[dimension]...)
		}
	}
	return out
}
