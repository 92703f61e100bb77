package policy

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

func TestParsePrefix(t *testing.T) {
	t.Parallel()
	tests := []struct{ text, want, fix string }{
		{"10.8.0.0/16", "10.8.0.0/16", ""},
		{"0.0.0.0/0", "0.0.0.0/0", ""},
		{"fd00:8::/32", "fd00:8::/32", ""},
		{"::/0", "::/0", ""},
		{"::ffff:10.8.0.0/112", "10.8.0.0/16", ""},
		{"::ffff:0.0.0.0/96", "0.0.0.0/0", ""},
		{"10.8.0.1/16", "", "write 10.8.0.0/16"},
		{"fd00:8::1/32", "", "write fd00:8::/32"},
		{"::ffff:10.8.0.1/112", "", "write 10.8.0.0/16"},
		{"::ffff:10.8.0.1/64", "", "write the IPv4 prefix as such"},
		{"10.8.0.1", "", "write 10.8.0.1/32"},
		{"::ffff:10.8.0.1", "", "write 10.8.0.1/32"},
		{"::1", "", "write ::1/128"},
		{"10.8.0.0/33", "", "write address and length, such as 10.8.0.0/16 or fd00:8::/32"},
		{"010.8.0.0/16", "", "write address and length, such as 10.8.0.0/16 or fd00:8::/32"},
		{"fe80::1%eth0/64", "", "write address and length, such as 10.8.0.0/16 or fd00:8::/32"},
		{"cluster", "", "write address and length, such as 10.8.0.0/16 or fd00:8::/32"},
	}
	for _, tt := range tests {
		got, message, fix := parsePrefix(tt.text)
		if (message == "") != (tt.fix == "") || fix != tt.fix || tt.want != "" && got.String() != tt.want {
			t.Errorf("%s: %v, %q, %q", tt.text, got, message, fix)
		}
	}
}

// TestNetworkTable compares the table with a look at every prefix.
func TestNetworkTable(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(3, 4))
	address := func() netip.Addr {
		if random.IntN(2) == 0 {
			return netip.AddrFrom4([4]byte{10, byte(random.IntN(3)), byte(random.IntN(3)), byte(random.IntN(4))})
		}
		return netip.AddrFrom16([16]byte{0: 0xfd, 1: byte(random.IntN(2)), 15: byte(random.IntN(4))})
	}
	for range 200 {
		networks := make([][]netip.Prefix, 1+random.IntN(8))
		for i := range networks {
			for range 1 + random.IntN(4) {
				a := address()
				networks[i] = append(networks[i], netip.PrefixFrom(a, random.IntN(a.BitLen()+1)).Masked())
			}
		}
		table := newNetworkTable(networks)
		for range 50 {
			ip := address()
			var set networkSet
			want := false
			for id, prefixes := range networks {
				if random.IntN(3) == 0 {
					set.ids = append(set.ids, uint32(id))
					want = want || slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(ip) })
				}
			}
			asked := ip
			if ip.Is4() && random.IntN(2) == 0 {
				asked = netip.AddrFrom16(ip.As16())
			}
			if got := table.admits(&set, asked); got != want {
				t.Fatalf("%v in %v of %v: %v, want %v", asked, set.ids, networks, got, want)
			}
			if table.admits(&set, netip.Addr{}) {
				t.Fatal("no address lies in a network")
			}
		}
	}
	if !newNetworkTable(nil).admits(&networkSet{any: true}, netip.Addr{}) {
		t.Error("any does not admit a call without an address")
	}
}
