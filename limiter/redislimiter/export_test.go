package redislimiter

import (
	"context"
	"encoding/binary"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kelpie-authz/kelpie/limiter"
)

// TheLongWay makes every request of a Limiter go the long way of the script.
func TheLongWay(cfg *Config) { cfg.long = true }

// Lanes sets how many batches are under way at once.
func Lanes(cfg *Config, n int) { cfg.lanes = n }

// HomeKey is the key of a home in Redis.
func HomeKey(prefix string, key []byte, slot, home int) string {
	return string(appendHome(nil, prefix, key, slot, home))
}

// WatchLeases tells f of each charge that is paid from a lease, and when. Call it
// before anything else.
func (l *Limiter) WatchLeases(f func(c *limiter.Charge, at time.Time)) {
	l.leaser.leases.spent = func(c *limiter.Charge, at int64) { f(c, l.leaser.began.Add(time.Duration(at))) }
}

// Ways counts which way of the script the answers of a Limiter came.
type Ways struct{ Short, Long atomic.Int64 }

// Watch counts the ways of a Limiter of one server from now on.
func (l *Limiter) Watch() *Ways {
	w := &Ways{}
	client, _ := l.client.(*redis.Client)
	client.AddHook(w)
	return w
}

func (w *Ways) count(cmd redis.Cmder) {
	c, ok := cmd.(*command)
	if !ok {
		return
	}
	text, err := c.Text()
	if err != nil || len(text) < 10 {
		return
	}
	at := 10 + int(binary.LittleEndian.Uint16([]byte(text[8:])))
	switch {
	case at >= len(text): // of a debit, which is not judged
	case text[at] == 0:
		w.Short.Add(1)
	default:
		w.Long.Add(1)
	}
}

// DialHook implements [redis.Hook].
func (w *Ways) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook implements [redis.Hook].
func (w *Ways) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		w.count(cmd)
		return err
	}
}

// ProcessPipelineHook implements [redis.Hook].
func (w *Ways) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		for _, cmd := range cmds {
			w.count(cmd)
		}
		return err
	}
}
