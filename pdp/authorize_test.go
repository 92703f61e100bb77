package pdp_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/pdp"
)

func TestNewNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	lim, err := limiter.NewMemory(limiter.MemoryConfig{})
	if err != nil {
		t.Fatal(err)
	}
	full := pdp.Config{Policy: &source{}, Limiter: lim, Recorder: &recorder{}}
	for name, change := range map[string]func(*pdp.Config){
		"Policy":   func(c *pdp.Config) { c.Policy = nil },
		"Limiter":  func(c *pdp.Config) { c.Limiter = nil },
		"Recorder": func(c *pdp.Config) { c.Recorder = nil },
	} {
		cfg := full
		change(&cfg)
		if _, err := pdp.New(cfg); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: error %v, want one that names it", name, err)
		}
	}
	svc, err := pdp.New(full)
	if err != nil {
		t.Fatal(err)
	}
	dec := pdp.Decision{Verdict: pdp.Allow}
	if err := svc.Authorize(context.Background(), readNote, &dec); !errors.Is(err, pdp.ErrNoPolicy) {
		t.Errorf("without a policy: %v, want ErrNoPolicy", err)
	}
	if dec.Verdict != pdp.VerdictNone {
		t.Errorf("without a policy the verdict stayed %v", dec.Verdict)
	}
}

func TestAllow(t *testing.T) {
	t.Parallel()
	f := newFixture(t, notesPolicy)
	got := f.ask(t, with(readNote, func(r *pdp.Request) { r.RequestID = "r-1" }))
	want := pdp.Decision{
		Verdict: pdp.Allow, Reason: pdp.ReasonOK, Message: "Granted.", ID: "d-1",
		PolicyVersion: f.source.Snapshot().Version(), Matched: []string{"grants/reader/notes.read"}, Next: pdp.NextNone,
		Limits:    []pdp.LimitStatus{{Name: "calls", Limit: 5, Remaining: 4, Reset: time.Second}},
		RequestID: "r-1",
	}
	if diff := cmp.Diff(want, got, ignoreEmpty); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// ignoreEmpty holds nil and empty slices equal: a reused decision has the latter.
var ignoreEmpty = cmp.FilterValues(func(a, b []string) bool { return len(a) == 0 && len(b) == 0 }, cmp.Ignore())

func TestReasons(t *testing.T) {
	t.Parallel()
	f := newFixture(t, notesPolicy)
	for _, tc := range []struct {
		name    string
		req     *pdp.Request
		verdict pdp.Verdict
		reason  pdp.Reason
		next    pdp.NextAction
		matched string
	}{
		{"an agent nobody knows", call("ghost", "read", "notes/1"), pdp.Deny, pdp.ReasonAgentUnknown, pdp.NextNone, ""},
		{"a suspended agent", call("retired", "read", "notes/1"), pdp.Deny, pdp.ReasonAgentSuspended, pdp.NextNone, ""},
		{"another network", with(readNote, func(r *pdp.Request) { r.SourceIP = "192.0.2.1" }), pdp.Deny, pdp.ReasonIPNotAllowed, pdp.NextNone, ""},
		{"no address", with(readNote, func(r *pdp.Request) { r.SourceIP = "" }), pdp.Deny, pdp.ReasonIPNotAllowed, pdp.NextNone, ""},
		{"any admits no address", with(call("roamer", "read", "notes/1"), func(r *pdp.Request) { r.SourceIP = "" }), pdp.Allow, pdp.ReasonOK, pdp.NextNone, ""},
		{"a deny rule", call("reader", "read", "notes/locked/1"), pdp.Deny, pdp.ReasonActionDenied, pdp.NextNone, "deny/locked"},
		{"a scope that others may have", call("reader", "read", "vault/x"), pdp.Deny, pdp.ReasonInsufficientScope, pdp.NextRequest, ""},
		{"nothing covers it", call("reader", "sing", "notes/1"), pdp.Deny, pdp.ReasonNoMatchingScope, pdp.NextNone, ""},
		{"a human is needed", deleteNote, pdp.RequireApproval, pdp.ReasonApprovalRequired, pdp.NextWait, "approvals/deletes"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			dec := f.ask(t, tc.req)
			wantDecision(t, &dec, tc.verdict, tc.reason)
			if dec.Next != tc.next {
				t.Errorf("next %d, want %d", dec.Next, tc.next)
			}
			if tc.matched != "" && (len(dec.Matched) == 0 || dec.Matched[0] != tc.matched) {
				t.Errorf("matched %v, want %s first", dec.Matched, tc.matched)
			}
			if dec.Message == "" || dec.ID == "" || dec.PolicyVersion == "" {
				t.Errorf("message, id or version is missing: %+v", dec)
			}
		})
	}
}

func TestMessageOfADenyRuleWins(t *testing.T) {
	t.Parallel()
	f := newFixture(t, notesPolicy)
	dec := f.want(t, call("reader", "read", "notes/locked/1"), pdp.Deny, pdp.ReasonActionDenied, "deny/locked")
	if want := "These notes are closed; ask the archive"; dec.Message != want {
		t.Errorf("message %q, want %q", dec.Message, want)
	}
}

func TestInsufficientScopeNamesTheScopes(t *testing.T) {
	t.Parallel()
	f := newFixture(t, notesPolicy)
	dec := f.want(t, call("reader", "read", "vault/x"), pdp.Deny, pdp.ReasonInsufficientScope)
	if diff := cmp.Diff([]string{"vault"}, dec.RequiredScopes); diff != "" {
		t.Errorf("required scopes (-want +got):\n%s", diff)
	}
}

var malformed = []struct {
	field string
	spoil func(*pdp.Request)
}{
	{"agent", func(r *pdp.Request) { r.Agent = "" }},
	{"agent", func(r *pdp.Request) { r.Agent = "a/../b" }},
	{"action", func(r *pdp.Request) { r.Action = "" }},
	{"action", func(r *pdp.Request) { r.Action = "read..all" }},
	{"resource", func(r *pdp.Request) { r.Resource = "" }},
	{"resource", func(r *pdp.Request) { r.Resource = "notes/../bank" }},
	{"resource", func(r *pdp.Request) { r.Resource = "notes/%2e%2e/bank" }},
	{"source_ip", func(r *pdp.Request) { r.SourceIP = "10.1.2.3:80" }},
	{"source_ip", func(r *pdp.Request) { r.SourceIP = "fe80::1%eth0" }},
	{"source_ip", func(r *pdp.Request) { r.SourceIP = "010.1.2.3" }},
	{"request_id", func(r *pdp.Request) { r.RequestID = "a\nb" }},
	{"request_id", func(r *pdp.Request) { r.RequestID = strings.Repeat("x", 257) }},
	{"subject", func(r *pdp.Request) { r.Subject = "a\x00" }},
	{"subject", func(r *pdp.Request) { r.Subject = "\xff" }},
	{"session_id", func(r *pdp.Request) { r.SessionID = "\x1b[0m" }},
	{"run_id", func(r *pdp.Request) { r.RunID = "\x7f" }},
	{"tool.name", func(r *pdp.Request) { r.Tool.Name = "a\tb" }},
	{"tool.server", func(r *pdp.Request) { r.Tool.Server = "a\rb" }},
	{"parameters_json", func(r *pdp.Request) { r.ParametersJSON = []byte(`{"a":1,"a":2}`) }},
	{"parameters_json", func(r *pdp.Request) { r.ParametersJSON = []byte(`[]`) }},
	{"parameters_json", func(r *pdp.Request) { r.ParametersState = pdp.ParametersComplete }},
	{"parameters_json", func(r *pdp.Request) { r.ParametersState, r.ParametersJSON = pdp.ParametersTruncated, []byte(`{}`) }},
	{"parameters_json", func(r *pdp.Request) { r.ParametersState, r.ParametersJSON = pdp.ParametersNotSeen, []byte(`{}`) }},
	{"parameters_state", func(r *pdp.Request) { r.ParametersState = 99 }},
	{"context", func(r *pdp.Request) { r.Context = map[string]any{"x": struct{}{}} }},
	{"cost", func(r *pdp.Request) { r.Cost = -1 }},
	{"approval_id", func(r *pdp.Request) { r.ApprovalID = "ap-1" }},
}

func TestMalformedIsNoDecision(t *testing.T) {
	t.Parallel()
	for _, tc := range malformed {
		f := newFixture(t, notesPolicy)
		req := with(readNote, tc.spoil)
		dec := pdp.Decision{Verdict: pdp.Allow, WouldBe: pdp.Allow}
		err := f.svc.Authorize(context.Background(), req, &dec)
		var bad *pdp.InvalidError
		if !errors.As(err, &bad) || bad.Field != tc.field || bad.Why == "" {
			t.Errorf("%+v: error %v, want one of %s", req, err, tc.field)
		}
		if dec.Verdict != pdp.VerdictNone || dec.WouldBe != pdp.VerdictNone {
			t.Errorf("%s: the verdict stayed %v", tc.field, dec.Verdict)
		}
		if n := len(f.rec.taken()); n != 0 {
			t.Errorf("%s: %d records of a call that was not decided", tc.field, n)
		}
	}
}

func TestJudgeDeniesTheMalformed(t *testing.T) {
	t.Parallel()
	for _, tc := range malformed {
		f := newFixture(t, notesPolicy)
		req := with(readNote, tc.spoil)
		var dec pdp.Decision
		if err := f.svc.Judge(context.Background(), req, &dec); err != nil {
			t.Fatalf("%s: %v", tc.field, err)
		}
		wantDecision(t, &dec, pdp.Deny, pdp.ReasonParametersInvalid)
		if len(dec.Message) < len("The request is malformed: x.") {
			t.Errorf("%s: message %q does not say what is wrong", tc.field, dec.Message)
		}
		if n := len(f.rec.taken()); n != 1 {
			t.Errorf("%s: %d records, want 1", tc.field, n)
		}
		f.wantRoom(t, 5)
	}
}

// wantRoom checks that the reader has n calls left, without spending them.
func (f *fixture) wantRoom(tb testing.TB, n int64) {
	tb.Helper()
	dec := f.ask(tb, with(readNote, func(r *pdp.Request) { r.DryRun = true }))
	f.rec.taken()
	for _, l := range dec.Limits {
		if l.Name == "calls" {
			if l.Remaining != n {
				tb.Errorf("%d calls left, want %d", l.Remaining, n)
			}
			return
		}
	}
	tb.Errorf("the dry run reports no limit: %+v", dec)
}

func TestParametersUnseenAreNotAbsentButAllowed(t *testing.T) {
	t.Parallel()
	f := newFixture(t, notesPolicy)
	for _, state := range []pdp.ParametersState{pdp.ParametersTruncated, pdp.ParametersNotSeen} {
		f.want(t, with(readNote, func(r *pdp.Request) { r.ParametersState = state }), pdp.Allow, pdp.ReasonOK)
	}
	f.want(t, with(readNote, func(r *pdp.Request) { r.ParametersJSON = []byte(`{"a":1}`) }), pdp.Allow, pdp.ReasonOK)
	for _, state := range []pdp.ParametersState{pdp.ParametersTruncated, pdp.ParametersNotSeen} {
		f.want(t, with(deleteNote, func(r *pdp.Request) { r.ParametersState = state }), pdp.Deny, pdp.ReasonParametersUnavailable)
	}
}

func TestDryRunSpendsNothingAndOpensNoDoor(t *testing.T) {
	t.Parallel()
	f := newFixture(t, notesPolicy)
	for range 20 {
		dec := f.ask(t, with(readNote, func(r *pdp.Request) { r.DryRun = true }))
		if dec.Verdict != pdp.VerdictNone || dec.WouldBe != pdp.Allow || dec.Reason != pdp.ReasonOK {
			t.Fatalf("got %v, would be %v %s; want UNSPECIFIED, would be ALLOW", dec.Verdict, dec.WouldBe, dec.Reason)
		}
	}
	for _, r := range f.rec.taken() {
		if !r.DryRun || r.Verdict != pdp.Allow {
			t.Fatalf("record %+v, want a dry run's ALLOW", r)
		}
	}
	f.wantRoom(t, 5)
	for range 5 {
		f.want(t, readNote, pdp.Allow, pdp.ReasonOK)
	}
	dec := f.ask(t, with(readNote, func(r *pdp.Request) { r.DryRun = true }))
	if dec.Verdict != pdp.VerdictNone || dec.WouldBe != pdp.Deny || dec.Reason != pdp.ReasonRateLimited {
		t.Errorf("got %v, would be %v %s; want DENY rate_limited", dec.Verdict, dec.WouldBe, dec.Reason)
	}
}

func TestEndedContextIsNoDecision(t *testing.T) {
	t.Parallel()
	f := newFixture(t, notesPolicy)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var dec pdp.Decision
	if err := f.svc.Authorize(ctx, readNote, &dec); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want the context's", err)
	}
	if _, err := f.svc.Batch(ctx, []pdp.Request{*readNote}, pdp.ExecuteAll, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("batch: error %v, want the context's", err)
	}
	if err := f.lim.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.svc.Authorize(context.Background(), readNote, &dec); !errors.Is(err, limiter.ErrClosed) {
		t.Errorf("error %v, want ErrClosed", err)
	}
	if dec.Verdict != pdp.VerdictNone {
		t.Errorf("verdict %v of a call that was not decided", dec.Verdict)
	}
	if n := len(f.rec.taken()); n != 0 {
		t.Errorf("%d records of calls that were not decided", n)
	}
}

func TestDecisionIsReused(t *testing.T) {
	t.Parallel()
	f := newFixture(t, notesPolicy)
	var dec pdp.Decision
	for _, req := range []*pdp.Request{deleteNote, call("reader", "read", "vault/x"), call("ghost", "read", "notes/1"), readNote} {
		if err := f.svc.Authorize(context.Background(), req, &dec); err != nil {
			t.Fatal(err)
		}
		fresh := f.ask(t, with(req, func(r *pdp.Request) { r.DryRun = true }))
		if dec.Reason != fresh.Reason || (dec.Approval == nil) != (fresh.Approval == nil) ||
			!cmp.Equal(dec.Matched, fresh.Matched, ignoreEmpty) || !cmp.Equal(dec.RequiredScopes, fresh.RequiredScopes, ignoreEmpty) ||
			len(dec.Limits) != len(fresh.Limits) {
			t.Errorf("something of an earlier answer is left: %+v, want %+v", dec, fresh)
		}
	}
}

func TestReloadChangesTheLimits(t *testing.T) {
	t.Parallel()
	f := newFixture(t, notesPolicy)
	f.want(t, readNote, pdp.Allow, pdp.ReasonOK)
	f.source.p.Store(compile(t, strings.Replace(notesPolicy, "burst: 5", "burst: 1", 1)))
	dec := f.want(t, readNote, pdp.Deny, pdp.ReasonRateLimited, "limits/calls")
	if dec.Limits[0].Limit != 1 {
		t.Errorf("limit %d, want the new burst", dec.Limits[0].Limit)
	}
}

func TestDefaultsOfConfig(t *testing.T) {
	t.Parallel()
	f := newFixture(t, notesPolicy, func(c *pdp.Config) { c.Now, c.Elapsed, c.NewID, c.Jitter = nil, nil, nil, nil })
	seen := map[string]bool{}
	for range 100 {
		dec := f.ask(t, readNote)
		if len(dec.ID) != 36 || dec.ID[14] != '7' || seen[dec.ID] {
			t.Fatalf("id %q is no new UUID version 7", dec.ID)
		}
		seen[dec.ID] = true
		if dec.Reason == pdp.ReasonRateLimited && (dec.RetryAfter < time.Second || dec.RetryAfter > 1100*time.Millisecond) {
			t.Fatalf("retry after %v, want 1 s and up to a tenth more", dec.RetryAfter)
		}
	}
	for _, r := range f.rec.taken() {
		if r.Latency < 0 || r.Latency > time.Minute || time.Since(r.Time) > time.Minute {
			t.Fatalf("record at %v with latency %v", r.Time, r.Latency)
		}
	}
}
