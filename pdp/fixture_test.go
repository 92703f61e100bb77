package pdp_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/policy"
)

var testStart = time.Date(2026, 11, 2, 9, 0, 0, 0, time.UTC)

// notesPolicy has one agent for each thing that a test looks at.
const notesPolicy = `
scopes:
  notes.read: {actions: [read], resources: ["notes/**"]}
  notes.delete: {actions: [delete], resources: ["notes/*"]}
  pay: {actions: [pay], resources: ["bank/*"]}
  vault: {actions: [read], resources: ["vault/**"]}
networks:
  office: {cidrs: [10.0.0.0/8]}
agents:
  reader: {owner: team@example.com, scopes: [notes.read], networks: [office]}
  roamer: {owner: team@example.com, scopes: [notes.read], networks: [any]}
  cleaner: {owner: team@example.com, scopes: [notes.read, notes.delete], networks: [office]}
  payer: {owner: team@example.com, scopes: [pay], networks: [office]}
  retired: {owner: team@example.com, suspended: true, scopes: [notes.read], networks: [office]}
approvers:
  security: {members: [lead@example.com, oncall@example.com]}
  finance: {members: [controller@example.com]}
approvals:
  deletes: {match: {actions: [delete]}, approvers: [security], quorum: 2, expires: 10m, use_within: 3m}
  channel: {match: {actions: [pay], when: 'context.channel == "email"'}, approvers: [finance]}
deny:
  locked: {match: {resources: ["notes/locked/**"]}, message: These notes are closed; ask the archive}
limits:
  calls: {rate: 60/minute, burst: 5, per: [agent]}
`

type source struct {
	p atomic.Pointer[policy.Snapshot]
}

func (s *source) Snapshot() *policy.Snapshot { return s.p.Load() }

func compile(tb testing.TB, yaml string) *policy.Snapshot {
	tb.Helper()
	snap, err := policy.Compile([]policy.Document{{Name: "policy.yaml", Data: []byte(yaml)}})
	if err != nil {
		tb.Fatalf("compile: %v", err)
	}
	return snap
}

// clock stands still until it is moved.
type clock struct{ ns atomic.Int64 }

func (c *clock) now() time.Time              { return testStart.Add(time.Duration(c.ns.Load())) }
func (c *clock) advance(d time.Duration)     { c.ns.Add(int64(d)) }
func (c *clock) elapsed() time.Duration      { return time.Duration(c.ns.Load()) }
func noJitter(d time.Duration) time.Duration { return d }

// recorder keeps copies of the records, and fails while err is set.
type recorder struct {
	mu      sync.Mutex
	records []pdp.Record
	err     error
	// fail chooses single records to fail; nil fails none.
	fail func(*pdp.Record) error
}

func (r *recorder) Record(_ context.Context, rec *pdp.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		if err := r.fail(rec); err != nil {
			return err
		}
	}
	if r.err != nil {
		return r.err
	}
	kept := *rec
	kept.Matched = slices.Clone(rec.Matched)
	kept.Limits = slices.Clone(rec.Limits)
	kept.Shadow = slices.Clone(rec.Shadow)
	kept.Warnings = slices.Clone(rec.Warnings)
	r.records = append(r.records, kept)
	return nil
}

func (r *recorder) taken() []pdp.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.records
	r.records = nil
	return out
}

type fixture struct {
	svc    *pdp.Service
	lim    *limiter.Memory
	rec    *recorder
	clock  *clock
	source *source
	panics atomic.Int64
}

func newFixture(tb testing.TB, yaml string, change ...func(*pdp.Config)) *fixture {
	tb.Helper()
	f := &fixture{rec: &recorder{}, clock: &clock{}, source: &source{}}
	f.source.p.Store(compile(tb, yaml))
	lim, err := limiter.NewMemory(limiter.MemoryConfig{Clock: f.clock.now})
	if err != nil {
		tb.Fatalf("limiter: %v", err)
	}
	f.lim = lim
	var ids atomic.Int64
	cfg := pdp.Config{
		Policy: f.source, Limiter: lim, Recorder: f.rec, Now: f.clock.now, Elapsed: f.clock.elapsed,
		NewID:    func() string { return fmt.Sprintf("d-%d", ids.Add(1)) },
		Jitter:   noJitter,
		Panicked: func(string, any, []byte) { f.panics.Add(1) },
	}
	for _, c := range change {
		c(&cfg)
	}
	f.svc, err = pdp.New(cfg)
	if err != nil {
		tb.Fatalf("new: %v", err)
	}
	return f
}

func (f *fixture) ask(tb testing.TB, req *pdp.Request) pdp.Decision {
	tb.Helper()
	var dec pdp.Decision
	if err := f.svc.Authorize(context.Background(), req, &dec); err != nil {
		tb.Fatalf("authorize %s %s %s: %v", req.Agent, req.Action, req.Resource, err)
	}
	return dec
}

func (f *fixture) want(tb testing.TB, req *pdp.Request, v pdp.Verdict, r pdp.Reason, matched ...string) pdp.Decision {
	tb.Helper()
	dec := f.ask(tb, req)
	wantDecision(tb, &dec, v, r, matched...)
	return dec
}

func wantDecision(tb testing.TB, dec *pdp.Decision, v pdp.Verdict, r pdp.Reason, matched ...string) {
	tb.Helper()
	if dec.Verdict != v || dec.Reason != r {
		tb.Errorf("got %v %s (%s, matched %v), want %v %s", dec.Verdict, dec.Reason, dec.Message, dec.Matched, v, r)
	}
	if len(matched) > 0 {
		if diff := cmp.Diff(matched, dec.Matched); diff != "" {
			tb.Errorf("matched (-want +got):\n%s", diff)
		}
	}
}

func call(agent, action, resource string) *pdp.Request {
	return &pdp.Request{Agent: agent, Action: action, Resource: resource, SourceIP: "10.1.2.3"}
}

func with(req *pdp.Request, change func(*pdp.Request)) *pdp.Request {
	out := *req
	change(&out)
	return &out
}

var (
	readNote   = call("reader", "read", "notes/1")
	deleteNote = call("cleaner", "delete", "notes/1")
	payBill    = call("payer", "pay", "bank/rent")
)

var errDown = errors.New("down")

// brokenLimiter fails or panics in front of a real one.
type brokenLimiter struct {
	limiter.Limiter
	// broken is asked before every Take and Peek.
	broken  func(calls []limiter.Call) error
	refunds atomic.Int64
	takes   atomic.Int64
}

func (b *brokenLimiter) Take(ctx context.Context, calls []limiter.Call, stop limiter.Stop) (int, error) {
	b.takes.Add(1)
	if b.broken != nil {
		if err := b.broken(calls); err != nil {
			return 0, err
		}
	}
	return b.Limiter.Take(ctx, calls, stop)
}

func (b *brokenLimiter) Peek(ctx context.Context, calls []limiter.Call) error {
	if b.broken != nil {
		if err := b.broken(calls); err != nil {
			return err
		}
	}
	return b.Limiter.Peek(ctx, calls)
}

func (b *brokenLimiter) Refund(ctx context.Context, r *limiter.Receipt) error {
	b.refunds.Add(1)
	return b.Limiter.Refund(ctx, r)
}

// breakLimiter puts a brokenLimiter in front of the configured one.
func breakLimiter(b *brokenLimiter) func(*pdp.Config) {
	return func(cfg *pdp.Config) {
		b.Limiter = cfg.Limiter
		cfg.Limiter = b
	}
}
