package fileaudit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"time"

	"github.com/kelpie-authz/kelpie/audit"
)

// tailEvery is how often a log is looked at for new lines.
const tailEvery = 100 * time.Millisecond

// Tail implements [audit.Reader]. It shows lines as soon as they are written,
// which can be before they are safe on the disk.
func (r *Reader) Tail(ctx context.Context, q *audit.Query) iter.Seq2[*audit.Line, error] {
	m, err := q.Matcher()
	f := &follower{dir: r.dir}
	if err == nil {
		err = f.toEnd()
	}
	return func(yield func(*audit.Line, error) bool) {
		defer f.close()
		if err != nil {
			yield(nil, err)
			return
		}
		tick := time.NewTicker(tailEvery)
		defer tick.Stop()
		for {
			more, err := f.drain(m, yield)
			if err != nil {
				yield(nil, err)
			}
			if err != nil || !more {
				return
			}
			select {
			case <-ctx.Done():
				yield(nil, ctx.Err())
				return
			case <-tick.C:
			}
		}
	}
}

// follower reads on where it stopped.
type follower struct {
	dir    string
	number uint64 // of the segment that is read, or was last
	l      *lines // nil: the next one is not there yet
	path   string
}

// toEnd passes over what is there.
func (f *follower) toEnd() error {
	segments, err := list(f.dir)
	if err != nil || len(segments) == 0 {
		return err
	}
	f.number = segments[len(segments)-1].number - 1
	if _, err := f.open(); err != nil {
		return err
	}
	for {
		if _, err := f.l.inTurn(0); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("follow %s, line %d: %w", f.path, f.l.count+1, err)
		}
	}
}

// open opens the next segment, or the first one after it that is there.
func (f *follower) open() (bool, error) {
	l, path, err := openLines(f.dir, f.number+1)
	if errors.Is(err, fs.ErrNotExist) {
		segments, err := list(f.dir)
		if err != nil || len(segments) == 0 || segments[0].number <= f.number+1 {
			return false, err
		}
		f.number = segments[0].number - 1 // What was between is removed.
		return f.open()
	}
	if err != nil {
		return false, fmt.Errorf("follow the audit: %w", err)
	}
	f.close()
	f.l, f.path = l, path
	f.number++
	return true, nil
}

// drain gives all that is there now; false: the consumer has enough.
func (f *follower) drain(m *audit.Matcher, yield func(*audit.Line, error) bool) (bool, error) {
	for {
		// The next segment is begun after the last line of this one was written,
		// so what is read after it was seen is all.
		next, err := readHeader(f.dir, f.number+1)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, fmt.Errorf("follow the audit: %w", err)
		}
		if more, err := f.lines(m, yield); err != nil || !more {
			return more, err
		}
		if err == nil && !next.there {
			return true, nil
		}
		if opened, err := f.open(); err != nil || !opened {
			return true, err
		}
	}
}

func (f *follower) lines(m *audit.Matcher, yield func(*audit.Line, error) bool) (bool, error) {
	for f.l != nil {
		raw, err := f.l.inTurn(0)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return false, fmt.Errorf("follow %s, line %d: %w", f.path, f.l.count+1, err)
		}
		line, err := audit.DecodeLine(raw)
		if err != nil {
			return false, fmt.Errorf("follow %s, line %d: %w", f.path, f.l.count, err)
		}
		if m.Match(&line.Record) && !yield(line, nil) {
			return false, nil
		}
	}
	return true, nil
}

func (f *follower) close() {
	if f.l != nil {
		_ = f.l.close() // It was only read.
		f.l = nil
	}
}
