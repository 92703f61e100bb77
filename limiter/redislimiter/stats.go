package redislimiter

import "sync/atomic"

// Stats counts what a Limiter did since its start. All but Open only grow.
type Stats struct {
	// Calls is how many calls were judged by the store, and Denied how many of
	// them were not admitted.
	Calls, Denied int64
	// Exchanges is how many times something was sent and its answer awaited,
	// Commands how many commands went with them. Failures is how many exchanges
	// failed.
	Exchanges, Commands, Failures int64
	// Scripts is how many times the text of a script had to be sent.
	Scripts int64
	// Coalesced is how many calls went along with another one's command.
	Coalesced int64
	// DenyHits is how many calls were denied from memory.
	DenyHits int64
	// Opened is how many times a breaker opened, Open how many are open now.
	Opened, Open int64
	// Floors is how many buckets that the store had lost were put back.
	Floors int64
}

type stats struct {
	calls, denied, exchanges, commands, failures, scripts, coalesced, denyHits, opened, open, floors atomic.Int64
}

func (s *stats) read() Stats {
	return Stats{
		Calls: s.calls.Load(), Denied: s.denied.Load(),
		Exchanges: s.exchanges.Load(), Commands: s.commands.Load(), Failures: s.failures.Load(),
		Scripts: s.scripts.Load(), Coalesced: s.coalesced.Load(), DenyHits: s.denyHits.Load(),
		Opened: s.opened.Load(), Open: s.open.Load(), Floors: s.floors.Load(),
	}
}
