package redisstore_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/internal/testkit"
	"github.com/kelpie-authz/kelpie/store"
	"github.com/kelpie-authz/kelpie/store/redisstore"
)

// files are those of a Redis's data, by their paths.
func files(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(path, ".conf") {
			return err
		}
		all[path], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// dirOf is where a Redis keeps its data.
func dirOf(t *testing.T, r *testkit.Redis) string {
	t.Helper()
	answer, _ := r.Do(t, "config", "get", "dir").([]any)
	dir, _ := answer[1].(string)
	return dir
}

// asksAgain demands that every handle says of a yes whose use was lost that it is
// not sure, lets nobody use it, and takes new votes.
func asksAgain(t *testing.T, id string, handles ...*redisstore.Store) {
	t.Helper()
	for i, st := range handles {
		var a *store.Approval
		testkit.Eventually(t, "an answer", func() bool {
			var err error
			a, err = st.Get(t.Context(), id)
			return err == nil
		})
		if a.State != store.Approved || !a.Unsure {
			t.Fatalf("handle %d: it came back as %s, unsure %v; want it approved and unsure, or the test has lost nothing", i, a.State, a.Unsure)
		}
		if list, _, err := st.List(t.Context(), store.Filter{States: []store.State{store.Approved}}); err != nil || len(list) != 1 || !list[0].Unsure {
			t.Errorf("handle %d: listed as %+v, %v", i, list, err)
		}
		for _, state := range []store.State{store.Consumed, store.Approved, store.Revoked} {
			next := a.Clone()
			next.State, next.Unsure = state, false
			if err := st.Swap(t.Context(), next); !errors.Is(err, store.ErrUnsure) {
				t.Fatalf("handle %d: swapped to %s: %v, want that the store is not sure", i, state, err)
			}
		}
	}
	a, err := handles[0].Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	a.State, a.Votes = store.Pending, nil
	if err := handles[0].Swap(t.Context(), a); err != nil {
		t.Fatalf("asked again: %v", err)
	}
	if err := consume(t.Context(), handles[1], id, "no yes"); !errors.Is(err, errNotUsable) {
		t.Errorf("used without a yes: %v", err)
	}
	a.State, a.UseBy = store.Approved, time.Now().Add(time.Hour)
	if err := handles[1].Swap(t.Context(), a); err != nil {
		t.Fatalf("a new yes: %v", err)
	}
	if err := consume(t.Context(), handles[0], id, "again"); err != nil {
		t.Errorf("after a new yes: %v", err)
	}
}

// Redis is killed between the use of a yes and its way to the disk, and comes back
// with what the disk has: the yes, and not its use.
func TestRedisLosesTheUse(t *testing.T) {
	t.Parallel()
	rounds := 1
	if full() {
		rounds = 20
	}
	for name, args := range map[string][]string{
		"appendfsync everysec": {"--appendonly", "yes", "--appendfsync", "everysec"},
		"appendfsync no":       {"--appendonly", "yes", "--appendfsync", "no"},
		"snapshots":            {"--appendonly", "no"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for round := range rounds {
				r := testkit.StartRedis(t, testkit.RedisConfig{Args: args})
				s := at(r.URL())
				s.cfg.Timeout, s.options.Timeout = time.Second, time.Second
				a, b := s.open(t), s.open(t)
				id := fmt.Sprint("yes", round)
				approved(t, a, id)
				dir := dirOf(t, r)
				if args[1] == "no" {
					r.Do(t, "save")
				}
				// What the disk has now is what it will have: of a process that is killed,
				// the kernel keeps everything, so that the loss has to be made.
				disk := files(t, dir)
				if err := consume(t.Context(), b, id, "first"); err != nil {
					t.Fatal(err)
				}
				r.Kill(t)
				for path, text := range disk {
					if err := os.WriteFile(path, text, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				r.Restart(t)
				asksAgain(t, id, a, b)
			}
		})
	}
}

// What reached the disk is what it was, and only a yes is asked for again.
func TestRedisRestarts(t *testing.T) {
	t.Parallel()
	r := testkit.StartRedis(t, testkit.RedisConfig{AppendOnly: true})
	s := at(r.URL())
	s.cfg.Timeout, s.options.Timeout = time.Second, time.Second
	st := s.open(t)
	asked, _, err := st.Open(t.Context(), pending("asked"), store.OpenLimits{Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	approved(t, st, "used")
	if err := consume(t.Context(), st, "used", "first"); err != nil {
		t.Fatal(err)
	}
	approved(t, st, "yes")
	r.Kill(t)
	r.Restart(t)
	testkit.Eventually(t, "an answer", func() bool { _, err := st.Get(t.Context(), "used"); return err == nil })
	if a, err := st.Get(t.Context(), "used"); err != nil || a.State != store.Consumed || a.Unsure {
		t.Errorf("what was used: %+v, %v", a, err)
	}
	if a, err := st.Get(t.Context(), "yes"); err != nil || !a.Unsure {
		t.Errorf("a yes from before: %+v, %v", a, err)
	}
	asked.State, asked.UseBy = store.Approved, time.Now().Add(time.Hour)
	if err := st.Swap(t.Context(), asked); err != nil {
		t.Errorf("a yes after it to what was asked before: %v", err)
	}
	if err := consume(t.Context(), st, "asked", "call"); err != nil {
		t.Errorf("its use: %v", err)
	}
	r.Do(t, "flushall")
	if a, err := st.Get(t.Context(), "asked"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("after FLUSHALL: %+v, %v", a, err)
	}
	if _, opened, err := st.Open(t.Context(), pending("asked"), store.OpenLimits{Now: time.Now()}); err != nil || !opened {
		t.Errorf("asked again: opened %v, %v", opened, err)
	}
}

// A replica of Redis that lagged is made the primary, after the primary was told of
// the use alone.
func TestFailoverLosesTheUse(t *testing.T) {
	t.Parallel()
	sent := testkit.StartRedisSentinel(t)
	s := at(sent.URL())
	s.cfg.Timeout, s.options.Timeout = time.Second, time.Second
	a, b := s.open(t), s.open(t)
	approved(t, a, "yes")
	testkit.Eventually(t, "the yes at the replica", func() bool {
		return sent.Replica.Client(t).Exists(t.Context(), s.base()+"record:yes").Val() == 1 &&
			sent.Replica.Info(t, "master_repl_offset") == sent.Primary.Info(t, "master_repl_offset")
	})
	sent.Detach(t)
	testkit.Eventually(t, "the use", func() bool { return consume(t.Context(), b, "yes", "first") == nil })
	sent.Primary.Kill(t)
	sent.Replica.Resume(t)
	sent.AwaitFailover(t)
	asksAgain(t, "yes", a, b)
}
