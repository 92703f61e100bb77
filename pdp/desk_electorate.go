package pdp

import (
	"fmt"
	"slices"

	"github.com/kelpie-authz/kelpie/policy"
	"github.com/kelpie-authz/kelpie/store"
)

// electorate says who may decide one approval, and what their words come to.
type electorate struct {
	// needs are the requirements of the approval as the policy in force has them.
	needs []policy.Requirement
	// complete says that each requirement of the approval is among them.
	complete bool
	// barred are those who may not, by humanKey, and what they are to the call.
	barred map[string]string
	// verified says that the local admin decides nothing.
	verified bool
	// risk is the approval's.
	risk string
	// unreadable says that it is not known who is barred: nobody decides.
	unreadable bool
	// hidden says that a card in a chat cannot have had all of it.
	hidden bool
}

// electorateOf finds who may decide, by the requirements in force.
func electorateOf(a *store.Approval, inForce []policy.Requirement, verified bool) *electorate {
	e := &electorate{complete: len(a.Requirements) > 0, barred: map[string]string{}, verified: verified, risk: a.Risk}
	for i := range a.Requirements {
		asked := &a.Requirements[i]
		at := slices.IndexFunc(inForce, func(r policy.Requirement) bool {
			return r.Rule == asked.Rule && r.Version == asked.Version
		})
		if at < 0 {
			e.complete = false
			continue
		}
		need := inForce[at]
		need.Quorum = max(need.Quorum, asked.Quorum, 1)
		e.needs = append(e.needs, need)
	}
	what, err := readShown(a)
	e.unreadable, e.hidden = err != nil, !what.Whole || what.Masked
	for _, actor := range what.Actors {
		e.barred[humanKey(actor)] = "is one of the agents that the call came through"
	}
	if a.Subject != "" {
		e.barred[humanKey(a.Subject)] = "is who the agent acts for"
	}
	e.barred[humanKey(a.Agent)] = "is the agent itself"
	return e
}

// electorate of an approval that was brought to where it stands: its rules are
// those of the policy in force.
func (v *view) electorate(a *store.Approval) *electorate {
	var inForce []policy.Requirement
	for i := range a.Requirements {
		if r, ok := v.snap.Requirement(a.Requirements[i].Rule); ok {
			inForce = append(inForce, r)
		}
	}
	return electorateOf(a, inForce, v.verified)
}

// voterKey is equal for two words of one human. All local admins are one.
func voterKey(how, name string) string {
	if how == LocalAdmin {
		return LocalAdmin
	}
	return "human " + humanKey(name)
}

// refusal says why somebody may not decide; "" if he may.
func (e *electorate) refusal(p Person) string {
	if e.unreadable {
		return "what was asked cannot be read, so nobody can judge it; cancel it"
	}
	switch p.How {
	case LocalAdmin:
		if e.verified {
			return "the local admin decides nothing while approvers are known by a certificate, an identity provider or Slack; decide as one of them"
		}
	case KnownByMTLS, KnownByOIDC:
	case KnownBySlack:
		if e.risk != policy.RiskRead.String() && e.risk != policy.RiskWrite.String() {
			return fmt.Sprintf("a call of risk %s is not decided over Slack; decide it with kelpie approvals, known by a certificate or an identity provider", e.risk)
		}
		if e.hidden {
			return "a card does not have all of it; decide it with kelpie approvals, known by a certificate or an identity provider"
		}
	default:
		return fmt.Sprintf("it is not known how %s was authenticated", p.Name)
	}
	if what, barred := e.barred[humanKey(p.Name)]; barred {
		return fmt.Sprintf("%s %s, and nobody decides his own call", p.Name, what)
	}
	if !slices.Contains(e.may(p), true) {
		return fmt.Sprintf("%s is in none of the groups that may decide it", p.Name)
	}
	return ""
}

// may tells for each need whether somebody is among those who may meet it.
func (e *electorate) may(p Person) []bool {
	out := make([]bool, len(e.needs))
	for i := range e.needs {
		out[i] = policy.AmongApprovers(e.needs[i].Approvers, p.Name, p.Groups)
	}
	return out
}

// counting are the groups of somebody that any of the needs knows.
func (e *electorate) counting(groups []string) (out []string) {
	for _, group := range groups {
		if slices.ContainsFunc(e.needs, func(r policy.Requirement) bool { return slices.Contains(r.Approvers, policy.GroupMember+group) }) {
			out = append(out, group)
		}
	}
	return out
}

// count gives each yes that counts the rule that it counts for, and tells
// whether all that is needed is there. It returns the votes that count or are a
// no; the others are left out.
func (e *electorate) count(votes []store.Vote) (counted []store.Vote, met bool) {
	s := seating{room: make([]int, len(e.needs)), in: make([][]int, len(e.needs))}
	needed := 0
	for i := range e.needs {
		s.room[i] = e.needs[i].Quorum
		needed += e.needs[i].Quorum
	}
	seen := map[string]bool{}
	seated := 0
	for _, vote := range votes {
		if !vote.Yes {
			counted = append(counted, vote)
			s.may = append(s.may, nil)
			continue
		}
		p := Person{Name: vote.Voter, How: vote.How, Groups: vote.Groups}
		key := voterKey(p.How, p.Name)
		if seen[key] || e.refusal(p) != "" {
			continue
		}
		s.may = append(s.may, e.may(p))
		if !s.place(len(counted), make([]bool, len(e.needs))) {
			s.may = s.may[:len(counted)]
			continue
		}
		seen[key] = true
		seated++
		counted = append(counted, vote)
	}
	for i, who := range s.in {
		for _, n := range who {
			counted[n].Rule = e.needs[i].Rule
		}
	}
	return counted, e.complete && seated == needed
}

// seating finds each human one requirement, moving those who could also meet
// another (augmenting paths), so that nobody's yes is lost by the order in which
// they came.
type seating struct {
	may  [][]bool
	room []int
	in   [][]int
}

func (s *seating) place(who int, tried []bool) bool {
	for i := range s.room {
		if tried[i] || !s.may[who][i] {
			continue
		}
		tried[i] = true
		if len(s.in[i]) < s.room[i] {
			s.in[i] = append(s.in[i], who)
			return true
		}
		for n, other := range s.in[i] {
			if s.place(other, tried) {
				s.in[i][n] = who
				return true
			}
		}
	}
	return false
}
