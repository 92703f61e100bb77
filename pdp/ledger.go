package pdp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/policy"
)

// What is kept of a decision so that its cost can be settled: at least an hour,
// and no longer than a day, since time gives back what a rate or a window was
// charged.
const (
	shortestSettle = time.Hour
	longestSettle  = 24 * time.Hour
)

// ledgerVersion is the first byte of a record. A change of what follows needs a
// new one, and keeps reading the old one for a day.
const ledgerVersion = 1

// kept is what the ledger has of one decision: what was charged by cost, and
// the slots that the call holds.
type kept struct {
	gateway string
	agent   string
	// estimated is the cost that the decision was charged with.
	estimated float64
	receipt   limiter.Receipt
}

func (k *kept) encode() ([]byte, error) {
	b := []byte{ledgerVersion}
	b = appendLedgerText(b, k.gateway)
	b = appendLedgerText(b, k.agent)
	b = binary.BigEndian.AppendUint64(b, math.Float64bits(k.estimated))
	b, err := k.receipt.AppendBinary(b)
	if err != nil {
		return nil, fmt.Errorf("keep what was charged: %w", err)
	}
	return b, nil
}

func appendLedgerText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

var errLedgerRecord = errors.New("what was kept of the decision cannot be read by this build")

// readKept reads a record of this version; no bytes whatever make it panic.
func readKept(b []byte) (*kept, error) {
	if len(b) == 0 || b[0] != ledgerVersion {
		return nil, errLedgerRecord
	}
	var k kept
	var ok bool
	b = b[1:]
	if k.gateway, b, ok = cutLedgerText(b); !ok {
		return nil, errLedgerRecord
	}
	if k.agent, b, ok = cutLedgerText(b); !ok || len(b) < 8 {
		return nil, errLedgerRecord
	}
	k.estimated = math.Float64frombits(binary.BigEndian.Uint64(b))
	if err := k.receipt.UnmarshalBinary(b[8:]); err != nil {
		return nil, fmt.Errorf("%w: %w", errLedgerRecord, err)
	}
	return &k, nil
}

func cutLedgerText(b []byte) (text string, rest []byte, ok bool) {
	n, used := binary.Uvarint(b)
	if used <= 0 || n > uint64(len(b[used:])) {
		return "", nil, false
	}
	b = b[used:]
	return string(b[:n]), b[n:], true
}

// settles reports whether something is to be said of a limit's charges after
// the decision: what the call cost in the end, or that it is over.
func settles(spec *policy.LimitSpec) bool {
	return spec.CountCost || spec.Kind == policy.LimitConcurrency
}

// keep puts what can be settled or released into the ledger, behind the record
// of an ALLOW: not before it, since a call that cannot be recorded gets
// everything back at once. What cannot be kept stays charged, and the answer
// says so; the decision stands.
func (s *Service) keep(ctx context.Context, j *judgment) {
	if j.reached != Allow || s.cfg.Ledger == nil {
		return
	}
	k := kept{gateway: j.req.Gateway, agent: j.call.Agent, estimated: j.req.Cost}
	if k.estimated == 0 {
		k.estimated = 1
	}
	ttl := k.take(j)
	// What was charged alone is known to this replica only.
	lost := j.alone != nil && slices.ContainsFunc(j.alone.specs, settles)
	if !k.receipt.Empty() && (j.ledgerDown || s.keepContained(ctx, j, &k, ttl) != nil) {
		lost = true
	}
	if lost {
		j.dec.Warnings = append(j.dec.Warnings,
			"what this call was charged could not be noted: its cost cannot be settled, and a slot that it holds returns when its hold ends")
	}
}

// take takes over of what was charged whatever can be settled or released, and
// returns for how long that makes sense.
func (k *kept) take(j *judgment) time.Duration {
	ttl := time.Duration(0)
	if j.charged == nil {
		return ttl
	}
	for i := range j.charged.Result.Receipt.Taken {
		taken := &j.charged.Result.Receipt.Taken[i]
		of := func(spec *policy.LimitSpec) bool {
			return settles(spec) && taken.Limit == &j.table.entries[spec.Index].limit
		}
		if slices.ContainsFunc(j.specs, of) {
			k.receipt.Taken = append(k.receipt.Taken, *taken)
			ttl = max(ttl, settleFor(taken.Limit))
		}
	}
	return ttl
}

func (s *Service) keepContained(ctx context.Context, j *judgment, k *kept, ttl time.Duration) (err error) {
	defer func() {
		if value := recover(); value != nil {
			j.spoiled = true
			s.tellPanic(j.dec.ID, value)
			err = errLedgerRecord
		}
	}()
	record, err := k.encode()
	if err != nil {
		return err
	}
	if err := s.cfg.Ledger.Keep(ctx, j.dec.ID, record, ttl); err != nil {
		j.ledgerDown = errors.Is(err, limiter.ErrUnavailable)
		return fmt.Errorf("keep what was charged: %w", err)
	}
	return nil
}

// settleFor is how long it makes sense to correct what a limit was charged.
func settleFor(limit *limiter.Limit) time.Duration {
	span := longestSettle
	switch limit.Kind {
	case limiter.KindConcurrency:
		return limit.Hold
	case limiter.KindRate:
		// How long a full bucket takes; in floating point it cannot overflow.
		if full := float64(limit.Period) * float64(limit.Burst) / float64(limit.Count); full < float64(longestSettle) {
			span = time.Duration(full)
		}
	case limiter.KindWindow:
		span = limit.Period
	case limiter.KindQuota:
		if limit.Calendar < limiter.CalendarDay {
			span = shortestSettle
		}
	}
	return min(max(span, shortestSettle), longestSettle)
}
