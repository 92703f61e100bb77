package pdp_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/kelpie-authz/kelpie/store"
)

// memoryApprovals keeps approvals in this process, to the letter of
// store.Approvals. The drivers have a suite of their own.
type memoryApprovals struct {
	mu       sync.Mutex
	rows     []*store.Approval // in the order of their opening
	watchers map[chan string]bool

	// doubted says that it cannot vouch for what was approved before.
	doubted bool
	// err fails every call, swapErr the next swap after it was done.
	err, swapErr error
	// beforeSwap is called without the lock before each swap.
	beforeSwap func(*store.Approval)
	swaps      int
}

func newMemoryApprovals() *memoryApprovals {
	return &memoryApprovals{watchers: map[chan string]bool{}}
}

func (m *memoryApprovals) at(id string) int {
	return slices.IndexFunc(m.rows, func(a *store.Approval) bool { return a.ID == id })
}

func (m *memoryApprovals) out(a *store.Approval) *store.Approval {
	c := a.Clone()
	c.Unsure = m.doubted && a.State == store.Approved
	return c
}

func (m *memoryApprovals) Open(_ context.Context, a *store.Approval, limits store.OpenLimits) (*store.Approval, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return nil, false, m.err
	}
	pending, hourly := 0, 0
	for _, row := range slices.Backward(m.rows) {
		if row.Digest == a.Digest && limits.Stands(row) {
			return m.out(row), false, nil
		}
		if row.Agent != a.Agent || row.Grant != nil {
			continue
		}
		if row.State == store.Pending && limits.Now.Before(row.ExpiresAt) {
			pending++
		}
		if row.OpenedAt.After(limits.Now.Add(-limits.Span)) {
			hourly++
		}
	}
	if a.Grant == nil && (limits.Pending > 0 && pending >= limits.Pending || limits.Hourly > 0 && hourly >= limits.Hourly) {
		return nil, false, store.ErrQuota
	}
	if m.at(a.ID) >= 0 {
		return nil, false, fmt.Errorf("%w: an id twice", store.ErrUnavailable)
	}
	row := a.Clone()
	row.State, row.Version = store.Pending, 1
	m.rows = append(m.rows, row)
	m.tell(row.ID)
	return row.Clone(), true, nil
}

func (m *memoryApprovals) Get(_ context.Context, id string) (*store.Approval, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return nil, m.err
	}
	if i := m.at(id); i >= 0 {
		return m.out(m.rows[i]), nil
	}
	return nil, store.ErrNotFound
}

func (m *memoryApprovals) ByDigest(_ context.Context, digest string) (*store.Approval, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return nil, m.err
	}
	for _, row := range slices.Backward(m.rows) {
		if row.Digest == digest {
			return m.out(row), nil
		}
	}
	return nil, store.ErrNotFound
}

func (m *memoryApprovals) Swap(_ context.Context, a *store.Approval) error {
	if m.beforeSwap != nil {
		m.beforeSwap(a)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.swaps++
	if m.err != nil {
		return m.err
	}
	i := m.at(a.ID)
	switch {
	case i < 0:
		return store.ErrNotFound
	case m.rows[i].Version != a.Version:
		return store.ErrChanged
	case m.doubted && m.rows[i].State == store.Approved && a.State != store.Pending:
		return store.ErrUnsure
	}
	a.Version++
	m.rows[i] = a.Clone()
	m.rows[i].Unsure = false
	m.tell(a.ID)
	if err := m.swapErr; err != nil {
		m.swapErr = nil
		return err
	}
	return nil
}

func (m *memoryApprovals) List(_ context.Context, f store.Filter) ([]*store.Approval, string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return nil, "", m.err
	}
	limit := f.Limit
	if limit == 0 {
		limit = 100
	}
	from := len(m.rows) - 1
	if f.After != "" {
		n, err := strconv.Atoi(f.After)
		if err != nil {
			return nil, "", fmt.Errorf("%w: %w", store.ErrUnavailable, err)
		}
		from = n
	}
	var list []*store.Approval
	for i := from; i >= 0; i-- {
		row := m.rows[i]
		if len(f.States) > 0 && !slices.Contains(f.States, row.State) || f.Agent != "" && row.Agent != f.Agent {
			continue
		}
		if len(list) == limit {
			return list, strconv.Itoa(i), nil
		}
		list = append(list, m.out(row))
	}
	return list, "", nil
}

func (m *memoryApprovals) Watch(ctx context.Context) (<-chan string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return nil, m.err
	}
	ch := make(chan string, 1024)
	m.watchers[ch] = true
	context.AfterFunc(ctx, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.watchers, ch)
		close(ch)
	})
	return ch, nil
}

// tell is called with the lock held. What finds no room is not told.
func (m *memoryApprovals) tell(id string) {
	for ch := range m.watchers {
		select {
		case ch <- id:
		default:
		}
	}
}

func (m *memoryApprovals) Prune(_ context.Context, before time.Time) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := len(m.rows)
	m.rows = slices.DeleteFunc(m.rows, func(a *store.Approval) bool { return a.Settled() && a.EndedAt.Before(before) })
	return n - len(m.rows), m.err
}

func (m *memoryApprovals) Close() error { return nil }

// row is a copy of what is stored.
func (m *memoryApprovals) row(id string) *store.Approval {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rows[m.at(id)].Clone()
}

// change changes what is stored behind everybody's back.
func (m *memoryApprovals) change(id string, f func(*store.Approval)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	row := m.rows[m.at(id)]
	f(row)
	row.Version++
}

func (m *memoryApprovals) set(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}
