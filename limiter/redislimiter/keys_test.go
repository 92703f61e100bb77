package redislimiter_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/kelpie-authz/kelpie/internal/testkit"
	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/limiter/redislimiter"
)

// hashTag is what of a key decides on its slot in a cluster, by the words of
// the cluster specification: what stands between the first { and the first }
// after it, if that is not nothing, or else the whole key.
func hashTag(key string) string {
	_, rest, open := strings.Cut(key, "{")
	tag, _, closed := strings.Cut(rest, "}")
	if !open || !closed || tag == "" {
		return key
	}
	return tag
}

// FuzzHomeKey: homes and slots that differ have keys that differ, homes of one
// slot are on one node, and no slot is in another one's place.
func FuzzHomeKey(f *testing.F) {
	long := strings.Repeat("x", 200)
	for _, s := range [][4]string{
		{"a", "b", "ab", ""},
		{"a", "b", "a", "c"},
		{"a}", "b", "a", "}b"},
		{"{", "}", "{}", ""},
		{"#", "", "", "#"},
		{long, "", long + "x", ""},
		{long, long, long, long + "y"},
		{"\x00", "\xff", "\x00\xff", ""},
		{"x}{y", "z", "x", "}{yz"},
	} {
		f.Add([]byte(s[0]), []byte(s[1]), []byte(s[2]), []byte(s[3]))
	}
	f.Fuzz(func(t *testing.T, slot1, rest1, slot2, rest2 []byte) {
		if len(slot1) == 0 || len(slot2) == 0 {
			return // without a slot the whole home is one
		}
		key := func(slot, rest []byte) string {
			return redislimiter.HomeKey("kelpie", append(bytes.Clone(slot), rest...), len(slot), len(slot)+len(rest))
		}
		one, other := key(slot1, rest1), key(slot2, rest2)
		sameSlot := bytes.Equal(slot1, slot2)
		if (one == other) != (sameSlot && bytes.Equal(rest1, rest2)) {
			t.Errorf("%q+%q is %q, %q+%q is %q", slot1, rest1, one, slot2, rest2, other)
		}
		if (hashTag(one) == hashTag(other)) != sameSlot {
			t.Errorf("%q is in the slot of %q, %q in that of %q", one, hashTag(one), other, hashTag(other))
		}
		if len(one) > 300 {
			t.Errorf("a key of %d bytes", len(one))
		}
	})
}

// awkward are keys that a careless driver would mix up.
func awkward() []limiter.Charge {
	l := slow(5)
	long := strings.Repeat("long/", 2000)
	var all []limiter.Charge
	add := func(slot, home, rest string) {
		all = append(all, limiter.Charge{Limit: l, Key: []byte(slot + home + rest), Slot: len(slot), Home: len(slot + home), Cost: limiter.Unit})
	}
	for _, s := range []string{
		"a", "ab", "abc", "{", "}", "{}", "{a}", "}{", "#", "#a", "##", "\x00", "\x00\x00", "a\x00", "\xff\xfe", "é", "*", "a*", "[a]", "?", " ", "\r\n", "a\r\nb", `\`, `"`,
		"a:b", "a}b", "a{b", long, long + "x", long[:96], long[:97],
	} {
		add("", "", s)  // without a home
		add("", s, "")  // with an empty rest
		add("", s, "r") // with a rest
		add(s, "h", "r")
		add(s, "h", "rr")
		add("s", s, "r")
	}
	return all
}

// TestAwkwardKeys: each of them is a bucket of its own.
func TestAwkwardKeys(t *testing.T) {
	t.Parallel()
	for name, url := range map[string]string{
		"one_server": startRedis(t).URL(),
		"cluster":    testkit.StartRedisCluster(t).URL(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := started(t, at(url))
			// The same bytes with other borders are another bucket or not, as the
			// driver likes: a key comes with one pair of borders always.
			seen := map[string]bool{}
			var charges []limiter.Charge
			for _, c := range awkward() {
				if !seen[string(c.Key)] {
					seen[string(c.Key)] = true
					charges = append(charges, c)
				}
			}
			for i := range charges {
				c := charges[i]
				c.Cost = limiter.Units(1+i%4) * limiter.Unit
				if res := take(t, m, c); !res.Admitted || res.Limits[0].Remaining != limiter.Units(4-i%4)*limiter.Unit {
					t.Errorf("%.40q home %d slot %d was charged before: %+v", c.Key, c.Home, c.Slot, res.Limits)
				}
			}
			for i := range charges {
				if got := left(t, m, charges[i]); got < limiter.Units(4-i%4)*limiter.Unit || got > limiter.Units(4-i%4)*limiter.Unit+limiter.Unit/100 {
					t.Errorf("%.40q home %d slot %d: %d remain", charges[i].Key, charges[i].Home, charges[i].Slot, got)
				}
			}
			t.Log(fmt.Sprint(len(charges), " keys, each a bucket of its own"))
		})
	}
}
