package limiter

import "time"

// A calendar window is a half-open span of instants in seconds since 1970. The
// windows of one unit in one zone tile time: without gap, without overlap,
// whatever the zone does with its clocks.

// calendarWindow returns the window that the instant sec lies in.
func calendarWindow(unit Calendar, loc *time.Location, sec int64) (int64, int64) {
	switch unit {
	case CalendarDay, CalendarWeek, CalendarMonth:
		return dateWindow(unit, loc, sec)
	case CalendarHour:
		return clockWindow(3600, loc, sec)
	case CalendarMinute:
		return clockWindow(60, loc, sec)
	case CalendarSecond:
		return sec, sec + 1
	default:
		return sec, sec + 1 // refused by Validate; the shortest window is a safe answer
	}
}

// zonePeriod is a span in which a zone's offset from UTC stays the same. It may
// end where nothing changes (Go reports such ends in 2038), and the one after
// it may claim to have begun before that: so a period is only asked about
// instants on the side it was looked up from.
type zonePeriod struct {
	offset     int64
	start, end int64 // the zone's first and last periods reach to the far past and future
}

const farAway = int64(1) << 60

func periodAt(loc *time.Location, sec int64) zonePeriod {
	t := time.Unix(sec, 0).In(loc)
	_, offset := t.Zone()
	start, end := t.ZoneBounds()
	p := zonePeriod{offset: int64(offset), start: -farAway, end: farAway}
	if !start.IsZero() {
		p.start = start.Unix()
	}
	if !end.IsZero() {
		p.end = end.Unix()
	}
	return p
}

// maxOffset is above every offset from UTC that a zone ever had (Manila was
// nearly 16 hours behind until 1844).
const maxOffset = 17 * 3600

// firstAtOrAfter returns the first instant at which the wall clock of loc shows
// wall (seconds since 1970 read as if in UTC) or later. It grows with wall
// even where the clock itself goes back, which is what makes windows tile.
func firstAtOrAfter(loc *time.Location, wall int64) int64 {
	sec := wall - maxOffset
	for {
		p := periodAt(loc, sec)
		at := max(sec, wall-p.offset)
		if at < p.end {
			return at
		}
		sec = p.end
	}
}

// dateWindow is the window of a unit made of days. A date starts at the first
// instant at which the zone's calendar shows it or a later one: at midnight,
// or when the clock jumps over midnight. A date that the zone left out has no
// window; an hour that returns to the date before belongs to the later date.
func dateWindow(unit Calendar, loc *time.Location, sec int64) (int64, int64) {
	year, month, day := time.Unix(sec, 0).In(loc).Date()
	switch unit { //nolint:exhaustive // A day starts where it is; shorter units are not made of days.
	case CalendarWeek:
		weekday := time.Date(year, month, day, 0, 0, 0, 0, time.UTC).Weekday()
		day -= (int(weekday) + 6) % 7
	case CalendarMonth:
		day = 1
	}
	start := firstAtOrAfter(loc, time.Date(year, month, day, 0, 0, 0, 0, time.UTC).Unix())
	for {
		switch unit {
		case CalendarWeek:
			day += 7
		case CalendarMonth:
			month++
		default:
			day++
		}
		end := firstAtOrAfter(loc, time.Date(year, month, day, 0, 0, 0, 0, time.UTC).Unix())
		if sec < end {
			return start, end
		}
		start = end
	}
}

// clockWindow is the window of an hour or minute. One starts wherever the wall
// clock shows a whole unit, and wherever a clock change moves it into another
// one. So an hour that is repeated is two windows; where the clock goes back
// by half an hour within one hour, that hour is one long window.
func clockWindow(unit int64, loc *time.Location, sec int64) (int64, int64) {
	p := periodAt(loc, sec)
	return clockStart(unit, loc, sec, p), clockEnd(unit, loc, sec, p)
}

func clockStart(unit int64, loc *time.Location, sec int64, p zonePeriod) int64 {
	for {
		start := floorDiv(sec+p.offset, unit)*unit - p.offset
		if start >= p.start {
			return start
		}
		before := periodAt(loc, p.start-1)
		if clockStartsAt(unit, p.start, before, p) {
			return p.start
		}
		sec, p = p.start-1, before
	}
}

func clockEnd(unit int64, loc *time.Location, sec int64, p zonePeriod) int64 {
	for {
		end := (floorDiv(sec+p.offset, unit)+1)*unit - p.offset
		if end < p.end {
			return end
		}
		after := periodAt(loc, p.end)
		if clockStartsAt(unit, p.end, p, after) {
			return p.end
		}
		sec, p = p.end, after
	}
}

// clockStartsAt reports whether a window starts at the instant sec, where the
// period before gives way to the period after.
func clockStartsAt(unit, sec int64, before, after zonePeriod) bool {
	wall := sec + after.offset
	return floorDiv(wall, unit)*unit == wall ||
		floorDiv(wall, unit) != floorDiv(sec-1+before.offset, unit)
}
