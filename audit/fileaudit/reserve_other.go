//go:build !linux

package fileaudit

import "os"

// allocate takes room on the disk for f.
func allocate(f *os.File, size int64) error { return fill(f, size) }
