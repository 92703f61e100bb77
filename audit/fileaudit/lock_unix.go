//go:build unix

package fileaudit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// lock makes this process the one that writes dir. The kernel gives it back
// when the process ends, however it does.
func lock(dir string, patience time.Duration) (*os.File, error) {
	path := filepath.Join(dir, lockName)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, fileMode)
	if err != nil {
		return nil, fmt.Errorf("lock the audit: %w", err)
	}
	if err := flock(f, patience); err != nil {
		defer f.Close() //nolint:errcheck // Nothing was written.
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock the audit: %w", err)
		}
		holder := "another process"
		if raw, err := os.ReadFile(path); err == nil && len(raw) > 0 {
			pid, _, _ := strings.Cut(string(raw), "\n")
			holder = "process " + pid
		}
		return nil, fmt.Errorf("%w: %s writes the audit in %s: stop it, or give this one a directory of its own", ErrInUse, holder, dir)
	}
	return f, nil
}

// lockPatience is how long to wait for who has the lock to let go of it. A process
// that is just being started by this one has it for a moment after it was closed.
const lockPatience = 500 * time.Millisecond

func flock(f *os.File, patience time.Duration) error {
	const every = lockPatience / 50
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if patience -= every; patience < 0 || !errors.Is(err, syscall.EWOULDBLOCK) {
			return err //nolint:wrapcheck // lock says what it is about.
		}
		<-tick.C
	}
}

// isFull tells whether an error is that the disk has no room.
func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
