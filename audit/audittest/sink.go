package audittest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kelpie-authz/kelpie/audit"
)

func id(n int) string { return fmt.Sprintf("d-%06d", n) }

func sinkCases() []testCase {
	return []testCase{
		{name: "every field is kept", run: everyFieldIsKept},
		{name: "every kind is kept", run: everyKindIsKept},
		{name: "what is no record is refused", run: whatIsNoRecordIsRefused},
		{name: "hostile texts are kept as they are", run: hostileTexts},
		{name: "a caller's order is kept, nothing is lost or twice", run: orderIsKept},
		{name: "a record belongs to its caller again", run: recordIsTheCallers},
		{name: "too long is refused, the next one is kept", run: tooLong},
		{name: "Close keeps what was taken", run: closeKeeps},
		{name: "Close twice", run: closeTwice},
		{name: "nothing is taken after Close", run: afterClose},
		{name: "Close while others append", run: closeWhileOthersAppend},
		{name: "opened again, it goes on", run: openedAgain},
		{name: "Sync is kept when it returns", sync: true, run: syncIsKept},
		{name: "Sync is the zero durability", sync: true, run: syncIsZero},
		{name: "a context that is over", sync: true, run: contextOver},
		{name: "Sync and Async keep one order", sync: true, run: mixedOrder},
	}
}

func everyFieldIsKept(t *testing.T, d Driver) {
	want := Full()
	v := reflect.ValueOf(want)
	for i := range v.NumField() {
		if name := v.Type().Field(i).Name; name != "Note" && v.Field(i).IsZero() {
			t.Fatalf("Full has no %s", name)
		}
	}
	f := setup(t, d)
	f.append(&want)
	if diff := cmp.Diff([]audit.Record{want}, f.kept()); diff != "" {
		t.Errorf("kept (-want +got):\n%s", diff)
	}
}

func everyKindIsKept(t *testing.T, d Driver) {
	f := setup(t, d)
	var want []audit.Record
	for i, kind := range audit.Kinds() {
		r := decision(i)
		r.Kind = kind
		f.append(&r)
		want = append(want, r)
	}
	if diff := cmp.Diff(want, f.kept()); diff != "" {
		t.Errorf("kept (-want +got):\n%s", diff)
	}
}

func whatIsNoRecordIsRefused(t *testing.T, d Driver) {
	f := setup(t, d)
	for name, spoil := range map[string]func(*audit.Record){
		"no kind":        func(r *audit.Record) { r.Kind = "" },
		"unknown kind":   func(r *audit.Record) { r.Kind = "gossip" },
		"a note's kind":  func(r *audit.Record) { r.Kind = audit.KindCheckpoint },
		"a note":         func(r *audit.Record) { r.Note = &audit.Note{} },
		"no time at all": func(r *audit.Record) { r.Time = time.Time{} },
	} {
		r := decision(1)
		spoil(&r)
		if err := f.Append(context.Background(), &r, f.durability()); !errors.Is(err, audit.ErrInvalid) || errors.Is(err, audit.ErrUnavailable) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
	if kept := f.kept(); len(kept) != 0 {
		t.Errorf("kept %d of them", len(kept))
	}
}

func hostileTexts(t *testing.T, d Driver) {
	f := setup(t, d)
	var want []audit.Record
	for i, text := range []string{
		"a\nb\r\nc\x00\x1b[31m", "\u202egnp.exe\u2066", "line\u2028line\u2029", `"}` + "\n" + `{"seq":1,"hash":"`, "\\u0000\\", "Grüße 🐕 \U000e0041", "\ufeff\u200b\u0085\x7f",
	} {
		r := decision(i)
		r.Resource, r.Matched, r.Shown = text, []string{text}, []audit.Member{{Name: text, Value: text}}
		f.append(&r)
		want = append(want, r)
	}
	r := decision(99)
	r.Agent = "a\xff\xc0b"
	f.append(&r)
	r.Agent = "a\ufffd\ufffdb"
	if diff := cmp.Diff(append(want, r), f.kept()); diff != "" {
		t.Errorf("kept (-want +got):\n%s", diff)
	}
}

func orderIsKept(t *testing.T, d Driver) {
	const callers, each = 8, 100
	f := setup(t, d)
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for n := range each {
				r := decision(n)
				r.Gateway = id(c)
				how := audit.Async
				if n%10 == 0 {
					how = f.durability()
				}
				if err := f.Append(context.Background(), &r, how); err != nil {
					t.Errorf("Append: %v", err)
				}
			}
		})
	}
	wg.Wait()
	next := map[string]int{}
	for _, r := range f.kept() {
		if r.DecisionID != id(next[r.Gateway]) {
			t.Fatalf("caller %s: %s comes where %s should", r.Gateway, r.DecisionID, id(next[r.Gateway]))
		}
		next[r.Gateway]++
	}
	for c := range callers {
		if next[id(c)] != each {
			t.Errorf("caller %d: %d records kept, want %d", c, next[id(c)], each)
		}
	}
}

func recordIsTheCallers(t *testing.T, d Driver) {
	f := setup(t, d)
	r := decision(0)
	r.Matched = []string{"before"}
	if err := f.Append(context.Background(), &r, audit.Async); err != nil {
		t.Fatal(err)
	}
	want := r
	want.Matched = []string{"before"}
	r.Matched[0], r.Agent = "after", "somebody"
	if diff := cmp.Diff([]audit.Record{want}, f.kept()); diff != "" {
		t.Errorf("kept (-want +got):\n%s", diff)
	}
}

func tooLong(t *testing.T, d Driver) {
	f := setup(t, d)
	r := decision(0)
	r.Message = strings.Repeat("x", audit.MaxLine)
	if err := f.Append(context.Background(), &r, f.durability()); !errors.Is(err, audit.ErrInvalid) {
		t.Errorf("Append = %v, want ErrInvalid", err)
	}
	big := decision(1)
	big.Message = strings.Repeat("x", audit.MaxLine-1024)
	f.append(&big)
	small := decision(2)
	f.append(&small)
	if diff := cmp.Diff([]audit.Record{big, small}, f.kept()); diff != "" {
		t.Errorf("kept (-want +got):\n%s", diff)
	}
}

func closeKeeps(t *testing.T, d Driver) {
	const n = 500
	f := setup(t, d)
	for i := range n {
		r := decision(i)
		if err := f.Append(context.Background(), &r, audit.Async); err != nil {
			t.Fatal(err)
		}
	}
	if kept := f.kept(); len(kept) != n {
		t.Errorf("kept %d, want %d", len(kept), n)
	}
}

func closeTwice(t *testing.T, d Driver) {
	f := setup(t, d)
	f.close()
	if err := f.Close(); err != nil {
		t.Errorf("the second Close: %v", err)
	}
}

func afterClose(t *testing.T, d Driver) {
	f := setup(t, d)
	f.close()
	r := decision(0)
	err := f.Append(context.Background(), &r, f.durability())
	if !errors.Is(err, audit.ErrClosed) || !errors.Is(err, audit.ErrUnavailable) {
		t.Errorf("Append = %v, want ErrClosed, which is ErrUnavailable", err)
	}
	if kept := d.Kept(t, f.dir); len(kept) != 0 {
		t.Errorf("kept %d", len(kept))
	}
}

func closeWhileOthersAppend(t *testing.T, d Driver) {
	f := setup(t, d)
	var wg sync.WaitGroup
	var mu sync.Mutex
	taken := map[string]bool{}
	for c := range 8 {
		wg.Go(func() {
			for n := 0; ; n++ {
				r := decision(c*1_000_000 + n)
				if err := f.Append(context.Background(), &r, f.durability()); err != nil {
					if !errors.Is(err, audit.ErrUnavailable) {
						t.Errorf("Append: %v, want ErrUnavailable", err)
					}
					if errors.Is(err, audit.ErrClosed) {
						return
					}
					continue
				}
				mu.Lock()
				taken[r.DecisionID] = true
				enough := len(taken) == 64
				mu.Unlock()
				if enough {
					go f.Close() //nolint:errcheck // f.kept asks for the same error.
				}
			}
		})
	}
	wg.Wait()
	for _, r := range f.kept() {
		delete(taken, r.DecisionID)
	}
	if len(taken) > 0 {
		t.Errorf("%d records were taken and are not kept", len(taken))
	}
}

func openedAgain(t *testing.T, d Driver) {
	f := setup(t, d)
	var want []audit.Record
	for i := range 3 {
		if i > 0 {
			f.close()
			f.open()
		}
		r := decision(i)
		f.append(&r)
		want = append(want, r)
	}
	if diff := cmp.Diff(want, f.kept()); diff != "" {
		t.Errorf("kept (-want +got):\n%s", diff)
	}
}

func syncIsKept(t *testing.T, d Driver) {
	f := setup(t, d)
	for i := range 5 {
		r := decision(i)
		f.append(&r)
		if kept := d.Kept(t, f.dir); len(kept) != i+1 || kept[i].DecisionID != id(i) {
			t.Fatalf("after %d records %d are kept", i+1, len(kept))
		}
	}
}

func syncIsZero(t *testing.T, d Driver) {
	var zero audit.Durability
	f := setup(t, d)
	r := decision(0)
	if err := f.Append(context.Background(), &r, zero); err != nil {
		t.Fatal(err)
	}
	if kept := d.Kept(t, f.dir); len(kept) != 1 {
		t.Errorf("kept %d, want 1", len(kept))
	}
}

func contextOver(t *testing.T, d Driver) {
	f := setup(t, d)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for i := range 50 {
		r := decision(i)
		if err := f.Append(ctx, &r, audit.Sync); err != nil && (!errors.Is(err, audit.ErrUnavailable) || !errors.Is(err, context.Canceled)) {
			t.Fatalf("Append = %v, want nil or an ErrUnavailable that tells of the context", err)
		}
	}
	r := decision(50)
	f.append(&r)
	if kept := f.kept(); len(kept) == 0 || kept[len(kept)-1].DecisionID != id(50) {
		t.Error("the record after them is not kept")
	}
}

func mixedOrder(t *testing.T, d Driver) {
	f := setup(t, d)
	var want []audit.Record
	for i := range 200 {
		r := decision(i)
		how := audit.Async
		if i%7 == 0 {
			how = audit.Sync
		}
		if err := f.Append(context.Background(), &r, how); err != nil {
			t.Fatal(err)
		}
		want = append(want, r)
		if how == audit.Sync {
			if kept := d.Kept(t, f.dir); len(kept) != i+1 {
				t.Fatalf("a Sync record after %d others: %d are kept", i, len(kept))
			}
		}
	}
	if diff := cmp.Diff(want, f.kept()); diff != "" {
		t.Errorf("kept (-want +got):\n%s", diff)
	}
}
