package app

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kelpie-authz/kelpie/limiter/redislimiter"
	"github.com/kelpie-authz/kelpie/store/redisstore"
)

// shareApprovals opens what keeps the approvals of all replicas.
func (a *App) shareApprovals(ctx context.Context) (*redisstore.Store, error) {
	key, err := redisstore.ReadKey(a.cfg.ApprovalsKeyFile)
	if err != nil {
		return nil, fmt.Errorf("approvals_key_file: %w", err)
	}
	opts, err := redisOptions(&a.cfg.Redis)
	if err != nil {
		return nil, err
	}
	client, err := redislimiter.NewClient(opts)
	if err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	shared, err := redisstore.Open(ctx, redisstore.Config{
		Client: client, Key: key, Prefix: a.cfg.Redis.Prefix, Timeout: a.cfg.Redis.Timeout,
		Alarm: a.sayForged(ctx),
		Tell: func(cause error) {
			if cause == nil {
				a.log.InfoContext(ctx, "Redis answers again: approvals can be asked")
				return
			}
			a.log.WarnContext(ctx, "Redis does not answer: calls that need an approval are denied", slog.Any("error", cause))
		},
	})
	if err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	return shared, a.register(approvalMetrics{shared})
}

// sayForged logs records that do not count, each cause once a minute at most:
// whoever can write one can write many.
func (a *App) sayForged(ctx context.Context) func(string, error) {
	var mu sync.Mutex
	told := map[string]time.Time{}
	return func(name string, why error) {
		mu.Lock()
		defer mu.Unlock()
		now, text := a.deps.Now(), why.Error()
		if now.Sub(told[text]) < time.Minute {
			return
		}
		if len(told) >= 100 {
			clear(told)
		}
		told[text] = now
		a.log.ErrorContext(ctx, "an approval in Redis does not count: find out who writes there", slog.String("key", name), slog.Any("error", why))
	}
}

// approvalMetrics are the counters of the approvals in Redis.
type approvalMetrics struct{ s *redisstore.Store }

//nolint:gochecknoglobals // A constant table; Go has no constant slices.
var approvalMetricTable = []struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	read func(*redisstore.Stats) float64
}{
	{
		prometheus.NewDesc("kelpie_approvals_forged_total", "Records met in Redis that no replica wrote there; each counts as absent.", nil, nil),
		prometheus.CounterValue, func(s *redisstore.Stats) float64 { return float64(s.Forged) },
	},
	{
		prometheus.NewDesc("kelpie_approvals_unsure_total", "Looks at a yes that was given before Redis was restarted or replaced, so that it has to be asked for again.", nil, nil),
		prometheus.CounterValue, func(s *redisstore.Stats) float64 { return float64(s.Unsure) },
	},
	{
		prometheus.NewDesc("kelpie_approvals_failures_total", "Exchanges with Redis about approvals that did not get their answer.", nil, nil),
		prometheus.CounterValue, func(s *redisstore.Stats) float64 { return float64(s.Failures) },
	},
	{
		prometheus.NewDesc("kelpie_approvals_down", "1 while Redis does not answer about approvals, and calls that need one are denied.", nil, nil),
		prometheus.GaugeValue, func(s *redisstore.Stats) float64 {
			if s.Down {
				return 1
			}
			return 0
		},
	},
}

// Describe implements prometheus.Collector.
func (approvalMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, m := range approvalMetricTable {
		out <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (m approvalMetrics) Collect(out chan<- prometheus.Metric) {
	s := m.s.Stats()
	for _, one := range approvalMetricTable {
		out <- prometheus.MustNewConstMetric(one.desc, one.kind, one.read(&s))
	}
}
