package fileaudit

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"sync"

	"github.com/kelpie-authz/kelpie/audit"
)

// keptSuffix names the copy of the head beside the key.
const keptSuffix = ".head.json"

// keptPath is where a copy of the head is kept, outside the log's directory: who can
// write that one alone cannot put an older log back, or remove it, without a start that
// notices. "": the key is in the directory, so a copy beside it would prove nothing.
func keptPath(cfg *Config) string {
	if filepath.Clean(filepath.Dir(cfg.KeyFile)) == filepath.Clean(cfg.Dir) {
		return ""
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		dir = cfg.Dir
	}
	// One key can be that of several logs.
	sum := sha256.Sum256([]byte(filepath.Clean(dir)))
	return cfg.KeyFile + "." + hex.EncodeToString(sum[:4]) + keptSuffix
}

// readKept reads the copy. nil: there is none that this key signed.
func (w *writer) readKept() *audit.Checkpoint {
	path := keptPath(w.cfg)
	if path == "" {
		return nil
	}
	c, err := readCheckpoint(path)
	if err == nil && c != nil && !isHead(c, w.public()) {
		err = fmt.Errorf("key %s did not sign it", audit.KeyID(w.public()))
	}
	if err != nil {
		// A start without it is one as of a log that had none yet.
		w.cfg.Failed(fmt.Errorf("the head of the audit in %s counts for nothing at this start: %w", path, err))
		return nil
	}
	return c
}

// keeper writes the copy of the head, beside the writer, whom it must not hold up.
type keeper struct {
	path string
	tell func(error)

	mu     sync.Mutex
	next   *audit.Checkpoint // not written yet
	failed bool

	wake, stop, done chan struct{}
}

// newKeeper has each head that is signed kept too.
func newKeeper(cfg *Config) *keeper {
	k := &keeper{
		path: keptPath(cfg), tell: cfg.Failed,
		wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
	}
	if k.path != "" {
		hook := cfg.Checkpoint
		cfg.Checkpoint = func(c audit.Checkpoint) {
			k.put(&c)
			hook(c)
		}
	}
	return k
}

func (k *keeper) put(c *audit.Checkpoint) {
	k.mu.Lock()
	k.next = c
	k.mu.Unlock()
	signal(k.wake)
}

// start writes what was put so far, and goes on in the background.
func (k *keeper) start() {
	k.write()
	go func() {
		defer close(k.done)
		for {
			select {
			case <-k.stop:
				k.write() // The last one.
				return
			case <-k.wake:
				k.write()
			}
		}
	}()
}

func (k *keeper) close() {
	close(k.stop)
	<-k.done
}

func (k *keeper) write() {
	k.mu.Lock()
	c := k.next
	k.next = nil
	k.mu.Unlock()
	if c == nil {
		return
	}
	err := writeCheckpoint(k.path, c)
	if err != nil && !k.failed {
		// Once, and not each second: the key's directory can be read-only on purpose.
		k.tell(fmt.Errorf("keep a copy of the audit's head beside its key, by which a start notices a log that was cut back or removed: %w", err))
	}
	k.failed = err != nil
}
