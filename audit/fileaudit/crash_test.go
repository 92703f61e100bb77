package fileaudit_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/kelpie-authz/kelpie/audit"
	"github.com/kelpie-authz/kelpie/audit/fileaudit"
)

// A process that appends from 16 callers is killed, again and again, in one
// directory. No record that it acknowledged may be missing, and the log has to
// verify, before and after it is opened again.
func TestNoAcknowledgedRecordIsLostByKill(t *testing.T) {
	t.Parallel()
	directories, kills := 2, 10
	if full() {
		directories, kills = 20, 50
	}
	total := 0
	for d := range directories {
		dir := t.TempDir()
		rng := rand.New(rand.NewPCG(1, uint64(d)))
		acknowledged := map[string]bool{}
		for k := range kills {
			c := start(t, plan{Dir: dir, Run: fmt.Sprintf("%d-%d", d, k), Callers: 16})
			told := c.lines(1 + rng.IntN(150))
			told = append(told, c.kill(t)...)
			if len(told) == 0 || told[0] != "open" {
				t.Fatalf("the child did not open the log: %s", c.stderr)
			}
			for _, id := range told[1:] {
				acknowledged[id] = true
			}
			missing(t, dir, acknowledged)
		}
		l := open(t, fileaudit.Config{Dir: dir})
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if v := missing(t, dir, acknowledged); v.Crashes != kills || !v.Closed || v.Unsigned != 0 {
			t.Fatalf("after %d kills the log tells of %d crashes, closed: %v, unsigned: %d", kills, v.Crashes, v.Closed, v.Unsigned)
		}
		total += len(acknowledged)
	}
	t.Logf("%d kills, %d acknowledged records, none missing", directories*kills, total)
}

// missing fails if an acknowledged record is not in the log, or is there twice.
func missing(t *testing.T, dir string, acknowledged map[string]bool) audit.Verification {
	t.Helper()
	v := verify(t, dir)
	found := make(map[string]bool, len(acknowledged))
	for _, r := range records(t, dir) {
		if found[r.DecisionID] {
			t.Fatalf("%s is there twice", r.DecisionID)
		}
		found[r.DecisionID] = true
	}
	for id := range acknowledged {
		if !found[id] {
			t.Fatalf("%s was acknowledged and is missing among %d records", id, len(found))
		}
	}
	return v
}

// Where no file can grow, every record is refused; where it can again, the log
// goes on by itself.
func TestFullDiskByLimit(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	told := start(t, plan{Dir: dir, Run: "x"}).wait(t)
	if fmt.Sprint(told) != "[x-before x-after]" {
		t.Fatalf("acknowledged: %v", told)
	}
	v := verify(t, dir)
	if v.Failures != 1 || v.Refused < 100 || !v.Closed {
		t.Errorf("the log tells of %d failures and %d refused records, closed: %v", v.Failures, v.Refused, v.Closed)
	}
	all := records(t, dir)
	if len(all) != 2 || all[0].DecisionID != "x-before" || all[1].DecisionID != "x-after" {
		t.Errorf("the log has %d records: %+v", len(all), all)
	}
	// Somebody reading the log sees that records were refused, and how many.
	seen := false
	for line, err := range fileaudit.NewReader(dir).Query(context.Background(), &audit.Query{Kinds: []audit.Kind{audit.KindSegment}}) {
		if err != nil {
			t.Fatal(err)
		}
		seen = seen || (line.Note.Ended == audit.EndedFailed && line.Note.Refused == v.Refused)
	}
	if !seen {
		t.Error("no note of the log tells how many records were refused")
	}
}
