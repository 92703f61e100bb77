package fileaudit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
)

// Where a segment is there plain and compressed, the one that is whole is kept, while
// the log runs and at its start; what is not whole is set aside and never thrown away.
func TestOfTwoFilesTheWholeOneStays(t *testing.T) {
	t.Parallel()
	half := func(raw []byte) []byte { return raw[:bytes.IndexByte(raw, '\n')+1] }
	torn := func(raw []byte) []byte { return raw[:len(raw)/2] }
	for name, c := range map[string]struct {
		plain, packed func([]byte) []byte // what becomes of each; nil: it stays whole
		aside         string
		neither       bool
	}{
		"both whole":           {nil, nil, "", false},
		"plain ends early":     {half, nil, ".cut", false},
		"plain is torn":        {torn, nil, ".cut", false},
		"plain is empty":       {func([]byte) []byte { return nil }, nil, ".cut", false},
		"compressed is torn":   {nil, torn, gzSuffix + ".cut", false},
		"compressed is no gz":  {nil, func([]byte) []byte { return []byte("half") }, gzSuffix + ".cut", false},
		"neither is whole":     {half, torn, "", true},
		"plain has other text": {func(raw []byte) []byte { return bytes.Replace(raw, []byte("ALLOW"), []byte("DENYY"), 1) }, nil, ".cut", false},
	} {
		for _, number := range []uint64{1, 0} { // 0: the last closed one, at a start.
			t.Run(fmt.Sprint(name, ", segment ", number), func(t *testing.T) {
				t.Parallel()
				k := newKeeping(t, func(*Config) {})
				k.pass(t)
				if number == 0 {
					if err := k.Close(); err != nil {
						t.Fatal(err)
					}
					segments := k.segments(t)
					number = segments[len(segments)-1].number
					k.pass(t)
				}
				path := segmentPath(k.cfg.Dir, number)
				packed, err := os.ReadFile(path + gzSuffix)
				if err != nil {
					t.Fatal(err)
				}
				want := fmt.Sprint(ids(t, k.cfg.Dir))
				plain := unpacked(t, k.cfg.Dir, number)
				if c.plain != nil {
					putFile(t, path, c.plain(plain))
				}
				if c.packed != nil {
					packed = c.packed(packed)
				}
				putFile(t, path+gzSuffix, packed)
				before := present(t, k.cfg.Dir)
				if number == 1 {
					err = k.archive.pass(context.Background())
				} else {
					k.open(t)
					err = k.archive.pass(context.Background())
				}
				if c.neither {
					// A start takes what there is as the loss it finds, and that is told.
					if told := k.Found().LostFrom > 0; number == 1 && !errors.Is(err, errNeither) || number != 1 && !told {
						t.Errorf("the pass: %v", err)
					}
					if after := present(t, k.cfg.Dir); after < before {
						t.Errorf("%d files are left of %d", after, before)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if err := k.Close(); err != nil {
					t.Fatal(err)
				}
				mustVerify(t, k.cfg.Dir)
				if got := fmt.Sprint(ids(t, k.cfg.Dir)); got != want {
					t.Errorf("the log has %s\nwant %s", got, want)
				}
				if _, err := os.Stat(path); err == nil {
					t.Error("the plain file is still there")
				}
				if c.aside != "" {
					if _, err := os.Stat(path + c.aside); err != nil {
						t.Errorf("what is not whole was not set aside: %v", err)
					}
				}
			})
		}
	}
}

func present(t *testing.T, dir string) int {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// What was set aside once is not thrown away by the next time.
func TestSetAsideTwice(t *testing.T) {
	t.Parallel()
	path := segmentPath(t.TempDir(), 1)
	for _, text := range []string{"first", "second", "third"} {
		putFile(t, path, []byte(text))
		if err := setAside(path); err != nil {
			t.Fatal(err)
		}
	}
	for suffix, want := range map[string]string{".cut": "first", ".cut2": "second", ".cut3": "third"} {
		if got, err := os.ReadFile(path + suffix); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", suffix, got, err)
		}
	}
}
