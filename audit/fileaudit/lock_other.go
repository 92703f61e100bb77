//go:build !unix

package fileaudit

import (
	"errors"
	"os"
)

func lock(string) (*os.File, error) {
	return nil, errors.New("the audit in files needs a system with flock: Linux, macOS or a BSD")
}
