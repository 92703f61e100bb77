package redislimiter

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
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

	// missed counts the heartbeats in a row that failed, and answered is how many
	// exchanges had not failed at the first of them. Both are run's own.
	missed   int
	answered int64
}

// missesToOpen is how many heartbeats in a row have to fail before a server is
// given up: nobody waited for them, so that one was late harms nobody.
const missesToOpen = 2

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
	got, err := m.ask()
	if err != nil && outage(err) {
		m.miss(err)
		return
	}
	m.missed = 0
	n, ok := got.(int64)
	if err != nil || !ok {
		return
	}
	if n < 0 {
		// Redis has lost it, and what else with it?
		m.l.floors.suspect()
		n = -n
	}
	m.count.Store(max(1, n))
}

// miss notes a heartbeat that failed. Without calls nobody else would notice that
// the server is gone. Where calls are answered it is not, and only the heartbeat
// was late, as on a busy machine; in a cluster other nodes answer, so there a
// connection that was refused or cut is enough.
func (m *members) miss(cause error) {
	s := &m.l.stats
	answered := s.exchanges.Load() - s.failures.Load()
	gone := m.l.nodes != nil && dead(cause)
	if m.missed == 0 || (answered > m.answered && !gone) {
		m.missed, m.answered = 1, answered
		return
	}
	if m.missed++; m.missed < missesToOpen {
		return
	}
	m.missed = 0
	k := m.l.only
	if k == nil {
		var err error
		if k, err = m.l.nodes.way([]byte(m.key())); err != nil {
			return // it is being closed, or no node is known: then calls fail at once
		}
	}
	k.giveUp(cause)
}

// dead tells whether an error shows that nobody serves at the other end.
func dead(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) || closed(err) }

// ask sends the heartbeat on a connection of its own: it is to take no place from
// a decision.
func (m *members) ask() (any, error) {
	ctx, cancel := context.WithTimeout(context.Background(), m.l.cfg.Options.Timeout)
	defer cancel()
	run := func(name, which string) (any, error) {
		cmd := &command{redis.NewCmd(ctx, name, which, 1, m.key(), m.id, silence.Milliseconds())}
		_ = m.l.client.Process(ctx, cmd)
		return cmd.Result()
	}
	got, err := run("evalsha", memberScript.sha)
	if err != nil && redis.HasErrorPrefix(err, "NOSCRIPT") {
		got, err = run("eval", memberScript.text)
	}
	return got, err
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
