package pdp_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/pdp"
)

type identifier func(*pdp.Request) (pdp.Identity, error)

func (f identifier) Identify(_ context.Context, r *pdp.Request, _ time.Time) (pdp.Identity, error) {
	return f(r)
}

type revocations map[string]pdp.Reason

func (r revocations) Revoked(id *pdp.Identity, _ time.Time) pdp.Reason { return r[id.Agent] }

func identify(f identifier) func(*pdp.Config) { return func(c *pdp.Config) { c.Identifier = f } }

func TestEstablishedIdentityDecides(t *testing.T) {
	t.Parallel()
	f := newFixture(t, notesPolicy, identify(func(r *pdp.Request) (pdp.Identity, error) {
		switch r.Subject {
		case "as reader":
			return pdp.Identity{Agent: "reader", Subject: "user@example.com"}, nil
		case "refused":
			return pdp.Identity{Agent: "reader", Denied: pdp.ReasonTokenInvalid}, nil
		case "nonsense":
			return pdp.Identity{Agent: "a/../b"}, nil
		case "nobody":
			return pdp.Identity{}, nil
		default:
			return pdp.Identity{}, errDown
		}
	}))
	ask := func(agent, subject string) *pdp.Request {
		return with(readNote, func(r *pdp.Request) { r.Agent, r.Subject = agent, subject })
	}
	f.want(t, ask("", "as reader"), pdp.Allow, pdp.ReasonOK, "grants/reader/notes.read")
	f.want(t, ask("ghost", "as reader"), pdp.Allow, pdp.ReasonOK)
	recs := f.rec.taken()
	if recs[1].Agent != "reader" || recs[1].ClaimedAgent != "ghost" || recs[1].Subject != "user@example.com" {
		t.Errorf("record of %q (claimed %q) for %q", recs[1].Agent, recs[1].ClaimedAgent, recs[1].Subject)
	}
	f.want(t, ask("reader", "refused"), pdp.Deny, pdp.ReasonTokenInvalid)
	f.want(t, ask("reader", "nonsense"), pdp.Deny, pdp.ReasonUnauthenticatedIdentity)
	f.want(t, ask("reader", "nobody"), pdp.Deny, pdp.ReasonUnauthenticatedIdentity)
	f.want(t, ask("reader", "down"), pdp.Deny, pdp.ReasonDependencyUnavailable)
	var dec pdp.Decision
	var bad *pdp.InvalidError
	if err := f.svc.Authorize(context.Background(), ask("a/../b", "as reader"), &dec); !errors.As(err, &bad) {
		t.Errorf("a malformed claim: %v, want an InvalidError", err)
	}
}

// Revocation stands between suspension and network.
func TestRevocationInItsPlace(t *testing.T) {
	t.Parallel()
	all := revocations{
		"reader": pdp.ReasonAgentRevoked, "retired": pdp.ReasonAgentRevoked, "ghost": pdp.ReasonAgentRevoked,
		"cleaner": pdp.ReasonCredentialRevoked, "roamer": pdp.ReasonDependencyUnavailable,
	}
	f := newFixture(t, notesPolicy, func(c *pdp.Config) { c.Revocations = all })
	f.want(t, readNote, pdp.Deny, pdp.ReasonAgentRevoked)
	f.want(t, call("ghost", "read", "notes/1"), pdp.Deny, pdp.ReasonAgentUnknown)
	f.want(t, call("retired", "read", "notes/1"), pdp.Deny, pdp.ReasonAgentSuspended)
	f.want(t, with(readNote, func(r *pdp.Request) { r.SourceIP = "192.0.2.1" }), pdp.Deny, pdp.ReasonAgentRevoked)
	f.want(t, call("reader", "read", "notes/locked/1"), pdp.Deny, pdp.ReasonAgentRevoked)
	f.want(t, deleteNote, pdp.Deny, pdp.ReasonCredentialRevoked)
	f.want(t, call("roamer", "read", "notes/1"), pdp.Deny, pdp.ReasonDependencyUnavailable)
	f.want(t, call("payer", "sing", "bank/x"), pdp.Deny, pdp.ReasonNoMatchingScope)
}

func TestUnrecordedAllowIsDenied(t *testing.T) {
	t.Parallel()
	broken := &brokenLimiter{}
	f := newFixture(t, notesPolicy, breakLimiter(broken))
	f.rec.err = errDown
	dec := f.want(t, readNote, pdp.Deny, pdp.ReasonAuditUnavailable)
	if len(dec.Matched) != 0 || len(dec.Limits) != 0 || dec.Next != pdp.NextRetry || dec.RetryAfter <= 0 {
		t.Errorf("answer %+v, want nothing of the ALLOW, and a retry", dec)
	}
	f.want(t, call("reader", "read", "vault/x"), pdp.Deny, pdp.ReasonInsufficientScope)
	f.want(t, deleteNote, pdp.RequireApproval, pdp.ReasonApprovalRequired)
	dry := f.ask(t, with(readNote, func(r *pdp.Request) { r.DryRun = true }))
	if dry.Verdict != pdp.VerdictNone || dry.WouldBe != pdp.Deny {
		t.Errorf("dry run %v, would be %v; want DENY", dry.Verdict, dry.WouldBe)
	}
	f.rec.err = nil
	f.wantRoom(t, 5)
	if broken.refunds.Load() != 1 {
		t.Errorf("%d refunds, want 1", broken.refunds.Load())
	}
}

func TestRecord(t *testing.T) {
	t.Parallel()
	f := newFixture(t, notesPolicy, func(c *pdp.Config) {
		var n time.Duration
		c.Elapsed = func() time.Duration { n += 3 * time.Millisecond; return n }
	})
	dec := f.ask(t, &pdp.Request{
		Agent: "roamer", Action: "read", Resource: "notes/1", SourceIP: "::ffff:10.1.2.3", RequestID: "r", Subject: "user@example.com",
		SessionID: "s", RunID: "u", Tool: pdp.Tool{Server: "srv", Name: "tool"}, ParametersJSON: []byte(`{"secret":"hunter2"}`),
		Context: map[string]any{"secret": "hunter2"}, Cost: 2, Gateway: "edge",
	})
	want := []pdp.Record{{
		Time: testStart, DecisionID: dec.ID, Gateway: "edge", Agent: "roamer", Subject: "user@example.com",
		Action: "read", Resource: "notes/1", SourceIP: "10.1.2.3", RequestID: "r", SessionID: "s", RunID: "u",
		Tool: pdp.Tool{Server: "srv", Name: "tool"}, Cost: 2,
		ParametersDigest: "b9d265c19d7fcd97cdd4a49018334176747b5dadb9c651f3ef74a88da13c5f9e",
		Verdict:          pdp.Allow, Reason: pdp.ReasonOK, Message: "Granted.", Matched: []string{"grants/roamer/notes.read"}, Risk: "read",
		PolicyVersion: f.source.Snapshot().Version(), Limits: []pdp.LimitStatus{{Name: "calls", Limit: 5, Remaining: 4, Reset: time.Second}},
		Latency: 3 * time.Millisecond,
	}}
	if diff := cmp.Diff(want, f.rec.taken(), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}

func TestRecordOfTheOtherVerdicts(t *testing.T) {
	t.Parallel()
	f := newFixture(t, notesPolicy, keep(&approvals{answers: answers{open: status(pdp.FoundOpened)}}))
	f.ask(t, deleteNote)
	f.ask(t, call("reader", "read", "vault/x"))
	recs := f.rec.taken()
	if len(recs) != 2 {
		t.Fatalf("%d records, want 2", len(recs))
	}
	if r := recs[0]; r.Verdict != pdp.RequireApproval || r.ApprovalID != "ap-1" || len(r.ApprovalDigest) != 64 || r.Risk != "delete" {
		t.Errorf("record %+v, want REQUIRE_APPROVAL with its approval", r)
	}
	if r := recs[1]; r.Verdict != pdp.Deny || r.Reason != pdp.ReasonInsufficientScope || r.ApprovalDigest != "" {
		t.Errorf("record %+v, want DENY insufficient_scope and nothing of the call before", r)
	}
}

func TestRecordOfTheMalformedIsBounded(t *testing.T) {
	t.Parallel()
	f := newFixture(t, notesPolicy)
	long := string(make([]byte, 1<<20))
	var dec pdp.Decision
	req := &pdp.Request{
		Agent: long, Action: long, Resource: long, SourceIP: long, RequestID: long, Subject: long,
		SessionID: long, RunID: long, Tool: pdp.Tool{Server: long, Name: long},
	}
	if err := f.svc.Judge(context.Background(), req, &dec); err != nil {
		t.Fatal(err)
	}
	r := f.rec.taken()[0]
	total := len(r.Agent) + len(r.ClaimedAgent) + len(r.Subject) + len(r.Action) + len(r.Resource) + len(r.SourceIP) +
		len(r.RequestID) + len(r.SessionID) + len(r.RunID) + len(r.Tool.Name) + len(r.Tool.Server) + len(r.Message)
	if total > 4096 {
		t.Errorf("the record holds %d bytes of nonsense", total)
	}
}

// A panic in one call is that call's DENY, is recorded, and costs nothing.
func TestPanicIsContained(t *testing.T) {
	t.Parallel()
	approved := &approvals{answers: answers{find: status(pdp.FoundApproved)}}
	for name, tc := range map[string]struct {
		change func(*pdp.Config)
		req    *pdp.Request
	}{
		"identity":    {identify(func(*pdp.Request) (pdp.Identity, error) { panic(errDown) }), readNote},
		"revocations": {func(c *pdp.Config) { c.Revocations = panickingRevocations{} }, readNote},
		"find":        {keep(&approvals{panicked: errDown}), deleteNote},
		"consume":     {func(c *pdp.Config) { c.Approvals = &panickingConsume{approvals: approved} }, deleteNote},
		"take":        {breakLimiter(&brokenLimiter{broken: func([]limiter.Call) error { panic(errDown) }}), readNote},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, notesPolicy, tc.change)
			for range 3 {
				dec := f.want(t, tc.req, pdp.Deny, pdp.ReasonInternalError)
				if dec.ID == "" || dec.Approval != nil || dec.Next != pdp.NextRetry {
					t.Errorf("answer %+v", dec)
				}
			}
			recs := f.rec.taken()
			if len(recs) != 3 || recs[0].Reason != pdp.ReasonInternalError {
				t.Errorf("records %+v, want three of internal_error", recs)
			}
			if f.panics.Load() != 3 {
				t.Errorf("told of %d panics, want 3", f.panics.Load())
			}
			if name == "consume" {
				wantLeft(t, f, "cleaner", 5)
			}
		})
	}
}

type panickingRevocations struct{}

func (panickingRevocations) Revoked(*pdp.Identity, time.Time) pdp.Reason { panic(errDown) }

type panickingConsume struct{ *approvals }

func (panickingConsume) Consume(context.Context, *pdp.ApprovalAsk, pdp.ApprovalStatus) (pdp.ApprovalStatus, error) {
	panic(errDown)
}

func TestPanickingRecorderIsNoRecord(t *testing.T) {
	t.Parallel()
	f := newFixture(t, notesPolicy, func(c *pdp.Config) {
		c.Recorder = pdp.RecorderFunc(func(context.Context, *pdp.Record) error { panic(errDown) })
	})
	f.want(t, readNote, pdp.Deny, pdp.ReasonAuditUnavailable)
	f.want(t, deleteNote, pdp.RequireApproval, pdp.ReasonApprovalRequired)
}
