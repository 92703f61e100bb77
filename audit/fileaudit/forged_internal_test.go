package fileaudit

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/kelpie-authz/kelpie/audit"
	"github.com/kelpie-authz/kelpie/internal/testkit"
)

// unpacked is what a segment holds, compressed or not; it is left plain.
func unpacked(tb testing.TB, dir string, number uint64) []byte {
	tb.Helper()
	l, path, err := openLines(dir, number)
	if err != nil {
		tb.Fatal(err)
	}
	var raw []byte
	for {
		line, err := l.next()
		if err != nil {
			break
		}
		raw = append(raw, line...)
	}
	raw = append(raw, l.part...)
	if err := l.close(); err != nil {
		tb.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		tb.Fatal(err)
	}
	putFile(tb, segmentPath(dir, number), raw)
	return raw
}

func putFile(tb testing.TB, path string, raw []byte) {
	tb.Helper()
	if err := os.WriteFile(path, raw, fileMode); err != nil {
		tb.Fatal(err)
	}
}

func verified(tb testing.TB, dir string, anchors ...audit.Checkpoint) audit.Verification {
	tb.Helper()
	key, err := ReadPublicKey(filepath.Join(dir, publicName))
	if err != nil {
		tb.Fatal(err)
	}
	v, err := Verify(context.Background(), dir, key, anchors...)
	if err != nil {
		tb.Fatal(err)
	}
	return v
}

// Lines behind the end of a segment that failed are shown to nobody, and are a fault
// where it is known that the segment was cut there.
func TestForgedBehindAFailure(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		truncate error
		fault    bool
	}{"it was cut": {nil, true}, "it could not be cut": {errSick, false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg, disk := testConfig(t)
			l := mustOpen(t, cfg)
			ctx := context.Background()
			for i := range 3 {
				if err := l.Append(ctx, decision(fmt.Sprint(i)), audit.Sync); err != nil {
					t.Fatal(err)
				}
			}
			disk.set(nil, nil, once(errSick), always(c.truncate))
			_ = l.Append(ctx, decision("refused"), audit.Sync)
			testkit.Eventually(t, "records are taken again", func() bool { return l.Append(ctx, decision("after"), audit.Sync) == nil })
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			mustVerify(t, cfg.Dir)
			want := fmt.Sprint(ids(t, cfg.Dir))
			raw := unpacked(t, cfg.Dir, 1)
			// With a number of the middle, and with that which would come.
			for _, seq := range []uint64{3, 7} {
				forged, _ := audit.AppendLine(append([]byte(nil), raw...), seq, audit.Hash{}, audit.AppendRecord(nil, decision("forged")))
				putFile(t, segmentPath(cfg.Dir, 1), forged)
				if got := fmt.Sprint(ids(t, cfg.Dir)); got != want {
					t.Errorf("a query shows %s, want %s", got, want)
				}
				v := verified(t, cfg.Dir)
				if c.fault != (v.Fault != nil && v.Fault.Kind == audit.FaultAppended) || v.Ignored == 0 {
					t.Errorf("fault %v, %d lines ignored", v.Fault, v.Ignored)
				}
			}
			putFile(t, segmentPath(cfg.Dir, 1), append(raw, "torn"...))
			if v := verified(t, cfg.Dir); c.fault == v.OK() {
				t.Errorf("something that is no line: %v", v.Fault)
			}
		})
	}
}

// Readers show nothing from a line on that does not follow the one before.
func TestReadersStopWhereTheSequenceBreaks(t *testing.T) {
	t.Parallel()
	cfg, _ := testConfig(t)
	l := mustOpen(t, cfg)
	if err := l.Append(context.Background(), decision("1"), audit.Sync); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{`{"seq":2,`, `{"seq":99,`, "{}\n"} {
		raw := unpacked(t, cfg.Dir, 1)
		if line[len(line)-1] == ',' {
			forged, _ := audit.AppendLine(nil, 2, audit.Hash{}, audit.AppendRecord(nil, decision("forged")))
			line += string(forged[len(`{"seq":2,`):])
		}
		putFile(t, segmentPath(cfg.Dir, 1), append(append([]byte(nil), raw...), line...))
		var shown []string
		var last error
		for line, err := range NewReader(cfg.Dir).Query(context.Background(), &audit.Query{Order: audit.OldestFirst}) {
			if last = err; err == nil {
				shown = append(shown, line.DecisionID)
			}
		}
		if fmt.Sprint(shown) != "[1]" || last == nil {
			t.Errorf("%.20s: shown %v, error %v", line, shown, last)
		}
		for _, err := range NewReader(cfg.Dir).Tail(t.Context(), &audit.Query{}) {
			if err == nil {
				t.Errorf("%.20s: a tail goes on", line)
			}
			break
		}
		putFile(t, segmentPath(cfg.Dir, 1), raw)
	}
}
