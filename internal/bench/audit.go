package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kelpie-authz/kelpie/audit"
	"github.com/kelpie-authz/kelpie/audit/audittest"
	"github.com/kelpie-authz/kelpie/audit/fileaudit"
)

// auditRatio is what callers of a server that has each answer on the disk first are to
// get of what those of one get that has it there later: many of them share one fsync.
const (
	auditRatio   = 0.6
	auditCallers = 128
)

// logged is what one side wrote in one round.
type logged struct{ perSecond, bytes, perFsync float64 }

// loggedPair is one round, and what an fsync took in it.
type loggedPair struct {
	sync, async logged
	fsync       time.Duration
}

// measureAudit measures what it costs that each decision is on the disk before its
// answer: of a server that serves, and of the log alone.
func measureAudit(ctx context.Context, env *environment) ([]row, error) {
	served, err := measureAuditServed(ctx, env)
	if err != nil {
		return nil, err
	}
	alone, err := measureAuditAlone(ctx, env)
	return append(served, alone...), err
}

// measureAuditServed asks a server that waits for the disk with each answer, and one
// that does so with none.
func measureAuditServed(ctx context.Context, env *environment) ([]row, error) {
	waits, err := env.startKelpie(ctx, "audit-all", env.policy, "--audit", "all")
	if err != nil {
		return nil, err
	}
	defer waits.stop()
	later, err := env.startKelpie(ctx, "audit-async", env.policy, "--audit", "async")
	if err != nil {
		return nil, err
	}
	defer later.stop()
	pairs, err := env.rounds(ctx, auditCallers, waits.side("audit all", env.authorize), later.side("audit async", env.authorize))
	if err != nil {
		return nil, err
	}
	return []row{auditServedRow(pairs[0])}, nil
}

func auditServedRow(pairs []pair) row {
	ratio := median(pairs, func(p pair) float64 { return p.ours.perSecond / p.theirs.perSecond })
	ours, theirs := bothSides(pairs)
	return row{
		what: fmt.Sprintf("Authorize, %d callers, each on the disk before its answer, against later: %.2f x", auditCallers, ratio),
		ours: ours, theirs: theirs, budget: ">= 0.6 x", score: atLeast(ratio, auditRatio),
	}
}

// measureAuditAlone appends to the log of the audit, with and without waiting for the
// disk, in turn. How dear that wait is depends on the disk under the temporary
// directory, so that it is measured beside it; nothing decides as many calls, so that
// there is no budget.
func measureAuditAlone(ctx context.Context, env *environment) (rows []row, err error) {
	dir, err := os.MkdirTemp(filepath.Dir(env.binary), "audit-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for the audit: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	var pairs []loggedPair
	for i := range env.opt.rounds + 1 {
		var p loggedPair
		if p.async, err = appendAll(ctx, filepath.Join(dir, fmt.Sprint("async", i)), audit.Async, env.opt.span); err != nil {
			return nil, err
		}
		if p.sync, err = appendAll(ctx, filepath.Join(dir, fmt.Sprint("sync", i)), audit.Sync, env.opt.span); err != nil {
			return nil, err
		}
		if p.fsync, err = fsyncTime(dir); err != nil {
			return nil, err
		}
		if i > 0 { // the first round warms up
			pairs = append(pairs, p)
		}
	}
	return auditRows(pairs), nil
}

// auditRows are the log with waiting for the disk against the log without.
func auditRows(pairs []loggedPair) []row {
	ratio := median(pairs, func(p loggedPair) float64 { return p.sync.perSecond / p.async.perSecond })
	side := func(pick func(loggedPair) logged) string {
		part := func(f func(logged) float64) float64 {
			return median(pairs, func(p loggedPair) float64 { return f(pick(p)) })
		}
		return fmt.Sprintf("%.0f records/s, %.0f bytes each, %.0f to an fsync", part(func(l logged) float64 { return l.perSecond }),
			part(func(l logged) float64 { return l.bytes }), part(func(l logged) float64 { return l.perFsync }))
	}
	return []row{
		{
			what: fmt.Sprintf("  the log alone, %d callers: %.2f x", auditCallers, ratio),
			ours: side(func(p loggedPair) logged { return p.sync }), theirs: side(func(p loggedPair) logged { return p.async }),
		},
		{
			what: "  an fsync of 64 KiB on that disk, alone",
			ours: time.Duration(median(pairs, func(p loggedPair) float64 { return float64(p.fsync) })).Round(time.Microsecond).String(),
		},
	}
}

// appendAll has so many callers append to a new log for the span, each again as
// soon as it is answered. To write what nobody waited for is part of the time.
func appendAll(ctx context.Context, dir string, d audit.Durability, span time.Duration) (logged, error) {
	l, err := fileaudit.Open(fileaudit.Config{Dir: dir}) //nolint:contextcheck // Its writer lives until Close.
	if err != nil {
		return logged{}, fmt.Errorf("open an audit: %w", err)
	}
	before := l.Stats()
	var callers errgroup.Group
	var n atomic.Int64
	start := time.Now()
	for range auditCallers {
		callers.Go(func() error {
			r := usualRecord()
			own := 0
			whole := context.WithoutCancel(ctx) // As the server has it: a record is written to its end.
			for ctx.Err() == nil && time.Since(start) < span {
				if err := l.Append(whole, &r, d); err != nil {
					return fmt.Errorf("append to an audit: %w", err)
				}
				own++
			}
			n.Add(int64(own))
			return nil
		})
	}
	err = errors.Join(callers.Wait(), l.Close())
	elapsed := time.Since(start)
	after := l.Stats()
	records := float64(n.Load())
	if err == nil && records == 0 {
		err = errWrongAnswer
	}
	return logged{
		perSecond: records / elapsed.Seconds(), bytes: float64(after.Bytes-before.Bytes) / records,
		perFsync: records / float64(max(after.Fsyncs-before.Fsyncs, 1)),
	}, err
}

// usualRecord is a decision as a gateway's call leaves it.
func usualRecord() audit.Record {
	full := audittest.Full()
	return audit.Record{
		Time: full.Time, Kind: full.Kind, DecisionID: "01HZX3V5J9Q8W7E6R5T4Y3U2I1", RequestID: "c2f1a7de", Gateway: full.Gateway, Agent: full.Agent,
		Subject: full.Subject, Action: "records.update", Resource: full.Resource, SourceIP: "10.8.0.5", Risk: "write",
		Decision: "ALLOW", Reason: "ok", Matched: []string{"agents/data-cleaner", "scopes/leads"}, PolicyVersion: full.PolicyVersion,
		Limits:           full.Limits[:1],
		ParametersDigest: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", Latency: full.Latency,
	}
}

// fsyncTime is the median of what it takes to write about what a hundred records are
// and wait for the disk.
func fsyncTime(dir string) (time.Duration, error) {
	f, err := os.Create(filepath.Join(dir, "fsync"))
	if err != nil {
		return 0, fmt.Errorf("try the disk: %w", err)
	}
	block := make([]byte, 64<<10)
	var taken []time.Duration
	for range 31 {
		start := time.Now()
		_, written := f.Write(block)
		if err := errors.Join(written, f.Sync()); err != nil {
			return 0, errors.Join(fmt.Errorf("try the disk: %w", err), f.Close())
		}
		taken = append(taken, time.Since(start))
	}
	slices.Sort(taken)
	if err := f.Close(); err != nil {
		return 0, fmt.Errorf("try the disk: %w", err)
	}
	return taken[len(taken)/2], nil
}
