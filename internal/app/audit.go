package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kelpie-authz/kelpie/audit"
	"github.com/kelpie-authz/kelpie/audit/fileaudit"
	"github.com/kelpie-authz/kelpie/internal/config"
	"github.com/kelpie-authz/kelpie/internal/obs"
	"github.com/kelpie-authz/kelpie/pdp"
)

// mostTold bounds the faults that are remembered as told.
const mostTold = 100

// buildAudit opens the audit, unless it is switched off.
func (a *App) buildAudit(ctx context.Context) error {
	if a.cfg.Audit.Mode == config.AuditOff {
		a.log.WarnContext(ctx, "there is no audit: what was decided is in the decision log alone, which a crash can cut", slog.String("key", "audit"))
		return nil
	}
	told := map[string]time.Time{}
	var mu sync.Mutex
	log, err := fileaudit.Open(fileaudit.Config{ //nolint:contextcheck // It lives longer than the start.
		Dir: a.auditDir(), KeyFile: a.auditKey(), KeepAge: a.cfg.Audit.KeepAge, KeepBytes: a.cfg.Audit.KeepBytes,
		Now: a.deps.Now,
		Failed: func(err error) {
			mu.Lock()
			defer mu.Unlock()
			// It is tried again and again; of each fault one line a minute is enough.
			if now := a.deps.Now(); told[err.Error()].IsZero() || now.Sub(told[err.Error()]) >= time.Minute {
				if len(told) >= mostTold {
					clear(told)
				}
				told[err.Error()] = now
				a.log.ErrorContext(ctx, "the audit cannot be kept as it should", slog.Any("error", err))
			}
		},
	})
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	a.audit = log
	if lost := log.Lost(); lost > 0 {
		a.log.ErrorContext(ctx, "calls had been answered that the audit could not record before the server ended; the audit notes how many", slog.Uint64("lost", lost))
	}
	found := log.Found()
	switch {
	case found.LostFrom > 0:
		a.log.ErrorContext(ctx, "lines of the audit that were signed are gone; run `kelpie audit verify`",
			slog.Uint64("from", found.LostFrom), slog.Uint64("to", found.LostTo))
	case found.Ended != "" && found.Ended != audit.EndedClosed:
		a.log.WarnContext(ctx, "the audit was not closed; it goes on in a new segment", slog.String("ended", found.Ended), slog.Int64("cut_bytes", found.CutBytes))
	default:
	}
	return a.register(auditMetrics{log})
}

func (a *App) auditDir() string {
	if a.cfg.Audit.Dir != "" {
		return a.cfg.Audit.Dir
	}
	return filepath.Join(a.cfg.State, "audit")
}

func (a *App) auditKey() string {
	if a.cfg.Audit.KeyFile != "" {
		return a.cfg.Audit.KeyFile
	}
	return filepath.Join(a.cfg.State, "audit.key")
}

// audited makes what records decisions keep them in the audit first.
func (a *App) audited(next *obs.Recorder) pdp.Recorder {
	if a.audit == nil {
		return next
	}
	r := &auditing{sink: a.audit, mode: a.cfg.Audit.Mode, next: next}
	r.records.New = func() any { return new(audit.Record) }
	return r
}

// auditing is a pdp.Recorder that keeps each record in the audit, and has it
// logged and counted then.
type auditing struct {
	sink    audit.Sink
	mode    config.AuditMode
	next    *obs.Recorder
	records sync.Pool // *audit.Record
}

// Record implements pdp.Recorder.
func (r *auditing) Record(ctx context.Context, rec *pdp.Record) error {
	return r.pass(ctx, rec, r.keep(ctx, rec, r.durability(rec)))
}

// RecordAll implements pdp.GroupRecorder. A record that is on the disk has all
// before it there as well, so that the last one that has to be waits for all.
func (r *auditing) RecordAll(ctx context.Context, records []*pdp.Record, errs []error) {
	last := len(records) - 1
	for last >= 0 && r.durability(records[last]) == audit.Async {
		last--
	}
	for i, rec := range records {
		d := audit.Async
		if i == last {
			d = audit.Sync
		}
		errs[i] = r.keep(ctx, rec, d)
	}
	for i, rec := range records {
		if last >= 0 && errs[last] != nil && errs[i] == nil && r.durability(rec) != audit.Async {
			errs[i] = errs[last]
		}
		errs[i] = r.pass(ctx, rec, errs[i])
	}
}

// keep has the audit keep a record.
func (r *auditing) keep(ctx context.Context, rec *pdp.Record, d audit.Durability) error {
	line, _ := r.records.Get().(*audit.Record)
	fillAudit(line, rec)
	// A caller who is gone was decided about all the same. Nobody waits for ever:
	// the log refuses all whom the disk does not answer (fileaudit.Config.Stall).
	err := r.sink.Append(context.WithoutCancel(ctx), line, d)
	*line = audit.Record{Limits: line.Limits[:0], Shadow: line.Shadow[:0]}
	r.records.Put(line)
	return err
}

// pass hands on a record that the audit kept, or did not for a cause.
func (r *auditing) pass(ctx context.Context, rec *pdp.Record, cause error) error {
	if cause != nil {
		return r.next.Unaudited(ctx, rec, cause)
	}
	return r.next.Record(ctx, rec)
}

// durability is how safe a record has to be before the answer leaves. What
// changes something is on the disk before it may happen.
func (r *auditing) durability(rec *pdp.Record) audit.Durability {
	switch {
	case r.mode == config.AuditAll:
		return audit.Sync
	case r.mode == config.AuditAsync:
		return audit.Async
	case rec.Event != nil && (rec.Event.Kind == pdp.ApprovalUsed || rec.Event.Kind == pdp.ApprovalGrantUsed || rec.Event.Kind == pdp.ApprovalBreakGlassUsed):
		// The decision that used it is recorded next, and waits for both.
		return audit.Async
	case rec.Change != nil || rec.Event != nil:
		return audit.Sync
	case rec.Verdict == pdp.Allow && !rec.DryRun && (rec.Risk != "read" || rec.ApprovalID != ""):
		return audit.Sync
	default:
		return audit.Async
	}
}

// note keeps what is no decision: a policy that was loaded, for one. It is logged
// anyway, so it need not wait.
func (a *App) note(ctx context.Context, r *audit.Record) {
	if a.audit == nil {
		return
	}
	r.Time = a.deps.Now()
	if err := a.audit.Append(context.WithoutCancel(ctx), r, audit.Async); err != nil {
		a.log.ErrorContext(ctx, "the audit did not take a record", slog.String("kind", string(r.Kind)), slog.Any("error", err))
	}
}

// auditFault is what of the audit does not work now; "" if all does. denies says
// that no call is allowed for that.
func (a *App) auditFault() (fault string, denies bool) {
	if a.audit == nil {
		return "", false
	}
	switch err := a.audit.Err(); {
	case err == nil:
		return "", false
	case errors.Is(err, audit.ErrUnavailable):
		return "no call is allowed: " + err.Error(), true
	default:
		return "calls are recorded and allowed, but the end of the audit is not protected (after 10 s of that none is allowed): " + err.Error(), false
	}
}

func (a *App) closeAudit() error {
	if a.audit == nil {
		return nil
	}
	if err := a.audit.Close(); err != nil {
		a.log.Error("the audit did not end as it should", slog.Any("error", err))
		return err
	}
	return nil
}

// auditMetrics are the counters of the audit.
type auditMetrics struct{ log *fileaudit.Log }

type auditMetric struct {
	desc *prometheus.Desc
	read func(*fileaudit.Stats) uint64
}

func newAuditMetric(name, help string, read func(*fileaudit.Stats) uint64, labels ...string) auditMetric {
	var fixed prometheus.Labels
	if len(labels) == 2 {
		fixed = prometheus.Labels{labels[0]: labels[1]}
	}
	return auditMetric{prometheus.NewDesc("kelpie_audit_"+name, help, nil, fixed), read}
}

//nolint:gochecknoglobals // A constant table; Go has no constant slices.
var auditMetricTable = []auditMetric{
	newAuditMetric("records_total", "Records that the audit took.", func(s *fileaudit.Stats) uint64 { return s.Sync }, "durability", "sync"),
	newAuditMetric("records_total", "Records that the audit took.", func(s *fileaudit.Stats) uint64 { return s.Async }, "durability", "async"),
	newAuditMetric("refused_total", "Records that the audit did not take; no ALLOW left for them.", func(s *fileaudit.Stats) uint64 { return s.Refused }),
	newAuditMetric("stalled_total", "Times that a call waited for room in the audit's queue.", func(s *fileaudit.Stats) uint64 { return s.Stalled }),
	newAuditMetric("bytes_total", "Bytes that were written to the audit.", func(s *fileaudit.Stats) uint64 { return s.Bytes }),
	newAuditMetric("fsyncs_total", "Times that the audit was put on the disk.", func(s *fileaudit.Stats) uint64 { return s.Fsyncs }),
	newAuditMetric("failures_total", "Times that writing the audit began to fail.", func(s *fileaudit.Stats) uint64 { return s.Failures }),
	newAuditMetric("segments_removed_total", "Segments that were removed because of their age or size.", func(s *fileaudit.Stats) uint64 { return s.Removed }),
}

// Describe implements prometheus.Collector.
func (auditMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, m := range auditMetricTable {
		out <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (m auditMetrics) Collect(out chan<- prometheus.Metric) {
	s := m.log.Stats()
	for _, one := range auditMetricTable {
		out <- prometheus.MustNewConstMetric(one.desc, prometheus.CounterValue, float64(one.read(&s)))
	}
}
