package sqliteoutbox_test

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/kelpie-authz/kelpie/internal/testkit"
	"github.com/kelpie-authz/kelpie/notify"
	"github.com/kelpie-authz/kelpie/notify/sqliteoutbox"
)

const childEnv = "OUTBOX_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		child(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

// start is a moment that the tests' clocks begin at.
var start = time.Date(2026, 6, 17, 12, 0, 0, 0, time.UTC)

func event(approval string, t notify.Type, version int) *notify.Event {
	return &notify.Event{
		ID: approval + "_" + strings.TrimPrefix(string(t), "approval.") + "_" + strconv.Itoa(version), Type: t, Time: start,
		Approval: notify.About{
			ID: approval, Digest: "d", Agent: "a", Subject: "s", Action: "delete", Resource: "r", Risk: "delete", ExpiresAt: start.Add(time.Hour),
		},
	}
}

func open(t *testing.T, cfg sqliteoutbox.Config) *sqliteoutbox.Outbox {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	o, err := sqliteoutbox.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	})
	return o
}

func next(t *testing.T, o *sqliteoutbox.Outbox, channel string, now time.Time) (*notify.Delivery, time.Time) {
	t.Helper()
	d, at, err := o.Next(t.Context(), channel, now)
	if err != nil {
		t.Fatal(err)
	}
	return d, at
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestDeliveries(t *testing.T) {
	t.Parallel()
	o, ctx := open(t, sqliteoutbox.Config{}), t.Context()
	if d, at := next(t, o, "a", start); d != nil || !at.IsZero() {
		t.Fatalf("an empty outbox has %v at %v", d, at)
	}
	first := event("apr_1", notify.Requested, 1)
	must(t, o.Enqueue(ctx, first, []string{"a", "b"}, start))
	must(t, o.Enqueue(ctx, first, []string{"a", "b"}, start.Add(time.Second)))
	must(t, o.Enqueue(ctx, event("apr_1", notify.Denied, 2), []string{"a"}, start))
	must(t, o.Enqueue(ctx, event("apr_2", notify.Requested, 1), []string{"a"}, start.Add(time.Second)))

	d, _ := next(t, o, "a", start)
	if diff := cmp.Diff(&notify.Delivery{Number: d.Number, Channel: "a", Event: *first, Enqueued: start.Local()}, d); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// Put off, it holds up what is behind it of the same approval, and nothing else.
	must(t, o.Retry(ctx, d, start.Add(time.Minute)))
	if d, at := next(t, o, "a", start); d != nil || !at.Equal(start.Add(time.Second)) {
		t.Errorf("got %v at %v", d, at)
	}
	other, _ := next(t, o, "a", start.Add(time.Second))
	if other == nil || other.Event.Approval.ID != "apr_2" {
		t.Fatalf("got %v", other)
	}
	must(t, o.Delivered(ctx, other, "", start))
	if d, at := next(t, o, "a", start.Add(time.Second)); d != nil || !at.Equal(start.Add(time.Minute)) {
		t.Errorf("got %v at %v", d, at)
	}
	d, _ = next(t, o, "a", start.Add(time.Minute))
	if d == nil || d.Attempts != 1 || d.Event.Type != notify.Requested || d.Receipt != "" {
		t.Fatalf("got %+v", d)
	}
	must(t, o.Delivered(ctx, d, "card 7", start))
	d, _ = next(t, o, "a", start)
	if d == nil || d.Event.Type != notify.Denied || d.Receipt != "card 7" {
		t.Fatalf("got %+v", d)
	}
	must(t, o.Dead(ctx, d, start))
	pending, err := o.Pending(ctx)
	must(t, err)
	if diff := cmp.Diff(map[string]notify.Waiting{"b": {Count: 1, Since: start.Local()}}, pending); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if n, err := o.Drop(ctx, "b", start); err != nil || n != 1 {
		t.Errorf("dropped %d, %v", n, err)
	}
	for id, want := range map[string]bool{"apr_1": true, "apr_2": true, "apr_3": false} {
		if known, err := o.Known(ctx, id); err != nil || known != want {
			t.Errorf("%s is known: %v, %v", id, known, err)
		}
	}
}

// What waits is counted for each channel, since the oldest that was not ended, however
// often that was put off.
func TestPending(t *testing.T) {
	t.Parallel()
	o, ctx := open(t, sqliteoutbox.Config{}), t.Context()
	for i := range 3 {
		must(t, o.Enqueue(ctx, event("apr_"+strconv.Itoa(i), notify.Requested, 1), []string{"a", "b"}, start.Add(time.Duration(i)*time.Minute)))
	}
	want := func(what string, want map[string]notify.Waiting) {
		t.Helper()
		got, err := o.Pending(ctx)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", what, err, diff)
		}
	}
	first, _ := next(t, o, "a", start.Add(time.Hour))
	must(t, o.Retry(ctx, first, start.Add(2*time.Hour)))
	want("put off", map[string]notify.Waiting{"a": {Count: 3, Since: start.Local()}, "b": {Count: 3, Since: start.Local()}})
	must(t, o.Delivered(ctx, first, "", start))
	want("the oldest taken", map[string]notify.Waiting{"a": {Count: 2, Since: start.Add(time.Minute).Local()}, "b": {Count: 3, Since: start.Local()}})
	_, err := o.Drop(ctx, "b", start)
	must(t, err)
	want("all dropped", map[string]notify.Waiting{"a": {Count: 2, Since: start.Add(time.Minute).Local()}})
}

// Of a question that no channel took the alarm is raised once, also by two that
// wait, and not if one took it.
func TestUnheard(t *testing.T) {
	t.Parallel()
	o, ctx := open(t, sqliteoutbox.Config{}), t.Context()
	must(t, o.Enqueue(ctx, event("apr_1", notify.Requested, 1), []string{"a", "b"}, start))
	must(t, o.Enqueue(ctx, event("apr_2", notify.Requested, 1), []string{"a", "b"}, start))
	must(t, o.Enqueue(ctx, event("apr_3", notify.Denied, 1), []string{"a", "b"}, start))
	d, _ := next(t, o, "b", start)
	must(t, o.Delivered(ctx, d, "", start))
	if d.Event.Approval.ID != "apr_1" {
		t.Fatal(d)
	}
	for _, tc := range []struct {
		before time.Time
		want   []string
	}{{start.Add(-1), nil}, {start, []string{"apr_2"}}, {start.Add(time.Hour), nil}} {
		got, err := o.Unheard(ctx, tc.before)
		if diff := cmp.Diff(tc.want, got); err != nil || diff != "" {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
	}
}

func TestBounded(t *testing.T) {
	t.Parallel()
	o, ctx := open(t, sqliteoutbox.Config{MaxPending: 3}), t.Context()
	must(t, o.Enqueue(ctx, event("apr_1", notify.Requested, 1), []string{"a", "b"}, start))
	if err := o.Enqueue(ctx, event("apr_2", notify.Requested, 1), []string{"a", "b"}, start); !errors.Is(err, notify.ErrFull) {
		t.Errorf("a fourth of three: %v", err)
	}
	d, _ := next(t, o, "b", start)
	must(t, o.Delivered(ctx, d, "", start))
	must(t, o.Enqueue(ctx, event("apr_2", notify.Requested, 1), []string{"a", "b"}, start))
}

func TestPrune(t *testing.T) {
	t.Parallel()
	o, ctx := open(t, sqliteoutbox.Config{}), t.Context()
	must(t, o.Enqueue(ctx, event("apr_1", notify.Requested, 1), []string{"a", "of another configuration"}, start))
	d, _ := next(t, o, "a", start)
	must(t, o.Delivered(ctx, d, "card", start))
	must(t, o.Prune(ctx, start))
	if pending, err := o.Pending(ctx); err != nil || len(pending) != 1 {
		t.Errorf("%v, %v", pending, err)
	}
	must(t, o.Prune(ctx, start.Add(1)))
	if pending, err := o.Pending(ctx); err != nil || len(pending) != 0 {
		t.Errorf("%v, %v", pending, err)
	}
	// What came of the card is still to be told to whoever has it.
	if known, err := o.Known(ctx, "apr_1"); err != nil || !known {
		t.Errorf("known: %v, %v", known, err)
	}
	must(t, o.Enqueue(ctx, event("apr_1", notify.Expired, 2), []string{"a"}, start))
	if d, _ := next(t, o, "a", start); d == nil || d.Receipt != "card" {
		t.Errorf("got %v", d)
	}
	must(t, o.Prune(ctx, start.Add(365*24*time.Hour)))
	if known, err := o.Known(ctx, "apr_1"); err != nil || known {
		t.Errorf("known a year later: %v, %v", known, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, sqliteoutbox.File)
	o, err := sqliteoutbox.Open(t.Context(), sqliteoutbox.Config{Dir: dir})
	must(t, err)
	must(t, o.Close())
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file's mode is %v, %v", info.Mode(), err)
	}
	db, err := sql.Open("sqlite", "file:"+path)
	must(t, err)
	_, err = db.ExecContext(t.Context(), "PRAGMA user_version = 99")
	must(t, errors.Join(err, db.Close()))
	if _, err := sqliteoutbox.Open(t.Context(), sqliteoutbox.Config{Dir: dir}); !errors.Is(err, notify.ErrSchema) || !strings.Contains(err.Error(), path) {
		t.Errorf("of a later release: %v", err)
	}
	for name, content := range map[string]string{"another file": strings.Repeat("no database ", 1000), "half of one": "SQLite format 3\x00" + strings.Repeat("\x01", 8192)} {
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, sqliteoutbox.File), []byte(content), 0o600))
		if _, err := sqliteoutbox.Open(t.Context(), sqliteoutbox.Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), "is damaged") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// child enqueues until it is killed, and says what it was told is kept.
func child(dir string) {
	ctx := context.Background()
	o, err := sqliteoutbox.Open(ctx, sqliteoutbox.Config{Dir: dir})
	if err != nil {
		panic(err)
	}
	for i := range 100_000 {
		id := "apr_" + strconv.Itoa(i)
		if err := o.Enqueue(ctx, event(id, notify.Requested, 1), []string{"a"}, time.Now()); err != nil {
			panic(err)
		}
		_, _ = os.Stdout.WriteString(id + "\n") // The parent counts.
	}
}

// What Enqueue took is there after kill -9, and what was not written down as
// delivered comes again.
func TestKilled(t *testing.T) {
	t.Parallel()
	for range 5 {
		dir := t.TempDir()
		p := testkit.Start(t, testkit.Program{Path: os.Args[0], Env: []string{childEnv + "=" + dir}})
		testkit.Eventually(t, "events", func() bool { return strings.Count(p.Stdout.String(), "\n") >= 20 })
		p.Kill(t)
		said := strings.Fields(p.Stdout.String())
		o := open(t, sqliteoutbox.Config{Dir: dir})
		at := time.Now().Add(time.Hour)
		for i, id := range said {
			d, _ := next(t, o, "a", at)
			if d == nil {
				t.Fatalf("%d of %d events are left", i, len(said))
			}
			if d.Event.Approval.ID != id {
				t.Fatalf("event %d is of %s, not %s", i, d.Event.Approval.ID, id)
			}
			must(t, o.Delivered(t.Context(), d, "", at))
		}
	}
}
