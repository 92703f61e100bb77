package sqlitestore_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/store"
	"github.com/kelpie-authz/kelpie/store/sqlitestore"
)

// childEnv, if set, makes the test binary a process that opens and approves
// approvals in that directory without end, and says each that is done.
const childEnv = "STORE_TEST_CHILD"

func child(dir, turn string, out io.Writer) error {
	ctx := context.Background()
	s, err := sqlitestore.Open(ctx, sqlitestore.Config{Dir: dir})
	if err != nil {
		return fmt.Errorf("child: %w", err)
	}
	for i := 0; ; i++ {
		id := fmt.Sprint(turn, "-", i)
		a, _, err := s.Open(ctx, &store.Approval{ID: id, Digest: id, OpenedAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour)}, store.OpenLimits{Now: time.Now()})
		if err != nil {
			return fmt.Errorf("child: %w", err)
		}
		a.State, a.UseBy = store.Approved, time.Now().Add(time.Hour)
		if err := s.Swap(ctx, a); err != nil {
			return fmt.Errorf("child: %w", err)
		}
		a.State, a.Used, a.EndedAt = store.Consumed, &store.Use{DecisionID: id}, time.Now()
		if err := s.Swap(ctx, a); err != nil {
			return fmt.Errorf("child: %w", err)
		}
		if _, err := fmt.Fprintln(out, id); err != nil {
			return fmt.Errorf("child: %w", err)
		}
	}
}

// What was answered is there after kill -9, and what was used stays used.
func TestKilled(t *testing.T) {
	t.Parallel()
	times := 10
	if os.Getenv("KELPIE_PROOF") == "full" {
		times = 200
	}
	dir, self := t.TempDir(), os.Args[0]
	answered := 0
	for turn := range times {
		cmd := exec.CommandContext(t.Context(), self)
		cmd.Env = append(os.Environ(), childEnv+"="+dir, childEnv+"_TURN="+fmt.Sprint(turn))
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var ids []string
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			ids = append(ids, strings.TrimSpace(lines.Text()))
			if len(ids) == 5+7*turn%40 {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait() // it was killed
		answered += len(ids)
		s, err := sqlitestore.Open(t.Context(), sqlitestore.Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			if a, err := s.Get(t.Context(), id); err != nil || a.State != store.Consumed {
				t.Errorf("after kill %d: %s is %+v, %v, want it consumed", turn, id, a, err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d times kill -9: %d approvals were opened, approved and used, and all are", times, answered)
	if answered < 5*times {
		t.Errorf("only %d answered", answered)
	}
}

// Whatever number of approvals waits, one of them is found soon.
func TestManyPending(t *testing.T) {
	t.Parallel()
	n := 5_000
	if os.Getenv("KELPIE_PROOF") == "full" {
		n = 100_000
	}
	s := openIn(t, t.TempDir())
	at := time.Date(2026, 6, 17, 12, 0, 0, 0, time.UTC)
	sqlitestore.Fill(t, s, n, func(i int) *store.Approval {
		return &store.Approval{
			ID: fmt.Sprint("id", i), Digest: fmt.Sprint("digest", i), State: store.Pending, Version: 1, Agent: fmt.Sprint("agent", i%1000),
			Action: "delete", Resource: "x", OpenedAt: at.Add(time.Duration(i)), ExpiresAt: at.Add(time.Hour),
		}
	})
	took := map[string]time.Duration{}
	measure := func(what string, f func() error) {
		t.Helper()
		start := time.Now()
		if err := f(); err != nil {
			t.Fatal(what, err)
		}
		if d := time.Since(start); took[what] == 0 || d < took[what] {
			took[what] = d // The least: the machine may be busy.
		}
	}
	var a *store.Approval
	for range 5 { // the first warms the pages
		measure("by digest", func() (err error) { a, err = s.ByDigest(t.Context(), fmt.Sprint("digest", n/2)); return err })
		measure("get", func() (err error) { a, err = s.Get(t.Context(), fmt.Sprint("id", n/2)); return err })
		measure("swap", func() error { return s.Swap(t.Context(), a) })
		measure("list", func() error {
			_, _, err := s.List(t.Context(), store.Filter{States: []store.State{store.Pending, store.Approved}})
			return err
		})
		measure("open", func() error {
			id := fmt.Sprint("new", time.Now().UnixNano())
			_, _, err := s.Open(t.Context(), &store.Approval{ID: id, Digest: id, Agent: "another"}, store.OpenLimits{Pending: 10, Hourly: 30, Span: time.Hour, Now: at})
			return err
		})
	}
	t.Logf("with %d pending: %v", n, took)
	for what, d := range took {
		if d > 100*time.Millisecond { // The machine may be busy; a look at all of them takes longer than this.
			t.Errorf("%s took %v with %d pending", what, d, n)
		}
	}
}
