package policy_test

import (
	"slices"
	"strings"

	policyv1 "github.com/kelpie-authz/kelpie/gen/kelpie/policy/v1"
	"github.com/kelpie-authz/kelpie/policy"
)

var (
	naiveAdminWords   = strings.Fields("admin owner grant impersonate sudo")
	naiveDeleteWords  = strings.Fields("delete del destroy purge drop remove rm revoke wipe erase truncate terminate kill nuke flush uninstall unlink clear")
	naiveReadWords    = strings.Fields("get list read search find head watch describe query count")
	naiveNotReadWords = strings.Fields("create update upsert modify write set put post patch add insert edit replace send merge move store save apply reset lock ack run execute deploy pay transfer refund export import")
)

func naiveLower(b byte) bool  { return b >= 'a' && b <= 'z' }
func naiveUpper(b byte) bool  { return b >= 'A' && b <= 'Z' }
func naiveLetter(b byte) bool { return naiveLower(b) || naiveUpper(b) }

// naiveWords splits as the page says: at what is no letter, between a lower
// and an upper case letter, and before the last capital of a run that a
// lower-case letter follows.
func naiveWords(s string) []string {
	var words []string
	word := ""
	end := func() {
		if word != "" {
			words = append(words, strings.ToLower(word))
		}
		word = ""
	}
	for i := range len(s) {
		if !naiveLetter(s[i]) {
			end()
			continue
		}
		if i > 0 && naiveUpper(s[i]) {
			afterLower := naiveLower(s[i-1])
			lastOfRun := naiveUpper(s[i-1]) && i+1 < len(s) && naiveLower(s[i+1])
			if afterLower || lastOfRun {
				end()
			}
		}
		word += s[i : i+1]
	}
	end()
	return words
}

func naiveAny(words, list []string) bool {
	return slices.ContainsFunc(words, func(w string) bool { return slices.Contains(list, w) })
}

func naiveVerbClass(action string) policy.Risk {
	words := naiveWords(action)
	// ADR 6: a run of letters counts as one word too, whatever its capitals.
	words = append(words, strings.FieldsFunc(strings.ToLower(action), func(r rune) bool { return r < 'a' || r > 'z' })...)
	if naiveAny(words, naiveAdminWords) {
		return policy.RiskAdmin
	}
	if naiveAny(words, naiveDeleteWords) {
		return policy.RiskDelete
	}
	tokens := naiveTokens(action, naiveActionSeparators)
	last := naiveWords(tokens[len(tokens)-1].text)
	if len(last) > 0 && slices.Contains(naiveReadWords, last[0]) && !naiveAny(naiveWords(action), naiveNotReadWords) {
		return policy.RiskRead
	}
	return policy.RiskWrite
}

func naivePatternClass(pattern string) policy.Risk {
	if len(naiveWords(pattern)) == 0 {
		return policy.RiskAdmin
	}
	return naiveVerbClass(pattern)
}

func naiveRiskOf(text string) policy.Risk {
	return map[string]policy.Risk{
		"read": policy.RiskRead, "write": policy.RiskWrite, "delete": policy.RiskDelete, "admin": policy.RiskAdmin,
	}[text]
}

// naiveVerbRisk is the highest verb class of the scope's action patterns.
func naiveVerbRisk(scope *policyv1.Scope) policy.Risk {
	highest := policy.RiskNone
	for _, pattern := range scope.GetActions() {
		highest = max(highest, naivePatternClass(pattern))
	}
	return highest
}

func naiveScopeRisk(scope *policyv1.Scope) policy.Risk {
	if scope.GetRisk() != "" {
		return naiveRiskOf(scope.GetRisk())
	}
	return naiveVerbRisk(scope)
}
