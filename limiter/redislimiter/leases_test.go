package redislimiter_test

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/internal/testkit"
	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/limiter/redislimiter"
)

// leasePlans are replicas of a limit that is leased by the given ones: one large
// enough that units are taken ahead, and demanded in bursts that empty it.
func leasePlans(t *testing.T, url string, replicas int, leases func(i int) bool) []plan {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed(t), uint64(replicas)))
	first := plan{
		URL: url, Prefix: at(url).Prefix, Key: "/rate", Callers: max(2, 16/replicas), For: proofTime(), NoDenyCache: true,
		Count: 1500 + rng.Int64N(1000), Burst: 200 + rng.Int64N(200), MostCost: limiter.Unit,
		Lease: 40*time.Millisecond + time.Duration(rng.Int64N(int64(20*time.Millisecond))),
	}
	// About two thirds of what the rate gives, and then much more.
	first.Pace = time.Second * time.Duration(replicas*first.Callers) * 3 / 2 / time.Duration(first.Count)
	all := make([]plan, replicas)
	for i := range all {
		all[i] = first
		all[i].Seed = seed(t)<<8 + uint64(i)
		all[i].NoLeases = !leases(i)
	}
	return all
}

// leased checks that units were taken ahead and spent, or not.
func leased(t *testing.T, all []plan, outcomes []seen) {
	t.Helper()
	var paid, ahead, stranded int64
	want := false
	for i, o := range outcomes {
		paid, ahead, stranded = paid+o.Leased, ahead+o.Ahead, stranded+o.Stranded
		want = want || !all[i].NoLeases
	}
	t.Logf("%d calls paid from %d units taken ahead, of which %d were not spent in time", paid, ahead, stranded)
	if (paid > 0) != want {
		t.Errorf("%d calls were paid from units taken ahead, want some: %v", paid, want)
	}
}

// TestLeasedReplicas: units that are taken ahead do not let more pass, in any
// window, whoever takes them.
func TestLeasedReplicas(t *testing.T) { //nolint:tparallel // One load at a time.
	t.Parallel()
	url := startRedis(t).URL()
	for name, leases := range map[string]func(int) bool{
		"on":    func(int) bool { return true },
		"off":   func(int) bool { return false },
		"mixed": func(i int) bool { return i%2 == 0 },
	} {
		for _, replicas := range []int{1, 4, 16} {
			t.Run(fmt.Sprintf("%s/%d", name, replicas), func(t *testing.T) {
				all := leasePlans(t, url, replicas, leases)
				outcomes, _ := together(t, all)
				bound{count: all[0].Count, burst: all[0].Burst, most: all[0].MostCost, thin: true}.check(t,
					fmt.Sprintf("leases %s, %d replicas, %d/s, burst %d, for %v, cost up to %d", name, replicas, all[0].Count, all[0].Burst, all[0].Lease, all[0].MostCost/limiter.Unit), outcomes)
				leased(t, all, outcomes)
			})
		}
	}
}

// TestLeasedPolicies: a policy that leases and one that does not, over one bucket.
func TestLeasedPolicies(t *testing.T) {
	t.Parallel()
	all := leasePlans(t, startRedis(t).URL(), 4, func(int) bool { return true })
	all[1].Lease, all[3].Lease = 0, 0
	outcomes, _ := together(t, all)
	bound{count: all[0].Count, burst: all[0].Burst, thin: true}.check(t, "leased by two of four policies", outcomes)
	leased(t, all, outcomes)
}

// TestLeasedProcesses: replicas in processes of their own, which are stopped
// again and again for longer than their leases live, and then one is killed. No
// unit is spent after its time.
func TestLeasedProcesses(t *testing.T) {
	t.Parallel()
	const replicas = 4
	all := leasePlans(t, startRedis(t).URL(), replicas, func(int) bool { return true })
	children := make([]*child, replicas)
	for i := range all {
		children[i] = startChild(t, &all[i])
	}
	start := time.Now()
	for _, c := range children {
		if _, err := io.WriteString(c.in, "go\n"); err != nil {
			t.Fatal(err)
		}
	}
	stops := 0
	for time.Since(start) < all[0].For*2/3 {
		c := children[stops%(replicas-1)]
		c.stop(t)
		lasts(3 * all[0].Lease)
		c.resume(t)
		lasts(all[0].Lease)
		stops++
	}
	children[replicas-1].kill(t)
	outcomes := make([]seen, replicas-1)
	for i := range outcomes {
		if err := json.NewDecoder(children[i].out).Decode(&outcomes[i]); err != nil {
			t.Fatal(err)
		}
	}
	bound{count: all[0].Count, burst: all[0].Burst, most: all[0].MostCost, thin: true}.check(t, fmt.Sprintf("%d processes, stopped %d times for %v, one killed", replicas, stops, 3*all[0].Lease), outcomes)
	leased(t, all, outcomes)
}

// TestLeasedQuotas: of a quota no more is admitted than there is, and all of that,
// since what a replica did not spend of what it took ahead goes back.
func TestLeasedQuotas(t *testing.T) {
	t.Parallel()
	url := startRedis(t).URL()
	limit := &limiter.Limit{Name: "month", Kind: limiter.KindQuota, Count: 2000, Calendar: limiter.CalendarMonth, Lease: 50 * time.Millisecond}
	o := newLoad(t)
	cfg := at(url)
	var all []*redislimiter.Limiter
	for range 3 {
		l := started(t, cfg)
		all = append(all, l)
		o.start(l, 4, 4*time.Millisecond, units(limit, "k", 1))
	}
	o.more(t, denied, 100)
	o.end()
	var paid, ahead int64
	for _, l := range all {
		paid, ahead = paid+l.Stats().Leased, ahead+l.Stats().LeasedUnits
	}
	// What others had ahead then goes back soon.
	testkit.Eventually(t, "all to be back or used", func() bool {
		return left(t, all[0], units(limit, "k", 1)) == limiter.Units(2000-o.count(admitted))*limiter.Unit
	})
	n := o.count(admitted)
	t.Logf("%d of 2000 admitted when they were denied, %d paid from %d units taken ahead", n, paid, ahead)
	for i := range 2000 - n {
		if !take(t, all[1], units(limit, "k", 1)).Admitted {
			t.Fatalf("%d admitted, want 2000", n+i)
		}
	}
	if take(t, all[1], units(limit, "k", 1)).Admitted {
		t.Error("more than 2000 admitted")
	}
	if paid < 500 {
		t.Errorf("%d calls paid from units taken ahead: that is no test", paid)
	}
}
