package redislimiter

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// LogTo hands what the Redis client writes for its developers, such as each
// connection that failed, to f, which is called by many goroutines. The client
// has one log for the whole process, which is the standard error unless this
// says otherwise; so it is for who owns the process, before [New]. It holds
// addresses and no passwords. What a Limiter meets is in its errors and [Stats].
func LogTo(f func(text string)) { redis.SetLogger(clientLog(f)) }

type clientLog func(text string)

// Printf implements the log of the client.
func (l clientLog) Printf(_ context.Context, format string, args ...any) {
	l(fmt.Sprintf(format, args...))
}
