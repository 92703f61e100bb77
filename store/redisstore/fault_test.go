package redisstore_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kelpie-authz/kelpie/internal/testkit"
	"github.com/kelpie-authz/kelpie/store"
	"github.com/kelpie-authz/kelpie/store/redisstore"
)

// mapped dials instead of one address another one.
func mapped(from, to string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr == from {
			addr = to
		}
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}
}

// What opens, votes, uses or removes is run once if its answer is lost, even by a
// client that sends everything again.
func TestCutAfterSend(t *testing.T) {
	t.Parallel()
	for _, form := range []string{"single", "cluster"} {
		t.Run(form, func(t *testing.T) {
			t.Parallel()
			s := at("")
			var server *testkit.Redis
			var client redis.UniversalClient
			var proxy *testkit.CutProxy
			if form == "single" {
				server = testkit.StartRedis(t, testkit.RedisConfig{})
				proxy = testkit.StartCutProxy(t, server.Addr)
				client = redis.NewClient(&redis.Options{Addr: server.Addr, Dialer: mapped(server.Addr, proxy.Addr)})
			} else {
				c := testkit.StartRedisCluster(t)
				server = c.Nodes[c.Owner(t, c.Slot(t, s.base()))]
				proxy = testkit.StartCutProxy(t, server.Addr)
				client = redis.NewClusterClient(&redis.ClusterOptions{Addrs: c.Addrs(), Dialer: mapped(server.Addr, proxy.Addr)})
			}
			cfg := s.cfg
			cfg.Client = client
			st, err := redisstore.Open(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = st.Close() }()
			// All scripts are known by their names from here on.
			for i, id := range []string{"warm", "a"} {
				approved(t, st, id)
				if err := consume(t.Context(), st, id, "x"); err != nil || i > 1 {
					t.Fatal(err)
				}
			}
			if n, err := st.Prune(t.Context(), time.Now().Add(time.Minute)); n != 2 || err != nil {
				t.Fatal(n, err)
			}
			keep := approved(t, st, "keep")

			// Each step reads before it writes; what writes is cut.
			client.AddHook(cutWrites{proxy})
			cut := func(what string, want int64, f func() error) {
				t.Helper()
				before := ran(t, server)
				err := f()
				proxy.Cut(0)
				proxy.Settle(t)
				if proxy.Cuts() == 0 {
					t.Fatalf("%s: nothing was cut", what)
				}
				if !errors.Is(err, store.ErrUnavailable) {
					t.Errorf("%s: %v, want that nobody knows", what, err)
				}
				if n := ran(t, server) - before; n != want {
					t.Errorf("%s: it was told or deleted %d times, want %d", what, n, want)
				}
			}
			cut("a use", 1, func() error {
				next := keep.Clone()
				next.State, next.EndedAt = store.Consumed, time.Now()
				return st.Swap(t.Context(), next)
			})
			cut("an opening", 1, func() error {
				_, _, err := st.Open(t.Context(), pending("b"), store.OpenLimits{Now: time.Now()})
				return err
			})
			cut("a removal", 2, func() error {
				_, err := st.Prune(t.Context(), time.Now().Add(time.Minute))
				return err
			})
			if n, err := st.Prune(t.Context(), time.Now().Add(time.Minute)); n != 0 || err != nil {
				t.Errorf("then %d are removed, %v", n, err)
			}
			if a, err := st.Get(t.Context(), "b"); err != nil || a.Version != 1 {
				t.Errorf("what was opened: %+v, %v", a, err)
			}
		})
	}
}

// ran is how often scripts have told of a change, or deleted a key.
func ran(t *testing.T, r *testkit.Redis) int64 {
	t.Helper()
	var calls int64
	for _, name := range []string{"cmdstat_publish", "cmdstat_del"} {
		var n int64
		_, _ = fmt.Sscanf(r.Info(t, name), "calls=%d,", &n)
		calls += n
	}
	return calls
}

// cutWrites cuts the next answers whenever a script that writes is sent.
type cutWrites struct{ proxy *testkit.CutProxy }

func (cutWrites) DialHook(next redis.DialHook) redis.DialHook { return next }

func (cutWrites) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (c cutWrites) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if args := cmd.Args(); len(args) > 1 && redisstore.Writes(fmt.Sprint(args[1])) {
			c.proxy.Cut(3, "evalsha")
		}
		return next(ctx, cmd)
	}
}

// While Redis stands still, answers come at once; when it is back they are right.
func TestRedisStandsStill(t *testing.T) {
	t.Parallel()
	r := testkit.StartRedis(t, testkit.RedisConfig{})
	var told atomic.Int64
	s := at(r.URL())
	s.cfg.Timeout, s.options.Timeout = 300*time.Millisecond, 300*time.Millisecond
	s.cfg.Tell = func(cause error) {
		if cause != nil {
			told.Add(1)
		} else {
			told.Add(1000)
		}
	}
	st := s.open(t)
	approved(t, st, "yes")
	r.Pause(t)
	_, err := st.Get(t.Context(), "yes")
	if !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("the first: %v", err)
	}
	testkit.Eventually(t, "the breaker", func() bool { return st.Stats().Down })
	var took []time.Duration
	for i := range 200 {
		begun := time.Now()
		if err := consume(t.Context(), st, "yes", fmt.Sprint(i)); !errors.Is(err, store.ErrUnavailable) {
			t.Fatalf("while it stands still: %v", err)
		}
		took = append(took, time.Since(begun))
	}
	slices.Sort(took)
	t.Logf("while Redis stands still: p50 %v, p99 %v", took[100], took[198])
	if took[198] > 50*time.Millisecond {
		t.Errorf("an answer took %v", took[198])
	}
	r.Resume(t)
	testkit.Eventually(t, "the use", func() bool { return consume(t.Context(), st, "yes", "last") == nil })
	if n := told.Load(); n%1000 < 1 || n < 1000 {
		t.Errorf("told %d", n)
	}
}

// Whoever watches hears of what comes after the connection was lost.
func TestWatchAfterALoss(t *testing.T) {
	t.Parallel()
	r := testkit.StartRedis(t, testkit.RedisConfig{})
	s := at(r.URL())
	st, other := s.open(t), s.open(t)
	changes, err := st.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.Do(t, "client", "kill", "type", "pubsub")
	n := 0
	testkit.Eventually(t, "a change that is heard of", func() bool {
		n++
		if _, _, err := other.Open(t.Context(), pending(fmt.Sprint(n)), store.OpenLimits{Now: time.Now()}); err != nil {
			t.Fatal(err)
		}
		select {
		case <-changes:
			return true
		case <-time.After(20 * time.Millisecond):
			return false
		}
	})
}

// A slot that moves to another node of the cluster loses nothing; a yes that was
// given at the other node is asked for again.
func TestSlotMoves(t *testing.T) {
	t.Parallel()
	c := testkit.StartRedisCluster(t)
	s := at(c.URL())
	s.cfg.Timeout, s.options.Timeout = time.Second, time.Second
	a, b := s.open(t), s.open(t)
	approved(t, a, "yes")
	slot := c.Slot(t, s.base())
	from := c.Owner(t, slot)
	c.MoveSlot(t, slot, from, (from+1)%3)
	asksAgain(t, "yes", a, b)
}

// Whatever number of approvals waits, one of them is found, listed, opened and used
// soon.
func TestManyPending(t *testing.T) {
	t.Parallel()
	// The race detector and other tests take their part where the counts are reduced.
	n, most := 10_000, 100*time.Millisecond
	if full() {
		n, most = 100_000, 10*time.Millisecond
	}
	r := testkit.StartRedis(t, testkit.RedisConfig{})
	st := at(r.URL()).open(t)
	now := time.Now()
	redisstore.Fill(t, st, n, func(i int) *store.Approval {
		return &store.Approval{
			ID: fmt.Sprint("id", i), Digest: fmt.Sprint("digest", i), State: store.Pending, Version: 1, Agent: fmt.Sprint("agent", i%1000),
			Action: "delete", Resource: "x", OpenedAt: now.Add(time.Duration(i)), ExpiresAt: now.Add(time.Hour),
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
	for i := range rounds {
		id := fmt.Sprint("id", n/2+i)
		var a *store.Approval
		measure("by digest", func() (err error) { a, err = st.ByDigest(t.Context(), fmt.Sprint("digest", n/2+i)); return err })
		measure("get", func() (err error) { a, err = st.Get(t.Context(), id); return err })
		a.State, a.UseBy = store.Approved, now.Add(time.Hour)
		measure("vote", func() error { return st.Swap(t.Context(), a) })
		measure("redeem", func() error { return consume(t.Context(), st, id, "x") })
		measure("list", func() error {
			list, _, err := st.List(t.Context(), store.Filter{States: []store.State{store.Pending, store.Approved}})
			if len(list) != 100 {
				t.Fatalf("%d listed", len(list))
			}
			return err
		})
		measure("open", func() error {
			a := pending(fmt.Sprint("new", i))
			a.Agent = "another" + fmt.Sprint(i)
			_, _, err := st.Open(t.Context(), a, store.OpenLimits{Pending: 10, Hourly: 30, Span: time.Hour, Now: now})
			return err
		})
	}
	for what, all := range took {
		slices.Sort(all)
		t.Logf("with %d pending: %s p50 %v, max %v", n, what, all[rounds/2], all[rounds-1])
		if all[rounds/2] > most {
			t.Errorf("%s took %v with %d pending, want %v", what, all[rounds/2], n, most)
		}
	}
}

// Each call that needs a yes asks what its agent may use; what the agent asked for
// in the last month is not read for it.
func TestListOfOneAgent(t *testing.T) {
	t.Parallel()
	n := 3_000
	if full() {
		n = 20_000 // about what 30 an hour come to in a month
	}
	r := testkit.StartRedis(t, testkit.RedisConfig{})
	st := at(r.URL()).open(t)
	now := time.Now()
	redisstore.Fill(t, st, n, func(i int) *store.Approval {
		a := &store.Approval{
			ID: fmt.Sprint("id", i), Digest: fmt.Sprint("digest", i), State: store.Consumed, Version: 1, Agent: "busy",
			OpenedAt: now.Add(time.Duration(i)), ExpiresAt: now.Add(time.Hour), EndedAt: now,
		}
		if i < 2 { // the oldest
			a.State, a.UseBy = store.Approved, now.Add(time.Hour)
		}
		return a
	})
	reads := func() (calls int) {
		_, _ = fmt.Sscanf(r.Info(t, "cmdstat_get"), "calls=%d,", &calls)
		return calls
	}
	before, begun := reads(), time.Now()
	list, next, err := st.List(t.Context(), store.Filter{Agent: "busy", States: []store.State{store.Approved}, Limit: 1000})
	took := time.Since(begun)
	if err != nil || next != "" || len(list) != 2 {
		t.Fatalf("%d listed, next %q, %v", len(list), next, err)
	}
	t.Logf("of %d: %v, %d records read", n, took, reads()-before)
	if got := reads() - before; got != 2 {
		t.Errorf("%d records were read for 2", got)
	}
}
