package redisstore

import (
	"bytes"
	"fmt"
	"os"
)

const (
	othersMask = 0o077
	// leastKey is how long a key is at least, in bytes of its file.
	leastKey = 32
)

// ReadKey reads the file of the key under which records are sealed: at least 32
// bytes that nobody can guess, such as `openssl rand -hex 32` writes, in a file
// that others cannot read. Line ends at its end do not count. The error holds
// nothing of the key.
func ReadKey(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("the approvals' key: %w; make one with `openssl rand -hex 32 > FILE`, the same for every replica", err)
	}
	if info.Mode().Perm()&othersMask != 0 {
		return nil, fmt.Errorf("the approvals' key %s can be read by others (mode %04o): chmod 600 it, and take a new one if somebody may have seen it", path, info.Mode().Perm())
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("the approvals' key: %w", err)
	}
	key := bytes.TrimRight(raw, "\r\n")
	if len(key) < leastKey {
		return nil, fmt.Errorf("the approvals' key %s has %d bytes, and %d are needed: make one with `openssl rand -hex 32 > FILE`, the same for every replica", path, len(key), leastKey)
	}
	return key, nil
}
