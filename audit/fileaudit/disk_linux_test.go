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

// writing is a log on a small disk, and what it took.
type writing struct {
	*fileaudit.Log

	dir  string
	want []string
}

func (w *writing) put(d audit.Durability) error {
	id := fmt.Sprint("d-", len(w.want))
	err := w.Append(context.Background(), event(id), d)
	if err == nil {
		w.want = append(w.want, id)
	}
	return err
}

// fill appends until the disk is full; one of so many waits for the disk.
func (w *writing) fill(t *testing.T, waits int) {
	t.Helper()
	for n := 0; ; n++ {
		if n > 100_000 {
			t.Fatal("the disk is never full")
		}
		d := audit.Async
		if waits > 0 && n%waits != 0 {
			d = audit.Sync
		}
		if err := w.put(d); err != nil {
			if !errors.Is(err, audit.ErrUnavailable) || !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("Append = %v, want ErrUnavailable for ENOSPC", err)
			}
			return
		}
	}
}

// all fails unless the log has what it took, once and in order.
func (w *writing) all(t *testing.T) {
	t.Helper()
	got := records(t, w.dir)
	for i, r := range got {
		if i >= len(w.want) || r.DecisionID != w.want[i] {
			t.Fatalf("record %d is %s", i, r.DecisionID)
		}
	}
	if len(got) != len(w.want) {
		t.Errorf("%d records are kept of %d that were taken", len(got), len(w.want))
	}
}

// A real file system runs full under appends, and gets room again.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	testkit.OnSmallDisk(t, "4m", func(dir string) { fullDisk(t, dir) })
}

func fullDisk(t *testing.T, dir string) {
	t.Helper()
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(dir, "audit")
	l := &writing{dir: log, Log: open(t, fileaudit.Config{Dir: log, RetryEvery: 5 * time.Millisecond, CheckpointEvery: 10 * time.Millisecond})}
	l.fill(t, 3)
	if err := l.Err(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Err = %v", err)
	}
	before := len(l.want)
	if err := os.Truncate(ballast, 512<<10); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "records are taken again", func() bool { return l.put(audit.Sync) == nil })
	testkit.Eventually(t, "the log says that all is well", func() bool { return l.Err() == nil })
	l.fill(t, 3)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "records are taken again", func() bool { return l.put(audit.Sync) == nil })
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	v := verify(t, log)
	if v.Failures < 2 || v.Refused == 0 || !v.Closed || v.Lost != 0 {
		t.Errorf("the log tells of %d failures, %d refused and %d lost records, closed: %v", v.Failures, v.Refused, v.Lost, v.Closed)
	}
	if l.all(t); before == 0 {
		t.Error("nothing was written before the disk was full")
	}
}

// Whatever was taken without waiting before a disk was full is in the log, when
// the process ends in order while the disk still is.
func TestFullDiskAndAnEnd(t *testing.T) {
	t.Parallel()
	testkit.OnSmallDisk(t, "4m", func(dir string) { fullDiskAndAnEnd(t, dir, func(*fileaudit.Log) {}) })
}

// So it is after the log has tried again.
func TestFullDiskAndALaterEnd(t *testing.T) {
	t.Parallel()
	testkit.OnSmallDisk(t, "4m", func(dir string) {
		fullDiskAndAnEnd(t, dir, func(l *fileaudit.Log) {
			testkit.Eventually(t, "what was held back is used", func() bool { return l.Stats().Segments > 1 })
		})
	})
}

func fullDiskAndAnEnd(t *testing.T, dir string, wait func(*fileaudit.Log)) {
	t.Helper()
	l := &writing{dir: dir, Log: open(t, fileaudit.Config{Dir: dir, RetryEvery: 5 * time.Millisecond})}
	l.fill(t, 0)
	wait(l.Log)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if v := verify(t, dir); !v.Closed || v.Lost != 0 || v.Unsigned != 0 {
		t.Errorf("closed: %v, %d lost, %d unsigned", v.Closed, v.Lost, v.Unsigned)
	}
	l.all(t)
}

// A log that is opened where there is no room for what it must hold back takes
// nothing until there is.
func TestOpenWithoutRoom(t *testing.T) {
	t.Parallel()
	testkit.OnSmallDisk(t, "4m", func(dir string) { openWithoutRoom(t, dir) })
}

func openWithoutRoom(t *testing.T, dir string) {
	t.Helper()
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 3<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(dir, "audit")
	l := open(t, fileaudit.Config{Dir: log, RetryEvery: 5 * time.Millisecond})
	if err := l.Append(t.Context(), event("1"), audit.Async); !errors.Is(err, syscall.ENOSPC) || !errors.Is(err, audit.ErrUnavailable) {
		t.Errorf("Append = %v", err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "records are taken", func() bool { return l.Append(t.Context(), event("2"), audit.Sync) == nil })
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if v := verify(t, log); v.Segments != 1 || v.Records != 1 {
		t.Errorf("%d segments, %d records", v.Segments, v.Records)
	}
}
