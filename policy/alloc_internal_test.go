package policy

import "testing"

// TestDecideAllocates holds a decision to two allocations, and a look-up of
// limits to none. It counts for the whole process, so nothing runs beside it.
func TestDecideAllocates(t *testing.T) { //nolint:paralleltest // it counts allocations
	for _, bench := range benchPolicies {
		if bench.name == "conditions" {
			continue // what CEL allocates is CEL's
		}
		t.Run(bench.name, func(t *testing.T) {
			p := bench.build()
			s := mustCompile(t, p)
			c, v, set := benchCall(), &Verdict{}, &LimitSet{}
			if bench.call != nil {
				bench.call(c)
			}
			s.Decide(c, v)
			if v.Outcome != OutcomeAllow {
				t.Fatalf("the call is not allowed but %s", v.Reason)
			}
			if n := testing.AllocsPerRun(200, func() { s.Decide(c, v) }); n > 2 {
				t.Errorf("a decision allocates %v times", n)
			}
			s.Limits(c, v, set)
			if n := testing.AllocsPerRun(200, func() { s.Limits(c, v, set) }); n > 0 {
				t.Errorf("a look-up of limits allocates %v times", n)
			}
		})
	}
}
