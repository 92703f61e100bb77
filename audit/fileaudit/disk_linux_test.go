package fileaudit_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/audit"
	"github.com/kelpie-authz/kelpie/audit/fileaudit"
	"github.com/kelpie-authz/kelpie/internal/testkit"
)

// A real file system runs full under appends, and gets room again.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	testkit.OnSmallDisk(t, "1m", func(dir string) { fullDisk(t, dir) })
}

func fullDisk(t *testing.T, dir string) {
	t.Helper()
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 512<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(dir, "audit")
	l := open(t, fileaudit.Config{Dir: log, RetryEvery: 5 * time.Millisecond, CheckpointEvery: 10 * time.Millisecond})
	var want []string
	put := func(d audit.Durability) error {
		id := fmt.Sprint("d-", len(want))
		err := l.Append(context.Background(), event(id), d)
		if err == nil {
			want = append(want, id)
		}
		return err
	}
	fill := func() {
		for n := 0; ; n++ {
			if n > 100_000 {
				t.Fatal("the disk is never full")
			}
			d := audit.Sync
			if n%3 == 0 {
				d = audit.Async
			}
			if err := put(d); err != nil {
				if !errors.Is(err, audit.ErrUnavailable) || !errors.Is(err, syscall.ENOSPC) {
					t.Fatalf("Append = %v, want ErrUnavailable for ENOSPC", err)
				}
				return
			}
		}
	}
	fill()
	if err := l.Err(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Err = %v", err)
	}
	before := len(want)
	if err := os.Truncate(ballast, 128<<10); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "records are taken again", func() bool { return put(audit.Sync) == nil })
	testkit.Eventually(t, "the log says that all is well", func() bool { return l.Err() == nil })
	fill()
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "records are taken again", func() bool { return put(audit.Sync) == nil })
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	v := verify(t, log)
	if v.Failures < 2 || v.Refused == 0 || !v.Closed {
		t.Errorf("the log tells of %d failures and %d refused records, closed: %v", v.Failures, v.Refused, v.Closed)
	}
	all := records(t, log)
	for i, r := range all {
		if i >= len(want) || r.DecisionID != want[i] {
			t.Fatalf("record %d is %s", i, r.DecisionID)
		}
	}
	if len(all) != len(want) || before == 0 {
		t.Errorf("%d records are kept of %d that were taken", len(all), len(want))
	}
}
