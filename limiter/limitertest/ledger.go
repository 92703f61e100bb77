package limitertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/limiter"
)

// LedgerDriver is what the suite of [limiter.Ledger] runs against.
type LedgerDriver struct {
	// Open returns an empty ledger that reads its time from clock, and closes
	// what it holds when the test ends. It is called many times, also at once;
	// two that are open together share nothing.
	Open func(tb testing.TB, clock func() time.Time) limiter.Ledger
	// Twin returns another way to the same records, as another replica has it.
	// Nil: there is none, and the ledger itself is used.
	Twin func(tb testing.TB, l limiter.Ledger) limiter.Ledger
	// NoClock says why the driver cannot be given a clock, as in [Driver].
	NoClock string
}

// LedgerCases is how many cases the suite of ledgers has.
func LedgerCases() int { return len(ledgerCases()) }

// RunLedger is [Run] for ledgers.
func RunLedger(t *testing.T, d LedgerDriver) Report {
	t.Helper()
	var ran atomic.Int64
	var report Report
	t.Run("suite", func(t *testing.T) {
		for _, c := range ledgerCases() {
			if c.clock && d.NoClock != "" {
				report.LeftOut = append(report.LeftOut, c.name)
				continue
			}
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				c.run(openLedger(t, d))
				ran.Add(1)
			})
		}
	})
	if len(report.LeftOut) > 0 {
		t.Logf("%d cases left out, because %s: %s", len(report.LeftOut), d.NoClock, strings.Join(report.LeftOut, ", "))
	}
	report.Ran = int(ran.Load())
	return report
}

type ledgerCase struct {
	name  string
	clock bool
	run   func(f *ledgerFixture)
}

func ledgerCases() []ledgerCase {
	return []ledgerCase{
		{"a record comes back as it was kept", false, ledgerIntact},
		{"an unknown id has no record", false, ledgerUnknown},
		{"the first record of an id stays", false, ledgerFirstRecord},
		{"the first mark wins", false, ledgerFirstMark},
		{"marks of different names are apart", false, ledgerMarksApart},
		{"of concurrent marks exactly one is the first", false, ledgerRace},
		{"a record expires with its marks", true, ledgerExpires},
		{"a mark does not lengthen a record's life", true, ledgerMarkKeepsExpiry},
		{"a time to live has to be positive", false, ledgerTTL},
		{"an ended context does nothing", false, ledgerContext},
	}
}

type ledgerFixture struct {
	*testing.T
	limiter.Ledger

	twin  limiter.Ledger
	clock *Clock
}

func openLedger(t *testing.T, d LedgerDriver) *ledgerFixture {
	t.Helper()
	f := &ledgerFixture{T: t, clock: NewClock(noon())}
	f.Ledger = d.Open(t, f.clock.Now)
	f.twin = f.Ledger
	if d.Twin != nil {
		f.twin = d.Twin(t, f.Ledger)
	}
	return f
}

func (f *ledgerFixture) keep(id, record string, ttl time.Duration) {
	f.Helper()
	if err := f.Keep(f.Context(), id, []byte(record), ttl); err != nil {
		f.Fatalf("Keep %q: %v", id, err)
	}
}

// has fails unless both ways to the ledger have the record; nil is none.
func (f *ledgerFixture) has(id string, want []byte) {
	f.Helper()
	for _, l := range []limiter.Ledger{f.Ledger, f.twin} {
		got, err := l.Look(f.Context(), id)
		if err != nil || !bytes.Equal(got, want) || (got == nil) != (want == nil) {
			f.Fatalf("Look %q = %q, %v; want %q", id, got, err, want)
		}
	}
}

func (f *ledgerFixture) mark(l limiter.Ledger, id, mark, value string, want []byte) {
	f.Helper()
	got, err := l.Mark(f.Context(), id, mark, []byte(value))
	if err != nil || !bytes.Equal(got, want) || (got == nil) != (want == nil) {
		f.Fatalf("Mark %q of %q to %q = %q, %v; want %q", mark, id, value, got, err, want)
	}
}

func ledgerIntact(f *ledgerFixture) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	for _, id := range []string{"a", "0192f0a1-0000-7000-8000-000000000000", "with {braces} and\x00bytes\xff", strings.Repeat("long", 100)} {
		for i, record := range []string{"x", string(all), strings.Repeat("r", 100_000)} {
			id := fmt.Sprint(id, i)
			f.keep(id, record, time.Hour)
			f.has(id, []byte(record))
		}
	}
	f.keep("empty", "", time.Hour)
	f.has("empty", []byte{})
	// What the caller does with its bytes afterwards is its own affair.
	mine := []byte("mine")
	if err := f.Keep(f.Context(), "mine", mine, time.Hour); err != nil {
		f.Fatal(err)
	}
	clear(mine)
	f.has("mine", []byte("mine"))
}

func ledgerUnknown(f *ledgerFixture) {
	f.has("nothing", nil)
	f.mark(f.Ledger, "nothing", "settled", "1", nil)
	f.has("nothing", nil)
}

func ledgerFirstRecord(f *ledgerFixture) {
	f.keep("d", "first", time.Hour)
	f.mark(f.twin, "d", "settled", "1", []byte("1"))
	if err := f.twin.Keep(f.Context(), "d", []byte("second"), time.Hour); err != nil {
		f.Fatal(err)
	}
	f.has("d", []byte("first"))
	f.mark(f.Ledger, "d", "settled", "2", []byte("1"))
}

func ledgerFirstMark(f *ledgerFixture) {
	f.keep("d", "r", time.Hour)
	f.mark(f.Ledger, "d", "settled", "10", []byte("10"))
	f.mark(f.twin, "d", "settled", "11", []byte("10"))
	f.mark(f.Ledger, "d", "settled", "10", []byte("10"))
	f.has("d", []byte("r"))
}

func ledgerMarksApart(f *ledgerFixture) {
	f.keep("d", "r", time.Hour)
	f.keep("e", "r", time.Hour)
	f.mark(f.Ledger, "d", "settled", "\x00\xff", []byte("\x00\xff"))
	f.mark(f.Ledger, "d", "released", "", []byte{})
	f.mark(f.Ledger, "e", "settled", "3", []byte("3"))
	f.mark(f.twin, "d", "released", "4", []byte{})
	f.has("d", []byte("r"))
}

func ledgerRace(f *ledgerFixture) {
	const decisions, callers = 20, 16
	for d := range decisions {
		id := fmt.Sprint("d", d)
		f.keep(id, "r", time.Hour)
		var got [callers][]byte
		var errs [callers]error
		var group sync.WaitGroup
		for i := range callers {
			l := f.Ledger
			if i%2 == 1 {
				l = f.twin
			}
			group.Go(func() { got[i], errs[i] = l.Mark(f.Context(), id, "settled", fmt.Append(nil, i)) })
		}
		group.Wait()
		if err := errors.Join(errs[:]...); err != nil {
			f.Fatal(err)
		}
		first := 0
		for i := range callers {
			if !bytes.Equal(got[i], got[0]) {
				f.Fatalf("one caller was told %q and another %q", got[0], got[i])
			}
			if string(got[i]) == fmt.Sprint(i) {
				first++
			}
		}
		if first != 1 {
			f.Fatalf("%d callers were the first, want 1", first)
		}
	}
}

func ledgerExpires(f *ledgerFixture) {
	f.keep("short", "s", time.Second)
	f.keep("long", "l", time.Hour)
	f.mark(f.Ledger, "short", "settled", "1", []byte("1"))
	f.clock.Advance(time.Second - time.Millisecond)
	f.has("short", []byte("s"))
	f.clock.Advance(time.Millisecond)
	f.has("short", nil)
	f.mark(f.Ledger, "short", "settled", "2", nil)
	f.has("long", []byte("l"))
	f.keep("short", "again", time.Second)
	f.has("short", []byte("again"))
	f.mark(f.Ledger, "short", "settled", "3", []byte("3"))
}

func ledgerMarkKeepsExpiry(f *ledgerFixture) {
	f.keep("d", "r", time.Minute)
	f.clock.Advance(59 * time.Second)
	f.mark(f.Ledger, "d", "settled", "1", []byte("1"))
	f.clock.Advance(time.Second)
	f.has("d", nil)
	f.mark(f.Ledger, "d", "settled", "1", nil)
}

func ledgerTTL(f *ledgerFixture) {
	for _, ttl := range []time.Duration{0, -time.Second} {
		if err := f.Keep(f.Context(), "d", []byte("r"), ttl); err == nil {
			f.Errorf("a record that lives for %v was kept", ttl)
		}
	}
	f.has("d", nil)
}

func ledgerContext(f *ledgerFixture) {
	f.keep("d", "r", time.Hour)
	ctx, cancel := context.WithCancel(f.Context())
	cancel()
	if err := f.Keep(ctx, "e", []byte("r"), time.Hour); err == nil {
		f.Error("Keep succeeded")
	}
	if got, err := f.Look(ctx, "d"); err == nil {
		f.Errorf("Look = %q", got)
	}
	if got, err := f.Mark(ctx, "d", "settled", []byte("1")); err == nil {
		f.Errorf("Mark = %q", got)
	}
	f.has("e", nil)
	f.mark(f.Ledger, "d", "settled", "2", []byte("2"))
}
