// Package obs is how Kelpie is observed: the decision log, one JSON line per
// decision, and the metrics of decisions.
//
// It is not the audit, which is durable before an ALLOW leaves and comes with
// a package of its own; the decision log is written in the background.
//
//	w := obs.NewWriter(os.Stdout, nil)
//	rec, err := obs.NewRecorder(obs.NewLineHandler(w), reg)
//	...
//	svc, err := pdp.New(pdp.Config{Recorder: rec, ...})
package obs

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kelpie-authz/kelpie/pdp"
)

// Recorder is a pdp.Recorder that counts each decision and logs it. A decision
// that could not be logged is counted and reported to pdp, which then answers
// no ALLOW. It is safe for concurrent use.
type Recorder struct {
	log     slog.Handler
	counts  map[pdp.Reason]*[verdicts]prometheus.Counter
	seconds prometheus.Histogram
	dryRuns prometheus.Counter
	lost    prometheus.Counter
	outages map[pdp.Outage]prometheus.Counter
	changes changeCounters
	events  eventCounters
}

const verdicts = int(pdp.RequireApproval) + 1

// NewRecorder returns a recorder that logs through handler, and registers its
// metrics with reg.
func NewRecorder(handler slog.Handler, reg prometheus.Registerer) (*Recorder, error) {
	total := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kelpie_decisions_total",
		Help: "Decisions by verdict and reason. Dry runs are not among them.",
	}, []string{"decision", "reason"})
	r := &Recorder{
		log:    handler,
		counts: make(map[pdp.Reason]*[verdicts]prometheus.Counter),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "kelpie_decision_seconds",
			Help:    "Time from a call's arrival at the decision core to its record; for an item of a batch, from the batch's arrival.",
			Buckets: []float64{1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 5e-2, 0.25, 1},
		}),
		dryRuns: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kelpie_dry_runs_total", Help: "Dry runs decided.",
		}),
		lost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kelpie_decision_log_lost_total", Help: "Decisions that were refused by the log; no ALLOW left for them.",
		}),
	}
	outages := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kelpie_limits_outage_total",
		Help: "Calls whose limits could not be asked, by what came of it: denied, alone (judged by this replica alone), left_out.",
	}, []string{"outcome"})
	r.outages = make(map[pdp.Outage]prometheus.Counter)
	for _, outage := range pdp.Outages() {
		r.outages[outage] = outages.WithLabelValues(outage.String())
	}
	for _, reason := range pdp.AllReasons() {
		var row [verdicts]prometheus.Counter
		for v := range row {
			row[v] = total.WithLabelValues(pdp.Verdict(v).String(), string(reason))
		}
		r.counts[reason] = &row
	}
	changes, counters := newChangeCounters()
	r.changes = counters
	events, eventCounters := newEventCounters()
	r.events = eventCounters
	for _, c := range []prometheus.Collector{total, outages, changes, events, r.seconds, r.dryRuns, r.lost} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register decision metrics: %w", err)
		}
	}
	return r, nil
}

// Record implements pdp.Recorder.
func (r *Recorder) Record(ctx context.Context, rec *pdp.Record) error {
	if rec.Change != nil {
		return r.recordChange(ctx, rec)
	}
	if rec.Event != nil {
		return r.recordEvent(ctx, rec)
	}
	line := slog.NewRecord(rec.Time, slog.LevelInfo, "decision", 0)
	line.AddAttrs(slog.Attr{Value: slog.AnyValue((*decision)(rec))})
	err := r.log.Handle(ctx, line)
	if err != nil {
		r.lost.Inc()
		err = fmt.Errorf("record decision %s: %w", rec.DecisionID, err)
	}
	r.count(rec, err)
	return err
}

// Unaudited is Record for a decision that the audit did not take, for cause: an
// ALLOW leaves as DENY audit_unavailable, and is logged as that. It returns cause.
func (r *Recorder) Unaudited(ctx context.Context, rec *pdp.Record, cause error) error {
	if rec.Change == nil && rec.Event == nil && rec.Verdict == pdp.Allow && !rec.DryRun {
		left := *rec
		left.Verdict, left.Reason, left.Message = pdp.Deny, pdp.ReasonAuditUnavailable, ""
		rec = &left
	}
	_ = r.Record(ctx, rec) // what the log could not take is counted, and the answer is a DENY either way
	return cause
}

// count counts what the caller is answered: an ALLOW that could not be
// recorded leaves as DENY audit_unavailable.
func (r *Recorder) count(rec *pdp.Record, failed error) {
	r.seconds.Observe(rec.Latency.Seconds())
	if rec.Outage != pdp.OutageNone {
		r.countOutage(rec.Outage)
	}
	if rec.DryRun {
		r.dryRuns.Inc()
		return
	}
	verdict, reason := rec.Verdict, rec.Reason
	if failed != nil && verdict == pdp.Allow {
		verdict, reason = pdp.Deny, pdp.ReasonAuditUnavailable
	}
	if row := r.counts[reason]; row != nil && int(verdict) < verdicts {
		row[verdict].Inc()
	}
}

func (r *Recorder) countOutage(outage pdp.Outage) {
	if counter := r.outages[outage]; counter != nil {
		counter.Inc()
	}
}

// decision writes a pdp.Record as the fields of one line. Parameters are there
// by digest only, context and credentials not at all.
type decision pdp.Record

// LogValue implements slog.LogValuer.
func (d *decision) LogValue() slog.Value {
	matched := d.Matched
	if matched == nil {
		matched = []string{}
	}
	attrs := make([]slog.Attr, 0, 29)
	for _, f := range d.required() {
		attrs = append(attrs, slog.String(f.name, f.text))
	}
	attrs = append(attrs, slog.Any("matched", matched), slog.Int64("latency_us", d.Latency.Microseconds()))
	for _, f := range d.optional() {
		if f.text != "" {
			attrs = append(attrs, slog.String(f.name, f.text))
		}
	}
	if d.DryRun {
		attrs = append(attrs, slog.Bool("dry_run", true))
	}
	return slog.GroupValue(attrs...)
}

// appendFields implements lineValue. It is LogValue written out, because every
// call pays for it: going through a list of fields took half of its time.
func (d *decision) appendFields(line []byte) []byte {
	line = appendField(line, `,"decision_id":`, d.DecisionID)
	line = appendField(line, `,"gateway":`, d.Gateway)
	line = appendField(line, `,"agent":`, d.Agent)
	line = appendField(line, `,"subject":`, d.Subject)
	line = appendField(line, `,"action":`, d.Action)
	line = appendField(line, `,"resource":`, d.Resource)
	line = appendField(line, `,"decision":`, d.Verdict.String())
	line = appendField(line, `,"reason":`, string(d.Reason))
	line = appendField(line, `,"policy_version":`, d.PolicyVersion)
	line = append(line, `,"matched":`...)
	line = appendStrings(line, d.Matched)
	line = append(line, `,"latency_us":`...)
	line = strconv.AppendInt(line, d.Latency.Microseconds(), 10)
	line = appendOptional(line, `,"claimed_agent":`, d.ClaimedAgent)
	line = appendOptional(line, `,"source_ip":`, d.SourceIP)
	line = appendOptional(line, `,"risk":`, d.Risk)
	line = appendOptional(line, `,"request_id":`, d.RequestID)
	line = appendOptional(line, `,"session_id":`, d.SessionID)
	line = appendOptional(line, `,"run_id":`, d.RunID)
	line = appendOptional(line, `,"tool":`, d.Tool.Name)
	line = appendOptional(line, `,"tool_server":`, d.Tool.Server)
	line = appendOptional(line, `,"route":`, d.Origin.Route)
	line = appendOptional(line, `,"http_method":`, d.Origin.Method)
	line = appendOptional(line, `,"http_host":`, d.Origin.Host)
	line = appendOptional(line, `,"http_path":`, d.Origin.Path)
	line = appendOptional(line, `,"parameters_digest":`, d.ParametersDigest)
	line = appendOptional(line, `,"approval_id":`, d.ApprovalID)
	line = appendOptional(line, `,"approval_digest":`, d.ApprovalDigest)
	line = appendOptional(line, `,"limits_outage":`, d.Outage.String())
	if d.DryRun {
		line = append(line, `,"dry_run":true`...)
	}
	return line
}

type field struct{ name, text string }

func appendField(line []byte, key, text string) []byte {
	return appendString(append(line, key...), text)
}

func appendOptional(line []byte, key, text string) []byte {
	if text == "" {
		return line
	}
	return appendField(line, key, text)
}

// required are in every line.
func (d *decision) required() [9]field {
	return [...]field{
		{"decision_id", d.DecisionID},
		{"gateway", d.Gateway},
		{"agent", d.Agent},
		{"subject", d.Subject},
		{"action", d.Action},
		{"resource", d.Resource},
		{"decision", d.Verdict.String()},
		{"reason", string(d.Reason)},
		{"policy_version", d.PolicyVersion},
	}
}

// optional are in a line where they have a value.
func (d *decision) optional() [16]field {
	return [...]field{
		{"claimed_agent", d.ClaimedAgent},
		{"source_ip", d.SourceIP},
		{"risk", d.Risk},
		{"request_id", d.RequestID},
		{"session_id", d.SessionID},
		{"run_id", d.RunID},
		{"tool", d.Tool.Name},
		{"tool_server", d.Tool.Server},
		{"route", d.Origin.Route},
		{"http_method", d.Origin.Method},
		{"http_host", d.Origin.Host},
		{"http_path", d.Origin.Path},
		{"parameters_digest", d.ParametersDigest},
		{"approval_id", d.ApprovalID},
		{"approval_digest", d.ApprovalDigest},
		{"limits_outage", d.Outage.String()},
	}
}
