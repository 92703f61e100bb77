package redislimiter_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/internal/testkit"
	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/limiter/redislimiter"
)

// ownHome is a charge of a bucket in a home of its own, in the slot of an agent.
func ownHome(l *limiter.Limit, agent, home string) limiter.Charge {
	key := agent + home + l.Name
	return limiter.Charge{Limit: l, Key: []byte(key), Slot: len(agent), Home: len(agent) + len(home), Cost: limiter.Unit}
}

// A slot moves from node to node and back while all its keys are charged, of two
// homes at once too.
func TestSlotMovesUnderLoad(t *testing.T) {
	t.Parallel()
	c := testkit.StartRedisCluster(t)
	cfg := at(c.URL())
	cfg.NoDenyCache = true
	limit := perSecond(300, 500)
	wide := perSecond(100_000, 100_000)
	o := newLoad(t)
	all := []limiter.Limiter{started(t, cfg), started(t, cfg)}
	for _, l := range all {
		// Two values of one slot, so that they can be apart while it moves.
		o.start(l, 8, 2*time.Millisecond, ownHome(limit, "agent", "a"), ownHome(wide, "agent", "b"))
		for i := range 4 {
			o.start(l, 1, 2*time.Millisecond, ownHome(wide, "agent", fmt.Sprint("other", i)))
		}
	}
	// Those of the others are counted by themselves.
	bounded := newLoad(t)
	for _, l := range all {
		bounded.start(l, 8, 2*time.Millisecond, ownHome(limit, "agent", "c"))
	}
	slot := c.Slot(t, redislimiter.HomeKey(cfg.Prefix, []byte("agent"), 5, 5))
	from := c.Owner(t, slot)
	// Other keys make a move take its time, in which those of a call can be apart.
	direct := c.Nodes[from].Client(t)
	for i := range 1000 {
		if err := direct.Set(t.Context(), redislimiter.HomeKey(cfg.Prefix, fmt.Appendf(nil, "agent/%d", i), 5, 0), "", 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	bounded.more(t, denied, 200)
	times := 4
	if full() {
		times = 20
	}
	for i := range times {
		to := (from + 1) % len(c.Nodes)
		c.MoveSlot(t, slot, from, to, func() { o.more(t, admitted, 20) })
		bounded.more(t, denied, 50)
		o.more(t, admitted, 20)
		if got := c.Owner(t, slot); got != to {
			t.Fatalf("move %d: the slot is at %d, want %d", i, got, to)
		}
		from = to
	}
	bounded.end()
	o.end()
	o.documented(t)
	bounded.documented(t)
	n, most := bounded.count(admitted), bounded.most(limit)
	failed := bounded.count(unavailable) + o.count(unavailable)
	answered := len(o.answers) + len(bounded.answers)
	said := map[string]int{}
	for _, node := range c.Nodes {
		for _, reply := range []string{"MOVED", "ASK", "TRYAGAIN"} {
			count, _ := strconv.Atoi(strings.TrimPrefix(node.Info(t, "errorstat_"+reply), "count="))
			said[reply] += count
		}
	}
	t.Logf("a slot moved %d times under load: %d answers, %d of them unavailable, behind %v; %d admitted by the limit that was used up, at most %d by its burst and rate", times, answered, failed, said, n, most)
	if said["MOVED"] == 0 || said["ASK"] == 0 {
		t.Errorf("the load did not see the moves: the nodes said %v", said)
	}
	if n > most {
		t.Errorf("%d admitted, want at most %d", n, most)
	}
	if failed > answered/4 {
		t.Errorf("%d of %d calls failed", failed, answered)
	}
}

// One master stands still: those whose buckets are elsewhere do not notice.
//
//nolint:paralleltest // It is about time: nothing else may run beside it.
func TestOneMasterStandsStill(t *testing.T) {
	c := testkit.StartRedisClusterOf(t, testkit.RedisConfig{Args: []string{"--cluster-require-full-coverage", "no"}})
	cfg := at(c.URL())
	const timeout = 500 * time.Millisecond
	cfg.Options.Timeout = timeout // so that a busy machine is no outage
	l := started(t, cfg)
	limit := perSecond(100_000, 100_000)
	late := hiccups(t)
	perNode := make([]*load, len(c.Nodes))
	for i := range perNode {
		perNode[i] = newLoad(t)
	}
	const callers = 8
	asking := make([]int, len(c.Nodes))
	for k := 0; asking[0] < callers || asking[1] < callers || asking[2] < callers; k++ {
		key := fmt.Sprint("k", k)
		node := c.Owner(t, c.Slot(t, redislimiter.HomeKey(cfg.Prefix, []byte(key), 0, 0)))
		if asking[node] < callers {
			asking[node]++
			perNode[node].start(l, 1, 2*time.Millisecond, units(limit, key, 1))
		}
	}
	for _, o := range perNode {
		o.more(t, admitted, 500)
	}
	span := 1500 * time.Millisecond
	if full() {
		span = 10 * time.Second
	}
	began := time.Now()
	lasts(span)
	const still = 2
	c.Nodes[still].Pause(t)
	paused := time.Now()
	lasts(span)
	resumed := time.Now()
	c.Nodes[still].Resume(t)
	perNode[still].more(t, admitted, 100)
	back, _ := perNode[still].first(admitted, resumed)
	for i, o := range perNode {
		o.end()
		o.documented(t)
		before, _ := o.times(began, paused, admitted)
		during, ok := o.times(paused, resumed, admitted)
		t.Logf("node %d: %d answers in %v before, %d while node %d stood still, %d of them admitted; p50 %v and %v, p99 %v and %v, the longest %v and %v",
			i, len(before), span, len(during), still, ok, quantile(before, 0.5), quantile(during, 0.5), quantile(before, 0.99), quantile(during, 0.99), quantile(before, 1), quantile(during, 1))
		if i == still {
			continue
		}
		if (ok != len(during) && late() < timeout) || len(during) < len(before)/2 {
			t.Errorf("node %d: %d of %d answers admitted, after %d before", i, ok, len(during), len(before))
		}
		if worst := quantile(during, 1); worst > timeout/2+late() {
			t.Errorf("node %d: somebody waited %v for another node", i, worst)
		}
	}
	t.Logf("the node was used again %v after it went on", back)
	if back > time.Second+late() {
		t.Errorf("the node was used again after %v, want at most 1s and %v that the machine was late", back, late())
	}
}
