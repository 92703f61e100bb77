package audit

import (
	"fmt"
	"time"
)

// FaultKind says what is wrong with a log.
type FaultKind string

// The faults.
const (
	// FaultMissing: a segment, the head or the start is not there.
	FaultMissing FaultKind = "missing"
	// FaultLine: bytes that are no line of a log.
	FaultLine FaultKind = "line"
	// FaultHash: a line is not what its hash says, or does not follow the one before.
	FaultHash FaultKind = "hash"
	// FaultSequence: a line has not the number that follows.
	FaultSequence FaultKind = "sequence"
	// FaultSegment: a segment is not the one that follows.
	FaultSegment FaultKind = "segment"
	// FaultForged: a checkpoint is not signed by the key, or not of this line.
	FaultForged FaultKind = "forged"
	// FaultLost: lines were gone when the log was opened, and the log says so itself.
	FaultLost FaultKind = "lost"
	// FaultTail: lines that a checkpoint vouches for are not there.
	FaultTail FaultKind = "tail"
	// FaultAppended: lines stand where nothing can have been written.
	FaultAppended FaultKind = "appended"
)

// Fault is the first place where a log is not what was written. Its names in JSON
// are a contract, as are those of a [Verification].
type Fault struct {
	Kind FaultKind `json:"kind"`
	// File is the file's name, without its directory.
	File string `json:"file"`
	// Line counts from 1; 0: it is not about a line.
	Line int `json:"line,omitempty"`
	// Seq is the number of the line that should stand there; 0: not known.
	Seq uint64 `json:"seq,omitempty"`
	// What is the sentence for a person.
	What string `json:"what"`
	// Known says that the log tells of it itself, signed: it happened before a
	// start that found it, and what follows is verified all the same.
	Known bool `json:"known,omitempty"`
}

// String says it in one line.
func (f *Fault) String() string {
	if f.Line == 0 {
		return fmt.Sprintf("%s: %s", f.File, f.What)
	}
	return fmt.Sprintf("%s:%d: %s", f.File, f.Line, f.What)
}

// Verification is what came of verifying a log.
type Verification struct {
	// Fault is the first one; nil: there is none.
	Fault *Fault `json:"fault"`
	// Later are those after it: at most one of each segment, besides those known.
	Later []Fault `json:"later,omitempty"`
	// Chain names the log.
	Chain string `json:"chain"`
	// Segments is how many were read, Lines and Records what stood in them;
	// records are lines without the log's notes.
	Segments int    `json:"segments"`
	Lines    uint64 `json:"lines"`
	Records  uint64 `json:"records"`
	// Proved is how many records behind the last Known fault, of all if there is
	// none, a signature vouches for.
	Proved uint64 `json:"proved"`
	// FirstSeq and LastSeq are the numbers of the first and last line.
	FirstSeq uint64 `json:"first_seq"`
	LastSeq  uint64 `json:"last_seq"`
	// From and To are the oldest and newest time of a record.
	From time.Time `json:"from,omitzero"`
	To   time.Time `json:"to,omitzero"`
	// Removed says that what was before FirstSeq was removed on purpose.
	Removed bool `json:"removed"`
	// Checkpoints is how many signatures were checked.
	Checkpoints int `json:"checkpoints"`
	// SignedSeq is the last line that the signed head vouches for, SignedAt
	// when it did. Unsigned is how many lines follow: they are chained, but who
	// can write the files could have made or cut them.
	SignedSeq uint64    `json:"signed_seq"`
	SignedAt  time.Time `json:"signed_at,omitzero"`
	Unsigned  uint64    `json:"unsigned"`
	// Closed says that the log was closed, so that nothing can follow.
	Closed bool `json:"closed"`
	// TornBytes is what stands behind the last whole line: a crash in the
	// middle of a write, or one that is going on.
	TornBytes int64 `json:"torn_bytes"`
	// Adopted is how many lines were taken over, unsigned, by starts after a crash:
	// who can write the files could have made them before the start.
	Adopted uint64 `json:"adopted"`
	// Crashes and Failures are how many segments ended so, Refused how many
	// records were refused meanwhile, Ignored how many lines of a failed segment
	// do not count.
	Crashes  int    `json:"crashes"`
	Failures int    `json:"failures"`
	Refused  uint64 `json:"refused"`
	// Lost is how many records were answered without waiting and could not be
	// written before the process ended: they are not in the log.
	Lost    uint64 `json:"lost"`
	Ignored uint64 `json:"ignored"`
}

// OK tells whether the log is what was written.
func (v *Verification) OK() bool { return v.Fault == nil }

// Faults are all that were found, in the order of the log.
func (v *Verification) Faults() []Fault {
	if v.Fault == nil {
		return nil
	}
	return append([]Fault{*v.Fault}, v.Later...)
}
