package pdp

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/policy"
)

// ChangeKind says what was done to charges after their decision. The zero value
// is nothing.
type ChangeKind uint8

// The kinds.
const (
	ChangeNone ChangeKind = iota
	// ChangeSettled: an estimated cost was corrected.
	ChangeSettled
	// ChangeReleased: the slots of a call that is over went back.
	ChangeReleased
	// ChangeReset: an administrator forgot what was charged to an agent's limits.
	ChangeReset
)

// String returns the kind as logs and metrics write it.
func (k ChangeKind) String() string {
	switch k {
	case ChangeSettled:
		return "settle"
	case ChangeReleased:
		return "release"
	case ChangeReset:
		return "reset"
	default:
		return ""
	}
}

// ChangeKinds are all there are but none, for a metric of each.
func ChangeKinds() []ChangeKind { return []ChangeKind{ChangeSettled, ChangeReleased, ChangeReset} }

// Change is what was done to charges after their decision. A [Record] that has
// one is no decision.
type Change struct {
	Kind ChangeKind
	// Actual is the cost that a decision was settled to.
	Actual float64
	// Limits are those that changed.
	Limits []LimitChange
	// As is who did it, by his own word; "" if not told.
	As string
	// Buckets is how many buckets a reset forgot.
	Buckets int
	// Failed says that the limiter did not do all of it: what it did not give
	// back stays charged.
	Failed bool
	// Cause is why it failed, in the limiter's words; "" if it did not.
	Cause string
}

// failed notes that the limiter did not do all of it; nil: it did.
func (c *Change) failed(err error) {
	if err != nil {
		c.Failed, c.Cause = true, err.Error()
	}
}

// LimitChange is what one limit got back or was charged besides, in units.
type LimitChange struct {
	Name      string
	GivenBack float64
	Charged   float64
}

// Settlement is the answer to Settle and Release. Limits is what this very call
// changed.
type Settlement struct {
	// Estimated is the cost that the decision was charged with.
	Estimated float64
	// Actual is the cost that it is settled to.
	Actual float64
	Limits []LimitChange
	// Already says that it was done before, and nothing changed now.
	Already bool
}

// ErrNotKept is returned where there is nothing to settle or release: the id is
// of no decision, of one that charged nothing of the kind, of one whose time is
// over, or of one that another gateway got. It does not tell which.
var ErrNotKept = errors.New("there is nothing to settle or release under this decision_id: it is unknown, its time is over, it charged nothing by cost and holds no slot, or another gateway got it")

// SettledError says that a decision was settled to another cost before.
type SettledError struct {
	// Actual is the cost that it stays settled to.
	Actual float64
}

// Error implements error.
func (e *SettledError) Error() string {
	return fmt.Sprintf("the decision was settled to %v before, and stays so; a decision is settled once", e.Actual)
}

// The marks of a ledger's records.
const (
	markSettled  = "settled"
	markReleased = "released"
)

const maxDecisionID = 256

// Settle corrects the cost of a decision that the gateway got as an ALLOW: the
// limits that count cost get back what was estimated too high, and are charged
// what was estimated too low, whether or not there is room. It is done once: the
// same again changes nothing, another cost is a [*SettledError].
//
// The other errors are an [*InvalidError], [ErrNotKept], and those of ledger and
// limiter. After one of those it can be that the decision is settled and the
// limits stay as they were estimated, since nothing that charges is repeated.
func (s *Service) Settle(ctx context.Context, gateway, decisionID string, actual float64) (Settlement, error) {
	if policy.CheckCost(actual) != nil {
		return Settlement{}, &InvalidError{Field: "actual", Why: "actual is not a cost; write a finite number that is not negative"}
	}
	k, err := s.look(ctx, gateway, decisionID)
	if err != nil {
		return Settlement{}, err
	}
	k.only(func(l *limiter.Limit) bool { return l.Kind != limiter.KindConcurrency })
	if k.receipt.Empty() {
		return Settlement{}, ErrNotKept
	}
	out := Settlement{Estimated: k.estimated, Actual: actual}
	first, before, err := s.mark(ctx, decisionID, markSettled, math.Float64bits(actual))
	switch {
	case err != nil:
		return Settlement{}, err
	case !first && before != math.Float64bits(actual):
		return Settlement{}, &SettledError{Actual: math.Float64frombits(before)}
	case !first:
		out.Already = true
		return out, nil
	}
	back, debit := k.differences(actual)
	change := Change{Kind: ChangeSettled, Actual: actual, Limits: append(changes(back, true), changes(debit, false)...)}
	if err := s.change(ctx, gateway, decisionID, k.agent, &change, back, debit); err != nil {
		return Settlement{}, err
	}
	out.Limits = change.Limits
	return out, nil
}

// Release gives back the slots that an allowed call holds, before their hold
// ends. A second time changes nothing. Errors are those of Settle; after one of
// ledger or limiter it can be that the slots return when their hold ends.
func (s *Service) Release(ctx context.Context, gateway, decisionID string) (Settlement, error) {
	k, err := s.look(ctx, gateway, decisionID)
	if err != nil {
		return Settlement{}, err
	}
	k.only(func(l *limiter.Limit) bool { return l.Kind == limiter.KindConcurrency })
	if k.receipt.Empty() {
		return Settlement{}, ErrNotKept
	}
	out := Settlement{Estimated: k.estimated}
	first, _, err := s.mark(ctx, decisionID, markReleased, 0)
	if err != nil {
		return Settlement{}, err
	}
	if !first {
		out.Already = true
		return out, nil
	}
	change := Change{Kind: ChangeReleased, Limits: changes(k.receipt, true)}
	if err := s.change(ctx, gateway, decisionID, k.agent, &change, k.receipt, limiter.Receipt{}); err != nil {
		return Settlement{}, err
	}
	out.Limits = change.Limits
	return out, nil
}

// look returns what the ledger has of a decision, if the gateway is the one
// that got it.
func (s *Service) look(ctx context.Context, gateway, decisionID string) (*kept, error) {
	if decisionID == "" || len(decisionID) > maxDecisionID {
		return nil, &InvalidError{
			Field: "decision_id", Why: fmt.Sprintf("decision_id is missing or longer than %d bytes; write that of the answer", maxDecisionID),
		}
	}
	if s.cfg.Ledger == nil {
		return nil, ErrNotKept
	}
	record, err := s.cfg.Ledger.Look(ctx, decisionID)
	if err != nil {
		return nil, fmt.Errorf("look up decision %s: %w", decisionID, err)
	}
	if record == nil {
		return nil, ErrNotKept
	}
	k, err := readKept(record)
	if err != nil {
		return nil, err
	}
	if k.gateway != gateway {
		return nil, ErrNotKept
	}
	return k, nil
}

// mark notes in the ledger that something is done, with a value, and reports
// whether this call is the first to do it; if not, before is the value of the
// first. A random half makes the value of each call its own.
func (s *Service) mark(ctx context.Context, decisionID, mark string, value uint64) (first bool, before uint64, err error) {
	mine := binary.BigEndian.AppendUint64(nil, value)
	mine = binary.BigEndian.AppendUint64(mine, rand.Uint64()) //nolint:gosec // It tells two calls apart, and is no secret.
	mine = binary.BigEndian.AppendUint64(mine, rand.Uint64()) //nolint:gosec // See above.
	set, err := s.cfg.Ledger.Mark(ctx, decisionID, mark, mine)
	switch {
	case err != nil:
		return false, 0, fmt.Errorf("note that decision %s is %s: %w", decisionID, mark, err)
	case set == nil:
		return false, 0, ErrNotKept
	case len(set) != len(mine):
		return false, 0, errLedgerRecord
	}
	return bytes.Equal(set, mine), binary.BigEndian.Uint64(set), nil
}

// change carries out what was marked as done and records it. It is not stopped
// by a caller that has gone, since it is not begun a second time.
func (s *Service) change(
	ctx context.Context, gateway, decisionID, agent string, c *Change, back, debit limiter.Receipt,
) error {
	arrived := s.cfg.Now()
	ctx = context.WithoutCancel(ctx)
	var failed error
	if !back.Empty() {
		failed = s.cfg.Limiter.Refund(ctx, &back)
	}
	if !debit.Empty() {
		failed = errors.Join(failed, s.cfg.Limiter.Debit(ctx, &debit))
	}
	c.failed(failed)
	recorded := s.recordChange(ctx, &Record{Time: arrived, DecisionID: decisionID, Gateway: gateway, Agent: agent, Change: c})
	if failed != nil {
		return fmt.Errorf("%s decision %s: %w", c.Kind, decisionID, failed)
	}
	return recorded
}

func (s *Service) recordChange(ctx context.Context, r *Record) error {
	r.Latency = max(0, s.cfg.Now().Sub(r.Time))
	if err := s.cfg.Recorder.Record(ctx, r); err != nil {
		return fmt.Errorf("%s was done, and could not be recorded: %w", r.Change.Kind, err)
	}
	return nil
}

// only keeps the entries of some limits.
func (k *kept) only(of func(*limiter.Limit) bool) {
	taken := k.receipt.Taken[:0]
	for _, t := range k.receipt.Taken {
		if of(t.Limit) {
			taken = append(taken, t)
		}
	}
	k.receipt.Taken = taken
}

// differences are what has to go back, or to be charged besides, for each entry
// to be what actual would have been charged.
func (k *kept) differences(actual float64) (back, debit limiter.Receipt) {
	units := limiter.Units(0)
	if actual > 0 {
		units = unitsOf(actual)
	}
	for _, t := range k.receipt.Taken {
		switch {
		case units < t.Cost:
			t.Cost -= units
			back.Taken = append(back.Taken, t)
		case units > t.Cost:
			t.Cost = units - t.Cost
			debit.Taken = append(debit.Taken, t)
		}
	}
	return back, debit
}

func changes(r limiter.Receipt, back bool) []LimitChange {
	var out []LimitChange
	for i := range r.Taken {
		c := LimitChange{Name: r.Taken[i].Limit.Name}
		if units := float64(r.Taken[i].Cost) / float64(limiter.Unit); back {
			c.GivenBack = units
		} else {
			c.Charged = units
		}
		out = append(out, c)
	}
	return out
}
