package fileaudit

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
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
	// reserveName is the room that is held back; see reserve.
	reserveName = "reserve"
	tmpSuffix   = ".tmp"
	gzSuffix    = ".gz"
	cutSuffix   = ".cut"
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

// file is what is written of a segment. What is written stands at its end.
type file interface {
	io.Writer
	Sync() error
	Truncate(size int64) error
	Stat() (os.FileInfo, error)
	Close() error
}

// createFile makes the file of a segment. One that is there already is not
// touched: whoever made it may be writing it.
func createFile(path string) (file, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_APPEND|os.O_WRONLY, fileMode)
	if err != nil {
		return nil, err //nolint:wrapcheck // It names the operation and the file.
	}
	return f, nil
}

// errNotOurs says that files of the log are not those that this process made.
var errNotOurs = errors.New("somebody else changed the audit's files")

// sameFile tells whether path is still the file that was opened; an error says what it is.
func sameFile(path string, opened os.FileInfo) (os.FileInfo, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: %s was removed while it was in use", errNotOurs, path)
	case err != nil:
		return nil, err //nolint:wrapcheck // It names the operation and the file.
	case !os.SameFile(info, opened):
		return nil, fmt.Errorf("%w: %s was replaced while it was in use", errNotOurs, path)
	}
	return info, nil
}

// holder is the lock of a directory.
type holder struct {
	dir  string
	file *os.File
	info os.FileInfo
	// lost is how many records the process before had taken and could not write.
	lost uint64
}

// hold makes this process the writer of dir.
func hold(dir string) (*holder, error) {
	f, err := lock(dir, lockPatience)
	if err != nil {
		return nil, err
	}
	h := &holder{dir: dir, file: f}
	raw := make([]byte, 128)
	n, _ := f.ReadAt(raw, 0) // What is not there tells of nothing.
	var pid int
	_, _ = fmt.Sscanf(string(raw[:n]), holderText, &pid, &h.lost)
	if h.info, err = f.Stat(); err != nil {
		return nil, errors.Join(fmt.Errorf("lock the audit: %w", err), f.Close())
	}
	h.pledge(h.lost)
	return h, nil
}

// holderText is what stands in the file: the process for whom is refused, and
// for the next one how many records were taken that no segment has.
const holderText = "%d\nlost %d\n"

// pledge notes how many records no segment has yet. It is written into room
// that the file has already, since it is needed when the disk is full.
func (h *holder) pledge(lost uint64) {
	h.lost = lost
	text := fmt.Sprintf(holderText, os.Getpid(), lost)
	_, err := h.file.WriteAt([]byte(text), 0)
	if err == nil {
		_ = h.file.Truncate(int64(len(text)))
	}
	// Where it cannot be written the error of what was lost tells it, once.
}

// stands tells whether the directory is still this process's.
func (h *holder) stands() error {
	_, err := sameFile(filepath.Join(h.dir, lockName), h.info)
	return err
}

// again takes a lock back that somebody removed, unless another has it now.
func (h *holder) again() error {
	err := h.stands()
	if !errors.Is(err, errNotOurs) {
		return err
	}
	f, err := lock(h.dir, 0)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(fmt.Errorf("lock the audit: %w", err), f.Close())
	}
	_ = h.file.Close() // Nobody can find it any more.
	h.file, h.info = f, info
	h.pledge(h.lost)
	return nil
}

func (h *holder) close() error { return h.file.Close() } //nolint:wrapcheck // It names the operation and the file.

// reserveBytes is the room that is held back: for all that can be taken without
// waiting before a full disk is noticed, and what is written of the log's own.
const reserveBytes = mostOwed + 1<<20

// reserve is room on the disk that is held back as long as records are taken,
// so that what was answered can be written when the disk is full.
type reserve struct {
	path   string
	create func(path string) error
}

// keep sees to it that the room is held back.
func (r *reserve) keep() error {
	if info, err := os.Lstat(r.path); err == nil && info.Mode().IsRegular() && info.Size() == reserveBytes {
		return nil
	}
	err := removeIfThere(r.path)
	if err == nil {
		if err = r.create(r.path); err != nil {
			err = errors.Join(err, removeIfThere(r.path))
		}
	}
	if err != nil {
		return fmt.Errorf("hold back %d MiB for the audit, so that what was answered can be written when the disk is full: %w", reserveBytes>>20, err)
	}
	return nil
}

// release gives the room back; false: there was none.
func (r *reserve) release() bool { return os.Remove(r.path) == nil }

func createReserve(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, fileMode)
	if err != nil {
		return err //nolint:wrapcheck // It names the operation and the file.
	}
	return errors.Join(allocate(f, reserveBytes), f.Close())
}

// fill takes room by writing. What it writes cannot be compressed away.
func fill(f *os.File, size int64) error {
	_, err := io.CopyN(f, rand.NewChaCha8([32]byte{}), size)
	if err == nil {
		err = f.Sync() // Some file systems find out then that they are full.
	}
	return err //nolint:wrapcheck // It names the operation and the file.
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
