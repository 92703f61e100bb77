package audit

import (
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

const hexDigits = "0123456789abcdef"

// isPlain tells the bytes that stand for themselves in a JSON string.
//
//nolint:gochecknoglobals // A constant table; Go has no constant arrays.
var isPlain = func() (plain [256]bool) {
	for c := 0x20; c < 0x7f; c++ {
		plain[c] = c != '"' && c != '\\'
	}
	return plain
}()

// appendString writes s as a JSON string. Whatever is no visible character or
// a space is escaped: a line stays one line for every reader, and a terminal
// that shows it is neither steered nor written backwards. Bytes that are not
// UTF-8 become U+FFFD.
func appendString(line []byte, s string) []byte {
	line = append(line, '"')
	plain := 0
	for plain < len(s) && isPlain[s[plain]] {
		plain++
	}
	line = append(line, s[:plain]...)
	if plain < len(s) {
		line = appendEscaped(line, s[plain:])
	}
	return append(line, '"')
}

func appendEscaped(line []byte, s string) []byte {
	start := 0
	for i := 0; i < len(s); {
		if isPlain[s[i]] {
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if r >= utf8.RuneSelf && unicode.IsGraphic(r) && (r != utf8.RuneError || size > 1) {
			i += size
			continue
		}
		line = append(line, s[start:i]...)
		line = appendEscape(line, r)
		i += size
		start = i
	}
	return append(line, s[start:]...)
}

func appendEscape(line []byte, r rune) []byte {
	switch r {
	case '"', '\\':
		return append(line, '\\', byte(r))
	case '\n':
		return append(line, '\\', 'n')
	case '\r':
		return append(line, '\\', 'r')
	case '\t':
		return append(line, '\\', 't')
	}
	if r > 0xffff {
		high, low := utf16.EncodeRune(r)
		return appendUnit(appendUnit(line, high), low)
	}
	return appendUnit(line, r)
}

func appendUnit(line []byte, r rune) []byte {
	return append(line, '\\', 'u', hexDigits[r>>12&15], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
}
