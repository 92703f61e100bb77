package testkit

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// RedisConfig is how a redis-server is started. The zero value is one on a free
// port of 127.0.0.1, without a password, that keeps nothing on disk.
type RedisConfig struct {
	// Addr is where it listens, a host:port of 127.0.0.1. Empty: a free one.
	Addr string
	// User and Password are what clients must say. With a User there is no
	// default user, without one Password is the default user's. Empty: anyone.
	User, Password string
	// CA makes it listen by TLS alone, with a certificate of this authority.
	// Nil: no TLS.
	CA *CA
	// ClientCerts demands a certificate of CA of every client.
	ClientCerts bool
	// MaxMemory is as in redis.conf: "2mb". Empty: no bound.
	MaxMemory string
	// AppendOnly writes every change to disk before it is answered, so that
	// Restart finds it again.
	AppendOnly bool
	// Args are further arguments, such as "--hz", "100"; they beat the above.
	Args []string
}

// Redis is a running redis-server of one test, which ends with the test. Its
// Process is another one after Restart. Only its own test may call its methods,
// one at a time; the clients that it gives are for any goroutine.
type Redis struct {
	*Process

	// Addr is its host:port.
	Addr string

	cfg  RedisConfig
	dir  string
	args []string
	tls  *tls.Config // of clients; nil: no TLS
}

// StartRedis starts a redis-server and waits until it answers. Nothing that it
// holds at the end of the test may be a secret; see [NoSecrets].
func StartRedis(tb testing.TB, cfg RedisConfig) *Redis {
	tb.Helper()
	r := newRedis(tb, cfg)
	tb.Cleanup(func() { r.noSecrets(tb) }) // After those that end its processes.
	r.start(tb)
	return r
}

const (
	redisConf = "redis.conf"
	dumpFile  = "dump.rdb"
)

// noSecrets looks through what it held when it ended, and through what else is in
// its folder: of one that was killed that is all that there is.
func (r *Redis) noSecrets(tb testing.TB) {
	tb.Helper()
	if r.Process == nil {
		return // It was never there.
	}
	if _, err := os.Stat(filepath.Join(r.dir, dumpFile)); err != nil && r.err == nil {
		tb.Errorf("%s wrote nothing at its end, so that nobody knows whether it held a secret: %v", r.name, err)
	}
	NoSecretsUnder(tb, r.dir, []string{redisConf})
}

// newRedis makes all but the process.
func newRedis(tb testing.TB, cfg RedisConfig) *Redis {
	tb.Helper()
	if cfg.Addr == "" {
		cfg.Addr = FreeAddr(tb)
	}
	r := &Redis{Addr: cfg.Addr, cfg: cfg, dir: tb.TempDir()}
	_, port, err := net.SplitHostPort(cfg.Addr)
	if err != nil {
		tb.Fatal(err)
	}
	conf := []string{
		"bind 127.0.0.1", "daemonize no", "dir " + r.dir, `save ""`, "enable-debug-command yes",
		// A replica gets its copy at once, and nobody is waited for at the end.
		"repl-diskless-sync-delay 0", "shutdown-timeout 0",
		// What it holds can be read when it has ended, whatever a test made of its users
		// and its cluster: keys, and values of every type.
		"shutdown-on-sigterm save", "rdbcompression no", "dbfilename " + dumpFile,
	}
	switch {
	case cfg.User != "":
		conf = append(conf, "user default off", "user "+cfg.User+" on >"+cfg.Password+" ~* &* +@all", "masteruser "+cfg.User, "masterauth "+cfg.Password)
	case cfg.Password != "":
		conf = append(conf, "requirepass "+cfg.Password, "masterauth "+cfg.Password)
	}
	if cfg.MaxMemory != "" {
		conf = append(conf, "maxmemory "+cfg.MaxMemory)
	}
	if cfg.AppendOnly {
		conf = append(conf, "appendonly yes", "appendfsync always")
	}
	if cfg.CA == nil {
		conf = append(conf, "port "+port)
	} else {
		conf = append(conf, "port 0", "tls-port "+port)
		conf = append(conf, r.secure(tb)...)
	}
	r.args = append([]string{r.write(tb, redisConf, conf)}, cfg.Args...)
	return r
}

// write writes a configuration file into its folder.
func (r *Redis) write(tb testing.TB, name string, lines []string) string {
	tb.Helper()
	path := filepath.Join(r.dir, name)
	WriteFile(tb, path, []byte(strings.Join(lines, "\n")+"\n"))
	return path
}

// secure makes the certificates of both sides and returns the configuration.
func (r *Redis) secure(tb testing.TB) []string {
	tb.Helper()
	pair := r.cfg.CA.Issue(tb, Leaf{Name: "redis", IPs: []net.IP{net.IPv4(127, 0, 0, 1)}})
	cert, key := pair.Write(tb, r.dir)
	ca := filepath.Join(r.dir, "ca.crt")
	WriteFile(tb, ca, r.cfg.CA.PEM)
	auth := "no"
	r.tls = &tls.Config{RootCAs: r.cfg.CA.Pool(), MinVersion: tls.VersionTLS12}
	if r.cfg.ClientCerts {
		auth = "yes"
		r.tls.Certificates = []tls.Certificate{pair.TLS(tb)}
	}
	return []string{"tls-cert-file " + cert, "tls-key-file " + key, "tls-ca-cert-file " + ca, "tls-auth-clients " + auth}
}

func (r *Redis) start(tb testing.TB) {
	tb.Helper()
	r.Process = Start(tb, Program{Name: "redis-server " + r.Addr, Path: "redis-server", Args: r.args, Dir: r.dir})
	// Nobody is asked before somebody listens: the client would write about it.
	r.until(tb, "listening", func() bool {
		conn, err := (&net.Dialer{}).DialContext(tb.Context(), "tcp", r.Addr)
		if err != nil {
			return false
		}
		conn.Close()
		return true
	})
	r.until(tb, "an answer", func() bool {
		_, err := r.try(tb.Context(), "ping")
		// By Args it can demand what the configuration does not know.
		return err == nil || strings.Contains(err.Error(), "NOAUTH")
	})
}

// Restart starts it again after it has ended, by [Process.Kill] or otherwise, on
// the same port and with the same files, and waits until it answers. Without
// AppendOnly it has lost everything, unless it had the time to write it down: after
// [Process.Terminate].
func (r *Redis) Restart(tb testing.TB) {
	tb.Helper()
	if r.Running() {
		tb.Fatalf("%s was told to start again while it runs; kill it first", r.name)
	}
	r.start(tb)
}

// URL is its address as kelpie wants it, with its user and without its password.
func (r *Redis) URL() string {
	scheme, user := "redis", ""
	if r.tls != nil {
		scheme = "rediss"
	}
	if r.cfg.User != "" {
		user = r.cfg.User + "@"
	}
	return scheme + "://" + user + r.Addr
}

// TLS is what a client needs to trust it, and to be trusted; nil without TLS.
func (r *Redis) TLS() *tls.Config { return r.tls.Clone() }

// connect makes a client that the caller closes.
func (r *Redis) connect() *redis.Client {
	return redis.NewClient(&redis.Options{
		Addr: r.Addr, Username: r.cfg.User, Password: r.cfg.Password, TLSConfig: r.tls.Clone(),
		Protocol: 2, MaxRetries: -1, DialerRetries: 1, DialTimeout: time.Second, ReadTimeout: patience, DisableIdentity: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
}

// Client is a client of it that retries nothing and is closed with the test.
func (r *Redis) Client(tb testing.TB) *redis.Client {
	tb.Helper()
	client := r.connect()
	tb.Cleanup(func() { _ = client.Close() })
	return client
}

// Do sends a command on a connection of its own and returns the answer, in the
// types of RESP 2: string, int64, []any, nil. It fails the test if there is an
// error.
func (r *Redis) Do(tb testing.TB, args ...any) any {
	tb.Helper()
	answer, err := r.try(tb.Context(), args...)
	if err != nil {
		tb.Fatalf("%s: %v: %v", r.name, args, err)
	}
	return answer
}

func (r *Redis) try(ctx context.Context, args ...any) (any, error) {
	client := r.connect()
	defer func() { _ = client.Close() }() // Nothing is lost with it.
	answer, err := client.Do(ctx, args...).Result()
	if err == redis.Nil { //nolint:errorlint // It is never wrapped here.
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("ask Redis: %w", err)
	}
	return answer, nil
}

// Info is a field of INFO, such as used_memory or role; "" if there is none.
func (r *Redis) Info(tb testing.TB, field string) string {
	tb.Helper()
	return fieldOf(r.Do(tb, "info", "everything"), field)
}

// fieldOf finds a field in lines of name:value.
func fieldOf(text any, field string) string {
	s, _ := text.(string)
	for line := range strings.Lines(s) {
		if value, found := strings.CutPrefix(strings.TrimSpace(line), field+":"); found {
			return value
		}
	}
	return ""
}
