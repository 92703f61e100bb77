// Package audit is the record of everything that Kelpie decided and of all that
// changed what it decides: one [Record] a line, kept by a [Sink].
//
// It holds what every way of keeping records shares: the record and its one
// encoding, the hash chain and the signed checkpoints that make a change of
// what was kept noticeable, and the [Query]. It opens no file and knows no
// request; audit/fileaudit keeps records in files, and pdp fills them in.
//
//	err := sink.Append(ctx, &audit.Record{Time: now, Kind: audit.KindDecision, ...}, audit.Sync)
//	if errors.Is(err, audit.ErrUnavailable) { ... } // No ALLOW may leave.
//
// A record never holds a credential, and parameters only by their digest and
// by the members that [Mask] picked.
package audit
