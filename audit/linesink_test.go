package audit_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/kelpie-authz/kelpie/audit"
	"github.com/kelpie-authz/kelpie/audit/audittest"
)

// lineFile is a line sink whose writer is a file.
type lineFile struct {
	*audit.LineSink

	file *os.File
	once sync.Once
	err  error
}

func (l *lineFile) Close() error {
	l.once.Do(func() { l.err = errors.Join(l.LineSink.Close(), l.file.Close()) })
	return l.err
}

func TestLineSinkConformance(t *testing.T) {
	t.Parallel()
	report := audittest.Run(t, audittest.Driver{
		NoSync: "lines go to a collector", NoReader: "lines go to a collector",
		Open: func(tb testing.TB, dir string) audit.Sink {
			tb.Helper()
			f, err := os.OpenFile(filepath.Join(dir, "lines"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
			if err != nil {
				tb.Fatal(err)
			}
			return &lineFile{LineSink: audit.NewLineSink(f, nil), file: f}
		},
		Kept: func(tb testing.TB, dir string) []audit.Record {
			tb.Helper()
			raw, err := os.ReadFile(filepath.Join(dir, "lines"))
			if err != nil {
				tb.Fatal(err)
			}
			var all []audit.Record
			for line := range bytes.SplitSeq(bytes.TrimSpace(raw), []byte("\n")) {
				if len(line) == 0 {
					continue
				}
				r, err := audit.DecodeRecord(line)
				if err != nil {
					tb.Fatal(err)
				}
				all = append(all, r)
			}
			return all
		},
	})
	if report.Ran != 12 || report.Ran+len(report.LeftOut) != audittest.Cases() {
		t.Errorf("%d cases ran and %d were left out of %d", report.Ran, len(report.LeftOut), audittest.Cases())
	}
}

// gate is a writer that stands still until it is opened.
type gate struct {
	open chan struct{}
	err  error
}

func (g *gate) Write(p []byte) (int, error) {
	<-g.open
	return len(p), g.err
}

func TestLineSinkNeverWaits(t *testing.T) {
	t.Parallel()
	g := &gate{open: make(chan struct{})}
	s := audit.NewLineSink(g, nil)
	r := audittest.Full()
	if err := s.Append(context.Background(), &r, audit.Sync); !errors.Is(err, audit.ErrUnavailable) {
		t.Errorf("Sync: %v", err)
	}
	var err error
	taken := 0
	for ; err == nil && taken < 1_000_000; taken++ {
		err = s.Append(context.Background(), &r, audit.Async)
	}
	if !errors.Is(err, audit.ErrUnavailable) || s.Lost() != 1 {
		t.Errorf("after %d records: %v, lost %d", taken, err, s.Lost())
	}
	close(g.open)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestLineSinkTellsOfLoss(t *testing.T) {
	t.Parallel()
	g := &gate{open: make(chan struct{}), err: io.ErrClosedPipe}
	close(g.open)
	told := make(chan error, 8)
	s := audit.NewLineSink(g, func(err error) { told <- err })
	r := audittest.Full()
	for range 3 {
		if err := s.Append(context.Background(), &r, audit.Async); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("Close = %v", err)
	}
	if s.Lost() != 3 || !errors.Is(<-told, io.ErrClosedPipe) {
		t.Errorf("lost %d", s.Lost())
	}
}

// sinkFunc is a sink of one function.
type sinkFunc func(r *audit.Record, d audit.Durability) error

func (f sinkFunc) Append(_ context.Context, r *audit.Record, d audit.Durability) error {
	return f(r, d)
}
func (sinkFunc) Close() error { return nil }

func TestTee(t *testing.T) {
	t.Parallel()
	var first, second []audit.Durability
	var fail error
	tee := audit.Tee(
		sinkFunc(func(_ *audit.Record, d audit.Durability) error { first = append(first, d); return fail }),
		sinkFunc(func(_ *audit.Record, d audit.Durability) error { second = append(second, d); return io.EOF }),
	)
	r := audittest.Full()
	if err := tee.Append(context.Background(), &r, audit.Sync); err != nil {
		t.Errorf("a collector's failure is the answer: %v", err)
	}
	fail = audit.ErrUnavailable
	if err := tee.Append(context.Background(), &r, audit.Sync); !errors.Is(err, fail) {
		t.Errorf("the answer is %v", err)
	}
	if len(first) != 2 || len(second) != 1 || second[0] != audit.Async {
		t.Errorf("first %v, second %v", first, second)
	}
	if err := tee.Close(); err != nil {
		t.Error(err)
	}
}
