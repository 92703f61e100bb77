//go:build unix

package fileaudit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// lock makes this process the one that writes dir. The kernel gives it back
// when the process ends, however it does.
func lock(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockName)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, fileMode)
	if err != nil {
		return nil, fmt.Errorf("lock the audit: %w", err)
	}
	if err := flock(f); err != nil {
		defer f.Close() //nolint:errcheck // Nothing was written.
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock the audit: %w", err)
		}
		holder := "another process"
		if raw, err := os.ReadFile(path); err == nil && len(raw) > 0 {
			holder = "process " + strings.TrimSpace(string(raw))
		}
		return nil, fmt.Errorf("%w: %s writes the audit in %s: stop it, or give this one a directory of its own", ErrInUse, holder, dir)
	}
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0) // For whom is refused; without it he is not told the process.
	}
	return f, nil
}

// lockPatience is how long to wait for who has the lock to let go of it. A process
// that is just being started by this one has it for a moment after it was closed.
const lockPatience = 500 * time.Millisecond

func flock(f *os.File) error {
	tick := time.NewTicker(lockPatience / 50)
	defer tick.Stop()
	for range 50 {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return err //nolint:wrapcheck // lock says what it is about.
		}
		<-tick.C
	}
	return syscall.EWOULDBLOCK
}
