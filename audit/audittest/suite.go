// Package audittest is the conformance suite of [audit.Sink] and [audit.Reader]:
// what every way of keeping records does, wherever it keeps them. It is for
// tests only.
//
//	func TestSink(t *testing.T) {
//		report := audittest.Run(t, audittest.Driver{
//			Open: func(tb testing.TB, dir string) audit.Sink { ... },
//			Kept: func(tb testing.TB, dir string) []audit.Record { ... },
//		})
//		if report.Ran != audittest.Cases() { ... }
//	}
package audittest

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/audit"
)

// Driver is what the suite runs against.
type Driver struct {
	// Open returns a sink that keeps its records in dir, after those that are
	// there. It is called many times, also at once for different directories.
	Open func(tb testing.TB, dir string) audit.Sink
	// Kept reads what is kept in dir, in order and without the log's own notes,
	// also while a sink is open.
	Kept func(tb testing.TB, dir string) []audit.Record
	// NoSync says why the driver takes Async records alone; NoReader why it is
	// no [audit.Reader]. Their cases are left out, and counted as such.
	NoSync, NoReader string
}

// Report says what became of the suite's cases. The caller compares Ran with
// the number it expects, so that a case that silently does not run is noticed.
type Report struct {
	Ran     int
	LeftOut []string
}

// testCase is one promise of the contract.
type testCase struct {
	name string
	// sync and reader are set if the case needs them.
	sync, reader bool
	run          func(t *testing.T, d Driver)
}

// Cases is how many cases the suite has.
func Cases() int { return len(allCases()) }

func allCases() []testCase { return slices.Concat(sinkCases(), readerCases()) }

// Run runs every case that the driver can run, as a parallel subtest, and
// returns when all are done.
func Run(t *testing.T, d Driver) Report {
	t.Helper()
	var ran atomic.Int64
	var report Report
	t.Run("suite", func(t *testing.T) {
		for _, c := range allCases() {
			if (c.sync && d.NoSync != "") || (c.reader && d.NoReader != "") {
				report.LeftOut = append(report.LeftOut, c.name)
				continue
			}
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				c.run(t, d)
				ran.Add(1)
			})
		}
	})
	if len(report.LeftOut) > 0 {
		t.Logf("%d cases left out (%s%s): %s", len(report.LeftOut), d.NoSync, d.NoReader, strings.Join(report.LeftOut, ", "))
	}
	report.Ran = int(ran.Load())
	return report
}

// fixture is one open sink with its directory.
type fixture struct {
	*testing.T
	audit.Sink

	d      Driver
	dir    string
	opened bool
}

func setup(t *testing.T, d Driver) *fixture {
	t.Helper()
	f := &fixture{T: t, d: d, dir: t.TempDir()}
	f.open()
	t.Cleanup(func() {
		if f.opened {
			f.close()
		}
	})
	return f
}

func (f *fixture) open() {
	f.Helper()
	f.Sink, f.opened = f.d.Open(f.T, f.dir), true
}

func (f *fixture) close() {
	f.Helper()
	f.opened = false
	if err := f.Close(); err != nil {
		f.Errorf("Close: %v", err)
	}
}

// kept closes the sink and returns what it kept.
func (f *fixture) kept() []audit.Record {
	f.Helper()
	f.close()
	return f.d.Kept(f.T, f.dir)
}

// durability is the safest one that the driver takes.
func (f *fixture) durability() audit.Durability {
	if f.d.NoSync != "" {
		return audit.Async
	}
	return audit.Sync
}

func (f *fixture) append(r *audit.Record) {
	f.Helper()
	if err := f.Append(context.Background(), r, f.durability()); err != nil {
		f.Fatalf("Append: %v", err)
	}
}

// noon is the time of the first record: an ordinary Wednesday.
func noon() time.Time { return time.Date(2026, time.June, 17, 12, 0, 0, 123456789, time.UTC) }

// Full is a decision that has a value in every field of a record that a sink
// keeps, for tests that must not forget one.
func Full() audit.Record {
	return audit.Record{
		Time: noon(), Kind: audit.KindDecision,
		DecisionID: "d-1", RequestID: "r-1", SessionID: "s-1", RunID: "run-1",
		Gateway: "gateways/crm", Agent: "data-cleaner", ClaimedAgent: "cleaner", Subject: "ann@example.com",
		ActorChain: []string{"planner", "worker"}, Actor: "bob@example.com", ActorAuth: "mtls",
		Method: "Approve", Target: "approval/a-1",
		Action: "records.delete", Resource: "salesforce/leads/42", SourceIP: "2001:db8::1", Risk: "delete",
		Tool: "delete_record", ToolServer: "crm-tools",
		Route: "http/crm", HTTPMethod: "DELETE", HTTPHost: "crm.example.com", HTTPPath: "/leads/42", Cost: 12.5,
		Decision: "ALLOW", Reason: "ok_approved", Message: "approved by two", Matched: []string{"scopes/leads", "approvals/deletes"},
		PolicyVersion: "sha256:0123",
		Limits: []audit.Limit{
			{Name: "calls", Limit: 60, Remaining: 59, Reset: 1500 * time.Millisecond},
			{Name: "tokens", GivenBack: 0.25, Charged: 3},
		},
		ApprovalID: "a-1", ApprovalDigest: "sha256:4567", GrantID: "g-1",
		ParametersDigest: "89ab", ParametersState: "complete",
		Shown:   []audit.Member{{Name: "id", Value: "42"}, {Name: "note", Value: "duplicate"}},
		Latency: 1234 * time.Microsecond, DryRun: true, Outage: "alone",
		Warnings: []string{"the credential is 80 days old"},
		Shadow:   []audit.Shadow{{Rule: "limits/new", Decision: "DENY", Reason: "rate_limited"}},
		Why:      "asked by the owner", Details: []audit.Member{{Name: "quorum", Value: "2"}},
		Failed: true, Cause: "the store was away",
	}
}

// decision is a small record with a number in it.
func decision(n int) audit.Record {
	return audit.Record{
		Time: noon().Add(time.Duration(n) * time.Second), Kind: audit.KindDecision,
		Agent: "reader", Action: "read", Resource: "leads/42", Decision: "ALLOW", Reason: "ok", DecisionID: id(n),
	}
}
