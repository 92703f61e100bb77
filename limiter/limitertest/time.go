package limitertest

import (
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/limiter"
)

// timeCases are about what time gives back, and clocks that misbehave.
func timeCases() []testCase {
	return []testCase{
		{name: "calendar_edges", clock: true, run: calendarEdges},
		{name: "holds_end", clock: true, run: holdsEnd},
		{name: "reset_is_exact", clock: true, run: resetIsExact},
		{name: "clock_stepping_back_refills_nothing", clock: true, run: clockStepsBack},
		{name: "clock_stepping_back_keeps_the_quota", clock: true, run: quotaClockStepsBack},
		{name: "idle_is_as_new", clock: true, run: idleIsAsNew},
	}
}

// calendarEdges exhausts a quota at an instant and expects its unit to end at
// another, and the unit after that at a third.
func calendarEdges(t *testing.T, d Driver) {
	tests := []struct {
		name, zone       string
		unit             limiter.Calendar
		at, end, nextEnd string
	}{
		{"second", "UTC", limiter.CalendarSecond, "2026-06-17T12:00:00.25Z", "2026-06-17T12:00:01Z", "2026-06-17T12:00:02Z"},
		{"minute", "UTC", limiter.CalendarMinute, "2026-06-17T12:59:30Z", "2026-06-17T13:00:00Z", "2026-06-17T13:01:00Z"},
		{"last instant of a day", "UTC", limiter.CalendarDay, "2026-06-17T23:59:59.999999Z", "2026-06-18T00:00:00Z", "2026-06-19T00:00:00Z"},
		{"first instant of a day", "UTC", limiter.CalendarDay, "2026-06-18T00:00:00Z", "2026-06-19T00:00:00Z", "2026-06-20T00:00:00Z"},
		{"leap day", "UTC", limiter.CalendarDay, "2028-02-28T12:00:00Z", "2028-02-29T00:00:00Z", "2028-03-01T00:00:00Z"},
		{"leap month", "UTC", limiter.CalendarMonth, "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z", "2028-04-01T00:00:00Z"},
		{"common February", "UTC", limiter.CalendarMonth, "2027-02-28T23:59:59Z", "2027-03-01T00:00:00Z", "2027-04-01T00:00:00Z"},
		{"year's end", "UTC", limiter.CalendarMonth, "2026-12-31T23:00:00Z", "2027-01-01T00:00:00Z", "2027-02-01T00:00:00Z"},
		{"week ends on Sunday", "UTC", limiter.CalendarWeek, "2026-11-22T23:00:00Z", "2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z"},
		{"week over a year's end", "UTC", limiter.CalendarWeek, "2026-12-31T12:00:00Z", "2027-01-04T00:00:00Z", "2027-01-11T00:00:00Z"},
		{"week with a short day", "America/New_York", limiter.CalendarWeek, "2026-03-07T12:00:00Z", "2026-03-09T04:00:00Z", "2026-03-16T04:00:00Z"},
		{"month with a long day", "America/New_York", limiter.CalendarMonth, "2026-10-31T12:00:00Z", "2026-11-01T04:00:00Z", "2026-12-01T05:00:00Z"},
		{"day of 23 hours", "America/New_York", limiter.CalendarDay, "2026-03-08T05:00:00Z", "2026-03-09T04:00:00Z", "2026-03-10T04:00:00Z"},
		{"day of 25 hours", "America/New_York", limiter.CalendarDay, "2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z", "2026-11-03T05:00:00Z"},
		{"repeated hour is two", "America/New_York", limiter.CalendarHour, "2026-11-01T05:30:00Z", "2026-11-01T06:00:00Z", "2026-11-01T07:00:00Z"},
		{"skipped hour is none", "Europe/Berlin", limiter.CalendarHour, "2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z", "2026-03-29T02:00:00Z"},
		{"hour at +5:45", "Asia/Kathmandu", limiter.CalendarHour, "2026-05-01T00:30:00Z", "2026-05-01T01:15:00Z", "2026-05-01T02:15:00Z"},
		{"day at +5:30", "Asia/Kolkata", limiter.CalendarDay, "2026-05-01T18:29:59Z", "2026-05-01T18:30:00Z", "2026-05-02T18:30:00Z"},
		{"half an hour back", "Australia/Lord_Howe", limiter.CalendarHour, "2026-04-04T14:30:00Z", "2026-04-04T15:30:00Z", "2026-04-04T16:30:00Z"},
		{"half an hour ahead", "Australia/Lord_Howe", limiter.CalendarHour, "2026-10-03T15:00:00Z", "2026-10-03T15:30:00Z", "2026-10-03T16:00:00Z"},
		{"no midnight", "Africa/Cairo", limiter.CalendarDay, "2026-04-23T12:00:00Z", "2026-04-23T22:00:00Z", "2026-04-24T21:00:00Z"},
		{"midnight comes back", "Africa/Cairo", limiter.CalendarDay, "2026-10-29T12:00:00Z", "2026-10-29T22:00:00Z", "2026-10-30T22:00:00Z"},
		{"far east", "Pacific/Kiritimati", limiter.CalendarDay, "2026-06-17T09:59:59Z", "2026-06-17T10:00:00Z", "2026-06-18T10:00:00Z"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			loc, err := time.LoadLocation(tt.zone)
			if err != nil {
				t.Fatalf("the tests need time zones, import time/tzdata: %v", err)
			}
			parse := func(s string) time.Time {
				at, err := time.Parse(time.RFC3339Nano, s)
				if err != nil {
					t.Fatal(err)
				}
				return at
			}
			at, end, nextEnd := parse(tt.at), parse(tt.end), parse(tt.nextEnd)
			f := open(t, t, d, at)
			t.Cleanup(f.close)
			l := &limiter.Limit{Name: tt.name, Kind: limiter.KindQuota, Count: 2, Calendar: tt.unit, Location: loc}
			exhaust(f, l, end)
			f.clock.Advance(end.Sub(at) - time.Microsecond)
			f.denied(of(l, "k", 1))
			f.clock.Advance(time.Microsecond)
			exhaust(f, l, nextEnd)
			f.clock.Advance(nextEnd.Sub(end) - time.Microsecond)
			f.denied(of(l, "k", 1))
			f.clock.Advance(time.Microsecond)
			f.admitted(of(l, "k", 2))
		})
	}
}

// exhaust spends a quota of 2 and expects its unit to end at end.
func exhaust(f *fixture, l *limiter.Limit, end time.Time) {
	f.Helper()
	st := f.admitted(of(l, "k", 2)).Limits[0]
	want := end.Sub(f.clock.Now())
	if st.Reset != want {
		f.Fatalf("at %v: reset %v, want %v", f.clock.Now(), st.Reset, want)
	}
	if st := f.denied(of(l, "k", 1)).Limits[0]; st.RetryAfter != want {
		f.Fatalf("at %v: retry after %v, want %v", f.clock.Now(), st.RetryAfter, want)
	}
}

func holdsEnd(t *testing.T, d Driver) {
	f := setup(t, d)
	l := &limiter.Limit{Name: "slots", Kind: limiter.KindConcurrency, Count: 3, Hold: 5 * time.Minute}
	first := f.admitted(of(l, "k", 1))
	f.clock.Advance(time.Minute)
	second := f.admitted(of(l, "k", 1))
	f.clock.Advance(time.Minute)
	f.admitted(of(l, "k", 1))
	retry := func(cost int64, want time.Duration) {
		t.Helper()
		if got := f.denied(of(l, "k", cost)).Limits[0].RetryAfter; got != want {
			t.Fatalf("cost %d: retry after %v, want %v", cost, got, want)
		}
	}
	retry(1, 3*time.Minute)
	retry(2, 4*time.Minute)
	retry(3, 5*time.Minute)
	f.refund(first.Receipt)
	retry(2, 4*time.Minute)
	f.admitted(of(l, "k", 1))
	retry(1, 4*time.Minute)
	f.clock.Advance(4 * time.Minute)
	f.left(limiter.Unit, of(l, "k", 1))
	f.refund(second.Receipt) // too late: it has ended by itself
	f.left(limiter.Unit, of(l, "k", 1))
	f.clock.Advance(time.Minute)
	f.left(3*limiter.Unit, of(l, "k", 1))
}

func resetIsExact(t *testing.T, d Driver) {
	wants := map[string]time.Duration{"rate": 45 * time.Second, "quota": time.Minute, "concurrency": time.Minute}
	eachMinuteLimit(t, d, func(f *fixture, l *limiter.Limit) {
		if st := f.peek(of(l, "k", 1)).Limits[0]; l.Kind != limiter.KindQuota && st.Reset != 0 {
			f.Fatalf("reset of a full bucket: %v", st.Reset)
		}
		st := f.admitted(of(l, "k", 3)).Limits[0]
		if want, ok := wants[l.Name]; ok && st.Reset != want {
			f.Fatalf("reset %v, want %v", st.Reset, want)
		}
		f.clock.Advance(st.Reset - time.Microsecond)
		if left := f.peek(of(l, "k", 1)).Limits[0].Remaining; left == 4*limiter.Unit {
			f.Fatalf("full before its reset of %v", st.Reset)
		}
		f.clock.Advance(time.Microsecond)
		f.left(4*limiter.Unit, of(l, "k", 1))
	})
}

// clockStepsBack: time stands still until the clock has caught up, so nothing
// is refilled twice, and the wait that is answered includes the catching up.
func clockStepsBack(t *testing.T, d Driver) {
	eachMinuteLimit(t, d, func(f *fixture, l *limiter.Limit) {
		f.admitted(of(l, "k", 2))
		f.clock.Advance(-time.Hour)
		f.admitted(of(l, "k", 2)) // what was left is still there
		for range 3 {
			f.denied(of(l, "k", 1))
			f.clock.Advance(20 * time.Minute)
		}
		st := f.denied(of(l, "k", 1)).Limits[0]
		f.clock.Advance(-10 * time.Minute)
		if back := f.denied(of(l, "k", 1)).Limits[0]; back.RetryAfter != st.RetryAfter+10*time.Minute || back.Reset != st.Reset+10*time.Minute {
			f.Fatalf("ten minutes back: %+v, before: %+v", back, st)
		}
		f.clock.Advance(10*time.Minute + st.RetryAfter)
		f.admitted(of(l, "k", 1))
	})
}

// quotaClockStepsBack: a day that was left is not entered again, even by a
// bucket that has been idle since.
func quotaClockStepsBack(t *testing.T, d Driver) {
	f := setup(t, d)
	l := &limiter.Limit{Name: "daily", Kind: limiter.KindQuota, Count: 2, Calendar: limiter.CalendarDay}
	f.admitted(of(l, "k", 2))
	f.clock.Advance(12 * time.Hour)
	f.admitted(of(l, "k", 1))
	f.clock.Advance(-6 * time.Hour)
	st := f.admitted(of(l, "k", 1)).Limits[0]
	if st.Remaining != 0 || st.Reset != 30*time.Hour {
		t.Fatalf("after a step back: %+v, want the new day's last unit", st)
	}
	if st := f.denied(of(l, "k", 1)).Limits[0]; st.RetryAfter != 30*time.Hour {
		t.Fatalf("retry after %v, want 30h", st.RetryAfter)
	}
	f.clock.Advance(6 * time.Hour)
	f.denied(of(l, "k", 1))
	f.clock.Advance(24 * time.Hour)
	f.admitted(of(l, "k", 2))
}

// idleIsAsNew: a bucket that was left alone for long answers like one that was
// never charged, whether or not the driver has forgotten it.
func idleIsAsNew(t *testing.T, d Driver) {
	eachMinuteLimit(t, d, func(f *fixture, l *limiter.Limit) {
		f.admitted(of(l, "k", 4))
		f.clock.Advance(400 * 24 * time.Hour)
		fresh, idle := f.peek(of(l, "never charged", 1)).Limits[0], f.peek(of(l, "k", 1)).Limits[0]
		if fresh != idle {
			f.Fatalf("idle %+v, fresh %+v", idle, fresh)
		}
		f.admitted(of(l, "k", 4))
		f.denied(of(l, "k", 1))
	})
}
