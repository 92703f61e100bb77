package policy

// parseRisk reads a risk as policies write it; RiskNone for anything else.
func parseRisk(s string) Risk {
	switch s {
	case "read":
		return RiskRead
	case "write":
		return RiskWrite
	case "delete":
		return RiskDelete
	case "admin":
		return RiskAdmin
	default:
		return RiskNone
	}
}

// riskSet is a set of risks. The zero value is no set at all and holds always.
type riskSet uint8

func newRiskSet(names []string) riskSet {
	var set riskSet
	for _, name := range names {
		set |= 1 << parseRisk(name)
	}
	return set
}

func (s riskSet) has(r Risk) bool { return s&(1<<r) != 0 }

// match tells whether a match with this set of risks holds for a call, by the
// call's risk or by the verb class of its action alone.
func (s riskSet) match(call, verb Risk) bool { return s == 0 || s.has(call) || s.has(verb) }

// scopeRisk is what a scope counts for in the risk of a call.
type scopeRisk struct {
	risk Risk
	// reasoned says that the scope's risk_reason sets its risk against the
	// verbs, so that those of a call's action count for nothing.
	reasoned bool
}

// of is the risk of a call with this verb class as the scope's grant sees it.
func (s scopeRisk) of(verb Risk) Risk {
	if s.reasoned {
		return s.risk
	}
	return max(s.risk, verb)
}
