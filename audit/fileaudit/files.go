package fileaudit

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	"github.com/kelpie-authz/kelpie/audit"
)

// The names in a directory.
const (
	keyName    = "audit.key"
	publicName = "audit.pub"
	headName   = "head.json"
	startName  = "start.json"
	lockName   = "lock"
	tmpSuffix  = ".tmp"
	gzSuffix   = ".gz"
	cutSuffix  = ".cut"
)

const (
	dirMode  = 0o700
	fileMode = 0o600
)

var segmentName = regexp.MustCompile(`^audit-(\d{8,19})\.jsonl(\.gz)?$`)

// segment is one file of the log.
type segment struct {
	number uint64
	path   string
	gz     bool
	size   int64
}

func (s segment) name() string { return filepath.Base(s.path) }

func segmentPath(dir string, number uint64) string {
	return filepath.Join(dir, fmt.Sprintf("audit-%08d.jsonl", number))
}

// list returns the segments of a directory by number. Where a segment is there
// twice, since its compression was cut short, the plain one counts.
func list(dir string) ([]segment, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list the audit: %w", err)
	}
	byNumber := map[uint64]segment{}
	for _, e := range entries {
		m := segmentName.FindStringSubmatch(e.Name())
		if m == nil || !e.Type().IsRegular() {
			continue
		}
		number, err := strconv.ParseUint(m[1], 10, 64)
		s := segment{number: number, path: filepath.Join(dir, e.Name()), gz: m[2] != ""}
		if plain := filepath.Base(segmentPath(dir, number)); err != nil || number == 0 || (e.Name() != plain && e.Name() != plain+gzSuffix) {
			continue // One name for each segment.
		}
		if info, err := e.Info(); err == nil {
			s.size = info.Size()
		}
		if before, twice := byNumber[number]; !twice || before.gz {
			byNumber[number] = s
		}
	}
	segments := make([]segment, 0, len(byNumber))
	for _, s := range byNumber {
		segments = append(segments, s)
	}
	slices.SortFunc(segments, func(a, b segment) int {
		if a.number < b.number {
			return -1
		}
		return 1
	})
	return segments, nil
}

// file is what is written of a segment.
type file interface {
	io.Writer
	Sync() error
	Truncate(size int64) error
	Close() error
}

// createFile makes the file of a segment. What is there under its name was
// left by an attempt that failed: nothing in it counts.
func createFile(path string) (file, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, fileMode)
	if err != nil {
		return nil, err //nolint:wrapcheck // It names the operation and the file.
	}
	return f, nil
}

// syncDir makes what was created, renamed or removed in dir last.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err //nolint:wrapcheck // It names the operation and the file.
	}
	err = d.Sync()
	return errors.Join(err, d.Close())
}

// replace puts data under path so that there is always the whole of the old or
// of the new, also after a crash.
func replace(path string, data []byte) error {
	tmp := path + tmpSuffix
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, fileMode)
	if err != nil {
		return err //nolint:wrapcheck // It names the operation and the file.
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return errors.Join(err, removeIfThere(tmp))
	}
	return syncDir(filepath.Dir(path))
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err //nolint:wrapcheck // It names the operation and the file.
	}
	return nil
}

func writeCheckpoint(path string, c *audit.Checkpoint) error {
	raw, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return replace(path, append(raw, '\n'))
}

// readCheckpoint returns nil if there is none.
func readCheckpoint(path string) (*audit.Checkpoint, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err //nolint:wrapcheck // It names the operation and the file.
	}
	c := &audit.Checkpoint{}
	if err := json.Unmarshal(raw, c); err != nil {
		return nil, fmt.Errorf("%w: %w", errBroken, err)
	}
	return c, nil
}

func isSigned(c *audit.Checkpoint, key ed25519.PublicKey) bool { return c.Verify(key) == nil }

// errBroken says that a file of a checkpoint holds none.
var errBroken = errors.New("it holds no checkpoint")
