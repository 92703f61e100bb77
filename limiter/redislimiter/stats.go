package redislimiter

import "sync/atomic"

// Stats counts what a Limiter did since its start. All but Open only grow.
type Stats struct {
	// Calls is how many calls were judged by the store, and Denied how many of
	// them were not admitted.
	Calls, Denied int64
	// Exchanges is how many times something was sent and its answer awaited,
	// Commands how many commands went with them. Failures is how many exchanges
	// got no answer, or one that the server cannot serve now.
	Exchanges, Commands, Failures int64
	// Refused is how many exchanges a server answered by a refusal: the user may
	// not do that, or the memory is full. Those of the heartbeat count too.
	Refused int64
	// Scripts is how many times the text of a script had to be sent.
	Scripts int64
	// Coalesced is how many calls went along with another one's command.
	Coalesced int64
	// DenyHits is how many calls were denied from memory.
	DenyHits int64
	// Opened is how many times a breaker opened, Open how many are open now.
	Opened, Open int64
	// Leased is how many charges were paid from units that were taken ahead,
	// without asking the store. Leases is how many times units were taken ahead,
	// LeasedUnits how many, and Stranded how many millionths of them were not
	// spent in time.
	Leased, Leases, LeasedUnits, Stranded int64
	// Floors is how many buckets that the store had lost were put back.
	Floors int64
}

type stats struct {
	calls, denied, exchanges, commands, failures, refused, scripts, coalesced, denyHits, opened, open, floors atomic.Int64
	leased, leases, leasedUnits, stranded                                                                     atomic.Int64
}

func (s *stats) read() Stats {
	return Stats{
		Calls: s.calls.Load(), Denied: s.denied.Load(),
		Exchanges: s.exchanges.Load(), Commands: s.commands.Load(), Failures: s.failures.Load(), Refused: s.refused.Load(),
		Scripts: s.scripts.Load(), Coalesced: s.coalesced.Load(), DenyHits: s.denyHits.Load(),
		Leased: s.leased.Load(), Leases: s.leases.Load(), LeasedUnits: s.leasedUnits.Load(), Stranded: s.stranded.Load(),
		Opened: s.opened.Load(), Open: s.open.Load(), Floors: s.floors.Load(),
	}
}
