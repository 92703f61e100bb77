package limiter

import (
	"context"
	"fmt"
)

// unknownUsed is noted of a mark that the journal may have or not have: the next
// charge writes it anew.
const unknownUsed Units = -1

// write writes what waits until nothing does: who comes while the disk is busy
// shares the next write.
func (k *Kept) write() {
	for k.writeOne() {
	}
}

// writeOne writes the batch that waits; false: there was none.
func (k *Kept) writeOne() bool {
	k.disk <- struct{}{} // Before the batch is taken, so that who has the disk sees all that waits for it.
	defer func() { <-k.disk }()
	k.mu.Lock()
	b := k.waiting
	if len(b.marks) == 0 {
		k.writing = false
		k.mu.Unlock()
		return false
	}
	k.waiting = newKeptBatch()
	k.mu.Unlock()
	var wrote bool
	wrote, b.err = k.store(b.marks)
	k.mu.Lock()
	if wrote {
		k.fault, k.failedAt = b.err, k.clock()
	}
	k.mu.Unlock()
	close(b.done)
	return true
}

// store puts marks into the journal, and notes that they are there; wrote tells
// whether it lacked any. The disk is held.
func (k *Kept) store(marks []QuotaMark) (wrote bool, err error) {
	now := k.now().wall
	marks = newest(marks, now)
	left := marks[:0]
	for i := range marks {
		if k.shard(marks[i].Key).news(&marks[i], now) {
			left = append(left, marks[i])
		}
	}
	if marks = left; len(marks) == 0 {
		return false, nil
	}
	if err := k.journal.Write(context.Background(), marks); err != nil {
		return true, fmt.Errorf("%w: what quotas have used cannot be written: %w", ErrUnavailable, err)
	}
	for i := range marks {
		k.shard(marks[i].Key).note(marks[i])
	}
	if now := k.clock(); now.Sub(k.prunedAt) >= pruneEvery {
		k.prunedAt = now
		k.prune()
	}
	return true, nil
}

// join makes b say what both marks of one place say, so that a mark which was
// overtaken takes nothing back. A unit that is over when another has begun says
// nothing; one that is not (the clock went back) counts to the later one, which
// a bucket would never leave either.
func (b *QuotaMark) join(a *QuotaMark, now int64) {
	first, later := a, *b
	if a.Start > b.Start {
		first, later = b, *a
	}
	if first.Start == later.Start || now < first.End {
		later.Used = max(later.Used, first.Used)
	}
	*b = later
}

// newest leaves one mark for each place.
func newest(marks []QuotaMark, now int64) []QuotaMark {
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
		if i, ok := at[p]; ok {
			kept[i].join(&mark, now)
			continue
		}
		at[p] = len(kept)
		kept = append(kept, mark)
	}
	return kept
}

// news joins a mark with what the journal has, and tells whether it says more.
func (s *keptShard) news(mark *QuotaMark, now int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.marks[string(mark.Key)] {
		noted := &s.marks[string(mark.Key)][i]
		if noted.Calendar == mark.Calendar && noted.Zone == mark.Zone {
			mark.join(noted, now)
			return mark.Used != unknownUsed && (mark.Start != noted.Start || mark.Used != noted.Used)
		}
	}
	return true
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

// prune forgets the marks that have been over for a while. A journal that cannot be
// pruned only grows until it can.
func (k *Kept) prune() {
	until := k.now().wall - pruneAfter
	_ = k.journal.Prune(context.Background(), until)
	for i := range k.shards {
		s := &k.shards[i]
		s.mu.Lock()
		for key, marks := range s.marks {
			left := marks[:0]
			for _, mark := range marks {
				if mark.End > until {
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

// settle makes the journal say what was used, and nothing ahead. The gate is held,
// so whatever waits to be written is of calls that have gone, and took nothing.
func (k *Kept) settle(ctx context.Context) error {
	select {
	case k.disk <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-k.disk }()
	k.mu.Lock()
	k.waiting.marks = nil
	k.mu.Unlock()
	marks := k.ahead()
	if len(marks) == 0 {
		return nil
	}
	err := k.journal.Write(ctx, marks)
	for _, mark := range marks {
		if err != nil {
			mark.Used = unknownUsed
		}
		k.shard(mark.Key).note(mark)
	}
	return err
}

// ahead are the marks of which the journal says another use than there is, as
// they should be.
func (k *Kept) ahead() []QuotaMark {
	now := k.now().wall
	var marks []QuotaMark
	for i := range k.shards {
		s := &k.shards[i]
		s.mu.Lock()
		for key, list := range s.marks {
			for _, mark := range list {
				if now >= mark.End {
					continue // Its bucket may be gone, and the clock may be set back.
				}
				used := Units(0)
				k.quotaMarks([]byte(key), func(q *quotaState) {
					// An earlier unit, where the clock went back, counts to the later one; see join.
					if q.unit == mark.Calendar && q.loc.String() == mark.Zone && q.start <= mark.Start {
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
	return marks
}
