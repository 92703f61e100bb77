//go:build !unix

package fileaudit

import (
	"errors"
	"os"
	"time"
)

const lockPatience = 0

func lock(string, time.Duration) (*os.File, error) {
	return nil, errors.New("the audit in files needs a system with flock: Linux, macOS or a BSD")
}

func isFull(error) bool { return false }
