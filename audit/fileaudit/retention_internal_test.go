package fileaudit

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/audit"
	"github.com/kelpie-authz/kelpie/internal/testkit"
)

// keeping is a log of many small segments whose archiver runs only when a test says so.
type keeping struct {
	*Log

	cfg Config
	now *atomic.Int64
}

func newKeeping(t *testing.T, change func(*Config)) *keeping {
	t.Helper()
	k := &keeping{now: &atomic.Int64{}}
	k.now.Store(time.Date(2026, 6, 17, 12, 0, 0, 0, time.UTC).UnixNano())
	k.cfg = Config{
		Dir: t.TempDir(), KeyFile: filepath.Join(t.TempDir(), "key"), SegmentBytes: 1500, CheckpointEvery: 50 * time.Millisecond,
		Now: func() time.Time { return time.Unix(0, k.now.Load()).UTC() },
	}
	change(&k.cfg)
	k.open(t)
	for i := range 60 {
		k.put(t, fmt.Sprint(i))
	}
	k.signed(t)
	return k
}

func (k *keeping) open(t *testing.T) {
	t.Helper()
	k.Log = mustOpen(t, k.cfg)
	k.archive.close()
}

func (k *keeping) put(t *testing.T, id string) {
	t.Helper()
	r := decision(id)
	r.Time = k.cfg.Now()
	if err := k.Append(context.Background(), r, audit.Sync); err != nil {
		t.Fatal(err)
	}
	k.now.Add(int64(time.Minute))
}

// signed waits until all that was written is signed.
func (k *keeping) signed(t *testing.T) {
	t.Helper()
	testkit.Eventually(t, "the end is signed", func() bool { return verified(t, k.cfg.Dir).Unsigned == 0 })
}

func (k *keeping) segments(t *testing.T) []segment {
	t.Helper()
	segments, err := list(k.cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	return segments
}

// pass lets the archiver do what there is to do.
func (k *keeping) pass(t *testing.T) {
	t.Helper()
	if err := k.archive.pass(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// Retention signs that what it removes was meant to go. Whoever cannot sign cannot have
// it remove anything, whatever he puts where.
func TestRetentionIsNoSigningOracle(t *testing.T) {
	t.Parallel()
	rewritten := func(t *testing.T, raw []byte) []byte {
		t.Helper()
		first, err := audit.DecodeLine(bytes.SplitAfter(raw, []byte("\n"))[0])
		if err != nil {
			t.Fatal(err)
		}
		hash, out := first.Note.Prev, []byte(nil)
		for i, text := range bytes.SplitAfter(bytes.TrimSuffix(raw, []byte("\n")), []byte("\n")) {
			line, err := audit.DecodeLine(append(bytes.TrimSuffix(text, []byte("\n")), '\n'))
			if err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				line.Note.PrevTo = line.Note.PrevTo.AddDate(-10, 0, 0)
			}
			out, hash = audit.AppendLine(out, line.Seq, hash, audit.AppendRecord(nil, &line.Record))
		}
		return out
	}
	old := func(c *Config) { c.KeepAge = 365 * 24 * time.Hour }
	large := func(c *Config) { c.KeepBytes = 1 << 20 }
	for name, c := range map[string]struct {
		keep  func(*Config)
		spoil func(t *testing.T, k *keeping, segments []segment)
	}{
		"the first line of another segment, with an old time": {old, func(t *testing.T, k *keeping, segments []segment) {
			t.Helper()
			newest := segments[len(segments)-2].number
			raw := unpacked(t, k.cfg.Dir, newest)
			line := bytes.Clone(raw[:bytes.IndexByte(raw, '\n')+1])
			copy(line[bytes.Index(line, []byte(`"prev_to":"`))+len(`"prev_to":"`):], "2001")
			unpacked(t, k.cfg.Dir, 2)
			putFile(t, segmentPath(k.cfg.Dir, 2), line)
		}},
		"a whole segment with an old time and right hashes": {old, func(t *testing.T, k *keeping, _ []segment) {
			t.Helper()
			putFile(t, segmentPath(k.cfg.Dir, 2), rewritten(t, unpacked(t, k.cfg.Dir, 2)))
		}},
		"a file made large": {large, func(t *testing.T, _ *keeping, segments []segment) {
			t.Helper()
			s := segments[len(segments)-2]
			if err := os.Truncate(s.path, 20<<30); err != nil {
				t.Fatal(err)
			}
		}},
		"empty streams behind a file": {large, func(t *testing.T, _ *keeping, segments []segment) {
			t.Helper()
			s := segments[len(segments)-2]
			var empty bytes.Buffer
			if err := gzip.NewWriter(&empty).Close(); err != nil {
				t.Fatal(err)
			}
			raw, err := os.ReadFile(s.path)
			if err != nil {
				t.Fatal(err)
			}
			putFile(t, s.path, append(raw, bytes.Repeat(empty.Bytes(), 2<<20/empty.Len())...))
		}},
		"the first segment gone": {func(c *Config) { c.KeepBytes = 2000 }, func(t *testing.T, _ *keeping, segments []segment) {
			t.Helper()
			if err := os.Remove(segments[0].path); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := newKeeping(t, func(*Config) {})
			k.pass(t)
			before := k.segments(t)
			c.keep(k.archive.cfg)
			c.spoil(t, k, before)
			had := k.segments(t)
			for range 2 {
				if err := k.archive.pass(context.Background()); !errors.Is(err, errTampered) || !strings.Contains(err.Error(), "audit-0") {
					t.Errorf("the pass: %v; want that something is not what was written, and what", err)
				}
			}
			if after := k.segments(t); len(after) < len(had) {
				t.Errorf("%d segments are left of %d", len(after), len(had))
			}
			if _, err := os.Stat(filepath.Join(k.cfg.Dir, startName)); err == nil {
				t.Error("a removal was signed")
			}
		})
	}
}

// A file that is made large after it was measured is told, and counts as what it was.
func TestASizeThatChangesIsTold(t *testing.T) {
	t.Parallel()
	k := newKeeping(t, func(c *Config) { c.KeepBytes = 5000 })
	k.pass(t)
	segments := k.segments(t)
	s := segments[len(segments)-3]
	if known := k.archive.sizes[s.number]; known.packed == 0 || known.packed > known.size+known.size/10 || known.size > known.packed+known.packed/10 {
		t.Fatalf("the size of %s is known as %d, and is %d", s.name(), known.packed, s.size)
	}
	if err := os.Truncate(s.path, 20<<30); err != nil {
		t.Fatal(err)
	}
	if err := k.archive.pass(context.Background()); !errors.Is(err, errTampered) || !strings.Contains(err.Error(), s.name()) {
		t.Errorf("the pass: %v", err)
	}
	if after := k.segments(t); len(after) < len(segments) {
		t.Errorf("%d segments are left of %d", len(after), len(segments))
	}
}

// Sizes of what was there before the start are measured once, and retention goes on.
func TestRetentionAfterAStart(t *testing.T) {
	t.Parallel()
	k := newKeeping(t, func(*Config) {})
	k.pass(t)
	had := len(k.segments(t))
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	k.cfg.KeepBytes = 4000
	k.open(t)
	k.pass(t)
	after := k.segments(t)
	if len(after) >= had || len(after) < 3 || k.Stats().Removed != uint64(had+1-len(after)) {
		t.Errorf("%d segments were there, %d are left, %d were removed", had, len(after), k.Stats().Removed)
	}
	var total int64
	for _, s := range after[:len(after)-1] {
		total += s.size
	}
	if total > k.cfg.KeepBytes || total < k.cfg.KeepBytes/2 {
		t.Errorf("%d bytes are left, and %d may be", total, k.cfg.KeepBytes)
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	if v := mustVerify(t, k.cfg.Dir); !v.Removed {
		t.Error("that it was meant is not told")
	}
}

// What is damaged and told of in the log does not keep retention from going on.
func TestRetentionPassesAToldLoss(t *testing.T) {
	t.Parallel()
	k := newKeeping(t, func(*Config) {})
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	segments := k.segments(t)
	for _, s := range segments[len(segments)-2:] {
		unpacked(t, k.cfg.Dir, s.number)
		putFile(t, segmentPath(k.cfg.Dir, s.number), []byte("spoiled\n"))
	}
	k.cfg.KeepAge = time.Hour
	k.open(t)
	if k.Found().LostFrom == 0 {
		t.Fatalf("found %+v", k.Found())
	}
	k.now.Add(int64(24 * time.Hour))
	for i := range 20 {
		k.put(t, fmt.Sprint("after-", i))
	}
	k.signed(t)
	k.pass(t)
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	if got := k.segments(t)[0].number; got <= segments[len(segments)-1].number {
		t.Errorf("segment %d is left; all up to %d are old", got, segments[len(segments)-1].number)
	}
}

// What another log signed as removed does not have this one remove anything, and what
// is removed later than it was meant is counted.
func TestWhatIsLeftOver(t *testing.T) {
	t.Parallel()
	other := newKeeping(t, func(c *Config) { c.KeepBytes = 2000 })
	other.pass(t)
	foreign, err := os.ReadFile(filepath.Join(other.cfg.Dir, startName))
	if err != nil {
		t.Fatal(err)
	}
	k := newKeeping(t, func(c *Config) { c.KeyFile = other.cfg.KeyFile })
	k.pass(t)
	had := len(k.segments(t))
	putFile(t, filepath.Join(k.cfg.Dir, startName), foreign)
	k.archive.cfg.KeepAge = time.Minute
	if err := k.archive.pass(context.Background()); !errors.Is(err, errTampered) {
		t.Errorf("the pass: %v", err)
	}
	if got := len(k.segments(t)); got != had {
		t.Errorf("%d segments are left of %d", got, had)
	}
	other.archive.cfg.KeepBytes = 0
	// A crash that kept one file.
	first := other.segments(t)[0].number - 1
	putFile(t, segmentPath(other.cfg.Dir, first), []byte("left over\n"))
	before := other.Stats().Removed
	other.pass(t)
	if got := other.Stats().Removed - before; got != 1 {
		t.Errorf("%d segments are counted as removed, want 1", got)
	}
	// One that cannot be told from what was put there: its place in the log is not known.
	putFile(t, segmentPath(other.cfg.Dir, first), []byte("left over\n"))
	unpacked(t, other.cfg.Dir, first+1)
	putFile(t, segmentPath(other.cfg.Dir, first+1), []byte("spoiled\n"))
	if err := other.archive.pass(context.Background()); !errors.Is(err, errTampered) {
		t.Errorf("the pass: %v", err)
	}
}
