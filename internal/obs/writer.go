package obs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

const (
	// flushEvery is how long a line may wait to be written with others.
	flushEvery = 50 * time.Millisecond
	// flushBytes is how much is written at once without waiting.
	flushBytes = 256 << 10
	// maxPending bounds what waits to be written.
	maxPending = 8 << 20
	// maxStall is how long a Write may wait for room.
	maxStall = 2 * time.Second
)

// ErrStalled is returned for a line that found no room in time.
var ErrStalled = errors.New("the log's reader is too slow: no room for another line")

// errClosed is returned for a line after Close.
var errClosed = errors.New("the log is closed")

// Writer collects lines and writes them in the background, many at once. When
// what waits reaches 8 MiB, Write waits for room: back-pressure, not loss.
// After a failed write every Write fails until what waits could be written.
// It is safe for concurrent use; its zero value is not usable.
type Writer struct {
	out    io.Writer
	failed func(error)

	mu      sync.Mutex
	pending []byte
	spare   []byte
	fault   error
	closed  bool
	room    chan struct{} // Closed when room was made, then made anew.

	wake chan struct{}
	full chan struct{}
	stop chan struct{}
	done chan struct{}
}

// NewWriter starts a writer to out. failed is told of each failed attempt;
// nil: not told. Close ends it.
func NewWriter(out io.Writer, failed func(error)) *Writer {
	if failed == nil {
		failed = func(error) {}
	}
	w := &Writer{
		out: out, failed: failed,
		room: make(chan struct{}),
		wake: make(chan struct{}, 1), full: make(chan struct{}, 1),
		stop: make(chan struct{}), done: make(chan struct{}),
	}
	go w.loop()
	return w
}

// Write takes p, whole or not at all. A nil error means that p will be written
// unless the process dies or out fails.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.pending)+len(p) > maxPending {
		if err := w.awaitRoom(len(p)); err != nil {
			return 0, err
		}
	}
	switch {
	case w.closed:
		return 0, errClosed
	case w.fault != nil:
		return 0, w.fault
	}
	before := len(w.pending)
	w.pending = append(w.pending, p...)
	if before == 0 {
		signal(w.wake)
	}
	if before < flushBytes && len(w.pending) >= flushBytes {
		signal(w.full)
	}
	return len(p), nil
}

// awaitRoom waits, with mu held on entry and return.
func (w *Writer) awaitRoom(n int) error {
	timer := time.NewTimer(maxStall)
	defer timer.Stop()
	for len(w.pending)+n > maxPending && !w.closed && w.fault == nil {
		room := w.room
		w.mu.Unlock()
		var late bool
		select {
		case <-room:
		case <-timer.C:
			late = true
		}
		w.mu.Lock()
		if late {
			// Until something could be written again, nobody else waits.
			w.fault = ErrStalled
			return ErrStalled
		}
	}
	return nil
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Err is the fault of the last attempt to write; nil if it went well.
func (w *Writer) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fault
}

// Close writes what waits and stops. ctx bounds how long it waits for that;
// the error says that lines may be lost. Closing twice is not an error.
func (w *Writer) Close(ctx context.Context) error {
	w.mu.Lock()
	if !w.closed {
		w.closed = true
		close(w.stop)
		w.makeRoom()
	}
	w.mu.Unlock()
	select {
	case <-w.done:
		return w.Err()
	case <-ctx.Done():
		return fmt.Errorf("close the log: %w", ctx.Err())
	}
}

func (w *Writer) makeRoom() {
	close(w.room)
	w.room = make(chan struct{})
}

func (w *Writer) loop() {
	defer close(w.done)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-w.wake:
		case <-w.stop:
			_ = w.flush() // Its fault is kept for Close.
			return
		}
		timer.Reset(flushEvery)
		select {
		case <-timer.C:
		case <-w.full:
		case <-w.stop:
		}
		if w.flush() != nil {
			signal(w.wake) // Try again after the pause; nobody else will wake the loop.
		}
	}
}

// flush writes what waits. What could not be written goes on waiting.
func (w *Writer) flush() error {
	w.mu.Lock()
	chunk := w.pending
	w.pending = w.spare[:0]
	w.spare = nil
	w.mu.Unlock()
	if len(chunk) == 0 {
		w.mu.Lock()
		w.spare = chunk
		w.mu.Unlock()
		return nil
	}
	n, err := w.out.Write(chunk)
	if err == nil && n < len(chunk) {
		err = io.ErrShortWrite
	}
	if err != nil {
		err = fmt.Errorf("write the log: %w", err)
		w.failed(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fault = err
	if err != nil {
		w.pending = append(append(chunk[:0:0], chunk[min(max(n, 0), len(chunk)):]...), w.pending...)
	} else {
		w.spare = chunk[:0]
	}
	w.makeRoom()
	return err
}
