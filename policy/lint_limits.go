package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	policyv1 "github.com/kelpie-authz/kelpie/gen/kelpie/policy/v1"
)

// checkLimits notes every limit over dimensions that the caller chooses without
// one per agent beside it: a caller that chooses anew for each call would
// never meet any limit, not even builtin/default.
func checkLimits(s *source, r *report) {
	common := s.policy.GetLimits()
	for name, limit := range common {
		checkChosen(s, r, limit, common, "limits", name)
	}
	for agent, entry := range s.policy.GetAgents() {
		if len(entry.GetLimits()) == 0 || !isAnyChosen(common) && !isAnyChosen(entry.GetLimits()) {
			continue
		}
		all := maps.Clone(common)
		if all == nil {
			all = map[string]*policyv1.Limit{}
		}
		for name, own := range entry.GetLimits() {
			all[name] = laidOver(common[name], own, s.isWritten("agents", agent, "limits", name, "shadow"))
		}
		for name := range entry.GetLimits() {
			checkChosen(s, r, all[name], all, "agents", agent, "limits", name)
		}
		for name, limit := range common {
			// An own entry may take away what held the caller on the common one.
			if entry.GetLimits()[name] == nil && !isBacked(limit, all) && isBacked(limit, common) {
				checkChosen(s, r, limit, all, "agents", agent, "limits")
			}
		}
	}
}

// isAnyChosen tells whether any limit names a dimension that the caller chooses.
func isAnyChosen(limits map[string]*policyv1.Limit) bool {
	for _, limit := range limits {
		if slices.ContainsFunc(limit.GetPer(), isChosen) {
			return true
		}
	}
	return false
}

// isChosen tells of a dimension that the caller chooses.
func isChosen(dimension string) bool {
	switch dimension {
	case "subject", "session_id", "run_id", "tool":
		return true
	default:
		return false
	}
}

// laidOver is what of an agent's own limit decides whom it binds.
func laidOver(common, own *policyv1.Limit, shadowWritten bool) *policyv1.Limit {
	l := &policyv1.Limit{Per: own.GetPer(), Match: own.GetMatch(), Shadow: own.GetShadow()}
	if !shadowWritten {
		l.Shadow = common.GetShadow()
	}
	switch {
	case len(l.GetPer()) > 0:
	case common == nil:
		l.Per = []string{"agent"}
	default:
		l.Per = common.GetPer()
	}
	if l.GetMatch() == nil {
		l.Match = common.GetMatch()
	}
	return l
}

func checkChosen(s *source, r *report, l *policyv1.Limit, all map[string]*policyv1.Limit, path ...string) {
	if chosen := callerChosen(l); chosen != "" && !l.GetShadow() && !isBacked(l, all) {
		r.add(s.at(path...), strings.Join(path, "/"),
			fmt.Sprintf("the caller chooses %s, and with a new one for each call never meets a limit", chosen),
			"add a limit with per: [agent] beside it, for the same calls or for all")
	}
}

// isBacked tells whether an enforced limit per agent, whatever the caller
// writes into the request, matches every call that l does.
func isBacked(l *policyv1.Limit, all map[string]*policyv1.Limit) bool {
	for _, other := range all {
		if !other.GetShadow() && len(other.GetPer()) == 1 && other.GetPer()[0] == "agent" &&
			(other.GetMatch() == nil || proto.Equal(other.GetMatch(), l.GetMatch())) {
			return true
		}
	}
	return false
}

// callerChosen names the dimensions that the caller chooses, where it does.
func callerChosen(l *policyv1.Limit) string {
	var chosen []string
	for _, dimension := range l.GetPer() {
		if isChosen(dimension) {
			chosen = append(chosen, dimension)
		}
	}
	return strings.Join(chosen, " and ")
}
