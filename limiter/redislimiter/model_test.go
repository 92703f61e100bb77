package redislimiter_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/limiter/limitertest"
	"github.com/kelpie-authz/kelpie/limiter/redislimiter"
)

// episode is what some hundred steps of the model check have in common: keys
// that nobody else uses, and limits for them.
type episode struct {
	kind  string
	homes int
	// changes says that a key is charged through several limits.
	changes bool
	// widths and calendars differ among the limits of one key. An idle one is
	// forgotten sooner or later, in memory after ten seconds and together with
	// all others of its key, so there is less than that time.
	widths bool
	// back says that the clock goes back too. In memory all buckets of a shard
	// have one latest instant, in Redis all of a home: there is one home.
	back bool
	most time.Duration // how far the clock goes in all; zero: anywhere
}

func episodes() []episode {
	return []episode{
		{kind: "plain", homes: 4},
		{kind: "limits change", homes: 4, changes: true},
		{kind: "widths and calendars change", homes: 3, changes: true, widths: true, most: 8 * time.Second},
		{kind: "the clock goes back", homes: 1, changes: true, back: true, most: 8 * time.Second},
	}
}

// model runs random steps on limiter.Memory and on Redis.
type model struct {
	*testing.T

	rng   *rand.Rand
	clock *limitertest.Clock
	// all are the limiters that are to be alike; the first is limiter.Memory.
	all []limiter.Limiter
	// cached denies from memory; it admits the same, but its states are older.
	cached limiter.Limiter

	episode

	id       int
	keys     []modelKey
	receipts [][]limiter.Receipt // by step, of each limiter and of cached
	passed   time.Duration
	last     []limiter.Call
	counts   map[string]int
}

type modelKey struct {
	key        []byte
	home, slot int
	limits     []*limiter.Limit
}

func (m *model) pick(n int) int { return m.rng.IntN(n) }

// chance is true n times of a hundred.
func (m *model) chance(n int) bool { return m.rng.IntN(100) < n }

// limit draws a limit of a kind. period and calendar are those of all limits of
// the key, unless they differ.
func (m *model) limit(kind limiter.Kind, period time.Duration, calendar limiter.Calendar) *limiter.Limit {
	spans := []time.Duration{time.Second, 2 * time.Second, 3_333_333_333, 10 * time.Second, time.Minute, time.Hour}
	if m.widths {
		period = spans[m.pick(len(spans))]
		calendar = []limiter.Calendar{limiter.CalendarMinute, limiter.CalendarHour, limiter.CalendarDay}[m.pick(3)]
	}
	l := &limiter.Limit{Name: "l", Kind: kind, Count: 1 + m.rng.Int64N(30)}
	switch kind {
	case limiter.KindRate:
		l.Burst, l.Period = 1+m.rng.Int64N(30), spans[m.pick(len(spans))]
		if m.chance(10) {
			l.Count, l.Period = 1, 24*time.Hour // so long an interval is divided digit by digit
		}
	case limiter.KindWindow:
		l.Period = period
	case limiter.KindQuota:
		l.Calendar = calendar
	default:
		l.Hold = spans[m.pick(len(spans))]
	}
	return l
}

// begin starts an episode.
func (m *model) begin(e episode) {
	m.episode, m.passed, m.receipts, m.keys, m.last = e, 0, nil, nil, nil
	m.id++
	// Ten seconds into a minute, so that an episode of eight seconds sees no end of one.
	m.clock = limitertest.NewClock(time.Date(2026, 6, 17, m.pick(24), m.pick(60), 10, 1000*m.pick(1e6), time.UTC))
	memory, err := limiter.NewMemory(limiter.MemoryConfig{Clock: m.clock.Now, Shards: 1})
	if err != nil {
		m.Fatal(err)
	}
	m.all[0] = memory
	kinds := []limiter.Kind{limiter.KindRate, limiter.KindRate, limiter.KindQuota, limiter.KindWindow, limiter.KindConcurrency, 0}
	if m.chance(50) {
		kinds = []limiter.Kind{limiter.KindRate, limiter.KindQuota} // which go the short way
	}
	for h := range e.homes {
		slot := fmt.Sprintf("%d/agent%d", m.id, h/2)
		home := fmt.Sprintf("%s/home%d", slot, h)
		for i, kind := range kinds {
			k := modelKey{key: fmt.Appendf(nil, "%s/limit%d", home, i), home: len(home), slot: len(slot)}
			if h == 3 && i == 0 {
				k.home, k.slot = 0, 0
			}
			period := []time.Duration{time.Second, 3_333_333_333, time.Minute}[m.pick(3)]
			calendar := limiter.Calendar(1 + m.pick(int(limiter.CalendarMonth)))
			n := 1
			if e.changes {
				n = 3
			}
			for range n {
				of := kind
				if of == 0 { // of any kind
					of = limiter.Kind(1 + m.pick(4))
				}
				k.limits = append(k.limits, m.limit(of, period, calendar))
			}
			m.keys = append(m.keys, k)
		}
	}
}

func (m *model) charge() limiter.Charge {
	k := m.keys[m.pick(len(m.keys))]
	l := k.limits[m.pick(len(k.limits))]
	c := limiter.Charge{Limit: l, Key: k.key, Home: k.home, Slot: k.slot, Cost: limiter.Unit}
	most := l.Count
	if l.Kind == limiter.KindRate {
		most = l.Burst
	}
	switch p := m.pick(100); {
	case p < 50:
		c.Cost *= limiter.Units(1 + m.rng.Int64N(max(1, most/4)))
	case p < 80:
		c.Cost = limiter.Units(1 + m.rng.Int64N(int64(c.Cost)*max(1, most/4)))
	case p < 95:
		c.Cost *= limiter.Units(1 + m.rng.Int64N(most))
	default:
		c.Cost *= limiter.Units(most + m.rng.Int64N(3))
		c.Cost++
	}
	c.Shadow = m.chance(8)
	return c
}

func (m *model) call() limiter.Call {
	var c limiter.Call
	for range 1 + m.pick(6)*m.pick(2) {
		charge := m.charge()
		if n := len(c.Charges); n > 0 && m.chance(10) {
			charge = c.Charges[m.pick(n)] // the same again
		}
		for i := range c.Charges {
			// Two rates of one bucket in one call are rounded for each other, so
			// that it can make a tick what was charged between them.
			o := &c.Charges[i]
			if slices.Equal(o.Key, charge.Key) && (o.Shadow || charge.Limit.Kind == limiter.KindConcurrency) {
				// Of two in shadow Redis tells how the bucket stands after both, and of
				// holds when those of this call end too.
				charge.Shadow = false
				o.Shadow = o.Shadow && charge.Limit.Kind != limiter.KindConcurrency && o.Limit.Kind != limiter.KindConcurrency
			}
			if o.Limit.Kind == limiter.KindRate && charge.Limit.Kind == limiter.KindRate && slices.Equal(o.Key, charge.Key) {
				charge.Limit = o.Limit
			}
		}
		c.Charges = append(c.Charges, charge)
	}
	if m.back {
		// In memory a call of which nothing fits, being all in shadow, is one that
		// the clock cannot go back behind. In Redis it writes nothing.
		c.Charges[0].Shadow = false
	}
	return c
}

func (m *model) calls(n int) []limiter.Call {
	calls := make([]limiter.Call, n)
	for i := range calls {
		calls[i] = m.call()
	}
	return calls
}

// move moves the clock.
func (m *model) move() {
	d := time.Duration(0)
	switch p := m.pick(10); {
	case p < 4:
	case p < 7:
		d = time.Duration(m.rng.Int64N(int64(200 * time.Millisecond)))
	case p < 9:
		d = time.Duration(m.rng.Int64N(int64(time.Second)))
	default:
		d = time.Duration(m.rng.Int64N(int64(2 * time.Minute)))
		if m.chance(3) {
			d *= 1000
		}
	}
	if m.back && m.chance(10) {
		m.clock.Advance(-(d % (2 * time.Second)).Truncate(time.Microsecond))
		return
	}
	if m.most > 0 {
		d %= max(1, m.most-m.passed)
	}
	d = d.Truncate(time.Microsecond) // a store's clock is no finer
	m.passed += d
	m.clock.Advance(d)
}

// step takes one random step everywhere and compares.
func (m *model) step() {
	m.move()
	switch p := m.pick(100); {
	case p < 70:
		// Now and then the same once more, which may be denied from memory.
		if m.last == nil || m.chance(75) {
			m.last = m.calls(1)
		}
		m.take(m.last, limiter.StopNever)
	case p < 78:
		m.take(m.calls(2+m.pick(4)), limiter.Stop(m.pick(3)))
	case p < 86:
		m.peek(m.calls(1 + m.pick(3)))
	case p < 95:
		m.giveBack()
	default:
		m.debit()
	}
}

// copies returns calls once more, without results.
func copies(calls []limiter.Call) []limiter.Call {
	again := make([]limiter.Call, len(calls))
	for i := range calls {
		again[i].Charges = slices.Clone(calls[i].Charges)
	}
	return again
}

// limiters are all, with cached where that is to admit the same.
func (m *model) limiters() []limiter.Limiter {
	if m.changes {
		return m.all
	}
	return append(slices.Clone(m.all), m.cached)
}

func (m *model) take(calls []limiter.Call, stop limiter.Stop) {
	m.Helper()
	m.counts["takes"] += len(calls)
	var want []limiter.Call
	var receipts []limiter.Receipt
	var judged int
	for i, l := range m.limiters() {
		got := copies(calls)
		n, err := l.Take(context.Background(), got, stop)
		if err != nil {
			m.Fatalf("limiter %d: %v", i, err)
		}
		var taken limiter.Receipt
		for j := range got {
			taken.Taken = append(taken.Taken, got[j].Result.Receipt.Clone().Taken...)
		}
		receipts = append(receipts, taken)
		if i == 0 {
			want, judged = got, n
			continue
		}
		if n != judged || len(taken.Taken) != len(receipts[0].Taken) {
			m.Fatalf("limiter %d judged %d calls of %+v and took %d; in memory %d and %d", i, n, calls, len(taken.Taken), judged, len(receipts[0].Taken))
		}
		m.compare(i, want, got)
	}
	for i := range want[:judged] {
		if !want[i].Result.Admitted {
			m.counts["denied"]++
		}
	}
	if !receipts[0].Empty() && len(m.receipts) < 50 {
		m.receipts = append(m.receipts, receipts)
	}
}

func (m *model) compare(i int, want, got []limiter.Call) {
	m.Helper()
	for j := range want {
		if i == len(m.all) {
			if want[j].Result.Admitted != got[j].Result.Admitted {
				m.Fatalf("call %d of %s, with denials remembered: %+v; in memory %+v", j, describe(want), got[j].Result, want[j].Result)
			}
			continue
		}
		if want[j].Result.Admitted != got[j].Result.Admitted || !slices.Equal(want[j].Result.Limits, got[j].Result.Limits) {
			m.Fatalf("%s, limiter %d, %v: call %d of %s: in memory and in Redis (-, +):\n%s", m.kind, i, m.clock.Now(), j, describe(want),
				cmp.Diff(want[j].Result.Limits, got[j].Result.Limits))
		}
	}
}

func describe(calls []limiter.Call) string {
	text := ""
	for _, c := range calls {
		text += "\n call"
		for _, ch := range c.Charges {
			text += fmt.Sprintf("\n  %s cost %d shadow %v of %+v", ch.Key, ch.Cost, ch.Shadow, *ch.Limit)
		}
	}
	return text
}

func (m *model) peek(calls []limiter.Call) {
	m.Helper()
	m.counts["peeks"] += len(calls)
	var want []limiter.Call
	for i, l := range m.all {
		got := copies(calls)
		if err := l.Peek(context.Background(), got); err != nil {
			m.Fatalf("limiter %d: %v", i, err)
		}
		if i == 0 {
			want = got
			continue
		}
		m.compare(i, want, got)
	}
}

// giveBack refunds the whole or a part of a receipt, of now or of long ago.
func (m *model) giveBack() {
	m.Helper()
	if len(m.receipts) == 0 {
		return
	}
	m.counts["refunds"]++
	which := m.pick(len(m.receipts))
	if m.chance(50) {
		which = len(m.receipts) - 1
	}
	receipts := m.receipts[which]
	m.receipts = slices.Delete(m.receipts, which, which+1)
	part, drop, share := m.chance(40), m.pick(len(receipts[0].Taken)), limiter.Units(1+m.pick(10))
	for i, l := range m.limiters() {
		r := &receipts[i]
		if part {
			r.Taken[drop].Cost = max(1, r.Taken[drop].Cost/share)
			r.Taken = r.Taken[drop:]
		}
		if err := eachReceipt(r.Taken, func(r *limiter.Receipt) error { return l.Refund(context.Background(), r) }); err != nil {
			m.Fatalf("limiter %d: %v", i, err)
		}
	}
	m.look(receipts[0].Taken)
}

// eachReceipt hands on as many entries at once as a receipt may have.
func eachReceipt(taken []limiter.Taken, f func(*limiter.Receipt) error) error {
	for some := range slices.Chunk(taken, limiter.MaxCharges) {
		if err := f(&limiter.Receipt{Taken: slices.Clone(some)}); err != nil {
			return err
		}
	}
	return nil
}

// look peeks at what a receipt is about.
func (m *model) look(taken []limiter.Taken) {
	m.Helper()
	var c limiter.Call
	for i := range taken[:min(len(taken), limiter.MaxCharges)] {
		t := &taken[i]
		c.Charges = append(c.Charges, limiter.Charge{Limit: t.Limit, Key: t.Key, Home: t.Home, Slot: t.Slot, Cost: t.Cost})
	}
	m.peek([]limiter.Call{c})
}

func (m *model) debit() {
	m.Helper()
	m.counts["debits"]++
	c := m.call()
	var taken []limiter.Taken
	for i := range c.Charges {
		ch := &c.Charges[i]
		if m.chance(3) {
			ch.Cost *= 1_000_000
		}
		taken = append(taken, limiter.Taken{Limit: ch.Limit, Key: ch.Key, Home: ch.Home, Slot: ch.Slot, Cost: ch.Cost})
	}
	for i, l := range m.limiters() {
		if err := l.Debit(context.Background(), &limiter.Receipt{Taken: slices.Clone(taken)}); err != nil {
			m.Fatalf("limiter %d: %v", i, err)
		}
	}
	m.look(taken)
}

// TestModel: the script, both ways of it, is the arithmetic of limiter.Memory to
// the tick.
func TestModel(t *testing.T) {
	t.Parallel()
	steps, each := 16_000, 400
	if full() {
		steps = 1_000_000
	}
	m := &model{T: t, rng: rand.New(rand.NewPCG(seed(t), 7)), counts: map[string]int{}, clock: limitertest.NewClock(time.Time{})}
	url := startRedis(t).URL()
	open := func(edit func(*redislimiter.Config)) *redislimiter.Limiter {
		cfg := at(url)
		cfg.Clock = func() time.Time { return m.clock.Now() }
		edit(&cfg)
		return started(t, cfg)
	}
	short := open(func(c *redislimiter.Config) { c.NoDenyCache = true })
	long := open(func(c *redislimiter.Config) { c.NoDenyCache = true; redislimiter.TheLongWay(c) })
	m.all = []limiter.Limiter{nil, short, long}
	cached := open(func(*redislimiter.Config) {})
	m.cached = cached
	ways, longWays := short.Watch(), long.Watch()
	for i := range steps {
		if i%each == 0 {
			m.begin(episodes()[i/each%len(episodes())])
		}
		m.step()
	}
	t.Logf("%d steps, %v: %d requests went the short way, %d the long way, %d of the other Limiter the long way; %d denials from memory",
		steps, m.counts, ways.Short.Load(), ways.Long.Load(), longWays.Long.Load(), cached.Stats().DenyHits)
	if n := int64(steps) / 10; ways.Short.Load() < n || ways.Long.Load() < n || longWays.Short.Load() != 0 {
		t.Errorf("short %d and %d, long %d: one of the ways was hardly looked at", ways.Short.Load(), longWays.Short.Load(), ways.Long.Load())
	}
}
