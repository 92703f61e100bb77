package limiter

import "context"

// Inspector is what a [Limiter] may be besides: one that can tell which buckets
// belong to a slot, and forget them. It is for administrators; a call may take
// long, and looks at no more than the one slot. Its methods are safe for
// concurrent use with each other and with those of Limiter.
type Inspector interface {
	// Names calls f for every bucket of the slot that is in use (charged, and not
	// full again by time alone), or for every home that has such a bucket. The name
	// is a key, or as much of it as the driver keeps: at least the home. It is ""
	// where not even that is kept. A name can come more than once, and one of a
	// bucket that has just become full too. f must not call the limiter; it returns
	// false to end it. The slot is not empty.
	Names(ctx context.Context, slot []byte, f func(name string) bool) error

	// Forget makes buckets of the slot full, as if they had never been charged, and
	// returns how many were in use: all of them, or with rest those alone whose key
	// ends in rest behind its home. Slots that are held by calls under way are
	// forgotten too. A [Receipt] of before stays good for Refund and Debit, which
	// then work on what was charged since; give back nothing that was forgotten.
	Forget(ctx context.Context, slot, rest []byte) (int, error)
}
