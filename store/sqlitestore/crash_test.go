package sqlitestore_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
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

// Whatever number of approvals waits, one of them is found, listed, opened, voted on
// and used soon.
func TestManyPending(t *testing.T) {
	t.Parallel()
	// The race detector and other tests take their part where the counts are reduced.
	n, most := 5_000, 100*time.Millisecond
	if os.Getenv("KELPIE_PROOF") == "full" {
		n, most = 100_000, 10*time.Millisecond
	}
	s := openIn(t, t.TempDir())
	at := time.Date(2026, 6, 17, 12, 0, 0, 0, time.UTC)
	sqlitestore.Fill(t, s, n, func(i int) *store.Approval {
		agent := fmt.Sprint("agent", i%1000)
		if i%10 == 3 {
			agent = "busy"
		}
		return &store.Approval{
			ID: fmt.Sprint("id", i), Digest: fmt.Sprint("digest", i), State: store.Pending, Version: 1, Agent: agent,
			Action: "delete", Resource: "x", OpenedAt: at.Add(time.Duration(i)), ExpiresAt: at.Add(time.Hour),
			Shown: []byte(`{"parameters":{"why":"a duplicate of 41"}}`), Requirements: []store.Requirement{{Rule: "approvals/r", Version: "1", Groups: []string{"security"}, Quorum: 1}},
		}
	})
	const rounds = 51
	took := map[string][]time.Duration{}
	measure := func(what string, f func() error) {
		t.Helper()
		begun := time.Now()
		if err := f(); err != nil {
			t.Fatal(what, err)
		}
		took[what] = append(took[what], time.Since(begun))
	}
	list := func(f store.Filter, want int) error {
		found, _, err := s.List(t.Context(), f)
		if len(found) != want {
			t.Fatalf("%+v: %d listed, want %d", f, len(found), want)
		}
		return err
	}
	open := []store.State{store.Pending, store.Approved}
	for i := range rounds {
		id := fmt.Sprint("id", n/2+i)
		var a *store.Approval
		measure("by digest", func() (err error) { a, err = s.ByDigest(t.Context(), fmt.Sprint("digest", n/2+i)); return err })
		measure("get", func() (err error) { a, err = s.Get(t.Context(), id); return err })
		a.State, a.UseBy = store.Approved, at.Add(time.Hour)
		a.Votes = []store.Vote{{ID: "v", Voter: "lead@example.com", How: "oidc", Rule: "approvals/r", Yes: true, At: at}}
		measure("vote", func() error { return s.Swap(t.Context(), a) })
		measure("redeem", func() error {
			a, err := s.Get(t.Context(), id)
			if err != nil {
				return err
			}
			a.State, a.EndedAt, a.Used = store.Consumed, at, &store.Use{DecisionID: "d", At: at}
			return s.Swap(t.Context(), a)
		})
		measure("list", func() error { return list(store.Filter{States: open}, 100) })
		measure("list, all states", func() error { return list(store.Filter{}, 100) })
		// Every call that needs a yes asks so for the grants of its agent.
		measure("list of an agent", func() error {
			return list(store.Filter{Agent: fmt.Sprint("agent", 101+10*(i%30)), States: open, Limit: 1000}, n/1000)
		})
		measure("list of an agent with many", func() error { return list(store.Filter{Agent: "busy"}, 100) })
		measure("open", func() error {
			id := fmt.Sprint("new", i)
			a := &store.Approval{ID: id, Digest: id, Agent: "another" + id, OpenedAt: at, ExpiresAt: at.Add(time.Hour)}
			_, opened, err := s.Open(t.Context(), a, store.OpenLimits{Pending: 10, Hourly: 30, Span: time.Hour, Now: at})
			if !opened {
				t.Fatal("it was there")
			}
			return err
		})
	}
	for what, all := range took {
		slices.Sort(all)
		t.Logf("with %d pending: %s p50 %v, max %v", n, what, all[rounds/2], all[rounds-1])
		if all[rounds/2] > slower*most {
			t.Errorf("%s took %v with %d pending, want %v", what, all[rounds/2], n, slower*most)
		}
	}
}
