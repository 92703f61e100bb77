package redislimiter

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/internal/testkit"
	"github.com/kelpie-authz/kelpie/limiter"
)

// hands is a clock that a test sets, of a store and of those who ask it.
type hands struct{ at time.Duration }

func (h *hands) now() time.Time { return time.Unix(1_800_000_000, 0).Add(h.at) }

// inVirtualTime is a replica whose clock, and that of Redis, is h. Whatever it
// asks for is there at once.
func inVirtualTime(tb testing.TB, url, prefix string, h *hands, leases bool) *Limiter {
	tb.Helper()
	l, err := New(tb.Context(), Config{
		Options: Options{URL: url, Timeout: 10 * time.Second}, Prefix: prefix, Clock: h.now, NoDenyCache: true, NoLeases: !leases,
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := l.Close(); err != nil {
			tb.Error(err)
		}
	})
	if leases {
		l.leaser.leases.now = func() int64 { return int64(h.at) }
		l.leaser.leases.ask = l.leaser.fetch
		l.leaser.leases.yield = l.leaser.giveUp
	}
	return l
}

func virtualTake(tb testing.TB, l *Limiter, charges ...limiter.Charge) *limiter.Result {
	tb.Helper()
	calls := []limiter.Call{{Charges: charges}}
	if _, err := l.Take(tb.Context(), calls, limiter.StopNever); err != nil {
		tb.Fatal(err)
	}
	return &calls[0].Result
}

func leasedRate() *limiter.Limit {
	return &limiter.Limit{Name: "rate", Kind: limiter.KindRate, Count: 1000, Burst: 300, Period: time.Second, Lease: 64 * time.Millisecond}
}

// warm makes a bucket one that is leased: by asking for it at half of its rate.
func warm(tb testing.TB, l *Limiter, h *hands, c limiter.Charge) {
	tb.Helper()
	before := l.Stats().Leases
	for range 200 {
		h.at += 2 * time.Millisecond
		if !virtualTake(tb, l, c).Admitted {
			tb.Fatal("denied below the rate")
		}
	}
	if l.Stats().Leases == before {
		tb.Fatal("nothing was taken ahead")
	}
}

// The worst that a replica can do with what it took ahead is to spend it in the
// last moment, when another one takes all that there is. In no span is that more
// than burst and rate.
func TestLeasesInTheWorstCase(t *testing.T) {
	t.Parallel()
	url := testkit.StartRedis(t, testkit.RedisConfig{}).URL()
	rng := rand.New(rand.NewPCG(7, 7))
	limit := leasedRate()
	c := limiter.Charge{Limit: limit, Key: []byte("k"), Cost: limiter.Unit}
	h := &hands{}
	a, b := inVirtualTime(t, url, "worst", h, true), inVirtualTime(t, url, "worst", h, false)
	warm(t, a, h, c)
	// What was admitted, as an account: rate pays it back, and its highest state is
	// what the fullest window holds above rate*t.
	owed, most, last := 0.0, 0.0, h.at
	admit := func(l *Limiter) bool {
		if !virtualTake(t, l, c).Admitted {
			return false
		}
		owed = max(0, owed-(h.at-last).Seconds()*float64(limit.Count)) + 1
		most, last = max(most, owed), h.at
		return true
	}
	life := limit.Lease - limit.Lease/leaseMargin
	for range 60 {
		for range 20 + rng.IntN(100) { // calm
			h.at += time.Duration(rng.Int64N(int64(3 * time.Millisecond)))
			admit(a)
		}
		h.at += time.Duration(rng.Int64N(int64(life + life/8)))
		if rng.IntN(4) == 0 {
			h.at += time.Duration(rng.Int64N(int64(6 * life)))
		}
		first, second := a, b
		if rng.IntN(2) == 0 {
			first, second = b, a
		}
		for more := true; more; {
			more = admit(first) || admit(second)
		}
	}
	s := a.Stats()
	t.Logf("the fullest window holds rate*t + %.2f of burst %d; %d calls paid from %d units taken ahead, %d not spent in time", most, limit.Burst, s.Leased, s.LeasedUnits, s.Stranded/int64(limiter.Unit))
	if most > float64(limit.Burst)+1e-6 {
		t.Errorf("some window holds %.3f above rate*t, and the burst is %d", most, limit.Burst)
	}
	if most < 0.8*float64(limit.Burst) || s.Leased < 1000 {
		t.Errorf("the fullest window holds %.1f and %d calls were paid from leases: that is no test", most, s.Leased)
	}
}

// A unit is spent until the end of its lease, and not a moment longer, also by a
// process that stood still after it had looked at the clock.
func TestLeaseEnds(t *testing.T) {
	t.Parallel()
	limit := leasedRate()
	call := limiter.Call{Charges: []limiter.Charge{{Limit: limit, Key: []byte("k"), Cost: limiter.Unit}}}
	call.Result.Limits = make([]limiter.State, 1)
	var now int64
	var reads []int64 // what the clock shows next, if anything
	st := &stats{}
	leases := &leases{stats: st, ticks: func() int64 { return 0 }, now: func() int64 {
		if len(reads) > 0 {
			now, reads = reads[0], reads[1:]
		}
		return now
	}}
	var by [limiter.MaxCharges]spending
	take := func(units int) *lease {
		e := leases.find(&call.Charges[0])
		body := appendNumbers(nil, 10, 16000, 0, 0, 0)
		leases.got(&grant{question: question{lease: e, limit: limit}, sent: now, units: units, told: &charged{body: body}, mark: [2]int64{now + 1, 1}, ends: limiter.MaxLease})
		return e
	}
	life := int64(limit.Lease - limit.Lease/leaseMargin)
	take(2)
	now = life - 1
	if leases.spend(&call, &by) != 1 {
		t.Error("not paid in the last moment")
	}
	reads = []int64{life - 1, life}
	if leases.spend(&call, &by) != 0 {
		t.Error("paid by a process that stood still until the lease had ended")
	}
	if got := st.stranded.Load(); got != int64(limiter.Unit) {
		t.Errorf("%d millionths stranded, want one unit", got)
	}
	now = 2 * life
	e := take(3)
	now = 3 * life
	if leases.spend(&call, &by) != 0 || e.left(now) != 0 {
		t.Error("paid after the end")
	}
	if got := st.stranded.Load(); got != 4*int64(limiter.Unit) {
		t.Errorf("%d millionths stranded, want four units", got)
	}
}

// What a denied call was paid with comes back, and what comes newly does not
// lengthen the life of what there was.
func TestLeasesAreKeptApart(t *testing.T) {
	t.Parallel()
	limit := leasedRate()
	call := limiter.Call{Charges: []limiter.Charge{{Limit: limit, Key: []byte("k"), Cost: limiter.Unit}}}
	call.Result.Limits = make([]limiter.State, 1)
	var now int64
	st := &stats{}
	leases := &leases{stats: st, ticks: func() int64 { return 0 }, now: func() int64 { return now }}
	var by [limiter.MaxCharges]spending
	e := leases.find(&call.Charges[0])
	give := func(n int) {
		body := appendNumbers(nil, 10, 16000, 0, 0, 0)
		leases.got(&grant{question: question{lease: e, limit: limit}, sent: now, units: n, told: &charged{body: body}, mark: [2]int64{now + 1, 1}, ends: limiter.MaxLease})
	}
	life := int64(limit.Lease - limit.Lease/leaseMargin)
	give(5)
	now = life / 2
	give(7)
	paid := leases.spend(&call, &by)
	if paid != 1 || e.credits[0].left != 4*limiter.Unit {
		t.Fatalf("paid %b and %d left of the older, want it paid from that", paid, e.credits[0].left)
	}
	now = life + 1
	leases.giveBack(&call, &by, paid)
	if leases.spend(&call, &by) != 1 || e.credits[1].left != 6*limiter.Unit || e.credits[0].left != 0 {
		t.Errorf("credits %+v, want what came first to be void and one of the other spent", e.credits)
	}
	if got := st.stranded.Load(); got != 5*int64(limiter.Unit) {
		t.Errorf("%d millionths stranded, want five units", got)
	}
	give(1)
	now++
	give(1) // there is no room for a third
	if got := e.left(now); got != 2*limiter.Unit {
		t.Errorf("%d left, want the last two", got)
	}
	changed := *limit
	changed.Burst++
	call.Charges[0].Limit = &changed
	if leases.spend(&call, &by) != 0 {
		t.Error("paid from the lease of another limit")
	}
}

// A lease that comes when it has ended is none, and is not asked for again soon.
func TestLeaseThatComesTooLate(t *testing.T) {
	t.Parallel()
	for _, kind := range []limiter.Kind{limiter.KindRate, limiter.KindQuota} {
		limit := leasedRate()
		if kind == limiter.KindQuota {
			limit = &limiter.Limit{Name: "quota", Kind: kind, Count: 5000, Calendar: limiter.CalendarDay, Lease: 64 * time.Millisecond}
		}
		call := limiter.Call{Charges: []limiter.Charge{{Limit: limit, Key: []byte("k"), Cost: limiter.Unit}}}
		call.Result.Limits = make([]limiter.State, 1)
		var now int64
		asked, given := 0, limiter.Units(0)
		st := &stats{}
		leases := &leases{
			stats: st, ticks: func() int64 { return 0 }, now: func() int64 { return now },
			ask: func(question) { asked++ }, yield: func(taken limiter.Taken) { given += taken.Cost },
		}
		for range 200 {
			leases.note(&call)
			now += int64(time.Millisecond)
		}
		e, sent := leases.find(&call.Charges[0]), now
		now += int64(limit.Lease)
		leases.got(&grant{question: question{lease: e, limit: limit}, sent: sent, units: 7, told: &charged{}, mark: [2]int64{1, 1}, ends: limiter.MaxLease})
		var by [limiter.MaxCharges]spending
		if leases.spend(&call, &by) != 0 {
			t.Errorf("%v: paid from a lease that had ended", kind)
		}
		if back := given + limiter.Units(st.stranded.Load()); back != 7*limiter.Unit || (given > 0) != (kind == limiter.KindQuota) {
			t.Errorf("%v: %d given back and %d stranded, want 7 units", kind, given, st.stranded.Load())
		}
		before := asked
		for range 1000 {
			leases.note(&call)
			now += int64(time.Millisecond)
		}
		if asked != before {
			t.Errorf("%v: asked again within %d leases", kind, tooLate)
		}
		now += int64(limit.Lease) * tooLate
		for range 200 {
			leases.note(&call)
			now += int64(time.Millisecond)
		}
		if asked == before {
			t.Errorf("%v: never asked again", kind)
		}
	}
}

// Units are taken ahead of buckets that are in demand, as many as half a lease
// needs, and no longer than that.
func TestWhatIsLeased(t *testing.T) {
	t.Parallel()
	limit := leasedRate()
	for _, tt := range []struct {
		perSecond int
		want      uint16
	}{{10, 0}, {30, 0}, {45, 2}, {1000, 32}, {100_000, 3200}} {
		var now int64
		var asked []uint16
		leases := &leases{stats: &stats{}, ticks: func() int64 { return 0 }, now: func() int64 { return now }, ask: func(q question) { asked = append(asked, q.want) }}
		call := limiter.Call{Charges: []limiter.Charge{{Limit: limit, Key: []byte("k"), Cost: limiter.Unit}}}
		for now < int64(900*time.Millisecond) {
			leases.note(&call)
			now += int64(time.Second) / int64(tt.perSecond)
		}
		switch {
		case tt.want == 0 && len(asked) > 0:
			t.Errorf("%d calls/s: asked for %d, want not asked", tt.perSecond, asked)
		case tt.want > 0 && (len(asked) != 1 || asked[0] != tt.want):
			t.Errorf("%d calls/s: asked for %d, want once for %d while there is no answer", tt.perSecond, asked, tt.want)
		}
	}
}

// A call of several limits is taken all or nothing, whatever is paid how.
func TestLeasedAndOthers(t *testing.T) {
	t.Parallel()
	url := testkit.StartRedis(t, testkit.RedisConfig{}).URL()
	h := &hands{}
	a := inVirtualTime(t, url, "others", h, true)
	b := inVirtualTime(t, url, "others", h, false)
	rate := limiter.Charge{Limit: leasedRate(), Key: []byte("k"), Cost: limiter.Unit}
	quota := limiter.Charge{Limit: &limiter.Limit{Name: "quota", Kind: limiter.KindQuota, Count: 2, Calendar: limiter.CalendarMonth}, Key: []byte("q"), Cost: limiter.Unit}
	warm(t, a, h, rate)
	left := func() limiter.Units { return a.leaser.leases.young["k"].left(int64(h.at)) }
	for i := range 4 {
		for left() < limiter.Unit {
			h.at += 2 * time.Millisecond
			virtualTake(t, a, rate)
		}
		before, paid := left(), a.Stats().Leased
		res := virtualTake(t, a, quota, rate)
		if want := i < 2; res.Admitted != want || len(res.Limits) != 2 || res.Limits[0].Lacked == want || res.Limits[1].Lacked {
			t.Fatalf("call %d: %+v, want admitted %v and only the quota short", i, res, want)
		}
		switch {
		case i < 2 && (a.Stats().Leased != paid+1 || len(res.Receipt.Taken) != 2):
			t.Errorf("call %d: %d charges paid, receipt %+v, want the rate paid from the lease", i, a.Stats().Leased-paid, res.Receipt.Taken)
		case i >= 2 && (left() != before || !res.Receipt.Empty()):
			t.Errorf("call %d: %d left of %d, receipt %+v, want nothing spent", i, left(), before, res.Receipt.Taken)
		default:
		}
	}
	// A refund of a leased charge goes to the bucket, where others have it.
	for left() < limiter.Unit {
		h.at += 2 * time.Millisecond
		virtualTake(t, a, rate)
	}
	receipt := virtualTake(t, a, rate).Receipt.Clone()
	before := virtualPeek(t, b, rate)
	if err := a.Refund(t.Context(), &receipt); err != nil {
		t.Fatal(err)
	}
	if after := virtualPeek(t, b, rate); after < before || after > before+limiter.Unit {
		t.Errorf("%d left after a refund, and %d before", after, before)
	}
}

func virtualPeek(tb testing.TB, l *Limiter, c limiter.Charge) limiter.Units {
	tb.Helper()
	calls := []limiter.Call{{Charges: []limiter.Charge{c}}}
	if err := l.Peek(tb.Context(), calls); err != nil {
		tb.Fatal(err)
	}
	return calls[0].Result.Limits[0].Remaining
}

// Units of a quota are void when its calendar unit ends, however young they are,
// and what is not spent of them goes back.
func TestLeasedQuota(t *testing.T) {
	t.Parallel()
	url := testkit.StartRedis(t, testkit.RedisConfig{}).URL()
	h := &hands{}
	a, b := inVirtualTime(t, url, "quota", h, true), inVirtualTime(t, url, "quota", h, false)
	limit := &limiter.Limit{Name: "quota", Kind: limiter.KindQuota, Count: 5000, Calendar: limiter.CalendarMinute, Lease: time.Second}
	c := limiter.Charge{Limit: limit, Key: []byte("k"), Cost: limiter.Unit}
	minute := time.Minute - time.Duration(h.now().Second())*time.Second
	h.at = minute - 3*time.Second
	warm(t, a, h, c)
	h.at = minute - 300*time.Millisecond
	a.leaser.leases.young["k"].credits = [2]credit{} // so that it is asked again at once
	for a.leaser.leases.young["k"].left(int64(h.at)) < 10*limiter.Unit {
		h.at += time.Millisecond
		virtualTake(t, a, c)
	}
	e := a.leaser.leases.young["k"]
	for i := range e.credits {
		if k := &e.credits[i]; k.left > 0 && k.until > int64(minute) {
			t.Errorf("units can be spent until %v, and the minute ends at %v", time.Duration(k.until), minute)
		}
	}
	before := a.Stats()
	h.at = minute
	if res := virtualTake(t, a, c); !res.Admitted || a.Stats().Leased != before.Leased {
		t.Errorf("admitted %v, %d charges paid from the last minute's units, want none", res.Admitted, a.Stats().Leased-before.Leased)
	}
	ahead := limiter.Units(a.Stats().LeasedUnits-before.LeasedUnits) * limiter.Unit
	if got := virtualPeek(t, b, c); got != 4999*limiter.Unit-ahead {
		t.Errorf("%d left of the new minute, want all but one unit and %d taken ahead", got, ahead)
	}
	// What is left when the replica ends goes back: all but one call and two hundred.
	h.at += time.Second
	warm(t, a, h, c)
	if got := virtualPeek(t, b, c); got >= 4799*limiter.Unit {
		t.Fatalf("%d left, and nothing is taken ahead", got)
	}
	a.leaser.close()
	if got := virtualPeek(t, b, c); got != 4799*limiter.Unit {
		t.Errorf("%d left after the end, want 4799 units", got)
	}
}
