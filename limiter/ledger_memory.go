package limiter

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// ErrLedgerFull is returned for a record that there is no room for. A ledger
// never makes room by forgetting one that has not expired.
var ErrLedgerFull = errors.New("the ledger is full of records that have not expired; raise how many it may keep")

// MemoryLedgerConfig configures [NewMemoryLedger]. The zero value is fit for
// use.
type MemoryLedgerConfig struct {
	// Clock is read once per call. Nil: time.Now.
	Clock func() time.Time
	// MaxRecords is how many records are kept at most. Zero: 100,000.
	MaxRecords int
	// MaxBytes is how many bytes their ids, records and marks may have in all.
	// Zero: 64 MiB.
	MaxBytes int64
}

const (
	defaultLedgerRecords = 100_000
	defaultLedgerBytes   = 64 << 20
)

// MemoryLedger is the [Ledger] that keeps its records in this process. They
// are gone when it ends, and what they were of stays charged. It starts no
// goroutine: each call removes a few records that have expired.
type MemoryLedger struct {
	clock      func() time.Time
	maxRecords int
	maxBytes   int64

	mu      sync.Mutex
	records map[string]*ledgerRecord
	queue   ledgerQueue // by expiry
	bytes   int64
}

var _ Ledger = (*MemoryLedger)(nil)

type ledgerRecord struct {
	id      string
	record  []byte
	expires time.Time
	marks   map[string][]byte
	bytes   int64
}

// NewMemoryLedger returns an empty ledger. The error names a field of the
// configuration that is out of range.
func NewMemoryLedger(cfg MemoryLedgerConfig) (*MemoryLedger, error) {
	if cfg.MaxRecords < 0 || cfg.MaxBytes < 0 {
		return nil, fmt.Errorf("limiter: MaxRecords is %d and MaxBytes %d; both must be positive, or 0 for %d and %d",
			cfg.MaxRecords, cfg.MaxBytes, defaultLedgerRecords, defaultLedgerBytes)
	}
	l := &MemoryLedger{clock: cfg.Clock, maxRecords: cfg.MaxRecords, maxBytes: cfg.MaxBytes, records: map[string]*ledgerRecord{}}
	if l.clock == nil {
		l.clock = time.Now
	}
	if l.maxRecords == 0 {
		l.maxRecords = defaultLedgerRecords
	}
	if l.maxBytes == 0 {
		l.maxBytes = defaultLedgerBytes
	}
	return l, nil
}

// Len is how many records are kept, those that have expired and were not yet
// removed among them.
func (l *MemoryLedger) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.records)
}

// Keep implements [Ledger]. With [ErrLedgerFull] nothing was kept.
func (l *MemoryLedger) Keep(ctx context.Context, id string, record []byte, ttl time.Duration) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := CheckLedgerTTL(ttl); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock()
	l.removeExpired(now)
	if l.records[id] != nil {
		return nil
	}
	size := int64(len(id) + len(record))
	if len(l.records) >= l.maxRecords || l.bytes+size > l.maxBytes {
		return ErrLedgerFull
	}
	r := &ledgerRecord{id: id, record: slices.Clone(record), expires: now.Add(ttl), bytes: size}
	l.records[id] = r
	l.bytes += size
	heap.Push(&l.queue, r)
	return nil
}

// CheckLedgerTTL returns what is wrong with the life of a record, or nil.
// Drivers call it before they keep one.
func CheckLedgerTTL(ttl time.Duration) error {
	if ttl <= 0 {
		return fmt.Errorf("ledger: a record that lives for %v; give it a positive time", ttl)
	}
	return nil
}

// Look implements [Ledger].
func (l *MemoryLedger) Look(ctx context.Context, id string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.removeExpired(l.clock())
	r := l.records[id]
	if r == nil {
		return nil, nil
	}
	return append(make([]byte, 0, len(r.record)), r.record...), nil // never nil
}

// Mark implements [Ledger]. With [ErrLedgerFull] the mark was not set.
func (l *MemoryLedger) Mark(ctx context.Context, id, mark string, value []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.removeExpired(l.clock())
	r := l.records[id]
	if r == nil {
		return nil, nil
	}
	if set, ok := r.marks[mark]; ok {
		return append(make([]byte, 0, len(set)), set...), nil
	}
	size := int64(len(mark) + len(value))
	if l.bytes+size > l.maxBytes {
		return nil, ErrLedgerFull
	}
	if r.marks == nil {
		r.marks = map[string][]byte{}
	}
	r.marks[mark] = slices.Clone(value)
	r.bytes += size
	l.bytes += size
	return append(make([]byte, 0, len(value)), value...), nil
}

// removeExpired removes what has expired: a record is pushed once and popped
// once, so that it costs each call little.
func (l *MemoryLedger) removeExpired(now time.Time) {
	for len(l.queue) > 0 && !now.Before(l.queue[0].expires) {
		r, _ := heap.Pop(&l.queue).(*ledgerRecord)
		delete(l.records, r.id)
		l.bytes -= r.bytes
	}
}

// ledgerQueue is a heap of records, the one that expires first at the front.
type ledgerQueue []*ledgerRecord

func (q *ledgerQueue) Len() int           { return len(*q) }
func (q *ledgerQueue) Less(i, j int) bool { return (*q)[i].expires.Before((*q)[j].expires) }
func (q *ledgerQueue) Swap(i, j int)      { (*q)[i], (*q)[j] = (*q)[j], (*q)[i] }

// Push implements heap.Interface.
func (q *ledgerQueue) Push(x any) {
	r, _ := x.(*ledgerRecord)
	*q = append(*q, r)
}

// Pop implements heap.Interface.
func (q *ledgerQueue) Pop() any {
	last := len(*q) - 1
	r := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return r
}
