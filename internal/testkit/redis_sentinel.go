package testkit

import (
	"fmt"
	"net"
	"strings"
	"testing"
)

// sentinelMaster is the name by which the sentinels know the primary.
const sentinelMaster = "kelpie"

// RedisSentinel is a running primary with a replica, and three sentinels that
// watch them. One goroutine at a time may call its methods.
type RedisSentinel struct {
	// Primary and Replica change places with a failover.
	Primary, Replica *Redis
	// Watchers are the sentinels.
	Watchers []*Redis
	// Master is the name by which they know the primary.
	Master string
}

// SentinelPassword is what the sentinels of servers with this password demand:
// another one, so that a client which mixes them up is found out.
func SentinelPassword(password string) string { return "sentinel-" + password }

// StartRedisSentinel is [StartRedisSentinelOf] with the zero configuration.
func StartRedisSentinel(tb testing.TB) *RedisSentinel {
	tb.Helper()
	return StartRedisSentinelOf(tb, RedisConfig{})
}

// StartRedisSentinelOf starts two servers like cfg, which names no Addr and no CA,
// and three sentinels, and waits until those agree. A primary that does not
// answer for a second is down. If cfg has a Password, the sentinels have the one
// of [SentinelPassword].
func StartRedisSentinelOf(tb testing.TB, cfg RedisConfig) *RedisSentinel {
	tb.Helper()
	s := &RedisSentinel{Primary: StartRedis(tb, cfg), Master: sentinelMaster}
	host, port, err := net.SplitHostPort(s.Primary.Addr)
	if err != nil {
		tb.Fatal(err)
	}
	replica := cfg
	replica.Args = append([]string{"--replicaof", host + " " + port}, cfg.Args...)
	s.Replica = StartRedis(tb, replica)
	// Sentinels ask a primary for its replicas when they start, and then only each ten seconds.
	s.Replica.until(tb, "it follows its primary", func() bool { return s.Replica.Info(tb, "master_link_status") == "up" })
	s.Primary.until(tb, "it has a replica", func() bool { return strings.Contains(s.Primary.Info(tb, "slave0"), "state=online") })
	for range 3 {
		s.Watchers = append(s.Watchers, startSentinel(tb, &cfg, host, port))
	}
	for _, n := range s.Watchers {
		n.until(tb, "the others and the replica", func() bool {
			m := sentinelView(tb, n)
			return m["flags"] == "master" && m["num-slaves"] == "1" && m["num-other-sentinels"] == "2"
		})
	}
	return s
}

func startSentinel(tb testing.TB, cfg *RedisConfig, host, port string) *Redis {
	tb.Helper()
	r := &Redis{Addr: FreeAddr(tb), dir: tb.TempDir()}
	_, own, err := net.SplitHostPort(r.Addr)
	if err != nil {
		tb.Fatal(err)
	}
	conf := []string{
		"bind 127.0.0.1", "port " + own, "daemonize no", "dir " + r.dir,
		fmt.Sprintf("sentinel monitor %s %s %s 2", sentinelMaster, host, port),
		"sentinel down-after-milliseconds " + sentinelMaster + " 1000",
		"sentinel failover-timeout " + sentinelMaster + " 3000",
	}
	if cfg.User != "" {
		conf = append(conf, "sentinel auth-user "+sentinelMaster+" "+cfg.User)
	}
	if cfg.Password != "" {
		r.cfg.Password = SentinelPassword(cfg.Password)
		conf = append(conf, "sentinel auth-pass "+sentinelMaster+" "+cfg.Password,
			"requirepass "+r.cfg.Password, "sentinel sentinel-pass "+r.cfg.Password)
	}
	// It writes what it finds into its file, so that the file is its own.
	r.args = []string{r.write(tb, "sentinel.conf", conf), "--sentinel"}
	r.start(tb)
	return r
}

// sentinelView is what a sentinel says of the primary; nil if it does not answer.
func sentinelView(tb testing.TB, sentinel *Redis) map[string]string {
	tb.Helper()
	answer, err := sentinel.try(tb.Context(), "sentinel", "master", sentinelMaster)
	fields, _ := answer.([]any)
	if err != nil {
		return nil
	}
	view := make(map[string]string)
	for i := 0; i+1 < len(fields); i += 2 {
		view[fmt.Sprint(fields[i])] = fmt.Sprint(fields[i+1])
	}
	return view
}

// Sentinels are the addresses of the sentinels.
func (s *RedisSentinel) Sentinels() []string {
	var addrs []string
	for _, n := range s.Watchers {
		addrs = append(addrs, n.Addr)
	}
	return addrs
}

// URL is the address as kelpie wants it, of the sentinels and their master.
func (s *RedisSentinel) URL() string {
	user := ""
	if name := s.Primary.cfg.User; name != "" {
		user = name + "@"
	}
	return "redis-sentinel://" + user + strings.Join(s.Sentinels(), ",") + "/" + s.Master
}

// Detach makes Replica lag: it stands still and its connection is gone, so that
// what is written from now on is lost if Primary is killed before Replica is
// resumed.
func (s *RedisSentinel) Detach(tb testing.TB) {
	tb.Helper()
	s.Replica.Pause(tb)
	s.Primary.Do(tb, "client", "kill", "type", "replica")
}

// Failover kills the primary and does what AwaitFailover does.
func (s *RedisSentinel) Failover(tb testing.TB) *Redis {
	tb.Helper()
	s.Primary.Kill(tb)
	return s.AwaitFailover(tb)
}

// AwaitFailover waits, after the primary was killed or paused, until the replica
// is the primary in its own eyes and those of all sentinels, and returns it. The
// old one is Replica from then on; if it comes back the sentinels make it one
// within some ten seconds.
func (s *RedisSentinel) AwaitFailover(tb testing.TB) *Redis {
	tb.Helper()
	s.Primary, s.Replica = s.Replica, s.Primary
	s.Primary.until(tb, "it is the primary", func() bool {
		role, err := s.Primary.try(tb.Context(), "role")
		fields, _ := role.([]any)
		return err == nil && len(fields) > 0 && fields[0] == "master"
	})
	_, port, err := net.SplitHostPort(s.Primary.Addr)
	if err != nil {
		tb.Fatal(err)
	}
	for _, n := range s.Watchers {
		n.until(tb, "it names the new primary", func() bool { return sentinelView(tb, n)["port"] == port })
	}
	return s.Primary
}
