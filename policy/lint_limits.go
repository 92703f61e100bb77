package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	policyv1 "github.com/kelpie-authz/kelpie/gen/kelpie/policy/v1"
)

// checkLimits notes what makes limits unsound as a whole: one over dimensions
// that the caller chooses and none per agent beside it, and numbers that the
// limiter could not charge.
func checkLimits(s *source, r *report) {
	for name, limit := range s.policy.GetLimits() {
		checkLimit(s, r, limit, "limits", name)
	}
	for agent, entry := range s.policy.GetAgents() {
		for name, limit := range entry.GetLimits() {
			checkLimit(s, r, limit, "agents", agent, "limits", name)
		}
	}
	common := s.policy.GetLimits()
	for name, limit := range common {
		checkChosen(s, r, limit, common, "limits", name)
	}
	for agent, entry := range s.policy.GetAgents() {
		if len(entry.GetLimits()) == 0 {
			continue
		}
		all := maps.Clone(common)
		if all == nil {
			all = map[string]*policyv1.Limit{}
		}
		for name, own := range entry.GetLimits() {
			all[name] = laidOver(common[name], own)
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

// laidOver is what of an agent's own limit decides whom it binds.
func laidOver(common, own *policyv1.Limit) *policyv1.Limit {
	l := &policyv1.Limit{Per: own.GetPer(), Match: own.GetMatch(), Shadow: own.GetShadow() || common.GetShadow()}
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
		if slices.Contains([]string{"subject", "session_id", "run_id", "tool"}, dimension) {
			chosen = append(chosen, dimension)
		}
	}
	return strings.Join(chosen, " and ")
}

func checkLimit(s *source, r *report, l *policyv1.Limit, path ...string) {
	rule := strings.Join(path, "/")
	at := func(field string) position { return s.at(append(slices.Clone(path), field)...) }
	if l.Burst != nil && l.GetBurst() > maxCount {
		r.add(at("burst"), rule, fmt.Sprintf("a burst of %d is out of range", l.GetBurst()), fmt.Sprintf("write 1 to %d", maxCount))
	}
	if l.Burst != nil && l.GetRate() != "" && l.GetBurst() <= maxCount {
		if count, period, err := parseRate(l.GetRate()); err == nil && refillsTooSlowly(count, period, int64(l.GetBurst())) {
			r.add(at("burst"), rule, fmt.Sprintf("a burst of %d takes more than 366 days to refill", l.GetBurst()), "write a lower burst or a higher rate")
		}
	}
	if l.Concurrency != nil && l.GetConcurrency() > maxSlots {
		r.add(at("concurrency"), rule, fmt.Sprintf("a concurrency of %d is out of range", l.GetConcurrency()), fmt.Sprintf("write 1 to %d", maxSlots))
	}
	if hold := l.GetHold().AsDuration(); l.GetHold() != nil && hold > 0 && (hold < minSpan || hold > maxSpan) {
		r.add(at("hold"), rule, fmt.Sprintf("a hold of %v is out of range", hold), fmt.Sprintf("write 1s to %dh", maxSpan/time.Hour))
	}
}

// refillsTooSlowly tells of a burst that takes longer than the limiter counts.
// It leaves the limiter's own rounding a margin of one part in a thousand.
func refillsTooSlowly(count int64, period time.Duration, burst int64) bool {
	return float64(burst)*float64(period)/float64(count) > float64(maxSpan)*0.999
}
