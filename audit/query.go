package audit

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Order is the order of a query's answer.
type Order uint8

// The orders; lines are ordered as they were appended.
const (
	NewestFirst Order = iota
	OldestFirst
)

// Query selects lines of the audit. Empty fields select all; what is given has
// to hold together. Texts are compared exactly.
type Query struct {
	// Agent is the established or the claimed one.
	Agent, Subject, Gateway string
	// Actor did it: who voted, revoked, called the admin API. A name also finds
	// what was done in that name with the admin token, which is recorded as
	// "local-admin as NAME (unverified)".
	Actor string
	// Resource and Action are patterns; see [Pattern]. Actions are separated by
	// dots, resources by slashes.
	Resource, Action string
	// Decision is the verdict's name, in any case.
	Decision, Reason string
	// Kinds are those wanted; the name of a family ("approval", "policy")
	// stands for all of it. Empty: all but the log's notes about itself.
	Kinds []Kind
	// DecisionID, ApprovalID: of that one alone.
	DecisionID, ApprovalID string
	// From is the earliest time, To the first that is too late.
	From, To time.Time
	// Limit is how many are wanted; 0: all.
	Limit int
	Order Order
}

// Matcher is a compiled Query. It is safe for concurrent use.
type Matcher struct {
	q                Query
	resource, action *Pattern
	needles          [][]byte
	// unverified is the actor as the admin token alone makes him known.
	unverified string
}

// Matcher compiles q; the error says which pattern is wrong.
func (q *Query) Matcher() (*Matcher, error) {
	m := &Matcher{q: *q}
	m.q.Kinds = slices.Clone(q.Kinds)
	if q.Limit < 0 {
		return nil, fmt.Errorf("limit: %d is below 0", q.Limit)
	}
	var err error
	if q.Resource != "" {
		if m.resource, err = CompilePattern(q.Resource, '/'); err != nil {
			return nil, fmt.Errorf("resource: %w", err)
		}
	}
	if q.Action != "" {
		if m.action, err = CompilePattern(q.Action, '.'); err != nil {
			return nil, fmt.Errorf("action: %w", err)
		}
	}
	for _, text := range [...]string{q.Agent, q.Subject, q.Gateway, q.Reason, q.DecisionID, q.ApprovalID} {
		if text != "" {
			m.needles = append(m.needles, appendString(nil, text))
		}
	}
	if q.Actor != "" {
		// Without the quotes: it can stand in the midst of what is recorded.
		quoted := appendString(nil, q.Actor)
		m.needles = append(m.needles, quoted[1:len(quoted)-1])
		m.unverified = unverified(q.Actor)
	}
	return m, nil
}

// unverified is how somebody is recorded who is known by the admin token alone.
func unverified(name string) string { return "local-admin as " + name + " (unverified)" }

// Maybe tells, without reading it, whether a line can be selected: false is
// certain. It saves most of the work of a query for one name.
func (m *Matcher) Maybe(line []byte) bool {
	for _, needle := range m.needles {
		if !bytes.Contains(line, needle) {
			return false
		}
	}
	return true
}

// Match tells whether r is selected.
func (m *Matcher) Match(r *Record) bool {
	q := &m.q
	return m.matchKind(r.Kind) && m.matchTime(r.Time) &&
		(q.Agent == "" || q.Agent == r.Agent || q.Agent == r.ClaimedAgent) &&
		same(q.Subject, r.Subject) && same(q.Gateway, r.Gateway) &&
		(same(q.Actor, r.Actor) || r.Actor == m.unverified) &&
		same(q.Reason, r.Reason) && same(q.DecisionID, r.DecisionID) && same(q.ApprovalID, r.ApprovalID) &&
		(q.Decision == "" || strings.EqualFold(q.Decision, r.Decision)) &&
		(m.resource == nil || m.resource.Match(r.Resource)) &&
		(m.action == nil || m.action.Match(r.Action))
}

func same(want, is string) bool { return want == "" || want == is }

func (m *Matcher) matchKind(kind Kind) bool {
	if len(m.q.Kinds) == 0 {
		return !kind.Note()
	}
	return slices.ContainsFunc(m.q.Kinds, kind.is)
}

func (m *Matcher) matchTime(t time.Time) bool {
	return !t.Before(m.q.From) && (m.q.To.IsZero() || t.Before(m.q.To))
}

// Overlaps tells whether records between from and to, both included, can be
// selected; a zero time is not known.
func (m *Matcher) Overlaps(from, to time.Time) bool {
	if !to.IsZero() && to.Before(m.q.From) {
		return false
	}
	return from.IsZero() || m.q.To.IsZero() || from.Before(m.q.To)
}

// maxPattern bounds a pattern, in bytes.
const maxPattern = 1024

// Pattern selects names as the policy's patterns do: `*` alone is one segment
// that is not empty, inside a segment any run of characters; `**` is a segment
// of its own and stands for any number of segments, also none. It is safe for
// concurrent use.
type Pattern struct {
	separator string
	segments  []string
}

// CompilePattern reads a pattern whose segments are separated by separator.
func CompilePattern(text string, separator byte) (*Pattern, error) {
	if len(text) > maxPattern {
		return nil, fmt.Errorf("the pattern is longer than %d bytes", maxPattern)
	}
	p := &Pattern{separator: string(separator)}
	p.segments = strings.Split(text, p.separator)
	for _, segment := range p.segments {
		if segment != "**" && strings.Contains(segment, "**") {
			return nil, fmt.Errorf("%q: ** has to be a segment of its own; inside a segment * matches any run", clip(text))
		}
	}
	return p, nil
}

// Match tells whether the pattern selects text. Its time is at most the product
// of their lengths.
func (p *Pattern) Match(text string) bool {
	segments := strings.Split(text, p.separator)
	return wild(len(p.segments), len(segments),
		func(i int) bool { return p.segments[i] == "**" },
		func(i, j int) bool { return matchSegment(p.segments[i], segments[j]) })
}

func matchSegment(pattern, text string) bool {
	if pattern == "*" {
		return text != ""
	}
	return wild(len(pattern), len(text),
		func(i int) bool { return pattern[i] == '*' },
		func(i, j int) bool { return pattern[i] == text[j] })
}

// wild matches a pattern of m symbols with a text of n, where a star stands for
// any run. Only the last star has to be tried again: what a run before it took
// less, that one can take as well.
func wild(m, n int, star func(i int) bool, match func(i, j int) bool) bool {
	i, j, back, resume := 0, 0, -1, 0
	for j < n {
		switch {
		case i < m && star(i):
			back, resume = i, j
			i++
		case i < m && match(i, j):
			i++
			j++
		case back >= 0:
			resume++
			i, j = back+1, resume
		default:
			return false
		}
	}
	for i < m && star(i) {
		i++
	}
	return i == m
}
