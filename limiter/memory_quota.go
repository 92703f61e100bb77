package limiter

import "time"

// quotaMarks calls f with how each calendar of a bucket stands.
func (m *Memory) quotaMarks(key []byte, f func(q *quotaState)) {
	_, index := m.shardOf(key)
	s := &m.shards[index]
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.buckets[string(key)]
	if b == nil {
		return
	}
	for q := b.quota; q != nil; q = q.next {
		f(q)
	}
}

// restore makes a bucket count what was used before this process began. A
// calendar unit that is over is left out. ErrFull: there is no room.
func (m *Memory) restore(mark *QuotaMark, loc *time.Location) error {
	if m.now().wall >= mark.End {
		return nil
	}
	_, index := m.shardOf(mark.Key)
	s := &m.shards[index]
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.buckets[string(mark.Key)]
	if b == nil {
		if m.keys.Add(1) > m.maxKeys {
			m.keys.Add(-1)
			return ErrFull
		}
		b = s.add(mark.Key)
	}
	b.quota = &quotaState{unit: mark.Calendar, loc: loc, start: mark.Start, end: mark.End, used: mark.Used, next: b.quota}
	return nil
}
