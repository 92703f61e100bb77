package redislimiter

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"

	"github.com/kelpie-authz/kelpie/limiter"
)

// schema is part of every key. A release that could not live with the values of
// the one before would have to count anew, under another number; fields of new
// kinds need none, since a value is carried through field by field.
const schema = "1"

// A name longer than this goes into a key by its digest.
const maxPlain = 96

// appendHome appends the key of the value that a bucket is kept in:
//
//	prefix:1:{slot}home
//
// What is in the braces decides on the node of a cluster. A home without a slot
// stands in them itself, so that homes that have nothing to do with each other
// are spread.
func appendHome(dst []byte, prefix string, key []byte, slot, home int) []byte {
	if home == 0 {
		home = len(key)
	}
	if slot == 0 {
		slot = home
	}
	dst = append(dst, prefix...)
	dst = append(dst, ":"+schema+":{"...)
	dst = appendPlain(dst, key[:slot])
	dst = append(dst, '}')
	return appendPlain(dst, key[slot:home])
}

// appendTag appends what the keys of a charge's slot begin with, braces included.
func appendTag(dst []byte, prefix string, c *limiter.Charge) []byte {
	end := c.Slot
	if end == 0 {
		end = c.Home
	}
	if end == 0 {
		end = len(c.Key)
	}
	return appendHome(dst, prefix, c.Key, end, end)
}

// appendPlain appends a part of a key as it is, so that people can read it, or
// its digest where it is long or would end the braces early.
func appendPlain(dst, part []byte) []byte {
	if len(part) <= maxPlain && bytes.IndexByte(part, '}') < 0 && (len(part) == 0 || part[0] != '#') {
		return append(dst, part...)
	}
	sum := sha256.Sum256(part)
	dst = append(dst, '#')
	return hex.AppendEncode(dst, sum[:])
}

// fieldID names a bucket within its home: 32 bits of the rest of its key. That
// rest is a limit's name, which the policy's author chose, and not a caller. Two
// names of one home that came to the same would share a bucket as two policies
// do that call limits alike: what is admitted obeys the larger one.
func fieldID(key []byte, home int) uint32 {
	if home == 0 {
		return 0
	}
	return fnv32(key[home:])
}

// fnv32 is FNV-1a of 32 bits (RFC 9923), without the allocation of hash/fnv.
func fnv32[T string | []byte](b T) uint32 {
	h := uint32(2166136261)
	for i := range len(b) {
		h = (h ^ uint32(b[i])) * 16777619
	}
	return h
}
