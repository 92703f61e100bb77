package fileaudit_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kelpie-authz/kelpie/audit"
	"github.com/kelpie-authz/kelpie/audit/fileaudit"
)

// lossy is a closed log, not compressed, whose second segment tells of a loss: its
// head was gone. Two more segments follow.
func lossy(t *testing.T) string {
	t.Helper()
	dir, keyFile := t.TempDir(), filepath.Join(t.TempDir(), "key")
	for run := range 4 {
		l := open(t, fileaudit.Config{Dir: dir, KeyFile: keyFile})
		for n := range 3 {
			mustAppend(t, l, event(fmt.Sprint(run, "-", n)))
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if run == 0 {
			if err := os.Remove(filepath.Join(dir, "head.json")); err != nil {
				t.Fatal(err)
			}
		}
	}
	plain(t, dir)
	return dir
}

func change(t *testing.T, dir, name, from, to string) {
	t.Helper()
	path := filepath.Join(dir, name)
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(raw, []byte(from)) {
		t.Fatalf("%s does not hold %s", name, from)
	}
	if err := os.WriteFile(path, bytes.Replace(raw, []byte(from), []byte(to), 1), 0o600); err != nil {
		t.Fatal(err)
	}
}

func faults(t *testing.T, dir string) (audit.Verification, []string) {
	t.Helper()
	v, err := fileaudit.Verify(context.Background(), dir, key(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, f := range v.Faults() {
		all = append(all, fmt.Sprintf("%s %s:%d known=%v", f.Kind, f.File, f.Line, f.Known))
	}
	return v, all
}

// A loss that the log tells of is a fault for ever, and hides none that comes later.
func TestALossHidesNoLaterFault(t *testing.T) {
	t.Parallel()
	dir := lossy(t)
	v, got := faults(t, dir)
	told := "lost " + seg2 + ":1 known=true"
	if fmt.Sprint(got) != "["+told+"]" || v.OK() || v.Proved != 9 || v.Records != 12 {
		t.Errorf("faults %q, OK %v, %d of %d records proved; want the loss and 9 of 12", got, v.OK(), v.Proved, v.Records)
	}
	change(t, dir, seg2, `"1-1"`, `"1-9"`)
	change(t, dir, "audit-00000004.jsonl", `"3-2"`, `"3-9"`)
	v, got = faults(t, dir)
	want := []string{told, "hash " + seg2 + ":4 known=false", "hash audit-00000004.jsonl:5 known=false"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("faults %q, want %q", got, want)
	}
	// Of the segments with a fault only what a signature vouched for before it counts.
	if v.Proved != 3 {
		t.Errorf("%d records are proved, want 3", v.Proved)
	}
}

// A fault of one segment hides none of another.
func TestAFaultHidesNoLaterSegment(t *testing.T) {
	t.Parallel()
	dir := sample(t)
	change(t, dir, seg1, `"0-1"`, `"0-9"`)
	change(t, dir, seg3, `"2-1"`, `"2-9"`)
	if _, got := faults(t, dir); fmt.Sprint(got) != fmt.Sprintf("[hash %s:4 known=false hash %s:4 known=false]", seg1, seg3) {
		t.Errorf("faults %q", got)
	}
}

// A start that found lines cut, changed or gone with whole segments goes on behind
// them, and so does who verifies.
func TestEachLossIsPassed(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(t *testing.T, dir string){
		"lines cut off": func(t *testing.T, dir string) {
			t.Helper()
			all := split(load(t, dir)[seg3])
			os.WriteFile(filepath.Join(dir, seg3), join(all[:len(all)-3]), 0o600)
		},
		"a line changed": func(t *testing.T, dir string) { t.Helper(); change(t, dir, seg3, `"2-1"`, `"2-9"`) },
		"lines changed in two segments": func(t *testing.T, dir string) {
			t.Helper()
			change(t, dir, seg3, `"kind":"segment"`, `"kind":"sediment"`)
			change(t, dir, seg2, `"1-1"`, `"1-9"`)
		},
		"the last segments gone": func(_ *testing.T, dir string) {
			os.Remove(filepath.Join(dir, seg2))
			os.Remove(filepath.Join(dir, seg3))
		},
		"all gone but the head": func(_ *testing.T, dir string) {
			os.Remove(filepath.Join(dir, seg1))
			os.Remove(filepath.Join(dir, seg2))
			os.Remove(filepath.Join(dir, seg3))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := sample(t)
			k := filepath.Join(t.TempDir(), "key")
			if err := os.Rename(filepath.Join(dir, "..", "key"), k); err != nil {
				t.Fatal(err)
			}
			spoil(t, dir)
			l := open(t, fileaudit.Config{Dir: dir, KeyFile: k})
			if l.Found().LostFrom == 0 {
				t.Errorf("found %+v", l.Found())
			}
			for n := range 4 {
				mustAppend(t, l, event(fmt.Sprint("after-", n)))
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			plain(t, dir)
			v, got := faults(t, dir)
			if len(got) != 1 || !strings.HasPrefix(got[0], "lost ") || !v.Fault.Known || v.Proved != 4 {
				t.Errorf("faults %q, %d records behind it are proved; want the loss alone, and 4", got, v.Proved)
			}
			change(t, dir, "audit-00000004.jsonl", `"after-2"`, `"after-9"`)
			if _, got := faults(t, dir); len(got) != 2 || !strings.HasPrefix(got[1], "hash audit-00000004.jsonl:5") {
				t.Errorf("faults after one more change: %q", got)
			}
		})
	}
}
