package fileaudit

import (
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"

	"github.com/kelpie-authz/kelpie/audit"
)

// survey is what retention wants to know of segments while they are verified.
type survey struct {
	// until is how many segments have to be proved: then it is enough.
	until int
	// measure says that sizes are wanted too.
	measure bool

	found []surveyed
	// proved is how many of those found have a signature behind them, in a later one.
	proved int

	packed counter
	z      *gzip.Writer
}

// surveyed is one segment by what was written, whatever its file looks like.
type surveyed struct {
	segment

	from  mark // where it begins
	first audit.Line
	// plain and packed are its size before and after compression. It is counted
	// and not looked up: a file can be made larger without a change of what it holds.
	plain, packed int64
}

// onDisk is how much room it needs.
func (s *surveyed) onDisk() int64 {
	if s.gz {
		return s.packed
	}
	return s.plain
}

// counter is a writer that only counts.
type counter int64

// Write implements io.Writer.
func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

var _ io.Writer = (*counter)(nil)

// over tells whether nothing more is wanted.
func (s *survey) over(broken bool) bool { return s != nil && (broken || s.proved >= s.until) }

// begin says that a segment comes.
func (s *survey) begin(seg segment, from mark) error {
	if s == nil {
		return nil
	}
	if s.measure {
		if err := s.sum(); err != nil {
			return err
		}
	}
	s.found = append(s.found, surveyed{segment: seg, from: from})
	return nil
}

// sum ends the size of the last segment.
func (s *survey) sum() error {
	var err error
	if s.z == nil {
		s.z, err = gzip.NewWriterLevel(&s.packed, gzip.BestSpeed)
	} else if err = s.z.Close(); err == nil {
		s.found[len(s.found)-1].packed = int64(s.packed)
		s.packed = 0
		s.z.Reset(&s.packed)
	}
	if err != nil {
		return fmt.Errorf("measure the audit: %w", err)
	}
	return nil
}

// line takes a line that was verified.
func (s *survey) line(raw []byte, sealed *audit.Sealed, r *audit.Record) {
	if s == nil {
		return
	}
	last := &s.found[len(s.found)-1]
	if r.Kind == audit.KindSegment {
		last.first = audit.Line{Record: *r, Seq: sealed.Seq, Hash: sealed.Stated}
	}
	last.plain += int64(len(raw))
	if s.measure {
		_, _ = s.z.Write(raw) // A counter takes all.
	}
}

// vouched says that what was found up to here is signed.
func (s *survey) vouched() {
	if s != nil {
		s.proved = len(s.found) - 1
	}
}
