// Package storetest holds the suite that every driver of package store passes
// unchanged. It is for tests alone.
//
//	func TestConforms(t *testing.T) {
//		if n := storetest.Run(t, func(t *testing.T) storetest.Opener { ... }); n != storetest.Cases {
//			t.Errorf("%d cases ran, want %d", n, storetest.Cases)
//		}
//	}
package storetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/store"
)

// Opener opens another handle on the same store, which the test closes.
type Opener func(t *testing.T) store.Approvals

// Cases is how many cases Run runs.
const Cases = 14

// Run runs the suite; fresh makes a store of its own for each case. It returns how
// many cases ran.
func Run(t *testing.T, fresh func(t *testing.T) Opener) int {
	t.Helper()
	ran := 0
	for _, c := range []struct {
		name string
		run  func(*testing.T, Opener)
	}{
		{"every field is kept", everyField},
		{"one for each call", oneForEachCall},
		{"one for each call, asked at once", oneAtOnce},
		{"what stands, to the nanosecond", whatStands},
		{"quotas", quotas},
		{"quotas, asked at once", quotasAtOnce},
		{"swap by version", swap},
		{"one of many swaps", oneSwap},
		{"find", find},
		{"list", list},
		{"list while others come", listStable},
		{"watch", watch},
		{"prune", prune},
		{"closed, and given up", closed},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, fresh(t)) })
		ran++
	}
	return ran
}

// start is when the cases begin.
var start = time.Date(2026, 6, 17, 12, 0, 0, 123456789, time.UTC) //nolint:gochecknoglobals // A constant; Go has no constant times.

func approval(id, digest string) *store.Approval {
	return &store.Approval{
		ID: id, Digest: digest, State: store.Pending, Version: 1, Agent: "bot", Subject: "ann", Action: "delete", Resource: "leads/42",
		Risk: "delete", Gateway: "gw", DecisionID: "d-" + id, PolicyVersion: "v1", Shown: []byte(`{"a":1}`),
		Requirements: []store.Requirement{{Rule: "approvals/r", Version: "1", Groups: []string{"sec"}, Quorum: 1}},
		OpenedAt:     start, ExpiresAt: start.Add(15 * time.Minute), UseWithin: 5 * time.Minute,
	}
}

var plenty = store.OpenLimits{Now: start} //nolint:gochecknoglobals // As above.

func mustOpen(t *testing.T, s store.Approvals, a *store.Approval, limits store.OpenLimits) *store.Approval {
	t.Helper()
	got, opened, err := s.Open(t.Context(), a, limits)
	if err != nil || !opened {
		t.Fatalf("open %s: opened %v, %v", a.ID, opened, err)
	}
	return got
}

// to is what an approval is to become.
func to(a *store.Approval, state store.State, f func(*store.Approval)) *store.Approval {
	next := a.Clone()
	next.State = state
	if state.Final() {
		next.EndedAt = start.Add(time.Minute)
	}
	if f != nil {
		f(next)
	}
	return next
}

func mustSwap(t *testing.T, s store.Approvals, a *store.Approval) {
	t.Helper()
	before := a.Version
	if err := s.Swap(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if a.Version != before+1 {
		t.Fatalf("after a swap the version is %d, want one more than %d", a.Version, before)
	}
}

func oneForEachCall(t *testing.T, open Opener) {
	s := open(t)
	first := mustOpen(t, s, approval("a", "one"), plenty)
	mustOpen(t, s, approval("b", "two"), plenty)
	for state, useless := range map[store.State]bool{
		store.Pending: true, store.Approved: true, store.Denied: true,
		store.Expired: false, store.Cancelled: false, store.Superseded: false, store.Consumed: false, store.Revoked: false,
	} {
		digest := "of " + state.String()
		a := mustOpen(t, s, approval("id "+digest, digest), plenty)
		if state != store.Pending {
			mustSwap(t, s, to(a, state, func(a *store.Approval) { a.UseBy = start.Add(time.Hour) }))
		}
		found, opened, err := open(t).Open(t.Context(), approval("again "+digest, digest), store.OpenLimits{Now: start.Add(2 * time.Minute), Denied: 30 * time.Minute})
		if err != nil || opened == useless || (useless && (found.ID != a.ID || found.State != state)) {
			t.Errorf("beside one that is %s: opened %v, found %+v, %v", state, opened, found, err)
		}
	}
	if first.Version != 1 || first.State != store.Pending {
		t.Errorf("opened as %+v", first)
	}
	if _, opened, err := s.Open(t.Context(), approval("a", "three"), plenty); err == nil || opened {
		t.Errorf("an id that there is: opened %v, %v", opened, err)
	}
}

// atOnce runs f so many times at once.
func atOnce(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}

func oneAtOnce(t *testing.T, open Opener) {
	handles := []store.Approvals{open(t), open(t), open(t)}
	var opened atomic.Int64
	ids := make([]string, 64)
	atOnce(len(ids), func(i int) {
		found, own, err := handles[i%3].Open(t.Context(), approval(fmt.Sprint("id", i), "one"), plenty)
		if err != nil {
			t.Error(err)
			return
		}
		if own {
			opened.Add(1)
		}
		ids[i] = found.ID
	})
	for _, id := range ids {
		if id != ids[0] {
			t.Fatalf("%q and %q for one call", ids[0], id)
		}
	}
	if opened.Load() != 1 {
		t.Errorf("%d opened, want one", opened.Load())
	}
}

func whatStands(t *testing.T, open Opener) {
	s := open(t)
	ends := start.Add(time.Hour)
	for name, c := range map[string]struct {
		state store.State
		set   func(*store.Approval)
		after time.Duration // of ends, from which on it does not stand
	}{
		"pending":  {store.Pending, func(a *store.Approval) { a.ExpiresAt = ends }, 0},
		"approved": {store.Approved, func(a *store.Approval) { a.UseBy = ends }, 0},
		"denied":   {store.Denied, func(a *store.Approval) { a.EndedAt = ends }, 30 * time.Minute},
	} {
		for _, off := range []time.Duration{-1, 0, 1} {
			digest := fmt.Sprint(name, off)
			a := approval(digest, digest)
			c.set(a)
			a = mustOpen(t, s, a, plenty)
			if c.state != store.Pending {
				mustSwap(t, s, to(a, c.state, c.set))
			}
			_, opened, err := s.Open(t.Context(), approval("again "+digest, digest), store.OpenLimits{Now: ends.Add(c.after + off), Denied: 30 * time.Minute})
			if err != nil || opened != (off >= 0) {
				t.Errorf("%s, %d ns from its end: opened %v, %v", name, off, opened, err)
			}
		}
	}
}

func swap(t *testing.T, open Opener) {
	s := open(t)
	a := mustOpen(t, s, approval("a", "one"), plenty)
	next := to(a, store.Approved, nil)
	mustSwap(t, s, next)
	if err := s.Swap(t.Context(), to(a, store.Denied, nil)); !errors.Is(err, store.ErrChanged) {
		t.Errorf("of an old version: %v", err)
	}
	ahead := to(next, store.Denied, nil)
	ahead.Version++
	if err := s.Swap(t.Context(), ahead); !errors.Is(err, store.ErrChanged) || ahead.Version != 3 {
		t.Errorf("of a version that is not there: %v, and the version is %d", err, ahead.Version)
	}
	if err := s.Swap(t.Context(), to(approval("b", "two"), store.Denied, nil)); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("of one that is not there: %v", err)
	}
	got, err := open(t).Get(t.Context(), "a")
	if err != nil || got.State != store.Approved || got.Version != 2 {
		t.Errorf("then there is %+v, %v", got, err)
	}
}

func oneSwap(t *testing.T, open Opener) {
	handles := []store.Approvals{open(t), open(t), open(t)}
	a := mustOpen(t, handles[0], approval("a", "one"), plenty)
	for turn := range 5 {
		var won, lost atomic.Int64
		atOnce(64, func(i int) {
			next := to(a, store.Pending, func(a *store.Approval) { a.Why = fmt.Sprint(turn, i) })
			switch err := handles[i%3].Swap(t.Context(), next); {
			case err == nil:
				won.Add(1)
			case errors.Is(err, store.ErrChanged):
				lost.Add(1)
			default:
				t.Error(err)
			}
		})
		if won.Load() != 1 || lost.Load() != 63 {
			t.Fatalf("%d won and %d lost, want one", won.Load(), lost.Load())
		}
		var err error
		if a, err = handles[turn%3].Get(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
	}
}

func find(t *testing.T, open Opener) {
	s := open(t)
	first := mustOpen(t, s, approval("a", "one"), plenty)
	mustSwap(t, s, to(first, store.Cancelled, nil))
	mustOpen(t, s, approval("b", "one"), plenty)
	if got, err := s.ByDigest(t.Context(), "one"); err != nil || got.ID != "b" {
		t.Errorf("by digest: %+v, %v, want the newest", got, err)
	}
	for _, id := range []string{"", "c", "A", "a ", "%", "a\x00"} {
		if _, err := s.Get(t.Context(), id); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("get %q: %v", id, err)
		}
	}
	if _, err := s.ByDigest(t.Context(), "two"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("by another digest: %v", err)
	}
}

// pages reads a list to its end.
func pages(t *testing.T, s store.Approvals, f store.Filter) (ids []string) {
	t.Helper()
	for {
		page, next, err := s.List(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range page {
			ids = append(ids, a.ID)
		}
		if next == "" {
			return ids
		}
		f.After = next
	}
}

func list(t *testing.T, open Opener) {
	s := open(t)
	for i := range 7 {
		a := approval(fmt.Sprint(i), fmt.Sprint(i))
		a.Agent = fmt.Sprint("agent", i%2)
		a = mustOpen(t, s, a, plenty)
		if i%3 == 0 {
			mustSwap(t, s, to(a, store.Denied, nil))
		}
	}
	for _, c := range []struct {
		f    store.Filter
		want string
	}{
		{store.Filter{}, "6 5 4 3 2 1 0"},
		{store.Filter{Limit: 2}, "6 5 4 3 2 1 0"},
		{store.Filter{Limit: 7}, "6 5 4 3 2 1 0"},
		{store.Filter{States: []store.State{store.Pending, store.Approved}}, "5 4 2 1"},
		{store.Filter{States: []store.State{store.Denied}, Limit: 1}, "6 3 0"},
		{store.Filter{Agent: "agent1", Limit: 1}, "5 3 1"},
		{store.Filter{Agent: "nobody"}, ""},
		{store.Filter{Agent: "agent1", States: []store.State{store.Pending, store.Approved}, Limit: 1}, "5 1"},
		{store.Filter{Agent: "agent0", States: []store.State{store.Denied}, Limit: 1}, "6 0"},
		{store.Filter{Agent: "agent1", States: []store.State{store.Approved}}, ""},
	} {
		if got := strings.Join(pages(t, s, c.f), " "); got != c.want {
			t.Errorf("%+v: %q, want %q", c.f, got, c.want)
		}
	}
	if _, _, err := s.List(t.Context(), store.Filter{After: "no cursor"}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("with a cursor of its own making: %v", err)
	}
}

func listStable(t *testing.T, open Opener) {
	s := open(t)
	for i := range 4 {
		mustOpen(t, s, approval(fmt.Sprint(i), fmt.Sprint(i)), plenty)
	}
	first, next, err := s.List(t.Context(), store.Filter{Limit: 2})
	if err != nil || len(first) != 2 {
		t.Fatal(first, err)
	}
	mustOpen(t, s, approval("4", "4"), plenty)
	if got := strings.Join(pages(t, s, store.Filter{Limit: 2, After: next}), " "); got != "1 0" {
		t.Errorf("after one came meanwhile: %q, want what is older", got)
	}
}

func watch(t *testing.T, open Opener) {
	s, other := open(t), open(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	changes, err := s.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	a := mustOpen(t, other, approval("a", "one"), plenty)
	waitFor(t, changes, "a")
	b := mustOpen(t, s, approval("b", "two"), plenty)
	waitFor(t, changes, "b")
	mustSwap(t, other, to(a, store.Denied, nil))
	waitFor(t, changes, "a")
	mustSwap(t, s, to(b, store.Denied, nil))
	waitFor(t, changes, "b")
	stop()
	for range changes { // until it is closed
	}
}

func waitFor(t *testing.T, changes <-chan string, id string) {
	t.Helper()
	late := time.NewTimer(10 * time.Second)
	defer late.Stop()
	for {
		select {
		case got, open := <-changes:
			if !open {
				t.Fatal("it was closed")
			}
			if got == id {
				return
			}
		case <-late.C:
			t.Fatalf("nothing was told of %s", id)
		}
	}
}

func prune(t *testing.T, open Opener) {
	s := open(t)
	for i, state := range []store.State{store.Pending, store.Approved, store.Denied, store.Consumed, store.Expired} {
		a := mustOpen(t, s, approval(state.String(), fmt.Sprint(i)), plenty)
		if state != store.Pending {
			mustSwap(t, s, to(a, state, func(a *store.Approval) {
				if state == store.Expired {
					a.EndedAt = start.Add(time.Hour)
				}
			}))
		}
	}
	glass := approval("glass", "glass")
	glass.Grant = &store.Grant{BreakGlass: &store.BreakGlass{Reason: "r", Ticket: "t"}}
	over := to(mustOpen(t, s, glass, plenty), store.Expired, func(*store.Approval) {})
	mustSwap(t, s, over)
	total := func() (total int) {
		for {
			n, err := s.Prune(t.Context(), start.Add(30*time.Minute))
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				return total
			}
			total += n
		}
	}
	removed := total()
	if got := strings.Join(pages(t, s, store.Filter{}), " "); removed != 2 || got != "glass expired approved pending" {
		t.Errorf("%d removed, left %q, want the two that ended long ago removed", removed, got)
	}
	over.Grant.BreakGlass.ReviewedBy = "somebody@example.com"
	mustSwap(t, s, over)
	removed = total()
	if got := strings.Join(pages(t, s, store.Filter{}), " "); removed != 1 || got != "expired approved pending" {
		t.Errorf("%d removed, left %q, want the emergency removed that was reviewed", removed, got)
	}
}

func closed(t *testing.T, open Opener) {
	s := open(t)
	a := mustOpen(t, s, approval("a", "one"), plenty)
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := s.Get(ended, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("get for nobody: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, _, opening := s.Open(t.Context(), approval("b", "two"), plenty)
	_, getting := s.Get(t.Context(), "a")
	_, finding := s.ByDigest(t.Context(), "one")
	_, _, listing := s.List(t.Context(), store.Filter{})
	_, pruning := s.Prune(t.Context(), start)
	_, watching := s.Watch(t.Context())
	for what, err := range map[string]error{
		"open": opening, "get": getting, "by digest": finding, "list": listing, "prune": pruning, "watch": watching,
		"swap": s.Swap(t.Context(), to(a, store.Denied, nil)),
	} {
		if !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s of a closed store: %v", what, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
}
