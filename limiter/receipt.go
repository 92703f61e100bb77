package limiter

import (
	"encoding"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
)

// receiptVersion is the first byte of an encoded receipt. A change of what
// follows needs a new one, and keeps reading the old one for as long as records
// of it can be around.
const receiptVersion = 1

// maxReceiptText bounds a name and a zone in an encoded receipt, and
// maxReceiptKey a key: far above what policy builds, so that bytes that are no
// receipt cannot make a reader hold much.
const (
	maxReceiptText = 512
	maxReceiptKey  = 64 << 10
)

var (
	_ encoding.BinaryAppender    = Receipt{}
	_ encoding.BinaryUnmarshaler = (*Receipt)(nil)
)

// AppendBinary appends r in a form that another process can read with
// UnmarshalBinary: with each limit's parameters, since the policy it came from
// may be gone by then. A quota's zone goes by its name, so that the other side
// has to know it. The error says what of r cannot be written.
func (r Receipt) AppendBinary(b []byte) ([]byte, error) {
	if len(r.Taken) > MaxCharges {
		return b, fmt.Errorf("limiter: a receipt of %d charges cannot be encoded; a call has at most %d", len(r.Taken), MaxCharges)
	}
	if err := r.Check(); err != nil {
		return b, fmt.Errorf("limiter: receipt cannot be encoded: %w", err)
	}
	for i := range r.Taken {
		if t := &r.Taken[i]; len(t.Limit.Name) > maxReceiptText || len(t.Key) > maxReceiptKey {
			return b, fmt.Errorf("limiter: receipt cannot be encoded: the name or the key of charge %d is too long", i)
		}
	}
	b = append(b, receiptVersion, byte(len(r.Taken))) //nolint:gosec // It is at most MaxCharges.
	for i := range r.Taken {
		b = appendTaken(b, &r.Taken[i])
	}
	return b, nil
}

func appendTaken(b []byte, t *Taken) []byte {
	l := t.Limit
	b = append(b, byte(l.Kind), byte(l.Calendar))
	b = appendText(b, l.Name)
	zone := ""
	if l.Location != nil {
		zone = l.Location.String()
	}
	b = appendText(b, zone)
	b = appendText(b, string(t.Key))
	for _, n := range [...]int64{
		l.Count, l.Burst, int64(l.Period), int64(l.Hold), int64(t.Home), int64(t.Slot), int64(t.Cost), t.Mark[0], t.Mark[1],
	} {
		b = binary.AppendVarint(b, n)
	}
	return b
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// UnmarshalBinary makes r what AppendBinary wrote. It keeps no reference to
// data. An error leaves r empty; no bytes whatever make it panic, or make r an
// entry that [Receipt.Check] refuses.
func (r *Receipt) UnmarshalBinary(data []byte) error {
	in := receiptReader{data: data}
	var read Receipt
	if version := in.byte(); in.err == nil && version != receiptVersion {
		in.fail(fmt.Errorf("its version %d is not known to this build", version))
	}
	n := int(in.byte())
	if n > MaxCharges {
		in.fail(fmt.Errorf("it has %d charges; a call has at most %d", n, MaxCharges))
	}
	for i := 0; i < n && in.err == nil; i++ {
		read.Taken = append(read.Taken, in.taken())
	}
	if in.err == nil && len(in.data) > 0 {
		in.fail(fmt.Errorf("%d bytes follow its end", len(in.data)))
	}
	if in.err == nil {
		in.fail(read.Check())
	}
	if in.err != nil {
		*r = Receipt{}
		return fmt.Errorf("limiter: receipt cannot be decoded: %w", in.err)
	}
	*r = read
	return nil
}

var errReceiptCut = errors.New("it ends in the middle")

// receiptReader reads from the front of data, and keeps the first error.
type receiptReader struct {
	data []byte
	err  error
}

func (in *receiptReader) fail(err error) {
	if in.err == nil {
		in.err = err
	}
}

func (in *receiptReader) byte() byte {
	if in.err != nil || len(in.data) == 0 {
		in.fail(errReceiptCut)
		return 0
	}
	b := in.data[0]
	in.data = in.data[1:]
	return b
}

func (in *receiptReader) number() int64 {
	v, n := binary.Varint(in.data)
	if in.err != nil || n <= 0 {
		in.fail(errReceiptCut)
		return 0
	}
	in.data = in.data[n:]
	return v
}

// size reads a number that has to fit an int.
func (in *receiptReader) size() int {
	v := in.number()
	if v < 0 || v > math.MaxInt32 {
		in.fail(fmt.Errorf("a length of %d", v))
		return 0
	}
	return int(v)
}

func (in *receiptReader) text(most uint64) string {
	v, n := binary.Uvarint(in.data)
	switch {
	case in.err != nil || n <= 0:
		in.fail(errReceiptCut)
		return ""
	case v > most:
		in.fail(fmt.Errorf("a text of %d bytes; at most %d may be", v, most))
		return ""
	case v > uint64(len(in.data[n:])):
		in.fail(errReceiptCut)
		return ""
	}
	end := n + int(v) //nolint:gosec // It is at most len(in.data).
	s := string(in.data[n:end])
	in.data = in.data[end:]
	return s
}

func (in *receiptReader) taken() Taken {
	l := &Limit{Kind: Kind(in.byte()), Calendar: Calendar(in.byte())}
	l.Name = in.text(maxReceiptText)
	l.Location = in.location()
	t := Taken{Limit: l, Key: []byte(in.text(maxReceiptKey))}
	l.Count, l.Burst = in.number(), in.number()
	l.Period, l.Hold = time.Duration(in.number()), time.Duration(in.number())
	t.Home, t.Slot = in.size(), in.size()
	t.Cost = Units(in.number())
	t.Mark = [2]int64{in.number(), in.number()}
	return t
}

// location reads the name of a zone; "" is none.
func (in *receiptReader) location() *time.Location {
	name := in.text(maxReceiptText)
	if in.err != nil || name == "" {
		return nil
	}
	if name == time.Local.String() {
		in.fail(errors.New("its zone is that of a machine"))
		return nil
	}
	zone, err := time.LoadLocation(name)
	if err != nil {
		in.fail(fmt.Errorf("its zone: %w", err))
		return nil
	}
	return zone
}
