package limiter

import (
	"archive/zip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	_ "time/tzdata"
)

// zoneNames lists every zone that Go ships.
func zoneNames(t *testing.T) []string {
	t.Helper()
	root, err := exec.CommandContext(t.Context(), "go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatalf("where Go is: %v", err)
	}
	r, err := zip.OpenReader(filepath.Join(strings.TrimSpace(string(root)), "lib", "time", "zoneinfo.zip"))
	if err != nil {
		t.Fatalf("the zones that come with Go: %v", err)
	}
	defer r.Close()
	var names []string
	for _, f := range r.File {
		if !strings.HasSuffix(f.Name, "/") {
			names = append(names, f.Name)
		}
	}
	return names
}

// transitions lists the instants of a zone's clock changes up to 2040.
func transitions(loc *time.Location) []int64 {
	var all []int64
	for at := int64(-1 << 33); ; {
		p := periodAt(loc, at)
		if p.end > 2_208_988_800 {
			return all
		}
		all = append(all, p.end)
		at = p.end
	}
}

// TestCalendarTilesTime walks, in every zone, over every clock change it ever
// made: windows follow each other without gap or overlap, each instant in one
// is answered with that one, and the window contains it.
func TestCalendarTilesTime(t *testing.T) {
	t.Parallel()
	names := zoneNames(t)
	if len(names) < 400 {
		t.Fatalf("found %d zones, want all of them (about 600)", len(names))
	}
	units := []Calendar{CalendarSecond, CalendarMinute, CalendarHour, CalendarDay, CalendarWeek, CalendarMonth}
	edges := 0
	for _, name := range names {
		loc, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		changes := transitions(loc)
		// A leap day, a year's end and a day's middle for zones without changes.
		changes = append(changes, 1_709_164_800, 1_798_761_600, 1_750_000_000, 2_145_916_800, 2_147_483_647)
		edges += len(changes)
		for _, change := range changes {
			for _, unit := range units {
				checkTiling(t, loc, unit, change)
			}
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%d zones, %d clock changes", len(names), edges)
}

// checkTiling follows the windows around one instant.
func checkTiling(t *testing.T, loc *time.Location, unit Calendar, around int64) {
	t.Helper()
	from, steps := around-5400, 4
	if unit == CalendarMinute || unit == CalendarSecond {
		from = around - 2
	}
	start, end := calendarWindow(unit, loc, from)
	for range steps {
		if start > from || from >= end {
			t.Errorf("%v %v: the window [%d, %d) does not contain %d", loc, unit, start, end, from)
			return
		}
		for _, sec := range []int64{start, start + (end-start)/3, around, end - 1} {
			if sec < start || sec >= end {
				continue
			}
			if s, e := calendarWindow(unit, loc, sec); s != start || e != end {
				t.Errorf("%v %v: %d is in [%d, %d), but [%d, %d) contains it too", loc, unit, sec, s, e, start, end)
				return
			}
		}
		checkStart(t, loc, unit, start, around)
		from = end
		start, end = calendarWindow(unit, loc, from)
		if start != from {
			t.Errorf("%v %v: after a window that ends at %d comes one from %d", loc, unit, from, start)
			return
		}
	}
}

// checkStart: away from clock changes a window starts where the wall clock
// shows the start of its unit.
func checkStart(t *testing.T, loc *time.Location, unit Calendar, start, around int64) {
	t.Helper()
	at := time.Unix(start, 0).In(loc)
	zs, _ := at.ZoneBounds()
	if !zs.IsZero() && start-zs.Unix() < 2*maxOffset {
		return // the unit's start is what the clock change makes of it
	}
	_, minute, second := at.Clock()
	ok := second == 0 || unit == CalendarSecond
	if unit >= CalendarHour {
		ok = ok && minute == 0
	}
	if unit >= CalendarDay {
		ok = ok && at.Hour() == 0
	}
	if unit == CalendarWeek {
		ok = ok && at.Weekday() == time.Monday
	}
	if unit == CalendarMonth {
		ok = ok && at.Day() == 1
	}
	if !ok {
		t.Errorf("%v: a %v starts at %v (near the change at %d)", loc, unit, at, around)
	}
}

// TestCalendarOddities pins windows that cannot be had by rounding.
func TestCalendarOddities(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, zone     string
		unit           Calendar
		at, start, end string
	}{
		{"the day before the one that Samoa left out", "Pacific/Apia", CalendarDay, "2011-12-30T09:59:59Z", "2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z"},
		{"the day after it", "Pacific/Apia", CalendarDay, "2011-12-30T10:00:00Z", "2011-12-30T10:00:00Z", "2011-12-31T10:00:00Z"},
		{"its month", "Pacific/Apia", CalendarMonth, "2011-12-30T12:00:00Z", "2011-12-01T10:00:00Z", "2011-12-31T10:00:00Z"},
		{"no midnight in Brazil", "America/Sao_Paulo", CalendarDay, "2018-11-04T12:00:00Z", "2018-11-04T03:00:00Z", "2018-11-05T02:00:00Z"},
		{"back over midnight in Newfoundland", "America/St_Johns", CalendarDay, "2006-10-29T02:40:00Z", "2006-10-29T02:30:00Z", "2006-10-30T03:30:00Z"},
		{"a date that Kwajalein had twice", "Pacific/Kwajalein", CalendarDay, "1969-10-01T00:00:00Z", "1969-09-29T13:00:00Z", "1969-10-01T12:00:00Z"},
		{"before the first clock", "Europe/Paris", CalendarHour, "1800-01-01T00:00:00Z", "1799-12-31T23:50:39Z", "1800-01-01T00:50:39Z"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			loc, err := time.LoadLocation(tt.zone)
			if err != nil {
				t.Fatal(err)
			}
			parse := func(s string) int64 {
				at, err := time.Parse(time.RFC3339, s)
				if err != nil {
					t.Fatal(err)
				}
				return at.Unix()
			}
			start, end := calendarWindow(tt.unit, loc, parse(tt.at))
			if start != parse(tt.start) || end != parse(tt.end) {
				t.Errorf("window [%v, %v), want [%s, %s)", time.Unix(start, 0).UTC(), time.Unix(end, 0).UTC(), tt.start, tt.end)
			}
		})
	}
}

// FuzzCalendar asks for windows at any instant of any zone.
func FuzzCalendar(f *testing.F) {
	f.Add("Pacific/Apia", int64(1_325_239_200), uint8(4))
	f.Add("Australia/Lord_Howe", int64(1_775_314_800), uint8(3))
	f.Add("America/St_Johns", int64(1_162_090_860), uint8(4))
	f.Fuzz(func(t *testing.T, zone string, sec int64, unit uint8) {
		loc, err := time.LoadLocation(zone)
		c := Calendar(unit)
		if err != nil || c < CalendarSecond || c > CalendarMonth || sec < -1<<35 || sec > 1<<35 {
			return // not a zone, unit or instant
		}
		checkTiling(t, loc, c, sec)
	})
}
