package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
)

// Hash is a link of the chain: SHA-256 over all that stands before it.
type Hash [sha256.Size]byte

// String is the hash in hex.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

func (h Hash) append(b []byte) []byte { return hex.AppendEncode(b, h[:]) }

// ParseHash reads what [Hash.String] wrote.
func ParseHash(text string) (Hash, error) {
	var h Hash
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != len(h) {
		return h, fmt.Errorf("%q is not a SHA-256 in hex", clip(text))
	}
	copy(h[:], raw)
	return h, nil
}

// MaxLine is how long a line may be, in bytes. A record that would be longer is refused.
const MaxLine = 1 << 20

const (
	// chainDomain keeps the chain's hashes apart from any other use of SHA-256.
	chainDomain = "kelpie audit line 1\n"
	seqMark     = `{"seq":`
	hashMark    = `,"hash":"`
	hexLen      = 2 * sha256.Size
	// sealLen is what a line ends with: the hash, a quote, a brace, a line feed.
	sealLen = len(hashMark) + hexLen + len("\"}\n")
)

// ChainHash is the link that follows prev for a line, which is given without
// its hash and without a line feed:
//
//	SHA-256("kelpie audit line 1" LF hex(prev) LF line LF)
func ChainHash(prev Hash, line []byte) Hash {
	digest := sha256.New()
	var head [len(chainDomain) + hexLen + 1]byte
	b := prev.append(append(head[:0], chainDomain...))
	digest.Write(append(b, '\n'))
	digest.Write(line)
	digest.Write([]byte{'\n'})
	var h Hash
	digest.Sum(h[:0])
	return h
}

// AppendLine appends one line of a log to b, line feed included: record, as
// [AppendRecord] wrote it, with its number before it and its link at its end.
func AppendLine(b []byte, seq uint64, prev Hash, record []byte) ([]byte, Hash) {
	start := len(b)
	b = append(b, seqMark...)
	b = strconv.AppendUint(b, seq, 10)
	b = append(b, ',')
	b = append(b, record[1:]...)
	hash := ChainHash(prev, b[start:])
	b = append(b[:len(b)-1], hashMark...)
	b = hash.append(b)
	return append(b, "\"}\n"...), hash
}

// Append appends the line to b as it stands in the log, without its line feed. What a
// newer program wrote besides is not there, as [DecodeRecord] passes it over.
func (l *Line) Append(b []byte) []byte {
	record := AppendRecord(nil, &l.Record)
	b = strconv.AppendUint(append(b, seqMark...), l.Seq, 10)
	b = append(append(b, ','), record[1:len(record)-1]...)
	b = l.Hash.append(append(b, hashMark...))
	return append(b, "\"}"...)
}

// errNoLine says that bytes are no line of a log.
var errNoLine = errors.New(`not a line of an audit log: it has to be {"seq":N,...,"hash":"64 hex digits"} and a line feed`)

// Sealed is a line taken apart, but not read.
type Sealed struct {
	Seq uint64
	// Stated is the hash that the line states; Body is what it is the hash of.
	Stated Hash
	Body   []byte
}

// SplitLine takes a line apart, line feed included. The body is a copy in
// scratch, which may be nil.
func SplitLine(line, scratch []byte) (Sealed, error) {
	var s Sealed
	if len(line) > MaxLine || len(line) < len(seqMark)+sealLen || !bytes.HasPrefix(line, []byte(seqMark)) {
		return s, errNoLine
	}
	body, seal := line[:len(line)-sealLen], line[len(line)-sealLen:]
	hexed, marked := bytes.CutPrefix(seal, []byte(hashMark))
	if !marked || string(hexed[hexLen:]) != "\"}\n" || bytes.IndexByte(body, '\n') >= 0 {
		return s, errNoLine
	}
	for _, c := range hexed[:hexLen] {
		if c >= 'A' && c <= 'F' {
			return s, errNoLine // One spelling only.
		}
	}
	if _, err := hex.Decode(s.Stated[:], hexed[:hexLen]); err != nil {
		return s, errNoLine
	}
	digits, _, found := bytes.Cut(body[len(seqMark):], []byte{','})
	seq, err := strconv.ParseUint(string(digits), 10, 64)
	if !found || err != nil || seq == 0 || digits[0] == '0' || digits[0] == '+' {
		return s, errNoLine
	}
	s.Seq, s.Body = seq, append(append(scratch[:0], body...), '}')
	return s, nil
}

// Follows tells whether the line is what its hash says, after prev.
func (s *Sealed) Follows(prev Hash) bool { return ChainHash(prev, s.Body) == s.Stated }

// clip bounds a text for a message.
func clip(text string) string {
	const most = 80
	if len(text) > most {
		return text[:most] + "..."
	}
	return text
}
