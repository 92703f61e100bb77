package policy

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"
)

// networkTable finds the networks that an address lies in. All prefixes of all
// networks are in one table; each holds the networks of itself and of every
// prefix around it, so that one look-up gives them all.
type networkTable struct {
	table bart.Table[[]uint32]
}

// networkSet are the networks an agent may call from. Agents share equal ones.
type networkSet struct {
	any bool
	// ids are sorted numbers of networks.
	ids []uint32
}

// newNetworkTable builds a table; prefixes are masked and of unmapped addresses.
func newNetworkTable(networks [][]netip.Prefix) *networkTable {
	own := map[netip.Prefix][]uint32{}
	for i, prefixes := range networks {
		id := number(i)
		for _, p := range prefixes {
			if ids := own[p]; len(ids) == 0 || ids[len(ids)-1] != id {
				own[p] = append(ids, id)
			}
		}
	}
	sorted := make([]netip.Prefix, 0, len(own))
	for p := range own {
		sorted = append(sorted, p)
	}
	// Shorter prefixes first: what lies around a prefix is complete when it is reached.
	slices.SortFunc(sorted, func(a, b netip.Prefix) int {
		if a.Bits() != b.Bits() {
			return a.Bits() - b.Bits()
		}
		return a.Addr().Compare(b.Addr())
	})
	t := &networkTable{}
	for _, p := range sorted {
		ids := slices.Clone(own[p])
		if around, ok := t.table.LookupPrefix(p); ok {
			ids = append(ids, around...)
		}
		slices.Sort(ids)
		t.table.Insert(p, slices.Compact(ids))
	}
	return t
}

// admits tells whether a call from ip may come from this set. An invalid
// address is an absent one.
func (t *networkTable) admits(set *networkSet, ip netip.Addr) bool {
	if set.any {
		return true
	}
	if !ip.IsValid() {
		return false
	}
	// A zone says on which link the address is, which no prefix tells.
	in, ok := t.table.Lookup(ip.Unmap().WithZone(""))
	if !ok {
		return false
	}
	for _, id := range set.ids {
		if _, found := slices.BinarySearch(in, id); found {
			return true
		}
	}
	return false
}

// parsePrefix reads a CIDR prefix; message and fix are set if it is none.
func parsePrefix(s string) (prefix netip.Prefix, message, fix string) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		fix = "write address and length, such as 10.8.0.0/16 or fd00:8::/32"
		if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
			a = a.Unmap()
			fix = fmt.Sprintf("write %s", netip.PrefixFrom(a, a.BitLen()))
		}
		return netip.Prefix{}, fmt.Sprintf("%s is not a CIDR prefix", quote(s)), fix
	}
	if p.Addr().Is4In6() {
		if p.Bits() < 96 {
			return netip.Prefix{}, fmt.Sprintf("%s is wider than the IPv4 addresses in it", quote(s)),
				"write the IPv4 prefix as such"
		}
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Sprintf("%s has bits set beyond its length", quote(s)), fmt.Sprintf("write %s", p.Masked())
	}
	return p, "", ""
}
