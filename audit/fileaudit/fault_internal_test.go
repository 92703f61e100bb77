package fileaudit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/audit"
	"github.com/kelpie-authz/kelpie/internal/testkit"
)

// sick is a file on a disk with faults.
type sick struct {
	file

	disk *sickDisk
}

// sickDisk fails what its functions say; nil: nothing.
type sickDisk struct {
	mu                            sync.Mutex
	create, write, sync, truncate func() error
	slowWrite, slowSync           func() error
}

func (d *sickDisk) set(create, write, fsync, truncate func() error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.create, d.write, d.sync, d.truncate = create, write, fsync, truncate
}

func (d *sickDisk) ask(f *func() error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if *f == nil {
		return nil
	}
	return (*f)()
}

func (d *sickDisk) open(path string) (file, error) {
	if err := d.ask(&d.create); err != nil {
		return nil, err
	}
	f, err := createFile(path)
	if err != nil {
		return nil, err
	}
	return &sick{f, d}, nil
}

// Write writes a part of what it fails to write.
func (s *sick) Write(p []byte) (int, error) {
	s.disk.wait(&s.disk.slowWrite)
	if err := s.disk.ask(&s.disk.write); err != nil {
		n, _ := s.file.Write(p[:len(p)/2])
		return n, err
	}
	return s.file.Write(p)
}

func (s *sick) Sync() error {
	s.disk.wait(&s.disk.slowSync)
	if err := s.disk.ask(&s.disk.sync); err != nil {
		return err
	}
	return s.file.Sync()
}

func (s *sick) Truncate(size int64) error {
	if err := s.disk.ask(&s.disk.truncate); err != nil {
		return err
	}
	return s.file.Truncate(size)
}

// hang has write or fsync asked without the lock, so that one of them can wait.
func (d *sickDisk) hang(write, fsync func() error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.slowWrite, d.slowSync = write, fsync
}

func (d *sickDisk) wait(f *func() error) {
	d.mu.Lock()
	ask := *f
	d.mu.Unlock()
	if ask != nil {
		_ = ask() // It hangs, and fails never.
	}
}

func always(err error) func() error { return func() error { return err } }

func once(err error) func() error {
	done := false
	return func() error {
		if done {
			return nil
		}
		done = true
		return err
	}
}

func decision(id string) *audit.Record {
	return &audit.Record{Time: time.Now(), Kind: audit.KindDecision, DecisionID: id, Agent: "a", Decision: "ALLOW"}
}

func testConfig(tb testing.TB) (Config, *sickDisk) {
	tb.Helper()
	disk := &sickDisk{}
	return Config{
		Dir: tb.TempDir(), create: disk.open, RetryEvery: time.Millisecond,
		FlushEvery: time.Millisecond, CheckpointEvery: 2 * time.Millisecond,
	}, disk
}

func mustOpen(tb testing.TB, cfg Config) *Log {
	tb.Helper()
	l, err := Open(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = l.Close() })
	return l
}

func mustVerify(tb testing.TB, dir string) audit.Verification {
	tb.Helper()
	key, err := ReadPublicKey(filepath.Join(dir, publicName))
	if err != nil {
		tb.Fatal(err)
	}
	v, err := Verify(context.Background(), dir, key)
	if err != nil || !v.OK() {
		tb.Fatalf("verify: %v, %v", v.Fault, err)
	}
	return v
}

func ids(tb testing.TB, dir string) []string {
	tb.Helper()
	var all []string
	for line, err := range NewReader(dir).Query(context.Background(), &audit.Query{Order: audit.OldestFirst}) {
		if err != nil {
			tb.Fatal(err)
		}
		all = append(all, line.DecisionID)
	}
	return all
}

var errSick = errors.New("input/output error of the test")

// After an fsync failed, what it did not confirm does not count, a new segment
// is begun, and nothing that was refused is found, whatever the old file holds.
func TestAfterAFailedFsyncTheSegmentIsLeft(t *testing.T) {
	t.Parallel()
	for name, truncate := range map[string]error{"it can be cut": nil, "it cannot be cut": errSick} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg, disk := testConfig(t)
			var told atomic.Int64
			cfg.Failed = func(error) { told.Add(1) }
			cfg.CheckpointEvery = time.Second
			l := mustOpen(t, cfg)
			ctx := context.Background()
			if err := l.Append(ctx, decision("kept"), audit.Sync); err != nil {
				t.Fatal(err)
			}
			if err := l.Append(ctx, decision("taken"), audit.Async); err != nil {
				t.Fatal(err)
			}
			disk.set(nil, nil, once(errSick), always(truncate))
			if err := l.Append(ctx, decision("refused"), audit.Sync); !errors.Is(err, audit.ErrUnavailable) || !errors.Is(err, errSick) {
				t.Fatalf("Append = %v, want ErrUnavailable with the cause", err)
			}
			testkit.Eventually(t, "records are taken again", func() bool { return l.Append(ctx, decision("after"), audit.Sync) == nil })
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			v := mustVerify(t, cfg.Dir)
			if v.Failures != 1 || v.Segments != 2 || (truncate != nil) != (v.Ignored > 0) || told.Load() == 0 {
				t.Errorf("failures %d, segments %d, ignored lines %d, told %d times", v.Failures, v.Segments, v.Ignored, told.Load())
			}
			if got := fmt.Sprint(ids(t, cfg.Dir)); got != "[kept taken after]" {
				t.Errorf("the log has %s", got)
			}
		})
	}
}

// Whatever fails and when: what was acknowledged is there once, what was taken
// without waiting is there too since the process lives, and what was refused
// because the disk failed is not there.
func TestRandomFaults(t *testing.T) {
	t.Parallel()
	rounds := 12
	if os.Getenv("KELPIE_PROOF") == "full" {
		rounds = 300
	}
	for round := range rounds {
		randomFaults(t, uint64(round))
	}
}

func randomFaults(t *testing.T, round uint64) {
	t.Helper()
	cfg, disk := testConfig(t)
	cfg.SegmentBytes = 4 << 10
	rng := rand.New(rand.NewPCG(7, round))
	sometimes := func(percent int) func() error {
		return func() error { // Under the disk's lock.
			if rng.IntN(100) < percent {
				return errSick
			}
			return nil
		}
	}
	l := mustOpen(t, cfg)
	disk.set(sometimes(20), sometimes(4), sometimes(4), sometimes(50))
	var mu sync.Mutex
	taken, refused := map[string]bool{}, map[string]bool{}
	var wg sync.WaitGroup
	for c := range 8 {
		wg.Go(func() {
			for n := range 60 {
				id := fmt.Sprintf("%d-%d", c, n)
				how := audit.Durability(n % 2)
				err := l.Append(context.Background(), decision(id), how)
				mu.Lock()
				if err == nil {
					taken[id] = true
				} else {
					refused[id] = true
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	disk.set(nil, nil, nil, nil)
	testkit.Eventually(t, "the log is well", func() bool { return l.Err() == nil })
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	mustVerify(t, cfg.Dir)
	for _, id := range ids(t, cfg.Dir) {
		if refused[id] {
			t.Fatalf("round %d: %s was refused and is there", round, id)
		}
		if !taken[id] {
			t.Fatalf("round %d: %s is there twice, or was never appended", round, id)
		}
		delete(taken, id)
	}
	if len(taken) > 0 {
		t.Fatalf("round %d: %d records were taken and are missing: %v", round, len(taken), taken)
	}
}

// A caller that finds no room waits, is refused when that takes too long, and
// is taken when there is room; the bound holds.
func TestBackPressure(t *testing.T) {
	t.Parallel()
	cfg, disk := testConfig(t)
	cfg.PendingRecords, cfg.Stall = 3, 20*time.Millisecond
	cfg.CheckpointEvery, cfg.watchEvery = time.Second, time.Hour // The test looks by itself.
	l := mustOpen(t, cfg)
	held, release := make(chan struct{}), make(chan struct{})
	var hold sync.Once
	disk.set(nil, func() error {
		hold.Do(func() { close(held); <-release })
		return nil
	}, nil, nil)
	ctx := context.Background()
	if err := l.Append(ctx, decision("0"), audit.Async); err != nil {
		t.Fatal(err)
	}
	testkit.Receive(t, "the disk is asked", held)
	for _, id := range []string{"1", "2"} {
		if err := l.Append(ctx, decision(id), audit.Async); err != nil {
			t.Fatal(err)
		}
	}
	over, cancel := context.WithCancel(ctx)
	cancel()
	if err := l.Append(over, decision("y"), audit.Async); !errors.Is(err, audit.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Fatalf("Append without room by a context that is over = %v", err)
	}
	if err := l.Err(); err != nil {
		t.Fatalf("Err = %v, though nobody has waited long", err)
	}
	if err := l.Append(ctx, decision("x"), audit.Async); !errors.Is(err, audit.ErrUnavailable) || !errors.Is(err, errStalled) {
		t.Fatalf("Append without room = %v", err)
	}
	if err := l.Err(); !errors.Is(err, errStalled) {
		t.Fatalf("Err = %v after a caller waited in vain", err)
	}
	if err := l.Append(ctx, decision("z"), audit.Sync); !errors.Is(err, errStalled) {
		t.Fatalf("Append after a caller waited in vain = %v", err)
	}
	close(release)
	testkit.Eventually(t, "the log finds that the disk answers", func() bool { _ = l.q.look(); return l.Err() == nil })
	testkit.Eventually(t, "there is room again", func() bool { return l.Append(ctx, decision("3"), audit.Sync) == nil })
	if s := l.Stats(); s.Refused < 3 || s.Stalled < 2 || s.Async != 3 || s.Sync != 1 {
		t.Errorf("stats: %+v", s)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(ids(t, cfg.Dir)); got != "[0 1 2 3]" {
		t.Errorf("the log has %s", got)
	}
}

// Callers that wait at once share an fsync.
func TestFsyncsAreShared(t *testing.T) {
	t.Parallel()
	cfg, disk := testConfig(t)
	cfg.CheckpointEvery = time.Second
	l := mustOpen(t, cfg)
	const callers = 64
	held, release := make(chan struct{}), make(chan struct{})
	var hold sync.Once
	disk.set(nil, nil, func() error {
		hold.Do(func() { close(held); <-release })
		return nil
	}, nil)
	before := l.Stats().Fsyncs
	var wg sync.WaitGroup
	appendOne := func(id int) {
		wg.Go(func() {
			if err := l.Append(context.Background(), decision(fmt.Sprint(id)), audit.Sync); err != nil {
				t.Error(err)
			}
		})
	}
	appendOne(0)
	testkit.Receive(t, "the first fsync", held)
	for id := 1; id < callers; id++ {
		appendOne(id)
	}
	testkit.Eventually(t, "all wait", func() bool {
		l.q.mu.Lock()
		defer l.q.mu.Unlock()
		return l.q.records == callers
	})
	close(release)
	wg.Wait()
	if got := l.Stats().Fsyncs - before; got < 2 || got > 3 { // A checkpoint may come between.
		t.Errorf("%d callers took %d fsyncs, want 2", callers, got)
	}
}

// What compression was cut short in is done anew.
func TestCompressionCutShort(t *testing.T) {
	t.Parallel()
	cfg, _ := testConfig(t)
	l := mustOpen(t, cfg)
	if err := l.Append(context.Background(), decision("1"), audit.Sync); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	first := segmentPath(cfg.Dir, 1)
	for _, path := range []string{first + gzSuffix, first + gzSuffix + tmpSuffix, filepath.Join(cfg.Dir, headName+tmpSuffix)} {
		if err := os.WriteFile(path, []byte("half"), fileMode); err != nil {
			t.Fatal(err)
		}
	}
	mustVerify(t, cfg.Dir)
	l = mustOpen(t, cfg)
	testkit.Eventually(t, "the first segment is compressed", func() bool {
		_, err := os.Stat(first)
		return errors.Is(err, fs.ErrNotExist)
	})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	mustVerify(t, cfg.Dir)
	if got := fmt.Sprint(ids(t, cfg.Dir)); got != "[1]" {
		t.Errorf("the log has %s", got)
	}
	left, err := filepath.Glob(filepath.Join(cfg.Dir, "*"+tmpSuffix))
	if err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

// durableDisk knows what of its files an fsync has confirmed.
type durableDisk struct {
	mu   sync.Mutex
	kept []byte
	fail func() bool // of each fsync
}

type durableFile struct {
	file

	disk    *durableDisk
	written []byte // since the last fsync
}

func (d *durableDisk) open(path string) (file, error) {
	f, err := createFile(path)
	if err != nil {
		return nil, err
	}
	return &durableFile{file: f, disk: d}, nil
}

func (f *durableFile) Write(p []byte) (int, error) {
	n, err := f.file.Write(p)
	f.written = append(f.written, p[:n]...)
	return n, err
}

func (f *durableFile) Sync() error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.disk.fail() {
		return syscall.EIO
	}
	f.disk.kept = append(f.disk.kept, f.written...)
	f.written = nil
	return nil
}

// lacks tells which decisions a loss of power now would take out of the log.
func (d *durableDisk) lacks(ids []string) (missing []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, id := range ids {
		if !bytes.Contains(d.kept, []byte(`"`+id+`"`)) {
			missing = append(missing, id)
		}
	}
	return missing
}

// A record that is on the disk has all that its caller appended before it there
// as well, also behind faults and over segments.
func TestSyncVouchesForWhatCameBefore(t *testing.T) {
	t.Parallel()
	rng, faults := rand.New(rand.NewPCG(1, 20260101)), rand.New(rand.NewPCG(2, 20260101))
	disk := &durableDisk{fail: func() bool { return false }}
	cfg, _ := testConfig(t)
	cfg.create, cfg.SegmentBytes = disk.open, 8<<10
	l := mustOpen(t, cfg)
	disk.mu.Lock()
	disk.fail = func() bool { return faults.IntN(20) == 0 }
	disk.mu.Unlock()
	confirmed, refused := 0, 0
	for round := range 300 {
		var taken []string
		for i := range rng.IntN(8) {
			id := fmt.Sprintf("a-%d-%d", round, i)
			if l.Append(t.Context(), decision(id), audit.Async) == nil {
				taken = append(taken, id)
			}
		}
		id := fmt.Sprintf("s-%d", round)
		if err := l.Append(t.Context(), decision(id), audit.Sync); err != nil {
			refused++
			testkit.Eventually(t, "a log that takes records again", func() bool { return l.Err() == nil })
			continue
		}
		confirmed++
		if missing := disk.lacks(append(taken, id)); len(missing) > 0 {
			t.Fatalf("round %d: %q were taken before a record that is on the disk, and are not there", round, missing)
		}
	}
	if confirmed < 100 || refused == 0 {
		t.Errorf("%d confirmed, %d refused: the faults proved nothing", confirmed, refused)
	}
	disk.mu.Lock()
	disk.fail = func() bool { return false }
	disk.mu.Unlock()
}
