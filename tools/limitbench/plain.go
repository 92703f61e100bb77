package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/redis/go-redis/v9"
)

// plainScript is what one would write by hand: one limit by GCRA, in
// microseconds. It returns how long to wait, 0 if the call is admitted.
const plainScript = `
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local tat = tonumber(redis.call('GET', KEYS[1])) or now
if tat < now then tat = now end
tat = tat + ARGV[1]
local wait = tat - ARGV[2] - now
if wait > 0 then return wait end
redis.call('SET', KEYS[1], string.format('%.0f', tat), 'PX', math.ceil((tat - now) / 1000))
return 0
`

// newClient is a client with the default settings, but that it sends nothing twice.
func newClient(addr string) *redis.Client {
	return redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1})
}

// closer closes a client whose work is done: there is nobody to tell of an error.
func closer(c *redis.Client) func() {
	return func() { _ = c.Close() }
}

// appendAgent appends the name of an agent.
func appendAgent(dst []byte, key int) []byte {
	return strconv.AppendInt(append(dst, "swarm/"...), int64(key), 10)
}

// agentKey is a key in Redis, one for each agent.
func agentKey(prefix string, key int) string {
	var buf [64]byte
	return string(appendAgent(append(buf[:0], prefix...), key))
}

// plainLimiter is one call of the script per decision.
type plainLimiter struct {
	client *redis.Client
	sha    string
}

func newPlainLimiter(ctx context.Context, addr string) (*plainLimiter, error) {
	client := newClient(addr)
	sha, err := client.ScriptLoad(ctx, plainScript).Result()
	if err != nil {
		closer(client)()
		return nil, fmt.Errorf("load the script: %w", err)
	}
	return &plainLimiter{client: client, sha: sha}, nil
}

func (p *plainLimiter) take(ctx context.Context, key string, b bounds) (bool, error) {
	count, burst := b.hourly()
	increment := 3600 * 1_000_000 / count
	wait, err := p.client.EvalSha(ctx, p.sha, []string{key}, increment, increment*burst).Int64()
	return wait == 0 && err == nil, err
}

func openPlain(ctx context.Context, j *job) (opened, error) {
	limiter, err := newPlainLimiter(ctx, j.Redis)
	if err != nil {
		return opened{}, err
	}
	one := func(ctx context.Context, key int) (bool, error) {
		return limiter.take(ctx, agentKey("plain:", key), j.Bounds)
	}
	return opened{caller: func() ask { return one }, close: closer(limiter.client)}, nil
}
