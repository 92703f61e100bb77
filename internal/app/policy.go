package app

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kelpie-authz/kelpie/audit"
	"github.com/kelpie-authz/kelpie/internal/policydir"
	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/policy"
	"github.com/kelpie-authz/kelpie/server/adminapi"
)

const (
	// stableAfter is how long the documents must read the same before they are
	// compiled: half of a file that is being written is often a valid policy,
	// one without its last deny rules.
	stableAfter = 100 * time.Millisecond
	// stableTries bounds how often a directory that keeps changing is read.
	stableTries = 20
	// maxShownErrors bounds what health and admin answers hold of a bad edit.
	maxShownErrors = 50
)

// policyStore holds the snapshot in force. It is a pdp.PolicySource.
type policyStore struct {
	dir     string
	now     func() time.Time
	log     *slog.Logger
	metrics policyMetrics
	// note keeps what came of a load in the audit.
	note func(context.Context, *audit.Record)

	snapshot atomic.Pointer[policy.Snapshot]

	loading sync.Mutex // Held for a whole load, so that loads never overtake each other.

	mu     sync.Mutex
	status adminapi.PolicyStatus
	sum    [sha256.Size]byte // Of the documents last tried, good or bad.
}

type policyMetrics struct {
	info     *prometheus.GaugeVec
	loadedAt prometheus.Gauge
	stale    prometheus.Gauge
	reloads  prometheus.Counter
	failures prometheus.Counter
}

func newPolicyMetrics(reg prometheus.Registerer) (policyMetrics, error) {
	m := policyMetrics{
		info: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "kelpie_policy_info", Help: "1 for the version of the policy in force.",
		}, []string{"version"}),
		loadedAt: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kelpie_policy_loaded_timestamp_seconds", Help: "When the policy in force was loaded.",
		}),
		stale: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kelpie_policy_stale", Help: "1 while the files hold a policy that cannot be loaded, so that an older one is in force.",
		}),
		reloads: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kelpie_policy_reloads_total", Help: "Changed policies that were loaded.",
		}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kelpie_policy_reload_failures_total", Help: "Changed policies that could not be loaded.",
		}),
	}
	for _, c := range []prometheus.Collector{m.info, m.loadedAt, m.stale, m.reloads, m.failures} {
		if err := reg.Register(c); err != nil {
			return m, fmt.Errorf("register policy metrics: %w", err)
		}
	}
	return m, nil
}

// openPolicy loads the directory for the first time; any fault is an error.
func openPolicy(ctx context.Context, dir string, now func() time.Time, log *slog.Logger, metrics policyMetrics, note func(context.Context, *audit.Record)) (*policyStore, error) {
	s := &policyStore{dir: dir, now: now, log: log, metrics: metrics, note: note}
	docs, err := policydir.Read(dir)
	if err != nil {
		return nil, fmt.Errorf("load the policy: %w", err)
	}
	if err := s.compile(docs); err != nil {
		return nil, fmt.Errorf("load the policy:\n%w", err)
	}
	note(ctx, &audit.Record{Kind: audit.KindPolicyLoaded, PolicyVersion: s.Snapshot().Version()})
	return s, nil
}

// Snapshot implements pdp.PolicySource.
func (s *policyStore) Snapshot() *policy.Snapshot { return s.snapshot.Load() }

// Status tells how the policy stands; its slice is the caller's own.
func (s *policyStore) Status() adminapi.PolicyStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.status
	out.LastErrors = append([]string(nil), out.LastErrors...)
	return out
}

// reload looks at the directory and loads what changed; with force also what
// did not. A fault leaves the snapshot in force as it is.
func (s *policyStore) reload(ctx context.Context, force bool) error {
	s.loading.Lock()
	defer s.loading.Unlock()
	docs, err := s.readStable(ctx, force)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("reload the policy: %w", ctx.Err())
	case err != nil:
		s.forget()
		return s.failed(ctx, err, force)
	case docs == nil:
		return nil
	}
	before := s.Snapshot().Version()
	if err := s.compile(docs); err != nil {
		return s.failed(ctx, err, force)
	}
	s.metrics.reloads.Inc()
	s.note(ctx, &audit.Record{Kind: audit.KindPolicyLoaded, PolicyVersion: s.Snapshot().Version(), Details: []audit.Member{{Name: "before", Value: before}}})
	s.log.LogAttrs(ctx, slog.LevelInfo, "policy loaded", slog.String("policy_version", s.Snapshot().Version()), slog.String("before", before))
	return nil
}

// readStable returns documents that read the same twice, or nil if they are
// those last tried and force is not set.
func (s *policyStore) readStable(ctx context.Context, force bool) (*policydir.Dir, error) {
	docs, err := policydir.Read(s.dir)
	if err == nil && !force && s.tried(docs.Sum()) {
		return nil, nil //nolint:nilnil // Nothing to load is no error.
	}
	pause := time.NewTimer(stableAfter)
	defer pause.Stop()
	for range stableTries {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-pause.C:
		}
		again, errAgain := policydir.Read(s.dir)
		switch {
		case err != nil && errAgain != nil:
			return nil, errAgain
		case err == nil && errAgain == nil && docs.Sum() == again.Sum():
			return again, nil
		}
		docs, err = again, errAgain
		pause.Reset(stableAfter)
	}
	return nil, errors.New("the policy directory keeps changing; it is looked at again soon")
}

func (s *policyStore) tried(sum [sha256.Size]byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return sum == s.sum
}

// compile puts the documents into force, or nothing.
func (s *policyStore) compile(docs *policydir.Dir) error {
	now := s.now()
	snap, err := policy.Compile(docs.Policy)
	if err == nil {
		// A limit that no limiter can keep would deny every call it matches.
		err = pdp.CheckLimits(snap)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sum = docs.Sum()
	s.status.LastAttempt = now
	if err != nil {
		return err
	}
	counts := snap.Counts()
	s.status = adminapi.PolicyStatus{
		Version: snap.Version(), LoadedAt: now, LastAttempt: now,
		Agents: counts.Agents, Scopes: counts.Scopes, Deny: counts.Deny, Approvals: counts.Approvals, Limits: counts.Limits,
	}
	s.snapshot.Store(snap)
	s.metrics.info.Reset()
	s.metrics.info.WithLabelValues(snap.Version()).Set(1)
	s.metrics.loadedAt.Set(float64(now.UnixMilli()) / 1000)
	s.metrics.stale.Set(0)
	return nil
}

// forget makes the next documents be compiled, whatever they are: after a
// directory could not be read, even the old ones end a fault.
func (s *policyStore) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sum = [sha256.Size]byte{}
}

// failed keeps, counts and logs a fault. One that is already known is not
// logged again unless somebody asked: a directory that cannot be read is
// looked at every two seconds.
func (s *policyStore) failed(ctx context.Context, err error, asked bool) error {
	texts := faultTexts(err)
	s.mu.Lock()
	known := slices.Equal(s.status.LastErrors, texts)
	s.status.LastErrors, s.status.LastAttempt = texts, s.now()
	s.mu.Unlock()
	s.metrics.stale.Set(1)
	if !known {
		s.metrics.failures.Inc()
		s.note(ctx, &audit.Record{Kind: audit.KindPolicyRefused, PolicyVersion: s.Snapshot().Version(), Failed: true, Cause: strings.Join(texts, "\n")})
	}
	if !known || asked {
		s.log.LogAttrs(ctx, slog.LevelError, "the policy could not be loaded; the one in force stays", slog.Any("errors", texts))
	}
	return fmt.Errorf("reload the policy: %w", err)
}

// faultTexts lists the faults one by one, cut to a bounded number.
func faultTexts(err error) []string {
	var texts []string
	if faults, ok := errors.AsType[policy.Errors](err); ok {
		for _, f := range faults {
			texts = append(texts, f.Error())
		}
	} else {
		texts = strings.Split(err.Error(), "\n")
	}
	if n := len(texts); n > maxShownErrors {
		texts = append(texts[:maxShownErrors:maxShownErrors], fmt.Sprintf("and %d more", n-maxShownErrors))
	}
	return texts
}
