package policy

import (
	"slices"
	"strings"
)

// verdictState is what one decision found on its way. Its slices are reused.
type verdictState struct {
	snapshot *Snapshot
	agent    *agent
	verb     Risk
	// covering are the scopes that cover the call.
	covering []uint32
	// held are the agent's unexpired grants of these scopes, judged.
	held []heldGrant
	// rules are the rules whose match holds but for its condition, sorted.
	rules []uint32
	// lacking and failing are rules whose condition could not be evaluated.
	lacking, failing []string
	// limits are the limits that the call is charged to, and keys where their keys lie.
	limits []*limitRule
	keys   []keySpan
	// digest is callDigest of the call, once a limit has asked for it.
	digest   string
	digested bool
	walk     walk
}

// heldGrant is a grant that the agent holds, of a scope that covers the call.
type heldGrant struct {
	id         string // empty for an agent's own until nameGrants
	scope      uint32
	result     outcome
	unattended bool
	shadow     bool
}

// satisfied tells whether the grant is in force for the call.
func (h *heldGrant) satisfied() bool { return !h.shadow && h.result == isTrue }

func (st *verdictState) reset(s *Snapshot) {
	st.snapshot, st.agent = s, nil
	st.covering, st.held, st.rules = st.covering[:0], st.held[:0], st.rules[:0]
	st.lacking, st.failing = st.lacking[:0], st.failing[:0]
}

func (v *Verdict) reset(s *Snapshot) {
	v.Outcome, v.Reason, v.Message, v.Risk = OutcomeDeny, "", "", RiskNone
	v.Matched, v.Grants, v.RequiredScopes = v.Matched[:0], v.Grants[:0], v.RequiredScopes[:0]
	v.Requirements, v.ContextRead, v.ContextWhole = v.Requirements[:0], v.ContextRead[:0], false
	v.Shadow = v.Shadow[:0]
	v.state.reset(s)
}

func (v *Verdict) deny(reason Reason) {
	v.Outcome, v.Reason = OutcomeDeny, reason
}

// Decide judges everything up to "is an approval needed?", in this order:
// identity, suspension, network, deny rules, scopes, approval rules. The first
// check that fails gives the reason. It is a pure function of the snapshot and
// the call, without I/O, and safe for concurrent use with a Verdict each.
func (s *Snapshot) Decide(c *Call, v *Verdict) {
	v.reset(s)
	if !s.prepare(c, v) {
		v.deny(ReasonAgentUnknown)
		return
	}
	switch {
	case v.state.agent.suspended:
		v.deny(ReasonAgentSuspended)
		return
	case !s.networks.admits(v.state.agent.networks, c.SourceIP):
		v.deny(ReasonIPNotAllowed)
		return
	}
	s.judgeShadows(c, v)
	if s.judgeDeny(c, v) && s.judgeScopes(v) && s.judgeApprovals(c, v) {
		v.Outcome, v.Reason = OutcomeAllow, ReasonOK
		v.Matched = append(v.Matched, v.Grants...)
	}
}

// DecideUnmapped judges a call of which only agent and address are known,
// because nothing in the policy says what it is: identity, suspension and
// network, and then no scope covers it. It never allows.
func (s *Snapshot) DecideUnmapped(c *Call, v *Verdict) {
	v.reset(s)
	st := &v.state
	st.agent = s.findAgent(c.Agent, &st.walk)
	switch {
	case st.agent == nil:
		v.deny(ReasonAgentUnknown)
	case st.agent.suspended:
		v.deny(ReasonAgentSuspended)
	case !s.networks.admits(st.agent.networks, c.SourceIP):
		v.deny(ReasonIPNotAllowed)
	default:
		v.deny(ReasonNoMatchingScope)
	}
}

// prepare finds what the checks look at: the agent, its grants of the scopes
// that cover the call, the call's risk, the rules it may meet. It tells
// whether the agent is known.
func (s *Snapshot) prepare(c *Call, v *Verdict) bool {
	st := &v.state
	st.verb = verbClass(c.Action)
	v.Risk = st.verb
	st.agent = s.findAgent(c.Agent, &st.walk)
	if st.agent == nil {
		return false
	}
	st.covering = s.coverage.find(c, &st.walk, st.covering)
	s.holdings(c, st)
	v.Risk = s.callRisk(st)
	st.rules = s.index.find(c, &st.walk, st.rules)
	meets := st.rules[:0]
	for _, i := range st.rules {
		if s.rules[i].match.static(c, v.Risk, st.verb, &st.walk) {
			meets = append(meets, i)
		}
	}
	st.rules = meets
	return true
}

// findAgent finds the key that an id falls under: the exact one, else the one
// with the longest text before its first star. Two of equal length were a
// compile error.
func (s *Snapshot) findAgent(id string, w *walk) *agent {
	if a, ok := s.exact[id]; ok {
		return a
	}
	var buf [16]uint32
	var best *agent
	longest := -1
	for _, i := range s.patterns.find(id, w, buf[:0]) {
		a := s.keyed[i]
		if n := strings.IndexByte(a.key, '*'); n > longest {
			best, longest = a, n
		}
	}
	return best
}

// holdings judges the agent's grants of the covering scopes.
func (s *Snapshot) holdings(c *Call, st *verdictState) {
	a := st.agent
	st.held = a.grants.find(c, st.covering, nil, st.held)
	for _, r := range a.roles {
		st.held = r.grants.find(c, st.covering, r.ids, st.held)
	}
}

// find appends the grants of scopes, judged; scopes are sorted. ids are those
// of the grants, or nil.
func (g *grants) find(c *Call, scopes []uint32, ids []string, out []heldGrant) []heldGrant {
	if len(g.plain) < len(scopes) {
		for i, scope := range g.plain {
			if _, ok := slices.BinarySearch(scopes, scope); ok {
				out = append(out, heldGrant{id: at(ids, i), scope: scope, result: isTrue})
			}
		}
	} else {
		for _, scope := range scopes {
			if i, ok := slices.BinarySearch(g.plain, scope); ok {
				out = append(out, heldGrant{id: at(ids, i), scope: scope, result: isTrue})
			}
		}
	}
	if len(g.special) == 0 {
		return out
	}
	return g.findSpecial(c, scopes, ids, out)
}

func (g *grants) findSpecial(c *Call, scopes []uint32, ids []string, out []heldGrant) []heldGrant {
	for _, scope := range scopes {
		i, _ := slices.BinarySearchFunc(g.special, scope, func(g grant, scope uint32) int {
			return int(int64(g.scope) - int64(scope))
		})
		for ; i < len(g.special) && g.special[i].scope == scope; i++ {
			one := &g.special[i]
			if !one.until.IsZero() && !c.Now.Before(one.until) {
				continue
			}
			out = append(out, heldGrant{
				id: at(ids, len(g.plain)+i), scope: scope, result: one.when.evaluate(c),
				unattended: one.unattended, shadow: one.shadow,
			})
		}
	}
	return out
}

func at(ids []string, i int) string {
	if ids == nil {
		return ""
	}
	return ids[i]
}

// callRisk is the lowest risk that a satisfied covering grant gives the call,
// and its verb class where there is none.
func (s *Snapshot) callRisk(st *verdictState) Risk {
	lowest := RiskNone
	for i := range st.held {
		if !st.held[i].satisfied() {
			continue
		}
		risk := s.scopes[st.held[i].scope].risk.of(st.verb)
		if lowest == RiskNone || risk < lowest {
			lowest = risk
		}
	}
	if lowest == RiskNone {
		return st.verb
	}
	return lowest
}

// nameGrants gives the agent's own grants among those held their ids, cut out
// of one text.
func (s *Snapshot) nameGrants(st *verdictState) {
	size := 0
	for i := range st.held {
		if h := &st.held[i]; h.id == "" {
			size += len(ownGrants) + len(st.agent.key) + 1 + len(s.scopes[h.scope].name)
		}
	}
	if size == 0 {
		return
	}
	var b strings.Builder
	b.Grow(size)
	for i := range st.held {
		h := &st.held[i]
		if h.id != "" {
			continue
		}
		from := b.Len()
		b.WriteString(ownGrants)
		b.WriteString(st.agent.key)
		b.WriteByte('/')
		b.WriteString(s.scopes[h.scope].name)
		h.id = b.String()[from:]
	}
}

// judgeDeny judges the deny rules, and tells whether the call passes.
func (s *Snapshot) judgeDeny(c *Call, v *Verdict) bool {
	st := &v.state
	st.lacking, st.failing = st.lacking[:0], st.failing[:0]
	first := -1
	for _, i := range st.rules {
		if int(i) >= len(s.deny) {
			break
		}
		r := &s.rules[i]
		if r.shadow {
			continue
		}
		if st.note(r.id, r.match.when.evaluate(c)) {
			v.Matched = append(v.Matched, r.id)
			if first < 0 {
				first = int(i)
			}
		}
	}
	if first >= 0 {
		v.deny(ReasonActionDenied)
		v.Message = s.deny[first].message
		return false
	}
	return st.pass(v)
}

// note tells whether a rule holds, and keeps in mind that it could not be told.
func (st *verdictState) note(id string, o outcome) bool {
	switch o {
	case isLacking:
		st.lacking = append(st.lacking, id)
	case isFailing:
		st.failing = append(st.failing, id)
	case isTrue, isFalse:
	}
	return o == isTrue
}

// pass denies the call where a rule could not be evaluated, and tells whether
// all could.
func (st *verdictState) pass(v *Verdict) bool {
	reason, matched := st.failure(v.Matched)
	if reason == "" {
		return true
	}
	v.Matched = matched
	v.deny(reason)
	return false
}

// failure is the reason of rules that could not be evaluated, and writes their
// ids into matched: the one that gives the reason first, then sorted.
func (st *verdictState) failure(matched []string) (Reason, []string) {
	slices.Sort(st.lacking)
	slices.Sort(st.failing)
	matched = append(matched[:0], st.lacking...)
	matched = append(matched, st.failing...)
	switch {
	case len(matched) == 0:
		return "", matched
	case len(st.lacking) == 0:
		return ReasonConditionFailed, slices.Compact(matched)
	}
	slices.Sort(matched[1:])
	return ReasonParametersUnavailable, slices.Compact(matched)
}

// judgeScopes judges the grants, and tells whether one is satisfied.
func (s *Snapshot) judgeScopes(v *Verdict) bool {
	st := &v.state
	if len(st.covering) == 0 {
		v.deny(ReasonNoMatchingScope)
		return false
	}
	held := false
	for i := range st.held {
		held = held || !st.held[i].shadow
	}
	if !held {
		for _, scope := range st.covering {
			v.RequiredScopes = append(v.RequiredScopes, s.scopes[scope].name)
		}
		v.deny(ReasonInsufficientScope)
		return false
	}
	s.nameGrants(st)
	st.lacking, st.failing = st.lacking[:0], st.failing[:0]
	for i := range st.held {
		switch h := &st.held[i]; {
		case h.shadow:
		case h.result == isTrue:
			v.Grants = append(v.Grants, h.id)
		case h.result == isLacking:
			st.lacking = append(st.lacking, h.id)
		default:
			st.failing = append(st.failing, h.id)
		}
	}
	if len(v.Grants) > 0 {
		slices.Sort(v.Grants)
		v.Grants = slices.Compact(v.Grants)
		return true
	}
	return st.passGrants(v)
}

// passGrants is pass for grants: one id may stand for several of them, and is
// then told once, by its stronger failure.
func (st *verdictState) passGrants(v *Verdict) bool {
	st.failing = slices.DeleteFunc(st.failing, func(id string) bool { return slices.Contains(st.lacking, id) })
	slices.Sort(st.lacking)
	st.lacking = slices.Compact(st.lacking)
	return st.pass(v)
}
