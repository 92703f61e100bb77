// Package policy turns the documents of a policy into an immutable [Snapshot],
// and says of a call what the snapshot allows: ALLOW, DENY, or that humans
// must say yes first. docs/language.md is its contract.
//
//	snapshot, err := policy.Compile([]policy.Document{{Name: "policy.yaml", Data: data}})
//	if err != nil {
//		return fmt.Errorf("load the policy: %w", err) // an Errors: every fault, with its place
//	}
//	var verdict policy.Verdict
//	snapshot.Decide(&policy.Call{
//		Agent: "lead-router", Action: "read", Resource: "salesforce/leads/42",
//		SourceIP: netip.MustParseAddr("10.8.0.5"), Now: now,
//	}, &verdict)
//	if verdict.Outcome == policy.OutcomeAllow {
//		var limits policy.LimitSet
//		snapshot.Limits(call, &verdict, &limits) // what a limiter has to charge
//	}
//
// It is pure: it opens no connection and no file, reads no clock and draws no
// random number, so that the same documents and the same call always give the
// same answer. The one thing it takes from outside is the time-zone database.
// It does not check credentials, count calls, or keep approvals; package pdp
// puts it together with what does.
//
// # How a call is looked up
//
// Nothing that is done for a call grows with the number of agents, grants or
// rules that have nothing to do with it. An agent's id is a map key, or walks
// a trie of the pattern keys. The call's resource walks a trie of all scopes'
// resource patterns, and at each pattern that matches stands an index of the
// actions of its scopes. What the agent holds is a sorted list of scope
// numbers, searched for the few that cover the call; roles are shared by their
// holders. A rule is filed in one of three tries, under the field of its match
// that the fewest rules have in common, and then compared as a whole. All
// networks are in one routing table, whose entries name every network around
// them.
package policy
