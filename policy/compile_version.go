package policy

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
)

// canonical writes what was compiled in one form, so that its hash tells
// whether two policies are the same. Every value is preceded by its length,
// and every list by its number of items, so that no two different policies
// write the same bytes. The zero value is ready for use.
type canonical struct{ buf []byte }

func (c *canonical) text(s string) {
	c.buf = binary.AppendUvarint(c.buf, uint64(len(s)))
	c.buf = append(c.buf, s...)
}

func (c *canonical) number(n int64) { c.buf = binary.AppendVarint(c.buf, n) }

func (c *canonical) flag(b bool) {
	if b {
		c.buf = append(c.buf, 1)
	} else {
		c.buf = append(c.buf, 0)
	}
}

func (c *canonical) list(items []string) {
	c.number(int64(len(items)))
	for _, item := range items {
		c.text(item)
	}
}

func (c *canonical) condition(when *condition) {
	if when == nil {
		c.flag(false)
		return
	}
	c.flag(true)
	c.text(when.canonical)
}

// sum is the first half of the SHA-256 of what was written, in hexadecimal.
func (c *canonical) sum() string {
	hash := sha256.Sum256(c.buf)
	return hex.EncodeToString(hash[:16])
}
