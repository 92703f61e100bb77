package policy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // a policy means the same on a machine without zone files

	policyv1 "github.com/kelpie-authz/kelpie/gen/kelpie/policy/v1"
)

const (
	defaultHold = 5 * time.Minute
	fallbackID  = "builtin/default"
	// The last resort of an agent that no limit of the policy bounds.
	fallbackCount  = 60
	fallbackPeriod = time.Minute
)

// limitRule is one limit as it stands for the agents it is of. Agents whose
// own entries come to the same share it.
type limitRule struct {
	name  string
	spec  *LimitSpec
	match match
	per   dimensions
	key   keyTexts
}

// dimensions say what shares a bucket. The zero value is one bucket for everyone.
type dimensions uint16

const (
	perAgent dimensions = 1 << iota
	perAction
	perResource
	perSubject
	perSession
	perRun
	perTool
	perCall
)

// name is what policies call a single dimension.
func (d dimensions) name() string {
	switch d {
	case perAgent:
		return "agent"
	case perAction:
		return "action"
	case perResource:
		return "resource"
	case perSubject:
		return "subject"
	case perSession:
		return "session_id"
	case perRun:
		return "run_id"
	case perTool:
		return "tool"
	case perCall:
		return "call"
	default:
		return ""
	}
}

// all yields the single dimensions of a set, in the order in which keys hold them.
func (d dimensions) all(yield func(dimensions) bool) {
	for one := perAgent; one <= perCall; one <<= 1 {
		if d&one != 0 && !yield(one) {
			return
		}
	}
}

// encodedMatch is the match of a common limit and its canonical form, for the
// agents whose own entries keep it.
type encodedMatch struct {
	match match
	form  []byte
}

func (c *compiler) compileLimits() {
	names := sortedKeys(c.doc.GetLimits())
	c.limitDocs = make(map[string]*policyv1.Limit, len(names))
	c.limitMatches = make(map[string]encodedMatch, len(names))
	c.canon.text("limits")
	c.canon.number(int64(len(names)))
	for _, name := range names {
		doc := c.doc.GetLimits()[name]
		label, path := "limits/"+name, []string{"limits", name}
		sound := c.checkKind(label, path, doc, true)
		sound = c.checkPer(label, path, doc) && sound
		form := canonical{}
		m, texts := c.match(label, sub(path, "match"), doc.GetMatch(), &form)
		c.limitMatches[name] = encodedMatch{m, slices.Clone(form.buf)}
		l := c.limit(label, path, name, doc, m, &form)
		c.canon.text(name)
		c.canon.text(string(form.buf))
		if sound {
			c.limitDocs[name] = doc
		}
		c.addRule(rule{id: label, match: m, shadow: doc.GetShadow()}, texts)
		c.s.limits = append(c.s.limits, l)
	}
	c.checkTogether("limits", []string{"limits"}, c.s.limits)
	c.s.fallback = &limitRule{
		spec: c.shared.spec(c.s, LimitSpec{
			ID: fallbackID, Name: fallbackID, Kind: LimitRate, Count: fallbackCount, Burst: fallbackCount, Period: fallbackPeriod,
		}),
		per: perAgent, key: newKeyTexts(fallbackID, perAgent, false),
	}
}

// ownLimits compiles an agent's own entries, each laid over the common limit
// of its name.
func (c *compiler) ownLimits(label string, path []string, docs map[string]*policyv1.Limit) []*limitRule {
	c.canon.number(int64(len(docs)))
	if len(docs) == 0 {
		return nil
	}
	own := make([]*limitRule, 0, len(docs))
	for _, name := range sortedKeys(docs) {
		at := sub(path, "limits", name)
		common, defined := c.limitDocs[name]
		if !defined {
			if _, faulty := c.doc.GetLimits()[name]; faulty {
				continue // what it is laid over is to be corrected first
			}
			common = &policyv1.Limit{Per: []string{"agent"}}
		}
		sound := c.checkKind(label, at, docs[name], !defined)
		doc := c.overlay(common, docs[name], at)
		if !c.checkPer(label, at, doc) || !sound {
			continue
		}
		if !slices.Contains(doc.GetPer(), "agent") {
			c.fault(label, sub(at, "per"), fmt.Sprintf("an agent's own limit %s does not count per agent", quote(name)),
				"write per with agent in it, such as [agent]")
			continue
		}
		inherited := c.limitMatches[name]
		m, form := inherited.match, canonical{slices.Clone(inherited.form)}
		if docs[name].GetMatch() != nil || !defined {
			form = canonical{}
			m, _ = c.match(label, sub(at, "match"), doc.GetMatch(), &form)
		}
		l := c.limit(label, at, name, doc, m, &form)
		c.canon.text(name)
		c.canon.text(string(form.buf))
		own = append(own, c.shared.limit(name+"/"+string(form.buf), l))
	}
	c.checkTogether(label, sub(path, "limits"), own)
	return own
}

// mostTogether is how many limits may count over the same dimensions. Those of one
// agent are kept in one value, which holds 255, and during a rollout those of the
// policy before as well.
const mostTogether = 100

// checkTogether refuses more limits over the same dimensions than one value holds.
func (c *compiler) checkTogether(label string, path []string, lists ...[]*limitRule) {
	together := map[dimensions]int{}
	for _, l := range slices.Concat(lists...) {
		together[l.per]++
		if together[l.per] == mostTogether+1 {
			c.fault(label, path, fmt.Sprintf("more than %d limits have the same per", mostTogether),
				"merge some of them, or give their match to fewer limits with a larger count")
		}
	}
}

// overlay lays an agent's own entry over the common limit: what it does not
// say stays, but what belongs to the kind is replaced as one.
func (c *compiler) overlay(common, own *policyv1.Limit, path []string) *policyv1.Limit {
	out := &policyv1.Limit{
		Rate: own.GetRate(), Burst: own.Burst, Window: own.GetWindow(), Quota: own.GetQuota(), Timezone: own.GetTimezone(),
		Concurrency: own.Concurrency, Hold: own.GetHold(),
		Per: own.GetPer(), Count: cmp.Or(own.GetCount(), common.GetCount()), Match: own.GetMatch(),
		OnUnavailable: cmp.Or(own.GetOnUnavailable(), common.GetOnUnavailable()), Shadow: own.GetShadow(),
	}
	out.Lease = own.GetLease()
	if kinds(own) == 0 {
		if common.GetLease() && !own.GetLease() {
			out.Lease = !c.src.isWritten(sub(path, "lease")...)
		}
		out.Rate, out.Burst, out.Window, out.Quota = common.GetRate(), common.Burst, common.GetWindow(), common.GetQuota()
		out.Timezone, out.Concurrency, out.Hold = common.GetTimezone(), common.Concurrency, common.GetHold()
	}
	if len(out.GetPer()) == 0 {
		out.Per = common.GetPer()
	}
	if out.GetMatch() == nil {
		out.Match = common.GetMatch()
	}
	// The message cannot tell `shadow: false` from nothing, the document can.
	if common.GetShadow() && !own.GetShadow() {
		out.Shadow = !c.src.isWritten(sub(path, "shadow")...)
	}
	return out
}

// kinds counts the kinds that an entry names.
func kinds(l *policyv1.Limit) int {
	n := 0
	for _, named := range []bool{l.GetRate() != "", l.GetWindow() != "", l.GetQuota() != "", l.Concurrency != nil} {
		if named {
			n++
		}
	}
	return n
}

// checkKind checks what one entry itself says of its kind.
func (c *compiler) checkKind(label string, path []string, doc *policyv1.Limit, needed bool) bool {
	sound := true
	fault := func(key, message, fix string) {
		sound = false
		c.fault(label, sub(path, key), message, fix)
	}
	switch n := kinds(doc); {
	case n == 0 && needed:
		fault("rate", "the limit has no kind", "write one of rate, window, quota and concurrency")
	case n > 1:
		fault("rate", fmt.Sprintf("the limit has %d kinds", n), "keep one of rate, window, quota and concurrency, and make a limit of each other")
	}
	if doc.Burst != nil && doc.GetRate() == "" {
		fault("burst", "burst stands without a rate", "write rate beside it, or remove it")
	}
	if doc.GetTimezone() != "" && doc.GetQuota() == "" {
		fault("timezone", "timezone stands without a quota", "write quota beside it, or remove it")
	}
	if doc.GetHold() != nil && doc.Concurrency == nil {
		fault("hold", "hold stands without concurrency", "write concurrency beside it, or remove it")
	}
	return sound
}

// checkPer checks the per that an entry comes to.
func (c *compiler) checkPer(label string, path []string, doc *policyv1.Limit) bool {
	switch per := doc.GetPer(); {
	case len(per) == 0:
		c.fault(label, sub(path, "per"), "per is missing: what shares a bucket has to be written",
			"write per: [agent] for one of each agent, or per: [all] for one of everyone")
	case slices.Contains(per, "all") && len(per) > 1:
		c.fault(label, sub(path, "per"), "per has all beside other dimensions", "write [all] alone, or leave all out")
	case slices.Contains(per, "call") && !slices.Contains(per, "agent"):
		c.fault(label, sub(path, "per"), "per has call without agent: whoever repeats a call would stop all others that make it",
			"write per: [agent, call]")
	default:
		return true
	}
	return false
}

// limit compiles a limit whose entries were checked, and writes it to form.
func (c *compiler) limit(label string, path []string, name string, doc *policyv1.Limit, m match, form *canonical) *limitRule {
	spec := LimitSpec{ID: "limits/" + name, Name: name, CountCost: doc.GetCount() == "cost", Shadow: doc.GetShadow()}
	switch doc.GetOnUnavailable() {
	case "allow":
		spec.OnUnavailable = UnavailableAllow
	case "local_share":
		spec.OnUnavailable = UnavailableLocalShare
	}
	var per dimensions
	for d := range (perCall<<1 - 1).all { // of the set of all of them
		if slices.Contains(doc.GetPer(), d.name()) {
			per |= d
		}
	}
	spec.PerCall = per&perCall != 0
	c.limitKind(label, path, doc, &spec)
	form.number(int64(spec.Kind))
	form.number(spec.Count)
	form.number(spec.Burst)
	form.number(int64(spec.Period))
	form.text(spec.Unit)
	if spec.Location != nil {
		form.text(spec.Location.String())
	}
	form.flag(spec.CountCost)
	form.number(int64(spec.OnUnavailable))
	form.flag(spec.Shadow)
	form.number(int64(per))
	if spec.Lease > 0 { // or else the version is what it was before there were leases
		form.text("lease")
		form.number(int64(spec.Lease))
	}
	return &limitRule{name: name, spec: c.shared.spec(c.s, spec), match: m, per: per, key: newKeyTexts(spec.ID, per, spec.Shadow)}
}

// limitKind reads the kind of a limit and its numbers, within what a limiter can charge.
func (c *compiler) limitKind(label string, path []string, doc *policyv1.Limit, spec *LimitSpec) {
	fault := func(key string, err error) {
		if err != nil {
			why, fix, _ := strings.Cut(err.Error(), "; ")
			c.fault(label, sub(path, key), why, fix)
		}
	}
	var err error
	switch {
	case doc.GetRate() != "":
		spec.Kind = LimitRate
		spec.Count, spec.Period, err = parseRate(doc.GetRate())
		fault("rate", err)
		if err == nil {
			spec.Burst, err = burst(doc, spec)
			fault("burst", err)
		}
	case doc.GetWindow() != "":
		spec.Kind = LimitWindow
		spec.Count, spec.Period, err = parseWindow(doc.GetWindow())
		fault("window", err)
	case doc.GetQuota() != "":
		spec.Kind = LimitQuota
		spec.Count, spec.Unit, err = parseQuota(doc.GetQuota())
		fault("quota", err)
		spec.Location, err = c.shared.location(doc.GetTimezone())
		fault("timezone", err)
	case doc.Concurrency != nil:
		spec.Kind = LimitConcurrency
		spec.Count = int64(doc.GetConcurrency())
		if spec.Count < 1 || spec.Count > maxSlots {
			fault("concurrency", fmt.Errorf("concurrency %d is out of range; write 1 to %d", spec.Count, maxSlots))
		}
		spec.Period, err = hold(doc)
		fault("hold", err)
	}
	if doc.GetLease() {
		spec.Lease, err = lease(spec)
		fault("lease", err)
	}
}

const (
	// longestLease bounds a lease: for how long units can lie unused at a replica.
	longestLease = 100 * time.Millisecond
	// shortestLease is the shortest that is one: what is taken for less is mostly
	// void by the time it has come from Redis.
	shortestLease = time.Millisecond
)

// lease is for how long units of a limit are taken ahead; zero: they are not. Of a
// rate that costs as much of its burst as it gives in that time, hence the tenth.
func lease(spec *LimitSpec) (time.Duration, error) {
	switch spec.Kind {
	case LimitRate:
		// A faulty burst can come to more than a Duration holds.
		full := float64(spec.Burst) * float64(spec.Period) / float64(max(1, spec.Count))
		life := time.Duration(min(full/10, float64(longestLease)))
		if life < shortestLease {
			return 0, nil
		}
		return life, nil
	case LimitQuota:
		return longestLease, nil
	case LimitNone: // is told as such
		return 0, nil
	default:
		return 0, errors.New("only units of a rate or a quota can be taken ahead; remove lease, or make it one of those")
	}
}

// burst is the written burst of a rate, or its count.
func burst(doc *policyv1.Limit, spec *LimitSpec) (int64, error) {
	n := spec.Count
	if doc.Burst != nil {
		n = int64(doc.GetBurst())
	}
	if most := mostBurst(spec.Count, spec.Period); n < 1 || n > most {
		return n, fmt.Errorf("a burst of %d at %s takes more than 366 days to come back; write 1 to %d", n, doc.GetRate(), most)
	}
	return n, nil
}

// hold is how long a call holds its slot.
func hold(doc *policyv1.Limit) (time.Duration, error) {
	d := defaultHold
	if doc.GetHold() != nil {
		d = doc.GetHold().AsDuration()
	}
	if d < minSpan || d > maxSpan {
		return d, fmt.Errorf("hold %s is out of range; write 1s to %dh", d, maxSpan/time.Hour)
	}
	return d, nil
}

// tick is the limiter's unit of time for rates: what it rounds up to bounds the burst.
const (
	ticksPerSecond = 16_000_000
	mostTicks      = int64(maxSpan/time.Second) * ticksPerSecond
)

// mostBurst is the largest burst that comes back within 366 days.
func mostBurst(count int64, period time.Duration) int64 {
	ticks := int64(period/time.Second) * ticksPerSecond
	each := (ticks + count - 1) / count
	return min(maxCount, mostTicks/each)
}

// location finds a time zone by its IANA name.
func (s *shared) location(name string) (*time.Location, error) {
	if name == "" {
		return time.UTC, nil
	}
	if known, ok := s.locations[name]; ok {
		return known, nil
	}
	l, err := time.LoadLocation(name)
	if err != nil || name == "Local" {
		return nil, fmt.Errorf("the time zone %s is not known; write a name of the IANA database, such as Europe/Berlin", quote(name))
	}
	if s.locations == nil {
		s.locations = map[string]*time.Location{}
	}
	s.locations[name] = l
	return l, nil
}

// spec returns the one spec with these values, and gives a new one its index.
func (s *shared) spec(into *Snapshot, spec LimitSpec) *LimitSpec {
	if known, ok := s.specs[spec]; ok {
		return known
	}
	if s.specs == nil {
		s.specs = map[LimitSpec]*LimitSpec{}
	}
	added := spec
	added.Index = len(into.specs)
	into.specs = append(into.specs, &added)
	s.specs[spec] = &added
	return &added
}

func (s *shared) limit(form string, l *limitRule) *limitRule {
	if known, ok := s.limits[form]; ok {
		return known
	}
	if s.limits == nil {
		s.limits = map[string]*limitRule{}
	}
	s.limits[form] = l
	return l
}
