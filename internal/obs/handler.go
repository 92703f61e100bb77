package obs

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"
	"unicode/utf8"
)

// lineHandler is a slog.Handler for the decision log. It writes what
// slog.JSONHandler writes, one object a line; an attribute that is a lineValue
// puts its own fields into the line, without reflection. It is safe for
// concurrent use as long as its writer is.
type lineHandler struct {
	out    io.Writer
	prefix []byte // The fields of WithAttrs, encoded.
	pool   *sync.Pool
}

// lineValue is an attribute's value that can write its fields itself. What it
// appends is a list of `,"name":value`, the same as its LogValue says.
type lineValue interface {
	slog.LogValuer
	appendFields(line []byte) []byte
}

// NewLineHandler returns a handler that writes each record to out by one Write.
func NewLineHandler(out io.Writer) slog.Handler {
	return &lineHandler{out: out, pool: &sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}}
}

// Enabled implements slog.Handler: every record is written.
func (*lineHandler) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements slog.Handler.
func (h *lineHandler) Handle(_ context.Context, r slog.Record) error {
	buf, _ := h.pool.Get().(*[]byte)
	defer h.pool.Put(buf)
	line := (*buf)[:0]
	line = append(line, `{"time":`...)
	line = appendTime(line, r.Time)
	line = append(line, `,"level":"`...)
	line = append(line, r.Level.String()...)
	line = append(line, `","msg":`...)
	line = appendString(line, r.Message)
	line = append(line, h.prefix...)
	r.Attrs(func(a slog.Attr) bool {
		line = appendAttr(line, a)
		return true
	})
	line = append(line, "}\n"...)
	*buf = line
	if _, err := h.out.Write(line); err != nil {
		return fmt.Errorf("log a decision: %w", err)
	}
	return nil
}

// WithAttrs implements slog.Handler.
func (h *lineHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	out := *h
	out.prefix = append([]byte(nil), h.prefix...)
	for _, a := range attrs {
		out.prefix = appendAttr(out.prefix, a)
	}
	return &out
}

// WithGroup implements slog.Handler. The decision log is flat: a group's name is left out.
func (h *lineHandler) WithGroup(string) slog.Handler { return h }

func appendAttr(line []byte, a slog.Attr) []byte {
	if a.Value.Kind() == slog.KindLogValuer {
		if v, ok := a.Value.Any().(lineValue); ok {
			return v.appendFields(line)
		}
	}
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		for _, member := range v.Group() {
			line = appendAttr(line, member)
		}
		return line
	}
	line = append(line, ',')
	line = appendString(line, a.Key)
	line = append(line, ':')
	switch v.Kind() {
	case slog.KindString:
		return appendString(line, v.String())
	case slog.KindTime:
		return appendTime(line, v.Time())
	default:
		raw, err := json.Marshal(v.Any())
		if err != nil {
			return appendString(line, "!ERROR:"+err.Error())
		}
		return append(line, raw...)
	}
}

func appendTime(line []byte, t time.Time) []byte {
	line = append(line, '"')
	line = t.AppendFormat(line, time.RFC3339Nano)
	return append(line, '"')
}

const hexDigits = "0123456789abcdef"

// appendString writes s as a JSON string (RFC 8259 section 7). Bytes that are
// not UTF-8 become U+FFFD, and the line separators that JavaScript takes for
// line ends are escaped, so that one record stays one line for every reader.
func appendString(line []byte, s string) []byte {
	line = append(line, '"')
	plain := 0
	for plain < len(s) && isPlain[s[plain]] {
		plain++
	}
	if plain == len(s) {
		line = append(line, s...)
		return append(line, '"')
	}
	line = append(line, s[:plain]...)
	line = appendEscaped(line, s[plain:])
	return append(line, '"')
}

// isPlain tells the bytes that stand for themselves in a JSON string.
//
//nolint:gochecknoglobals // A constant table; Go has no constant arrays.
var isPlain = func() (plain [256]bool) {
	for c := 0x20; c < utf8.RuneSelf; c++ {
		plain[c] = c != '"' && c != '\\'
	}
	return plain
}()

func appendEscaped(line []byte, s string) []byte {
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case isPlain[c]:
			i++
			continue
		case c < utf8.RuneSelf:
			line = append(line, s[start:i]...)
			line = appendEscape(line, c)
			i++
			start = i
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if (r == utf8.RuneError && size == 1) || r == '\u2028' || r == '\u2029' {
			line = append(line, s[start:i]...)
			line = append(line, `\u`...)
			line = append(line, hexDigits[r>>12&15], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
			start = i + size
		}
		i += size
	}
	return append(line, s[start:]...)
}

func appendEscape(line []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(line, '\\', c)
	case '\n':
		return append(line, '\\', 'n')
	case '\r':
		return append(line, '\\', 'r')
	case '\t':
		return append(line, '\\', 't')
	default:
		return append(line, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
	}
}

func appendStrings(line []byte, list []string) []byte {
	line = append(line, '[')
	for i, s := range list {
		if i > 0 {
			line = append(line, ',')
		}
		line = appendString(line, s)
	}
	return append(line, ']')
}
