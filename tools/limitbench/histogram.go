package main

import (
	"maps"
	"math/bits"
	"slices"
	"time"
)

// histogram counts durations in steps of under 1 %, so that those of several
// processes can be added.
type histogram map[int]int64

// Below fineSteps nanoseconds each has a bucket of its own; above, each doubling
// is cut into this many.
const (
	fineBits  = 7
	fineSteps = 1 << fineBits
)

// bucketOf is the bucket of a duration.
func bucketOf(d time.Duration) int {
	ns := uint64(max(d, 0))
	if ns < fineSteps {
		return int(ns)
	}
	doubling := bits.Len64(ns) - fineBits - 1
	return doubling<<fineBits + int(ns>>doubling)
}

// durationOf is the middle of a bucket.
func durationOf(bucket int) time.Duration {
	doubling := bucket>>fineBits - 1
	if doubling < 0 {
		return time.Duration(bucket)
	}
	lowest := (bucket - doubling<<fineBits) << doubling
	return time.Duration(lowest + (1<<doubling)/2)
}

func (h histogram) add(others histogram) {
	for bucket, n := range others {
		h[bucket] += n
	}
}

// quantile is the duration that a part of all do not exceed.
func (h histogram) quantile(part float64) time.Duration {
	var total int64
	for _, n := range h {
		total += n
	}
	rank := int64(part * float64(total))
	for _, bucket := range slices.Sorted(maps.Keys(h)) {
		if rank -= h[bucket]; rank < 0 {
			return durationOf(bucket)
		}
	}
	return 0
}
