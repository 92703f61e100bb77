package redislimiter

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kelpie-authz/kelpie/internal/testkit"
)

// mapped dials instead of one address another one.
func mapped(from, to string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr == from {
			addr = to
		}
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}
}

// stand is a Redis of some form behind a proxy.
type stand struct {
	name   string
	server *testkit.Redis // the one that counts
	proxy  *testkit.CutProxy
	url    string
	// lenient makes a client of the same with everything left at its default,
	// as who does not look into the settings has it.
	lenient func() redis.UniversalClient
}

const counterKey = "{kelpie}:counter"

func stands(t *testing.T) []stand {
	t.Helper()
	single := testkit.StartRedis(t, testkit.RedisConfig{})
	sentinel := testkit.StartRedisSentinel(t)
	cluster := testkit.StartRedisCluster(t)
	all := []stand{
		{name: "single", server: single, url: single.URL()},
		{name: "sentinel", server: sentinel.Primary, url: sentinel.URL()},
		{name: "cluster", server: cluster.Nodes[cluster.Owner(t, cluster.Slot(t, counterKey))], url: cluster.URL()},
	}
	for i := range all {
		s := &all[i]
		s.proxy = testkit.StartCutProxy(t, s.server.Addr)
		dialer := mapped(s.server.Addr, s.proxy.Addr)
		s.lenient = func() redis.UniversalClient {
			switch s.name {
			case "sentinel":
				return redis.NewFailoverClient(&redis.FailoverOptions{MasterName: sentinel.Master, SentinelAddrs: sentinel.Sentinels(), Dialer: dialer})
			case "cluster":
				return redis.NewClusterClient(&redis.ClusterOptions{Addrs: cluster.Addrs(), Dialer: dialer})
			default:
				return redis.NewClient(&redis.Options{Addr: s.server.Addr, Dialer: dialer})
			}
		}
	}
	return all
}

const counterScript = "return redis.call('INCR', KEYS[1])"

// ways are how a command can go to Redis.
var ways = map[string]func(ctx context.Context, client redis.UniversalClient, cmd redis.Cmder) error{
	"Process": func(ctx context.Context, client redis.UniversalClient, cmd redis.Cmder) error {
		return client.Process(ctx, cmd)
	},
	"Pipeline": func(ctx context.Context, client redis.UniversalClient, cmd redis.Cmder) error {
		pipe := client.Pipeline()
		_ = pipe.Process(ctx, cmd) // Exec says.
		_, err := pipe.Exec(ctx)
		return err
	},
	"AutoPipeline": func(ctx context.Context, client redis.UniversalClient, cmd redis.Cmder) error {
		auto, err := client.AutoPipeline()
		if err != nil {
			return err
		}
		if err := auto.Process(ctx, cmd); err != nil {
			return err
		}
		return cmd.Err()
	},
}

// A command whose reply is lost was run, and must not be run again. Plain
// commands are beside it, to show that a second run would be seen.
func TestNothingIsSentTwice(t *testing.T) {
	t.Parallel()
	var table strings.Builder
	fmt.Fprintf(&table, "%-10s %-13s %-9s %8s %8s\n", "server", "by", "settings", "ours", "plain")
	twice := 0
	for _, s := range stands(t) {
		for _, way := range []string{"Process", "Pipeline", "AutoPipeline"} {
			for _, settings := range []string{"ours", "defaults"} {
				ran := map[bool]int64{}
				for _, plain := range []bool{false, true} {
					client := s.lenient()
					if settings == "ours" {
						_ = client.Close()
						client = s.strict(t)
					}
					ran[plain] = s.count(t, client, ways[way], plain)
				}
				fmt.Fprintf(&table, "%-10s %-13s %-9s %8d %8d\n", s.name, way, settings, ran[false], ran[true])
				if ran[false] != 1 {
					t.Errorf("%s by %s with settings %s: run %d times, want once", s.name, way, settings, ran[false])
				}
				if ran[true] > 1 {
					twice++
				}
			}
		}
	}
	t.Logf("how often one command was run whose first replies were cut:\n%s", table.String())
	if twice == 0 {
		t.Error("no plain command was run twice: this test cannot see what it is for")
	}
}

// strict is a client as the limiter has it.
func (s *stand) strict(t *testing.T) redis.UniversalClient {
	t.Helper()
	client, err := newClient(&Options{URL: s.url, Timeout: 5 * time.Second, Dialer: mapped(s.server.Addr, s.proxy.Addr)}, 2)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// count sends a command whose first three replies are cut, and tells how often
// it was run.
func (s *stand) count(
	t *testing.T, client redis.UniversalClient, send func(context.Context, redis.UniversalClient, redis.Cmder) error, plain bool,
) int64 {
	t.Helper()
	defer func() { _ = client.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s.server.Do(t, "del", counterKey)
	inner := redis.NewCmd(ctx, "eval", counterScript, 1, counterKey)
	var cmd redis.Cmder = inner
	if !plain {
		cmd = &command{inner}
	}
	// A connection that is there already: only then is a command sent at once.
	if err := client.Get(ctx, counterKey).Err(); err != redis.Nil { //nolint:errorlint // It is never wrapped here.
		t.Fatalf("%s: %v", s.name, err)
	}
	s.proxy.Cut(3, "eval")
	err := send(ctx, client, cmd)
	s.proxy.Cut(0)
	s.proxy.Settle(t)
	if !plain && err == nil {
		t.Errorf("%s: no error though its reply was lost", s.name)
	}
	n, err := s.server.Client(t).Get(ctx, counterKey).Int64()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A custom dialer does not switch TLS off.
func TestDialerKeepsTLS(t *testing.T) {
	t.Parallel()
	ca := testkit.NewCA(t)
	r := testkit.StartRedis(t, testkit.RedisConfig{CA: ca})
	for _, c := range []struct {
		name string
		tls  *tls.Config
		ok   bool
	}{
		{"its authority", r.TLS(), true},
		{"another authority", &tls.Config{RootCAs: testkit.NewCA(t).Pool(), MinVersion: tls.VersionTLS12}, false},
	} {
		client, err := newClient(&Options{URL: r.URL(), TLS: c.tls, Timeout: 5 * time.Second, Dialer: mapped("", "")}, 2)
		if err != nil {
			t.Fatal(err)
		}
		if err := client.Ping(t.Context()).Err(); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
		_ = client.Close()
	}
}
