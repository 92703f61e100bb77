package obs_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/kelpie-authz/kelpie/internal/obs"
	"github.com/kelpie-authz/kelpie/internal/testkit"
	"github.com/kelpie-authz/kelpie/pdp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func record() *pdp.Record {
	return &pdp.Record{
		Time: time.Date(2026, 11, 22, 1, 2, 3, 4, time.UTC), DecisionID: "id", Gateway: "loopback", Agent: "a", Subject: "s",
		Action: "read", Resource: "r", Verdict: pdp.Allow, Reason: pdp.ReasonOK, PolicyVersion: "v", Matched: []string{"x", "y"},
		Latency: 1500 * time.Nanosecond,
	}
}

func newRecorder(t rapid.TB, h slog.Handler) (*obs.Recorder, *prometheus.Registry) {
	reg := prometheus.NewRegistry()
	rec, err := obs.NewRecorder(h, reg)
	if err != nil {
		t.Fatal(err)
	}
	return rec, reg
}

func parse(t rapid.TB, line string) map[string]any {
	var out map[string]any
	if strings.Count(line, "\n") != 1 || !strings.HasSuffix(line, "\n") {
		t.Fatalf("not one line: %q", line)
	}
	if err := json.Unmarshal([]byte(line), &out); err != nil {
		t.Fatalf("%v in %q", err, line)
	}
	return out
}

// The fast handler writes what slog's own JSON handler writes of the same
// record, whatever bytes are in it.
func TestLineHandlerAgreesWithSlog(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }),
			rapid.SampledFrom([]string{"", "\u2028", "\x00", "\"\\", "<&>", "\xff\xfe", "a\nb"}))
		r := record()
		for _, f := range []*string{
			&r.DecisionID, &r.Gateway, &r.Agent, &r.ClaimedAgent, &r.Subject, &r.Action, &r.Resource, &r.SourceIP, &r.RequestID,
			&r.SessionID, &r.RunID, &r.Tool.Name, &r.Tool.Server, &r.ParametersDigest, &r.Risk, &r.ApprovalID, &r.ApprovalDigest,
		} {
			*f = text.Draw(t, "text")
		}
		r.Matched = rapid.SliceOf(text).Draw(t, "matched")
		r.DryRun = rapid.Bool().Draw(t, "dry run")
		r.Outage = rapid.SampledFrom(append(pdp.Outages(), pdp.OutageNone, 99)).Draw(t, "outage")
		var fast, slow bytes.Buffer
		rec, _ := newRecorder(t, obs.NewLineHandler(&fast))
		ref, _ := newRecorder(t, slog.NewJSONHandler(&slow, nil))
		if err := errors.Join(rec.Record(context.Background(), r), ref.Record(context.Background(), r)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(parse(t, slow.String()), parse(t, fast.String())); diff != "" {
			t.Fatalf("(-slog +line):\n%s", diff)
		}
	})
}

// Plain attributes, groups and attributes given ahead are written as slog writes them.
func TestLineHandlerTakesAnyRecord(t *testing.T) {
	t.Parallel()
	var fast, slow bytes.Buffer
	for _, h := range []slog.Handler{obs.NewLineHandler(&fast), slog.NewJSONHandler(&slow, nil)} {
		r := slog.NewRecord(time.Unix(1, 0).UTC(), slog.LevelWarn, "m\"", 0)
		r.AddAttrs(slog.Int("n", 1), slog.Any("list", []string{"a"}), slog.Time("t", time.Unix(2, 0).UTC()),
			slog.Group("", slog.Bool("inner", true)))
		if err := h.WithAttrs([]slog.Attr{slog.String("pre", "x")}).Handle(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(parse(t, slow.String()), parse(t, fast.String())); diff != "" {
		t.Errorf("(-slog +line):\n%s", diff)
	}
}

func TestRecorderCounts(t *testing.T) {
	t.Parallel()
	rec, reg := newRecorder(t, obs.NewLineHandler(&testkit.Buffer{}))
	for _, change := range []func(*pdp.Record){
		func(*pdp.Record) {}, func(*pdp.Record) {},
		func(r *pdp.Record) { r.Verdict, r.Reason = pdp.Deny, pdp.ReasonRateLimited },
		func(r *pdp.Record) { r.DryRun = true },
		func(r *pdp.Record) {
			r.Verdict, r.Reason, r.Outage = pdp.Deny, pdp.ReasonDependencyUnavailable, pdp.OutageDenied
		},
		func(r *pdp.Record) { r.DryRun, r.Outage = true, pdp.OutageAlone },
	} {
		r := record()
		change(r)
		if err := rec.Record(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	series := gather(t, reg)
	want := map[string]float64{
		"kelpie_decisions_total ALLOW ok": 2, "kelpie_decisions_total DENY rate_limited": 1, "kelpie_dry_runs_total": 2,
		"kelpie_decisions_total DENY dependency_unavailable": 1, "kelpie_limits_outage_total denied": 1, "kelpie_limits_outage_total alone": 1,
	}
	all := 0
	for name, v := range series {
		if strings.HasPrefix(name, "kelpie_decisions_total ") {
			all++
		}
		if v == 0 {
			delete(series, name)
		}
	}
	if diff := cmp.Diff(want, series); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if all != 4*len(pdp.AllReasons()) {
		t.Errorf("%d series", all)
	}
}

// gather is every counter's value by its name and labels.
func gather(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if m.GetCounter() == nil {
				continue
			}
			name := family.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			out[name] = m.GetCounter().GetValue()
		}
	}
	return out
}

// What was done to charges later is a line of its own kind, and counted apart.
func TestRecorderTellsChanges(t *testing.T) {
	t.Parallel()
	var fast, slow bytes.Buffer
	rec, reg := newRecorder(t, obs.NewLineHandler(&fast))
	ref, _ := newRecorder(t, slog.NewJSONHandler(&slow, nil))
	at := time.Date(2026, 11, 22, 1, 2, 3, 4, time.UTC)
	for _, r := range []*pdp.Record{
		{Time: at, DecisionID: "d", Gateway: "g", Agent: "a", Latency: time.Millisecond, Change: &pdp.Change{
			Kind: pdp.ChangeSettled, Actual: 2.5, Limits: []pdp.LimitChange{{Name: "x", GivenBack: 0.5}, {Name: "y", Charged: 7}},
		}},
		{Time: at, DecisionID: "d", Gateway: "g", Agent: "a", Change: &pdp.Change{
			Kind: pdp.ChangeReleased, Limits: []pdp.LimitChange{{Name: "x", GivenBack: 1}}, Failed: true, Cause: "not \"now\"",
		}},
		{Time: at, Agent: "a", Change: &pdp.Change{Kind: pdp.ChangeReset, As: "ann", Buckets: 3}},
	} {
		if err := errors.Join(rec.Record(t.Context(), r), ref.Record(t.Context(), r)); err != nil {
			t.Fatal(err)
		}
	}
	const want = `{"time":"2026-11-22T01:02:03.000000004Z","level":"INFO","msg":"limits settle","agent":"a","decision_id":"d","gateway":"g","actual":2.5,"limits":[{"name":"x","given_back":0.5},{"name":"y","charged":7}],"latency_us":1000}
{"time":"2026-11-22T01:02:03.000000004Z","level":"WARN","msg":"limits release","agent":"a","decision_id":"d","gateway":"g","limits":[{"name":"x","given_back":1}],"latency_us":0,"failed":true,"cause":"not \"now\""}
{"time":"2026-11-22T01:02:03.000000004Z","level":"INFO","msg":"limits reset","agent":"a","as":"ann","buckets":3,"limits":[],"latency_us":0}
`
	if diff := cmp.Diff(want, fast.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(slow.String(), fast.String()); diff != "" {
		t.Errorf("(-slog +line):\n%s", diff)
	}
	for name, n := range gather(t, reg) {
		want := map[string]float64{
			"kelpie_limit_changes_total settle done": 1, "kelpie_limit_changes_total release failed": 1, "kelpie_limit_changes_total reset done": 1,
		}[name]
		if n != want {
			t.Errorf("%s is %v, want %v", name, n, want)
		}
	}
}

func TestRecorderReportsALostChange(t *testing.T) {
	t.Parallel()
	rec, reg := newRecorder(t, obs.NewLineHandler(writerFunc(func([]byte) (int, error) { return 0, errDisk })))
	err := rec.Record(t.Context(), &pdp.Record{Change: &pdp.Change{Kind: pdp.ChangeReleased}})
	if lost := gather(t, reg)["kelpie_decision_log_lost_total"]; !errors.Is(err, errDisk) || lost != 1 {
		t.Errorf("%v, counted %v", err, lost)
	}
}

var errDisk = errors.New("disk full")

// An ALLOW that could not be logged is counted as what the caller gets.
func TestRecorderReportsALostRecord(t *testing.T) {
	t.Parallel()
	rec, reg := newRecorder(t, obs.NewLineHandler(writerFunc(func([]byte) (int, error) { return 0, errDisk })))
	if err := rec.Record(t.Context(), record()); !errors.Is(err, errDisk) {
		t.Errorf("error %v", err)
	}
	series := gather(t, reg)
	if series["kelpie_decision_log_lost_total"] != 1 || series["kelpie_decisions_total DENY audit_unavailable"] != 1 ||
		series["kelpie_decisions_total ALLOW ok"] != 0 {
		t.Errorf("counted %v", series)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestWriterWritesAllInOrder(t *testing.T) {
	t.Parallel()
	out := &testkit.Buffer{}
	w := obs.NewWriter(out, nil)
	const writers, lines = 8, 500
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			for range lines {
				if _, err := w.Write([]byte(strings.Repeat(string(rune('a'+i)), 40) + "\n")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for line := range strings.Lines(out.String()) {
		got[line]++
	}
	if len(got) != writers {
		t.Errorf("%d different lines: some are torn", len(got))
	}
	for line, n := range got {
		if n != lines {
			t.Errorf("%d of %q", n, line)
		}
	}
	if _, err := w.Write([]byte("late")); err == nil {
		t.Error("took a line after Close")
	}
	if err := w.Close(t.Context()); err != nil {
		t.Errorf("closing twice: %v", err)
	}
}

// Nobody has to close the log for a line to be written soon.
func TestWriterFlushesByItself(t *testing.T) {
	t.Parallel()
	out := &testkit.Buffer{}
	w := obs.NewWriter(out, nil)
	defer func() { _ = w.Close(t.Context()) }()
	for i := range 3 {
		if _, err := w.Write([]byte("x\n")); err != nil {
			t.Fatal(err)
		}
		testkit.Eventually(t, "the line", func() bool { return out.Lines() == i+1 })
	}
}

// What a failed write left over is written once it can be, no byte twice.
func TestWriterRecovers(t *testing.T) {
	t.Parallel()
	out := &testkit.Buffer{}
	var mu sync.Mutex
	bad, failures := true, 0
	w := obs.NewWriter(writerFunc(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		if bad {
			n, err := out.Write(p[:1]) // A disk that fills takes a part.
			return n, errors.Join(err, errDisk)
		}
		return out.Write(p)
	}), func(error) {
		mu.Lock()
		defer mu.Unlock()
		failures++
		if failures == 3 {
			bad = false
		}
	})
	if _, err := w.Write([]byte("0123456789\n")); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the fault", func() bool { return w.Err() != nil })
	if _, err := w.Write([]byte("refused\n")); err != nil && !errors.Is(err, errDisk) {
		t.Errorf("while it fails: %v", err)
	}
	testkit.Eventually(t, "the end of the fault", func() bool { return w.Err() == nil })
	if _, err := w.Write([]byte("after\n")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := strings.ReplaceAll(out.String(), "refused\n", ""); got != "0123456789\nafter\n" {
		t.Errorf("wrote %q", got)
	}
}

// A reader that stands still holds writers back; what they wrote is kept.
func TestWriterHoldsBack(t *testing.T) {
	t.Parallel()
	out := &testkit.Buffer{}
	gate := make(chan struct{})
	w := obs.NewWriter(writerFunc(func(p []byte) (int, error) {
		<-gate
		return out.Write(p)
	}), nil)
	line := append(bytes.Repeat([]byte("x"), 1<<20-1), '\n')
	wrote := make(chan int, 64)
	const lines = 24
	go func() {
		defer close(wrote)
		for i := range lines {
			if _, err := w.Write(line); err != nil {
				t.Error(err)
				return
			}
			wrote <- i
		}
	}()
	for range 8 { // What fits.
		testkit.Receive(t, "a write that fits", wrote)
	}
	close(gate)
	for i := 8; i < lines; i++ {
		testkit.Receive(t, "a write that waited", wrote)
	}
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out.Lines() != lines {
		t.Errorf("%d lines", out.Lines())
	}
}

// A reader that stands still is a fault like a full disk: told by Err, and
// nobody but the first waits for it.
func TestWriterTellsOfAStalledReader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		w := obs.NewWriter(writerFunc(func(p []byte) (int, error) {
			<-gate
			return len(p), nil
		}), nil)
		line := append(bytes.Repeat([]byte("x"), 1<<20-1), '\n')
		var err error
		for range 32 {
			if _, err = w.Write(line); err != nil {
				break
			}
		}
		if !errors.Is(err, obs.ErrStalled) || !errors.Is(w.Err(), obs.ErrStalled) {
			t.Errorf("write: %v, standing: %v", err, w.Err())
		}
		before := time.Now()
		if _, err := w.Write([]byte("y\n")); !errors.Is(err, obs.ErrStalled) || !time.Now().Equal(before) {
			t.Errorf("the next write: %v after %v", err, time.Since(before))
		}
		close(gate)
		synctest.Wait()
		if _, err := w.Write([]byte("z\n")); err != nil || w.Err() != nil {
			t.Errorf("after the reader went on: %v, %v", err, w.Err())
		}
		if err := w.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
