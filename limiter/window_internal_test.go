package limiter

import (
	"encoding/binary"
	"testing"
	"time"
)

type logged struct {
	at    int64
	units Units
}

// FuzzWindow compares the window with a plain log of what was admitted: never
// more than Count in any span, never a denial that a window longer by a
// sixteenth would not justify, and waits that are exact.
func FuzzWindow(f *testing.F) {
	f.Add(int64(5), int64(time.Minute), []byte{0, 0, 0, 1, 9, 9, 0, 3, 200, 0, 0, 1})
	f.Add(int64(100), int64(time.Second), []byte{255, 255, 0, 1, 0, 16, 0, 60, 0, 255, 0, 90, 1, 0, 0, 99})
	f.Add(int64(1), int64(time.Second+1), []byte{0, 1, 0, 0, 0, 1, 1, 0, 240, 0, 0, 0})
	f.Fuzz(func(t *testing.T, count, period int64, script []byte) {
		l := &Limit{Name: "fuzz", Kind: KindWindow, Count: count, Period: time.Duration(period)}
		if l.Validate() != nil || len(script) > 400 {
			return // not a valid limit
		}
		var state *windowState
		var log []logged
		span, width, now := ticksCeil(l.Period), partWidth(l), int64(0)
		for ; len(script) >= 4; script = script[4:] {
			now += int64(binary.BigEndian.Uint16(script)) * span / 30_000
			cost := min(Units(binary.BigEndian.Uint16(script[2:]))*Unit/10+1, l.capacity())
			var scratch windowState
			view := state.view(l, now, &scratch)
			wait, fits := view.judge(l, now, 0, cost)
			within := func(span, at int64) Units {
				var sum Units
				for _, e := range log {
					if at-e.at < span {
						sum += e.units
					}
				}
				return sum
			}
			if fits != (cost <= l.capacity()-view.spent(now)) || (fits && within(span, now)+cost > l.capacity()) {
				t.Fatalf("admitted %d on top of %d within the window, limit %d", cost, within(span, now), l.capacity())
			}
			if !fits && within(17*width, now)+cost <= l.capacity() {
				t.Fatalf("denied %d on top of %d within a window and a sixteenth", cost, within(17*width, now))
			}
			if !fits {
				if _, early := view.judge(l, now+wait-1, 0, cost); early {
					t.Fatalf("fits a tick before its wait of %d", wait)
				}
				if _, late := view.judge(l, now+wait, 0, cost); !late {
					t.Fatalf("does not fit after its wait of %d", wait)
				}
				continue
			}
			var mark [2]int64
			state, mark = state.charge(l, now, cost)
			if script[3]%5 == 0 {
				state.refund(now, cost, mark)
				continue
			}
			log = append(log, logged{at: now, units: cost})
		}
	})
}

// TestWindowWidthChange: what was charged with one width counts in another,
// until both have forgotten it.
func TestWindowWidthChange(t *testing.T) {
	t.Parallel()
	hour := &Limit{Name: "w", Kind: KindWindow, Count: 10, Period: time.Hour}
	minute := &Limit{Name: "w", Kind: KindWindow, Count: 10, Period: time.Minute}
	var state *windowState
	spent := func(l *Limit, now int64) Units {
		var scratch windowState
		return state.view(l, now, &scratch).spent(now)
	}
	now := int64(1000 * ticksPerSecond)
	state, _ = state.charge(hour, now, 4*Unit)
	if got := spent(minute, now); got != 4*Unit {
		t.Fatalf("the minute sees %d of the hour's 4 units", got)
	}
	var mark [2]int64
	state, mark = state.charge(minute, now, 3*Unit)
	if got := spent(hour, now); got != 7*Unit {
		t.Fatalf("the hour sees %d, want 7 units", got)
	}
	state.refund(now, 3*Unit, mark)
	if a, b := spent(hour, now), spent(minute, now); a != 4*Unit || b != 4*Unit {
		t.Fatalf("after the refund the hour sees %d and the minute %d, want 4 units each", a, b)
	}
	now += 10 * 60 * ticksPerSecond
	if a, b := spent(hour, now), spent(minute, now); a != 4*Unit || b != 0 {
		t.Fatalf("ten minutes later the hour sees %d and the minute %d, want 4 and none", a, b)
	}
	if wait := state.idleIn(now); wait <= 0 {
		t.Fatalf("idle in %d while the hour still counts", wait)
	}
}
