package fileaudit

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/kelpie-authz/kelpie/audit"
)

// Config says where and how a Log is kept. Dir alone is needed.
type Config struct {
	// Dir holds the log and nothing else; it is made, with mode 0700, if it is
	// not there. One process writes it.
	Dir string
	// KeyFile is the Ed25519 key that signs checkpoints, in PEM (PKCS #8). It is
	// made, with mode 0600, if it is not there, and refused if others than its
	// owner can read it. "": audit.key in Dir; elsewhere is better, since who
	// has key and log can write another log. The public key is written beside
	// the log as audit.pub.
	KeyFile string

	// A new segment is begun when this one has SegmentBytes (0: 64 MiB) or is
	// SegmentAge old (0: 24 h).
	SegmentBytes int64
	SegmentAge   time.Duration
	// Closed segments are removed, oldest first, once their newest record is
	// older than KeepAge, and while all of them together are larger than
	// KeepBytes on disk. 0: never for that reason.
	KeepAge   time.Duration
	KeepBytes int64

	// PendingRecords and PendingBytes bound what waits to be written (0: 65,536
	// and 32 MiB). Who finds no room waits for up to Stall (0: 2 s). Nobody waits
	// longer for the disk either: all are refused while it has not answered for so long.
	PendingRecords int
	PendingBytes   int
	Stall          time.Duration
	// FlushEvery is how long an Async record may wait to be written with others
	// (0: 20 ms).
	FlushEvery time.Duration
	// CheckpointEvery is how long a record may stand unsigned, and an Async one
	// without fsync (0: 1 s, which is the most).
	CheckpointEvery time.Duration
	// RetryEvery is how often writing is tried again while it fails (0: 250 ms).
	RetryEvery time.Duration
	// CloseWithin is how long Close waits for a disk that does not answer (0: 5 s).
	CloseWithin time.Duration

	// Now is the clock for notes, ages and checkpoints; nil: time.Now.
	Now func() time.Time
	// Failed is told of what went wrong in the background; nil: not told. It
	// must not block.
	Failed func(error)
	// Checkpoint is given each signed head, one at a time, so that it can be
	// kept where who can write Dir cannot; nil: not given. It must not block.
	Checkpoint func(audit.Checkpoint)

	// create makes the file of a segment, reserve the file that holds room back;
	// tests put faults there.
	create  func(path string) (file, error)
	reserve func(path string) error
	// watchEvery is how often the age of what is not on the disk is looked at,
	// lateAfter the one from which on nobody is answered without waiting.
	watchEvery, lateAfter time.Duration
}

const (
	maxCheckpointEvery = time.Second
	maxWatchEvery      = 50 * time.Millisecond
)

func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" {
		return c, errors.New("the audit needs a directory")
	}
	for name, n := range map[string]int64{
		"SegmentBytes": c.SegmentBytes, "SegmentAge": int64(c.SegmentAge), "KeepAge": int64(c.KeepAge), "KeepBytes": c.KeepBytes,
		"PendingRecords": int64(c.PendingRecords), "PendingBytes": int64(c.PendingBytes), "Stall": int64(c.Stall),
		"FlushEvery": int64(c.FlushEvery), "CheckpointEvery": int64(c.CheckpointEvery), "RetryEvery": int64(c.RetryEvery),
		"CloseWithin": int64(c.CloseWithin),
	} {
		if n < 0 {
			return c, fmt.Errorf("the audit's %s is below 0", name)
		}
	}
	if c.CheckpointEvery > maxCheckpointEvery {
		return c, fmt.Errorf("the audit's CheckpointEvery is %v: at most %v", c.CheckpointEvery, maxCheckpointEvery)
	}
	orDefault(&c.KeyFile, filepath.Join(c.Dir, keyName))
	orDefault(&c.SegmentBytes, 64<<20)
	orDefault(&c.SegmentAge, 24*time.Hour)
	orDefault(&c.PendingRecords, 1<<16)
	orDefault(&c.PendingBytes, 32<<20)
	orDefault(&c.Stall, 2*time.Second)
	orDefault(&c.FlushEvery, 20*time.Millisecond)
	orDefault(&c.CheckpointEvery, maxCheckpointEvery)
	orDefault(&c.RetryEvery, 250*time.Millisecond)
	orDefault(&c.CloseWithin, 5*time.Second)
	orDefault(&c.watchEvery, max(time.Millisecond, min(maxWatchEvery, c.Stall/8)))
	orDefault(&c.lateAfter, maxCheckpointEvery-c.watchEvery)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Failed == nil {
		c.Failed = func(error) {}
	}
	if c.Checkpoint == nil {
		c.Checkpoint = func(audit.Checkpoint) {}
	}
	if c.create == nil {
		c.create = createFile
	}
	if c.reserve == nil {
		c.reserve = createReserve
	}
	return c, nil
}

func orDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
