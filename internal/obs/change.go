package obs

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kelpie-authz/kelpie/pdp"
)

// changeCounters count what was done to charges after their decision, by kind
// and by whether the limiter did all of it.
type changeCounters map[pdp.ChangeKind]*[2]prometheus.Counter

func newChangeCounters() (*prometheus.CounterVec, changeCounters) {
	total := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kelpie_limit_changes_total",
		Help: "What was done to charges after their decision: settle, release, reset; failed: the limiter did not do all of it.",
	}, []string{"kind", "outcome"})
	counters := changeCounters{}
	for _, kind := range pdp.ChangeKinds() {
		counters[kind] = &[2]prometheus.Counter{
			total.WithLabelValues(kind.String(), "done"), total.WithLabelValues(kind.String(), "failed"),
		}
	}
	return total, counters
}

func (c changeCounters) count(change *pdp.Change) {
	row := c[change.Kind]
	switch {
	case row == nil:
	case change.Failed:
		row[1].Inc()
	default:
		row[0].Inc()
	}
}

// recordChange writes a line of its own kind, so that nobody takes it for a
// decision. One that failed is for somebody to look at.
func (r *Recorder) recordChange(ctx context.Context, rec *pdp.Record) error {
	r.changes.count(rec.Change)
	level := slog.LevelInfo
	if rec.Change.Failed {
		level = slog.LevelWarn
	}
	line := slog.NewRecord(rec.Time, level, "limits "+rec.Change.Kind.String(), 0)
	line.AddAttrs(changeAttrs(rec)...)
	if err := r.log.Handle(ctx, line); err != nil {
		r.lost.Inc()
		return fmt.Errorf("record the %s of limits: %w", rec.Change.Kind, err)
	}
	return nil
}

// changedLimit is one limit of a change, as the log writes it.
type changedLimit struct {
	Name      string  `json:"name"`
	GivenBack float64 `json:"given_back,omitempty"`
	Charged   float64 `json:"charged,omitempty"`
}

func changeAttrs(rec *pdp.Record) []slog.Attr {
	c := rec.Change
	attrs := []slog.Attr{slog.String("agent", rec.Agent)}
	for _, f := range []field{{"decision_id", rec.DecisionID}, {"gateway", rec.Gateway}, {"as", c.As}} {
		if f.text != "" {
			attrs = append(attrs, slog.String(f.name, f.text))
		}
	}
	switch c.Kind {
	case pdp.ChangeSettled:
		attrs = append(attrs, slog.Any("actual", c.Actual))
	case pdp.ChangeReset:
		attrs = append(attrs, slog.Int("buckets", c.Buckets))
	case pdp.ChangeNone, pdp.ChangeReleased:
	}
	limits := make([]changedLimit, len(c.Limits))
	for i, l := range c.Limits {
		limits[i] = changedLimit(l)
	}
	attrs = append(attrs, slog.Any("limits", limits), slog.Int64("latency_us", rec.Latency.Microseconds()))
	if c.Failed {
		attrs = append(attrs, slog.Bool("failed", true), slog.String("cause", c.Cause))
	}
	return attrs
}
