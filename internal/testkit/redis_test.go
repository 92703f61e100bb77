package testkit_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/kelpie-authz/kelpie/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRedisRestart(t *testing.T) {
	t.Parallel()
	r := testkit.StartRedis(t, testkit.RedisConfig{Args: []string{"--appendonly", "yes", "--appendfsync", "always"}})
	client := r.Client(t)
	if err := client.Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	r.Kill(t)
	if r.Running() {
		t.Error("it runs after Kill")
	}
	r.Restart(t)
	if got, err := client.Get(t.Context(), "k").Result(); got != "v" || err != nil {
		t.Errorf("got %q, %v after a restart with an append-only file", got, err)
	}
}

func TestRedisPassword(t *testing.T) {
	t.Parallel()
	r := testkit.StartRedis(t, testkit.RedisConfig{Args: []string{"--requirepass", "secret", "--user", "app", "on", ">other", "~kelpie:*", "+@all"}})
	if err := r.Client(t).Ping(t.Context()).Err(); err == nil {
		t.Error("the default user needs no password")
	}
	app := redis.NewClient(&redis.Options{Addr: r.Addr, Username: "app", Password: "other"})
	defer app.Close()
	if err := app.Set(t.Context(), "kelpie:a", 1, 0).Err(); err != nil {
		t.Error(err)
	}
	if err := app.Set(t.Context(), "a", 1, 0).Err(); err == nil {
		t.Error("the user may write everywhere")
	}
}

// Counters go up by one for every answered request while their slot moves.
func TestRedisClusterMoveSlot(t *testing.T) {
	t.Parallel()
	c := testkit.StartRedisCluster(t)
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: c.Addrs()})
	defer client.Close()
	const tag = "{kelpie}"
	slot64, err := client.ClusterKeySlot(t.Context(), tag).Result()
	if err != nil {
		t.Fatal(err)
	}
	slot := int(slot64)
	from := slices.IndexFunc([]int{5461, 10922, 16384}, func(end int) bool { return slot < end })
	to := (from + 1) % 3
	for i := range 250 {
		if err := client.Set(t.Context(), fmt.Sprint(tag, i), i, 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	var counted atomic.Int64
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				stopped <- nil
				return
			default:
			}
			if err := client.Incr(t.Context(), tag+"count").Err(); err != nil {
				stopped <- err
				return
			}
			counted.Add(1)
		}
	}()
	testkit.Eventually(t, "load", func() bool { return counted.Load() > 10 })
	c.MoveSlot(t, slot, from, to)
	moved := counted.Load()
	testkit.Eventually(t, "load after the move", func() bool { return counted.Load() > moved+10 })
	close(stop)
	if err := testkit.Receive(t, "the end of the load", stopped); err != nil {
		t.Fatal(err)
	}
	c.AwaitOK(t)
	if n, err := c.Nodes[to].Client(t).DBSize(t.Context()).Result(); n != 251 || err != nil {
		t.Errorf("the new owner holds %d keys, %v", n, err)
	}
	if n, err := client.Get(t.Context(), tag+"count").Int64(); n != counted.Load() || err != nil {
		t.Errorf("counted %d, %v; want %d", n, err, counted.Load())
	}
}

func TestRedisSentinelFailover(t *testing.T) {
	t.Parallel()
	s := testkit.StartRedisSentinel(t)
	client := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: s.Master, SentinelAddrs: s.Sentinels()})
	defer client.Close()
	if err := client.Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	replica := s.Replica.Client(t)
	testkit.Eventually(t, "the write at the replica", func() bool { return replica.Get(t.Context(), "k").Val() == "v" })
	s.Failover(t)
	if err := replica.Set(t.Context(), "k", "w", 0).Err(); err != nil {
		t.Error(err)
	}
	testkit.Eventually(t, "the new value by the sentinels", func() bool { return client.Get(t.Context(), "k").Val() == "w" })
}

func TestCutProxy(t *testing.T) {
	t.Parallel()
	r := testkit.StartRedis(t, testkit.RedisConfig{})
	p := testkit.StartCutProxy(t, r.Addr)
	client := redis.NewClient(&redis.Options{Addr: p.Addr, MaxRetries: -1, DialerRetries: 1, PoolSize: 1})
	defer client.Close()
	if n, err := client.Incr(t.Context(), "n").Result(); n != 1 || err != nil {
		t.Fatalf("got %d, %v through the proxy", n, err)
	}
	p.CutNext()
	if _, err := client.Incr(t.Context(), "n").Result(); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want a closed connection", err)
	}
	if got := r.Client(t).Get(t.Context(), "n").Val(); got != "2" || p.Cuts() != 1 {
		t.Errorf("n is %q after %d cuts, want 2 after 1", got, p.Cuts())
	}
	if n, err := client.Incr(t.Context(), "n").Result(); n != 3 || err != nil {
		t.Errorf("got %d, %v on a new connection", n, err)
	}

	p.Hold()
	answered := make(chan error, 1)
	go func() { answered <- client.Incr(t.Context(), "n").Err() }()
	direct := r.Client(t)
	testkit.Eventually(t, "a held request at the server", func() bool { return direct.Get(t.Context(), "n").Val() == "4" })
	select {
	case err := <-answered:
		t.Errorf("answered in spite of Hold: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	p.Release()
	if err := testkit.Receive(t, "the held answer", answered); err != nil {
		t.Error(err)
	}

	p.Refuse()
	if err := client.Incr(t.Context(), "n").Err(); err != nil {
		t.Errorf("a connection from before Refuse: %v", err)
	}
	other := redis.NewClient(&redis.Options{Addr: p.Addr, MaxRetries: -1, DialerRetries: 1})
	defer other.Close()
	if err := other.Ping(t.Context()).Err(); err == nil {
		t.Error("a new connection was not refused")
	}
}

func TestRedisUserAndTLS(t *testing.T) {
	t.Parallel()
	ca := testkit.NewCA(t)
	r := testkit.StartRedis(t, testkit.RedisConfig{User: "app", Password: "secret", CA: ca, ClientCerts: true, MaxMemory: "3mb", AppendOnly: true})
	if got := r.Do(t, "acl", "whoami"); got != "app" {
		t.Errorf("asked as %v", got)
	}
	if want := "rediss://app@" + r.Addr; r.URL() != want {
		t.Errorf("the URL is %s, want %s", r.URL(), want)
	}
	if got := r.Info(t, "maxmemory"); got != "3145728" {
		t.Errorf("maxmemory is %q", got)
	}
	r.Do(t, "set", "k", "v")
	r.Kill(t)
	r.Restart(t)
	if got := r.Do(t, "get", "k"); got != "v" {
		t.Errorf("after kill -9 and a restart there is %v", got)
	}
	for what, o := range map[string]*redis.Options{
		"no certificate": {Username: "app", Password: "secret", TLSConfig: &tls.Config{RootCAs: ca.Pool(), MinVersion: tls.VersionTLS12}},
		"no password":    {TLSConfig: r.TLS()},
		"no TLS":         {Username: "app", Password: "secret"},
	} {
		o.Addr, o.MaxRetries, o.DialerRetries, o.ReadTimeout = r.Addr, -1, 1, time.Second
		client := redis.NewClient(o)
		if err := client.Ping(t.Context()).Err(); err == nil {
			t.Errorf("let in with %s", what)
		}
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A pipeline that is cut at its first reply is run to its end.
func TestCutProxyBeforeCluster(t *testing.T) {
	t.Parallel()
	c := testkit.StartRedisCluster(t)
	node := c.Owner(t, c.Slot(t, "k"))
	p := testkit.StartCutProxy(t, c.Nodes[node].Addr)
	c.Announce(t, node, p.Addr)
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: c.Addrs(), MaxRetries: -1, MaxRedirects: -1})
	defer client.Close()
	p.Cut(1, "incr")
	pipe := client.Pipeline()
	pipe.Set(t.Context(), "k", 10, 0)
	for range 5 {
		pipe.Incr(t.Context(), "k")
	}
	if _, err := pipe.Exec(t.Context()); err == nil {
		t.Error("no error though its connection was cut")
	}
	p.Settle(t)
	if got := c.Nodes[node].Do(t, "get", "k"); got != "15" || p.Cuts() != 1 {
		t.Errorf("k is %v after %d cuts, want 15 after 1", got, p.Cuts())
	}

	p.Refuse()
	p.Drop()
	if err := client.Get(t.Context(), "k").Err(); err == nil {
		t.Error("answered by a node that refuses connections")
	}
	p.Admit(t)
	if got, err := client.Get(t.Context(), "k").Result(); got != "15" || err != nil {
		t.Errorf("got %q, %v from the node that is back", got, err)
	}
}

func TestRedisSentinelPasswords(t *testing.T) {
	t.Parallel()
	s := testkit.StartRedisSentinelOf(t, testkit.RedisConfig{User: "app", Password: "secret"})
	if want := "redis-sentinel://app@" + strings.Join(s.Sentinels(), ",") + "/" + s.Master; s.URL() != want {
		t.Errorf("the URL is %s, want %s", s.URL(), want)
	}
	client := redis.NewFailoverClient(&redis.FailoverOptions{
		MasterName: s.Master, SentinelAddrs: s.Sentinels(), SentinelPassword: testkit.SentinelPassword("secret"), Username: "app", Password: "secret",
	})
	defer client.Close()
	if err := client.Set(t.Context(), "k", 1, 0).Err(); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the write at the replica", func() bool { return s.Replica.Do(t, "exists", "k") == int64(1) })
	s.Detach(t)
	if err := client.Set(t.Context(), "lost", 1, 0).Err(); err != nil {
		t.Fatal(err)
	}
	old := s.Primary
	old.Kill(t)
	s.Replica.Resume(t)
	s.AwaitFailover(t)
	if s.Primary == old || s.Replica != old {
		t.Error("they did not change places")
	}
	if got := s.Primary.Do(t, "exists", "k", "lost"); got != int64(1) {
		t.Errorf("the new primary has %v of two keys, of which it was told one", got)
	}
}
