package pdp

import (
	"context"
	"errors"
	"fmt"

	"github.com/kelpie-authz/kelpie/limiter"
)

// MaxBatch is how many requests one batch may have.
const MaxBatch = 1000

// batchCall holds the judgments of one batch and the charges of those that
// reach limits.
type batchCall struct {
	items []judgment
	calls []limiter.Call
	// owners has the item of each call, in order.
	owners []int
	// records and errs are of the items that are recorded together.
	records []*Record
	errs    []error
	// failed is why the limiter did not come to all of them; nil if it did, or
	// if the semantic ended it.
	failed error
}

// Batch decides requests in order as if they were sent one by one, and returns
// an answer for each that was judged, in decs if it has room. A malformed
// request is DENY parameters_invalid.
//
// The semantic says where it ends: DenyOnFirstDeny after the first answer that
// is not ALLOW, PermitOnFirstPermit after the first ALLOW; a dry run counts as
// what it would have been. Requests after the end are neither judged nor
// charged nor recorded.
//
// All share one clock reading and one snapshot. Limits are taken in one call
// of the limiter, unless approvals are kept or a request is a dry run: then
// one by one. If a record cannot be kept, the charges of that item are given
// back only after the items behind it were judged, which can deny one of them
// that a limit would have let pass.
//
// An error means that no decision was made on the batch as a whole; if it
// comes in the middle, items that were decided one by one stay recorded and
// charged.
func (s *Service) Batch(ctx context.Context, reqs []Request, sem Semantic, decs []Decision) ([]Decision, error) {
	if err := checkBatch(len(reqs), sem); err != nil {
		return nil, err
	}
	decs = sized(decs, len(reqs))
	b, _ := s.batch.Get().(*batchCall)
	b.items = sized(b.items, len(reqs))
	var n int
	var err error
	if s.oneByOne(reqs) {
		n, err = s.runInTurn(ctx, b, reqs, sem, decs)
	} else if n, err = s.runTogether(ctx, b, reqs, sem, decs); errors.Is(err, errInTurn) {
		n, err = s.runInTurn(ctx, b, reqs, sem, decs)
	}
	s.putBatch(b)
	if err != nil {
		return nil, err
	}
	return decs[:n], nil
}

func checkBatch(n int, sem Semantic) *InvalidError {
	switch {
	case n == 0:
		return &InvalidError{Field: "requests", Why: "requests is empty; send at least one"}
	case n > MaxBatch:
		return &InvalidError{Field: "requests", Why: fmt.Sprintf("requests has %d items; send at most %d", n, MaxBatch)}
	case sem > PermitOnFirstPermit:
		return &InvalidError{Field: "semantic", Why: "semantic is unknown; write execute_all, deny_on_first_deny or permit_on_first_permit"}
	default:
		return nil
	}
}

// sized returns s with n elements, and keeps what its elements hold.
func sized[T any](s []T, n int) []T {
	if cap(s) < n {
		return append(s[:cap(s)], make([]T, n-cap(s))...)
	}
	return s[:n]
}

func (s *Service) putBatch(b *batchCall) {
	for i := range b.items {
		if b.items[i].spoiled {
			return
		}
		b.items[i].release()
	}
	for i := range b.calls {
		b.calls[i].Charges = b.calls[i].Charges[:0]
	}
	s.batch.Put(b)
}

// errInTurn says that an item needs an approval, of which the answer can depend on
// what an earlier item did. Nothing was done yet.
var errInTurn = errors.New("an item of the batch needs an approval")

// oneByOne reports whether an item looks at limits without charging them.
func (s *Service) oneByOne(reqs []Request) bool {
	for i := range reqs {
		if reqs[i].DryRun {
			return true
		}
	}
	return false
}

// ends reports whether an item with this verdict is the last to be judged.
func (sem Semantic) ends(reached Verdict) bool {
	switch sem {
	case DenyOnFirstDeny:
		return reached != Allow
	case PermitOnFirstPermit:
		return reached == Allow
	default:
		return false
	}
}

// stop is what Take has to end with. It sees only the items that reach limits;
// runTogether sees to the others.
func (sem Semantic) stop() limiter.Stop {
	switch sem {
	case DenyOnFirstDeny:
		return limiter.StopAtDenied
	case PermitOnFirstPermit:
		return limiter.StopAtAdmitted
	default:
		return limiter.StopNever
	}
}

func (s *Service) runInTurn(ctx context.Context, b *batchCall, reqs []Request, sem Semantic, decs []Decision) (int, error) {
	b.calls = sized(b.calls, 1)
	var shared judgment
	if err := s.open(ctx, &shared); err != nil {
		return 0, err
	}
	down := false
	for i := range reqs {
		j := &b.items[i]
		j.share(&shared)
		if bad := s.begin(ctx, j, &reqs[i], &decs[i]); bad != nil {
			s.refuseMalformed(j, bad)
		} else if err := s.judge(ctx, j, b.calls[:1]); err != nil {
			return i, err
		}
		down = s.recordItem(ctx, j, down)
		if sem.ends(j.reached) {
			return i + 1, nil
		}
	}
	return len(reqs), nil
}

// share gives an item the batch's clock reading and snapshot.
func (j *judgment) share(with *judgment) {
	j.snap, j.table, j.now, j.arrived = with.snap, with.table, with.now, with.arrived
}

// runTogether judges what needs no limits for all items first, takes all
// limits in one call, and then finishes and records the items: together, unless
// one can end the batch.
func (s *Service) runTogether(ctx context.Context, b *batchCall, reqs []Request, sem Semantic, decs []Decision) (int, error) {
	n, err := s.checkAll(ctx, b, reqs, sem, decs)
	if err != nil {
		return 0, err
	}
	taken, err := s.takeAll(ctx, b, sem)
	if err != nil {
		return 0, err
	}
	if sem == ExecuteAll && n > 1 {
		return s.finishTogether(ctx, b, n, taken)
	}
	return s.finishAll(ctx, b, n, taken, sem)
}

// checkAll runs the checks before limits. It returns how many items can be
// judged at all: with DenyOnFirstDeny none behind the first that is refused
// without limits.
func (s *Service) checkAll(ctx context.Context, b *batchCall, reqs []Request, sem Semantic, decs []Decision) (int, error) {
	var shared judgment
	if err := s.open(ctx, &shared); err != nil {
		return 0, err
	}
	b.calls, b.owners, b.failed = b.calls[:0], b.owners[:0], nil
	for i := range reqs {
		j := &b.items[i]
		j.share(&shared)
		if bad := s.begin(ctx, j, &reqs[i], &decs[i]); bad != nil {
			s.refuseMalformed(j, bad)
		} else if err := s.checkOne(ctx, b, i); err != nil {
			return 0, err
		}
		if j.reached == VerdictNone {
			continue
		}
		if sem == DenyOnFirstDeny {
			return i + 1, nil
		}
	}
	return len(reqs), nil
}

func (s *Service) checkOne(ctx context.Context, b *batchCall, i int) error {
	j := &b.items[i]
	if j.reached != VerdictNone {
		return nil
	}
	m := len(b.calls)
	b.calls = sized(b.calls, m+1)
	j.together = true
	if err := s.checks(ctx, j, &b.calls[m]); err != nil {
		return err
	}
	if j.reached != VerdictNone {
		b.calls = b.calls[:m]
		return nil
	}
	b.owners = append(b.owners, i)
	return nil
}

// takeAll charges every item that reaches limits, and returns how many of them
// were judged.
func (s *Service) takeAll(ctx context.Context, b *batchCall, sem Semantic) (int, error) {
	if len(b.calls) == 0 {
		return 0, nil
	}
	n, err := s.takeContained(ctx, b, sem.stop())
	for m := range n {
		b.items[b.owners[m]].charged = &b.calls[m]
	}
	if err == nil {
		return n, nil
	}
	if err := noDecision(ctx, err); err != nil {
		s.refundFrom(ctx, b, 0)
		return 0, err
	}
	b.failed = err
	return n, nil
}

var errTakePanicked = errors.New("the limiter panicked")

// takeContained turns a panic of the limiter into an error. What was taken
// before it is unknown and stays charged.
func (s *Service) takeContained(ctx context.Context, b *batchCall, stop limiter.Stop) (n int, err error) {
	defer func() {
		if value := recover(); value != nil {
			for _, i := range b.owners {
				j := &b.items[i]
				j.spoiled = true
				s.deny(j, ReasonInternalError, nil)
			}
			s.tellPanic(b.items[b.owners[0]].dec.ID, value)
			n, err = 0, errTakePanicked
		}
	}()
	return s.cfg.Limiter.Take(ctx, b.calls, stop)
}

// finishTogether finishes all items, and records them together: none ends the
// batch.
func (s *Service) finishTogether(ctx context.Context, b *batchCall, n, taken int) (int, error) {
	m := 0
	for i := range n {
		if m < len(b.owners) && b.owners[m] == i {
			if err := s.finishCharged(ctx, &b.items[i], b.calls[m:m+1], m < taken, b.failed); err != nil {
				s.refundFrom(ctx, b, 0)
				return 0, err
			}
			m++
		}
	}
	b.records, b.errs = sized(b.records, n), sized(b.errs, n)
	clear(b.errs)
	for i := range n {
		j := &b.items[i]
		j.fillRecord(s.latency(j))
		b.records[i] = &j.rec
	}
	kept := s.recordTogether(ctx, b)
	clear(b.records)
	down := false
	for i := range n {
		j := &b.items[i]
		j.ledgerDown = down
		s.conclude(ctx, j, kept && b.errs[i] == nil)
		down = j.ledgerDown
	}
	return n, nil
}

// recordTogether reports whether the recorder came to its end.
func (s *Service) recordTogether(ctx context.Context, b *batchCall) (ended bool) {
	defer func() {
		if value := recover(); value != nil {
			for i := range b.records {
				b.items[i].spoiled = true
			}
			s.tellPanic(b.items[0].dec.ID, value)
		}
	}()
	RecordAll(ctx, s.cfg.Recorder, b.records, b.errs)
	return true
}

// finishAll finishes and records the items in order, up to the one that ends
// the batch. What later ones were charged goes back.
func (s *Service) finishAll(ctx context.Context, b *batchCall, n, taken int, sem Semantic) (int, error) {
	m, down := 0, false
	for i := range n {
		j := &b.items[i]
		if m < len(b.owners) && b.owners[m] == i {
			if err := s.finishCharged(ctx, j, b.calls[m:m+1], m < taken, b.failed); err != nil {
				s.refundFrom(ctx, b, m)
				return 0, err
			}
			m++
		}
		down = s.recordItem(ctx, j, down)
		if sem.ends(j.reached) {
			s.refundFrom(ctx, b, m)
			return i + 1, nil
		}
	}
	return n, nil
}

// recordItem records an item. A ledger that did not answer for one of a batch
// is not asked for the others, which would wait for it in turn.
func (s *Service) recordItem(ctx context.Context, j *judgment, ledgerDown bool) bool {
	j.ledgerDown = ledgerDown
	s.record(ctx, j)
	return j.ledgerDown
}

// finishCharged finishes an item that the limiter judged, and asks the limiter
// again for one that it did not come to: behind a call that it failed on, or
// behind an ALLOW that could not be recorded. A store that could not be asked
// for the batch may have charged the item, and is not asked again.
func (s *Service) finishCharged(ctx context.Context, j *judgment, calls []limiter.Call, judged bool, failed error) error {
	switch {
	case j.reached != VerdictNone:
		return nil
	case judged:
		return s.afterTakeContained(ctx, j, &calls[0])
	case errors.Is(failed, limiter.ErrUnavailable):
		return s.chargeUnasked(ctx, j, calls, failed)
	default:
		return s.charge(ctx, j, calls)
	}
}

func (s *Service) afterTakeContained(ctx context.Context, j *judgment, call *limiter.Call) error {
	defer s.contain(ctx, j)
	return s.afterTake(ctx, j, call)
}

// refundFrom gives back what the items from the m-th call on were charged.
func (s *Service) refundFrom(ctx context.Context, b *batchCall, m int) {
	for ; m < len(b.owners); m++ {
		s.refund(ctx, &b.items[b.owners[m]])
	}
}
