package pdp

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/kelpie-authz/kelpie/store"
)

// How long a call may be held, and how many.
const (
	// MaxWait is how long a call may wait for its approval.
	MaxWait = 30 * time.Second

	maxHeld         = 1000
	maxHeldPerAgent = 10
)

// Holder answers calls that wait for their approval: one that needs a yes is
// held until its approval is decided, for as long as the caller said, and then
// decided anew from the first step. It holds at most 1,000 calls, and 10 of one
// agent; any more are answered at once. It is safe for concurrent use.
type Holder struct {
	cfg HolderConfig

	mu       sync.Mutex
	held     int
	perAgent map[string]int
	waiting  map[string]map[chan struct{}]bool
	ended    chan struct{}
	end      func()
}

// HolderConfig is what a [Holder] is made of. Service, Store and Timer are needed.
type HolderConfig struct {
	// Service decides.
	Service *Service
	// Store keeps its approvals.
	Store store.Approvals
	Timer Timer
	// Waiting is told of each call that may be held, before it is decided, and for
	// how long: whoever bounds the time of calls lets this one have so much more.
	// What it returns is called once the call is held: it works on nothing then, and
	// takes no place from those that do. Nil: nobody is told.
	Waiting func(ctx context.Context, most time.Duration) (held func())
}

// toAnswer is how long before the caller's deadline a held call is answered: an
// answer that says who has to be waited for is worth more than none.
const toAnswer = 250 * time.Millisecond

// NewHolder makes a Holder, or says which part of the configuration is missing.
func NewHolder(cfg HolderConfig) (*Holder, error) {
	switch {
	case cfg.Service == nil:
		return nil, errors.New("pdp: HolderConfig.Service is missing; set the Service that decides")
	case cfg.Store == nil:
		return nil, errors.New("pdp: HolderConfig.Store is missing; set the store of its approvals")
	case cfg.Timer == nil:
		return nil, errors.New("pdp: HolderConfig.Timer is missing; set one made of time.NewTimer")
	}
	if cfg.Waiting == nil {
		cfg.Waiting = func(context.Context, time.Duration) func() { return func() {} }
	}
	h := &Holder{
		cfg:      cfg,
		perAgent: map[string]int{}, waiting: map[string]map[chan struct{}]bool{}, ended: make(chan struct{}),
	}
	h.end = sync.OnceFunc(func() { close(h.ended) })
	return h, nil
}

// Run wakes those held as soon as their approval is decided, until ctx ends; all
// that are held then are answered as they stand, and nobody is held any more.
// Without it they are woken within five seconds. It returns nil.
func (h *Holder) Run(ctx context.Context) error {
	defer h.end()
	for ctx.Err() == nil {
		ids, err := h.cfg.Store.Watch(ctx)
		if err != nil {
			// The store is away, and those held look by themselves.
			h.pause(ctx)
			continue
		}
		for id := range ids {
			h.wake(id)
		}
		h.pause(ctx) // The store went away: it is not asked again and again.
	}
	return nil
}

func (h *Holder) pause(ctx context.Context) {
	fires, stop := h.cfg.Timer(lookAgain)
	defer stop()
	select {
	case <-fires:
	case <-ctx.Done():
	}
}

func (h *Holder) wake(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for ch := range h.waiting[id] {
		select {
		case ch <- struct{}{}:
		default: // It is awake.
		}
	}
}

// Held is how many calls are held.
func (h *Holder) Held() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.held
}

// Authorize decides a call as [Service.Authorize] does, and holds it for at most
// wait where a yes is outstanding. A wait of zero holds nothing; one out of range
// is an [*InvalidError]. It is answered shortly before ctx's deadline, if that is
// nearer. Every decision that is made on the way is recorded; the
// last one is the answer.
func (h *Holder) Authorize(ctx context.Context, req *Request, wait time.Duration, dec *Decision) error {
	if wait < 0 || wait > MaxWait {
		dec.reset()
		return &InvalidError{Field: "wait", Why: fmt.Sprintf("wait is out of range; write at most %v", MaxWait)}
	}
	if wait == 0 {
		return h.cfg.Service.Authorize(ctx, req, dec)
	}
	held := h.cfg.Waiting(ctx, wait)
	if err := h.cfg.Service.Authorize(ctx, req, dec); err != nil || !outstanding(dec) {
		return err
	}
	if wait = h.within(ctx, wait); wait <= 0 {
		return nil
	}
	over, stop := h.cfg.Timer(wait)
	defer stop()
	return h.hold(ctx, req, over, held, dec)
}

// within is for how long a call can wait and still be answered.
func (h *Holder) within(ctx context.Context, wait time.Duration) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return min(wait, deadline.Sub(h.cfg.Service.cfg.Now())-toAnswer)
	}
	return wait
}

// outstanding tells whether waiting can change the answer.
func outstanding(dec *Decision) bool {
	return dec.Verdict == RequireApproval && dec.Approval != nil && dec.Approval.ID != ""
}

// hold waits and decides anew until the answer is another or the time is over.
// The id is named then, so that the answer is about this approval, and no new one
// is opened.
func (h *Holder) hold(ctx context.Context, req *Request, over <-chan time.Time, held func(), dec *Decision) error {
	id := dec.Approval.ID
	a, err := h.cfg.Store.Get(ctx, id)
	if err != nil {
		if err := ctx.Err(); err != nil {
			dec.reset()
			return err
		}
		return nil // The answer stands; it is only not waited for a better one.
	}
	wake, leave := h.enter(id, a.Agent)
	if wake == nil {
		return nil
	}
	defer leave()
	held()
	named := *req
	named.ApprovalID = id
	for h.decided(ctx, id, wake, over) {
		if err := h.cfg.Service.Authorize(ctx, &named, dec); err != nil || !outstanding(dec) {
			return err
		}
		if !h.woken(ctx, wake, over) {
			break
		}
	}
	if err := ctx.Err(); err != nil {
		dec.reset()
		return err
	}
	return nil
}

// enter takes a place for a held call; wake is nil if there is none.
func (h *Holder) enter(id, agent string) (wake chan struct{}, leave func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case <-h.ended:
		return nil, nil
	default:
	}
	if h.held >= maxHeld || h.perAgent[agent] >= maxHeldPerAgent {
		return nil, nil
	}
	wake = make(chan struct{}, 1)
	h.held++
	h.perAgent[agent]++
	if h.waiting[id] == nil {
		h.waiting[id] = map[chan struct{}]bool{}
	}
	h.waiting[id][wake] = true
	return wake, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.held--
		if h.perAgent[agent]--; h.perAgent[agent] == 0 {
			delete(h.perAgent, agent)
		}
		if delete(h.waiting[id], wake); len(h.waiting[id]) == 0 {
			delete(h.waiting, id)
		}
	}
}

// decided waits until the approval is not pending any more; false: nothing is to
// be waited for longer. It looks at once, for what came before the place was
// taken, and from time to time, for what nobody told.
func (h *Holder) decided(ctx context.Context, id string, wake <-chan struct{}, over <-chan time.Time) bool {
	for {
		a, err := h.cfg.Store.Get(ctx, id)
		if errors.Is(err, store.ErrNotFound) || err == nil && h.ready(a) {
			return true
		}
		if !h.woken(ctx, wake, over) {
			return false
		}
	}
}

// woken waits until it is time to look.
func (h *Holder) woken(ctx context.Context, wake <-chan struct{}, over <-chan time.Time) bool {
	again, stop := h.cfg.Timer(lookAgain)
	defer stop()
	select {
	case <-wake:
		return true
	case <-again:
		return true
	case <-over:
		return false
	case <-h.ended:
		return false
	case <-ctx.Done():
		return false
	}
}

// ready tells whether another answer can be had.
func (h *Holder) ready(a *store.Approval) bool {
	return a.State != store.Pending || !h.cfg.Service.cfg.Now().Before(a.ExpiresAt)
}
