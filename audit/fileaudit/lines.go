package fileaudit

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/kelpie-authz/kelpie/audit"
)

// lines reads a segment line by line.
type lines struct {
	file *os.File
	in   *bufio.Reader
	// packed is where the compressed form is read from; nil: it is not compressed.
	packed *bufio.Reader
	// part is the beginning of a line whose end is not there (yet).
	part []byte
	// size is the end of the last whole line, count how many there were.
	size  int64
	count int
	// seq is the number of the last line that inTurn took.
	seq uint64
}

const readBuffer = 64 << 10

// openLines opens segment number, compressed or not. The error is
// fs.ErrNotExist if it is not there.
func openLines(dir string, number uint64) (*lines, string, error) {
	path := segmentPath(dir, number)
	for range 2 { // It can be compressed between the two looks.
		for _, p := range []string{path, path + gzSuffix} {
			l, err := openPath(p)
			if !errors.Is(err, fs.ErrNotExist) {
				return l, p, err
			}
		}
	}
	return nil, path, fmt.Errorf("segment %d of the audit: %w", number, fs.ErrNotExist)
}

// openPath opens the file of a segment; its name tells whether it is compressed.
func openPath(path string) (*lines, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err //nolint:wrapcheck // It names the operation and the file.
	}
	if strings.HasSuffix(path, gzSuffix) {
		return openGzip(f)
	}
	return &lines{file: f, in: bufio.NewReaderSize(f, readBuffer)}, nil
}

func openGzip(f *os.File) (*lines, error) {
	packed := bufio.NewReaderSize(f, readBuffer)
	z, err := gzip.NewReader(packed)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", errGarbled, err), f.Close())
	}
	z.Multistream(false) // What was compressed is one stream, and nothing stands behind it.
	return &lines{file: f, packed: packed, in: bufio.NewReaderSize(z, readBuffer)}, nil
}

// end says that a file ends where it should: io.EOF.
func (l *lines) end() error {
	if l.packed != nil {
		if _, err := l.packed.ReadByte(); !errors.Is(err, io.EOF) {
			return fmt.Errorf("%w: something stands behind its end", errGarbled)
		}
	}
	return io.EOF
}

// errGarbled says that a file is not what was compressed.
var errGarbled = errors.New("it is not what was compressed")

// errTooLong says that a line is none of ours.
var errTooLong = errors.New("a line is longer than 1 MiB")

// next returns the next whole line, line feed included; it is valid until the
// call after. io.EOF: there is none now; what stands behind the last one is in part.
func (l *lines) next() ([]byte, error) {
	if n := len(l.part); n > 0 && l.part[n-1] == '\n' {
		l.part = l.part[:0]
	}
	for {
		piece, err := l.in.ReadSlice('\n')
		if len(l.part) == 0 && err == nil && len(piece) <= audit.MaxLine {
			return l.whole(piece), nil
		}
		l.part = append(l.part, piece...)
		switch {
		case len(l.part) > audit.MaxLine:
			return nil, errTooLong
		case err == nil:
			return l.whole(l.part), nil
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			return nil, l.end()
		case l.packed != nil:
			return nil, fmt.Errorf("%w: %w", errGarbled, err)
		default:
			return nil, err //nolint:wrapcheck // It names the operation and the file.
		}
	}
}

func (l *lines) whole(line []byte) []byte {
	l.size += int64(len(line))
	l.count++
	return line
}

// inTurn is next for readers: they show nothing from a line on whose number is not
// the one that follows, since no line that was written can stand there. io.EOF comes
// before line end of the log too, unless that is 0.
func (l *lines) inTurn(end uint64) ([]byte, error) {
	line, err := l.next()
	if err != nil {
		return nil, err
	}
	if end > 0 && l.seq+1 >= end && l.count > 1 {
		return nil, io.EOF
	}
	seq := uint64(0)
	digits, _, _ := bytes.Cut(bytes.TrimPrefix(line, []byte(`{"seq":`)), []byte{','})
	if n, err := strconv.ParseUint(string(digits), 10, 64); err == nil {
		seq = n
	}
	if l.count > 1 && seq != l.seq+1 {
		l.count-- // It is not taken.
		return nil, fmt.Errorf("it is not line %d of the log, which should stand here: run `kelpie audit verify`", l.seq+1)
	}
	l.seq = seq
	return line, nil
}

// rest is how many bytes stand behind the last whole line, after io.EOF.
func (l *lines) rest() int64 {
	if bytes.HasSuffix(l.part, []byte{'\n'}) {
		return 0
	}
	return int64(len(l.part))
}

func (l *lines) close() error { return l.file.Close() } //nolint:wrapcheck // It names the operation and the file.

// header is the first line of a segment.
type header struct {
	audit.Line

	// there is false where the segment has no first line (yet).
	there bool
}

// readHeader reads the first line of a segment.
func readHeader(dir string, number uint64) (header, error) {
	l, _, err := openLines(dir, number)
	if err != nil {
		return header{}, err
	}
	defer l.close() //nolint:errcheck // It was only read.
	line, err := l.next()
	if errors.Is(err, io.EOF) {
		return header{}, nil
	}
	if err != nil {
		return header{}, err
	}
	return parseHeader(line)
}

// errNoHeader says that a segment begins with something else.
var errNoHeader = errors.New("its first line is not that of a segment")

func parseHeader(line []byte) (header, error) {
	first, err := audit.DecodeLine(line)
	if err != nil {
		return header{}, fmt.Errorf("%w: %w", errNoHeader, err)
	}
	if first.Kind != audit.KindSegment || first.Note == nil {
		return header{}, errNoHeader
	}
	return header{*first, true}, nil
}
