// Package redislimiter keeps limits in Redis, so that all replicas charge the
// same buckets. It is a driver of [limiter.Limiter]: its answers are those of
// the in-process driver, by the clock of Redis.
//
// Every decision is one run of one script over one value per home (see
// [limiter.Charge]): what is admitted is charged to all its limits, what is
// denied writes nothing. In a cluster, buckets on several nodes are charged one
// node after the other; see [Limiter.Take].
//
// It is not the place for what a call gets while Redis cannot be asked: it says
// [limiter.ErrUnavailable], soon, and pdp decides.
//
//	lim, err := redislimiter.New(ctx, redislimiter.Config{
//		Options: redislimiter.Options{URL: "redis://127.0.0.1:6379"},
//	})
//	...
//	defer lim.Close()
package redislimiter

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kelpie-authz/kelpie/limiter"
)

// Config configures [New]. The zero value of each field but Options is fit for
// use.
type Config struct {
	// Options say where Redis is.
	Options Options
	// Prefix is what every key begins with; deployments that share a Redis have
	// one each. Empty: "kelpie".
	Prefix string
	// MaxWaiting is how many commands may wait for a server at once; calls
	// beyond fail at once. Zero: 8192.
	MaxWaiting int
	// Observe is told of every exchange with a server: how long it took, and
	// what was wrong with it. It is called by many goroutines. Nil: not told.
	Observe func(took time.Duration, err error)
	// Tell is told when a server is given up, with the cause, and when it is
	// asked again, with nil. It is called by one goroutine at a time for each
	// server. Nil: not told.
	Tell func(cause error)
	// Refused is told of each answer that refuses a call: the user may not, the
	// memory is full, a value is not of this release. It is called by many
	// goroutines. Nil: not told.
	Refused func(cause error)
	// Warn is told what of the server's configuration will lose limits some day.
	// Nil: not told.
	Warn func(string)
	// Clock stands in for the clock of Redis, in tests: values then stay until
	// they are removed. Nil: Redis's own.
	Clock func() time.Time

	// Remember is of how many values this replica remembers what it was last
	// told, to put it back if Redis loses it. Zero: 65,536, of about 500 bytes.
	Remember int
	// NoCoalescing makes every call a command of its own.
	NoCoalescing bool
	// NoDenyCache makes every call ask Redis, those too that were just denied.
	NoDenyCache bool
	// NoLeases takes no units ahead, of limits with a Lease neither.
	NoLeases bool

	lanes int  // batches under way at once
	long  bool // in tests: every request goes the long way of the script
}

const (
	defaultPrefix   = "kelpie"
	defaultWaiting  = 8192
	defaultLanes    = 2
	defaultRemember = 1 << 16

	// maxCalls is how many calls one run judges: a run blocks the server, for some
	// milliseconds where calls have many limits.
	maxCalls = mostCalls
	// mostTurns bounds how often a request is made anew because the clock of
	// Redis is in another calendar unit than was thought.
	mostTurns = 4
)

var prefixForm = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,32}$`)

func (c *Config) complete() error {
	if c.Prefix == "" {
		c.Prefix = defaultPrefix
	}
	if !prefixForm.MatchString(c.Prefix) {
		return fmt.Errorf("redislimiter: the prefix %q is not 1 to 32 letters, digits, dots, underscores or dashes", c.Prefix)
	}
	if c.Options.Timeout == 0 {
		c.Options.Timeout = defaultTimeout
	}
	if c.MaxWaiting == 0 {
		c.MaxWaiting = defaultWaiting
	}
	if c.Remember == 0 {
		c.Remember = defaultRemember
	}
	if c.lanes == 0 {
		c.lanes = defaultLanes
	}
	return nil
}

// Limiter is the driver. Make it with [New]; it is safe for concurrent use.
type Limiter struct {
	cfg    Config
	prefix string
	client redis.UniversalClient
	stats  stats
	// only is the way to the one server, or nodes the ways to those of a cluster.
	only    *link
	nodes   *nodes
	floors  floors
	denials denials
	members *members
	leaser  *leaser // nil: no units are taken ahead
	// offset is how far the clock of Redis is ahead of ours, in ticks, as of the
	// last answer. It only says which calendar units to send.
	offset atomic.Int64
	works  sync.Pool // *parcel
	closed atomic.Bool
}

var _ limiter.Limiter = (*Limiter)(nil)

// New connects to Redis and checks that it can keep limits: the error says what
// is wrong and what to do. Warnings about its configuration are told to
// cfg.Warn. The caller closes the Limiter.
func New(ctx context.Context, cfg Config) (*Limiter, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	var known servers
	cfg.Options.greet = known.greet
	client, err := newClient(&cfg.Options, cfg.lanes)
	if err != nil {
		return nil, err
	}
	l, err := newLimiter(client, cfg)
	if err != nil {
		_ = client.Close()
		return nil, err
	}
	known.lost = l.floors.suspect // nothing was connected yet
	checking, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	warnings, err := checkServer(checking, client, &cfg.Options, cfg.Prefix)
	if err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("ask Redis: %w", err)
	}
	for _, w := range warnings {
		if cfg.Warn != nil {
			cfg.Warn(w)
		}
	}
	l.members = l.join()
	return l, nil
}

// connectTimeout bounds the first contact, in which nobody waits for a decision.
const connectTimeout = 5 * time.Second

func newLimiter(client redis.UniversalClient, cfg Config) (*Limiter, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	l := &Limiter{cfg: cfg, prefix: cfg.Prefix, client: client}
	client.AddHook(refusals{&l.stats})
	l.floors = floors{seen: newRecall[remembered](cfg.Remember), stats: &l.stats}
	now := time.Now
	if cfg.Clock != nil {
		now = cfg.Clock
	}
	l.denials = denials{seen: newRecall[denial](cfg.Remember), now: now, stats: &l.stats}
	l.works.New = func() any { return new(parcel) }
	if !cfg.NoLeases {
		l.leaser = newLeaser(l)
	}
	if cluster, ok := client.(*redis.ClusterClient); ok {
		l.nodes = &nodes{l: l, client: cluster}
		return l, nil
	}
	l.only = l.newLink(client, func(ctx context.Context) error { return probeScript.alive(ctx, client) })
	return l, nil
}

// Stats returns what was counted so far.
func (l *Limiter) Stats() Stats { return l.stats.read() }

// Close implements [limiter.Limiter].
func (l *Limiter) Close() error {
	if l.closed.Swap(true) {
		return nil
	}
	if l.leaser != nil {
		l.leaser.close()
	}
	if l.only != nil {
		l.only.close()
	} else {
		l.nodes.close()
	}
	if l.members != nil { // after those who wait were told, as it asks Redis once more
		l.members.close()
	}
	if err := l.client.Close(); err != nil {
		return fmt.Errorf("close the connections to Redis: %w", err)
	}
	return nil
}

// now is about what the clock of Redis shows.
func (l *Limiter) now() int64 {
	if l.cfg.Clock != nil {
		return limiter.Ticks(l.cfg.Clock())
	}
	return limiter.Ticks(time.Now()) + l.offset.Load()
}

// saw notes what the clock of Redis showed a moment ago.
func (l *Limiter) saw(ticks int64) {
	if l.cfg.Clock == nil {
		l.offset.Store(ticks - limiter.Ticks(time.Now()))
	}
}

// admit clears the results and checks what has to be right before anything is
// judged.
func (l *Limiter) admit(ctx context.Context, calls []limiter.Call) error {
	for i := range calls {
		calls[i].Result.Reset()
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if l.closed.Load() {
		return limiter.ErrClosed
	}
	return limiter.CheckCalls(calls)
}

// Take implements [limiter.Limiter]. It does not look at ctx again once it has
// begun, since what was sent may be charged.
//
// In a cluster, a call whose buckets are on several nodes is charged one node
// after the other, those of no agent first, and what was charged is given back
// if one denies. Between the two others can be denied for want of those units,
// and they stay charged if the giving back fails. Calls of a batch are judged
// node by node, or one by one where the order between nodes matters: with a
// Stop, or where one is on several nodes.
//
// An error other than those of the contract is a [limiter.ErrUnavailable]. What
// was sent may have been charged then, and is not sent again: the units return
// as time gives them back.
func (l *Limiter) Take(ctx context.Context, calls []limiter.Call, stop limiter.Stop) (int, error) {
	if err := l.admit(ctx, calls); err != nil {
		return 0, err
	}
	w, _ := l.works.Get().(*parcel)
	defer l.works.Put(w)
	switch {
	case len(calls) == 1:
		if err := l.takeOne(w, &calls[0]); err != nil { //nolint:contextcheck // What is sent belongs to others too.
			return 0, err
		}
		return 1, nil
	case l.nodes != nil:
		return l.nodes.takeAll(w, calls, stop) //nolint:contextcheck // As above.
	default:
		return l.takeAll(w, calls, stop)
	}
}

// ends tells whether a batch ends with a call that was admitted or not.
func ends(stop limiter.Stop, admitted bool) bool {
	return (stop == limiter.StopAtDenied && !admitted) || (stop == limiter.StopAtAdmitted && admitted)
}

// takeAll takes a batch on the one server.
func (l *Limiter) takeAll(w *parcel, calls []limiter.Call, stop limiter.Stop) (int, error) {
	done := 0
	for done < len(calls) {
		part := w.pick(calls[done:min(len(calls), done+maxCalls)])
		n, err := l.judge(l.only, w, part, stop, 0)
		done += n
		if err != nil || n < len(part) || ends(stop, calls[done-1].Result.Admitted) {
			return done, err
		}
	}
	return done, nil
}

// takeOne takes a call by itself: from memory if it is denied anyway, or together
// with others that come at the same time.
func (l *Limiter) takeOne(w *parcel, call *limiter.Call) error {
	if len(call.Charges) == 0 {
		call.Result.Admitted = true
		return nil
	}
	if l.leaser != nil && anyLeasable(call) {
		return l.leaser.take(w, call)
	}
	return l.takeAsking(w, call)
}

// takeAsking is takeOne for what is not taken ahead.
func (l *Limiter) takeAsking(w *parcel, call *limiter.Call) error {
	if l.cfg.NoDenyCache {
		return l.takeNow(call)
	}
	w.name = l.denials.name(w.name[:0], call)
	if l.denials.answer(w.name, call) {
		return nil
	}
	sent, forgot := l.denials.now(), l.denials.forgot.Load()
	err := l.takeNow(call)
	if err == nil && !call.Result.Admitted {
		l.denials.note(w.name, call, sent, forgot)
	}
	return err
}

func (l *Limiter) takeNow(call *limiter.Call) error {
	if l.nodes != nil {
		return l.nodes.take(call)
	}
	return l.only.take(call)
}

// Peek implements [limiter.Limiter].
func (l *Limiter) Peek(ctx context.Context, calls []limiter.Call) error {
	if err := l.admit(ctx, calls); err != nil {
		return err
	}
	w, _ := l.works.Get().(*parcel)
	defer l.works.Put(w)
	if l.nodes != nil {
		return l.nodes.peek(w, calls) //nolint:contextcheck // It does not look at ctx once it has begun.
	}
	for len(calls) > 0 {
		part := w.pick(calls[:min(len(calls), maxCalls)])
		if _, err := l.judge(l.only, w, part, limiter.StopNever, flagPeek); err != nil {
			return err
		}
		calls = calls[len(part):]
	}
	return nil
}

// Refund implements [limiter.Limiter]. After an error it is not known whether
// the units went back; they are not given back twice.
func (l *Limiter) Refund(ctx context.Context, r *limiter.Receipt) error {
	if err := l.admitReceipt(ctx, r); err != nil || r.Empty() {
		return err
	}
	defer l.denials.forget()
	taken := r.Taken
	r.Taken = r.Taken[:0]
	if l.nodes != nil {
		return l.nodes.each(taken, l.refund) //nolint:contextcheck // As in Peek.
	}
	return l.refund(l.only, taken)
}

func (l *Limiter) refund(k *link, taken []limiter.Taken) error {
	w, _ := l.works.Get().(*parcel)
	defer l.works.Put(w)
	flags, reading := l.clock()
	w.reset(refundScript, false)
	w.req.begin(flags, limiter.StopNever, reading, l.now(), 0)
	w.req.refund(l.prefix, taken)
	_, err := k.run(w)
	for i := range taken {
		t := &taken[i]
		if t.Limit.Kind == limiter.KindConcurrency {
			continue // it is not remembered
		}
		key := appendHome(nil, l.prefix, t.Key, t.Slot, t.Home)
		l.floors.gave(key, w.req.sign(nil, t.Limit, t.Key, t.Home), l.now())
	}
	return err
}

func (l *Limiter) admitReceipt(ctx context.Context, r *limiter.Receipt) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if l.closed.Load() {
		return limiter.ErrClosed
	}
	return r.Check()
}

// Debit implements [limiter.Limiter]. After an error it is not known whether
// the units were charged; they are not charged twice.
func (l *Limiter) Debit(ctx context.Context, r *limiter.Receipt) error {
	if err := l.admitReceipt(ctx, r); err != nil {
		return err
	}
	taken := slices.DeleteFunc(r.Taken, func(t limiter.Taken) bool { return t.Limit.Kind == limiter.KindConcurrency })
	r.Taken = r.Taken[:0]
	if len(taken) == 0 {
		return nil
	}
	if l.nodes != nil {
		return l.nodes.each(taken, l.debit) //nolint:contextcheck // As in Peek.
	}
	return l.debit(l.only, taken)
}

func (l *Limiter) debit(k *link, taken []limiter.Taken) error {
	charges := make([]limiter.Charge, len(taken))
	terms := make([]limiter.Terms, len(taken))
	for i := range taken {
		t := &taken[i]
		charges[i] = limiter.Charge{Limit: t.Limit, Key: t.Key, Home: t.Home, Slot: t.Slot, Cost: t.Cost}
		terms[i] = t.DebitTerms()
	}
	w, _ := l.works.Get().(*parcel)
	defer l.works.Put(w)
	clockFlag, reading := l.clock()
	now := l.now()
	for range mostTurns {
		w.reset(takeScript, false)
		w.req.begin(flagForced|clockFlag, limiter.StopNever, reading, now, l.floors.epoch.Load())
		w.req.call(l.prefix, charges, terms)
		w.req.seal(&l.floors)
		a, moved, err := l.ask(k, w)
		if err != nil || !moved {
			return err
		}
		now = a.read
	}
	return unavailable(errCalendar)
}
