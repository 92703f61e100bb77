package limiter

import "context"

// QuotaMark says how much of one calendar unit of a quota counts as used.
type QuotaMark struct {
	// Key names the bucket, as [Charge.Key] does.
	Key []byte
	// Calendar and Zone say which unit it is, in the zone of that IANA name.
	Calendar Calendar
	Zone     string
	// Start and End are the first instant of the unit and the first one after it,
	// in ticks; see [Ticks].
	Start, End int64
	Used       Units
}

// Journal keeps what quotas have handed out beyond the life of a process. A
// driver passes the suite in limitertest. One process uses a journal at a time;
// it is safe for concurrent use.
type Journal interface {
	// Load calls f with each mark that is kept. The marks belong to f.
	Load(ctx context.Context, f func(QuotaMark) error) error
	// Write keeps marks, each in the place of the one of its Key, Calendar and Zone:
	// all of them or, on an error, it is not known which. They are on the disk when
	// it returns.
	Write(ctx context.Context, marks []QuotaMark) error
	// Prune removes the marks that end at an instant or before it, in ticks.
	Prune(ctx context.Context, until int64) error
	// Close gives back what it holds. Closing twice is not an error.
	Close() error
}
