package app

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kelpie-authz/kelpie/audit"
	"github.com/kelpie-authz/kelpie/internal/config"
	"github.com/kelpie-authz/kelpie/internal/obs"
	"github.com/kelpie-authz/kelpie/internal/testkit"
	"github.com/kelpie-authz/kelpie/pdp"
)

// What cannot be recorded is not allowed, and the server says so.
func TestNoAuditNoAllow(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	testkit.WriteFile(t, filepath.Join(dir, "policy.yaml"), []byte(`
scopes: {s: {actions: [read, update], resources: ["**"]}}
agents: {bot: {owner: o@example.com, networks: [any], scopes: [s]}}
limits: {calls: {rate: 1000/second, per: [agent]}}
`))
	for _, mode := range []config.AuditMode{config.AuditWrites, config.AuditAll, config.AuditAsync} {
		cfg := config.Default()
		cfg.Policy, cfg.State, cfg.Audit.Mode = dir, filepath.Join(t.TempDir(), "state"), mode
		cfg.GRPCAddr, cfg.AdminAddr, cfg.HealthAddr = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
		var out, errOut testkit.Buffer
		a, err := New(t.Context(), cfg, Deps{Stdout: &out, Stderr: &errOut, Embedded: true})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- a.Run(ctx) }()
		testkit.Eventually(t, "a server that serves", func() bool { return a.Readiness().Ready })
		ask := func() (dec pdp.Decision) {
			t.Helper()
			if err := a.decider.Authorize(t.Context(), &pdp.Request{Agent: "bot", Action: "update", Resource: "x"}, &dec); err != nil {
				t.Fatal(err)
			}
			return dec
		}
		askAll := func() map[pdp.Reason]int {
			t.Helper()
			one := pdp.Request{Agent: "bot", Action: "update", Resource: "x", RequestID: "batch"}
			decs, err := a.decider.Batch(t.Context(), []pdp.Request{one, one, {Agent: "bot", Action: "read", Resource: "x", RequestID: "batch"}}, pdp.ExecuteAll, nil)
			if err != nil {
				t.Fatal(err)
			}
			reasons := map[pdp.Reason]int{}
			for i := range decs {
				reasons[decs[i].Reason]++
			}
			return reasons
		}
		if got := askAll(); got[pdp.ReasonOK] != 3 {
			t.Errorf("%s: a batch: %v", mode, got)
		}
		if dec := ask(); dec.Verdict != pdp.Allow {
			t.Errorf("%s: %v %v, want ALLOW", mode, dec.Verdict, dec.Reason)
		}
		if err := a.audit.Close(); err != nil {
			t.Fatal(err)
		}
		if dec := ask(); dec.Verdict != pdp.Deny || dec.Reason != pdp.ReasonAuditUnavailable {
			t.Errorf("%s: without an audit: %v %v, want DENY audit_unavailable", mode, dec.Verdict, dec.Reason)
		}
		if got := askAll(); got[pdp.ReasonAuditUnavailable] != 3 {
			t.Errorf("%s: a batch without an audit: %v", mode, got)
		}
		stop()
		if err := testkit.Receive(t, "the end of Run", ended); err != nil {
			t.Error(err)
		}
		if said := out.String(); strings.Count(said, `"decision":"ALLOW"`) != 4 || !strings.Contains(said, `"reason":"audit_unavailable"`) {
			t.Errorf("%s: the decision log says\n%s", mode, said)
		}
	}
}

// A head that cannot be signed is told as what it is: calls are allowed, until
// that lasts too long. A log that is gone is told at once.
func TestReadinessTellsOfTheAudit(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	testkit.WriteFile(t, filepath.Join(dir, "policy.yaml"), []byte(`
scopes: {s: {actions: [read, update], resources: ["**"]}}
agents: {bot: {owner: o@example.com, networks: [any], scopes: [s]}}
limits: {calls: {rate: 1000/second, per: [agent]}}
`))
	cfg := config.Default()
	cfg.Policy, cfg.State = dir, filepath.Join(t.TempDir(), "state")
	cfg.GRPCAddr, cfg.AdminAddr, cfg.HealthAddr = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	var ahead atomic.Int64
	var out, errOut testkit.Buffer
	a, err := New(t.Context(), cfg, Deps{
		Stdout: &out, Stderr: &errOut, Embedded: true,
		Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	testkit.Eventually(t, "a server that serves", func() bool { return a.Readiness().Ready })
	ask := func(action string) pdp.Reason {
		t.Helper()
		var dec pdp.Decision
		if err := a.decider.Authorize(t.Context(), &pdp.Request{Agent: "bot", Action: action, Resource: "x"}, &dec); err != nil {
			t.Fatal(err)
		}
		return dec.Reason
	}
	says := func(text string) bool { return strings.Contains(strings.Join(a.Readiness().Faults, "; "), text) }

	head := filepath.Join(a.auditDir(), "head.json.tmp")
	if err := os.Mkdir(head, 0o700); err != nil {
		t.Fatal(err)
	}
	if got := ask("update"); got != pdp.ReasonOK {
		t.Errorf("a write: %s", got)
	}
	testkit.Eventually(t, "the fault of the head", func() bool { return says("calls are recorded and allowed, but the end of the audit is not protected") })
	if r := a.Readiness(); !r.Ready || says("no call is allowed: ") || ask("update") != pdp.ReasonOK {
		t.Errorf("a head that cannot be signed: %+v", r)
	}
	ahead.Store(int64(time.Minute))
	testkit.Eventually(t, "it has lasted too long", func() bool { return !a.Readiness().Ready && says("no call is allowed: ") })
	for _, action := range []string{"read", "update"} {
		if got := ask(action); got != pdp.ReasonAuditUnavailable {
			t.Errorf("a %s while nothing could be signed for a minute: %s", action, got)
		}
	}
	if err := os.Remove(head); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "all is well", func() bool { return a.Readiness().Ready && len(a.Readiness().Faults) == 0 })
	if got := ask("update"); got != pdp.ReasonOK {
		t.Errorf("a write after that: %s", got)
	}
	if err := os.RemoveAll(a.auditDir()); err != nil {
		t.Fatal(err)
	}
	if got := ask("update"); got != pdp.ReasonAuditUnavailable {
		t.Errorf("a write into a directory that is gone: %s", got)
	}
	if r := a.Readiness(); r.Ready || !says("no call is allowed: ") {
		t.Errorf("a directory that is gone: %+v", r)
	}
	stop()
	if err := testkit.Receive(t, "the end of Run", ended); err == nil || !strings.Contains(errOut.String(), "the audit did not end as it should") {
		t.Errorf("the end without a directory: %v; the log: %s", err, errOut.String())
	}
}

// A disk that does not answer at the end does not keep the process.
func TestWithin(t *testing.T) {
	t.Parallel()
	cause := errors.New("cause")
	if err := within(time.Minute, func() error { return cause }); !errors.Is(err, cause) {
		t.Errorf("what ends in time: %v", err)
	}
	hangs, ended := make(chan struct{}), make(chan struct{})
	if err := within(time.Millisecond, func() error { defer close(ended); <-hangs; return nil }); !errors.Is(err, errNotClosed) {
		t.Errorf("what hangs: %v", err)
	}
	close(hangs)
	testkit.Receive(t, "its end", ended)
}

// Everything that can happen to an approval has a kind in the audit.
func TestApprovalEventsAreAudited(t *testing.T) {
	t.Parallel()
	for _, kind := range pdp.ApprovalEventKinds() {
		var out audit.Record
		fillAudit(&out, &pdp.Record{
			Agent: "bot", ApprovalID: "apr_1", DecisionID: "d1",
			Event: &pdp.ApprovalEvent{Kind: kind, Actor: "ann", How: pdp.KnownByOIDC, Yes: true, VoteID: "v", Why: "because"},
		})
		if !out.Kind.Valid() || out.Decision != "" || out.Actor != "ann" || out.ActorAuth != pdp.KnownByOIDC || out.Why != "because" || out.ApprovalID != "apr_1" {
			t.Errorf("%s: %+v", kind, out)
		}
		if (len(out.Details) == 2) != (kind == pdp.ApprovalVoted) {
			t.Errorf("%s: details %v", kind, out.Details)
		}
	}
}

// What may be done only once is on the disk before it is.
func TestDurability(t *testing.T) {
	t.Parallel()
	event := func(k pdp.ApprovalEventKind) *pdp.Record { return &pdp.Record{Event: &pdp.ApprovalEvent{Kind: k}} }
	for name, tc := range map[string]struct {
		rec         *pdp.Record
		writes, all audit.Durability
	}{
		"a read":                {&pdp.Record{Verdict: pdp.Allow, Risk: "read"}, audit.Async, audit.Sync},
		"a write":               {&pdp.Record{Verdict: pdp.Allow, Risk: "write"}, audit.Sync, audit.Sync},
		"a write that is not":   {&pdp.Record{Verdict: pdp.Deny, Risk: "write"}, audit.Async, audit.Sync},
		"a dry run":             {&pdp.Record{Verdict: pdp.Allow, Risk: "write", DryRun: true}, audit.Async, audit.Sync},
		"an approved read":      {&pdp.Record{Verdict: pdp.Allow, Risk: "read", ApprovalID: "apr_1"}, audit.Sync, audit.Sync},
		"a change":              {&pdp.Record{Change: &pdp.Change{}}, audit.Sync, audit.Sync},
		"a vote":                {event(pdp.ApprovalVoted), audit.Sync, audit.Sync},
		"an approval's opening": {event(pdp.ApprovalOpened), audit.Sync, audit.Sync},
		"an approval's use, which its decision follows": {event(pdp.ApprovalUsed), audit.Async, audit.Sync},
	} {
		for mode, want := range map[config.AuditMode]audit.Durability{
			config.AuditWrites: tc.writes, config.AuditAll: tc.all, config.AuditAsync: audit.Async,
		} {
			r := auditing{mode: mode}
			if got := r.durability(tc.rec); got != want {
				t.Errorf("%s, %s: %s, want %s", name, mode, got, want)
			}
		}
	}
}

// unsure is a sink that takes everything, and puts nothing on the disk.
type unsure struct{ taken int }

func (u *unsure) Append(_ context.Context, _ *audit.Record, d audit.Durability) error {
	u.taken++
	if d == audit.Sync {
		return audit.ErrUnavailable
	}
	return nil
}

func (u *unsure) Close() error { return nil }

// The last record of a batch that has to be on the disk vouches for those before
// it: where it is not there, none that has to be is.
func TestOneRecordVouchesForABatch(t *testing.T) {
	t.Parallel()
	log, err := obs.NewRecorder(slog.DiscardHandler, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	sink := &unsure{}
	r := &auditing{sink: sink, mode: config.AuditWrites, next: log}
	r.records.New = func() any { return new(audit.Record) }
	var records []*pdp.Record
	for _, risk := range []string{"write", "read", "write", "read"} {
		records = append(records, &pdp.Record{Verdict: pdp.Allow, Risk: risk, Reason: pdp.ReasonOK})
	}
	errs := make([]error, len(records))
	r.RecordAll(t.Context(), records, errs)
	for i, lost := range []bool{true, false, true, false} {
		if errors.Is(errs[i], audit.ErrUnavailable) != lost {
			t.Errorf("record %d, %s: %v", i, records[i].Risk, errs[i])
		}
	}
	if sink.taken != 4 {
		t.Errorf("%d records were appended", sink.taken)
	}
}
