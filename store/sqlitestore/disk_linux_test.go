package sqlitestore_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/internal/testkit"
	"github.com/kelpie-authz/kelpie/store"
	"github.com/kelpie-authz/kelpie/store/sqlitestore"
)

// On a disk that is full nothing is opened, voted on or used, and nothing that was
// answered is lost; with room it goes on by itself.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	testkit.OnSmallDisk(t, "20m", func(dir string) { fullDisk(t, dir) })
}

// tight is a store on a disk that runs full, and what it has answered.
type tight struct {
	s *sqlitestore.Store
	// kept are the versions that were acknowledged, doubtful those whose change was not
	// answered: they may have it or not.
	kept     map[string]*store.Approval
	doubtful map[string]bool
	last     int
}

var wednesday = time.Date(2026, 6, 17, 12, 0, 0, 0, time.UTC)

// wantFull demands of an error that it is that of a full disk.
func wantFull(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "full") {
		t.Fatalf("%s: %v, want ErrUnavailable for a full disk", what, err)
	}
}

// open opens one more.
func (k *tight) open(t *testing.T) error {
	t.Helper()
	k.last++
	id := fmt.Sprint("id", k.last)
	a := &store.Approval{
		ID: id, Digest: "digest of " + id, Agent: fmt.Sprint("agent", k.last), OpenedAt: wednesday, ExpiresAt: wednesday.Add(time.Hour),
		Shown: []byte(strings.Repeat("x", 15<<10)),
	}
	got, opened, err := k.s.Open(t.Context(), a, store.OpenLimits{Now: wednesday})
	if err != nil {
		k.doubtful[id] = true
		return err
	}
	if !opened {
		t.Fatalf("%s was there", id)
	}
	k.kept[id] = got
	return nil
}

// swap brings one a step further: a yes, then its use.
func (k *tight) swap(t *testing.T, id string) error {
	t.Helper()
	next := k.kept[id].Clone()
	if next.State == store.Pending {
		next.State, next.UseBy = store.Approved, wednesday.Add(time.Hour)
	} else {
		next.State, next.EndedAt, next.Used = store.Consumed, wednesday, &store.Use{DecisionID: "d", At: wednesday}
	}
	if err := k.s.Swap(t.Context(), next); err != nil {
		k.doubtful[id] = true
		return err
	}
	k.kept[id] = next
	return nil
}

// step opens, approves and uses one.
func (k *tight) step(t *testing.T) error {
	t.Helper()
	if err := k.open(t); err != nil {
		return err
	}
	id := fmt.Sprint("id", k.last)
	if err := k.swap(t, id); err != nil {
		return err
	}
	if k.last%2 == 0 {
		return nil // This one stays approved.
	}
	return k.swap(t, id)
}

// fill goes on until nothing is taken any more: a change of what is there may find
// room where a new one does not.
func (k *tight) fill(t *testing.T) {
	t.Helper()
	refused := 0
	for refused < 5 {
		if k.last > 100_000 {
			t.Fatal("the disk is never full")
		}
		if err := k.step(t); err != nil {
			wantFull(t, "open and use", err)
			refused++
		} else {
			refused = 0
		}
	}
	swaps := 0
	for _, id := range slices.Sorted(maps.Keys(k.kept)) {
		if k.kept[id].State.Final() || k.doubtful[id] {
			continue
		}
		if err := k.swap(t, id); err != nil {
			wantFull(t, "use", err)
			if swaps++; swaps == 5 {
				break
			}
		}
	}
	if swaps == 0 {
		t.Fatal("no use was refused: the disk is not full")
	}
	wantFull(t, "open", k.open(t))
}

// check looks at everything that was acknowledged. While the disk is full a read may
// be refused, in words; how many answered is returned.
func (k *tight) check(t *testing.T, when string, full bool) (answered int) {
	t.Helper()
	for id, want := range k.kept {
		got, err := k.s.Get(t.Context(), id)
		if full && errors.Is(err, store.ErrUnavailable) {
			continue
		}
		if err != nil {
			t.Fatalf("%s: %s: %v", when, id, err)
		}
		if got.Version != want.Version || got.State != want.State {
			// A change that was not answered may have been made, once.
			if !k.doubtful[id] || got.Version != want.Version+1 {
				t.Fatalf("%s: %s is %s in version %d, want %s in version %d", when, id, got.State, got.Version, want.State, want.Version)
			}
		}
		answered++
		if by, err := k.s.ByDigest(t.Context(), want.Digest); err != nil && !full || err == nil && by.ID != id {
			t.Fatalf("%s: by the digest of %s: %+v, %v", when, id, by, err)
		}
	}
	list, _, err := k.s.List(t.Context(), store.Filter{Limit: 1000})
	if full && errors.Is(err, store.ErrUnavailable) {
		return answered
	}
	if err != nil || len(list) < min(1000, len(k.kept)) {
		t.Fatalf("%s: %d listed of %d, %v", when, len(list), len(k.kept), err)
	}
	return answered
}

func fullDisk(t *testing.T, dir string) {
	t.Helper()
	ballast := []string{filepath.Join(dir, "one"), filepath.Join(dir, "two")}
	for _, name := range ballast {
		if err := os.WriteFile(name, make([]byte, 7<<20), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	state := filepath.Join(dir, "state")
	k := &tight{s: openIn(t, state), kept: map[string]*store.Approval{}, doubtful: map[string]bool{}}
	for i, name := range ballast {
		k.fill(t)
		before, refused := len(k.kept), len(k.doubtful)
		answered := k.check(t, "while the disk is full", true)
		if before < 20*(i+1) || answered == 0 {
			t.Errorf("%d were opened before the disk was full, and %d of them could be read", before, answered)
		}
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		for range 50 {
			if err := k.step(t); err != nil {
				t.Fatalf("with room again: %v", err)
			}
		}
		for id, a := range k.kept {
			if a.State == store.Approved && !k.doubtful[id] {
				if err := k.swap(t, id); err != nil {
					t.Fatalf("with room again, the use of %s: %v", id, err)
				}
			}
		}
		k.check(t, "with room again", false)
		t.Logf("%d opened when the disk was full for time %d, %d changes not answered; %d of them could be read", before, i+1, refused, answered)
	}
	if err := k.s.Close(); err != nil {
		t.Fatal(err)
	}
	k.s = openIn(t, state)
	k.check(t, "opened again", false)
}
