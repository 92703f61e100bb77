package pdp

import (
	"math/rand/v2"
	"testing"

	"github.com/kelpie-authz/kelpie/policy"
	"github.com/kelpie-authz/kelpie/store"
)

func TestHumanKey(t *testing.T) {
	t.Parallel()
	same := [][]string{
		{
			"alice@example.com", "ALICE@EXAMPLE.COM", "alice+bot@example.com", " alice@example.com", "a\u200blice@example.com", "аlice@example.com", "al1ce@example.com", "ａlice@example.com", "alice@example.com.",
			"mailto:alice@example.com", "MAILTO:Alice@example.com", "mailto:<alice@example.com>", "Alice Doe <alice@example.com>", "mailto:mailto:alice@example.com", "alice@example.com (Alice)", "mailto:alice@example.com?subject=x", "<alice@example.com>", `"alice"@example.com`, "alice%40example.com", "acct:alice@example.com", "alice@example。com", "ɑlice@example.com",
		},
		{"jürgen", "ju\u0308rgen", "JÜRGEN", "Ju\u0308rgen", "jurgen"},
		{"ΟΛΓΑ", "ολγα"},
		{"ОЛЬГА", "ольга"},
		{"spiffe://corp/human/bob", "SPIFFE://corp/human/bob"},
	}
	seen := map[string]int{}
	for i, names := range same {
		for _, name := range names {
			key := humanKey(name)
			if j, known := seen[key]; known && j != i {
				t.Errorf("%q is taken for one of %q", name, same[j])
			}
			if key != humanKey(names[0]) {
				t.Errorf("%q is not taken for %q: %q and %q", name, names[0], key, humanKey(names[0]))
			}
			seen[key] = i
		}
	}
	for _, other := range []string{"bob@example.com", "alice@example.org", "malice@example.com", "alice", "ali@example.com", "user1@example.com", "user2@example.com"} {
		if j, known := seen[humanKey(other)]; known {
			t.Errorf("%q is taken for one of %q", other, same[j])
		}
		seen[humanKey(other)] = -1
	}
	if len(seen) != len(same)+7 {
		t.Errorf("%d keys, want %d", len(seen), len(same)+7)
	}
}

// Whoever can be seated is: count is compared with trying every way.
func TestEveryYesThatCanCountDoes(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	names := []string{"ann", "bob", "cid", "dan", "eve"}
	for range 3000 {
		a := &store.Approval{Agent: "agent"}
		var needs []policy.Requirement
		for r := range 1 + rng.IntN(3) {
			need := policy.Requirement{Rule: string(rune('a' + r)), Version: "v", Quorum: 1 + rng.IntN(2)}
			for _, name := range names {
				if rng.IntN(2) == 0 {
					need.Approvers = append(need.Approvers, name)
				}
			}
			needs = append(needs, need)
			a.Requirements = append(a.Requirements, store.Requirement{Rule: need.Rule, Version: "v", Quorum: need.Quorum})
		}
		var votes []store.Vote
		for _, i := range rng.Perm(len(names)) {
			if rng.IntN(4) > 0 {
				votes = append(votes, store.Vote{ID: names[i], Voter: names[i], How: KnownByOIDC, Yes: true})
			}
		}
		counted, met := electorateOf(a, needs, false).count(votes)
		most, needed := mostSeated(needs, votes, map[int]int{}), 0
		for i := range needs {
			needed += needs[i].Quorum
		}
		if len(counted) != most || met != (most == needed) {
			t.Fatalf("%d counted, met %t; %d could, of %d needed\n%+v\n%+v", len(counted), met, most, needed, needs, votes)
		}
		perRule := map[string]int{}
		for _, v := range counted {
			perRule[v.Rule]++
		}
		for i := range needs {
			if perRule[needs[i].Rule] > needs[i].Quorum {
				t.Fatalf("%s has %d, and needs %d", needs[i].Rule, perRule[needs[i].Rule], needs[i].Quorum)
			}
		}
	}
}

// mostSeated tries every way to seat the voters.
func mostSeated(needs []policy.Requirement, votes []store.Vote, taken map[int]int) int {
	if len(votes) == 0 {
		return 0
	}
	best := mostSeated(needs, votes[1:], taken)
	for i := range needs {
		for _, name := range needs[i].Approvers {
			if name == votes[0].Voter && taken[i] < needs[i].Quorum {
				taken[i]++
				best = max(best, 1+mostSeated(needs, votes[1:], taken))
				taken[i]--
			}
		}
	}
	return best
}

// However the votes came to be stored, one human counts once.
func TestOneHumanCountsOnce(t *testing.T) {
	t.Parallel()
	a := &store.Approval{Agent: "agent", Requirements: []store.Requirement{{Rule: "r", Version: "v", Quorum: 2}}}
	needs := []policy.Requirement{{Rule: "r", Version: "v", Quorum: 2, Approvers: []string{"ann", "Ann", "bob"}}}
	yes := func(how string, names ...string) (votes []store.Vote) {
		for _, name := range names {
			votes = append(votes, store.Vote{Voter: name, How: how, Yes: true})
		}
		return votes
	}
	for name, tc := range map[string]struct {
		votes []store.Vote
		met   bool
	}{
		"twice":              {yes(KnownByOIDC, "ann", "ann"), false},
		"by another name":    {yes(KnownByOIDC, "ann", "Ann"), false},
		"by another way":     {append(yes(KnownByOIDC, "ann"), yes(KnownByMTLS, "ann")...), false},
		"two local admins":   {yes(LocalAdmin, "ann", "bob"), false},
		"not known how":      {yes("", "ann", "bob"), false},
		"two":                {yes(KnownByOIDC, "ann", "bob"), true},
		"with a local admin": {append(yes(KnownByOIDC, "ann"), yes(LocalAdmin, "bob")...), true},
	} {
		if _, met := electorateOf(a, needs, false).count(tc.votes); met != tc.met {
			t.Errorf("%s: met %t", name, met)
		}
	}
}

func TestApprovalIDs(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 1000 {
		id := newApprovalID()
		if !isApprovalID(id) || len(id) != 36 || seen[id] {
			t.Fatalf("id %q", id)
		}
		seen[id] = true
	}
	for _, id := range []string{"", "apr_", "apr_0000000000000000000000000000000", "apr_000000000000000000000000000000000", "apr_0000000000000000000000000000000G", "APR_00000000000000000000000000000000", " apr_00000000000000000000000000000000", "apr_0000000000000000\n000000000000000"} {
		if isApprovalID(id) {
			t.Errorf("%q passes for an id", id)
		}
	}
}
