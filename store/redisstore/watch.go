package redisstore

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/redis/go-redis/v9"
)

// longestQueue is how many ids wait for somebody who watches; those beyond are
// lost, and who watches looks again from time to time.
const longestQueue = 1024

// watch tells those who watch what Redis tells: one subscription for all.
type watch struct {
	pubsub  *redis.PubSub
	hearing sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	watchers map[chan string]struct{}
}

// listen subscribes, and returns when Redis has said so.
func (s *Store) listen(ctx context.Context) error {
	w := &s.watch
	w.watchers = make(map[chan string]struct{})
	w.pubsub = s.link.client.Subscribe(context.WithoutCancel(ctx), s.names.channel())
	for {
		_, err := w.pubsub.ReceiveTimeout(ctx, connectTimeout)
		if err == nil {
			break
		}
		if _, reply := errors.AsType[redis.Error](err); reply || ctx.Err() != nil {
			return fmt.Errorf("listen to what is changed: %w", err)
		}
	}
	// The client subscribes again by itself when the connection is lost.
	messages := w.pubsub.Channel(redis.WithChannelSize(longestQueue))
	w.hearing.Go(func() {
		for m := range messages {
			w.spread(m.Payload)
		}
	})
	return nil
}

// deafen ends the subscription and tells all who watch.
func (s *Store) deafen() {
	w := &s.watch
	if w.pubsub != nil {
		_ = w.pubsub.Close() // Nothing is lost with it.
	}
	w.hearing.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	for own := range w.watchers {
		delete(w.watchers, own)
		close(own)
	}
}

// Watch implements [store.Approvals].
func (s *Store) Watch(ctx context.Context) (<-chan string, error) {
	w := &s.watch
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil, unavailable(ctx, errClosed)
	}
	own := make(chan string, longestQueue)
	w.watchers[own] = struct{}{}
	context.AfterFunc(ctx, func() { w.leave(own) })
	return own, nil
}

func (w *watch) leave(own chan string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, there := w.watchers[own]; there {
		delete(w.watchers, own)
		close(own)
	}
}

// spread tells everybody who watches. The check at the start tells of no id.
func (w *watch) spread(id string) {
	if id == "" {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for own := range w.watchers {
		select {
		case own <- id:
		default:
		}
	}
}
