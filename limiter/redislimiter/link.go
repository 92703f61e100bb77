package redislimiter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kelpie-authz/kelpie/limiter"
)

// command is a run of a script that is never sent twice: not by the client
// after a lost answer, since it may have charged, and not by us.
type command struct {
	*redis.Cmd
}

// NoRetry implements [redis.Cmder]. MaxRetries alone would not do: a cluster
// client sends a command again after a network error whatever that says.
func (c *command) NoRetry() bool { return true }

var (
	errQueue = fmt.Errorf("%w: too many calls wait for it, or for too long", limiter.ErrUnavailable)
	errPanic = fmt.Errorf("%w: a call that went along with this one panicked", limiter.ErrUnavailable)
	errOpen  = fmt.Errorf("%w: it did not answer lately, and is asked again as soon as it does", limiter.ErrUnavailable)
)

// The breaker opens after this many exchanges in a row that failed, or one that
// timed out: whoever waited for a timeout is one too many already.
const failuresToOpen = 3

// The probe asks again after this time, and a little later each time until the
// longest. It is a caller of its own, so no user's call waits for it.
const (
	firstProbe   = 5 * time.Millisecond
	longestProbe = 200 * time.Millisecond
)

// link is the way to one server: a lane, and a breaker that closes it while the
// server does not answer.
type link struct {
	client redis.UniversalClient
	stats  *stats
	lane   lane
	// ping asks whether the server answers.
	ping func(context.Context) error
	// observe is told of each exchange.
	observe func(time.Duration, error)
	tell    func(error)
	// refused is told of an answer that refuses.
	refused func(error)
	timeout time.Duration
	prefix  string
	// clock is the flag and reading of an injected clock, now about what the
	// server's clock shows; saw is told what it showed.
	clock  func() (byte, int64)
	now    func() int64
	saw    func(int64)
	floors *floors
	// knows is set once the server has run the script by its name.
	knows atomic.Bool
	// together is false if every call is to be a command of its own.
	together bool
	// bySlot says that the server is a node of a cluster: one run of a script is
	// about keys of one slot.
	bySlot    bool
	shipments sync.Pool

	failures atomic.Int32
	// shaky is set by a failure and ends with the next success: what the server
	// has then may not be what it had.
	shaky   atomic.Bool
	open    atomic.Bool
	probing sync.WaitGroup
	done    chan struct{} // closed by close
}

func (l *Limiter) newLink(client redis.UniversalClient, ping func(context.Context) error) *link {
	k := &link{
		client: client, stats: &l.stats, ping: ping, observe: l.cfg.Observe, tell: l.cfg.Tell, refused: l.cfg.Refused, timeout: l.cfg.Options.Timeout,
		prefix: l.cfg.Prefix, clock: l.clock, now: l.now, saw: l.saw, floors: &l.floors, together: !l.cfg.NoCoalescing, bySlot: l.nodes != nil,
		done: make(chan struct{}),
	}
	k.shipments.New = func() any { return new(shipment) }
	k.lane = lane{send: k.send, width: l.cfg.lanes, length: l.cfg.MaxWaiting, patience: k.timeout}
	return k
}

// close ends the probe. Calls that come later find the link open.
func (l *link) close() {
	close(l.done)
	l.lane.stop(limiter.ErrClosed)
	l.probing.Wait()
}

// take takes one call, perhaps together with others'.
func (l *link) take(call *limiter.Call) error {
	if l.open.Load() {
		return errOpen
	}
	j, _ := jobs.Get().(*job)
	j.call = call
	err := l.lane.do(j)
	j.release()
	return err
}

// eval runs a script that is not about calls over one key.
func (l *link) eval(s *script, readOnly bool, key string, args []any) (any, error) {
	p := new(parcel)
	p.reset(s, readOnly)
	p.req.keys, p.req.ends, p.more = []byte(key), []int{len(key)}, args
	_, err := l.run(p)
	return p.result, err
}

// run runs a request of its own and returns the answer.
func (l *link) run(p *parcel) (string, error) {
	if l.open.Load() {
		return "", errOpen
	}
	j, _ := jobs.Get().(*job)
	j.own = p
	err := l.lane.do(j)
	answer := j.answer
	j.release()
	return answer, err
}

//nolint:gochecknoglobals // A pool is one thing for all links.
var jobs = sync.Pool{New: func() any { return &job{wake: make(chan []*job, 1)} }}

func (j *job) release() {
	*j = job{wake: j.wake}
	jobs.Put(j)
}

// unavailable says that the store could not be asked, and why.
func unavailable(err error) error {
	return fmt.Errorf("%w: %w", limiter.ErrUnavailable, err)
}

// mostCalls bounds how many calls one run of a script judges: nothing else is
// served while it runs.
const mostCalls = 128

// shipment is the parcels of one batch. It is reused.
type shipment struct {
	parcels []*parcel
	spare   []*parcel
	tag     []byte
}

func (l *link) send(batch []*job) {
	s, _ := l.shipments.Get().(*shipment)
	for _, j := range batch {
		if j.own != nil {
			j.own.jobs = append(j.own.jobs[:0], j)
			s.parcels = append(s.parcels, j.own)
		}
	}
	l.pack(s, batch)
	for turn := 0; len(s.parcels) > 0; turn++ {
		l.exchange(s.parcels)
		s.parcels = l.receive(s.parcels, turn)
	}
	l.shipments.Put(s)
}

// pack makes parcels of the calls that may go together: those that go the short
// way in the script apart from others, which would take all with them.
func (l *link) pack(s *shipment, batch []*job) {
	short, long := -1, -1
	used := 0
	for _, j := range batch {
		if j.own != nil {
			continue
		}
		at := &short
		if !goesShort(j.call) {
			at = &long
		}
		if l.bySlot {
			*at = s.find(l.prefix, j.call, used)
		}
		if *at < 0 || len(s.parcels[*at].heads) >= mostCalls || !l.together {
			if used == len(s.spare) {
				s.spare = append(s.spare, new(parcel))
			}
			p := s.spare[used]
			used++
			p.reset(takeScript, false)
			l.begin(&p.req, l.now())
			*at = len(s.parcels)
			s.parcels = append(s.parcels, p)
		}
		s.parcels[*at].add(l.prefix, j)
	}
	for _, p := range s.spare[:used] {
		p.seal(l.floors)
	}
}

// find returns the parcel for calls of the same slot as this one, among the
// last that were packed; below zero if there is none.
func (s *shipment) find(prefix string, call *limiter.Call, packed int) int {
	s.tag = appendTag(s.tag[:0], prefix, &call.Charges[0])
	for i := len(s.parcels) - packed; i < len(s.parcels); i++ {
		p := s.parcels[i]
		if len(p.heads) > 0 && bytes.HasPrefix(p.req.key(0), s.tag) {
			return i
		}
	}
	return -1
}

// goesShort tells whether a call is one for the short way, from what is known
// here.
func goesShort(call *limiter.Call) bool {
	if len(call.Charges) > mostShort {
		return false
	}
	for i := range call.Charges {
		c := &call.Charges[i]
		if (c.Limit.Kind != limiter.KindRate && c.Limit.Kind != limiter.KindQuota) || c.Shadow {
			return false
		}
	}
	return true
}

// exchange sends parcels, as a pipeline if there are several, and awaits the
// answers.
func (l *link) exchange(parcels []*parcel) {
	// They belong to several callers, none of whom may end it for the others.
	ctx, cancel := context.WithTimeout(context.Background(), l.timeout)
	defer cancel()
	start := time.Now()
	for _, p := range parcels {
		p.cmd = &command{redis.NewCmd(ctx, p.args()...)}
	}
	if len(parcels) == 1 {
		_ = l.client.Process(ctx, parcels[0].cmd)
	} else {
		pipe := l.client.Pipeline()
		for _, p := range parcels {
			_ = pipe.Process(ctx, p.cmd)
		}
		_, _ = pipe.Exec(ctx)
	}
	var fault error
	for _, p := range parcels {
		if err := p.cmd.Err(); err != nil && outage(err) {
			fault = err
		}
	}
	l.stats.exchanges.Add(1)
	l.stats.commands.Add(int64(len(parcels)))
	if l.observe != nil {
		l.observe(time.Since(start), fault)
	}
	l.note(fault)
}

// args are the command's, by the script's name or, after that was not known, by
// its text.
func (p *parcel) args() []any {
	name, script := "evalsha", p.script.sha
	if p.text {
		name, script = "eval", p.script.text
	}
	if p.readOnly {
		name += "_ro"
	}
	clear(p.req.args)
	p.req.args = append(p.req.args[:0], name, script, len(p.req.ends))
	for i := range p.req.ends {
		p.req.args = append(p.req.args, p.req.key(i))
	}
	if p.more != nil {
		p.req.args = append(p.req.args, p.more...)
	} else {
		p.req.args = append(p.req.args, p.req.buf)
	}
	return p.req.args
}

// read reads the answer. That of a script about calls is a text.
func (p *parcel) read() (string, error) {
	if p.more == nil {
		return p.cmd.Text() //nolint:wrapcheck // receive does.
	}
	got, err := p.cmd.Result()
	if errors.Is(err, redis.Nil) {
		got, err = nil, nil
	}
	p.result = got
	return "", err
}

// receive opens the answers and returns the parcels that have to be sent again:
// those of which the server says that it did nothing.
func (l *link) receive(parcels []*parcel, turn int) []*parcel {
	again := parcels[:0]
	var apart []*parcel
	for _, p := range parcels {
		text, err := p.read()
		switch {
		case err != nil && !p.text && strings.HasPrefix(err.Error(), "NOSCRIPT"):
			l.stats.scripts.Add(1)
			p.text = true
			l.doubt(p)
			again = append(again, p)
		case err != nil && len(p.jobs) > 1 && refused(err) && !redis.HasErrorPrefix(err, "OOM"):
			apart = append(apart, l.apart(p)...)
		case err != nil:
			if refused(err) && l.refused != nil {
				l.refused(err)
			}
			p.fail(unavailable(err))
		case p.jobs[0].own != nil:
			l.knew(p)
			p.jobs[0].answer = text
		case l.deliver(p, text):
			l.knew(p)
		case turn >= mostTurns:
			p.fail(unavailable(errCalendar))
		default:
			again = append(again, p)
		}
	}
	return append(again, apart...)
}

// apart makes a parcel of each call of one that the server refused, before it
// wrote anything: one of them cannot be judged, and the others can.
func (l *link) apart(p *parcel) []*parcel {
	parcels := make([]*parcel, len(p.jobs))
	for i, j := range p.jobs {
		one := new(parcel)
		one.reset(p.script, p.readOnly)
		one.text = p.text
		l.begin(&one.req, l.now())
		one.add(l.prefix, j)
		one.seal(l.floors)
		parcels[i] = one
	}
	return parcels
}

// knew notes that the server has run the script by its name.
func (l *link) knew(p *parcel) {
	if !p.text && p.script == takeScript && !l.knows.Load() {
		l.knows.Store(true)
	}
}

// doubt makes a parcel put back what is known, as a server that has forgotten a
// script may be another one, or the same after a restart.
func (l *link) doubt(p *parcel) {
	if p.script != takeScript {
		return
	}
	if l.knows.Swap(false) {
		l.floors.suspect()
	}
	epoch := l.floors.epoch.Load()
	if epoch == p.req.epoch {
		return
	}
	p.req.renew(epoch)
	if p.jobs[0].own == nil {
		p.seal(l.floors)
	} else {
		p.req.seal(l.floors)
	}
}

// deliver fills the results of a parcel's calls. It is false if the parcel was
// made anew, for another calendar unit, and has to be sent.
func (l *link) deliver(p *parcel, text string) bool {
	a, moved, err := parseAnswer(text, len(p.req.ends))
	if err != nil {
		p.fail(unavailable(err))
		return true
	}
	l.saw(a.read)
	if moved {
		l.remake(p, a.read)
		return false
	}
	if err := p.open(&a, l.floors, l.stats); err != nil {
		p.fail(unavailable(err))
	}
	return true
}

// begin begins a request for calls of several callers.
func (l *link) begin(r *request, now int64) {
	flags, clock := l.clock()
	r.begin(flags, limiter.StopNever, clock, now, l.floors.epoch.Load())
}

// remake makes a parcel again for the calendar units around now.
func (l *link) remake(p *parcel, now int64) {
	callers := append([]*job(nil), p.jobs...)
	p.reset(p.script, p.readOnly)
	l.begin(&p.req, now)
	for _, j := range callers {
		p.add(l.prefix, j)
	}
	p.seal(l.floors)
}

// outage tells whether an error means that the server is gone or cannot serve,
// which is when asking it again at once would help nobody.
func outage(err error) bool {
	if _, reply := errors.AsType[redis.Error](err); !reply {
		return true
	}
	text := err.Error()
	for _, prefix := range []string{"LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "BUSY", "TRYAGAIN", "NOAUTH", "WRONGPASS"} {
		if strings.HasPrefix(text, prefix) {
			return true
		}
	}
	return false
}

// note counts an exchange for the breaker.
func (l *link) note(fault error) {
	if fault == nil {
		l.failures.Store(0)
		if l.shaky.Load() && l.shaky.Swap(false) {
			l.floors.suspect()
		}
		return
	}
	l.shaky.Store(true)
	l.floors.suspect() // whoever is the first to be answered again already puts back what it knows
	l.stats.failures.Add(1)
	var timeout net.Error
	timedOut := errors.As(fault, &timeout) && timeout.Timeout()
	if l.failures.Add(1) < failuresToOpen && !timedOut {
		return
	}
	if !l.open.CompareAndSwap(false, true) {
		return
	}
	l.stats.opened.Add(1)
	l.stats.open.Add(1)
	l.lane.stop(errOpen)
	if l.tell != nil {
		l.tell(fault)
	}
	l.probing.Go(l.probe)
}

// giveUp opens the breaker for what the heartbeat met. The probe closes it again.
func (l *link) giveUp(fault error) {
	select {
	case <-l.done:
		return
	default:
	}
	if l.open.Load() {
		return
	}
	l.stats.exchanges.Add(1)
	l.failures.Store(failuresToOpen)
	l.note(fault)
}

// probe asks the server until it answers, and closes the breaker.
func (l *link) probe() {
	wait := firstProbe
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-l.done:
			return
		case <-timer.C:
		}
		ctx, cancel := context.WithTimeout(context.Background(), l.timeout)
		err := l.ping(ctx)
		cancel()
		if err == nil {
			l.failures.Store(0)
			if l.shaky.Swap(false) {
				l.floors.suspect()
			}
			l.stats.open.Add(-1)
			if l.tell != nil {
				l.tell(nil)
			}
			l.open.Store(false)
			l.lane.stop(nil)
			return
		}
		wait = min(2*wait, longestProbe)
		// Replicas that lost the store together do not come back together.
		timer.Reset(wait/2 + rand.N(wait)) //nolint:gosec // It spreads and hides nothing.
	}
}
