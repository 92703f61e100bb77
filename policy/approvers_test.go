package policy_test

import (
	"slices"
	"testing"
)

func TestRequirementOfARule(t *testing.T) {
	t.Parallel()
	snap := compile(t, versionBase)
	var asked int
	for _, id := range snap.RuleIDs() {
		if r, ok := snap.Requirement(id); ok {
			asked++
			if r.Rule != id || r.Version == "" || r.Quorum < 1 || len(r.Approvers) == 0 {
				t.Errorf("%s: %+v", id, r)
			}
		}
	}
	if asked != snap.Counts().Approvals {
		t.Errorf("found %d rules, want %d", asked, snap.Counts().Approvals)
	}
	all, ok := snap.Requirement("builtin/destructive")
	if !ok || !slices.Contains(all.Approvers, "s@example.com") {
		t.Errorf("builtin/destructive: %v %+v", ok, all)
	}
	for _, id := range []string{"", "approvals/", "approvals/nothing", "deny/x", "zzz"} {
		if r, ok := snap.Requirement(id); ok {
			t.Errorf("%q: %+v, want none", id, r)
		}
	}
}

func TestOwnerOfAnAgent(t *testing.T) {
	t.Parallel()
	snap := compile(t, `
networks: {office: {cidrs: [10.0.0.0/8]}}
agents:
  one: {owner: team@example.com, networks: [office]}
  "many/*": {owner: others@example.com, networks: [office]}
`)
	for agent, want := range map[string]string{"one": "team@example.com", "many/7": "others@example.com", "ghost": ""} {
		if got := snap.Owner(agent); got != want {
			t.Errorf("owner of %s is %q, want %q", agent, got, want)
		}
	}
}
