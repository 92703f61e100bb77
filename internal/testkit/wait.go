package testkit

import (
	"bytes"
	"sync"
	"testing"
	"time"
)

// patience is how long a test waits for what must happen; generous, because
// only a failing test waits so long.
const patience = 20 * time.Second

// Eventually polls until done says true, and fails the test if that takes too
// long; what is said then.
func Eventually(tb testing.TB, what string, done func() bool) {
	tb.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-deadline.C:
			tb.Fatalf("waited %v in vain: %s", patience, what)
		case <-tick.C:
		}
	}
}

// Receive waits for a value of c, and fails the test if none comes.
func Receive[T any](tb testing.TB, what string, c <-chan T) T {
	tb.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		tb.Fatalf("waited %v in vain: %s", patience, what)
		panic("unreachable")
	}
}

// Buffer is a bytes.Buffer for many goroutines. The zero value is empty.
type Buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// String is what was written so far.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// Lines is how many lines were written so far.
func (b *Buffer) Lines() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Count(b.buf.Bytes(), []byte{'\n'})
}
