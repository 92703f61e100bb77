package notify_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kelpie-authz/kelpie/notify"
	"github.com/kelpie-authz/kelpie/notify/sqliteoutbox"
)

// channel answers as a test says, and remembers what it was given.
type channel struct {
	name  string
	types []notify.Type

	mu     sync.Mutex
	answer func(d *notify.Delivery) (string, error)
	got    []string // "approval type receipt"
	at     []time.Time
}

func (c *channel) Name() string { return c.name }

func (c *channel) Wants(t notify.Type) bool { return len(c.types) == 0 || slices.Contains(c.types, t) }

func (c *channel) Deliver(_ context.Context, d *notify.Delivery) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.got = append(c.got, d.Event.Approval.ID+" "+strings.TrimPrefix(string(d.Event.Type), "approval.")+" "+d.Receipt)
	c.at = append(c.at, time.Now())
	if c.answer == nil {
		return "", nil
	}
	return c.answer(d)
}

func (c *channel) say(f func(d *notify.Delivery) (string, error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answer = f
}

func (c *channel) tries() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.got)
}

func (c *channel) times() []time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.at)
}

func event(approval string, t notify.Type) *notify.Event {
	return &notify.Event{
		ID: approval + "_" + strings.TrimPrefix(string(t), "approval.") + "_1", Type: t, Time: time.Now(),
		Approval: notify.About{ID: approval, Agent: "a", Action: "delete", Resource: "r"},
	}
}

func timer(d time.Duration) (fires <-chan time.Time, stop func() bool) {
	t := time.NewTimer(d)
	return t.C, t.Stop
}

// bench is a dispatcher over an outbox of its own in a bubble of synctest.
type bench struct {
	*notify.Dispatcher
	box *sqliteoutbox.Outbox
	log *bytes.Buffer
}

func begin(t *testing.T, channels ...notify.Channel) *bench {
	t.Helper()
	return beginOver(t, func(o notify.Outbox) notify.Outbox { return o }, channels...)
}

func beginOver(t *testing.T, over func(notify.Outbox) notify.Outbox, channels ...notify.Channel) *bench {
	t.Helper()
	box, err := sqliteoutbox.Open(t.Context(), sqliteoutbox.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{box: box, log: &bytes.Buffer{}}
	b.Dispatcher, err = notify.NewDispatcher(notify.Config{
		Outbox: over(box), Channels: channels, Log: slog.New(slog.NewTextHandler(b.log, nil)), Timer: timer, Jitter: func() float64 { return 0.5 },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { b.Run(ctx); close(done) }()
	t.Cleanup(func() {
		cancel()
		<-done
		if err := box.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func (b *bench) put(t *testing.T, events ...*notify.Event) {
	t.Helper()
	for _, e := range events {
		if err := b.Enqueue(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
}

func (b *bench) of(t *testing.T, name string) notify.Stats {
	t.Helper()
	all, err := b.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if s.Channel == name {
			return s
		}
	}
	t.Fatalf("there is no channel %s", name)
	return notify.Stats{}
}

// pass lets time go by, and waits for what is to happen in it. Files are written
// outside of the bubble's sight, so it goes in steps.
func pass(span time.Duration) {
	for range 20 {
		time.Sleep(span / 20) //nolint:forbidigo // The clock of a bubble.
		synctest.Wait()
	}
}

// Events of one approval come one after the other, each with the receipt of the
// one before, and an approval does not wait for another.
func TestInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &channel{name: "c", types: []notify.Type{notify.Requested, notify.Approved}}
		fail := true
		c.say(func(d *notify.Delivery) (string, error) {
			if fail && d.Event.Approval.ID == "apr_1" {
				return "", errors.New("down")
			}
			return "got " + string(d.Event.Type), nil
		})
		b := begin(t, c)
		b.put(t, event("apr_1", notify.Requested), event("apr_1", notify.Approved), event("apr_1", notify.Consumed), event("apr_2", notify.Requested))
		b.put(t, event("apr_2", notify.Requested)) // Told twice, kept once.
		pass(500 * time.Millisecond)
		if got := c.tries(); !slices.Equal(got, []string{"apr_1 requested ", "apr_2 requested "}) {
			t.Errorf("at first %q", got)
		}
		c.say(func(d *notify.Delivery) (string, error) { return "got " + string(d.Event.Type), nil })
		pass(2 * time.Second)
		want := []string{"apr_1 requested ", "apr_2 requested ", "apr_1 requested ", "apr_1 approved got approval.requested"}
		if got := c.tries(); !slices.Equal(got, want) {
			t.Errorf("then %q", got)
		}
		if s := b.of(t, "c"); s.Delivered != 3 || s.Failed != 1 || s.Pending != 0 || s.Dropped != 0 || !s.FailingSince.IsZero() {
			t.Errorf("%+v", s)
		}
	})
}

// shut keeps nothing while it is shut.
type shut struct {
	notify.Outbox

	is atomic.Bool
}

func (s *shut) Enqueue(ctx context.Context, e *notify.Event, channels []string, now time.Time) error {
	if s.is.Load() {
		return errors.New("the disk is full")
	}
	return s.Outbox.Enqueue(ctx, e, channels, now)
}

// What could not be kept is kept once that works, in its order, and told then.
func TestKeptLate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &channel{name: "c"}
		var box shut
		b := beginOver(t, func(o notify.Outbox) notify.Outbox { box.Outbox = o; return &box }, c)
		box.is.Store(true)
		for _, kind := range []notify.Type{notify.Requested, notify.Approved} {
			if err := b.Enqueue(t.Context(), event("apr_1", kind)); err == nil {
				t.Error("it was kept")
			}
		}
		pass(30 * time.Second)
		if n := len(c.tries()); n != 0 {
			t.Errorf("%d told", n)
		}
		box.is.Store(false)
		pass(10 * time.Second)
		if got := c.tries(); !slices.Equal(got, []string{"apr_1 requested ", "apr_1 approved "}) {
			t.Errorf("told %q", got)
		}
		if s := b.of(t, "c"); s.Dropped != 0 || s.Delivered != 2 {
			t.Errorf("%+v", s)
		}
		box.is.Store(true)
		for i := range 1001 {
			_ = b.Enqueue(t.Context(), event(fmt.Sprint("apr_", i), notify.Requested))
		}
		if s := b.of(t, "c"); s.Dropped != 1 {
			t.Errorf("%d dropped of 1,001", s.Dropped)
		}
	})
}

// What is not taken is tried more and more seldom for a day, and then given up;
// with one event at a time no breaker is in the way but its own.
func TestGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &channel{name: "c"}
		c.say(func(*notify.Delivery) (string, error) { return "", errors.New("down") })
		b := begin(t, c)
		start := time.Now()
		b.put(t, event("apr_1", notify.Requested))
		pass(50 * time.Second)
		if faults := b.Faults(t.Context()); len(faults) != 0 {
			t.Errorf("after 50 seconds: %v", faults)
		}
		if s := b.of(t, "c"); s.Pending != 1 || s.Oldest != 50*time.Second {
			t.Errorf("after 50 seconds %d wait, the oldest for %v", s.Pending, s.Oldest)
		}
		pass(20 * time.Second)
		if faults := b.Faults(t.Context()); len(faults) != 1 || !strings.Contains(faults[0], "c has failed since") || !strings.Contains(faults[0], "1 wait for it: down") {
			t.Errorf("after 70 seconds: %v", faults)
		}
		if b.Unheard() != 1 || strings.Count(b.log.String(), "no channel has taken the question") != 1 {
			t.Errorf("%d alarms: %s", b.Unheard(), b.log)
		}
		for range 25 {
			pass(time.Hour)
		}
		at := c.times()
		if n := len(at); n < 30 || n > 45 {
			t.Errorf("%d tries in a day", n)
		}
		if last := at[len(at)-1].Sub(start); last < notify.GiveUpAfter || last > notify.GiveUpAfter+5*time.Minute {
			t.Errorf("the last try came after %v", last)
		}
		for i := 2; i < len(at); i++ {
			if gap := at[i].Sub(at[i-1]); gap > time.Hour+5*time.Minute {
				t.Errorf("%v between tries", gap)
			}
		}
		if s := b.of(t, "c"); s.Dropped != 1 || s.Pending != 0 || s.Oldest != 0 || b.Unheard() != 1 {
			t.Errorf("%+v, %d alarms", s, b.Unheard())
		}
		if !strings.Contains(b.log.String(), "a notification is given up") {
			t.Error("nothing is logged")
		}
	})
}

// A far end that is down is left alone however much waits for it, and all of it
// comes once it is back. Another channel does not notice.
func TestCircuitBreaker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, other := &channel{name: "c"}, &channel{name: "other"}
		c.say(func(*notify.Delivery) (string, error) { return "", errors.New("down") })
		b := begin(t, c, other)
		for i := range 100 {
			b.put(t, event(fmt.Sprintf("apr_%d", i), notify.Requested))
		}
		pass(25 * time.Second)
		if n := len(c.tries()); n != 5 {
			t.Errorf("%d tries before it is left alone", n)
		}
		if n := len(other.tries()); n != 100 {
			t.Errorf("the other channel got %d", n)
		}
		pass(10 * time.Minute)
		if n := len(c.tries()); n < 7 || n > 12 {
			t.Errorf("%d tries in ten minutes", n)
		}
		if b.Unheard() != 0 {
			t.Error("an alarm, though the other channel took them")
		}
		c.say(nil)
		pass(6 * time.Minute)
		if s := b.of(t, "c"); s.Delivered != 100 || s.Pending != 0 || len(b.Faults(t.Context())) != 0 {
			t.Errorf("after it: %+v", s)
		}
	})
}

// The far end can ask to be left alone, can refuse for good, and can be gone.
func TestRefusals(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		busy, never, gone, ill := &channel{name: "busy"}, &channel{name: "never"}, &channel{name: "gone"}, &channel{name: "ill"}
		busy.say(func(*notify.Delivery) (string, error) {
			return "", &notify.RefusedError{Why: "429", RetryAfter: 10 * time.Minute}
		})
		never.say(func(*notify.Delivery) (string, error) { return "", &notify.RefusedError{Why: "400", Final: true} })
		gone.say(func(*notify.Delivery) (string, error) { return "", &notify.RefusedError{Why: "410", Gone: true} })
		ill.say(func(*notify.Delivery) (string, error) { panic("a bug") })
		b := begin(t, busy, never, gone, ill)
		b.put(t, event("apr_1", notify.Requested))
		pass(9 * time.Minute)
		if n := len(busy.tries()); n != 1 {
			t.Errorf("the one that asked to wait was tried %d times", n)
		}
		busy.say(nil)
		ill.say(nil)
		pass(6 * time.Minute)
		if s := b.of(t, "busy"); s.Delivered != 1 {
			t.Errorf("then: %+v", s)
		}
		b.put(t, event("apr_2", notify.Requested))
		pass(time.Minute)
		if n := len(gone.tries()); n != 1 {
			t.Errorf("the one that is gone was tried %d times", n)
		}
		if s := b.of(t, "gone"); !s.Gone || s.Dropped != 1 || s.Pending != 0 || !strings.Contains(strings.Join(b.Faults(t.Context()), "\n"), "gone says that it is gone") {
			t.Errorf("gone: %+v", s)
		}
		if s := b.of(t, "ill"); s.Delivered != 2 || s.Failed == 0 {
			t.Errorf("one that panicked: %+v", s)
		}
		for range 3 {
			pass(time.Hour)
		}
		if s := b.of(t, "never"); s.Dropped != 2 || s.Failed != 20 {
			t.Errorf("one that refuses for good: %+v", s)
		}
	})
}

// brokenOutbox takes nothing.
type brokenOutbox struct{ notify.Outbox }

func (brokenOutbox) Enqueue(context.Context, *notify.Event, []string, time.Time) error {
	return notify.ErrFull
}

func TestWhatCannotBeKeptIsCounted(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	d, err := notify.NewDispatcher(notify.Config{
		Outbox: brokenOutbox{}, Channels: []notify.Channel{&channel{name: "c"}}, Log: slog.New(slog.NewTextHandler(&log, nil)), Timer: timer,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Enqueue(t.Context(), event("apr_1", notify.Requested)); !errors.Is(err, notify.ErrFull) || !strings.Contains(log.String(), "apr_1") {
		t.Errorf("%v, %s", err, &log)
	}
}

func TestDispatcherRefuses(t *testing.T) {
	t.Parallel()
	log := slog.New(slog.DiscardHandler)
	for name, cfg := range map[string]notify.Config{
		"no timer":     {Outbox: brokenOutbox{}, Log: log},
		"no outbox":    {Log: log, Timer: timer},
		"no log":       {Outbox: brokenOutbox{}, Timer: timer},
		"a name twice": {Outbox: brokenOutbox{}, Log: log, Timer: timer, Channels: []notify.Channel{&channel{name: "c"}, &channel{name: "c"}}},
	} {
		if _, err := notify.NewDispatcher(cfg); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}
