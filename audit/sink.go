package audit

import (
	"context"
	"errors"
	"iter"
)

// Durability says how safe a record is when [Sink.Append] returns.
type Durability uint8

// The durabilities. The zero value is the safe one.
const (
	// Sync: the record is on the disk and survives the loss of power.
	Sync Durability = iota
	// Async: the record was taken and will be written soon; a crash of the
	// process or of the machine can lose it, and an end while nothing can be
	// written. Nothing else can.
	Async
)

// String is the name in configuration and metrics.
func (d Durability) String() string {
	if d == Async {
		return "async"
	}
	return "sync"
}

// Sink keeps records. It is safe for concurrent use.
type Sink interface {
	// Append keeps r before it returns, as safely as d says, or says why not.
	// Records of one caller are kept in the order of its calls, and one that was
	// kept with Sync has all before it on the disk as well. r belongs to the caller
	// and is not looked at after the return.
	//
	// An error that is [ErrUnavailable] means that no record can be kept now;
	// the sink goes on trying by itself. Where ctx ends first, the error is
	// ErrUnavailable too, and the record may or may not be kept. [ErrInvalid]
	// means that this record cannot be kept. After Close it is [ErrClosed].
	Append(ctx context.Context, r *Record, d Durability) error

	// Close keeps what was taken and ends the sink. Calling it again does
	// nothing and gives the same error.
	Close() error
}

// Reader finds what a Sink kept. It is safe for concurrent use.
type Reader interface {
	// Query gives the lines that q selects, in q's order. It ends after an
	// error, or when its consumer has enough. A line and what it holds belong
	// to the consumer.
	Query(ctx context.Context, q *Query) iter.Seq2[*Line, error]
	// Tail gives the lines that q selects and that come after the call, for
	// ever: it ends by ctx, whose error it gives last. Limit and Order of q are
	// not looked at.
	Tail(ctx context.Context, q *Query) iter.Seq2[*Line, error]
}

// Errors of a Sink; see [Sink.Append].
var (
	ErrUnavailable = errors.New("the audit cannot be written")
	ErrInvalid     = errors.New("not a record of the audit")
	// ErrClosed is an ErrUnavailable that no retry mends.
	ErrClosed error = closedError{}
)

type closedError struct{}

func (closedError) Error() string        { return "the audit is closed" }
func (closedError) Is(target error) bool { return target == ErrUnavailable }

// Check says, as an [ErrInvalid], why a sink has to refuse r; nil: it has not.
func Check(r *Record) error {
	switch {
	case r.Kind.Note():
		return &invalidError{"kind " + string(r.Kind) + " is for the log itself"}
	case !r.Kind.Valid():
		return &invalidError{"it has no kind that is known, but " + clip(string(r.Kind))}
	case r.Time.IsZero():
		return &invalidError{"it has no time"}
	case r.Note != nil:
		return &invalidError{"it has a note, which is for the log itself"}
	default:
		return nil
	}
}

// CheckSize refuses, as an [ErrInvalid], a record that would not fit a line.
func CheckSize(record []byte) error {
	const seq = len(seqMark) + 21
	if len(record)+seq+sealLen > MaxLine {
		return &invalidError{"it is longer than a line may be (1 MiB)"}
	}
	return nil
}

type invalidError struct{ what string }

func (e *invalidError) Error() string { return ErrInvalid.Error() + ": " + e.what }
func (e *invalidError) Unwrap() error { return ErrInvalid }
