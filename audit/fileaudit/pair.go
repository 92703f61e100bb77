package fileaudit

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/kelpie-authz/kelpie/audit"
)

// errNeither says that of a segment that is there twice neither file can be trusted.
var errNeither = errors.New("is there plain and compressed, and neither is what was written: both are left alone; keep the better one by hand")

// unite leaves one file of a segment that is there plain and compressed: the one that
// is whole. A crash between compressing and removing leaves two that are; somebody who
// unpacks in the directory can leave a piece, which must not cost the whole one. What is
// not whole is set aside. The error is [errNeither] if nothing is.
func unite(dir string, number uint64, key ed25519.PublicKey) error {
	path := segmentPath(dir, number)
	for _, p := range []string{path, path + gzSuffix} {
		if _, err := os.Stat(p); errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err //nolint:wrapcheck // It names the operation and the file.
		}
	}
	want, err := endOf(dir, number, key)
	if err != nil {
		return err
	}
	plain, plainEnd, err := isWhole(path, number, want)
	if err != nil {
		return err
	}
	packed, packedEnd, err := isWhole(path+gzSuffix, number, want)
	switch {
	case err != nil:
		return err
	case plain && packed && plainEnd <= packedEnd:
		err = os.Remove(path) // It is the same once more.
	case plain:
		err = setAside(path + gzSuffix)
	case packed:
		err = setAside(path)
	default:
		return fmt.Errorf("%s %w", filepath.Base(path), errNeither)
	}
	if err != nil {
		return fmt.Errorf("keep one of two files of a segment of the audit: %w", err)
	}
	return syncDir(dir)
}

// endOf is the line that a segment has to reach, as the next one or the head tells it.
// Its hash is zero where only the number is known, its number where nothing is.
func endOf(dir string, number uint64, key ed25519.PublicKey) (mark, error) {
	next, err := readHeader(dir, number+1)
	switch {
	case err == nil && next.there && next.Note.LostFrom > 0:
		return mark{seq: next.Note.LostFrom - 1}, nil
	case err == nil && next.there:
		return mark{seq: next.Seq - 1, hash: next.Note.Prev}, nil
	}
	head, err := readCheckpoint(filepath.Join(dir, headName))
	if err != nil && !errors.Is(err, errBroken) {
		return mark{}, err
	}
	if head == nil || head.Segment != number || !isSigned(head, key) {
		return mark{}, nil
	}
	return mark{seq: head.Seq, hash: head.Hash}, nil
}

// isWhole tells whether a file holds a segment, readable to its end, whose chain
// reaches want, and the number of its last line.
func isWhole(path string, number uint64, want mark) (bool, uint64, error) {
	l, err := openPath(path)
	if errors.Is(err, errGarbled) {
		return false, 0, nil
	}
	if err != nil {
		return false, 0, err
	}
	defer l.close() //nolint:errcheck // It was only read.
	var at mark
	reached, follows := want.seq == 0, true
	for {
		line, err := l.next()
		switch {
		case errors.Is(err, io.EOF):
			return reached && l.count > 0 && (follows || want.seq > 0), at.seq, nil
		case errors.Is(err, errGarbled), errors.Is(err, errTooLong):
			return false, 0, nil
		case err != nil:
			return false, 0, err
		}
		if l.count == 1 {
			first, err := parseHeader(line)
			if err != nil || first.Note.Segment != number {
				return false, 0, nil
			}
			at = mark{seq: first.Seq - 1, hash: first.Note.Prev}
			reached = reached || want.seq == at.seq
		}
		sealed, err := audit.SplitLine(line, nil)
		if follows = follows && err == nil && sealed.Seq == at.seq+1 && sealed.Follows(at.hash); !follows {
			continue // Behind its end a segment that failed can hold anything.
		}
		at.seq, at.hash = sealed.Seq, sealed.Stated
		reached = reached || (at.seq == want.seq && (want.hash == audit.Hash{} || at.hash == want.hash))
	}
}

// setAside takes a file out of the log, for a person to look at. What was set aside
// before stays.
func setAside(path string) error { return os.Rename(path, asidePath(path)) } //nolint:wrapcheck // It names the operation and the files.

// asidePath is a name beside path that is free, and that nothing reads.
func asidePath(path string) string {
	to := path + cutSuffix
	for n := 2; ; n++ {
		if _, err := os.Lstat(to); errors.Is(err, fs.ErrNotExist) || n > 1000 {
			return to
		}
		to = path + cutSuffix + strconv.Itoa(n)
	}
}
