package policytest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/policy"
)

func expected(e *policy.TestExpect) Answer {
	return Answer{
		Decision: e.Decision, Reason: string(e.Reason), Matched: e.Matched, RequiredScopes: e.RequiredScopes,
		Route: e.Route, Action: e.Action, Resource: e.Resource,
	}
}

func got(d *pdp.HTTPDecision) Answer {
	a := Answer{
		Reason: string(d.Reason), Matched: slices.Clone(d.Matched), RequiredScopes: slices.Clone(d.RequiredScopes),
		Route: d.Route, Action: d.Action, Resource: d.Resource,
	}
	switch d.Verdict {
	case pdp.Allow:
		a.Decision = "allow"
	case pdp.Deny:
		a.Decision = "deny"
	case pdp.RequireApproval:
		a.Decision = "require_approval"
	case pdp.VerdictNone:
	}
	return a
}

// compare says what is not as expected. Two answers without a decision never
// agree: the loader demands one of the three in every expectation.
func compare(want *policy.TestExpect, have *Answer) []string {
	var failures []string
	fail := func(format string, args ...any) { failures = append(failures, fmt.Sprintf(format, args...)) }
	if want.Decision != have.Decision {
		fail("decision: expected %s, came %s", want.Decision, orNothing(have.Decision))
	}
	if want.Reason != "" && string(want.Reason) != have.Reason {
		fail("reason: expected %s, came %s", want.Reason, orNothing(have.Reason))
	}
	for _, rule := range want.Matched {
		if !slices.Contains(have.Matched, rule) {
			fail("matched: expected %s among the rules, came %s", rule, orNothing(strings.Join(have.Matched, ", ")))
		}
	}
	for _, one := range [...]struct{ name, want, have string }{
		{"route", want.Route, have.Route}, {"action", want.Action, have.Action}, {"resource", want.Resource, have.Resource},
	} {
		if one.want != "" && one.want != one.have {
			fail("%s: expected %s, came %s", one.name, one.want, orNothing(one.have))
		}
	}
	if want.RequiredScopes != nil && !slices.Equal(sorted(want.RequiredScopes), sorted(have.RequiredScopes)) {
		fail("required_scopes: expected %s, came %s",
			orNothing(strings.Join(sorted(want.RequiredScopes), ", ")),
			orNothing(strings.Join(sorted(have.RequiredScopes), ", ")))
	}
	return failures
}

// impossible says why a test cannot hold whatever the policy says: what it
// sends would be refused, or what it expects does not exist.
func impossible(t *policy.Test) []string {
	var failures []string
	requests := []*policy.TestRequest{&t.Request}
	for i := range t.Before {
		requests = append(requests, &t.Before[i].Request)
	}
	for _, q := range requests {
		if len(q.ActorChain) > 0 {
			failures = append(failures, "request.actor_chain: this version does not enforce it and answers "+
				"UNIMPLEMENTED; leave it out")
		}
		if q.ToolDefinitionDigest != "" {
			failures = append(failures, "request.tool.definition_digest: this version does not enforce it and answers "+
				"UNIMPLEMENTED; leave it out")
		}
	}
	if t.Request.HTTP == nil && t.Expect.Route+t.Expect.Action+t.Expect.Resource != "" {
		failures = append(failures, "expect: route, action and resource are of HTTP requests; write request.http, or leave them out")
	}
	if t.Expect.Reason != "" && !slices.Contains(pdp.AllReasons(), t.Expect.Reason) {
		failures = append(failures, fmt.Sprintf("expect.reason: there is no reason %q", t.Expect.Reason))
	}
	return failures
}

func sorted(words []string) []string {
	out := slices.Clone(words)
	slices.Sort(out)
	return out
}

func orNothing(text string) string {
	if text == "" {
		return "none"
	}
	return text
}
