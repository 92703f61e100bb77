package main

import (
	"context"
	"fmt"
)

// ask puts one question about the key-th agent. The error says that no decision
// was made.
type ask func(ctx context.Context, key int) (admitted bool, err error)

// opened is a side that is connected.
type opened struct {
	// caller makes one caller's ask; its buffers are that caller's own.
	caller func() ask
	close  func()
}

// The sides that ratios are to: one call of a plain script, within the callers'
// process and behind a gRPC service.
const (
	plain       = "plain"
	plainServed = "plain, served"
	// empty is a gRPC service that answers at once.
	empty = "empty"
)

// side is one of those that are measured in turn.
type side struct {
	name string
	// about says under the table what it is.
	about string
	// open connects it. It is called in a worker.
	open func(ctx context.Context, j *job) (opened, error)
	// sent are the commands that its client sends to Redis, and how many each
	// stands for where some cannot be told from those of a script.
	sent map[string]int64
	// server is the process that is asked, for the sides that have one.
	server string
}

// bounds are the limits that a side is given.
type bounds string

const (
	// ample limits never deny in a benchmark.
	ample bounds = "ample"
	// few is ten an hour, so that what comes after the first ten is denied.
	few bounds = "few"
)

// One limit is ten seconds per call, so that no key goes idle, and expires, within
// a measurement; three are this one between two others.
const (
	ampleHourly, ampleBurst = 360, 3_000_000
	fewHourly, fewBurst     = 10, 10
)

// hourly is the limit that every side has: how many an hour, and at once.
func (b bounds) hourly() (count, burst int) {
	if b == few {
		return fewHourly, fewBurst
	}
	return ampleHourly, ampleBurst
}

// scripted are the commands of a client that runs scripts.
func scripted() map[string]int64 {
	return map[string]int64{"eval": 1, "evalsha": 1, "eval_ro": 1, "evalsha_ro": 1}
}

// allSides are the sides that there are. A row names one of them.
func allSides() []side {
	return []side{
		{name: plain, about: "one EVALSHA of a small script per call", open: openPlain, sent: scripted()},
		{name: "kelpie-1", about: "Kelpie, one limit", open: driver{}.open, sent: scripted()},
		{name: "kelpie-3", about: "Kelpie, three limits", open: driver{three: true}.open, sent: scripted()},
		{name: "kelpie-3, uncoalesced", about: "Kelpie, three limits, a command per call", open: driver{three: true, uncoalesced: true}.open, sent: scripted()},
		{name: "kelpie-3, forgetful", about: "Kelpie, three limits, nothing denied from memory", open: driver{three: true, forgetful: true}.open, sent: scripted()},
		{name: "kelpie-3, leased", about: "Kelpie, three limits with lease: true", open: driver{three: true, leased: true}.open, sent: scripted()},
		{name: "redis_rate", about: "github.com/go-redis/redis_rate/v10", open: openRedisRate, sent: scripted()},
		// TIME and GET go together; the script has a GET of its own.
		{
			name: "throttled", about: "github.com/throttled/throttled/v2", open: openThrottled,
			sent: map[string]int64{"time": 2, "set": 1, "expire": 1, "eval": 1},
		},
		{
			name: "ratelimit", about: "envoyproxy/ratelimit, one descriptor", open: openRateLimit, server: "ratelimit",
			sent: map[string]int64{"incrby": 1, "expire": 1},
		},
		{name: "serve-1", about: "kelpie serve, Authorize, one limit", open: openAuthorize, server: "serve-1", sent: scripted()},
		{name: "serve-3", about: "kelpie serve, Authorize, three limits", open: openAuthorize, server: "serve-3", sent: scripted()},
		{name: "serve-3, leased", about: "kelpie serve, Authorize, three limits with lease: true", open: openAuthorize, server: "serve-3, leased", sent: scripted()},
		{name: plainServed, about: "grpc-go, one EVALSHA of a small script per call", open: openAuthorize, server: plainServed, sent: scripted()},
		{name: empty, about: "grpc-go, answers at once", open: openAuthorize, server: empty},
	}
}

func sideNamed(name string) (side, error) {
	for _, s := range allSides() {
		if s.name == name {
			return s, nil
		}
	}
	return side{}, fmt.Errorf("there is no side %q", name)
}
