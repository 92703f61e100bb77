package fileaudit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/audit"
	"github.com/kelpie-authz/kelpie/internal/testkit"
)

// Whatever is done to the open segment or the lock under the process: nobody is
// told that a record is kept that nobody can find, and the log goes on in a new
// segment.
func TestFilesThatAreChangedUnderTheLog(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]func(segment, lock string) error{
		"the segment removed": func(segment, _ string) error { return os.Remove(segment) },
		"the segment replaced": func(segment, _ string) error {
			raw, err := os.ReadFile(segment)
			return errors.Join(err, os.Remove(segment), os.WriteFile(segment, raw, fileMode))
		},
		"the segment moved, and a link in its place": func(segment, _ string) error {
			return errors.Join(os.Rename(segment, segment+".x"), os.Symlink(segment+".x", segment))
		},
		"the segment emptied": func(segment, _ string) error { return os.Truncate(segment, 0) },
		"a line added": func(segment, _ string) error {
			raw, err := os.ReadFile(segment)
			return errors.Join(err, os.WriteFile(segment, append(raw, "{}\n"...), fileMode))
		},
		"the lock removed":  func(_, lock string) error { return os.Remove(lock) },
		"the lock replaced": func(_, lock string) error { return errors.Join(os.Remove(lock), os.WriteFile(lock, nil, fileMode)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg, _ := testConfig(t)
			cfg.CheckpointEvery = time.Second
			var told atomic.Int64
			cfg.Failed = func(err error) {
				if errors.Is(err, errNotOurs) {
					told.Add(1)
				}
			}
			var signed atomic.Uint64
			cfg.Checkpoint = func(c audit.Checkpoint) { signed.Store(c.Seq) }
			l := mustOpen(t, cfg)
			lock := filepath.Join(cfg.Dir, lockName)
			if err := l.Append(t.Context(), decision("before"), audit.Sync); err != nil {
				t.Fatal(err)
			}
			if err := harm(segmentPath(cfg.Dir, 1), lock); err != nil {
				t.Fatal(err)
			}
			if err := l.Append(t.Context(), decision("refused"), audit.Sync); !errors.Is(err, audit.ErrUnavailable) || !errors.Is(err, errNotOurs) {
				t.Errorf("Append = %v, want ErrUnavailable, since nobody can find it", err)
			}
			testkit.Eventually(t, "records are taken again", func() bool { return l.Append(t.Context(), decision("after"), audit.Sync) == nil })
			raw, err := os.ReadFile(segmentPath(cfg.Dir, 2))
			if err != nil || !bytes.Contains(raw, []byte(`"after"`)) || bytes.Contains(raw, []byte(`:"refused"`)) || !bytes.Contains(raw, []byte(`"ended":"failed"`)) {
				t.Errorf("the next segment: %s, %v", raw, err)
			}
			if told.Load() == 0 {
				t.Error("nobody was told")
			}
			// Nobody else gets the directory meanwhile.
			if _, err := Open(Config{Dir: cfg.Dir}); !errors.Is(err, ErrInUse) {
				t.Errorf("a second writer: %v", err)
			}
			// Without a call it is found within a second, also when there is nothing to sign.
			testkit.Eventually(t, "all is signed", func() bool {
				lines, err := os.ReadFile(segmentPath(cfg.Dir, 2))
				first, headErr := readHeader(cfg.Dir, 2)
				return err == nil && headErr == nil && signed.Load() == first.Seq+uint64(bytes.Count(lines, []byte{'\n'}))-1
			})
			if err := harm(segmentPath(cfg.Dir, 2), lock); err != nil {
				t.Fatal(err)
			}
			before := told.Load()
			testkit.Eventually(t, "it is found without a call", func() bool { return told.Load() > before })
		})
	}
}

// A second writer that got in, since the lock was removed, is not disturbed, and
// the first one takes nothing any more.
func TestASecondWriterIsNotDisturbed(t *testing.T) {
	t.Parallel()
	cfg, _ := testConfig(t)
	cfg.CheckpointEvery = time.Second
	first := mustOpen(t, cfg)
	if err := first.Append(t.Context(), decision("1"), audit.Sync); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(cfg.Dir, lockName)); err != nil {
		t.Fatal(err)
	}
	second, err := Open(Config{Dir: cfg.Dir})
	if errors.Is(err, ErrInUse) {
		return // The first one had it back already.
	}
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	for i := range 10 {
		if err := second.Append(t.Context(), decision(fmt.Sprint("second-", i)), audit.Sync); err != nil {
			t.Fatal(err)
		}
		if err := first.Append(t.Context(), decision("lost"), audit.Sync); !errors.Is(err, audit.ErrUnavailable) {
			t.Errorf("the first writer took a record: %v", err)
		}
	}
	testkit.Eventually(t, "the first writer says that another has the log", func() bool { return errors.Is(first.Err(), ErrInUse) })
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the first writer says that files are there that it did not make", func() bool { return errors.Is(first.Err(), errNotOurs) })
	if err := first.Close(); err == nil {
		t.Error("the first writer says that all is well")
	}
	if got := fmt.Sprint(ids(t, cfg.Dir)); got != "[1 second-0 second-1 second-2 second-3 second-4 second-5 second-6 second-7 second-8 second-9]" {
		t.Errorf("the log has %s", got)
	}
}

// A file that stands where the next segment belongs is left as it is.
func TestRotationEmptiesNoFile(t *testing.T) {
	t.Parallel()
	cfg, _ := testConfig(t)
	cfg.SegmentBytes = 1
	l := mustOpen(t, cfg)
	next := segmentPath(cfg.Dir, 2)
	if err := os.WriteFile(next, []byte("another's"), fileMode); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the log cannot go on", func() bool {
		_ = l.Append(t.Context(), decision("x"), audit.Sync)
		return errors.Is(l.Err(), errNotOurs)
	})
	if raw, err := os.ReadFile(next); err != nil || string(raw) != "another's" {
		t.Errorf("the file has %q, %v", raw, err)
	}
}

// hung holds a function of the disk until it is let go.
type hung struct{ held, free chan struct{} }

func newHung() *hung { return &hung{make(chan struct{}, 1000), make(chan struct{})} }

func (h *hung) ask() error {
	select {
	case <-h.free:
	default:
		h.held <- struct{}{}
		<-h.free
	}
	return nil
}

// A disk that does not answer: little is answered without it, then nobody is
// made to wait, and all is well when it answers.
func TestADiskThatHangs(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		hang  func(*sickDisk, func() error)
		first audit.Durability
		every time.Duration
	}{
		"in an fsync":           {func(d *sickDisk, ask func() error) { d.hang(nil, ask) }, audit.Sync, time.Second},
		"in a write":            {func(d *sickDisk, ask func() error) { d.hang(ask, nil) }, audit.Sync, time.Second},
		"before those who wait": {func(d *sickDisk, ask func() error) { d.hang(nil, ask) }, audit.Async, 2 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg, disk := testConfig(t)
			cfg.CheckpointEvery, cfg.Stall = c.every, 300*time.Millisecond
			var told atomic.Int64
			cfg.Failed = func(error) { told.Add(1) }
			l := mustOpen(t, cfg)
			h := newHung()
			c.hang(disk, h.ask)
			waits := make(chan error, 2)
			go func() { waits <- l.Append(t.Context(), decision("first"), c.first) }()
			testkit.Receive(t, "the disk is asked", h.held)
			go func() { waits <- l.Append(t.Context(), decision("waits"), audit.Sync) }()
			var want []string
			size, waiting := 0, 2
			if c.first == audit.Async {
				want, waiting = append(want, "first"), 1
				if err := testkit.Receive(t, "an answer without the disk", waits); err != nil {
					t.Fatal(err)
				}
			}
			for {
				r := decision(fmt.Sprint(len(want)))
				r.Message = string(bytes.Repeat([]byte("x"), 1000))
				if err := l.Append(t.Context(), r, audit.Async); err != nil {
					if !errors.Is(err, errStalled) || !errors.Is(err, audit.ErrUnavailable) {
						t.Fatal(err)
					}
					break
				}
				want = append(want, r.DecisionID)
				size += len(audit.AppendRecord(nil, r))
			}
			if size > mostOwed || size < mostOwed/2 {
				t.Errorf("%d bytes were taken that a loss of power takes, want at most %d", size, mostOwed)
			}
			for range waiting {
				if err := testkit.Receive(t, "an answer to who waits", waits); !errors.Is(err, errStalled) || !errors.Is(err, audit.ErrUnavailable) {
					t.Errorf("Append on a disk that hangs = %v", err)
				}
			}
			if err := l.Err(); !errors.Is(err, errStalled) || !errors.Is(err, audit.ErrUnavailable) || told.Load() == 0 {
				t.Errorf("Err = %v, told %d times", err, told.Load())
			}
			if err := l.Append(t.Context(), decision("at once"), audit.Sync); !errors.Is(err, errStalled) {
				t.Errorf("Append = %v", err)
			}
			close(h.free)
			testkit.Eventually(t, "records are taken again", func() bool { return l.Append(t.Context(), decision("after"), audit.Sync) == nil })
			testkit.Eventually(t, "the log says that all is well", func() bool { return l.Err() == nil })
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			mustVerify(t, cfg.Dir)
			if got := ids(t, cfg.Dir); fmt.Sprint(got) != fmt.Sprint(append(want, "after")) {
				t.Errorf("the log has %d records, want the %d that were taken, in order, and none that was refused: %.200v", len(got), len(want)+1, got)
			}
		})
	}
}

// What is not on the disk ages by looks, not by a clock: a process that stood
// still has not waited for its disk.
func TestAge(t *testing.T) {
	t.Parallel()
	cfg, err := Config{Dir: t.TempDir()}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	q := newQueue(&cfg)
	looks := func(d time.Duration) {
		for range d / cfg.watchEvery {
			_ = q.look()
		}
	}
	async, sync := entry{}, entry{waited: true}
	check := func(when, want string) {
		t.Helper()
		got := "open"
		switch {
		case q.err() != nil:
			got = "refuses"
		case q.full(1, true):
			got = "has no room"
		case q.full(1, false):
			got = "answers nobody before the disk does"
		}
		if got != want {
			t.Errorf("%s: the queue %s, want: %s", when, got, want)
		}
	}
	looks(time.Hour)
	check("idle", "open")
	if _, err := q.add(t.Context(), []byte("x"), async); err != nil {
		t.Fatal(err)
	}
	looks(900 * time.Millisecond)
	check("for 0.9 s", "open")
	looks(50 * time.Millisecond)
	check("from 0.95 s on", "answers nobody before the disk does")
	b := q.take()
	if _, err := q.add(t.Context(), []byte("y"), sync); err != nil {
		t.Fatal(err)
	}
	looks(time.Second)
	check("for 1.95 s", "answers nobody before the disk does")
	looks(50 * time.Millisecond)
	check("after 2 s", "refuses")
	if !q.given(q.cur) || q.given(b) {
		t.Error("of two batches that one is given up which somebody waits for")
	}
	q.settled(0)
	q.release(1, 1)
	looks(50 * time.Millisecond)
	check("what is given up is still there", "refuses")
	q.take()
	q.settled(0)
	looks(50 * time.Millisecond)
	check("all is on the disk", "open")
	q.busy.Store(q.looks.Load() + 1)
	looks(2 * time.Second)
	check("the writer is at one thing for 2 s", "refuses")
	q.busy.Store(0)
	looks(50 * time.Millisecond)
	check("at the end", "open")
}

// A disk that does not answer is not waited for at the end.
func TestCloseIsBounded(t *testing.T) {
	t.Parallel()
	cfg, disk := testConfig(t)
	cfg.CloseWithin, cfg.FlushEvery = 50*time.Millisecond, time.Second
	l := mustOpen(t, cfg)
	if err := l.Append(t.Context(), decision("1"), audit.Async); err != nil {
		t.Fatal(err)
	}
	h := newHung()
	disk.hang(h.ask, nil)
	closed := make(chan error, 1)
	go func() { closed <- l.Close() }()
	testkit.Receive(t, "the disk is asked", h.held)
	if err := testkit.Receive(t, "the end of Close", closed); !errors.Is(err, errStalled) || !errors.Is(err, errLost) {
		t.Errorf("Close = %v, want that the disk does not answer and what may be lost", err)
	}
	if _, err := Open(Config{Dir: cfg.Dir}); !errors.Is(err, ErrInUse) {
		t.Errorf("Open while the disk may still take what the log wrote: %v", err)
	}
	close(h.free)
	testkit.Eventually(t, "the directory is free", func() bool {
		again, err := Open(Config{Dir: cfg.Dir})
		return err == nil && again.Close() == nil
	})
	mustVerify(t, cfg.Dir)
	if got := fmt.Sprint(ids(t, cfg.Dir)); got != "[1]" {
		t.Errorf("the log has %s", got)
	}
}

// A head that cannot be signed is no reason to refuse records, for ten seconds.
func TestTheHeadCannotBeSigned(t *testing.T) {
	t.Parallel()
	cfg, _ := testConfig(t)
	var now atomic.Int64
	now.Store(time.Now().UnixNano())
	cfg.Now = func() time.Time { return time.Unix(0, now.Load()) }
	l := mustOpen(t, cfg)
	inTheWay := filepath.Join(cfg.Dir, headName+tmpSuffix)
	if err := os.Mkdir(inTheWay, dirMode); err != nil {
		t.Fatal(err)
	}
	taken := 0
	take := func() error {
		err := l.Append(t.Context(), decision(fmt.Sprint(taken)), audit.Sync)
		if err == nil {
			taken++
		}
		return err
	}
	if err := take(); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the log says that its head cannot be signed", func() bool { return l.Err() != nil })
	if err := l.Err(); errors.Is(err, audit.ErrUnavailable) {
		t.Errorf("Err = %v: but records are taken", err)
	}
	now.Add(int64(headPatience - time.Millisecond))
	if err := take(); err != nil {
		t.Fatal(err)
	}
	now.Add(int64(time.Millisecond))
	testkit.Eventually(t, "records are refused", func() bool { return errors.Is(take(), audit.ErrUnavailable) })
	if err := l.Err(); !errors.Is(err, audit.ErrUnavailable) {
		t.Errorf("Err = %v", err)
	}
	lines := l.Stats().Writes
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the log says that all is well", func() bool { return l.Err() == nil })
	if grown := l.Stats().Writes - lines; grown > 1 {
		t.Errorf("%d lines were written to sign what had been sealed", grown)
	}
	if err := take(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if v := mustVerify(t, cfg.Dir); v.Records != uint64(taken) || !v.Closed {
		t.Errorf("%d of %d records, closed: %v", v.Records, taken, v.Closed)
	}
}
