package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kelpie-authz/kelpie/audit"
	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
)

// TestMain lets the test binary stand in for this program where it starts
// itself as a server.
func TestMain(m *testing.M) {
	if asServer, err := serve(os.Args[1:]); asServer {
		if err != nil {
			panic(err)
		}
		return
	}
	os.Exit(m.Run())
}

func TestScores(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name      string
		got, want float64
	}{
		{"at least: met", atLeast(0.85, 0.85), 1},
		{"at least: half of it", atLeast(1.5, 3), 0.5},
		{"at least: beaten", atLeast(6, 3), 2},
		{"at most: met", atMost(1.25, 1.25), 1},
		{"at most: twice as much", atMost(2000, 1000), 0.5},
		{"at most: half as much", atMost(500, 1000), 2},
		{"at most: nothing at all", atMost(0, 2), 1},
	} {
		if math.Abs(tt.got-tt.want) > 1e-12 {
			t.Errorf("%s: %v, want %v", tt.name, tt.got, tt.want)
		}
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	rows := []row{
		{what: "beaten", ours: "2 s", theirs: "1 s", budget: ">= 0.85 x", score: 2},
		{what: "met", score: 1, budget: "b"},
		{what: "near", score: 0.9, budget: "b"},
		{what: "far", score: 0.89, budget: "b"},
		{what: "not judged", ours: "7"},
	}
	if diff := cmp.Diff([]string{"far"}, below(rows, 0.9)); diff != "" {
		t.Errorf("below (-want +got):\n%s", diff)
	}
	var out bytes.Buffer
	printTable(&out, rows)
	var got [][]string
	for line := range strings.Lines(out.String()) {
		got = append(got, strings.Fields(line))
	}
	want := [][]string{
		{"what", "Kelpie", "beside", "budget"},
		{"beaten", "2", "s", "1", "s", ">=", "0.85", "x", "kept"},
		{"met", "b", "kept"},
		{"near", "b", "kept,", "within", "a", "tenth"},
		{"far", "b", "MISSED"},
		{"not", "judged", "7"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

func TestSummary(t *testing.T) {
	t.Parallel()
	var taken []time.Duration
	for i := range 100 {
		taken = append(taken, time.Duration(100-i)*time.Millisecond)
	}
	got := summarise(taken, 2*time.Second, time.Second)
	want := sample{perSecond: 50, p50: 51 * time.Millisecond, p99: 100 * time.Millisecond, cpu: 10 * time.Millisecond}
	if got != want {
		t.Errorf("summary %+v, want %+v", got, want)
	}
	if got := summarise(nil, time.Second, 0); got != (sample{}) {
		t.Errorf("summary of nothing: %+v", got)
	}
	pairs := []pair{{ours: sample{perSecond: 9}}, {ours: sample{perSecond: 1}}, {ours: sample{perSecond: 4}}}
	if got := median(pairs, func(p pair) float64 { return p.ours.perSecond }); got != 4 {
		t.Errorf("median %v, want 4", got)
	}
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		args []string
		code int
	}{
		{nil, 0},
		{[]string{"-run", "decide, unary", "-rounds", "1"}, 0},
		{[]string{"-run", "nothing"}, 2},
		{[]string{"-rounds", "0"}, 2},
		{[]string{"-span", "0s"}, 2},
		{[]string{"-unknown"}, 2},
	} {
		if _, code := parse(tt.args, io.Discard); code != tt.code {
			t.Errorf("%q: code %d, want %d", tt.args, code, tt.code)
		}
	}
	var picked []string
	for _, g := range allGroups() {
		if wanted("start, decide", g.name) {
			picked = append(picked, g.name)
		}
		if !wanted("", g.name) {
			t.Errorf("%s is not part of the whole table", g.name)
		}
	}
	if !slices.Equal(picked, []string{"decide", "start"}) {
		t.Errorf("picked %v", picked)
	}
}

// The budget of the audit is judged by the median round, and a round is what was
// written and nothing else.
func TestAuditRows(t *testing.T) {
	t.Parallel()
	round := func(all, async float64) pair {
		return pair{ours: sample{perSecond: all}, theirs: sample{perSecond: async}}
	}
	for name, tc := range map[string]struct {
		pairs  []pair
		missed int
	}{
		"kept":   {[]pair{round(60, 100), round(1, 100), round(90, 100)}, 0},
		"missed": {[]pair{round(50, 100), round(99, 100), round(20, 100)}, 1},
	} {
		if missed := below([]row{auditServedRow(tc.pairs)}, 0.9); len(missed) != tc.missed {
			t.Errorf("%s: missed %q", name, missed)
		}
	}
	var out bytes.Buffer
	printTable(&out, auditRows([]loggedPair{
		{sync: logged{perSecond: 60, bytes: 700, perFsync: 90}, async: logged{perSecond: 100, bytes: 700, perFsync: 5000}, fsync: 120 * time.Microsecond},
	}))
	for _, want := range []string{"0.60 x", "records/s", "700 bytes each", "90 to an fsync", "120µs"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	for _, d := range []audit.Durability{audit.Sync, audit.Async} {
		got, err := appendAll(t.Context(), t.TempDir(), d, 20*time.Millisecond)
		if err != nil || got.perSecond <= 0 || got.bytes < 300 || got.bytes > 3000 || got.perFsync < 1 {
			t.Errorf("%v: %+v, %v", d, got, err)
		}
	}
	ctx, interrupt := context.WithCancel(t.Context())
	interrupt()
	if _, err := appendAll(ctx, t.TempDir(), audit.Sync, time.Hour); err == nil {
		t.Error("nothing was written, and that is no error")
	}
}

// TestInterruptEndsWhatWasStarted: ^C ends the context in the middle of a
// measurement, which then returns at once and leaves no process behind.
func TestInterruptEndsWhatWasStarted(t *testing.T) {
	t.Parallel()
	env := &environment{dir: t.TempDir(), shape: shape{agents: 10, scopes: 10, scopesPerAgent: 1}}
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	s, err := env.startEmpty(ctx, &authzv1.AuthorizeResponse{Decision: authzv1.Decision_DECISION_ALLOW})
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	if err := s.await(ctx, env.request(0)); err != nil {
		t.Fatal(err)
	}
	measured := make(chan error, 1)
	go func() {
		_, err := load(ctx, s.side("empty", env.authorize), 4, time.Hour)
		measured <- err
	}()
	interrupt()
	if err := <-measured; err == nil {
		t.Error("an hour's measurement ended without an error")
	}
	s.stop()
	if s.cmd.ProcessState == nil {
		t.Error("the process was not waited for")
	}
	if conn, err := net.Dial("tcp", s.addr); err == nil {
		_ = conn.Close()
		t.Errorf("somebody still listens on %s", s.addr)
	}
}

func TestInterruptedRun(t *testing.T) {
	t.Parallel()
	ctx, interrupt := context.WithCancel(t.Context())
	interrupt()
	var out, errOut bytes.Buffer
	if code := run(ctx, []string{"-run", "decide"}, &out, &errOut); code != interrupted || out.Len() != 0 {
		t.Errorf("code %d, output %q, want %d and no table", code, out.String(), interrupted)
	}
	if _, err := newEnvironment(ctx, options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("new environment: %v, want it not to be made", err)
	}
}
