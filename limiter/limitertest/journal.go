package limitertest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kelpie-authz/kelpie/limiter"
)

// JournalDriver is what the suite of [limiter.Journal] runs against.
type JournalDriver struct {
	// Open opens the journal in a directory, which is empty the first time. The
	// suite closes it, and opens it again after that.
	Open func(tb testing.TB, dir string) limiter.Journal
}

// JournalCases is how many cases the suite of journals has.
func JournalCases() int { return len(journalCases()) }

// RunJournal is [Run] for journals.
func RunJournal(t *testing.T, d JournalDriver) Report {
	t.Helper()
	var ran atomic.Int64
	t.Run("suite", func(t *testing.T) {
		for _, c := range journalCases() {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				f := &journalFixture{T: t, d: d, dir: t.TempDir()}
				f.j = d.Open(t, f.dir)
				t.Cleanup(f.close)
				c.run(f)
				ran.Add(1)
			})
		}
	})
	return Report{Ran: int(ran.Load())}
}

type journalCase struct {
	name string
	run  func(f *journalFixture)
}

func journalCases() []journalCase {
	return []journalCase{
		{"a new one is empty", func(f *journalFixture) { f.want() }},
		{"marks come back as they were written", journalIntact},
		{"a mark takes the place of the one before", journalReplaces},
		{"calendars and zones of one key are apart", journalApart},
		{"marks are there after it was opened again", journalReopened},
		{"what is over is removed", journalPrunes},
		{"many write at once", journalAtOnce},
		{"what cannot be loaded ends the load", journalLoadFails},
		{"after its end it refuses", journalClosed},
	}
}

type journalFixture struct {
	*testing.T

	d   JournalDriver
	dir string
	j   limiter.Journal
}

func (f *journalFixture) close() {
	if err := f.j.Close(); err != nil {
		f.Error(err)
	}
}

func (f *journalFixture) again() {
	f.Helper()
	f.close()
	f.j = f.d.Open(f.T, f.dir)
}

func (f *journalFixture) write(marks ...limiter.QuotaMark) {
	f.Helper()
	if err := f.j.Write(context.Background(), marks); err != nil {
		f.Fatal(err)
	}
}

// want compares what is kept, in whatever order.
func (f *journalFixture) want(marks ...limiter.QuotaMark) {
	f.Helper()
	place := func(m limiter.QuotaMark) string { return fmt.Sprintf("%x %v %s", m.Key, m.Calendar, m.Zone) }
	want, got := map[string]limiter.QuotaMark{}, map[string]limiter.QuotaMark{}
	for _, m := range marks {
		want[place(m)] = m
	}
	err := f.j.Load(context.Background(), func(m limiter.QuotaMark) error {
		if _, twice := got[place(m)]; twice {
			f.Errorf("%s came twice", place(m))
		}
		got[place(m)] = m
		return nil
	})
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		f.Errorf("%v, (-want +got):\n%s", err, diff)
	}
}

func quotaMark(key string, used limiter.Units) limiter.QuotaMark {
	return limiter.QuotaMark{Key: []byte(key), Calendar: limiter.CalendarDay, Zone: "UTC", Start: 1000, End: 2000, Used: used}
}

func journalIntact(f *journalFixture) {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	odd := limiter.QuotaMark{
		Key: every, Calendar: limiter.CalendarMonth, Zone: "America/Argentina/ComodRivadavia", Start: -1 << 60, End: 1<<62 + 1, Used: 4_000_000_000_000_001,
	}
	f.write(odd, quotaMark("a", 0), quotaMark("a\x00", 1), quotaMark("'; DROP TABLE quotas; --", 2))
	f.want(odd, quotaMark("a", 0), quotaMark("a\x00", 1), quotaMark("'; DROP TABLE quotas; --", 2))
}

func journalReplaces(f *journalFixture) {
	f.write(quotaMark("a", 5), quotaMark("b", 6))
	later := quotaMark("a", 3)
	later.Start, later.End = 2000, 3000
	f.write(later)
	f.want(later, quotaMark("b", 6))
	f.write(quotaMark("b", 2)) // less, too
	f.want(later, quotaMark("b", 2))
}

func journalApart(f *journalFixture) {
	other, zone := quotaMark("a", 2), quotaMark("a", 3)
	other.Calendar, zone.Zone = limiter.CalendarWeek, "Europe/Berlin"
	f.write(quotaMark("a", 1), other)
	f.write(zone)
	f.want(quotaMark("a", 1), other, zone)
}

func journalReopened(f *journalFixture) {
	f.write(quotaMark("a", 1))
	f.again()
	f.want(quotaMark("a", 1))
	f.write(quotaMark("b", 2))
	f.again()
	f.want(quotaMark("a", 1), quotaMark("b", 2))
}

func journalPrunes(f *journalFixture) {
	ended, lasting := quotaMark("a", 1), quotaMark("b", 2)
	lasting.End = 2001
	f.write(ended, lasting)
	if err := f.j.Prune(context.Background(), 1999); err != nil {
		f.Error(err)
	}
	f.want(ended, lasting)
	if err := f.j.Prune(context.Background(), 2000); err != nil {
		f.Error(err)
	}
	f.want(lasting)
	f.again()
	f.want(lasting)
}

func journalAtOnce(f *journalFixture) {
	var group sync.WaitGroup
	var want []limiter.QuotaMark
	for i := range 16 {
		key := fmt.Sprint("k", i)
		want = append(want, quotaMark(key, 9))
		group.Go(func() {
			for used := range limiter.Units(10) {
				if err := f.j.Write(context.Background(), []limiter.QuotaMark{quotaMark(key, used)}); err != nil {
					f.Error(err)
				}
			}
		})
	}
	group.Wait()
	f.want(want...)
}

func journalLoadFails(f *journalFixture) {
	f.write(quotaMark("a", 1), quotaMark("b", 2))
	enough, asked := errors.New("enough"), 0
	err := f.j.Load(context.Background(), func(limiter.QuotaMark) error { asked++; return enough })
	if !errors.Is(err, enough) || asked != 1 {
		f.Errorf("asked %d times, %v", asked, err)
	}
	f.write(quotaMark("c", 3)) // It goes on.
}

func journalClosed(f *journalFixture) {
	f.close()
	if err := f.j.Write(context.Background(), []limiter.QuotaMark{quotaMark("a", 1)}); err == nil {
		f.Error("it was written after its end")
	}
	if err := f.j.Load(context.Background(), func(limiter.QuotaMark) error { return nil }); err == nil {
		f.Error("it was read after its end")
	}
}
