package redislimiter

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kelpie-authz/kelpie/limiter"
)

var _ limiter.Inspector = (*Limiter)(nil)

const (
	// scanCount is how many keys Redis looks at in one step of a scan.
	scanCount = 1000
	// lookCount is how many values are read at once.
	lookCount = 100
	// scanTimeout bounds one step of a scan, for which no decision waits.
	scanTimeout = 2 * time.Second
)

var errNoSlot = errors.New("redislimiter: the slot is empty; name whose buckets are meant")

// Names implements [limiter.Inspector]. It scans all keys of Redis, step by
// step; what it names are homes, or "" where a long one is kept by its digest.
func (l *Limiter) Names(ctx context.Context, slot []byte, f func(name string) bool) error {
	if err := l.inspects(ctx, slot); err != nil {
		return err
	}
	begin := appendHome(nil, l.prefix, slot, len(slot), len(slot))
	plain := !bytes.Contains(begin, []byte("{#"))
	keys, err := l.homes(ctx, begin)
	if err != nil {
		return err
	}
	for some := range slices.Chunk(keys, lookCount) {
		used, err := l.inUse(ctx, some)
		if err != nil {
			return err
		}
		for _, key := range used {
			rest := key[len(begin):]
			name := ""
			if plain && !strings.HasPrefix(rest, "#") {
				name = string(slot) + rest
			}
			if !f(name) {
				return nil
			}
		}
	}
	return nil
}

// inspects tells why a slot cannot be looked at, or nil.
func (l *Limiter) inspects(ctx context.Context, slot []byte) error {
	switch {
	case len(slot) == 0:
		return errNoSlot
	case l.closed.Load():
		return limiter.ErrClosed
	}
	return ctx.Err()
}

// inUse returns those of the keys under which a bucket is that is not full yet.
// A value stays for a while after that, and as long as others beside it are in use.
func (l *Limiter) inUse(ctx context.Context, keys []string) ([]string, error) {
	pipe := l.client.Pipeline()
	values := make([]*redis.StringCmd, len(keys))
	for i, key := range keys {
		values[i] = pipe.Get(ctx, key)
	}
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return nil, unavailable(err)
	}
	now := l.now()
	var used []string
	for i, v := range values {
		value, err := v.Bytes()
		switch {
		case errors.Is(err, redis.Nil):
		case err != nil:
			return nil, unavailable(err)
		case owes(value, now):
			used = append(used, keys[i])
		}
	}
	return used, nil
}

// owes tells whether a value has a bucket that is not full at an instant. One of
// a version that is not known may.
func owes(value []byte, now int64) bool {
	in := cursor{b: value}
	version, n := in.byte(), int(in.byte())
	signs := in.take(n * signSize)
	in.take(8)
	for i := range n {
		if version != 1 || in.bad {
			return true
		}
		size := binary.LittleEndian.Uint32(signs[(i+1)*signSize-4:]) >> 8
		body := cursor{b: in.take(int(size))}
		if body.int() > now {
			return true
		}
	}
	return version != 1
}

// homes are the keys of all values that begin with begin.
func (l *Limiter) homes(ctx context.Context, begin []byte) ([]string, error) {
	pattern := escapePattern(string(begin)) + "*"
	var mu sync.Mutex
	seen := map[string]bool{}
	scan := func(ctx context.Context, node *redis.Client) error {
		it := node.WithTimeout(scanTimeout).Scan(ctx, 0, pattern, scanCount).Iterator()
		for it.Next(ctx) {
			mu.Lock()
			seen[it.Val()] = true
			mu.Unlock()
		}
		return it.Err()
	}
	var err error
	switch client := l.client.(type) {
	case *redis.ClusterClient:
		err = client.ForEachMaster(ctx, scan)
	case *redis.Client:
		err = scan(ctx, client)
	}
	if err != nil {
		if refused(err) { // the hook sees none of clients with a timeout of their own
			l.stats.refused.Add(1)
		}
		return nil, unavailable(err)
	}
	keys := make([]string, 0, len(seen))
	for key := range seen {
		keys = append(keys, key)
	}
	return keys, nil
}

// escapePattern makes a text stand for itself in a pattern of Redis.
func escapePattern(text string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`).Replace(text)
}

// Forget implements [limiter.Inspector]. Other replicas deny from memory for up
// to a second more; one that finds later that Redis has lost its data puts back
// what it remembers of before.
func (l *Limiter) Forget(ctx context.Context, slot, rest []byte) (int, error) {
	if err := l.inspects(ctx, slot); err != nil {
		return 0, err
	}
	keys, err := l.homes(ctx, appendHome(nil, l.prefix, slot, len(slot), len(slot)))
	if err != nil {
		return 0, err
	}
	var id any = ""
	if len(rest) > 0 {
		id = fnv32(rest)
	}
	var clock any = ""
	if l.cfg.Clock != nil {
		clock = l.now()
	}
	gone := 0
	for _, key := range keys {
		got, err := l.eval(ctx, forgetScript, false, key, id, clock)
		if err != nil {
			return gone, err
		}
		if n, ok := got.(int64); ok {
			gone += int(n)
		}
		l.floors.drop([]byte(key))
	}
	l.denials.forget()
	return gone, nil
}
