package redislimiter

import (
	"context"
	"errors"
	"sync"

	"github.com/redis/go-redis/v9"
)

// servers knows the processes that limits are kept by. One that is new is
// another server, or the same after a restart, and may not know what was told to
// the one before. Nobody has to call while it is away to find out.
type servers struct {
	// lost is told that values may be lost.
	lost func()

	mu  sync.Mutex
	ids map[string]bool
}

// greet looks at the server at the other end of a new connection.
func (s *servers) greet(ctx context.Context, conn *redis.Conn) error {
	text, err := conn.Info(ctx, "server").Result()
	if _, reply := errors.AsType[redis.Error](err); reply {
		return nil // What the connection is for will fail too, or need not know.
	}
	if err != nil {
		return err //nolint:wrapcheck // It is the client's own, and goes back to it.
	}
	id := parseInfo(text)["run_id"]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ids[id] {
		return nil
	}
	if s.ids == nil {
		s.ids = make(map[string]bool)
	} else {
		s.lost()
	}
	s.ids[id] = true
	return nil
}
