package redislimiter_test

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/internal/testkit"
	"github.com/kelpie-authz/kelpie/limiter/redislimiter"
)

// idle is a limiter that nobody asks, with what it told.
func idle(t *testing.T, cfg redislimiter.Config) (*redislimiter.Limiter, *testkit.Buffer, *atomic.Int64) {
	t.Helper()
	said, back := &testkit.Buffer{}, &atomic.Int64{}
	cfg.Options.Timeout = time.Second
	cfg.Tell = func(cause error) {
		if cause == nil {
			back.Add(1)
			return
		}
		_, _ = said.Write([]byte(cause.Error() + "\n"))
	}
	return started(t, cfg), said, back
}

// A replica without calls notices that Redis has gone, tells so, and notices that
// it is back.
func TestIdleReplicaNoticesRedisGone(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	l, said, back := idle(t, at(r.URL()))
	r.Kill(t)
	killed := time.Now()
	testkit.Eventually(t, "an open breaker", func() bool { return l.Stats().Open == 1 })
	t.Logf("an idle replica noticed after %v", time.Since(killed))
	if !strings.Contains(said.String(), "refused") && !strings.Contains(said.String(), "EOF") && !strings.Contains(said.String(), "reset") {
		t.Errorf("it told %q", said.String())
	}
	r.Restart(t)
	testkit.Eventually(t, "a closed breaker", func() bool { return l.Stats().Open == 0 && back.Load() == 1 })
	take(t, l, units(slow(5), "k", 1))
	if s := l.Stats(); s.Opened != 1 {
		t.Errorf("the breaker opened %d times", s.Opened)
	}
}

// The same where Redis stands still.
func TestIdleReplicaNoticesRedisStill(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	l, said, back := idle(t, at(r.URL()))
	r.Pause(t)
	testkit.Eventually(t, "an open breaker", func() bool { return l.Stats().Open == 1 })
	if !strings.Contains(said.String(), "timeout") && !strings.Contains(said.String(), "deadline") {
		t.Errorf("it told %q", said.String())
	}
	r.Resume(t)
	testkit.Eventually(t, "a closed breaker", func() bool { return l.Stats().Open == 0 && back.Load() == 1 })
}

// With sentinels it notices that the primary has gone, and goes on with the one
// that follows.
func TestIdleReplicaNoticesFailover(t *testing.T) {
	t.Parallel()
	s := testkit.StartRedisSentinel(t)
	l, _, back := idle(t, at(s.URL()))
	s.Primary.Kill(t)
	testkit.Eventually(t, "an open breaker", func() bool { return l.Stats().Opened > 0 })
	s.AwaitFailover(t)
	testkit.Eventually(t, "a closed breaker", func() bool { return l.Stats().Open == 0 && back.Load() > 0 })
	take(t, l, units(slow(5), "k", 1))
}

// In a cluster it notices the node that the heartbeats go to.
func TestIdleReplicaNoticesNodeGone(t *testing.T) {
	t.Parallel()
	c := testkit.StartRedisCluster(t)
	cfg := at(c.URL())
	l, _, back := idle(t, cfg)
	node := c.Nodes[c.Owner(t, c.Slot(t, redislimiter.HomeKey(cfg.Prefix+":replicas", []byte("all"), 0, 0)))]
	node.Kill(t)
	testkit.Eventually(t, "an open breaker", func() bool { return l.Stats().Open == 1 })
	node.Restart(t)
	c.AwaitOK(t)
	testkit.Eventually(t, "a closed breaker", func() bool { return l.Stats().Open == 0 && back.Load() > 0 })
}

// A password that no longer holds harms no connection that stands; then it is an
// outage, until the right one is read.
func TestPasswordGoesWrong(t *testing.T) {
	t.Parallel()
	r := testkit.StartRedis(t, testkit.RedisConfig{Password: "first"})
	var password atomic.Value
	password.Store("first")
	cfg := at(r.URL())
	cfg.NoDenyCache = true
	cfg.Options.Password = func() (string, error) { text, _ := password.Load().(string); return text, nil }
	l, said, back := idle(t, cfg)
	charge := units(slow(1000), "k", 1)
	take(t, l, charge)
	admin := r.Client(t)
	do := func(args ...any) {
		t.Helper()
		if err := admin.Do(t.Context(), args...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	do("config", "set", "requirepass", "second")
	// Nobody can connect any more, so it is by a connection that stands. One may be
	// busy with something else just now.
	testkit.Eventually(t, "an answer by a connection that stands", func() bool {
		_, judged := answers(t, l, charge)
		return judged
	})
	do("client", "kill", "type", "normal", "skipme", "yes")
	testkit.Eventually(t, "an open breaker", func() bool {
		_, judged := answers(t, l, charge)
		return !judged && l.Stats().Open == 1
	})
	if !strings.Contains(said.String(), "WRONGPASS") && !strings.Contains(said.String(), "EOF") {
		t.Errorf("it told %q", said.String())
	}
	password.Store("second")
	testkit.Eventually(t, "a closed breaker", func() bool { return l.Stats().Open == 0 && back.Load() == 1 })
	take(t, l, charge)
}
