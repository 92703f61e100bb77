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
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

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

// full has something in every field, those of what it holds among them.
func full(t *testing.T) *store.Approval {
	t.Helper()
	a := approval("full", "digest")
	a.Agent, a.Subject, a.Action, a.Resource, a.Gateway = "a\xff\x00", "s\u202e", "x.y", strings.Repeat("r/", 1000)+"é", "g\xfe"
	a.Shown = []byte(strings.Repeat("x", 64<<10))
	a.Votes = []store.Vote{{ID: "v1", Voter: "ann", How: "oidc", Groups: []string{"security"}, Rule: "approvals/r", Yes: true, Reason: "because\n\u202e", At: start.Add(1)}}
	a.UseBy, a.EndedAt, a.EndedBy, a.Why = start.Add(2), start.Add(3), "bob", "why"
	a.Used = &store.Use{Gateway: "gw", RequestID: "r", DecisionID: "d", At: start.Add(4)}
	a.Grant = &store.Grant{
		From: "apr_1", Shape: []byte(`{"base":"x"}`), Resource: "r/*", MaxCost: 2.5, MaxUses: 10, Uses: 3,
		Bounds: []store.Bound{{Name: "amount\u202e", Any: true, Min: new(1.5), Max: new(1e300)}, {Name: "to", Any: true, Min: new(-1.5), Max: new(2.5)}},
		BreakGlass: &store.BreakGlass{
			Action: "records.*", Reason: "a fire\u202e", Ticket: "T-1", ReviewedBy: "ann", Review: "as it says", ReviewedAt: start.Add(5),
		},
	}
	if left := unfilled(a); len(left) > 0 {
		t.Fatalf("the suite leaves out %s, so that nobody knows whether a driver keeps it", strings.Join(left, ", "))
	}
	return a
}

// unfilled names what is zero in a value, however deep, but for what is not stored.
func unfilled(a *store.Approval) []string {
	return slices.DeleteFunc(empties("", reflect.ValueOf(a)), func(name string) bool { return name == ".Unsure" })
}

// empties are the paths of what is zero or empty in a value. A field that a caller
// cannot set is its type's own affair, as those of a time are.
func empties(path string, v reflect.Value) (names []string) {
	if v.IsZero() {
		return []string{path}
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		return empties(path, v.Elem())
	case reflect.Slice, reflect.Array:
		if v.Len() == 0 {
			return []string{path}
		}
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return nil // a text
		}
		for i := range v.Len() {
			names = append(names, empties(fmt.Sprintf("%s[%d]", path, i), v.Index(i))...)
		}
	case reflect.Map:
		if v.Len() == 0 {
			return []string{path}
		}
		for _, key := range v.MapKeys() {
			names = append(names, empties(fmt.Sprintf("%s[%v]", path, key), v.MapIndex(key))...)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() {
				names = append(names, empties(path+"."+f.Name, v.Field(i))...)
			}
		}
	default: // It is not zero.
	}
	return names
}

func everyField(t *testing.T, open Opener) {
	s := open(t)
	for _, a := range []*store.Approval{full(t), {ID: "empty", Digest: "other", State: store.Pending, Version: 1, OpenedAt: start}} {
		opened := mustOpen(t, s, a, plenty)
		opened.State, opened.Votes, opened.Used, opened.UseBy, opened.EndedAt = store.Consumed, a.Votes, a.Used, a.UseBy, a.EndedAt
		mustSwap(t, s, opened)
		got, err := open(t).Get(t.Context(), a.ID)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(opened, got, cmp.Comparer(time.Time.Equal)); diff != "" && a.ID != "empty" {
			t.Errorf("%s (-want +got):\n%s", a.ID, diff)
		}
		if a.ID == "empty" && (len(got.Votes)+len(got.Requirements)+len(got.Shown) > 0 || got.Used != nil || !got.UseBy.IsZero() || !got.EndedAt.IsZero()) {
			t.Errorf("what is empty came back as %+v", got)
		}
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

func quotas(t *testing.T, open Opener) {
	s := open(t)
	limits := store.OpenLimits{Pending: 3, Hourly: 5, Span: time.Hour, Now: start}
	at := func(i int, agent string, now time.Time) error {
		a := approval(fmt.Sprint(agent, i), fmt.Sprint(agent, i))
		a.Agent, a.OpenedAt, a.ExpiresAt = agent, now, now.Add(15*time.Minute)
		limits.Now = now
		_, _, err := s.Open(t.Context(), a, limits)
		return err
	}
	for i := range 3 {
		if err := at(i, "bot", start); err != nil {
			t.Fatal(err)
		}
	}
	if err := at(3, "bot", start); !errors.Is(err, store.ErrQuota) {
		t.Errorf("the fourth that is pending: %v", err)
	}
	if err := at(0, "other", start); err != nil {
		t.Errorf("of another agent: %v", err)
	}
	if _, opened, err := s.Open(t.Context(), approval("again", "bot0"), limits); err != nil || opened {
		t.Errorf("the same call as one that is pending: opened %v, %v", opened, err)
	}
	for i := 4; i < 6; i++ {
		if err := at(i, "bot", start.Add(20*time.Minute)); err != nil {
			t.Errorf("after the first ones have expired: %v", err)
		}
	}
	if err := at(6, "bot", start.Add(59*time.Minute)); !errors.Is(err, store.ErrQuota) {
		t.Errorf("the sixth within the hour: %v", err)
	}
	if err := at(7, "bot", start.Add(61*time.Minute)); err != nil {
		t.Errorf("after the hour: %v", err)
	}
	grantsAreNoQuestions(t, s, limits)
}

// grantsAreNoQuestions: however many standing grants there are, and are being made,
// an agent may ask as much, and grants may be made where it may not ask.
func grantsAreNoQuestions(t *testing.T, s store.Approvals, limits store.OpenLimits) {
	t.Helper()
	limits.Now = start
	stand := func(name string, grant *store.Grant) error {
		a := approval(name, name)
		a.Agent, a.OpenedAt, a.ExpiresAt, a.Grant = "granted", start, start.Add(15*time.Minute), grant
		_, _, err := s.Open(t.Context(), a, limits)
		return err
	}
	for i := range 6 {
		if err := stand(fmt.Sprint("grant", i), &store.Grant{MaxUses: 1}); err != nil {
			t.Errorf("grant %d: %v", i, err)
		}
	}
	for i := range 3 {
		if err := stand(fmt.Sprint("question", i), nil); err != nil {
			t.Errorf("question %d beside grants: %v", i, err)
		}
	}
	if err := stand("question 3", nil); !errors.Is(err, store.ErrQuota) {
		t.Errorf("the fourth question: %v", err)
	}
	if err := stand("late", &store.Grant{MaxUses: 1}); err != nil {
		t.Errorf("a grant beside questions: %v", err)
	}
}

func quotasAtOnce(t *testing.T, open Opener) {
	handles := []store.Approvals{open(t), open(t)}
	var opened, refused atomic.Int64
	atOnce(40, func(i int) {
		_, own, err := handles[i%2].Open(t.Context(), approval(fmt.Sprint(i), fmt.Sprint(i)), store.OpenLimits{Pending: 10, Now: start})
		switch {
		case own:
			opened.Add(1)
		case errors.Is(err, store.ErrQuota):
			refused.Add(1)
		default:
			t.Errorf("opened %v, %v", own, err)
		}
	})
	if opened.Load() != 10 || refused.Load() != 30 {
		t.Errorf("%d opened and %d refused, want 10 and 30", opened.Load(), refused.Load())
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
