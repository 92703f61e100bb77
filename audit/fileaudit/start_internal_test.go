package fileaudit

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/audit"
	"github.com/kelpie-authz/kelpie/internal/testkit"
)

func copyDir(t *testing.T, from, to string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

func removeFile(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func runOnce(t *testing.T, cfg Config, ids ...string) Recovery {
	t.Helper()
	l := mustOpen(t, cfg)
	for _, id := range ids {
		if err := l.Append(context.Background(), decision(id), audit.Sync); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return l.Found()
}

// Whatever of a log is gone at a start, with the head or without, is in it for ever as
// a loss that it tells of, and what follows is proved.
func TestWhatIsGoneAtAStartIsALoss(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		inside bool // the key is in the log's directory
		spoil  func(t *testing.T, cfg Config, older string)
		reach  bool // the loss reaches to the last line that was
		chain  bool // the log goes on as the same one
	}{
		"the head, and the first segment cut to its first line": {inside: true, chain: true, spoil: func(t *testing.T, cfg Config, _ string) {
			t.Helper()
			raw := unpacked(t, cfg.Dir, 1)
			putFile(t, segmentPath(cfg.Dir, 1), raw[:bytes.IndexByte(raw, '\n')+1])
			removeFile(t, segmentPath(cfg.Dir, 2))
			removeFile(t, filepath.Join(cfg.Dir, headName))
		}},
		"the head, and the segments hold nothing": {inside: true, spoil: func(t *testing.T, cfg Config, _ string) {
			t.Helper()
			unpacked(t, cfg.Dir, 1)
			putFile(t, segmentPath(cfg.Dir, 1), []byte("spoiled\n"))
			removeFile(t, segmentPath(cfg.Dir, 2))
			removeFile(t, filepath.Join(cfg.Dir, headName))
		}},
		"the whole directory": {reach: true, chain: true, spoil: func(t *testing.T, cfg Config, _ string) {
			t.Helper()
			if err := os.RemoveAll(cfg.Dir); err != nil {
				t.Fatal(err)
			}
		}},
		"an older log was put back": {reach: true, chain: true, spoil: func(t *testing.T, cfg Config, older string) {
			t.Helper()
			copyDir(t, older, cfg.Dir)
		}},
		"an older log was put back without its head": {reach: true, chain: true, spoil: func(t *testing.T, cfg Config, older string) {
			t.Helper()
			copyDir(t, older, cfg.Dir)
			removeFile(t, filepath.Join(cfg.Dir, headName))
		}},
		"the head alone": {chain: true, spoil: func(t *testing.T, cfg Config, _ string) {
			t.Helper()
			removeFile(t, filepath.Join(cfg.Dir, headName))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := Config{Dir: filepath.Join(t.TempDir(), "log"), KeyFile: filepath.Join(t.TempDir(), "key")}
			if c.inside {
				cfg.KeyFile = filepath.Join(cfg.Dir, keyName)
			}
			older := t.TempDir()
			runOnce(t, cfg, "1", "2", "3")
			copyDir(t, cfg.Dir, older)
			runOnce(t, cfg, "4", "5")
			before := mustVerify(t, cfg.Dir)
			c.spoil(t, cfg, older)
			found := runOnce(t, cfg, "after", "it")
			if found.LostFrom == 0 || found.LostTo < found.LostFrom || (c.reach && found.LostTo != before.LastSeq) {
				t.Errorf("found %+v; the log went to line %d", found, before.LastSeq)
			}
			v := verified(t, cfg.Dir)
			if v.OK() || len(v.Faults()) != 1 || !v.Fault.Known || v.Fault.Kind != audit.FaultLost || v.Proved != 2 || (v.Chain == before.Chain) != c.chain {
				t.Errorf("verify: %v, %d records are proved, log %s; it was %s", v.Faults(), v.Proved, v.Chain, before.Chain)
			}
			if again := runOnce(t, cfg); again.LostFrom != 0 {
				t.Errorf("the next start found %+v", again)
			}
			if v := verified(t, cfg.Dir); len(v.Faults()) != 1 {
				t.Errorf("after the next start: %v", v.Faults())
			}
		})
	}
}

// A key that somebody brings for the first start is no sign that there was a log.
func TestKeyThatWasBrought(t *testing.T) {
	t.Parallel()
	for _, inside := range []bool{false, true} {
		cfg := Config{Dir: filepath.Join(t.TempDir(), "log"), KeyFile: filepath.Join(t.TempDir(), "key")}
		if inside {
			cfg.KeyFile = filepath.Join(cfg.Dir, keyName)
		}
		other := Config{Dir: filepath.Join(t.TempDir(), "other"), KeyFile: filepath.Join(t.TempDir(), "key")}
		runOnce(t, other, "1")
		raw, err := os.ReadFile(other.KeyFile)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
			t.Fatal(err)
		}
		putFile(t, cfg.KeyFile, raw)
		if found := runOnce(t, cfg, "1", "2"); found.LostFrom != 0 {
			t.Errorf("found %+v", found)
		}
		if v := verified(t, cfg.Dir); !v.OK() {
			t.Errorf("verify: %v", v.Faults())
		}
	}
}

// The very first start can be cut short anywhere, and that is no loss.
func TestAFirstStartCutShort(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"with the key", "before the key is kept"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg, disk := testConfig(t)
			cfg.KeyFile = filepath.Join(t.TempDir(), "key")
			disk.set(always(errSick), nil, nil, nil)
			if l, err := Open(cfg); err == nil {
				_ = l.Close()
				t.Fatal("the log was opened on a disk that takes no file")
			}
			disk.set(nil, nil, nil, nil)
			if name == "before the key is kept" {
				removeFile(t, cfg.KeyFile)
			}
			if found := runOnce(t, cfg, "1"); found.LostFrom != 0 {
				t.Errorf("found %+v", found)
			}
			if v := mustVerify(t, cfg.Dir); v.Records != 1 {
				t.Errorf("%d records", v.Records)
			}
		})
	}
}

// A log and a head of another one beside its key do not go together, and who starts it
// is told what to do.
func TestAHeadOfAnotherLogBesideTheKey(t *testing.T) {
	t.Parallel()
	key := filepath.Join(t.TempDir(), "key")
	a, b := Config{Dir: t.TempDir(), KeyFile: key}, Config{Dir: t.TempDir(), KeyFile: key}
	runOnce(t, a, "1")
	runOnce(t, b, "1") // One key is that of two logs, each with a head of its own beside it.
	if found := runOnce(t, a, "2"); found.LostFrom != 0 {
		t.Errorf("the first after the other: %+v", found)
	}
	raw, err := os.ReadFile(keptPath(&b))
	if err != nil {
		t.Fatal(err)
	}
	putFile(t, keptPath(&a), raw)
	if l, err := Open(a); err == nil || !strings.Contains(err.Error(), keptPath(&a)) || !strings.Contains(err.Error(), "move the file away") {
		t.Errorf("Open: %v", err)
		if err == nil {
			_ = l.Close()
		}
	}
	// One that nobody signed counts for nothing, and that is told.
	putFile(t, keptPath(&a), []byte("{}"))
	var told []string
	a.Failed = func(err error) { told = append(told, err.Error()) }
	if found := runOnce(t, a, "2"); found.LostFrom != 0 || len(told) != 1 || !strings.Contains(told[0], "counts for nothing") {
		t.Errorf("found %+v, told %q", found, told)
	}
	mustVerify(t, a.Dir)
}

// The copy of the head follows the log, and its directory need not be writable.
func TestTheHeadIsKeptBesideTheKey(t *testing.T) {
	t.Parallel()
	cfg, _ := testConfig(t)
	cfg.KeyFile = filepath.Join(t.TempDir(), "key")
	l := mustOpen(t, cfg)
	if err := l.Append(context.Background(), decision("1"), audit.Sync); err != nil {
		t.Fatal(err)
	}
	kept := func() *audit.Checkpoint {
		c, err := readCheckpoint(keptPath(&cfg))
		if err != nil || c == nil {
			t.Fatalf("the copy: %v, %v", c, err)
		}
		return c
	}
	testkit.Eventually(t, "the copy has the record", func() bool { return kept().Seq >= 3 })
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	head, err := readCheckpoint(filepath.Join(cfg.Dir, headName))
	if err != nil {
		t.Fatal(err)
	}
	if got := kept(); got.Purpose != audit.PurposeClosed || got.Seq != head.Seq {
		t.Errorf("the copy after Close: %+v", got)
	}
	// Something is where the copy should be.
	removeFile(t, keptPath(&cfg))
	if err := os.MkdirAll(filepath.Join(keptPath(&cfg), "x"), dirMode); err != nil {
		t.Fatal(err)
	}
	told := make(chan string, 100)
	cfg.Failed = func(err error) { told <- err.Error() }
	runOnce(t, cfg, "2", "3", "4")
	close(told)
	var all []string
	for text := range told {
		all = append(all, text)
	}
	if len(all) != 2 || !strings.Contains(all[1], "beside its key") { // Of reading it, and of writing it, once.
		t.Errorf("told %q", all)
	}
	mustVerify(t, cfg.Dir)
}

// unsignedEnd is a log whose process was killed right after two records that no
// checkpoint vouches for.
func unsignedEnd(t *testing.T) (Config, *audit.Checkpoint) {
	t.Helper()
	cfg := Config{Dir: filepath.Join(t.TempDir(), "log"), KeyFile: filepath.Join(t.TempDir(), "key")}
	live := Config{Dir: t.TempDir(), KeyFile: cfg.KeyFile}
	l := mustOpen(t, live)
	head, err := readCheckpoint(filepath.Join(live.Dir, headName))
	if err != nil || head == nil {
		t.Fatalf("%v, %v", head, err)
	}
	raw, err := json.Marshal(head)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"1", "2"} {
		if err := l.Append(context.Background(), decision(id), audit.Sync); err != nil {
			t.Fatal(err)
		}
	}
	copyDir(t, live.Dir, cfg.Dir)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	// As if no tick had come between.
	putFile(t, filepath.Join(cfg.Dir, headName), raw)
	putFile(t, keptPath(&cfg), raw)
	for _, path := range []string{segmentPath(cfg.Dir, 1), filepath.Join(cfg.Dir, headName)} {
		if err := os.Chmod(path, fileMode); err != nil {
			t.Fatal(err)
		}
	}
	return cfg, head
}

// What stood behind the last signature at a start is told for ever, whatever time it
// has: clocks go wrong, and what was answered stays.
func TestWhatAStartTakesOver(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, c := range map[string]struct {
		forge   func(i int) *audit.Record
		segment bool
	}{
		"nothing":          {nil, false},
		"of a year ago":    {func(int) *audit.Record { return forged(now.AddDate(-1, 0, 0)) }, false},
		"of tomorrow":      {func(int) *audit.Record { return forged(now.AddDate(0, 0, 1)) }, false},
		"a segment of old": {func(int) *audit.Record { return forged(now.AddDate(-1, 0, 0)) }, true},
		"of now":           {func(int) *audit.Record { return forged(now) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg, head := unsignedEnd(t)
			before := mustVerify(t, cfg.Dir)
			path := segmentPath(cfg.Dir, 1)
			raw := unpacked(t, cfg.Dir, 1)
			lines := bytes.SplitAfter(raw, []byte("\n"))
			last, err := audit.DecodeLine(lines[len(lines)-2])
			if err != nil {
				t.Fatal(err)
			}
			at, hash, added := last.Seq, last.Hash, []byte(nil)
			add := func(r *audit.Record) {
				at++
				added, hash = audit.AppendLine(added, at, hash, audit.AppendRecord(nil, r))
			}
			n := uint64(0)
			if c.forge != nil {
				n = 50
				if c.segment {
					add(&audit.Record{Time: now, Kind: audit.KindSegment, Note: &audit.Note{Chain: before.Chain, Segment: 2, Prev: hash, Ended: audit.EndedCrashed}})
				}
				for i := range int(n) {
					add(c.forge(i))
				}
			}
			if c.segment {
				putFile(t, segmentPath(cfg.Dir, 2), added)
				n++
			} else {
				putFile(t, path, append(raw, added...))
			}
			if v := mustVerify(t, cfg.Dir); v.Unsigned != last.Seq+n-head.Seq {
				t.Errorf("%d lines are unsigned before the start", v.Unsigned)
			}
			want := last.Seq - head.Seq + n
			if found := runOnce(t, cfg, "after"); found.Adopted != want || found.CutBytes > 0 || found.LostFrom != 0 {
				t.Errorf("found %+v, want %d adopted", found, want)
			}
			v := mustVerify(t, cfg.Dir)
			if v.Adopted != want || v.Unsigned != 0 {
				t.Errorf("verify tells of %d adopted, want %d", v.Adopted, want)
			}
			shown := strings.Contains(fmt.Sprint(ids(t, cfg.Dir)), "forged")
			if shown != (c.forge != nil) {
				t.Errorf("the log shows %v", ids(t, cfg.Dir))
			}
		})
	}
}

func forged(at time.Time) *audit.Record {
	r := decision("forged")
	r.Time = at
	return r
}
