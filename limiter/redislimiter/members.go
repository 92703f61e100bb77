package redislimiter

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"sync"
	"sync/atomic"
	"time"
)

// A replica says that it lives once a second, and counts until it was silent for
// five.
const (
	heartbeat = time.Second
	silence   = 5 * time.Second
)

// members counts the replicas that share the limits. While Redis cannot be asked
// the last count stands.
type members struct {
	l     *Limiter
	id    string
	count atomic.Int64
	done  chan struct{}
	ended sync.WaitGroup
}

func (l *Limiter) join() *members {
	var id [8]byte
	_, _ = rand.Read(id[:]) // it never fails
	m := &members{l: l, id: hex.EncodeToString(id[:]), done: make(chan struct{})}
	m.count.Store(1)
	m.ended.Go(m.run)
	return m
}

func (m *members) run() {
	ticker := time.NewTicker(heartbeat)
	defer ticker.Stop()
	for {
		m.beat()
		select {
		case <-m.done:
			m.leave()
			return
		case <-ticker.C:
		}
	}
}

func (m *members) key() string {
	return string(appendHome(nil, m.l.prefix+":replicas", []byte("all"), 0, 0))
}

func (m *members) beat() {
	got, err := m.l.eval(context.Background(), memberScript, m.key(), m.id, silence.Milliseconds())
	if n, ok := got.(int64); err == nil && ok {
		m.count.Store(max(1, n))
	}
}

// leave lets the others have this replica's share at once.
func (m *members) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), m.l.cfg.Options.Timeout)
	defer cancel()
	m.l.client.ZRem(ctx, m.key(), m.id)
}

func (m *members) close() {
	close(m.done)
	m.ended.Wait()
}

// Replicas is how many replicas share the limits, this one among them, as far
// as it was last known: at least 1.
func (l *Limiter) Replicas() int {
	if l.members == nil {
		return 1
	}
	return int(l.members.count.Load())
}
