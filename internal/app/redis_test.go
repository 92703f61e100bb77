package app_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
	"github.com/kelpie-authz/kelpie/internal/config"
	"github.com/kelpie-authz/kelpie/internal/testkit"
)

// sharedPolicy has a limit of each on_unavailable, ten an hour for each agent.
const sharedPolicy = `
scopes:
  docs: {actions: [read], resources: ["**"]}
agents:
  reader: {owner: o@example.com, scopes: [docs], networks: [any]}
limits:
  hard: {rate: 10/hour, burst: 10, per: [agent], match: {resources: ["hard/**"]}}
  open: {rate: 10/hour, burst: 10, per: [agent], match: {resources: ["open/**"]}, on_unavailable: allow}
  shared: {rate: 10/hour, burst: 10, per: [agent], match: {resources: ["shared/**"]}, on_unavailable: local_share}
`

// replicas are Apps on one Redis that know of each other.
type replicas []*running

func startReplicas(t *testing.T, r *testkit.Redis, n int) replicas {
	t.Helper()
	var all replicas
	for range n {
		all = append(all, start(t, func(c *config.Config) {
			c.Policy, c.Redis.URL = policyDir(t, sharedPolicy), r.URL()
			c.Redis.Timeout = time.Second // so that a busy machine is no outage
		}))
	}
	// Each has the count from its own heartbeat, so all must have been heard of
	// twice since all were there.
	beats := func() map[any]any {
		scores := map[any]any{}
		keys, _ := r.Do(t, "keys", "*replicas*").([]any)
		for _, key := range keys {
			members, _ := r.Do(t, "zrange", key, 0, -1, "withscores").([]any)
			for i := 0; i+1 < len(members); i += 2 {
				scores[members[i]] = members[i+1]
			}
		}
		return scores
	}
	for range 2 {
		before := beats()
		testkit.Eventually(t, "heartbeats of all replicas", func() bool {
			now := beats()
			for id, score := range now {
				if before[id] == score {
					return false
				}
			}
			return len(now) == n
		})
	}
	return all
}

// ask asks one replica n times and counts the reasons.
func (all replicas) ask(t *testing.T, i, n int, resource string) map[authzv1.Reason]int {
	t.Helper()
	client := all[i].client(t)
	got := map[authzv1.Reason]int{}
	for range n {
		out, err := client.Authorize(t.Context(), &authzv1.AuthorizeRequest{Agent: "reader", Action: "read", Resource: resource})
		if err != nil {
			t.Fatal(err)
		}
		got[out.GetReason()]++
	}
	return got
}

const (
	reasonOK      = authzv1.Reason_REASON_OK
	reasonLimited = authzv1.Reason_REASON_RATE_LIMITED
	reasonGone    = authzv1.Reason_REASON_DEPENDENCY_UNAVAILABLE
)

// While Redis is gone each limit does what its on_unavailable says, the replicas
// stay ready and say what is lost; when it is back they go on, with what had been
// charged before.
func TestRedisGone(t *testing.T) {
	t.Parallel()
	r := testkit.StartRedis(t, testkit.RedisConfig{})
	all := startReplicas(t, r, 2)
	for _, resource := range []string{"hard/1", "open/1", "shared/1"} {
		for i := range all {
			if got := all.ask(t, i, 2, resource); got[reasonOK] != 2 {
				t.Fatalf("%s with Redis: %v", resource, got)
			}
		}
	}
	r.Kill(t)
	for i, replica := range all {
		if got := all.ask(t, i, 20, "hard/1"); got[reasonGone] != 20 {
			t.Errorf("replica %d, deny: %v; want 20 dependency_unavailable", i, got)
		}
		if got := all.ask(t, i, 20, "open/1"); got[reasonOK] != 10 || got[reasonLimited] != 10 {
			t.Errorf("replica %d, allow: %v; want its whole limit, 10", i, got)
		}
		if got := all.ask(t, i, 20, "shared/1"); got[reasonOK] != 5 || got[reasonLimited] != 15 {
			t.Errorf("replica %d, local_share: %v; want half of its limit, 5", i, got)
		}
		replica.awaitBreaker(t, true)
		if code, body := replica.get(t, "/readyz"); code != http.StatusOK || !strings.Contains(body, "Redis does not answer") {
			t.Errorf("replica %d: /readyz says %d %q; want 200 and what is lost", i, code, body)
		}
	}
	r.Restart(t)
	back := time.Now()
	for i, replica := range all {
		replica.awaitBreaker(t, false)
		if code, body := replica.get(t, "/readyz"); code != http.StatusOK || strings.Contains(body, "Redis") {
			t.Errorf("replica %d: /readyz says %d %q with Redis back", i, code, body)
		}
	}
	t.Logf("both replicas asked Redis again %v after it was back", time.Since(back))
	// Redis came back empty. The first had seen two and two of ten for each limit
	// charged at most, so the other one's two may be given again.
	got := all.ask(t, 0, 20, "hard/1")[reasonOK] + all.ask(t, 1, 20, "hard/1")[reasonOK]
	t.Logf("of a limit of 10, of which 4 were charged when Redis lost everything, %d were admitted afterwards", got)
	if got < 6 || got > 8 {
		t.Errorf("%d admitted afterwards, want 6 and at most the 2 that only the other replica knew of", got)
	}
	for _, replica := range all {
		if err := replica.end(t); err != nil {
			t.Error(err)
		}
	}
}

// awaitBreaker waits until the metric says that the breaker is open or closed.
func (r *running) awaitBreaker(t *testing.T, open bool) {
	t.Helper()
	want := "kelpie_redis_breaker_open 0"
	if open {
		want = "kelpie_redis_breaker_open 1"
	}
	testkit.Eventually(t, want, func() bool {
		_, body := r.get(t, "/metrics")
		return strings.Contains(body, want)
	})
}

// crowd asks for one resource by many callers at once, n times in all, and
// counts those that were allowed.
func crowd(ctx context.Context, clients []authzv1.AuthorizationServiceClient, n int, resource string) (allowed int64, err error) {
	var wg sync.WaitGroup
	var count atomic.Int64
	var failed atomic.Pointer[error]
	begin := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-begin
			out, err := clients[i%len(clients)].Authorize(ctx, &authzv1.AuthorizeRequest{Agent: "reader", Action: "read", Resource: resource, RequestId: fmt.Sprint(i)})
			if err != nil {
				failed.Store(&err)
			} else if out.GetDecision() == authzv1.Decision_DECISION_ALLOW {
				count.Add(1)
			}
		})
	}
	close(begin)
	wg.Wait()
	if p := failed.Load(); p != nil {
		err = *p
	}
	return count.Load(), err
}
