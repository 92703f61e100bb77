package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kelpie-authz/kelpie/internal/config"
	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/limiter/redislimiter"
	"github.com/kelpie-authz/kelpie/limiter/sqlitejournal"
)

// limits are the parts that keep what was charged.
type limits struct {
	limiter  limiter.Limiter
	fallback limiter.Limiter
	ledger   limiter.Ledger
	replicas func() int
	// shared is the limiter if it is in Redis, else nil; kept is it if not.
	shared *redislimiter.Limiter
	kept   *limiter.Kept
}

// quotasFile is the file of the state directory that keeps what quotas have used,
// where limits are kept in this process.
const quotasFile = "quotas.db"

// buildLimits makes the limiter: in this process, or in Redis with one in this
// process that stands in while Redis is away.
func (a *App) buildLimits(ctx context.Context) error {
	memory, err := limiter.NewMemory(limiter.MemoryConfig{MaxKeys: a.cfg.MaxLimitKeys, Clock: a.deps.Now})
	if err != nil {
		return fmt.Errorf("make the limiter: %w", err)
	}
	if a.cfg.Redis.URL == "" {
		return a.buildKeptLimits(ctx, memory)
	}
	took := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "kelpie_redis_exchange_seconds", Help: "How long exchanges with Redis about limits took.",
		Buckets: prometheus.ExponentialBuckets(50e-6, 2, 13),
	})
	opts, err := redisOptions(&a.cfg.Redis)
	if err != nil {
		return err
	}
	redislimiter.LogTo(func(text string) { a.log.DebugContext(ctx, "the Redis client", slog.String("says", text)) })
	shared, err := redislimiter.New(ctx, redislimiter.Config{
		Options: opts, Prefix: a.cfg.Redis.Prefix, NoCoalescing: a.cfg.Redis.NoCoalescing, NoDenyCache: a.cfg.Redis.NoDenyCache, NoLeases: a.cfg.Redis.NoLeases,
		Observe: func(d time.Duration, _ error) { took.Observe(d.Seconds()) },
		Tell: func(cause error) {
			if cause == nil {
				a.log.InfoContext(ctx, "Redis answers again: limits are judged by it")
				return
			}
			a.log.WarnContext(ctx, "Redis does not answer: limits are judged as their on_unavailable says", slog.Any("error", cause))
		},
		Refused: a.sayRefused(ctx),
		Warn: func(text string) {
			a.log.WarnContext(ctx, "Redis will lose limits some day", slog.String("key", "redis"), slog.String("why", text))
		},
	})
	if err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	a.limits = limits{limiter: shared, fallback: memory, ledger: shared.Ledger(), replicas: shared.Replicas, shared: shared}
	return a.register(took, redisMetrics{shared})
}

// buildKeptLimits makes the limiter in this process, whose quotas outlive it.
func (a *App) buildKeptLimits(ctx context.Context, memory *limiter.Memory) error {
	ledger, err := limiter.NewMemoryLedger(limiter.MemoryLedgerConfig{Clock: a.deps.Now})
	if err != nil {
		return fmt.Errorf("make the ledger: %w", err)
	}
	ctx = context.WithoutCancel(ctx) // A start that is not wanted any more ends in order all the same.
	journal, err := sqlitejournal.Open(ctx, filepath.Join(a.cfg.State, quotasFile))
	if err != nil {
		return fmt.Errorf("limits: %w", err)
	}
	kept, err := limiter.NewKept(ctx, memory, journal)
	if err != nil {
		return errors.Join(fmt.Errorf("limits: %w", err), journal.Close())
	}
	a.limits = limits{limiter: kept, ledger: ledger, kept: kept}
	return nil
}

// sayRefused logs what Redis refuses, each cause once a minute at most.
func (a *App) sayRefused(ctx context.Context) func(error) {
	var mu sync.Mutex
	told := map[string]time.Time{}
	return func(cause error) {
		mu.Lock()
		defer mu.Unlock()
		now, text := a.deps.Now(), cause.Error()
		if now.Sub(told[text]) < time.Minute {
			return
		}
		if len(told) >= 100 {
			clear(told)
		}
		told[text] = now
		a.log.WarnContext(ctx, "Redis refuses to judge calls: their limits are judged as their on_unavailable says", slog.Any("error", cause))
	}
}

// redisOptions reads what the options name. Passwords are read when they are
// needed, so that a file can be changed; it must be there now.
func redisOptions(c *config.Redis) (redislimiter.Options, error) {
	opts := redislimiter.Options{URL: c.URL, Timeout: c.Timeout}
	var err error
	if opts.Password, err = password("redis_password_file", c.PasswordFile, c.Password); err != nil {
		return opts, err
	}
	if opts.SentinelPassword, err = password("redis_sentinel_password_file", c.SentinelPasswordFile, c.SentinelPassword); err != nil {
		return opts, err
	}
	if c.CA == "" && c.Cert == "" {
		return opts, nil
	}
	opts.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return opts, fmt.Errorf("redis_ca: %w", err)
		}
		opts.TLS.RootCAs = x509.NewCertPool()
		if !opts.TLS.RootCAs.AppendCertsFromPEM(pem) {
			return opts, fmt.Errorf("redis_ca: %s holds no certificate in PEM", c.CA)
		}
	}
	if c.Cert != "" {
		pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
		if err != nil {
			return opts, fmt.Errorf("redis_cert, redis_key: %w", err)
		}
		opts.TLS.Certificates = []tls.Certificate{pair}
	}
	return opts, nil
}

// password returns a reader of a password, or nil if there is none.
func password(key, file string, text config.Secret) (func() (string, error), error) {
	switch {
	case file != "":
		read := func() (string, error) {
			raw, err := os.ReadFile(file)
			if err != nil {
				return "", fmt.Errorf("%s: %w", key, err)
			}
			return strings.TrimRight(string(raw), "\r\n"), nil
		}
		secret, err := read()
		if err == nil && secret == "" {
			err = fmt.Errorf("%s: %s is empty", key, file)
		}
		return read, err
	case text != "":
		return func() (string, error) { return string(text), nil }, nil
	default:
		return nil, nil //nolint:nilnil // No password is no error.
	}
}

// close gives back what buildLimits made.
func (l *limits) close() error {
	var errs []error
	for _, c := range []limiter.Limiter{l.limiter, l.fallback} {
		if c != nil {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(errs...)
}

// driver is what spans call the limiter.
func (l *limits) driver() string {
	if l.shared != nil {
		return "redis"
	}
	return "memory"
}

// where tells in which way limits are kept.
func (l *limits) where() string {
	if l.shared != nil {
		return "redis"
	}
	return "in this process"
}

// fault is what of the limits does not work now; "" if all does.
func (l *limits) fault() string {
	if l.shared != nil && l.shared.Stats().Open > 0 {
		return "Redis does not answer: limits are judged as their on_unavailable says"
	}
	if l.kept != nil {
		if err := l.kept.Err(); err != nil {
			return "calls with a quota are judged as its on_unavailable says: " + err.Error()
		}
	}
	return ""
}

// redisMetrics are the counters of the limiter in Redis.
type redisMetrics struct{ l *redislimiter.Limiter }

// redisMetric is one of them.
type redisMetric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	read func(*redislimiter.Stats) int64
}

func newRedisMetric(name, help string, kind prometheus.ValueType, read func(*redislimiter.Stats) int64) redisMetric {
	return redisMetric{prometheus.NewDesc("kelpie_redis_"+name, help, nil, nil), kind, read}
}

//nolint:gochecknoglobals // A constant table; Go has no constant slices.
var redisMetricTable = []redisMetric{
	newRedisMetric("calls_total", "Calls whose limits Redis judged.", prometheus.CounterValue, func(s *redislimiter.Stats) int64 { return s.Calls }),
	newRedisMetric("denied_total", "Calls of those that were not admitted.", prometheus.CounterValue, func(s *redislimiter.Stats) int64 { return s.Denied }),
	newRedisMetric("exchanges_total", "Times that something was sent to Redis and its answer awaited.", prometheus.CounterValue, func(s *redislimiter.Stats) int64 { return s.Exchanges }),
	newRedisMetric("commands_total", "Commands that were sent to Redis.", prometheus.CounterValue, func(s *redislimiter.Stats) int64 { return s.Commands }),
	newRedisMetric("failures_total", "Exchanges with Redis that got no answer, or one that it cannot serve now (loading, read-only, no such password).", prometheus.CounterValue, func(s *redislimiter.Stats) int64 { return s.Failures }),
	newRedisMetric("refused_total", "Exchanges that Redis answered by a refusal (NOPERM: its user may not; OOM: its memory is full); failures_total does not count these.", prometheus.CounterValue, func(s *redislimiter.Stats) int64 { return s.Refused }),
	newRedisMetric("coalesced_total", "Calls that were judged as one with others that are alike.", prometheus.CounterValue, func(s *redislimiter.Stats) int64 { return s.Coalesced }),
	newRedisMetric("deny_cache_hits_total", "Calls that were denied from memory.", prometheus.CounterValue, func(s *redislimiter.Stats) int64 { return s.DenyHits }),
	newRedisMetric("leased_total", "Charges that were paid from units taken ahead.", prometheus.CounterValue, func(s *redislimiter.Stats) int64 { return s.Leased }),
	newRedisMetric("leases_total", "Times that units were taken ahead.", prometheus.CounterValue, func(s *redislimiter.Stats) int64 { return s.Leases }),
	newRedisMetric("lease_units_total", "Units that were taken ahead.", prometheus.CounterValue, func(s *redislimiter.Stats) int64 { return s.LeasedUnits }),
	newRedisMetric("stranded_units_total", "Units of those that nobody spent in time.", prometheus.CounterValue, func(s *redislimiter.Stats) int64 { return s.Stranded / int64(limiter.Unit) }),
	newRedisMetric("restored_total", "Buckets that Redis had lost, or may have, and that were put back.", prometheus.CounterValue, func(s *redislimiter.Stats) int64 { return s.Floors }),
	newRedisMetric("breaker_opened_total", "Times that a server of Redis was given up until it answers again.", prometheus.CounterValue, func(s *redislimiter.Stats) int64 { return s.Opened }),
	newRedisMetric("breaker_open", "Servers of Redis that do not answer now.", prometheus.GaugeValue, func(s *redislimiter.Stats) int64 { return s.Open }),
}

// Describe implements prometheus.Collector.
func (redisMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, m := range redisMetricTable {
		out <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (r redisMetrics) Collect(out chan<- prometheus.Metric) {
	s := r.l.Stats()
	for _, m := range redisMetricTable {
		out <- prometheus.MustNewConstMetric(m.desc, m.kind, float64(m.read(&s)))
	}
}
