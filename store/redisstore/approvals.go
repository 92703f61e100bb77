package redisstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/kelpie-authz/kelpie/store"
)

// turns bounds how often a step is tried anew because others came in between.
const turns = 64

var (
	errBusy   = errors.New("others change it all the time; try again")
	errReply  = errors.New("the answer of Redis is none of this script's; is there something between it and Kelpie?")
	errMoved  = errors.New("the agent, digest or beginning of an approval never changes")
	errTaken  = errors.New("there is a record of this id")
	errWasOld = errors.New("it was changed since it was this: somebody put an older record back")
	errElse   = errors.New("it is the record of something else")
)

// kept is a record as it was found.
type kept struct {
	epoch string // of Redis when it was looked at
	raw   string
	there bool
	// a is nil if there is none that counts.
	a *store.Approval
}

// parseRead reads the answer of read.lua about n keys.
func parseRead(got any, n int) (epoch string, raws []string, there []bool, err error) {
	list, _ := got.([]any)
	if len(list) != n+1 {
		return "", nil, nil, errReply
	}
	if epoch, _ = list[0].(string); epoch == "" {
		return "", nil, nil, errReply
	}
	raws, there = make([]string, n), make([]bool, n)
	for i, v := range list[1:] {
		switch v := v.(type) {
		case nil:
		case string:
			raws[i], there[i] = v, true
		default:
			return "", nil, nil, errReply
		}
	}
	return epoch, raws, there, nil
}

// read looks at keys, all at one moment.
func (s *Store) read(ctx context.Context, keys ...string) (epoch string, raws []string, there []bool, err error) {
	got, err := s.link.run(ctx, readScript, keys)
	if err != nil {
		return "", nil, nil, err
	}
	if epoch, raws, there, err = parseRead(got, len(keys)); err != nil {
		return "", nil, nil, unavailable(ctx, err)
	}
	return epoch, raws, there, nil
}

// verified is the approval that a record is of; nil if it is none that counts,
// which is told. The error is that of a record of a later release.
func (s *Store) verified(id, raw, epoch string) (*store.Approval, error) {
	name := s.names.record(id)
	content, err := s.seal.open(name, approvalSchema, raw)
	if errors.Is(err, store.ErrSchema) {
		return nil, err
	}
	var a *store.Approval
	var written string
	if err == nil {
		a, written, err = decodeApproval(content)
	}
	if err == nil && a.ID != id {
		err = errElse
	}
	if err != nil {
		s.raise(name, err)
		return nil, nil //nolint:nilnil // It is as if there were none.
	}
	if a.State == store.Approved && written != epoch {
		a.Unsure = true
		s.unsure.Add(1)
	}
	return a, nil
}

func (s *Store) raise(name string, why error) {
	s.forged.Add(1)
	s.alarm(name, why)
}

// look finds the record of an id.
func (s *Store) look(ctx context.Context, id string) (kept, error) {
	epoch, raws, there, err := s.read(ctx, s.names.record(id))
	if err != nil {
		return kept{}, err
	}
	k := kept{epoch: epoch, raw: raws[0], there: there[0]}
	if k.there {
		if k.a, err = s.verified(id, k.raw, epoch); err != nil {
			return kept{}, unavailable(ctx, err)
		}
	}
	return k, nil
}

// Get implements [store.Approvals].
func (s *Store) Get(ctx context.Context, id string) (*store.Approval, error) {
	k, err := s.look(ctx, id)
	if err == nil && k.a == nil {
		err = store.ErrNotFound
	}
	return k.a, err
}

// newest finds the newest record for a digest, and the id that is pointed at. The
// pointer alone proves nothing: what it leads to has to be of the digest.
func (s *Store) newest(ctx context.Context, digest string) (id string, k kept, err error) {
	epoch, ids, there, err := s.read(ctx, s.names.digest(digest))
	if err != nil || !there[0] {
		return "", kept{epoch: epoch}, err
	}
	if k, err = s.look(ctx, ids[0]); err != nil {
		return "", kept{}, err
	}
	if k.a != nil && k.a.Digest != digest {
		s.raise(s.names.digest(digest), errElse)
		k.a = nil
	}
	return ids[0], k, nil
}

// ByDigest implements [store.Approvals].
func (s *Store) ByDigest(ctx context.Context, digest string) (*store.Approval, error) {
	_, k, err := s.newest(ctx, digest)
	if err == nil && k.a == nil {
		err = store.ErrNotFound
	}
	return k.a, err
}

// sealed is an approval as it is kept.
func (s *Store) sealed(a *store.Approval, epoch string) (string, error) {
	content, err := encodeApproval(a, epoch)
	if err != nil {
		return "", err
	}
	return s.seal.seal(s.names.record(a.ID), approvalSchema, content), nil
}

// step runs a script that changes something and returns the word that it answers.
func (s *Store) step(ctx context.Context, script *script, keys []string, args ...any) (string, error) {
	got, err := s.link.run(ctx, script, keys, args...)
	if err != nil {
		return "", err
	}
	word, _ := got.(string)
	return word, nil
}

// Open implements [store.Approvals].
func (s *Store) Open(ctx context.Context, a *store.Approval, limits store.OpenLimits) (*store.Approval, bool, error) {
	opened := a.Clone()
	opened.State, opened.Version, opened.Unsure = store.Pending, 1, false
	for range turns {
		id, before, err := s.newest(ctx, a.Digest)
		if err != nil {
			return nil, false, err
		}
		if before.a != nil && limits.Stands(before.a) {
			return before.a, false, nil
		}
		word, err := s.add(ctx, opened, id, &before, &limits)
		switch {
		case err != nil:
			return nil, false, err
		case word == "done":
			return opened, true, nil
		case word == "quota":
			return nil, false, store.ErrQuota
		case word == "taken":
			return nil, false, unavailable(ctx, errTaken)
		case word != "changed" && word != "epoch":
			return nil, false, unavailable(ctx, errReply)
		}
	}
	return nil, false, unavailable(ctx, errBusy)
}

// add stores a new approval, unless the newest for its digest is not the one that
// was looked at.
func (s *Store) add(ctx context.Context, a *store.Approval, pointed string, before *kept, limits *store.OpenLimits) (string, error) {
	raw, err := s.sealed(a, before.epoch)
	if err != nil {
		return "", unavailable(ctx, err)
	}
	n := s.names
	keys := []string{
		n.record(a.ID), n.digest(a.Digest), n.record(a.ID), n.number(), n.state(store.Pending),
		n.agent(a.Agent), n.waits(a.Agent), n.opened(a.Agent),
	}
	if pointed != "" {
		keys[2] = n.record(pointed)
	}
	waits, opened, pending, hourly := member(a.ExpiresAt, a.ID), member(a.OpenedAt, a.ID), limits.Pending, limits.Hourly
	if a.Grant != nil {
		waits, opened, pending, hourly = "", "", 0, 0 // It is no question.
	}
	return s.step(ctx, openScript, keys, before.epoch, raw, a.ID, pointed, head(before.raw),
		waits, opened, from(limits.Now), pending, from(limits.Now.Add(-limits.Span)), hourly, n.channel())
}

// Swap implements [store.Approvals]. What is there is looked at before, so that
// the step is about exactly what was verified.
func (s *Store) Swap(ctx context.Context, a *store.Approval) error {
	next := a.Clone()
	next.Version++
	next.Unsure = false
	for range turns {
		k, err := s.look(ctx, a.ID)
		switch {
		case err != nil:
			return err
		case k.a == nil:
			return store.ErrNotFound
		case k.a.Version != a.Version:
			return store.ErrChanged
		case k.a.Unsure && next.State != store.Pending:
			return store.ErrUnsure
		case k.a.Agent != a.Agent || k.a.Digest != a.Digest || !k.a.OpenedAt.Equal(a.OpenedAt):
			return unavailable(ctx, errMoved)
		case next.State < store.Pending || next.State > store.Revoked:
			return unavailable(ctx, fmt.Errorf("%s is no state", next.State))
		}
		word, err := s.replace(ctx, &k, next)
		switch {
		case err != nil:
			return err
		case word == "done":
			a.Version = next.Version
			return nil
		case word == "changed":
			return store.ErrChanged
		case word == "gone":
			return store.ErrNotFound
		case word == "older":
			s.raise(s.names.record(a.ID), errWasOld)
			return store.ErrNotFound
		case word != "epoch":
			return unavailable(ctx, errReply)
		}
	}
	return unavailable(ctx, errBusy)
}

// replace stores what an approval is to be, if it is still what it was.
func (s *Store) replace(ctx context.Context, k *kept, next *store.Approval) (string, error) {
	raw, err := s.sealed(next, k.epoch)
	if err != nil {
		return "", unavailable(ctx, err)
	}
	n, before := s.names, k.a
	waits, ended := "", ""
	if next.State == store.Pending && next.Grant == nil {
		waits = member(next.ExpiresAt, next.ID)
	}
	if next.Settled() {
		ended = member(next.EndedAt, next.ID)
	}
	keys := append([]string{n.record(next.ID), n.agent(next.Agent), n.waits(next.Agent), n.ended(), n.versions()}, n.states()...)
	return s.step(ctx, swapScript, keys, k.epoch, head(k.raw), raw, next.ID, int(next.State), before.Version,
		member(before.ExpiresAt, next.ID), waits, ended, n.channel())
}

// mostPruned bounds how many Prune looks at in one turn.
const mostPruned = 100

// Prune implements [store.Approvals].
func (s *Store) Prune(ctx context.Context, before time.Time) (int, error) {
	for {
		if err := s.link.usable(ctx); err != nil {
			return 0, unavailable(ctx, err)
		}
		bound, cancel := context.WithTimeout(ctx, s.link.timeout)
		found, err := s.link.client.ZRangeByLex(bound, s.names.ended(), &redis.ZRangeBy{Min: "-", Max: below(before), Count: mostPruned}).Result()
		cancel()
		s.link.note(err) //nolint:contextcheck // The probe outlives the call.
		if err != nil {
			return 0, unavailable(ctx, err)
		}
		if len(found) == 0 {
			return 0, nil
		}
		removed := 0
		for _, m := range found {
			gone, err := s.prune(ctx, m)
			if err != nil {
				return removed, err
			}
			if gone {
				removed++
			}
		}
		if removed > 0 {
			return removed, nil
		}
		// All of these were entries for what is not there, and are none any more.
	}
}

// prune removes what a member of the ended ones stands for, if that is true, and
// else the member.
func (s *Store) prune(ctx context.Context, m string) (bool, error) {
	id := m[min(len(m), len(instant(time.Time{}))+1):]
	k, err := s.look(ctx, id)
	if err != nil {
		return false, err
	}
	n := s.names
	if k.a == nil || !k.a.State.Final() || member(k.a.EndedAt, id) != m {
		bound, cancel := context.WithTimeout(ctx, s.link.timeout)
		defer cancel()
		err := s.link.client.ZRem(bound, n.ended(), m).Err()
		s.link.note(err) //nolint:contextcheck // The probe outlives the call.
		if err != nil {
			return false, unavailable(ctx, err)
		}
		return false, nil
	}
	keys := append([]string{n.record(id), n.digest(k.a.Digest), n.ended(), n.agent(k.a.Agent), n.opened(k.a.Agent), n.versions()}, n.states()...)
	word, err := s.step(ctx, pruneScript, keys, head(k.raw), id, member(k.a.OpenedAt, id), m)
	return word == "done", err
}
