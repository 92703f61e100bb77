package limiter

import (
	"math/big"
	"testing"
	"time"
)

// bigIncrement is ceil(cost*t/Unit) in big integers.
func bigIncrement(t int64, cost Units) *big.Int {
	return bigCeilDiv(new(big.Int).Mul(big.NewInt(t), big.NewInt(int64(cost))), big.NewInt(int64(Unit)))
}

func bigCeilDiv(a, b *big.Int) *big.Int {
	q, r := new(big.Int).DivMod(a, b, new(big.Int))
	if r.Sign() > 0 {
		q.Add(q, big.NewInt(1))
	}
	return q
}

// reference is GCRA as in the books, in big integers, with exact spans.
type reference struct {
	tat *big.Int // nil: full
}

func (r *reference) take(l *Limit, now int64, cost Units) (admitted bool, wait *big.Int) {
	// 1 tick is 62.5 ns: T = ceil(ceil(period/62.5ns)/count).
	ticks := bigCeilDiv(new(big.Int).Mul(big.NewInt(int64(l.Period)), big.NewInt(2)), big.NewInt(125))
	t := bigCeilDiv(ticks, big.NewInt(l.Count))
	tau := new(big.Int).Mul(t, big.NewInt(l.Burst))
	tat := big.NewInt(now)
	if r.tat != nil && r.tat.Cmp(tat) > 0 {
		tat.Set(r.tat)
	}
	tat.Add(tat, bigIncrement(t.Int64(), cost))
	wait = new(big.Int).Sub(tat, tau)
	wait.Sub(wait, big.NewInt(now))
	if wait.Sign() > 0 {
		return false, wait
	}
	r.tat = tat
	return true, wait
}

// soundRate bends arbitrary numbers into a valid limit.
func soundRate(count, burst, period int64) (*Limit, bool) {
	l := &Limit{Name: "fuzz", Kind: KindRate, Count: count, Burst: burst, Period: time.Duration(period)}
	return l, l.Validate() == nil
}

// FuzzGCRA compares the arithmetic with big integers: every increment, every
// verdict and every wait of a run of charges is the same, what remains is
// exactly what can still be taken, and all numbers stay below 2^53.
func FuzzGCRA(f *testing.F) {
	f.Add(int64(60), int64(60), int64(time.Minute), int64(1_000_000), int64(0), uint64(1))
	f.Add(int64(1_000_000), int64(1_000_000_000), int64(time.Second), int64(3_100), int64(1<<40), uint64(7))
	f.Add(int64(1), int64(366), int64(24*time.Hour), int64(365_999_999), int64(1<<52), uint64(3))
	f.Add(int64(999_983), int64(1), int64(time.Second), int64(1), int64(-1), uint64(99))
	f.Fuzz(func(t *testing.T, count, burst, period, cost, start int64, seed uint64) {
		l, ok := soundRate(count, burst, period)
		if !ok || cost <= 0 || Units(cost) > l.capacity() || start < -(1<<52) || start > 1<<52 {
			return // not a valid limit, cost or instant
		}
		emit := emission(l)
		if got, want := increment(emit, Units(cost)), bigIncrement(emit, Units(cost)); want.Cmp(big.NewInt(got)) != 0 {
			t.Fatalf("increment(%d, %d) = %d, want %v", emit, cost, got, want)
		}
		ref, state := &reference{}, &rateState{tat: start, since: start - 1}
		now := start
		for i := range 50 {
			seed = seed*6364136223846793005 + 1442695040888963407
			c := Units(cost)
			if seed>>62 == 0 {
				c = 1 + Units(seed>>8)%l.capacity()
			}
			now += int64(seed>>20) % (emit * 3)
			wait, fits := state.judge(l, now, 0, c)
			left, full := state.observe(l, now)
			if (c <= left) != fits {
				t.Fatalf("step %d: %d remain, but cost %d fits is %v", i, left, c, fits)
			}
			admitted, refWait := ref.take(l, now, c)
			if fits != admitted {
				t.Fatalf("step %d: fits is %v, reference %v", i, fits, admitted)
			}
			if !fits {
				if refWait.Cmp(big.NewInt(wait)) != 0 {
					t.Fatalf("step %d: wait %d, reference %v", i, wait, refWait)
				}
				continue
			}
			state.charge(l, now, c)
			if ref.tat.Cmp(big.NewInt(state.tat)) != 0 {
				t.Fatalf("step %d: tat %d, reference %v", i, state.tat, ref.tat)
			}
			if state.tat-now > maxDebt || full-now > maxDebt || maxDebt >= 1<<53 {
				t.Fatalf("step %d: debt %d is above %d", i, state.tat-now, int64(maxDebt))
			}
		}
	})
}

// FuzzRescale: a debt keeps its units, rounded up by less than a millionth and
// a tick, and never becomes less.
func FuzzRescale(f *testing.F) {
	f.Add(int64(60), int64(60), int64(time.Minute), int64(1), int64(10), int64(24*time.Hour), int64(12345))
	f.Add(int64(1_000_000), int64(1_000_000_000), int64(time.Second), int64(1), int64(366), int64(24*time.Hour), int64(1<<33))
	f.Fuzz(func(t *testing.T, count, burst, period, count2, burst2, period2, debt int64) {
		from, ok := soundRate(count, burst, period)
		to, ok2 := soundRate(count2, burst2, period2)
		if !ok || !ok2 || debt <= 0 || debt > from.Burst*emission(from) {
			return // not valid limits or not a debt that one can have
		}
		a, b := emission(from), emission(to)
		got := rescale(debt, a, b)
		// debt*b/a in ticks of the new limit.
		exact := bigCeilDiv(new(big.Int).Mul(big.NewInt(debt), big.NewInt(b)), big.NewInt(a))
		if exact.Cmp(big.NewInt(maxDebt)) >= 0 {
			if got != maxDebt {
				t.Fatalf("rescale(%d, %d, %d) = %d, want the cap", debt, a, b, got)
			}
			return
		}
		if got < exact.Int64() && got != maxDebt {
			t.Fatalf("rescale(%d, %d, %d) = %d, less than the %v owed", debt, a, b, got, exact)
		}
		if most := exact.Int64() + b/int64(Unit) + 2; got > most {
			t.Fatalf("rescale(%d, %d, %d) = %d, above %d", debt, a, b, got, most)
		}
	})
}

func TestTicks(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		d           time.Duration
		floor, ceil int64
	}{
		{0, 0, 0},
		{1, 0, 1},
		{62, 0, 1},
		{63, 1, 2},
		{124, 1, 2},
		{125, 2, 2},
		{126, 2, 3},
		{time.Second, ticksPerSecond, ticksPerSecond},
		{time.Microsecond, 16, 16},
	} {
		if got := ticksFloor(tt.d); got != tt.floor {
			t.Errorf("ticksFloor(%d) = %d, want %d", tt.d, got, tt.floor)
		}
		if got := ticksCeil(tt.d); got != tt.ceil {
			t.Errorf("ticksCeil(%d) = %d, want %d", tt.d, got, tt.ceil)
		}
	}
	if got := ticksFloor(-1); got != -1 {
		t.Errorf("ticksFloor(-1) = %d, want -1", got)
	}
	for ticks := range int64(100) {
		if back := ticksFloor(span(ticks)); back != ticks {
			t.Errorf("ticksFloor(span(%d)) = %d", ticks, back)
		}
	}
	epoch := time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)
	if got := wallTicks(epoch); got != 0 {
		t.Errorf("wallTicks(epoch) = %d, want 0", got)
	}
	if got := wallTicks(time.Date(2043, time.November, 1, 0, 0, 0, 0, time.UTC)); got >= 1<<53 {
		t.Errorf("wallTicks in 2043 = %d, not below 2^53", got)
	}
}
