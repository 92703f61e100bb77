package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
)

// maxLinesWaiting bounds what a LineSink holds for a slow reader, in bytes.
const maxLinesWaiting = 8 << 20

// Errors of a [LineSink].
var (
	errNoSync  = fmt.Errorf("%w: lines for a collector cannot be kept before the call returns", ErrUnavailable)
	errNoRoom  = fmt.Errorf("%w: the collector reads too slowly, and 8 MiB wait for it", ErrUnavailable)
	errNotRead = errors.New("lines for a collector were lost")
)

// LineSink writes records to an io.Writer, one JSON object a line without
// number and hash, for a collector. It takes [Async] alone and never waits: a
// record that finds no room is refused and counted. It is safe for concurrent
// use; its zero value is not usable.
type LineSink struct {
	out    io.Writer
	failed func(error)

	mu      sync.Mutex
	waiting []byte
	records uint64 // in waiting
	lost    uint64
	fault   error
	closed  bool

	wake chan struct{}
	done chan struct{}
}

// NewLineSink starts a sink to out. failed is told of each write that failed,
// whose lines are lost; nil: not told. Close ends it, and does not close out.
func NewLineSink(out io.Writer, failed func(error)) *LineSink {
	if failed == nil {
		failed = func(error) {}
	}
	s := &LineSink{out: out, failed: failed, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go s.loop()
	return s
}

// Append implements [Sink].
func (s *LineSink) Append(_ context.Context, r *Record, d Durability) error {
	if err := Check(r); err != nil {
		return err
	}
	if d != Async {
		return errNoSync
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	before := len(s.waiting)
	s.waiting = append(AppendRecord(s.waiting, r), '\n')
	if err := CheckSize(s.waiting[before:]); err != nil {
		s.waiting = s.waiting[:before]
		return err
	}
	if len(s.waiting) > maxLinesWaiting {
		s.waiting = s.waiting[:before]
		s.lost++
		return errNoRoom
	}
	s.records++
	signal(s.wake)
	return nil
}

// Lost is how many records did not reach the collector.
func (s *LineSink) Lost() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost
}

// Close implements [Sink]: it writes what waits. The error is that of the last
// write, if it failed.
func (s *LineSink) Close() error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.wake)
	}
	s.mu.Unlock()
	<-s.done
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fault
}

func (s *LineSink) loop() {
	defer close(s.done)
	var chunk []byte
	for open := true; open; {
		_, open = <-s.wake
		s.mu.Lock()
		chunk, s.waiting = s.waiting, chunk[:0]
		records := s.records
		s.records = 0
		s.mu.Unlock()
		if len(chunk) > 0 {
			s.write(chunk, records)
		}
	}
}

func (s *LineSink) write(chunk []byte, records uint64) {
	n, err := s.out.Write(chunk)
	if err == nil && n < len(chunk) {
		err = io.ErrShortWrite
	}
	if err != nil {
		err = fmt.Errorf("%w: %w", errNotRead, err)
	}
	s.mu.Lock()
	s.fault = err
	if err != nil {
		s.lost += records
	}
	s.mu.Unlock()
	if err != nil {
		s.failed(err)
	}
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
