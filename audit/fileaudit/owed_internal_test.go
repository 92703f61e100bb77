package fileaudit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/audit"
	"github.com/kelpie-authz/kelpie/internal/testkit"
)

// Close says when what was taken could not be written.
func TestCloseTellsOfLoss(t *testing.T) {
	t.Parallel()
	cfg, disk := testConfig(t)
	cfg.FlushEvery, cfg.CheckpointEvery = time.Second, time.Second
	l := mustOpen(t, cfg)
	if err := l.Append(context.Background(), decision("taken"), audit.Async); err != nil {
		t.Fatal(err)
	}
	disk.set(always(syscall.ENOSPC), always(syscall.ENOSPC), nil, nil)
	err := l.Close()
	if !errors.Is(err, syscall.ENOSPC) || !errors.Is(err, errLost) {
		t.Errorf("Close = %v, want that records are lost, and why", err)
	}
	disk.set(nil, nil, nil, nil)
	for run, want := range []uint64{1, 0} { // It is told by one segment.
		l = mustOpen(t, cfg)
		if got := l.Lost(); got != want {
			t.Errorf("start %d: Lost = %d, want %d", run+1, got, want)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if v := mustVerify(t, cfg.Dir); v.Lost != 1 || v.Records != 0 {
			t.Errorf("the log tells of %d lost records and has %d", v.Lost, v.Records)
		}
	}
}

// A process that dies while records are owed leaves word of how many.
func TestACrashTellsWhatWasOwed(t *testing.T) {
	t.Parallel()
	cfg, disk := testConfig(t)
	cfg.KeyFile = filepath.Join(t.TempDir(), "key")
	l := mustOpen(t, cfg)
	disk.set(always(errSick), always(errSick), nil, nil)
	taken := 0
	for l.Append(t.Context(), decision(fmt.Sprint(taken)), audit.Async) == nil {
		taken++
	}
	testkit.Eventually(t, "the rest is owed", func() bool {
		l.q.mu.Lock()
		defer l.q.mu.Unlock()
		return l.q.lost > 0 && l.q.held == 0 && l.q.cur.owed == 0
	})
	// What a kill would leave.
	crashed, beside := t.TempDir(), t.TempDir()
	for to, from := range map[string]string{crashed: cfg.Dir, beside: filepath.Dir(cfg.KeyFile)} {
		if err := os.CopyFS(to, os.DirFS(from)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(beside, filepath.Base(cfg.KeyFile)), 0o600); err != nil {
		t.Fatal(err)
	}
	disk.set(nil, nil, nil, nil)
	testkit.Eventually(t, "nothing is owed", func() bool { return l.q.unsafe() == 0 })
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if v := mustVerify(t, cfg.Dir); v.Lost != 0 || v.Records != uint64(taken) {
		t.Errorf("the process lived: %d lost, %d of %d records", v.Lost, v.Records, taken)
	}
	l = mustOpen(t, Config{Dir: crashed, KeyFile: filepath.Join(beside, filepath.Base(cfg.KeyFile))})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if v := mustVerify(t, crashed); v.Lost == 0 || v.Lost+v.Records != uint64(taken) {
		t.Errorf("the process died: %d lost and %d records, want %d together", v.Lost, v.Records, taken)
	}
}

// Where a write fails, the whole lines before it stay: they may be all that
// there is room for.
func TestAFailedWriteKeepsWholeLines(t *testing.T) {
	t.Parallel()
	for name, last := range map[string]audit.Durability{"nobody waits": audit.Async, "somebody waits": audit.Sync} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg, disk := testConfig(t)
			cfg.FlushEvery, cfg.CheckpointEvery = time.Second, time.Second
			l := mustOpen(t, cfg)
			var want []string
			for i := range 20 {
				want = append(want, fmt.Sprint(i))
				if err := l.Append(t.Context(), decision(want[i]), audit.Async); err != nil {
					t.Fatal(err)
				}
			}
			disk.set(always(syscall.ENOSPC), once(syscall.ENOSPC), nil, nil) // Half of it is written.
			if err := l.Append(t.Context(), decision("last"), last); (err != nil) != (last == audit.Sync) {
				t.Fatal(err)
			}
			signal(l.q.now)
			testkit.Eventually(t, "writing fails", func() bool { return l.Err() != nil })
			testkit.Eventually(t, "the whole lines are there", func() bool { return len(ids(t, cfg.Dir)) >= 8 })
			if got := ids(t, cfg.Dir); len(got) > 12 || fmt.Sprint(got) != fmt.Sprint(want[:len(got)]) {
				t.Errorf("the full disk has %v", got)
			}
			disk.set(nil, nil, nil, nil)
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			if last == audit.Async {
				want = append(want, "last")
			}
			if v := mustVerify(t, cfg.Dir); v.Failures != 1 || v.Ignored != 0 {
				t.Errorf("%d failures, %d lines that do not count", v.Failures, v.Ignored)
			}
			if got := ids(t, cfg.Dir); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("the log has %v", got)
			}
		})
	}
}

// Of what was written before a write failed nothing stays that was refused.
func TestAFailedWriteKeepsNothingThatWasRefused(t *testing.T) {
	t.Parallel()
	cfg, disk := testConfig(t)
	cfg.CheckpointEvery = time.Second
	l := mustOpen(t, cfg)
	h := newHung()
	disk.hang(h.ask, nil)
	waits := make(chan error, 1)
	if err := l.Append(t.Context(), decision("0"), audit.Async); err != nil {
		t.Fatal(err)
	}
	testkit.Receive(t, "the disk is asked", h.held)
	want := []string{"0"}
	for i := 1; i <= 20; i++ {
		if i == 4 { // In the first half of the batch.
			go func() { waits <- l.Append(t.Context(), decision("refused"), audit.Sync) }()
			testkit.Eventually(t, "somebody waits", func() bool {
				l.q.mu.Lock()
				defer l.q.mu.Unlock()
				return l.q.cur.urgent
			})
		}
		want = append(want, fmt.Sprint(i))
		if err := l.Append(t.Context(), decision(want[i]), audit.Async); err != nil {
			t.Fatal(err)
		}
	}
	writes := 0
	disk.set(nil, func() error {
		if writes++; writes == 2 {
			return errSick
		}
		return nil
	}, nil, nil)
	close(h.free)
	if err := testkit.Receive(t, "an answer", waits); !errors.Is(err, errSick) {
		t.Errorf("Append = %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	mustVerify(t, cfg.Dir)
	if got := ids(t, cfg.Dir); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the log has %v", got)
	}
}

// After a fault nothing is taken before room is held back for it, though what is
// owed can be written.
func TestNothingIsTakenWithoutTheReserve(t *testing.T) {
	t.Parallel()
	cfg, disk := testConfig(t)
	cfg.CheckpointEvery = time.Second
	var full atomic.Bool
	var attempts atomic.Int64
	cfg.reserve = func(path string) error {
		if full.Load() {
			attempts.Add(1)
			return syscall.ENOSPC
		}
		return createReserve(path)
	}
	l := mustOpen(t, cfg)
	full.Store(true)
	disk.set(nil, once(syscall.ENOSPC), nil, nil)
	if err := os.Remove(filepath.Join(cfg.Dir, reserveName)); err != nil {
		t.Fatal(err)
	}
	if err := l.Append(t.Context(), decision("1"), audit.Async); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "what is owed is written, and vouched for", func() bool {
		head, err := readCheckpoint(filepath.Join(cfg.Dir, headName))
		return err == nil && head.Segment == 2 && fmt.Sprint(ids(t, cfg.Dir)) == "[1]" && head.Seq >= 4
	})
	testkit.Eventually(t, "the log has tried again", func() bool {
		if err := l.Append(t.Context(), decision("refused"), audit.Async); !errors.Is(err, audit.ErrUnavailable) || !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("Append = %v", err)
		}
		return attempts.Load() > 5
	})
	full.Store(false)
	testkit.Eventually(t, "records are taken again", func() bool { return l.Append(t.Context(), decision("2"), audit.Sync) == nil })
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	mustVerify(t, cfg.Dir)
	if _, err := os.Stat(filepath.Join(cfg.Dir, reserveName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a log that rests holds room back: %v", err)
	}
}

// What is owed is written as far as there is room, in the segment that is open.
func TestWhatIsOwedIsWrittenInPieces(t *testing.T) {
	t.Parallel()
	cfg, disk := testConfig(t)
	cfg.FlushEvery, cfg.CheckpointEvery, cfg.RetryEvery = time.Second, time.Second, time.Hour
	l := mustOpen(t, cfg)
	var want []string
	for i := range 64 {
		want = append(want, fmt.Sprint(i))
		if err := l.Append(t.Context(), decision(want[i]), audit.Async); err != nil {
			t.Fatal(err)
		}
	}
	writes := 0
	disk.set(nil, func() error {
		if writes++; writes != 2 { // But the first line of a segment.
			return errSick
		}
		return nil
	}, nil, nil)
	err := l.Close()
	got := ids(t, cfg.Dir)
	if !errors.Is(err, errLost) || len(got) < 40 || len(got) == len(want) || fmt.Sprint(got) != fmt.Sprint(want[:len(got)]) {
		t.Errorf("Close = %v; the log has %v", err, got)
	}
	disk.set(nil, nil, nil, nil)
	l = mustOpen(t, cfg)
	if int(l.Lost())+len(got) != len(want) {
		t.Errorf("%d lost, and %d are there of %d", l.Lost(), len(got), len(want))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	mustVerify(t, cfg.Dir)
}
