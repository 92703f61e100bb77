package limiter

import (
	"context"
	"time"
)

// Ledger keeps, for a while, what was charged for a decision, so that the
// gateway that got it can say later what it came to. Its methods are safe for
// concurrent use. What is in a record is the caller's own affair.
type Ledger interface {
	// Keep stores a record under a new id for ttl, which is positive. A record
	// that is there already stays as it is.
	Keep(ctx context.Context, id string, record []byte, ttl time.Duration) error
	// Look returns the record of id; nil if there is none (any more).
	Look(ctx context.Context, id string) ([]byte, error)
	// Mark sets a mark of the record to value, unless that mark was set before,
	// and returns what it is now: value if this call was the first. Nil: there
	// is no record. Of any number of concurrent calls, on any replica, exactly
	// one is the first. After an error it is not known whether it was set.
	Mark(ctx context.Context, id, mark string, value []byte) ([]byte, error)
}
