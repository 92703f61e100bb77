package obs_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kelpie-authz/kelpie/internal/obs"
	"github.com/kelpie-authz/kelpie/pdp"
)

// What happened to an approval is a line of its own kind, counted apart from
// decisions.
func TestRecorderTellsOfApprovals(t *testing.T) {
	t.Parallel()
	var fast, slow bytes.Buffer
	rec, reg := newRecorder(t, obs.NewLineHandler(&fast))
	ref, _ := newRecorder(t, slog.NewJSONHandler(&slow, nil))
	at := time.Date(2026, 11, 22, 1, 2, 3, 4, time.UTC)
	for _, r := range []*pdp.Record{
		{
			Time: at, ApprovalID: "apr_1", ApprovalDigest: "ff", DecisionID: "d", Gateway: "g", Agent: "a", Subject: "s",
			Action: "delete", Resource: "x", Risk: "delete", PolicyVersion: "v", Event: &pdp.ApprovalEvent{Kind: pdp.ApprovalOpened},
		},
		{Time: at, ApprovalID: "apr_1", Agent: "a", Event: &pdp.ApprovalEvent{
			Kind: pdp.ApprovalVoted, Actor: "ann", How: "oidc", VoteID: "n", Why: "said \"no\"", Failed: true, Cause: "too late",
		}},
		{Time: at, ApprovalID: "apr_1", RequestID: "r", Event: &pdp.ApprovalEvent{Kind: pdp.ApprovalUsed}},
	} {
		if err := errors.Join(rec.Record(t.Context(), r), ref.Record(t.Context(), r)); err != nil {
			t.Fatal(err)
		}
	}
	const want = `{"time":"2026-11-22T01:02:03.000000004Z","level":"INFO","msg":"approval opened","approval_id":"apr_1","approval_digest":"ff","decision_id":"d","gateway":"g","agent":"a","subject":"s","action":"delete","resource":"x","risk":"delete","policy_version":"v"}
{"time":"2026-11-22T01:02:03.000000004Z","level":"WARN","msg":"approval vote","approval_id":"apr_1","agent":"a","actor":"ann","actor_auth":"oidc","vote_id":"n","why":"said \"no\"","yes":false,"failed":true,"cause":"too late"}
{"time":"2026-11-22T01:02:03.000000004Z","level":"INFO","msg":"approval consumed","approval_id":"apr_1","request_id":"r"}
`
	if diff := cmp.Diff(want, fast.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(slow.String(), fast.String()); diff != "" {
		t.Errorf("(-slog +line):\n%s", diff)
	}
	for name, n := range gather(t, reg) {
		want := map[string]float64{
			"kelpie_approval_events_total opened done": 1, "kelpie_approval_events_total vote failed": 1,
			"kelpie_approval_events_total consumed done": 1,
		}[name]
		if n != want {
			t.Errorf("%s is %v, want %v", name, n, want)
		}
	}
}

func TestRecorderTellsThatAnEventWasNotTaken(t *testing.T) {
	t.Parallel()
	rec, _ := newRecorder(t, refusing{slog.DiscardHandler})
	if err := rec.Record(t.Context(), &pdp.Record{Event: &pdp.ApprovalEvent{Kind: pdp.ApprovalMet}}); err == nil {
		t.Error("no error, want that of the log")
	}
}

type refusing struct{ slog.Handler }

func (refusing) Handle(context.Context, slog.Record) error { return errors.New("full") }
