package pdp

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kelpie-authz/kelpie/limiter"
)

// Config is what a [Service] is made of. Policy, Limiter and Recorder are
// needed.
type Config struct {
	Policy  PolicySource
	Limiter limiter.Limiter
	// Fallback stands in while Limiter's store cannot be asked: a limiter in this
	// process, which judges the limits that say on_unavailable allow (whole) or
	// local_share (their share) by itself. Nil: there is none, so allow leaves a
	// limit out and local_share denies.
	Fallback limiter.Limiter
	// Replicas is among how many replicas the limits of the store are shared, as
	// far as is known; below 1 counts as 1. It is asked only while Fallback stands
	// in, by many goroutines at once. Nil: one.
	Replicas func() int
	// Ledger keeps what was charged by cost and which slots a call holds, for
	// Settle and Release. Nil: neither has anything to work on.
	Ledger limiter.Ledger
	// Recorder keeps a record of every decision before its answer leaves.
	Recorder Recorder
	// Approvals keeps approvals. Nil: none are kept, REQUIRE_APPROVAL answers
	// carry digest and rules, and nothing can satisfy them.
	Approvals Approvals
	// Identifier establishes who calls. Nil: the request is believed, because
	// the door admits only callers that may assert agent and subject.
	Identifier Identifier
	// Revocations tells what was revoked. Nil: nothing can be.
	Revocations Revocations
	// Local tells the addresses of this machine: a proxy on it that was called
	// from it adds one of them to x-forwarded-for. Nil: the loopback ones alone.
	Local func(netip.Addr) bool
	// Now is read once per decision. Nil: time.Now.
	Now func() time.Time
	// Elapsed is a monotonic clock from any origin, for latencies. Nil: they
	// are counted from the decision's clock reading, by Now's monotonic part.
	Elapsed func() time.Duration
	// NewID names a decision, uniquely. Nil: a UUID version 7 (RFC 9562) of
	// the decision's clock reading. It names and does not protect: nothing is kept secret by it.
	NewID func() string
	// Jitter lengthens a retry_after, so that callers that were refused
	// together do not return together. It must never shorten it. Nil: up to a
	// tenth more.
	Jitter func(time.Duration) time.Duration
	// Panicked is told of a panic in one call, which is answered DENY
	// internal_error. The value can hold parts of the request: log the stack
	// only. Nil: not told; the record still counts it.
	Panicked func(decisionID string, value any, stack []byte)
}

// Service decides. It is safe for concurrent use; it keeps nothing of a call
// once the answer has left.
type Service struct {
	cfg   Config
	lone  sync.Pool // *loneCall
	batch sync.Pool // *batchCall
	http  sync.Pool // *httpCall
	table atomic.Pointer[limitTable]
}

// New makes a Service, or says which part of the configuration is missing.
func New(cfg Config) (*Service, error) {
	switch {
	case cfg.Policy == nil:
		return nil, errors.New("pdp: Config.Policy is missing; set where the snapshot comes from")
	case cfg.Limiter == nil:
		return nil, errors.New("pdp: Config.Limiter is missing; set the driver that keeps the limits")
	case cfg.Recorder == nil:
		return nil, errors.New("pdp: Config.Recorder is missing; no decision may go unrecorded")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Jitter == nil {
		cfg.Jitter = func(d time.Duration) time.Duration { return d + rand.N(d/10+1) } //nolint:gosec // It spreads callers and hides nothing.
	}
	s := &Service{cfg: cfg}
	s.lone.New = func() any { return new(loneCall) }
	s.batch.New = func() any { return new(batchCall) }
	s.http.New = func() any { return &httpCall{mapper: mapper{local: cfg.Local}} }
	return s, nil
}

func (s *Service) latency(j *judgment) time.Duration {
	if s.cfg.Elapsed == nil {
		return s.cfg.Now().Sub(j.now)
	}
	return s.cfg.Elapsed() - j.arrived
}

func (s *Service) newID(now time.Time) string {
	if s.cfg.NewID != nil {
		return s.cfg.NewID()
	}
	return newUUIDv7(now)
}

// newUUIDv7 sorts by time, which keeps records of one moment together: what
// the version number leaves of the first half is the fraction of the
// millisecond (RFC 9562, section 6.2, method 3). The second half is random.
func newUUIDv7(now time.Time) string {
	const nanos = uint64(time.Millisecond)
	ms := uint64(now.UnixMilli())            // a clock before 1970 gives an id that is unique all the same
	rest := uint64(now.Nanosecond()) % nanos //nolint:gosec // It is never negative.
	hi := ms<<16 | 0x7000 | rest*4096/nanos
	lo := 1<<63 | rand.Uint64()>>2 //nolint:gosec // It names, and is no secret.
	var out [36]byte
	putHex(out[0:8], hi>>32)
	out[8] = '-'
	putHex(out[9:13], hi>>16)
	out[13] = '-'
	putHex(out[14:18], hi)
	out[18] = '-'
	putHex(out[19:23], lo>>48)
	out[23] = '-'
	putHex(out[24:36], lo)
	return string(out[:])
}

// putHex writes the lowest digits of v, as many as there is room for.
func putHex(out []byte, v uint64) {
	for i := len(out) - 1; i >= 0; i-- {
		out[i] = "0123456789abcdef"[v&15]
		v >>= 4
	}
}

// ErrNoPolicy is returned while no snapshot is in force: nothing is decided.
var ErrNoPolicy = errors.New("no policy is loaded; load one before asking")

// InvalidError says which field of a request is malformed. No decision was
// made.
type InvalidError struct {
	// Field is the wire's name of it.
	Field string
	// Why says what is wrong and what to do, starting with the field.
	Why string
}

// Error implements error.
func (e *InvalidError) Error() string { return "malformed request: " + e.Why }

// loneCall is a judgment with a place for its charges.
type loneCall struct {
	judgment
	calls [1]limiter.Call
}

// Authorize decides one call and fills dec.
//
// All three verdicts are values. An error means that no decision was made and
// dec is empty: an [*InvalidError] for a malformed request, ctx's error if it
// has ended, [ErrNoPolicy], [limiter.ErrClosed]. The call must not go through
// then.
func (s *Service) Authorize(ctx context.Context, req *Request, dec *Decision) error {
	return s.one(ctx, req, dec, false)
}

// Judge is Authorize for callers that have no way to say that a request is
// malformed: such a request is DENY parameters_invalid.
func (s *Service) Judge(ctx context.Context, req *Request, dec *Decision) error {
	return s.one(ctx, req, dec, true)
}

func (s *Service) one(ctx context.Context, req *Request, dec *Decision, lenient bool) error {
	c, _ := s.lone.Get().(*loneCall)
	err := s.open(ctx, &c.judgment)
	if err == nil {
		err = s.runLone(ctx, c, req, dec, lenient)
	}
	if err != nil {
		dec.reset()
	}
	if !c.spoiled {
		c.release()
		c.calls[0].Charges = c.calls[0].Charges[:0]
		s.lone.Put(c)
	}
	return err
}

func (s *Service) runLone(ctx context.Context, c *loneCall, req *Request, dec *Decision, lenient bool) error {
	j := &c.judgment
	if bad := s.begin(ctx, j, req, dec); bad != nil {
		if !lenient {
			return bad
		}
		s.refuseMalformed(j, bad)
	} else if err := s.judge(ctx, j, c.calls[:]); err != nil {
		return err
	}
	s.record(ctx, j)
	return nil
}
