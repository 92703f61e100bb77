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
// [ErrUnavailable], and take nothing. Other kinds of limit are not kept: what
// they count is over sooner.
type Kept struct {
	*Memory

	journal Journal
	seed    maphash.Seed
	shards  [keptShards]keptShard

	// gate is held to write by what must see no charge of a quota under way.
	gate sync.RWMutex

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
	k := &Kept{Memory: m, journal: j, seed: maphash.MakeSeed(), waiting: newKeptBatch(), prunedAt: m.clock()}
	for i := range k.shards {
		k.shards[i].marks = map[string][]QuotaMark{}
	}
	if err := j.Prune(ctx, m.now().wall); err != nil {
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

// Debit implements [Limiter]. What is debited is told to the journal first.
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
	return k.Memory.Debit(ctx, r)
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

// write writes what waits until nothing does: who comes while the disk is busy
// shares the next write.
func (k *Kept) write() {
	for {
		k.mu.Lock()
		b := k.waiting
		if len(b.marks) == 0 {
			k.writing = false
			k.mu.Unlock()
			return
		}
		k.waiting = newKeptBatch()
		k.mu.Unlock()
		b.err = k.store(b.marks)
		k.mu.Lock()
		if k.fault = b.err; b.err != nil {
			k.failedAt = k.clock()
		}
		k.mu.Unlock()
		close(b.done)
	}
}

// store puts marks into the journal, and notes that they are there.
func (k *Kept) store(marks []QuotaMark) error {
	marks = newest(marks)
	if err := k.journal.Write(context.Background(), marks); err != nil {
		return fmt.Errorf("%w: what quotas have used cannot be written: %w", ErrUnavailable, err)
	}
	for i := range marks {
		k.shard(marks[i].Key).note(marks[i])
	}
	if now := k.clock(); now.Sub(k.prunedAt) >= pruneEvery {
		k.prunedAt = now
		k.prune()
	}
	return nil
}

// newest leaves one mark for each place: the latest unit, the most that is used.
func newest(marks []QuotaMark) []QuotaMark {
	type place struct {
		key, zone string
		calendar  Calendar
	}
	if len(marks) == 1 {
		return marks
	}
	at := make(map[place]int, len(marks))
	kept := marks[:0]
	for _, mark := range marks {
		p := place{string(mark.Key), mark.Zone, mark.Calendar}
		i, ok := at[p]
		switch {
		case !ok:
			at[p] = len(kept)
			kept = append(kept, mark)
		case mark.Start > kept[i].Start, mark.Start == kept[i].Start && mark.Used > kept[i].Used:
			kept[i] = mark
		}
	}
	return kept
}

func (s *keptShard) note(mark QuotaMark) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.marks[string(mark.Key)]
	for i := range list {
		if list[i].Calendar == mark.Calendar && list[i].Zone == mark.Zone {
			list[i] = mark
			return
		}
	}
	s.marks[string(mark.Key)] = append(list, mark)
}

// prune forgets the marks that are over. A journal that cannot be pruned only
// grows until it can.
func (k *Kept) prune() {
	now := k.now().wall
	_ = k.journal.Prune(context.Background(), now)
	for i := range k.shards {
		s := &k.shards[i]
		s.mu.Lock()
		for key, marks := range s.marks {
			left := marks[:0]
			for _, mark := range marks {
				if mark.End > now {
					left = append(left, mark)
				}
			}
			if s.marks[key] = left; len(left) == 0 {
				delete(s.marks, key)
			}
		}
		s.mu.Unlock()
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

// settle makes the journal say what was used, and nothing ahead. The gate is held.
func (k *Kept) settle(ctx context.Context) error {
	var marks []QuotaMark
	for i := range k.shards {
		s := &k.shards[i]
		s.mu.Lock()
		for key, list := range s.marks {
			for _, mark := range list {
				used := Units(0)
				k.quotaMarks([]byte(key), func(q *quotaState) {
					if q.unit == mark.Calendar && q.loc.String() == mark.Zone && q.start == mark.Start {
						used = q.used
					}
				})
				if used != mark.Used {
					mark.Used = used
					marks = append(marks, mark)
				}
			}
		}
		s.mu.Unlock()
	}
	if len(marks) == 0 {
		return nil
	}
	if err := k.journal.Write(ctx, marks); err != nil {
		return err
	}
	for _, mark := range marks {
		k.shard(mark.Key).note(mark)
	}
	return nil
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
