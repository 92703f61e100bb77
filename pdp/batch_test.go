package pdp_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/pdp"
)

// batchPolicy has limits that a few calls fill, shared and not, in shadow and
// by cost, so that the order within a batch matters.
var batchPolicy = limited(`  calls: {rate: 60/minute, burst: 4, per: [agent]}
  shared: {quota: 7/hour, per: [all]}
  money: {quota: 3/day, per: [agent], count: cost, match: {agents: [roamer]}}
  tight: {window: 2/1m, per: [agent], shadow: true}
  sized: {rate: 60/minute, burst: 2, per: [agent, resource], match: {resources: [notes/big], when: "parameters.size > 3"}}
`)

var batchCalls = []pdp.Request{
	*readNote,
	*call("roamer", "read", "notes/1"),
	*with(call("roamer", "read", "notes/1"), func(r *pdp.Request) { r.Cost = 2 }),
	*with(call("roamer", "read", "notes/1"), func(r *pdp.Request) { r.Cost = 50 }),
	*call("reader", "read", "vault/x"),
	*call("ghost", "read", "notes/1"),
	*call("reader", "read", "notes/locked/1"),
	*call("reader", "read", "notes/big"),
	*with(call("reader", "read", "notes/big"), func(r *pdp.Request) { r.ParametersJSON = []byte(`{"size":9}`) }),
	*with(call("roamer", "read", "notes/big"), func(r *pdp.Request) { r.ParametersJSON = []byte(`{"size":1}`) }),
	*deleteNote,
	*call("cleaner", "read", "notes/1"),
	*call("", "read", "notes/1"),
	*with(readNote, func(r *pdp.Request) { r.ParametersJSON = []byte(`{`) }),
	*with(readNote, func(r *pdp.Request) { r.SourceIP = "192.0.2.1" }),
}

// approvalCalls are few, so that one batch asks for the same approval often.
var approvalCalls = []pdp.Request{*deleteNote, *call("cleaner", "delete", "notes/2"), *call("cleaner", "read", "notes/1"), *readNote}

func drawBatch(r *rapid.T, from []pdp.Request, withDryRuns bool) []pdp.Request {
	idx := rapid.SliceOfN(rapid.IntRange(0, len(from)-1), 1, 24).Draw(r, "requests")
	out := make([]pdp.Request, len(idx))
	for i, k := range idx {
		out[i] = from[k]
		out[i].RequestID = fmt.Sprint(i)
		out[i].DryRun = withDryRuns && rapid.IntRange(0, 3).Draw(r, "dry run") == 0
	}
	return out
}

// effective is the verdict that a short circuit goes by.
func effective(d *pdp.Decision) pdp.Verdict {
	if d.Verdict == pdp.VerdictNone {
		return d.WouldBe
	}
	return d.Verdict
}

// inTurn is what a batch has to equal: one call after the other.
func inTurn(r *rapid.T, f *fixture, reqs []pdp.Request, sem pdp.Semantic) []pdp.Decision {
	var out []pdp.Decision
	for i := range reqs {
		var dec pdp.Decision
		if err := f.svc.Judge(context.Background(), &reqs[i], &dec); err != nil {
			r.Fatal(err)
		}
		out = append(out, dec)
		allowed := effective(&dec) == pdp.Allow
		if (sem == pdp.DenyOnFirstDeny && !allowed) || (sem == pdp.PermitOnFirstPermit && allowed) {
			break
		}
	}
	return out
}

var (
	sameButID = cmp.Options{cmpopts.IgnoreFields(pdp.Decision{}, "ID"), cmpopts.EquateEmpty()}
	sameRec   = cmp.Options{cmpopts.IgnoreFields(pdp.Record{}, "DecisionID", "Latency"), cmpopts.EquateEmpty()}
)

// testBatchEqualsInTurn sends the same batches to two services that start
// alike, one as batches and one call by call, and compares answers, records
// and, through the batches that follow, what was charged.
func testBatchEqualsInTurn(t *testing.T, from []pdp.Request, dryRuns bool, change ...func(*pdp.Config)) {
	t.Helper()
	rapid.Check(t, func(r *rapid.T) {
		one, all := newFixture(t, batchPolicy, change...), newFixture(t, batchPolicy, change...)
		var decs []pdp.Decision
		for range rapid.IntRange(1, 4).Draw(r, "batches") {
			reqs := drawBatch(r, from, dryRuns)
			sem := rapid.SampledFrom([]pdp.Semantic{pdp.ExecuteAll, pdp.DenyOnFirstDeny, pdp.PermitOnFirstPermit}).Draw(r, "semantic")
			want := inTurn(r, one, reqs, sem)
			var err error
			decs, err = all.svc.Batch(context.Background(), reqs, sem, decs)
			if err != nil {
				r.Fatal(err)
			}
			if diff := cmp.Diff(want, decs, sameButID); diff != "" {
				r.Fatalf("answers (-in turn +batch):\n%s", diff)
			}
			if diff := cmp.Diff(one.rec.taken(), all.rec.taken(), sameRec); diff != "" {
				r.Fatalf("records (-in turn +batch):\n%s", diff)
			}
			step := time.Duration(rapid.IntRange(0, 3000).Draw(r, "milliseconds")) * time.Millisecond
			one.clock.advance(step)
			all.clock.advance(step)
		}
		if one.panics.Load()+all.panics.Load() != 0 {
			r.Fatal("a panic")
		}
	})
}

func TestBatchEqualsInTurn(t *testing.T) {
	t.Parallel()
	testBatchEqualsInTurn(t, batchCalls, false)
}

func TestBatchWithDryRunsEqualsInTurn(t *testing.T) {
	t.Parallel()
	testBatchEqualsInTurn(t, batchCalls, true)
}

func TestBatchWithApprovalsEqualsInTurn(t *testing.T) {
	t.Parallel()
	testBatchEqualsInTurn(t, approvalCalls, false, func(c *pdp.Config) { c.Approvals = newOneUse() })
}

func TestBatchWithFailingLimiterEqualsInTurn(t *testing.T) {
	t.Parallel()
	testBatchEqualsInTurn(t, batchCalls, false, func(c *pdp.Config) {
		c.Limiter = &fullLimiter{Limiter: c.Limiter}
	})
}

// fullLimiter fails on every call that costs more than one, and judges those
// before it, as the contract says.
type fullLimiter struct{ limiter.Limiter }

func (l *fullLimiter) Take(ctx context.Context, calls []limiter.Call, stop limiter.Stop) (int, error) {
	bad := slices.IndexFunc(calls, func(c limiter.Call) bool {
		return slices.ContainsFunc(c.Charges, func(ch limiter.Charge) bool { return ch.Cost > limiter.Unit })
	})
	if bad < 0 {
		return l.Limiter.Take(ctx, calls, stop)
	}
	n, err := l.Limiter.Take(ctx, calls[:bad], stop)
	if err != nil || (n > 0 && n == bad && stopped(&calls[n-1], stop)) || n < bad {
		return n, err
	}
	return n, limiter.ErrFull
}

func stopped(c *limiter.Call, stop limiter.Stop) bool {
	return (stop == limiter.StopAtDenied && !c.Result.Admitted) || (stop == limiter.StopAtAdmitted && c.Result.Admitted)
}

// oneUse approves every second ask for a digest: open, use, open, use.
type oneUse struct{ open map[string]bool }

func newOneUse() *oneUse { return &oneUse{open: map[string]bool{}} }

func (o *oneUse) Find(_ context.Context, ask *pdp.ApprovalAsk) (pdp.ApprovalStatus, error) {
	if o.open[ask.Digest] {
		return status(pdp.FoundApproved), nil
	}
	return pdp.ApprovalStatus{}, nil
}

func (o *oneUse) Open(_ context.Context, ask *pdp.ApprovalAsk) (pdp.ApprovalStatus, error) {
	o.open[ask.Digest] = true
	return status(pdp.FoundOpened), nil
}

func (o *oneUse) Consume(_ context.Context, ask *pdp.ApprovalAsk, _ pdp.ApprovalStatus) (pdp.ApprovalStatus, error) {
	if !o.open[ask.Digest] {
		return status(pdp.FoundConsumed), nil
	}
	delete(o.open, ask.Digest)
	return status(pdp.FoundApproved), nil
}

func batch(tb testing.TB, f *fixture, sem pdp.Semantic, reqs ...*pdp.Request) []pdp.Decision {
	tb.Helper()
	var in []pdp.Request
	for _, r := range reqs {
		in = append(in, *r)
	}
	decs, err := f.svc.Batch(context.Background(), in, sem, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return decs
}

func verdicts(decs []pdp.Decision) []pdp.Verdict {
	var out []pdp.Verdict
	for i := range decs {
		out = append(out, decs[i].Verdict)
	}
	return out
}

func TestBatchSemantics(t *testing.T) {
	t.Parallel()
	denied := call("reader", "read", "vault/x")
	for _, tc := range []struct {
		name string
		sem  pdp.Semantic
		reqs []*pdp.Request
		want []pdp.Verdict
		left int64
	}{
		{
			"execute_all", pdp.ExecuteAll,
			[]*pdp.Request{readNote, denied, readNote, deleteNote, readNote},
			[]pdp.Verdict{pdp.Allow, pdp.Deny, pdp.Allow, pdp.RequireApproval, pdp.Allow},
			2,
		},
		{
			"deny_on_first_deny ends at a rule's DENY", pdp.DenyOnFirstDeny,
			[]*pdp.Request{readNote, denied, readNote},
			[]pdp.Verdict{pdp.Allow, pdp.Deny},
			4,
		},
		{
			"deny_on_first_deny ends at REQUIRE_APPROVAL", pdp.DenyOnFirstDeny,
			[]*pdp.Request{readNote, deleteNote, readNote},
			[]pdp.Verdict{pdp.Allow, pdp.RequireApproval},
			4,
		},
		{
			"deny_on_first_deny ends at a limit's DENY", pdp.DenyOnFirstDeny,
			[]*pdp.Request{readNote, readNote, readNote, readNote, readNote, readNote, call("roamer", "read", "notes/1"), denied},
			[]pdp.Verdict{pdp.Allow, pdp.Allow, pdp.Allow, pdp.Allow, pdp.Allow, pdp.Deny},
			0,
		},
		{
			"permit_on_first_permit ends at the first ALLOW", pdp.PermitOnFirstPermit,
			[]*pdp.Request{denied, deleteNote, readNote, readNote, denied},
			[]pdp.Verdict{pdp.Deny, pdp.RequireApproval, pdp.Allow},
			4,
		},
		{
			"permit_on_first_permit without an ALLOW", pdp.PermitOnFirstPermit,
			[]*pdp.Request{denied, denied},
			[]pdp.Verdict{pdp.Deny, pdp.Deny},
			5,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			broken := &brokenLimiter{}
			f := newFixture(t, notesPolicy, breakLimiter(broken))
			decs := batch(t, f, tc.sem, tc.reqs...)
			if diff := cmp.Diff(tc.want, verdicts(decs)); diff != "" {
				t.Errorf("verdicts (-want +got):\n%s", diff)
			}
			if n := len(f.rec.taken()); n != len(tc.want) {
				t.Errorf("%d records, want %d", n, len(tc.want))
			}
			if broken.refunds.Load() != 0 {
				t.Error("something behind the end was charged and given back: meanwhile it can deny others")
			}
			if broken.takes.Load() > 1 {
				t.Errorf("the limiter was asked %d times, want at most once", broken.takes.Load())
			}
			f.wantRoom(t, tc.left)
		})
	}
}

func TestBatchNamesEveryDecision(t *testing.T) {
	t.Parallel()
	f := newFixture(t, notesPolicy)
	seen := map[string]bool{}
	for _, d := range batch(t, f, pdp.ExecuteAll, readNote, readNote, deleteNote) {
		if d.ID == "" || seen[d.ID] || d.PolicyVersion == "" {
			t.Errorf("decision %+v has no id or version of its own", d)
		}
		seen[d.ID] = true
	}
}

func TestBatchOfTheWrongSize(t *testing.T) {
	t.Parallel()
	f := newFixture(t, notesPolicy)
	for _, tc := range []struct {
		n     int
		sem   pdp.Semantic
		field string
	}{{0, pdp.ExecuteAll, "requests"}, {pdp.MaxBatch + 1, pdp.ExecuteAll, "requests"}, {1, 9, "semantic"}} {
		_, err := f.svc.Batch(context.Background(), make([]pdp.Request, tc.n), tc.sem, nil)
		var bad *pdp.InvalidError
		if !errors.As(err, &bad) || bad.Field != tc.field {
			t.Errorf("%d items, semantic %d: %v, want an error of %s", tc.n, tc.sem, err, tc.field)
		}
	}
	decs, err := f.svc.Batch(context.Background(), make([]pdp.Request, pdp.MaxBatch), pdp.ExecuteAll, nil)
	if err != nil || len(decs) != pdp.MaxBatch || decs[999].Reason != pdp.ReasonParametersInvalid {
		t.Errorf("a batch of %d: %d answers, %v", pdp.MaxBatch, len(decs), err)
	}
}

// One item's panic is that item's DENY alone.
func TestPanicOfOneItem(t *testing.T) {
	t.Parallel()
	f := newFixture(t, notesPolicy, identify(func(r *pdp.Request) (pdp.Identity, error) {
		if r.RequestID == "boom" {
			panic(errDown)
		}
		return pdp.Identity{Agent: r.Agent}, nil
	}))
	boom := with(readNote, func(r *pdp.Request) { r.RequestID = "boom" })
	decs := batch(t, f, pdp.ExecuteAll, readNote, boom, readNote)
	if diff := cmp.Diff([]pdp.Verdict{pdp.Allow, pdp.Deny, pdp.Allow}, verdicts(decs)); diff != "" {
		t.Errorf("verdicts (-want +got):\n%s", diff)
	}
	wantDecision(t, &decs[1], pdp.Deny, pdp.ReasonInternalError)
	if recs := f.rec.taken(); len(recs) != 3 || recs[1].Reason != pdp.ReasonInternalError {
		t.Errorf("records %+v", recs)
	}
}

func TestPanicOfTheLimiterDeniesTheBatch(t *testing.T) {
	t.Parallel()
	f := newFixture(t, notesPolicy, breakLimiter(&brokenLimiter{broken: func([]limiter.Call) error { panic(errDown) }}))
	decs := batch(t, f, pdp.ExecuteAll, readNote, deleteNote, readNote)
	wantDecision(t, &decs[0], pdp.Deny, pdp.ReasonInternalError)
	wantDecision(t, &decs[1], pdp.RequireApproval, pdp.ReasonApprovalRequired)
	wantDecision(t, &decs[2], pdp.Deny, pdp.ReasonInternalError)
}

// What cannot be recorded is not allowed, also in a batch, and what a short
// circuit cuts off is not charged.
func TestBatchWhoseRecordsFail(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		sem  pdp.Semantic
		want []pdp.Reason
		left int64
	}{
		{pdp.ExecuteAll, []pdp.Reason{pdp.ReasonOK, pdp.ReasonAuditUnavailable, pdp.ReasonOK}, 3},
		{pdp.DenyOnFirstDeny, []pdp.Reason{pdp.ReasonOK, pdp.ReasonAuditUnavailable}, 4},
	} {
		f := newFixture(t, notesPolicy)
		f.rec.fail = failRequest("lost")
		decs := batch(t, f, tc.sem, readNote, with(readNote, func(r *pdp.Request) { r.RequestID = "lost" }), readNote)
		wantReasons(t, decs, tc.want...)
		f.wantRoom(t, tc.left)
	}
	f := newFixture(t, notesPolicy)
	f.rec.fail = failRequest("lost")
	decs := batch(t, f, pdp.PermitOnFirstPermit, with(readNote, func(r *pdp.Request) { r.RequestID = "lost" }), readNote, readNote)
	wantReasons(t, decs, pdp.ReasonAuditUnavailable, pdp.ReasonOK)
	f.wantRoom(t, 4)
}

// together is a recorder that is asked for whole batches.
type together struct {
	pdp.Recorder

	sizes []int
	panic bool
}

func (r *together) RecordAll(ctx context.Context, records []*pdp.Record, errs []error) {
	r.sizes = append(r.sizes, len(records))
	if r.panic {
		panic("no more ink")
	}
	for i, record := range records {
		errs[i] = r.Record(ctx, record)
	}
}

// Items of a batch that none of them can end are recorded at once, also through
// what looks at records; what then was not kept is not allowed, and costs nothing.
func TestBatchIsRecordedTogether(t *testing.T) {
	t.Parallel()
	lost := with(readNote, func(r *pdp.Request) { r.RequestID = "lost" })
	denied := call("reader", "sing", "notes/1")
	for name, tc := range map[string]struct {
		sem   pdp.Semantic
		panic bool
		sizes []int
		want  []pdp.Reason
		left  int64
	}{
		"all":        {pdp.ExecuteAll, false, []int{4}, []pdp.Reason{pdp.ReasonOK, pdp.ReasonAuditUnavailable, pdp.ReasonNoMatchingScope, pdp.ReasonOK}, 3},
		"all, panic": {pdp.ExecuteAll, true, []int{4}, []pdp.Reason{pdp.ReasonAuditUnavailable, pdp.ReasonAuditUnavailable, pdp.ReasonNoMatchingScope, pdp.ReasonAuditUnavailable}, 5},
		"until one":  {pdp.DenyOnFirstDeny, false, nil, []pdp.Reason{pdp.ReasonOK, pdp.ReasonAuditUnavailable}, 4},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var group *together
			told := 0
			f := newFixture(t, notesPolicy, func(c *pdp.Config) {
				group = &together{Recorder: c.Recorder, panic: tc.panic}
				c.Recorder = pdp.Observe(group, func(_ context.Context, r *pdp.Record, err error) {
					if told++; (err != nil) != (r.RequestID == "lost") {
						t.Errorf("%s: told %v", r.RequestID, err)
					}
				})
			})
			f.rec.fail = failRequest("lost")
			wantReasons(t, batch(t, f, tc.sem, readNote, lost, denied, readNote), tc.want...)
			if !slices.Equal(group.sizes, tc.sizes) || (!tc.panic && told != len(tc.want)) || (f.panics.Load() != 0) != tc.panic {
				t.Errorf("asked for %v, told of %d, %d panics", group.sizes, told, f.panics.Load())
			}
			group.panic = false
			f.wantRoom(t, tc.left)
		})
	}
}

func failRequest(id string) func(*pdp.Record) error {
	return func(r *pdp.Record) error {
		if r.RequestID == id {
			return errDown
		}
		return nil
	}
}

func wantReasons(tb testing.TB, decs []pdp.Decision, want ...pdp.Reason) {
	tb.Helper()
	var got []pdp.Reason
	for i := range decs {
		got = append(got, decs[i].Reason)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		tb.Errorf("reasons (-want +got):\n%s", diff)
	}
}

// A context that ends while the limiter works takes the batch's charges back.
func TestBatchThatNobodyWaitsFor(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(context.Background())
	f := newFixture(t, notesPolicy, func(c *pdp.Config) { c.Limiter = &endingLimiter{Limiter: c.Limiter, cancel: cancel} })
	if decs, err := f.svc.Batch(ctx, []pdp.Request{*readNote, *readNote}, pdp.ExecuteAll, nil); !errors.Is(err, context.Canceled) || decs != nil {
		t.Errorf("%d answers, %v; want the context's error", len(decs), err)
	}
	if n := len(f.rec.taken()); n != 0 {
		t.Errorf("%d records", n)
	}
	f.wantRoom(t, 5)
}

// endingLimiter judges the first call and then reports that ctx has ended.
type endingLimiter struct {
	limiter.Limiter
	cancel func()
}

func (l *endingLimiter) Take(ctx context.Context, calls []limiter.Call, stop limiter.Stop) (int, error) {
	n, err := l.Limiter.Take(ctx, calls[:1], stop)
	if err != nil {
		return n, err
	}
	l.cancel()
	return n, ctx.Err()
}
