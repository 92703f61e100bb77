package redislimiter

import (
	"context"
	"errors"

	"github.com/redis/go-redis/v9"
)

// refusals counts the exchanges in which a server was there and refused: the user
// may not do it, or the memory is full. They say nothing about whether it will
// answer others, so no breaker looks at them.
type refusals struct {
	stats *stats
}

var _ redis.Hook = refusals{}

// refused tells whether an answer is a refusal. That a script is not known is
// none, and what closes a breaker off is counted with the failures.
func refused(err error) bool {
	_, reply := errors.AsType[redis.Error](err)
	return reply && !errors.Is(err, redis.Nil) && !outage(err) && !redis.HasErrorPrefix(err, "NOSCRIPT")
}

// DialHook implements [redis.Hook].
func (refusals) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook implements [redis.Hook].
func (r refusals) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if err != nil && refused(err) {
			r.stats.refused.Add(1)
		}
		return err
	}
}

// ProcessPipelineHook implements [redis.Hook].
func (r refusals) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		for _, cmd := range cmds {
			if fault := cmd.Err(); fault != nil && refused(fault) {
				r.stats.refused.Add(1)
				break
			}
		}
		return err
	}
}
