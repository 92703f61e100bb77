package policy

import (
	"slices"
	"strings"

	policyv1 "github.com/kelpie-authz/kelpie/gen/kelpie/policy/v1"
)

// meets tells whether some text could match both patterns. For actions it
// takes . and / as one, and so errs towards yes.
func meets(a, b string, kind patternKind) bool {
	if kind == actionPattern {
		a, b = strings.ReplaceAll(a, ".", "/"), strings.ReplaceAll(b, ".", "/")
	}
	return patternsMeet(a, b)
}

// meetAny tells whether a pattern of each list meet; an empty list is every text.
func meetAny(some, others []string, kind patternKind) bool {
	if len(some) == 0 || len(others) == 0 {
		return true
	}
	return slices.ContainsFunc(some, func(a string) bool {
		return slices.ContainsFunc(others, func(b string) bool { return meets(a, b, kind) })
	})
}

// covers tells whether every text that matches narrow matches wide too. Where
// that is hard to tell it says no.
func covers(wide, narrow string, kind patternKind) bool {
	w, n := tokenize(wide, kind), tokenize(narrow, kind)
	// row[j] says whether w[i:] covers n[j:], for the i at hand. inside[j] says
	// the same where w[i] is a ** that stands for a segment already: it takes
	// the next ones whatever separator comes.
	row, below, inside := make([]bool, len(n)+1), make([]bool, len(n)+1), make([]bool, len(n)+1)
	for i := len(w); i >= 0; i-- {
		row, below = below, row
		for j := len(n); j >= 0; j-- {
			switch {
			case i == len(w):
				row[j] = j == len(n)
			case j == len(n):
				row[j] = w[i].kind == deepToken && below[j]
				inside[j] = row[j]
			case w[i].kind == deepToken:
				inside[j] = below[j] || inside[j+1]
				next := inside[j+1]
				if n[j].kind == deepToken { // which may stand for nothing
					next = row[j+1]
				}
				row[j] = below[j] || next && (j == 0 || w[i].sep == n[j].sep)
			default:
				row[j] = below[j+1] && (j == 0 || w[i].sep == n[j].sep) && segmentCovers(w[i], n[j])
			}
		}
	}
	return row[0]
}

func segmentCovers(wide, narrow token) bool {
	switch {
	case narrow.kind == deepToken:
		return false
	case wide.kind == starToken:
		// A segment of stars and nothing else may be empty in no well-formed text.
		return narrow.text != ""
	case wide.text == narrow.text:
		return true
	case wide.kind != globToken || narrow.kind == starToken:
		return false
	case narrow.kind == literalToken:
		return parseGlob(wide.text).match(narrow.text)
	}
	w, n := parseGlob(wide.text), parseGlob(narrow.text)
	return len(w.middle) == 0 && strings.HasPrefix(n.prefix, w.prefix) && strings.HasSuffix(n.suffix, w.suffix)
}

// coversAny tells whether one pattern of a list covers narrow; an empty list covers nothing.
func coversAny(list []string, narrow string, kind patternKind) bool {
	return slices.ContainsFunc(list, func(wide string) bool { return covers(wide, narrow, kind) })
}

// coversAll tells whether a match's list covers another's; an empty one is every text.
func coversAll(wide, narrow []string, kind patternKind) bool {
	if len(wide) == 0 {
		return true
	}
	if len(narrow) == 0 {
		return false
	}
	return !slices.ContainsFunc(narrow, func(p string) bool { return !coversAny(wide, p, kind) })
}

// coversMatch tells whether wide holds for every call that narrow holds for.
func coversMatch(wide, narrow *policyv1.Match) bool {
	if wide.GetWhen() != "" && wide.GetWhen() != narrow.GetWhen() {
		return false
	}
	if len(wide.GetRisk()) > 0 {
		w, n := newRiskSet(wide.GetRisk()), newRiskSet(narrow.GetRisk())
		if n == 0 || n&^w != 0 {
			return false
		}
	}
	return coversAll(wide.GetAgents(), narrow.GetAgents(), agentPattern) &&
		coversAll(wide.GetActions(), narrow.GetActions(), actionPattern) &&
		coversAll(wide.GetResources(), narrow.GetResources(), resourcePattern)
}

// coversScope tells whether a match without condition holds for every call
// under a scope, agents apart.
func coversScope(m *policyv1.Match, scope *policyv1.Scope) bool {
	return m.GetWhen() == "" &&
		coversAll(m.GetActions(), scope.GetActions(), actionPattern) &&
		coversAll(m.GetResources(), scope.GetResources(), resourcePattern) &&
		coversRisk(m.GetRisk(), scope)
}

func coversRisk(names []string, scope *policyv1.Scope) bool {
	if len(names) == 0 {
		return true
	}
	set := newRiskSet(names)
	own := riskOfScope(scope)
	if own.reasoned {
		return set.has(own.risk)
	}
	for _, action := range scope.GetActions() {
		risk := own.of(patternClass(action))
		if !set.has(risk) {
			return false
		}
		// What a star stands for can only raise the risk.
		for higher := risk + 1; isPattern(action) && higher <= RiskAdmin; higher++ {
			if !set.has(higher) {
				return false
			}
		}
	}
	return true
}

// riskOfScope is what a scope without faults counts for.
func riskOfScope(scope *policyv1.Scope) scopeRisk {
	verbs := RiskNone
	for _, action := range scope.GetActions() {
		verbs = max(verbs, patternClass(action))
	}
	if declared := parseRisk(scope.GetRisk()); declared != RiskNone && declared < verbs {
		return scopeRisk{risk: declared, reasoned: true}
	}
	return scopeRisk{risk: max(verbs, parseRisk(scope.GetRisk()))}
}

// meetsScope tells whether a match could hold for some call under a scope,
// agents apart. Conditions count as possible.
func meetsScope(m *policyv1.Match, scope *policyv1.Scope) bool {
	return meetAny(m.GetActions(), scope.GetActions(), actionPattern) &&
		meetAny(m.GetResources(), scope.GetResources(), resourcePattern) &&
		meetsRisk(m.GetRisk(), scope)
}

func meetsRisk(names []string, scope *policyv1.Scope) bool {
	if len(names) == 0 || slices.ContainsFunc(scope.GetActions(), isPattern) {
		return true
	}
	set, own := newRiskSet(names), riskOfScope(scope)
	return slices.ContainsFunc(scope.GetActions(), func(action string) bool {
		verb := patternClass(action)
		return set.match(own.of(verb), verb)
	})
}

// isAllStars tells of a pattern that narrows nothing.
func isAllStars(pattern string) bool { return strings.Trim(pattern, "*./") == "" }
