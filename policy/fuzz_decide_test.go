package policy_test

import (
	"encoding/binary"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
)

// randomProofs is the environment variable that asks for the stated counts instead of the reduced ones.
const randomProofs = "KELPIE_PROOF"

// TestDecideAgainstNaive asks the compiled snapshot and the naive evaluator the
// same calls of the same random policies, from a fixed seed.
func TestDecideAgainstNaive(t *testing.T) {
	t.Parallel()
	policies, calls := 200, 40
	if os.Getenv(randomProofs) == "full" {
		policies, calls = 20_000, 200
	}
	tally := &randomTally{}
	seeds := rand.New(rand.NewPCG(2, 26))
	for range policies {
		checkRandom(t, binary.LittleEndian.AppendUint64(nil, seeds.Uint64()), calls, tally)
	}
	t.Logf("%d policies (%d invalid), %d calls", tally.policies, tally.invalid, tally.calls)
	for _, what := range slices.Sorted(maps.Keys(tally.seen)) {
		t.Logf("%7d %s", tally.seen[what], what)
	}
	// A generator that no longer reaches an answer proves nothing of it.
	for _, what := range []string{
		"ok", "agent_unknown", "agent_suspended", "ip_not_allowed", "action_denied", "insufficient_scope", "no_matching_scope",
		"condition_failed", "parameters_unavailable", "approval_required", "shadow", "limit condition_failed", "limit parameters_unavailable",
		"rate", "window", "quota", "concurrency", "loop", "home",
	} {
		if tally.seen[what] < policies/100 {
			t.Errorf("%d random cases came to %q: too few of %d", tally.seen[what], what, tally.calls)
		}
	}
	if tally.invalid < policies/100 || tally.invalid > policies/2 {
		t.Errorf("%d of %d policies were invalid", tally.invalid, policies)
	}
}

// FuzzDecide makes a policy and calls from the fuzzer's bytes.
func FuzzDecide(f *testing.F) {
	for i := range 32 {
		f.Add(binary.LittleEndian.AppendUint64(nil, uint64(i)*0x9e3779b97f4a7c15))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		checkRandom(t, data, 24, &randomTally{})
	})
}
