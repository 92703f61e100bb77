package limiter

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"time"
)

const (
	// aheadParts is into how many parts a quota is divided: one of them is written
	// ahead at a time, and lost to a crash at most.
	aheadParts = 128
	// journalRest is for how long a journal that failed is not asked again.
	journalRest = time.Second
	// pruneEvery is how often marks that are over are removed.
	pruneEvery = time.Hour
	// pruneAfter is for how long a mark that is over is kept, in ticks: a clock may be
	// set back while no process runs.
	pruneAfter = int64(24 * 3600 * ticksPerSecond)
	keptShards = 64
)

// Kept is a [Memory] whose quotas outlive the process. Before a call is admitted,
// the journal says that at least as much is used as there is by now; it is told a
// little ahead, so that not every call has to wait for the disk. What was told
// ahead and not used counts as used after a crash: at most 1/128 of the quota or
// one unit, whichever is more, for each bucket. After Close nothing is lost.
// Never is more admitted than the quota, over all lives of the process.
//
// While the journal cannot be written, calls with a quota are an
// [ErrUnavailable], and take nothing. A clock that is set back, by less than a day
// while no process runs, begins no unit anew. Other kinds of limit are not kept: what
// they count is over sooner.
type Kept struct {
	*Memory

	journal Journal
	seed    maphash.Seed
	shards  [keptShards]keptShard

	// gate is held to write by what must see no charge of a quota under way.
	gate sync.RWMutex

	// disk is held, by having put something in, to write to the journal and note what
	// it has: both happen in one order.
	disk chan struct{}

	mu       sync.Mutex
	waiting  *keptBatch // is written next
	writing  bool
	fault    error // of the last write; nil if it went well
	failedAt time.Time
	prunedAt time.Time
}

type keptShard struct {
	mu    sync.Mutex
	marks map[string][]QuotaMark // by key; what the journal has
}

// keptBatch is written at once.
type keptBatch struct {
	marks []QuotaMark
	done  chan struct{} // closed when err is final
	err   error
}

var _ Limiter = (*Kept)(nil)

// NewKept takes over what the journal has into m, which is fresh. From then on
// both belong to it; Close closes them.
func NewKept(ctx context.Context, m *Memory, j Journal) (*Kept, error) {
	k := &Kept{Memory: m, journal: j, seed: maphash.MakeSeed(), disk: make(chan struct{}, 1), waiting: newKeptBatch(), prunedAt: m.clock()}
	for i := range k.shards {
		k.shards[i].marks = map[string][]QuotaMark{}
	}
	if err := j.Prune(ctx, m.now().wall-pruneAfter); err != nil {
		return nil, fmt.Errorf("forget quotas that are over: %w", err)
	}
	err := j.Load(ctx, func(mark QuotaMark) error {
		loc, err := time.LoadLocation(mark.Zone)
		if err != nil {
			return nil //nolint:nilerr // No policy of this machine can name the zone either.
		}
		if err := m.restore(&mark, loc); err != nil {
			return err
		}
		s := k.shard(mark.Key)
		s.marks[string(mark.Key)] = append(s.marks[string(mark.Key)], mark)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("take over the quotas of before: %w", err)
	}
	return k, nil
}

func newKeptBatch() *keptBatch { return &keptBatch{done: make(chan struct{})} }

func (k *Kept) shard(key []byte) *keptShard {
	return &k.shards[maphash.Bytes(k.seed, key)%keptShards]
}

// Err says why calls with a quota are not judged; nil: they are.
func (k *Kept) Err() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.fault
}

// Take implements [Limiter]. On an ErrUnavailable no call is judged.
func (k *Kept) Take(ctx context.Context, calls []Call, stop Stop) (int, error) {
	if !hasQuota(calls) {
		return k.Memory.Take(ctx, calls, stop)
	}
	k.gate.RLock()
	defer k.gate.RUnlock()
	n, err := k.Memory.Take(ctx, calls, stop)
	var lacking []QuotaMark
	for i := range n {
		for j := range calls[i].Result.Receipt.Taken {
			lacking = k.lacking(lacking, &calls[i].Result.Receipt.Taken[j], 0)
		}
	}
	if len(lacking) == 0 {
		return n, err
	}
	if kept := k.keep(ctx, lacking); kept != nil {
		for i := range calls {
			_ = k.Refund(context.WithoutCancel(ctx), &calls[i].Result.Receipt) // It errs once it is closed, where it does not matter.
			calls[i].Result.Reset()
		}
		return 0, kept
	}
	return n, err
}

func hasQuota(calls []Call) bool {
	for i := range calls {
		for j := range calls[i].Charges {
			if l := calls[i].Charges[j].Limit; l != nil && l.Kind == KindQuota {
				return true
			}
		}
	}
	return false
}

// Debit implements [Limiter]. What is debited is told to the journal first. Where
// other calls have used that up meanwhile it is told again; an error then empties
// r, since the debit is made, and whoever charges the bucket next tells of it.
func (k *Kept) Debit(ctx context.Context, r *Receipt) error {
	if err := r.Check(); err != nil {
		return err
	}
	k.gate.RLock()
	defer k.gate.RUnlock()
	var lacking []QuotaMark
	for i := range r.Taken {
		lacking = k.lacking(lacking, &r.Taken[i], boundedDebit(r.Taken[i].Limit, r.Taken[i].Cost))
	}
	if len(lacking) > 0 {
		if err := k.keep(ctx, lacking); err != nil {
			return err
		}
	}
	debited := slices.Clone(r.Taken)
	if err := k.Memory.Debit(ctx, r); err != nil {
		return err
	}
	lacking = nil
	for i := range debited {
		lacking = k.lacking(lacking, &debited[i], 0)
	}
	if len(lacking) == 0 {
		return nil
	}
	return k.keep(ctx, lacking)
}

// lacking adds the marks that the journal lacks before a charge may stand, or
// one of more besides may be made.
func (k *Kept) lacking(marks []QuotaMark, t *Taken, more Units) []QuotaMark {
	if t.Limit.Kind != KindQuota {
		return marks
	}
	ahead := max(Unit, t.Limit.capacity()/aheadParts)
	s := k.shard(t.Key)
	found := false
	k.quotaMarks(t.Key, func(q *quotaState) {
		found = true
		if used := q.used + more; s.lacks(t.Key, q, used) {
			if most := t.Limit.capacity(); used+ahead > most {
				ahead = max(0, most-used)
			}
			// The caller's key is used again once it has its answer.
			marks = append(marks, QuotaMark{Key: slices.Clone(t.Key), Calendar: q.unit, Zone: q.loc.String(), Start: q.start, End: q.end, Used: used + ahead})
		}
	})
	if !found && more > 0 { // A debit of what was charged by an earlier process and is over here.
		start, end := t.Limit.CalendarAt(k.now().wall)
		marks = append(marks, QuotaMark{
			Key: slices.Clone(t.Key), Calendar: t.Limit.Calendar, Zone: t.Limit.location().String(), Start: start, End: end, Used: more,
		})
	}
	return marks
}

// lacks tells whether the journal has less of a calendar unit than was used.
func (s *keptShard) lacks(key []byte, q *quotaState, used Units) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, mark := range s.marks[string(key)] {
		if mark.Calendar == q.unit && mark.Zone == q.loc.String() {
			return mark.Start != q.start || mark.Used < used
		}
	}
	return true
}

// keep returns once the journal has the marks.
func (k *Kept) keep(ctx context.Context, marks []QuotaMark) error {
	k.mu.Lock()
	if k.fault != nil && k.clock().Sub(k.failedAt) < journalRest {
		err := k.fault
		k.mu.Unlock()
		return err
	}
	b := k.waiting
	b.marks = append(b.marks, marks...)
	if !k.writing {
		k.writing = true
		go k.write() //nolint:contextcheck // Others wait for it too. It ends when nobody does.
	}
	k.mu.Unlock()
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Forget implements [Inspector]. What is forgotten here is forgotten by the
// journal too, or there is an error.
func (k *Kept) Forget(ctx context.Context, slot, rest []byte) (int, error) {
	k.gate.Lock()
	defer k.gate.Unlock()
	n, err := k.Memory.Forget(ctx, slot, rest)
	if err != nil {
		return n, err
	}
	if err := k.settle(ctx); err != nil {
		return n, fmt.Errorf("%w: what was forgotten comes back at the next start: %w", ErrUnavailable, err)
	}
	return n, nil
}

// Close implements [Limiter]. The error says that a part of what quotas have
// left counts as used at the next start.
func (k *Kept) Close() error {
	k.gate.Lock()
	defer k.gate.Unlock()
	if k.closed.Load() {
		return nil
	}
	err := k.settle(context.Background())
	if err != nil {
		err = fmt.Errorf("write what quotas have used: %w", err)
	}
	return errors.Join(err, k.Memory.Close(), k.journal.Close())
}
