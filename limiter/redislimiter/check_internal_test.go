package redislimiter

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/kelpie-authz/kelpie/internal/testkit"
	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/limiter/limitertest"
)

// says is a password.
func says(text string) func() (string, error) {
	return func() (string, error) { return text, nil }
}

// check is what New does before anything else.
func check(t *testing.T, o Options) ([]string, error) {
	t.Helper()
	if o.Timeout == 0 {
		o.Timeout = time.Second
	}
	client, err := newClient(&o, 2)
	if err != nil {
		return nil, err
	}
	defer func() { _ = client.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	return checkServer(ctx, client, &o, "kelpie")
}

// wrong is a way not to reach Redis, and what the error says to do.
type wrong struct {
	name string
	o    Options
	want string
}

func refuses(t *testing.T, cases []wrong) {
	t.Helper()
	for _, c := range cases {
		_, err := check(t, c.o)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want words about %q", c.name, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error tells the password: %v", c.name, err)
		}
	}
}

func TestCheckRefuses(t *testing.T) {
	t.Parallel()
	plain := testkit.StartRedis(t, testkit.RedisConfig{})
	locked := testkit.StartRedis(t, testkit.RedisConfig{Password: "hunter2"})
	user := testkit.StartRedis(t, testkit.RedisConfig{User: "app", Password: "hunter2"})
	for name, rules := range map[string][]any{
		"noinfo": {"~*", "+@all", "-info"}, "noset": {"~*", "+@all", "-psetex"}, "nokeys": {"~other:*", "+@all"}, "noscript": {"~*", "+@all", "-@scripting"},
		"part": {"~kelpie:1:*", "+@all"}, "noscan": {"~*", "+@all", "-scan"}, "nosha": {"~*", "+@all", "-evalsha", "-evalsha_ro"},
		"little": {"~other:*", "+eval", "+ping"}, "nohash": {"~kelpie:*", "+@all", "-@hash", "-zadd", "-pexpire"}, "reader": {"%R~kelpie:*", "+@all"},
	} {
		user.Do(t, append([]any{"acl", "setuser", name, "on", ">hunter2"}, rules...)...)
	}
	web := webServer(t)
	by := func(name string) Options {
		return Options{URL: "redis://" + name + "@" + user.Addr, Password: says("hunter2")}
	}
	refuses(t, []wrong{
		{"nobody listens", Options{URL: "redis://" + testkit.FreeAddr(t)}, "nothing listens there; start it, or see the host and port in redis (6379 unless said)"},
		{"no such host", Options{URL: "redis://nowhere.invalid", Dialer: nowhere}, "no such host is known; see the host in redis"},
		{"no socket", Options{URL: "unix:///nowhere/redis.sock"}, "see the socket's path in redis"},
		{"a web server", Options{URL: "redis://" + web}, "what answers there does not speak as Redis does"},
		{"no password", Options{URL: locked.URL()}, "it asks for a password"},
		{"wrong password", Options{URL: locked.URL(), Password: says("hunter22")}, "it refuses the user or the password"},
		{"wrong user", Options{URL: "redis://bob@" + user.Addr, Password: says("hunter2")}, "it refuses the user or the password"},
		{"a user without a password", Options{URL: user.URL()}, "names a user, but there is no password"},
		{"no file", Options{URL: user.URL(), Password: func() (string, error) { return "", os.ErrNotExist }}, "the password of Redis: file does not exist"},
		{"no INFO", by("noinfo"), "ACL SETUSER noinfo +info ("},
		{"no keys", by("nokeys"), "its user may not do what limits need; grant it on each server: ACL SETUSER nokeys ~kelpie:* (docs/operations.md has the whole line, and ACL LOG"},
		{"a part of the keys", by("part"), "ACL SETUSER part ~kelpie:* ("},
		{"keys to read", by("reader"), "ACL SETUSER reader ~kelpie:* ("},
		{"no PSETEX", by("noset"), "ACL SETUSER noset +psetex ("},
		{"no scripts", by("noscript"), "ACL SETUSER noscript +eval +eval_ro +evalsha +evalsha_ro ("},
		{"no SCAN", by("noscan"), "ACL SETUSER noscan +scan ("},
		{"no EVALSHA", by("nosha"), "ACL SETUSER nosha +evalsha +evalsha_ro ("},
		{"no hashes", by("nohash"), "ACL SETUSER nohash +hexists +hget +hsetnx +pexpire +zadd ("},
		{"little", by("little"), "ACL SETUSER little +info ("},
		{"no such database", Options{URL: plain.URL() + "/99"}, "it has no database of this number"},
		{"a URL", Options{URL: "redis://"}, "a host is missing"},
	})
	for _, good := range []Options{
		{URL: plain.URL() + "/3"}, {URL: locked.URL(), Password: says("hunter2")}, {URL: user.URL(), Password: says("hunter2")},
	} {
		if warnings, err := check(t, good); len(warnings) > 0 || err != nil {
			t.Errorf("%s: %v, %v", good.URL, warnings, err)
		}
	}
}

// webServer is the address of one.
func webServer(t *testing.T) string {
	t.Helper()
	srv := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

// What the check tries leaves nothing behind, whatever was refused.
func TestCheckLeavesNothing(t *testing.T) {
	t.Parallel()
	r := testkit.StartRedis(t, testkit.RedisConfig{})
	for _, without := range [][]any{nil, {"-pexpire"}, {"-set", "-psetex"}, {"-set", "-psetex", "-pexpire"}, {"-psetex", "-zrem"}} {
		r.Do(t, append([]any{"acl", "setuser", "tried", "reset", "on", ">hunter2", "~*", "+@all"}, without...)...)
		if _, err := check(t, Options{URL: "redis://tried@" + r.Addr, Password: says("hunter2")}); (err == nil) != (without == nil) {
			t.Errorf("%v: %v", without, err)
		}
		testkit.Eventually(t, "no keys", func() bool { n, _ := r.Do(t, "dbsize").(int64); return n == 0 })
	}
}

// nowhere is what the net package says of a name that nobody knows.
func nowhere(context.Context, string, string) (net.Conn, error) {
	return nil, &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "nowhere.invalid", IsNotFound: true}}
}

func TestCheckRefusesTLS(t *testing.T) {
	t.Parallel()
	ca := testkit.NewCA(t)
	plain := testkit.StartRedis(t, testkit.RedisConfig{})
	locked := testkit.StartRedis(t, testkit.RedisConfig{Password: "hunter2"})
	secure := testkit.StartRedis(t, testkit.RedisConfig{CA: ca})
	mutual := testkit.StartRedis(t, testkit.RedisConfig{CA: ca, ClientCerts: true})
	trusting := &tls.Config{RootCAs: ca.Pool(), MinVersion: tls.VersionTLS12}
	_, port, err := net.SplitHostPort(secure.Addr)
	if err != nil {
		t.Fatal(err)
	}
	refuses(t, []wrong{
		{"TLS to a plain server", Options{URL: "rediss://" + plain.Addr, Timeout: 100 * time.Millisecond}, "it does not speak TLS (context deadline exceeded); write redis:// in place of rediss://, or name the port"},
		{"TLS to a locked plain server", Options{URL: "rediss://" + locked.Addr, Timeout: 100 * time.Millisecond}, "it does not speak TLS (context deadline exceeded); write redis:// in place of rediss://"},
		{"TLS to a web server", Options{URL: "rediss://" + webServer(t)}, "it does not speak TLS ("},
		{"plain to TLS", Options{URL: "redis://" + secure.Addr}, "write rediss in place of redis"},
		{"an unknown authority", Options{URL: secure.URL()}, "name its authority by redis_ca"},
		{"another name", Options{URL: "rediss://localhost:" + port, TLS: trusting}, "a host that is in the certificate"},
		{"no certificate", Options{URL: mutual.URL(), TLS: trusting}, "set redis_cert and redis_key"},
	})
	for _, good := range []Options{{URL: secure.URL(), TLS: trusting}, {URL: mutual.URL(), TLS: mutual.TLS()}} {
		if warnings, err := check(t, good); len(warnings) > 0 || err != nil {
			t.Errorf("%s: %v, %v", good.URL, warnings, err)
		}
	}
}

func TestCheckRefusesCluster(t *testing.T) {
	t.Parallel()
	plain := testkit.StartRedis(t, testkit.RedisConfig{})
	locked := testkit.StartRedis(t, testkit.RedisConfig{Password: "hunter2"})
	cluster := testkit.StartRedisClusterOf(t, testkit.RedisConfig{Password: "hunter2", MaxMemory: "100mb", Args: []string{"--maxmemory-policy", "allkeys-lru"}})
	single := Options{URL: "redis://" + cluster.Nodes[0].Addr, Password: says("hunter2")}
	if cluster.Owner(t, cluster.Slot(t, "check")) == 0 {
		single.URL = "redis://" + cluster.Nodes[1].Addr
	}
	refuses(t, []wrong{
		{"not a cluster", Options{URL: "redis-cluster://" + plain.Addr}, "it is no cluster"},
		{"a node as a server", single, "it is a node of a cluster"},
		{"nobody listens", Options{URL: "redis-cluster://" + testkit.FreeAddr(t)}, "it cannot be reached"},
		{"no password", Options{URL: "redis-cluster://" + locked.Addr}, "it asks for a password"},
		{"wrong password", Options{URL: cluster.URL(), Password: says("hunter22")}, "it refuses the user or the password"},
	})
	for i, n := range cluster.Nodes { // users are each node's own
		rule := "~kelpie:*"
		if i == len(cluster.Nodes)-1 {
			rule = "~kelp:*"
		}
		n.Do(t, "acl", "setuser", "app", "on", ">hunter2", rule, "+@all")
	}
	refuses(t, []wrong{
		{"a user whom one node does not let", Options{URL: "redis-cluster://app@" + strings.Join(cluster.Addrs(), ","), Password: says("hunter2")}, "ACL SETUSER app ~kelpie:* ("},
	})
	warnings, err := check(t, Options{URL: cluster.URL(), Password: says("hunter2")})
	if len(warnings) != 1 || err != nil || !strings.Contains(warnings[0], "set maxmemory-policy noeviction") {
		t.Errorf("three nodes that evict: %q, %v; want one warning", warnings, err)
	}
}

func TestCheckRefusesSentinel(t *testing.T) {
	t.Parallel()
	plain := testkit.StartRedis(t, testkit.RedisConfig{})
	s := testkit.StartRedisSentinelOf(t, testkit.RedisConfig{Password: "hunter2"})
	theirs := says(testkit.SentinelPassword("hunter2"))
	refuses(t, []wrong{
		{"nobody listens", Options{URL: "redis-sentinel://" + testkit.FreeAddr(t) + "/kelpie"}, "it cannot be reached"},
		{"no sentinel", Options{URL: "redis-sentinel://" + plain.Addr + "/kelpie"}, "are no sentinels"},
		{"another master", Options{URL: "redis-sentinel://" + s.Sentinels()[0] + "/other", SentinelPassword: theirs}, "know no master of this name"},
		{"no password of theirs", Options{URL: s.URL(), Password: says("hunter2")}, "KELPIE_REDIS_SENTINEL_PASSWORD"},
		{"a wrong one of theirs", Options{URL: s.URL(), Password: says("hunter2"), SentinelPassword: says("hunter2")}, "the sentinels refuse the password"},
		{"no file of theirs", Options{URL: s.URL(), SentinelPassword: func() (string, error) { return "", os.ErrNotExist }}, "the password of the sentinels: file"},
		{"no password", Options{URL: s.URL(), SentinelPassword: theirs}, "it asks for a password"},
		{"a wrong one", Options{URL: s.URL(), SentinelPassword: theirs, Password: says("no")}, "it refuses the user or the password"},
		{"a sentinel as a server", Options{URL: "redis://" + s.Sentinels()[0], Password: theirs}, "it is a sentinel"},
		{"a replica", Options{URL: s.Replica.URL(), Password: says("hunter2")}, "it is a replica"},
	})
	if warnings, err := check(t, Options{URL: s.URL(), SentinelPassword: theirs, Password: says("hunter2")}); len(warnings) > 0 || err != nil {
		t.Errorf("%v, %v", warnings, err)
	}
}

// A server that does not answer is given up after the time for it, and one that
// answers late is waited for.
func TestCheckIsPatient(t *testing.T) {
	t.Parallel()
	r := testkit.StartRedis(t, testkit.RedisConfig{})
	r.Pause(t)
	_, err := check(t, Options{URL: r.URL(), Timeout: 50 * time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), "it did not answer in time") {
		t.Errorf("a server that stands still: %v", err)
	}
	checked := make(chan error, 1)
	go func() {
		_, err := check(t, Options{URL: r.URL(), Timeout: 50 * time.Millisecond})
		checked <- err
	}()
	r.Resume(t)
	if err := testkit.Receive(t, "the end of the check", checked); err != nil {
		t.Errorf("a server that was late: %v", err)
	}
}

func TestCheckWarns(t *testing.T) {
	t.Parallel()
	r := testkit.StartRedis(t, testkit.RedisConfig{MaxMemory: "100mb"})
	for _, c := range []struct{ policy, memory, want string }{
		{"noeviction", "100mb", ""},
		{"volatile-ttl", "100mb", ""},
		{"allkeys-lru", "0", ""},
		{"allkeys-lru", "100mb", "maxmemory-policy is allkeys-lru"},
		{"volatile-lfu", "100mb", "maxmemory-policy is volatile-lfu"},
		{"noeviction", "1", "its memory is full"},
	} {
		r.Do(t, "config", "set", "maxmemory-policy", c.policy, "maxmemory", c.memory)
		warnings, err := check(t, Options{URL: r.URL()})
		if err != nil {
			t.Errorf("%s of %s: %v", c.policy, c.memory, err)
		}
		if c.want == "" && len(warnings) > 0 || c.want != "" && (len(warnings) != 1 || !strings.HasPrefix(warnings[0], c.want)) {
			t.Errorf("%s of %s: %q, want %q", c.policy, c.memory, warnings, c.want)
		}
	}
}

func TestJudgeInfo(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ text, want string }{
		{"redis_version:7.0.0\r\nrole:master", ""},
		{"redis_version:8.2.1\r\nrole:master", ""},
		{"# Server\r\nserver_name:valkey\r\nredis_version:7.2.4\r\nvalkey_version:8.0.1", ""},
		{"redis_version:6.2.14\r\n", "upgrade it"},
		{"redis_version:2.8\r\n", "upgrade it"},
		{"role:master\r\n", `it is Redis ""`},
		{"", `it is Redis ""`},
		{"redis_version:7.0.0\r\nrole:slave", "it is a replica"},
		{"redis_version:7.0.0\r\nredis_mode:sentinel", "it is a sentinel"},
	} {
		_, err := judgeInfo(c.text)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got %v, want %q", c.text, err, c.want)
		}
	}
}

// A password that changes is read for the next connection.
func TestPasswordChanges(t *testing.T) {
	t.Parallel()
	r := testkit.StartRedis(t, testkit.RedisConfig{Password: "first"})
	file := filepath.Join(t.TempDir(), "password")
	testkit.WriteFile(t, file, []byte("first"))
	client, err := newClient(&Options{URL: r.URL(), Timeout: 5 * time.Second, Password: func() (string, error) {
		raw, err := os.ReadFile(file)
		return string(raw), err
	}}, 2)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	if err := client.Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	admin := r.Client(t)
	for _, args := range [][]any{{"config", "set", "requirepass", "second"}, {"client", "kill", "type", "normal", "skipme", "yes"}} {
		if err := admin.Do(t.Context(), args...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Eventually(t, "a refusal of the old password", func() bool {
		err := client.Ping(t.Context()).Err()
		return err != nil && strings.Contains(err.Error(), "WRONGPASS")
	})
	testkit.WriteFile(t, file, []byte("second"))
	if err := client.Ping(t.Context()).Err(); err != nil {
		t.Error(err)
	}
}

// What the client does by itself is bounded by the settings.
func TestClientSettings(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"redis://h", "redis-sentinel://h/m", "redis-cluster://h"} {
		client, err := newClient(&Options{URL: url}, 3)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]any{}
		var o redis.Options
		switch c := client.(type) {
		case *redis.Client:
			o = *c.Options()
		case *redis.ClusterClient:
			co := c.Options()
			o = redis.Options{
				MaxRetries: co.MaxRetries, ReadTimeout: co.ReadTimeout, WriteTimeout: co.WriteTimeout, PoolTimeout: co.PoolTimeout, DialTimeout: co.DialTimeout,
				PoolSize: co.PoolSize, PipelinePoolSize: co.PipelinePoolSize, ContextTimeoutEnabled: co.ContextTimeoutEnabled, DisableIdentity: co.DisableIdentity,
				Protocol: co.Protocol, MaintNotificationsConfig: co.MaintNotificationsConfig, DialerRetries: co.DialerRetries,
			}
			if co.MaxRedirects < 3 {
				t.Errorf("%s: follows %d redirections", url, co.MaxRedirects)
			}
		}
		got["retries"], got["dials"] = max(o.MaxRetries, 0), o.DialerRetries
		got["times"] = []time.Duration{o.ReadTimeout, o.WriteTimeout, o.DialTimeout, o.PoolTimeout}
		got["pools"] = []int{o.PoolSize, o.PipelinePoolSize}
		got["rest"] = []any{o.ContextTimeoutEnabled, o.DisableIdentity, o.Protocol, string(o.MaintNotificationsConfig.Mode)}
		want := map[string]any{
			"retries": 0, "dials": 1,
			"times": []time.Duration{100 * time.Millisecond, 100 * time.Millisecond, 500 * time.Millisecond, 20 * time.Millisecond},
			"pools": []int{4096, 4096},
			"rest":  []any{true, true, 2, "disabled"},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", url, diff)
		}
		_ = client.Close()
	}
}

// The line for the ACL in the documents names what the scripts and the check do,
// and the check does all of what the scripts do.
func TestACLNamesCommands(t *testing.T) {
	t.Parallel()
	scripts := ""
	for _, s := range []*script{takeScript, peekScript, refundScript, forgetScript, keepScript, markScript, memberScript} {
		scripts += s.text
	}
	used := regexp.MustCompile(`call\('([A-Z]+)'`)
	line := aclLine(t)
	for _, m := range regexp.MustCompile(`try\('([A-Z]+)'`).FindAllStringSubmatch(rightsText, -1) {
		if !strings.Contains(line, "+"+strings.ToLower(m[1])+" ") {
			t.Errorf("the check tries %s, which the line for the ACL does not have", m[1])
		}
	}
	for _, m := range used.FindAllStringSubmatch(scripts, -1) {
		if !strings.Contains(rightsText, "try('"+m[1]+"'") {
			t.Errorf("the check does not try %s", m[1])
		}
		if !slices.Contains(strings.Fields(line), "+"+strings.ToLower(m[1])) {
			t.Errorf("the line for the ACL in docs/operations.md lacks +%s", strings.ToLower(m[1]))
		}
	}
}

// aclLine is the line of docs/operations.md that gives a user to Kelpie.
func aclLine(tb testing.TB) string {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join(testkit.Root(tb), "docs", "operations.md"))
	if err != nil {
		tb.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^ACL SETUSER kelpie on >PASSWORD .*$`).FindString(string(text))
	if line == "" {
		tb.Fatal("docs/operations.md has no line for the ACL")
	}
	return line
}

// A user who may do what the documents say needs no more, for all that the suite
// of limiters does.
func TestACLSuffices(t *testing.T) { //nolint:tparallel // What the suite leaves is looked at when it has ended.
	t.Parallel()
	single := testkit.StartRedis(t, testkit.RedisConfig{})
	cluster := testkit.StartRedisCluster(t)
	rules := strings.NewReplacer(">PASSWORD", ">hunter2", "~kelpie:*", "~acl.*").Replace(aclLine(t))
	var args []any
	for word := range strings.FieldsSeq(rules) {
		args = append(args, word)
	}
	for _, r := range append([]*testkit.Redis{single}, cluster.Nodes...) {
		r.Do(t, args...)
	}
	var prefixes atomic.Int64
	urls := map[string]string{
		"single": "redis://kelpie@" + single.Addr, "cluster": "redis-cluster://kelpie@" + strings.Join(cluster.Addrs(), ","),
	}
	t.Run("suite", func(t *testing.T) {
		for name, url := range urls {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				limitertest.Run(t, limitertest.Driver{Open: func(tb testing.TB, clock func() time.Time) limiter.Limiter {
					tb.Helper()
					l, err := New(tb.Context(), Config{
						Options: Options{URL: url, Password: says("hunter2"), Timeout: 10 * time.Second},
						Prefix:  fmt.Sprintf("acl.%d", prefixes.Add(1)), Clock: clock,
					})
					if err != nil {
						tb.Fatal(err)
					}
					return l
				}})
			})
		}
	})
	for _, r := range append([]*testkit.Redis{single}, cluster.Nodes...) {
		if log, _ := r.Do(t, "acl", "log").([]any); len(log) > 0 {
			t.Errorf("%s refused something: %v", r.Addr, log)
		}
	}
}

// A server that is started with exactly the rule of the documents has a user that
// suffices for a limiter, and for what people do with it.
func TestACLLineFromTheStart(t *testing.T) {
	t.Parallel()
	_, rules, found := strings.Cut(aclLine(t), "SETUSER kelpie ")
	if !found {
		t.Fatal("the line for the ACL is about another user")
	}
	args := append([]string{"--user", "kelpie"}, strings.Fields(strings.Replace(rules, ">PASSWORD", ">hunter2", 1))...)
	r := testkit.StartRedis(t, testkit.RedisConfig{Args: args})
	for _, url := range []string{"redis://kelpie@" + r.Addr, "redis://kelpie@" + r.Addr + "/3", "redis://kelpie@" + r.Addr + "?db=4"} {
		l, err := New(t.Context(), Config{Options: Options{URL: url, Password: says("hunter2"), Timeout: 10 * time.Second}})
		if err != nil {
			t.Fatal(err)
		}
		useAll(t, l)
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if s := l.Stats(); s.Refused > 0 || s.Failures > 0 {
			t.Errorf("%s: %d exchanges were refused, %d failed", url, s.Refused, s.Failures)
		}
	}
	if log, _ := r.Do(t, "acl", "log").([]any); len(log) > 0 {
		t.Errorf("it refused something: %v", log)
	}
	for db := range 5 {
		_, keys, _ := strings.Cut(r.Info(t, fmt.Sprint("db", db)), "keys=")
		if want := db == 0 || db > 2; want != (keys != "") {
			t.Errorf("database %d has %q keys; want some: %v", db, keys, want)
		}
	}
}

// useAll does once whatever is done with a limiter.
func useAll(t *testing.T, l *Limiter) {
	t.Helper()
	ctx := t.Context()
	limit := &limiter.Limit{Name: "calls", Kind: limiter.KindRate, Count: 1, Burst: 5, Period: time.Hour}
	calls := []limiter.Call{{Charges: []limiter.Charge{{Limit: limit, Key: []byte("agentcalls"), Slot: 5, Home: 5, Cost: limiter.Unit}}}}
	if n, err := l.Take(ctx, calls, limiter.StopNever); n != 1 || err != nil || !calls[0].Result.Admitted {
		t.Errorf("take: %d, %v", n, err)
	}
	debit, refund := calls[0].Result.Receipt.Clone(), calls[0].Result.Receipt.Clone()
	ledger := l.Ledger()
	_, looked := ledger.Look(ctx, "d")
	_, marked := ledger.Mark(ctx, "d", "m", []byte("v"))
	_, forgot := l.Forget(ctx, []byte("agent"), nil)
	for name, err := range map[string]error{
		"peek": l.Peek(ctx, calls), "debit": l.Debit(ctx, &debit), "refund": l.Refund(ctx, &refund),
		"keep": ledger.Keep(ctx, "d", []byte("record"), time.Hour), "look": looked, "mark": marked, "forget": forgot,
		"names": l.Names(ctx, []byte("agent"), func(string) bool { return true }),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLogTo(t *testing.T) { //nolint:paralleltest // The log is one for the whole process.
	var got testkit.Buffer
	LogTo(func(text string) { _, _ = fmt.Fprintln(&got, text) })
	defer LogTo(func(string) {})
	addr := testkit.FreeAddr(t)
	if _, err := check(t, Options{URL: "redis://" + addr}); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if !strings.Contains(got.String(), addr) {
		t.Errorf("nothing about a connection that failed:\n%s", got.String())
	}
}
