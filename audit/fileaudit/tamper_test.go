package fileaudit_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/audit"
	"github.com/kelpie-authz/kelpie/audit/fileaudit"
)

// sample is a closed log of three segments, none compressed: each run adds one.
func sample(tb testing.TB) string {
	tb.Helper()
	dir := tb.TempDir()
	for run := range 3 {
		l, err := fileaudit.Open(fileaudit.Config{Dir: dir, KeyFile: filepath.Join(tb.TempDir(), "..", "key")})
		if err != nil {
			tb.Fatal(err)
		}
		for n := range 6 {
			if err := l.Append(context.Background(), event(fmt.Sprint(run, "-", n)), audit.Sync); err != nil {
				tb.Fatal(err)
			}
		}
		if err := l.Close(); err != nil {
			tb.Fatal(err)
		}
	}
	plain(tb, dir)
	return dir
}

// plain undoes compression, so that tests can change bytes.
func plain(tb testing.TB, dir string) {
	tb.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.gz"))
	if err != nil {
		tb.Fatal(err)
	}
	for _, path := range files {
		raw := gunzip(tb, path)
		if err := os.WriteFile(strings.TrimSuffix(path, ".gz"), raw, 0o600); err != nil {
			tb.Fatal(err)
		}
		if err := os.Remove(path); err != nil {
			tb.Fatal(err)
		}
	}
}

// log is the files of a log in memory.
type log map[string][]byte

func load(tb testing.TB, dir string) log {
	tb.Helper()
	files := log{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		tb.Fatal(err)
	}
	for _, e := range entries {
		if files[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			tb.Fatal(err)
		}
	}
	return files
}

func (l log) clone() log {
	c := log{}
	for name, raw := range l {
		c[name] = slices.Clone(raw)
	}
	return c
}

// faultOf verifies files; nil: they are whole.
func (l log) faultOf(tb testing.TB, dir string, k ed25519.PublicKey, anchors ...audit.Checkpoint) *audit.Fault {
	tb.Helper()
	if err := os.RemoveAll(dir); err != nil {
		tb.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		tb.Fatal(err)
	}
	for name, raw := range l {
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	v, err := fileaudit.Verify(context.Background(), dir, k, anchors...)
	if err != nil {
		tb.Fatal(err)
	}
	return v.Fault
}

const (
	seg1 = "audit-00000001.jsonl"
	seg2 = "audit-00000002.jsonl"
	seg3 = "audit-00000003.jsonl"
)

func split(raw []byte) [][]byte {
	return bytes.SplitAfter(bytes.TrimSuffix(raw, []byte("\n")), []byte("\n"))
}

func join(lines [][]byte) []byte {
	raw := bytes.Join(lines, nil)
	if !bytes.HasSuffix(raw, []byte("\n")) {
		raw = append(raw, '\n')
	}
	return raw
}

// Each way to change a log by hand is found, at the first line that it changes.
func TestVerifyNamesTheFault(t *testing.T) {
	t.Parallel()
	dir := sample(t)
	k, files := key(t, dir), load(t, dir)
	lines := func(l log, name string) [][]byte { return split(l[name]) }
	_, foreign, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	last := func(l log) (uint64, audit.Hash) {
		all := lines(l, seg3)
		line, err := audit.DecodeLine(append(bytes.TrimSuffix(all[len(all)-1], []byte("\n")), '\n'))
		if err != nil {
			t.Fatal(err)
		}
		return line.Seq, line.Hash
	}
	resign := func(l log, change func(*audit.Checkpoint)) {
		var head audit.Checkpoint
		if err := json.Unmarshal(l["head.json"], &head); err != nil {
			t.Fatal(err)
		}
		change(&head)
		raw, err := json.Marshal(head)
		if err != nil {
			t.Fatal(err)
		}
		l["head.json"] = raw
	}
	for name, c := range map[string]struct {
		kind   audit.FaultKind
		at     string
		change func(log)
	}{
		"a byte flipped": {audit.FaultHash, seg2 + ":4", func(l log) {
			l[seg2] = bytes.Replace(l[seg2], []byte(`"1-1"`), []byte(`"1-9"`), 1)
		}},
		"a line cut": {audit.FaultLine, seg2 + ":4", func(l log) {
			all := lines(l, seg2)
			all[3] = append(all[3][:20:20], '\n')
			l[seg2] = join(all)
		}},
		"a line taken out": {audit.FaultSequence, seg2 + ":4", func(l log) {
			l[seg2] = join(slices.Delete(lines(l, seg2), 3, 4))
		}},
		"two lines swapped": {audit.FaultSequence, seg2 + ":4", func(l log) {
			all := lines(l, seg2)
			all[3], all[4] = all[4], all[3]
			l[seg2] = join(all)
		}},
		"a line twice": {audit.FaultSequence, seg2 + ":5", func(l log) {
			l[seg2] = join(slices.Insert(lines(l, seg2), 4, lines(l, seg2)[3]))
		}},
		"the tail cut": {audit.FaultTail, seg3, func(l log) {
			all := lines(l, seg3)
			l[seg3] = join(all[:len(all)-3])
		}},
		"the last line torn": {audit.FaultTail, seg3 + ":9: the end is cut off: only the beginning of line", func(l log) { l[seg3] = l[seg3][:len(l[seg3])-5] }},
		"the end torn off": {audit.FaultTail, seg3 + ":8: the end is cut off: only the beginning of line", func(l log) {
			all := lines(l, seg3)
			l[seg3] = bytes.Join(append(all[:7:7], all[7][:20]), nil)
		}},
		"a piece behind the end": {audit.FaultAppended, seg3 + ":10: something stands behind the end", func(l log) { l[seg3] = append(l[seg3], `{"seq":`...) }},
		"the last segment gone":  {audit.FaultTail, seg2, func(l log) { delete(l, seg3) }},
		"a segment gone":         {audit.FaultMissing, seg3, func(l log) { delete(l, seg2) }},
		"the first segment gone": {audit.FaultMissing, seg2, func(l log) { delete(l, seg1) }},
		"all segments gone":      {audit.FaultTail, "head.json", func(l log) { delete(l, seg1); delete(l, seg2); delete(l, seg3) }},
		"segments swapped":       {audit.FaultSegment, seg2 + ":1", func(l log) { l[seg2], l[seg3] = l[seg3], l[seg2] }},
		"the head gone":          {audit.FaultMissing, "head.json", func(l log) { delete(l, "head.json") }},
		"the head forged": {audit.FaultForged, "head.json", func(l log) {
			resign(l, func(c *audit.Checkpoint) { c.Seq-- })
		}},
		"the head signed by another": {audit.FaultForged, "head.json", func(l log) {
			resign(l, func(c *audit.Checkpoint) { c.Sign(foreign) })
		}},
		"a checkpoint for another purpose": {audit.FaultForged, "start.json", func(l log) { l["start.json"] = l["head.json"] }},
		"a record added by hand": {audit.FaultAppended, seg3, func(l log) {
			seq, hash := last(l)
			l[seg3], _ = audit.AppendLine(l[seg3], seq+1, hash, audit.AppendRecord(nil, event("forged")))
		}},
		"rewritten from a line on": {audit.FaultForged, seg2, func(l log) {
			// Hashes need no key: whoever rewrites all of them meets the signatures.
			all := lines(l, seg2)
			first, err := audit.DecodeLine(all[0])
			if err != nil {
				t.Fatal(err)
			}
			hash, out := first.Note.Prev, []byte(nil)
			for i, raw := range all {
				line, err := audit.DecodeLine(append(bytes.TrimSuffix(raw, []byte("\n")), '\n'))
				if err != nil {
					t.Fatal(err)
				}
				if i == 3 {
					line.Decision = "DENY"
				}
				out, hash = audit.AppendLine(out, line.Seq, hash, audit.AppendRecord(nil, &line.Record))
			}
			l[seg2] = out
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := files.clone()
			c.change(l)
			fault := l.faultOf(t, filepath.Join(t.TempDir(), "log"), k)
			if fault == nil {
				t.Fatal("it was not found")
			}
			if fault.Kind != c.kind || !strings.HasPrefix(fault.String(), c.at) {
				t.Errorf("%s fault %q; want %s at %s", fault.Kind, fault, c.kind, c.at)
			}
			if what := fault.String(); strings.Contains(what, "%!") || len(what) > 300 {
				t.Errorf("the sentence: %s", what)
			}
		})
	}
	if fault := files.faultOf(t, filepath.Join(t.TempDir(), "log"), k); fault != nil {
		t.Errorf("the log unchanged: %v", fault)
	}
}

// Whatever byte is changed and whatever line is dropped, swapped or repeated:
// it is found.
func TestAnyChangeIsFound(t *testing.T) {
	t.Parallel()
	dir := sample(t)
	k, files := key(t, dir), load(t, dir)
	rounds := 400
	if full() {
		rounds = 20_000
	}
	rng := rand.New(rand.NewPCG(3, 4))
	names := []string{seg1, seg2, seg3, "head.json"}
	at := filepath.Join(t.TempDir(), "log")
	for round := range rounds {
		l := files.clone()
		name := names[rng.IntN(len(names))]
		raw := l[name]
		all := split(raw)
		i, j := rng.IntN(len(all)), rng.IntN(len(all))
		what := "flip"
		switch kind := rng.IntN(5); {
		case kind == 0 && len(all) > 1:
			what, raw = "drop", join(slices.Delete(all, i, i+1))
		case kind == 1 && len(all) > 1 && i != j:
			all[i], all[j] = append(bytes.TrimSpace(all[j]), '\n'), append(bytes.TrimSpace(all[i]), '\n')
			what, raw = "swap", join(all)
		case kind == 2 && len(all) > 1:
			what, raw = "repeat", join(slices.Insert(all, i, append(bytes.TrimSpace(all[j]), '\n')))
		case kind == 3 && name != "head.json":
			what, raw = "cut", raw[:rng.IntN(len(raw))]
		default:
			i = rng.IntN(len(raw))
			raw[i] ^= 1 << rng.IntN(8)
			if name == "head.json" && (i == len(raw)-1 || sameCheckpoint(files[name], raw)) {
				continue // White space, or the same signed content in another spelling.
			}
		}
		l[name] = raw
		if l.faultOf(t, at, k) == nil {
			t.Fatalf("round %d: %s at %d, %d of %s was not found", round, what, i, j, name)
		}
	}
}

func sameCheckpoint(a, b []byte) bool {
	var x, y audit.Checkpoint
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil &&
		bytes.Equal(x.Message(), y.Message()) && bytes.Equal(x.Signature, y.Signature)
}

// What a head kept elsewhere vouches for is found cut even if head and tail are
// put back together to what they were.
func TestAnchor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	anchors := make(chan audit.Checkpoint, 1000)
	l := open(t, fileaudit.Config{Dir: dir, CheckpointEvery: time.Millisecond, Checkpoint: func(c audit.Checkpoint) { anchors <- c }})
	if err := l.Append(context.Background(), event("old"), audit.Sync); err != nil {
		t.Fatal(err)
	}
	first := <-anchors
	for first.Seq < 3 {
		first = <-anchors
	}
	old := load(t, dir)
	if err := l.Append(context.Background(), event("new"), audit.Sync); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	close(anchors)
	latest := first
	for c := range anchors {
		latest = c
	}
	k, at := key(t, dir), filepath.Join(t.TempDir(), "log")
	if fault := old.faultOf(t, at, k, first); fault != nil {
		t.Errorf("the old log with its own head: %v", fault)
	}
	if fault := old.faultOf(t, at, k, latest); fault == nil || fault.Kind != audit.FaultTail {
		t.Errorf("the old log put back: %v, want a tail that is cut", fault)
	}
	if fault := load(t, dir).faultOf(t, at, k, first, latest); fault != nil {
		t.Errorf("the log as it is: %v", fault)
	}
	// It stands in for a head that is gone.
	for _, c := range []struct {
		log   string
		heads []audit.Checkpoint
		want  []audit.FaultKind
	}{
		{dir, []audit.Checkpoint{latest}, []audit.FaultKind{audit.FaultMissing}},
		{at, []audit.Checkpoint{first, latest}, []audit.FaultKind{audit.FaultMissing, audit.FaultTail}},
		{at, nil, []audit.FaultKind{audit.FaultMissing}},
	} {
		if c.log == at {
			old.faultOf(t, at, k)
		}
		if err := os.Remove(filepath.Join(c.log, "head.json")); err != nil {
			t.Fatal(err)
		}
		v, err := fileaudit.Verify(context.Background(), c.log, k, c.heads...)
		if err != nil {
			t.Fatal(err)
		}
		var kinds []audit.FaultKind
		for _, f := range v.Faults() {
			kinds = append(kinds, f.Kind)
		}
		if !slices.Equal(kinds, c.want) || (v.Lines > 0) != (len(c.heads) > 0) {
			t.Errorf("without its head: %v, %d lines, want %v", v.Faults(), v.Lines, c.want)
		}
	}
}
