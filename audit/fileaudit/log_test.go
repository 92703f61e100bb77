package fileaudit_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/audit"
	"github.com/kelpie-authz/kelpie/audit/fileaudit"
	"github.com/kelpie-authz/kelpie/internal/testkit"
)

func gunzip(tb testing.TB, path string) []byte {
	tb.Helper()
	f, err := os.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		tb.Fatal(err)
	}
	raw, err := io.ReadAll(z)
	if err != nil {
		tb.Fatal(err)
	}
	return raw
}

func glob(tb testing.TB, dir, pattern string) []string {
	tb.Helper()
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		tb.Fatal(err)
	}
	return files
}

func mustAppend(tb testing.TB, l *fileaudit.Log, r *audit.Record) {
	tb.Helper()
	if err := l.Append(context.Background(), r, audit.Sync); err != nil {
		tb.Fatal(err)
	}
}

func TestOneWriter(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, fileaudit.Config{Dir: dir})
	_, err := fileaudit.Open(fileaudit.Config{Dir: dir})
	if !errors.Is(err, fileaudit.ErrInUse) || !strings.Contains(err.Error(), fmt.Sprint("process ", os.Getpid())) || !strings.Contains(err.Error(), dir) {
		t.Errorf("the second Open: %v; want ErrInUse with the process and the directory", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := open(t, fileaudit.Config{Dir: dir}).Close(); err != nil {
		t.Errorf("after Close: %v", err)
	}
}

func TestModes(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "audit")
	l := open(t, fileaudit.Config{Dir: dir})
	mustAppend(t, l, event("1"))
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory: %v, %v", info.Mode(), err)
	}
	for _, path := range glob(t, dir, "*") {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	dir, keyFile := t.TempDir(), filepath.Join(t.TempDir(), "k", "audit.key")
	l := open(t, fileaudit.Config{Dir: dir, KeyFile: keyFile})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(keyFile, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := fileaudit.Open(fileaudit.Config{Dir: dir, KeyFile: keyFile}); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a key that others can read: %v", err)
	}
	for name, text := range map[string]string{"empty": "", "text": "secret", "another": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"} {
		path := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := fileaudit.Open(fileaudit.Config{Dir: dir, KeyFile: path}); err == nil || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := fileaudit.Open(fileaudit.Config{Dir: dir, KeyFile: filepath.Join(t.TempDir(), "new")}); err == nil || !strings.Contains(err.Error(), "give the old key back") {
		t.Errorf("another key for a log that is there: %v", err)
	}
	other, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := fileaudit.Verify(context.Background(), dir, other); err != nil || v.OK() || v.Fault.Kind != audit.FaultForged {
		t.Errorf("verify by another key: %v, %v", v.Fault, err)
	}
}

func TestConfigErrors(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]fileaudit.Config{
		"no directory": {}, "below 0": {Dir: t.TempDir(), KeepBytes: -1}, "rare checkpoints": {Dir: t.TempDir(), CheckpointEvery: time.Minute},
	} {
		if l, err := fileaudit.Open(cfg); err == nil {
			t.Errorf("%s: opened", name)
			_ = l.Close()
		}
	}
}

// clock is a clock that tests move.
type clock struct{ ns atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.ns.Store(time.Date(2026, 6, 17, 12, 0, 0, 0, time.UTC).UnixNano())
	return c
}

func (c *clock) now() time.Time          { return time.Unix(0, c.ns.Load()).UTC() }
func (c *clock) advance(d time.Duration) { c.ns.Add(int64(d)) }

func at(t time.Time, id string) *audit.Record {
	r := event(id)
	r.Time = t
	return r
}

func TestRotationBySizeCompressionAndQuery(t *testing.T) {
	t.Parallel()
	dir, c := t.TempDir(), newClock()
	l := open(t, fileaudit.Config{Dir: dir, SegmentBytes: 3000, Now: c.now})
	const n = 60
	for i := range n {
		mustAppend(t, l, at(c.now(), fmt.Sprint(i)))
		c.advance(time.Minute)
	}
	testkit.Eventually(t, "all but the open segment are compressed", func() bool {
		return len(glob(t, dir, "*.jsonl")) == 1 && len(glob(t, dir, "*.jsonl.gz")) >= 5
	})
	verify(t, dir)
	if got := records(t, dir); len(got) != n {
		t.Errorf("%d records, want %d", len(got), n)
	}
	// A span of time leaves out the segments that cannot have it: spoil the others.
	if err := os.WriteFile(glob(t, dir, "*-00000001.jsonl.gz")[0], []byte("spoiled"), 0o600); err != nil {
		t.Fatal(err)
	}
	var got []string
	from := c.now().Add(-10 * time.Minute)
	for line, err := range l.Query(context.Background(), &audit.Query{From: from}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, line.DecisionID)
	}
	if fmt.Sprint(got) != "[59 58 57 56 55 54 53 52 51 50]" {
		t.Errorf("the last ten minutes: %v", got)
	}
	var last error
	for _, err := range l.Query(context.Background(), &audit.Query{}) {
		last = err
	}
	if last == nil || !strings.Contains(last.Error(), "audit-00000001.jsonl.gz") {
		t.Errorf("a query over a spoiled file: %v, want an error with its name", last)
	}
}

func TestRotationByAge(t *testing.T) {
	t.Parallel()
	dir, c := t.TempDir(), newClock()
	l := open(t, fileaudit.Config{Dir: dir, SegmentAge: time.Hour, Now: c.now, CheckpointEvery: time.Millisecond})
	mustAppend(t, l, event("1"))
	c.advance(time.Hour)
	testkit.Eventually(t, "the segment is closed and compressed", func() bool { return len(glob(t, dir, "*.gz")) == 1 })
	verify(t, dir)
	mustAppend(t, l, event("2"))
	if v := verify(t, dir); v.Segments != 2 || v.Records != 2 {
		t.Errorf("%d segments, %d records", v.Segments, v.Records)
	}
}

func TestRetentionByBytes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, fileaudit.Config{Dir: dir, SegmentBytes: 4000, KeepBytes: 9000})
	for i := range 200 {
		mustAppend(t, l, event(fmt.Sprint(i)))
	}
	testkit.Eventually(t, "old segments are removed", func() bool { return l.Stats().Removed >= 3 })
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	v := verify(t, dir)
	if !v.Removed || v.FirstSeq < 10 || v.Records == 0 || v.Records >= 200 {
		t.Errorf("removed: %v, the first line is %d, %d records", v.Removed, v.FirstSeq, v.Records)
	}
	notes := records(t, dir, audit.KindRetention)
	if len(notes) == 0 || notes[len(notes)-1].Note.Removed == 0 {
		t.Errorf("notes of the removal: %+v", notes)
	}
	// That it was meant is signed: what is removed by hand is found.
	if err := os.Remove(glob(t, dir, "audit-*")[0]); err != nil {
		t.Fatal(err)
	}
	if v, err := fileaudit.Verify(context.Background(), dir, key(t, dir)); err != nil || v.OK() || v.Fault.Kind != audit.FaultMissing {
		t.Errorf("one more removed by hand: %v, %v", v.Fault, err)
	}
}

func TestRetentionByAge(t *testing.T) {
	t.Parallel()
	dir, c := t.TempDir(), newClock()
	cfg := fileaudit.Config{Dir: dir, KeepAge: 24 * time.Hour, Now: c.now}
	for i := range 3 {
		l := open(t, cfg)
		mustAppend(t, l, at(c.now(), fmt.Sprint(i)))
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		c.advance(10 * time.Hour)
	}
	l := open(t, cfg) // 30 hours after the first, 20 after the second.
	testkit.Eventually(t, "the oldest is removed", func() bool { return l.Stats().Removed == 1 })
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	verify(t, dir)
	if got := records(t, dir); len(got) != 2 || got[0].DecisionID != "1" {
		t.Errorf("kept: %+v", got)
	}
	// A crash between the signature and the removal leaves a file that does not count.
	left := filepath.Join(dir, seg1)
	if err := os.WriteFile(left, []byte("left over"), 0o600); err != nil {
		t.Fatal(err)
	}
	verify(t, dir)
	l = open(t, cfg)
	testkit.Eventually(t, "what was left is removed", func() bool {
		_, err := os.Stat(left)
		return errors.Is(err, os.ErrNotExist)
	})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	verify(t, dir)
}

// crashed is a log whose process ended without Close: its files and its key, without
// the lock, as they were at some moment.
func crashed(t *testing.T, ids ...string) (string, string) {
	t.Helper()
	dir, keyFile := t.TempDir(), filepath.Join(t.TempDir(), "key")
	l := open(t, fileaudit.Config{Dir: dir, KeyFile: keyFile})
	for _, id := range ids {
		mustAppend(t, l, event(id))
	}
	files := load(t, dir)
	raw, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	copied, copiedKey := t.TempDir(), filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(copiedKey, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, raw := range files {
		if err := os.WriteFile(filepath.Join(copied, name), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return copied, copiedKey
}

func TestATornLineIsCutOff(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		tail string
		kept bool // beside the log
	}{
		"a torn line":      {`{"seq":5,"time":"2026`, false},
		"zeros":            {strings.Repeat("\x00", 4096), false},
		"more than a line": {"\x00\x00\n{\"seq\":6,\n", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, keyFile := crashed(t, "1", "2")
			f, err := os.OpenFile(filepath.Join(dir, seg1), os.O_APPEND|os.O_WRONLY, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteString(c.tail); err != nil {
				t.Fatal(err)
			}
			f.Close()
			l := open(t, fileaudit.Config{Dir: dir, KeyFile: keyFile})
			want := fileaudit.Recovery{Ended: audit.EndedCrashed, CutBytes: int64(len(c.tail))}
			got := l.Found()
			got.Adopted = 0 // A checkpoint can have come between.
			if got != want {
				t.Errorf("found %+v, want %+v", got, want)
			}
			mustAppend(t, l, event("3"))
			if v := verify(t, dir); v.Crashes != 1 || v.Records != 3 {
				t.Errorf("crashes %d, records %d", v.Crashes, v.Records)
			}
			notes := records(t, dir, audit.KindSegment)
			if note := notes[len(notes)-1].Note; note.CutBytes != int64(len(c.tail)) {
				t.Errorf("the note tells of %d bytes, want %d", note.CutBytes, len(c.tail))
			}
			raw, err := os.ReadFile(filepath.Join(dir, seg1+".cut"))
			if c.kept != (err == nil && string(raw) == c.tail) {
				t.Errorf("kept beside the log: %q, %v", raw, err)
			}
		})
	}
}

// What was taken out of a log before it was opened again stays visible for ever.
func TestLossBeforeOpenIsTold(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(t *testing.T, dir string)
		found bool // told by Open too
	}{
		"lines cut off": {func(t *testing.T, dir string) {
			t.Helper()
			all := split(load(t, dir)[seg1])
			os.WriteFile(filepath.Join(dir, seg1), join(all[:len(all)-2]), 0o600)
		}, true},
		"a line changed": {func(t *testing.T, dir string) {
			t.Helper()
			os.WriteFile(filepath.Join(dir, seg1), bytes.Replace(load(t, dir)[seg1], []byte(`"ALLOW"`), []byte(`"DENYY"`), 1), 0o600)
		}, true},
		"all segments gone": {func(_ *testing.T, dir string) { os.Remove(filepath.Join(dir, seg1)) }, true},
		"the head gone":     {func(_ *testing.T, dir string) { os.Remove(filepath.Join(dir, "head.json")) }, true},
		"the head spoiled":  {func(_ *testing.T, dir string) { os.WriteFile(filepath.Join(dir, "head.json"), []byte("{}"), 0o600) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, keyFile := crashed(t, "1", "2")
			// Sign what was written, as a second's checkpoint would have.
			l := open(t, fileaudit.Config{Dir: dir, KeyFile: keyFile})
			mustAppend(t, l, event("3"))
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			plain(t, dir)
			if name != "the head gone" && name != "the head spoiled" {
				os.Remove(filepath.Join(dir, seg2))
			}
			c.spoil(t, dir)
			l = open(t, fileaudit.Config{Dir: dir, KeyFile: keyFile})
			if found := l.Found(); (found.LostFrom > 0) != c.found || found.LostTo < found.LostFrom {
				t.Errorf("found %+v", found)
			}
			mustAppend(t, l, event("after"))
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			v, err := fileaudit.Verify(context.Background(), dir, key(t, dir))
			if err != nil || v.OK() {
				t.Errorf("verify: %v, %v; want a fault", v.Fault, err)
			}
			if got := records(t, dir); len(got) == 0 || got[len(got)-1].DecisionID != "after" {
				t.Error("the record after it is not kept")
			}
		})
	}
}

// What somebody added to a log that was closed is taken out when it is opened.
func TestAddedByHandIsSetAside(t *testing.T) {
	t.Parallel()
	dir := sample(t)
	k := filepath.Join(t.TempDir(), "..", "key")
	all := split(load(t, dir)[seg3])
	line, err := audit.DecodeLine(append(bytes.TrimSpace(all[len(all)-1]), '\n'))
	if err != nil {
		t.Fatal(err)
	}
	forged, _ := audit.AppendLine(load(t, dir)[seg3], line.Seq+1, line.Hash, audit.AppendRecord(nil, event("forged")))
	if err := os.WriteFile(filepath.Join(dir, seg3), forged, 0o600); err != nil {
		t.Fatal(err)
	}
	l := open(t, fileaudit.Config{Dir: dir, KeyFile: k})
	if l.Found().CutBytes == 0 || len(glob(t, dir, "*.cut")) != 1 {
		t.Errorf("found %+v", l.Found())
	}
	if got := records(t, dir); len(got) != 18 {
		t.Errorf("%d records, want 18", len(got))
	}
	verify(t, dir)
}

// The unsigned end of a log that is being written is no fault, and is counted.
func TestUnsignedEnd(t *testing.T) {
	t.Parallel()
	dir, _ := crashed(t, "1", "2", "3")
	v := verify(t, dir)
	if v.Unsigned+v.SignedSeq != v.LastSeq || v.Unsigned > 3 || v.Closed {
		t.Errorf("signed up to %d, unsigned %d, the last line is %d", v.SignedSeq, v.Unsigned, v.LastSeq)
	}
}

// Verify and Query see a whole log at any moment of its being written.
func TestReadersBesideTheWriter(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, fileaudit.Config{Dir: dir, SegmentBytes: 4000, KeepBytes: 40_000, CheckpointEvery: time.Millisecond})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 1500 {
			how := audit.Durability(i % 2)
			if err := l.Append(context.Background(), event(fmt.Sprint(i)), how); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	rounds := 0
	for running := true; running; rounds++ {
		select {
		case <-done:
			running = false
		default:
		}
		verify(t, dir)
		last := uint64(0)
		for line, err := range fileaudit.NewReader(dir).Query(context.Background(), &audit.Query{Order: audit.OldestFirst}) {
			if err != nil {
				t.Fatal(err)
			}
			if line.Seq <= last {
				t.Fatalf("line %d after %d", line.Seq, last)
			}
			last = line.Seq
		}
	}
	if rounds < 2 || l.Stats().Removed == 0 {
		t.Errorf("%d rounds, %d segments removed: not what the test is for", rounds, l.Stats().Removed)
	}
}
