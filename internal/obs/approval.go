package obs

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kelpie-authz/kelpie/pdp"
)

// eventCounters count what happened to approvals, by kind and by whether it
// counted: a vote can be refused.
type eventCounters map[pdp.ApprovalEventKind]*[2]prometheus.Counter

func newEventCounters() (*prometheus.CounterVec, eventCounters) {
	total := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kelpie_approval_events_total",
		Help: "What happened to approvals: opened, vote, approved, consumed, ...; failed: a vote that does not count.",
	}, []string{"kind", "outcome"})
	counters := eventCounters{}
	for _, kind := range pdp.ApprovalEventKinds() {
		counters[kind] = &[2]prometheus.Counter{
			total.WithLabelValues(kind.String(), "done"), total.WithLabelValues(kind.String(), "failed"),
		}
	}
	return total, counters
}

func (c eventCounters) count(event *pdp.ApprovalEvent) {
	row := c[event.Kind]
	switch {
	case row == nil:
	case event.Failed:
		row[1].Inc()
	default:
		row[0].Inc()
	}
}

// recordEvent writes a line of its own kind, so that nobody takes it for a
// decision.
func (r *Recorder) recordEvent(ctx context.Context, rec *pdp.Record) error {
	r.events.count(rec.Event)
	level := slog.LevelInfo
	if rec.Event.Failed {
		level = slog.LevelWarn
	}
	line := slog.NewRecord(rec.Time, level, "approval "+rec.Event.Kind.String(), 0)
	line.AddAttrs(eventAttrs(rec)...)
	if err := r.log.Handle(ctx, line); err != nil {
		r.lost.Inc()
		return fmt.Errorf("record that an approval was %s: %w", rec.Event.Kind, err)
	}
	return nil
}

func eventAttrs(rec *pdp.Record) []slog.Attr {
	e := rec.Event
	attrs := []slog.Attr{slog.String("approval_id", rec.ApprovalID)}
	for _, f := range []field{
		{"approval_digest", rec.ApprovalDigest},
		{"decision_id", rec.DecisionID},
		{"request_id", rec.RequestID},
		{"gateway", rec.Gateway},
		{"agent", rec.Agent},
		{"subject", rec.Subject},
		{"action", rec.Action},
		{"resource", rec.Resource},
		{"risk", rec.Risk},
		{"policy_version", rec.PolicyVersion},
		{"actor", e.Actor},
		{"actor_auth", e.How},
		{"vote_id", e.VoteID},
		{"why", e.Why},
	} {
		if f.text != "" {
			attrs = append(attrs, slog.String(f.name, f.text))
		}
	}
	if e.Kind == pdp.ApprovalVoted {
		attrs = append(attrs, slog.Bool("yes", e.Yes))
	}
	if e.Failed {
		attrs = append(attrs, slog.Bool("failed", true), slog.String("cause", e.Cause))
	}
	return attrs
}
