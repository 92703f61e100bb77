package redislimiter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/kelpie-authz/kelpie/limiter"
)

// nodes is the way to a cluster: a link to each node, so that one that is gone
// holds up nobody but its own callers.
type nodes struct {
	l      *Limiter
	client *redis.ClusterClient

	mu     sync.RWMutex
	links  map[string]*link // by address
	closed bool
}

// way returns the link to the node that keeps a key.
func (n *nodes) way(key []byte) (*link, error) {
	node, err := n.client.MasterForKey(context.Background(), string(key))
	if err != nil {
		return nil, unavailable(fmt.Errorf("find the node of a key: %w", err))
	}
	addr := node.Options().Addr
	n.mu.RLock()
	k := n.links[addr]
	n.mu.RUnlock()
	if k != nil {
		return k, nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, limiter.ErrClosed
	}
	if k := n.links[addr]; k != nil {
		return k, nil
	}
	if n.links == nil {
		n.links = make(map[string]*link)
	}
	k = n.l.newLink(n.client, func(ctx context.Context) error {
		// The cluster may have given the node's slots to another one.
		n.client.ReloadState(ctx)
		return probeScript.alive(ctx, node)
	})
	n.links[addr] = k
	return k, nil
}

func (n *nodes) close() {
	n.mu.Lock()
	n.closed = true
	links := n.links
	n.mu.Unlock()
	for _, k := range links {
		k.close()
	}
}

// tag is the slot of a charge, as the beginning of its keys.
func (n *nodes) tag(c *limiter.Charge) []byte { return appendTag(nil, n.l.prefix, c) }

// part is what of a call is in one slot.
type part struct {
	tag   []byte
	call  limiter.Call
	index []int // of its charges in the whole call
	link  *link
}

// split divides a call by slots: those of no agent first, as they are the ones
// that all callers share, and a denial by them comes before anything else is
// charged.
func (n *nodes) split(call *limiter.Call) []part {
	var parts []part
	for _, shared := range []bool{true, false} {
		for i := range call.Charges {
			c := &call.Charges[i]
			if (c.Slot == 0) != shared {
				continue
			}
			tag, at := n.tag(c), -1
			for j := range parts {
				if bytes.Equal(parts[j].tag, tag) {
					at = j
				}
			}
			if at < 0 {
				at = len(parts)
				parts = append(parts, part{tag: tag})
			}
			parts[at].call.Charges = append(parts[at].call.Charges, *c)
			parts[at].index = append(parts[at].index, i)
		}
	}
	return parts
}

// oneSlot tells whether all buckets of a call are in one slot.
func (n *nodes) oneSlot(call *limiter.Call) bool {
	if len(call.Charges) < 2 {
		return true
	}
	first := n.tag(&call.Charges[0])
	for i := range call.Charges[1:] {
		if !bytes.Equal(first, n.tag(&call.Charges[i+1])) {
			return false
		}
	}
	return true
}

// take takes one call that has charges.
func (n *nodes) take(call *limiter.Call) error {
	if n.oneSlot(call) {
		k, err := n.way(n.tag(&call.Charges[0]))
		if err != nil {
			return err
		}
		return k.take(call)
	}
	parts := n.split(call)
	taken := 0
	for i := range parts {
		p := &parts[i]
		var err error
		if p.link, err = n.way(p.tag); err == nil {
			err = p.link.take(&p.call)
		}
		if err != nil {
			n.giveBack(parts[:taken])
			return err
		}
		if !p.call.Result.Admitted {
			n.giveBack(parts[:taken])
			return n.denied(call, parts, i)
		}
		taken++
	}
	n.merge(call, parts)
	call.Result.Admitted = true
	return nil
}

// giveBack refunds what parts were charged. If that fails it stays charged, as
// nothing is sent twice.
func (n *nodes) giveBack(parts []part) {
	for i := range parts {
		p := &parts[i]
		if taken := p.call.Result.Receipt.Taken; len(taken) > 0 {
			slices.Reverse(taken) // what was charged last is simply undone
			_ = n.l.refund(p.link, taken)
		}
	}
}

// denied fills the result of a call that the part with number lacking denied:
// of the others it tells how they stand now.
func (n *nodes) denied(call *limiter.Call, parts []part, lacking int) error {
	w, _ := n.l.works.Get().(*parcel)
	defer n.l.works.Put(w)
	for i := range parts {
		if i == lacking {
			continue
		}
		if err := n.peekPart(w, &parts[i]); err != nil {
			return err
		}
	}
	n.merge(call, parts)
	call.Result.Receipt.Taken = call.Result.Receipt.Taken[:0]
	return nil
}

func (n *nodes) peekPart(w *parcel, p *part) error {
	k, err := n.way(p.tag)
	if err != nil {
		return err
	}
	p.call.Result.Reset()
	_, err = n.l.judge(k, w, append(w.picked[:0], &p.call), limiter.StopNever, flagPeek)
	return err
}

// merge puts the parts' results together.
func (n *nodes) merge(call *limiter.Call, parts []part) {
	res := &call.Result
	res.Reset()
	res.Limits = append(res.Limits, make([]limiter.State, len(call.Charges))...)
	for i := range parts {
		p := &parts[i]
		for j, at := range p.index {
			res.Limits[at] = p.call.Result.Limits[j]
		}
		res.Receipt.Taken = append(res.Receipt.Taken, p.call.Result.Receipt.Taken...)
	}
}

// takeAll takes a batch.
func (n *nodes) takeAll(w *parcel, calls []limiter.Call, stop limiter.Stop) (int, error) {
	apart := stop != limiter.StopNever
	for i := range calls {
		apart = apart || !n.oneSlot(&calls[i])
	}
	if !apart {
		return n.bySlot(calls)
	}
	for i := range calls {
		if err := n.l.takeOne(w, &calls[i]); err != nil {
			return i, err
		}
		if ends(stop, calls[i].Result.Admitted) {
			return i + 1, nil
		}
	}
	return len(calls), nil
}

// bySlot takes a batch of which every call is in one slot. Calls of different
// slots have nothing to do with each other, so the slots go side by side.
func (n *nodes) bySlot(calls []limiter.Call) (int, error) {
	slots := map[string][]int{}
	var order []string
	for i := range calls {
		if len(calls[i].Charges) == 0 {
			calls[i].Result.Admitted = true
			continue
		}
		tag := string(n.tag(&calls[i].Charges[0]))
		if slots[tag] == nil {
			order = append(order, tag)
		}
		slots[tag] = append(slots[tag], i)
	}
	failed := make([]error, len(order))
	var wg sync.WaitGroup
	for s, tag := range order {
		wg.Go(func() { failed[s] = n.takeSlot(tag, slots[tag], calls) })
	}
	wg.Wait()
	return n.untilFailure(order, slots, failed, calls)
}

func (n *nodes) takeSlot(tag string, which []int, calls []limiter.Call) error {
	k, err := n.way([]byte(tag))
	if err != nil {
		return err
	}
	w, _ := n.l.works.Get().(*parcel)
	defer n.l.works.Put(w)
	for len(which) > 0 {
		m := min(len(which), maxCalls)
		w.picked = w.picked[:0]
		for _, i := range which[:m] {
			w.picked = append(w.picked, &calls[i])
		}
		if _, err := n.l.judge(k, w, w.picked, limiter.StopNever, 0); err != nil {
			return err
		}
		which = which[m:]
	}
	return nil
}

// untilFailure tells how many calls stand before the first of a slot that
// failed, and gives back what those behind it were charged.
func (n *nodes) untilFailure(order []string, slots map[string][]int, failed []error, calls []limiter.Call) (int, error) {
	done, err := len(calls), errors.Join(failed...)
	for s, tag := range order {
		if failed[s] != nil {
			done = min(done, slots[tag][0])
		}
	}
	if err == nil {
		return done, nil
	}
	for i := done; i < len(calls); i++ {
		if r := &calls[i].Result.Receipt; !r.Empty() {
			_ = n.each(r.Taken, n.l.refund)
		}
		calls[i].Result.Reset()
	}
	return done, err
}

// peek looks at calls, each for itself.
func (n *nodes) peek(w *parcel, calls []limiter.Call) error {
	for i := range calls {
		call := &calls[i]
		parts := n.split(call)
		admitted := true
		for j := range parts {
			if err := n.peekPart(w, &parts[j]); err != nil {
				for k := range calls {
					calls[k].Result.Reset()
				}
				return err
			}
			admitted = admitted && parts[j].call.Result.Admitted
		}
		n.merge(call, parts)
		call.Result.Admitted = admitted
	}
	return nil
}

// each calls f with the entries of each slot.
func (n *nodes) each(taken []limiter.Taken, f func(*link, []limiter.Taken) error) error {
	var errs []error
	for len(taken) > 0 {
		tagOf := func(t *limiter.Taken) []byte {
			return n.tag(&limiter.Charge{Key: t.Key, Home: t.Home, Slot: t.Slot})
		}
		tag := tagOf(&taken[0])
		var same, rest []limiter.Taken
		for i := range taken {
			if bytes.Equal(tag, tagOf(&taken[i])) {
				same = append(same, taken[i])
			} else {
				rest = append(rest, taken[i])
			}
		}
		k, err := n.way(tag)
		if err == nil {
			err = f(k, same)
		}
		errs = append(errs, err)
		taken = rest
	}
	return errors.Join(errs...)
}
