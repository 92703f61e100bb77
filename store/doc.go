// Package store holds the contracts of what Kelpie keeps beyond a decision. A
// driver keeps it in a file of one machine ([sqlitestore]) or in Redis for
// several ([redisstore]); both pass the suite in storetest.
//
// It is not the place for rules: who may vote, what a quorum is and when a yes
// lapses is for pdp, which reads a record and swaps it for the next.
//
//	found, opened, err := approvals.Open(ctx, &a, store.OpenLimits{Pending: 10, Now: now})
//	...
//	found.State = store.Denied
//	err = approvals.Swap(ctx, found) // store.ErrChanged: read it again
//
// [sqlitestore]: https://pkg.go.dev/github.com/kelpie-authz/kelpie/store/sqlitestore
// [redisstore]: https://pkg.go.dev/github.com/kelpie-authz/kelpie/store/redisstore
package store

import "errors"

var (
	// ErrNotFound says that there is no such record.
	ErrNotFound = errors.New("there is no such record")
	// ErrChanged says that a record is not what it was when it was read.
	ErrChanged = errors.New("the record was changed meanwhile; read it again")
	// ErrQuota says that an agent has asked for too much.
	ErrQuota = errors.New("the agent has too many open approvals, or opened too many within the hour")
	// ErrUnsure says that the store may have lost what was written to it last, so
	// that what is unused by its account can have been used.
	ErrUnsure = errors.New("the store was restarted or replaced since the record was written, and cannot vouch for it")
	// ErrUnavailable says that the store cannot be asked. It wraps the cause.
	ErrUnavailable = errors.New("the store cannot be asked")
	// ErrSchema says that the data is of a later release.
	ErrSchema = errors.New("the data is of a later release of Kelpie; run that one, or restore a backup of before")
)
