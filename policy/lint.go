package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	policyv1 "github.com/kelpie-authz/kelpie/gen/kelpie/policy/v1"
)

// Severity says how a finding is meant. The zero value is invalid.
type Severity uint8

// The severities, the gravest first.
const (
	// SeverityError is what keeps the policy from being loaded.
	SeverityError Severity = iota + 1
	// SeverityWarning is most likely not what the author wants.
	SeverityWarning
	// SeverityNote is a choice worth knowing, written or gated as it should be.
	SeverityNote
)

// String returns the severity as lint prints it, and "" for the zero value.
func (s Severity) String() string {
	switch s {
	case SeverityError:
		return "error"
	case SeverityWarning:
		return "warning"
	case SeverityNote:
		return "note"
	default:
		return ""
	}
}

// CodeInvalid is the code of every error: the policy cannot be loaded. The
// codes of warnings and notes are in docs/lint.md.
const CodeInvalid = "invalid"

// Finding is one thing that lint has to say.
type Finding struct {
	Severity Severity
	// Code is stable: docs/lint.md explains it.
	Code string
	// File, Line and Column say where, as in Error.
	File         string
	Line, Column int
	// Rule is what it lies in, such as "scopes/leads.read".
	Rule string
	// Message says what was found, Fix what to write instead.
	Message, Fix string
}

// String returns one line, "file:line:column: severity: rule: message; fix (code)".
func (f Finding) String() string {
	e := Error{File: f.File, Line: f.Line, Column: f.Column, Rule: f.Rule, Message: f.Message, Fix: f.Fix}
	place, text := "", e.Error()
	if f.File != "" {
		place = fmt.Sprintf("%s:%d:%d: ", f.File, f.Line, f.Column)
	}
	return fmt.Sprintf("%s%s: %s (%s)", place, f.Severity, strings.TrimPrefix(text, place), f.Code)
}

// Lint judges documents as a careful reviewer would. If they cannot be loaded
// the findings are the errors of Compile and nothing else; otherwise warnings
// and notes. They are sorted by file, line, column and code. now is the
// instant that the ends of grants are compared with.
func Lint(docs []Document, now time.Time) []Finding {
	r := &report{}
	src := load(docs, r)
	s := compileSource(src, r)
	if len(r.errs) > 0 {
		var findings []Finding
		for _, e := range r.errors() {
			findings = append(findings, Finding{
				Severity: SeverityError, Code: CodeInvalid, File: e.File, Line: e.Line, Column: e.Column,
				Rule: e.Rule, Message: e.Message, Fix: e.Fix,
			})
		}
		return findings
	}
	l := newLinter(src, now)
	l.scopes()
	l.networks()
	l.roles()
	l.approverGroups()
	l.agents()
	l.denyRules()
	l.approvalRules()
	l.limits()
	l.ownLeases()
	l.conditions()
	l.http(s.HTTP())
	slices.SortFunc(l.findings, compareFindings)
	return slices.CompactFunc(l.findings, func(a, b Finding) bool { return a == b })
}

func compareFindings(a, b Finding) int {
	return cmp.Or(
		cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column),
		cmp.Compare(a.Code, b.Code), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Message, b.Message), cmp.Compare(a.Fix, b.Fix),
	)
}

// linter is the state of one Lint of a policy without errors.
type linter struct {
	src      *source
	doc      *policyv1.Policy
	now      time.Time
	findings []Finding
	// holdings are all scopes that agents hold, by agent.
	holdings []holding
	// denials and gates are, by scope, the rules that cover all calls under it, agents apart.
	denials, gates map[string][]coveringRule
}

// holding is one scope that one agent holds.
type holding struct {
	agent, scope string
	path         []string        // where the agent gets it
	grant        *policyv1.Grant // nil: a plain grant
	role         string          // "": the agent itself
}

type coveringRule struct {
	id     string
	agents []string
}

func newLinter(src *source, now time.Time) *linter {
	l := &linter{src: src, doc: src.policy, now: now, denials: map[string][]coveringRule{}, gates: map[string][]coveringRule{}}
	for _, key := range sortedKeys(l.doc.GetAgents()) {
		agent := l.doc.GetAgents()[key]
		l.hold(key, []string{"agents", key}, "", agent.GetScopes(), agent.GetGrants())
		for i, name := range agent.GetRoles() {
			role := l.doc.GetRoles()[name]
			l.hold(key, []string{"agents", key, "roles", strconv.Itoa(i)}, name, role.GetScopes(), role.GetGrants())
		}
	}
	for _, name := range sortedKeys(l.doc.GetScopes()) {
		scope := l.doc.GetScopes()[name]
		for _, id := range sortedKeys(l.doc.GetDeny()) {
			rule := l.doc.GetDeny()[id]
			if !rule.GetShadow() && coversScope(rule.GetMatch(), scope) {
				l.denials[name] = append(l.denials[name], coveringRule{"deny/" + id, rule.GetMatch().GetAgents()})
			}
		}
		for _, id := range sortedKeys(l.doc.GetApprovals()) {
			rule := l.doc.GetApprovals()[id]
			if !rule.GetShadow() && coversScope(rule.GetMatch(), scope) {
				l.gates[name] = append(l.gates[name], coveringRule{"approvals/" + id, rule.GetMatch().GetAgents()})
			}
		}
	}
	return l
}

func (l *linter) hold(agent string, path []string, role string, scopes []string, grants []*policyv1.Grant) {
	for i, scope := range scopes {
		at := path
		if role == "" {
			at = sub(path, "scopes", strconv.Itoa(i))
		}
		l.holdings = append(l.holdings, holding{agent: agent, scope: scope, path: at, role: role})
	}
	for i, grant := range grants {
		at := path
		if role == "" {
			at = sub(path, "grants", strconv.Itoa(i), "scope")
		}
		l.holdings = append(l.holdings, holding{agent: agent, scope: grant.GetScope(), path: at, grant: grant, role: role})
	}
}

// add notes a finding at a path of the documents.
func (l *linter) add(severity Severity, code string, path []string, message, fix string) {
	at := l.src.at(path...)
	l.findings = append(l.findings, Finding{
		Severity: severity, Code: code, File: at.file, Line: at.line, Column: at.column,
		Rule: strings.Replace(strings.Join(path[:min(2, len(path))], "/"), httpRoutes+"/", httpSection+"/", 1), Message: message, Fix: fix,
	})
}

// covering returns the first of the rules that is about an agent, or "".
func covering(rules []coveringRule, agent string) string {
	for _, rule := range rules {
		if len(rule.agents) == 0 || coversAny(rule.agents, agent, agentPattern) {
			return rule.id
		}
	}
	return ""
}
