package redisstore

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/kelpie-authz/kelpie/store"
)

// The sizes of a page of List, and of what is read in one exchange.
const (
	usualPage   = 100
	largestPage = 1000
	largestRead = 200
)

// entry is a place in the lists.
type entry struct{ number, id string }

// parseList reads the answer of list.lua.
func parseList(got any) ([]entry, error) {
	list, is := got.([]any)
	if !is || len(list)%2 != 0 {
		return nil, errReply
	}
	var all []entry
	for i := 0; i < len(list); i += 2 {
		number, ok := list[i].(string)
		id, too := list[i+1].(string)
		if _, err := strconv.ParseUint(number, 10, 64); err != nil || !ok || !too {
			return nil, errReply
		}
		all = append(all, entry{number, id})
	}
	return all, nil
}

// List implements [store.Approvals]. A cursor is the number of the last one that
// was shown. The lists alone prove nothing: what a record says counts.
func (s *Store) List(ctx context.Context, f store.Filter) ([]*store.Approval, string, error) {
	limit := usualPage
	if f.Limit > 0 {
		limit = min(f.Limit, largestPage)
	}
	after := "+inf"
	if f.After != "" {
		if n, err := strconv.ParseUint(f.After, 10, 64); err != nil || n == 0 {
			return nil, "", fmt.Errorf("%w: %q is no cursor of this store", store.ErrNotFound, f.After)
		}
		after = "(" + f.After
	}
	var list []*store.Approval
	last := ""
	for {
		want := min(limit+1-len(list), largestRead)
		keys, how := s.lists(&f)
		found, err := s.entries(ctx, keys, how, after, want)
		if err != nil {
			return nil, "", err
		}
		approvals, err := s.those(ctx, found)
		if err != nil {
			return nil, "", err
		}
		for i, a := range approvals {
			if !wanted(a, &f) {
				continue
			}
			if len(list) == limit {
				return list, last, nil
			}
			list, last = append(list, a), found[i].number
		}
		if len(found) < want {
			return list, "", nil
		}
		after = "(" + found[len(found)-1].number
	}
}

// wanted tells whether a filter selects an approval, nil being one that does not count.
func wanted(a *store.Approval, f *store.Filter) bool {
	return a != nil && (f.Agent == "" || a.Agent == f.Agent) && (len(f.States) == 0 || slices.Contains(f.States, a.State))
}

// both tells list.lua that what it finds has to be in the last set too.
const both = "both"

// lists are the sets in which what is asked for stands, and how they go together.
// What is asked for of an agent and some states is looked for in both: the agent's
// own set has all that has ended in a month, and every call that needs a yes asks for
// what is approved.
func (s *Store) lists(f *store.Filter) (keys []string, how string) {
	for _, st := range f.States {
		if st >= store.Pending && st <= store.Revoked {
			keys = append(keys, s.names.state(st))
		}
	}
	switch {
	case f.Agent != "" && len(f.States) > 0:
		return append(keys, s.names.agent(f.Agent)), both
	case f.Agent != "":
		return []string{s.names.agent(f.Agent)}, ""
	case len(f.States) == 0:
		return s.names.states(), ""
	default:
		return keys, ""
	}
}

func (s *Store) entries(ctx context.Context, keys []string, how, after string, limit int) ([]entry, error) {
	if len(keys) == 0 {
		return nil, s.link.usable(ctx)
	}
	got, err := s.link.run(ctx, listScript, keys, after, limit, how)
	if err != nil {
		return nil, err
	}
	found, err := parseList(got)
	if err != nil {
		return nil, unavailable(ctx, err)
	}
	return found, nil
}

// those are the approvals at places of the lists; nil where there is none that counts.
func (s *Store) those(ctx context.Context, found []entry) ([]*store.Approval, error) {
	if len(found) == 0 {
		return nil, nil
	}
	keys := make([]string, len(found))
	for i := range found {
		keys[i] = s.names.record(found[i].id)
	}
	epoch, raws, there, err := s.read(ctx, keys...)
	if err != nil {
		return nil, err
	}
	all := make([]*store.Approval, len(found))
	for i := range found {
		if !there[i] {
			continue
		}
		if all[i], err = s.verified(found[i].id, raws[i], epoch); err != nil {
			return nil, unavailable(ctx, err)
		}
	}
	return all, nil
}
