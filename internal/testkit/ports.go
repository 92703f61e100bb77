package testkit

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
)

const (
	lowestPort  = 2000
	highestPort = 65535
	// portsWanted is how many ports are enough to draw from.
	portsWanted = 12000
)

//nolint:gochecknoglobals // the ports of a machine are one thing for all tests of a process
var ports struct {
	sync.Mutex
	given map[int]*os.File // the locks, held until the process ends
}

// FreeAddr is an address of 127.0.0.1 that nobody listens on, for programs that
// must be told one. It is given to one test only of all that run on this
// machine, and lies outside the ports that the system gives to outgoing
// connections where it leaves enough others. A test that listens itself has
// Listen, which cannot fail to get its port.
func FreeAddr(tb testing.TB) string {
	tb.Helper()
	ports.Lock()
	defer ports.Unlock()
	if ports.given == nil {
		ports.given = map[int]*os.File{}
	}
	low, high := portsFor(os.DirFS("/proc/sys/net/ipv4"))
	for range 1000 {
		port := low + rand.IntN(high-low)
		if ports.given[port] != nil {
			continue
		}
		lock, err := lockPort(port)
		if err != nil {
			tb.Fatal(err)
		}
		if lock == nil {
			continue
		}
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		lis, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", addr)
		if err != nil {
			_ = lock.Close() // gives the lock back; nothing was written
			continue
		}
		lis.Close()
		ports.given[port] = lock
		return addr
	}
	tb.Fatalf("no free port from %d to %d", low, high-1)
	return ""
}

// Listen listens on a port of 127.0.0.1 that the system picks; the caller closes it.
func Listen(tb testing.TB) net.Listener {
	tb.Helper()
	lis, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	return lis
}

// lockPort takes a port for this process among all test processes of the
// machine; nil if another one has it. The lock ends with the process.
func lockPort(port int) (*os.File, error) {
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("kelpie-test-ports-%d", os.Getuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("keep the ports that tests use apart: %w", err)
	}
	file, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(port)), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("keep the ports that tests use apart: %w", err)
	}
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return file, nil
	}
	_ = file.Close() // nothing was written
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, nil //nolint:nilnil // another process has it, which is no error
	}
	return nil, fmt.Errorf("lock %s: %w", file.Name(), err)
}

// portsFor is where to draw ports from, high excluded: below what the system
// gives to outgoing connections, else above it, else anywhere.
func portsFor(system fs.FS) (low, high int) {
	first, last := 32768, 60999 // Linux's default
	if text, err := fs.ReadFile(system, "ip_local_port_range"); err == nil {
		var f, l int
		if n, _ := fmt.Sscan(string(text), &f, &l); n == 2 && f <= l {
			first, last = f, l
		}
	}
	switch {
	case first-lowestPort >= portsWanted:
		return first - portsWanted, first
	case highestPort-last >= portsWanted/4:
		return last + 1, highestPort + 1
	case first-lowestPort >= portsWanted/4:
		return lowestPort, first
	}
	return lowestPort, highestPort + 1
}
