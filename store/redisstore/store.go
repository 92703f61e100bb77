// Package redisstore keeps what the store contracts say in Redis, for several
// replicas: one server, a primary that sentinels name, or a cluster, Redis 7.0 or
// later.
//
// Every record is sealed under a key that Redis does not have, so that who can
// write to Redis can lose approvals but not make one. Redis may forget what it was
// told last, by a crash or a failover; a record tells which process and history of
// Redis it was written to, and a yes that another one wrote is Unsure.
//
// It does not make the client, whose settings it depends on: no retries, and
// timeouts of about Timeout. It keeps everything in one slot of a cluster.
//
//	approvals, err := redisstore.Open(ctx, redisstore.Config{Client: client, Key: key, Prefix: "kelpie"})
//	...
//	defer approvals.Close()
//	found, opened, err := approvals.Open(ctx, &approval, limits)
package redisstore

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kelpie-authz/kelpie/store"
)

// Config is what a [Store] is made of. Client and Key are needed.
type Config struct {
	// Client asks Redis. It belongs to the Store from then on, which closes it.
	Client redis.UniversalClient
	// Key is the secret that all replicas have in common, at least 32 bytes; see
	// [ReadKey].
	Key []byte
	// Prefix is what every key in Redis begins with. Empty: kelpie.
	Prefix string
	// Timeout bounds one exchange with Redis. Zero: 100 ms.
	Timeout time.Duration
	// Alarm is told of a record that does not count, by the name it is kept under,
	// and why: somebody wrote to Redis who has no business there. It is called by
	// many goroutines and must not block. Nil: nobody is told.
	Alarm func(name string, why error)
	// Tell is told when Redis stops to answer, and why, and nil when it answers
	// again. It is called by a goroutine of its own. Nil: nobody is told.
	Tell func(cause error)
}

// Stats count what happened since the start.
type Stats struct {
	// Forged is how often a record was met that does not count.
	Forged int64
	// Unsure is how often a yes was met that Redis cannot vouch for.
	Unsure int64
	// Failures are exchanges without the answer that was asked for.
	Failures int64
	// Down is whether Redis does not answer now.
	Down bool
}

const (
	defaultPrefix  = "kelpie"
	defaultTimeout = 100 * time.Millisecond
	// connectTimeout bounds the first contact.
	connectTimeout = 5 * time.Second
)

var prefixForm = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,32}$`)

// Store implements [store.Approvals]. Make it with Open; it is safe for
// concurrent use.
type Store struct {
	link  link
	seal  *sealer
	names names
	alarm func(string, error)

	forged, unsure atomic.Int64

	watch watch
	once  sync.Once
	err   error // of Close
}

var _ store.Approvals = (*Store)(nil)

// Open takes over a client and checks that Redis can keep approvals: the error says
// what is wrong. The caller closes the Store.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	switch {
	case cfg.Client == nil:
		return nil, errors.New("redisstore: Config.Client is missing; set how Redis is asked")
	case len(cfg.Key) < leastKey:
		return nil, fmt.Errorf("redisstore: Config.Key has %d bytes, and %d are needed", len(cfg.Key), leastKey)
	}
	if cfg.Prefix == "" {
		cfg.Prefix = defaultPrefix
	}
	if !prefixForm.MatchString(cfg.Prefix) {
		return nil, fmt.Errorf("redisstore: the prefix %q is not 1 to 32 letters, digits, dots, underscores or dashes", cfg.Prefix)
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.Alarm == nil {
		cfg.Alarm = func(string, error) {}
	}
	if cfg.Tell == nil {
		cfg.Tell = func(error) {}
	}
	seal, err := newSealer(cfg.Key)
	if err != nil {
		return nil, err
	}
	n := namesOf(cfg.Prefix)
	s := &Store{
		link: link{client: cfg.Client, timeout: cfg.Timeout, key: n.check(), tell: cfg.Tell, done: make(chan struct{})},
		seal: seal, names: n, alarm: cfg.Alarm,
	}
	first, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if err := s.begin(first, cfg.Prefix); err != nil {
		return nil, errors.Join(fmt.Errorf("keep approvals in Redis: %w", err), s.Close())
	}
	return s, nil
}

// begin tries what will be done, and listens. What the user may not do is told all
// at once, as far as it can be found.
func (s *Store) begin(ctx context.Context, prefix string) error {
	r := rights{prefix: prefix}
	// Whether Redis knows the script already or not, it says whether this is allowed.
	if _, err := s.check(ctx, "evalsha", checkScript.sha); err != nil && !redis.HasErrorPrefix(err, "NOSCRIPT") && !r.note(err) {
		return err
	}
	lacks, err := s.check(ctx, "eval", checkScript.text)
	if err != nil && !r.note(err) {
		return err
	}
	r.take(lacks)
	if err := s.listen(ctx); err != nil && !r.note(err) {
		return err
	}
	if r.missing() {
		return r.words(userOf(ctx, s.link.client))
	}
	return nil
}

// check runs the check. The first exchange makes the connection, for which it is
// given time.
func (s *Store) check(ctx context.Context, name, what string) (any, error) {
	for {
		bound, cancel := context.WithTimeout(ctx, s.link.timeout)
		got, err := s.link.send(bound, name, what, []string{s.names.check()}, []any{s.names.channel()})
		cancel()
		if err == nil {
			return got, nil
		}
		if _, reply := errors.AsType[redis.Error](err); reply || ctx.Err() != nil {
			return nil, err
		}
		select { // nobody listens yet, or not in time
		case <-ctx.Done():
			return nil, err
		case <-time.After(firstProbe):
		}
	}
}

// Stats returns the counts.
func (s *Store) Stats() Stats {
	return Stats{Forged: s.forged.Load(), Unsure: s.unsure.Load(), Failures: s.link.failed.Load(), Down: s.link.open.Load()}
}

// Close implements [store.Approvals].
func (s *Store) Close() error {
	s.once.Do(func() {
		s.link.close()
		s.deafen()
		if err := s.link.client.Close(); err != nil {
			s.err = fmt.Errorf("close the way to Redis: %w", err)
		}
	})
	return s.err
}

// names are those of the keys. The part in braces puts all of a deployment into
// one slot of a cluster: a step that is about several keys is one script.
type names string

func namesOf(prefix string) names { return names(prefix + ":{" + prefix + ":approvals}:") }

func (n names) check() string              { return string(n) + "check" }
func (n names) channel() string            { return string(n) + "changes" }
func (n names) record(id string) string    { return string(n) + "record:" + id }
func (n names) digest(text string) string  { return string(n) + "digest:" + text }
func (n names) number() string             { return string(n) + "number" }
func (n names) ended() string              { return string(n) + "ended" }
func (n names) versions() string           { return string(n) + "versions" }
func (n names) agent(agent string) string  { return string(n) + "agent:" + agent }
func (n names) waits(agent string) string  { return string(n) + "pending:" + agent }
func (n names) opened(agent string) string { return string(n) + "opened:" + agent }
func (n names) state(st store.State) string {
	return string(n) + "state:" + strconv.Itoa(int(st))
}

// states are the names of the sets of all states, in their order.
func (n names) states() []string {
	var all []string
	for st := store.Pending; st <= store.Revoked; st++ {
		all = append(all, n.state(st))
	}
	return all
}

// instant is a time as the beginning of a member, so that members are in the
// order of time, to the nanosecond.
func instant(t time.Time) string {
	if t.IsZero() || t.Year() < 1970 || t.Year() > 2250 {
		return "00000000000000000000"
	}
	return fmt.Sprintf("%020d", t.UnixNano())
}

func member(t time.Time, id string) string { return instant(t) + ":" + id }

// from is the least member of an instant later than t, and below the least of t,
// as bounds of a range.
func from(t time.Time) string  { return "[" + instant(t) + ";" } // behind every ':'
func below(t time.Time) string { return "(" + instant(t) + ":" }
