package limiter_test

import (
	"bytes"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/kelpie-authz/kelpie/limiter"
)

var sameZone = cmp.Comparer(func(a, b *time.Location) bool { return a.String() == b.String() && (a == nil) == (b == nil) })

func drawLimit(t *rapid.T) *limiter.Limit {
	l := &limiter.Limit{Name: rapid.String().Draw(t, "name"), Count: rapid.Int64Range(1, 1000).Draw(t, "count")}
	if len(l.Name) > 512 {
		l.Name = l.Name[:512]
	}
	span := time.Duration(rapid.Int64Range(int64(time.Minute), int64(24*time.Hour)).Draw(t, "span"))
	switch l.Kind = limiter.Kind(rapid.IntRange(1, 4).Draw(t, "kind")); l.Kind {
	case limiter.KindRate:
		l.Period, l.Burst = span, rapid.Int64Range(1, 100).Draw(t, "burst")
	case limiter.KindWindow:
		l.Period = span
	case limiter.KindQuota:
		l.Calendar = limiter.Calendar(rapid.IntRange(1, 6).Draw(t, "calendar"))
		if name := rapid.SampledFrom([]string{"", "UTC", "Europe/Berlin", "America/St_Johns"}).Draw(t, "zone"); name != "" {
			zone, err := time.LoadLocation(name)
			if err != nil {
				t.Fatal(err)
			}
			l.Location = zone
		}
	case limiter.KindConcurrency:
		l.Hold = span
	}
	return l
}

func drawReceipt(t *rapid.T) limiter.Receipt {
	var r limiter.Receipt
	for range rapid.IntRange(0, limiter.MaxCharges).Draw(t, "charges") {
		taken := limiter.Taken{
			Limit: drawLimit(t),
			Key:   rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(t, "key"),
			Cost:  limiter.Units(rapid.Int64Range(1, math.MaxInt64).Draw(t, "cost")),
			Mark:  [2]int64{rapid.Int64().Draw(t, "mark"), rapid.Int64().Draw(t, "mark")},
		}
		taken.Home = rapid.IntRange(0, len(taken.Key)).Draw(t, "home")
		taken.Slot = rapid.IntRange(0, taken.Home).Draw(t, "slot")
		r.Taken = append(r.Taken, taken)
	}
	return r
}

func TestReceiptComesBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := drawReceipt(t)
		data, err := r.AppendBinary([]byte("before"))
		if err != nil {
			t.Fatal(err)
		}
		after, ok := bytes.CutPrefix(data, []byte("before"))
		if !ok {
			t.Fatal("AppendBinary does not append")
		}
		got := limiter.Receipt{Taken: []limiter.Taken{{}}}
		if err := got.UnmarshalBinary(after); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(r, got, sameZone); diff != "" {
			t.Fatalf("(-encoded +decoded):\n%s", diff)
		}
		// Of what is cut off anywhere nothing is read.
		cut := rapid.IntRange(0, len(after)-1).Draw(t, "cut")
		if err := got.UnmarshalBinary(after[:cut]); err == nil || !got.Empty() {
			t.Fatalf("%d of %d bytes are read as %+v, %v", cut, len(after), got, err)
		}
		if err := got.UnmarshalBinary(append(after, 0)); err == nil {
			t.Fatal("a byte behind the end is not noticed")
		}
	})
}

func TestReceiptThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	good := func() limiter.Taken { return limiter.Taken{Limit: hourly(9), Key: []byte("k"), Cost: limiter.Unit} }
	for name, r := range map[string]limiter.Receipt{
		"too many":       {Taken: make([]limiter.Taken, limiter.MaxCharges+1)},
		"no limit":       {Taken: []limiter.Taken{{Key: []byte("k"), Cost: 1}}},
		"a cost of none": {Taken: []limiter.Taken{{Limit: hourly(9), Key: []byte("k")}}},
		"a long key":     {Taken: []limiter.Taken{good(), {Limit: hourly(9), Key: make([]byte, 1<<17), Cost: 1}}},
		"a long name":    {Taken: []limiter.Taken{{Limit: &limiter.Limit{Name: strings.Repeat("n", 513), Kind: limiter.KindWindow, Count: 1, Period: time.Minute}, Key: []byte("k"), Cost: 1}}},
	} {
		out, err := r.AppendBinary([]byte("x"))
		if err == nil || string(out) != "x" {
			t.Errorf("%s: %q, %v", name, out, err)
		}
	}
}

// A zone that only the writer's machine has is not taken for another.
func TestReceiptZones(t *testing.T) {
	t.Parallel()
	for _, zone := range []*time.Location{time.FixedZone("Local", 3600), time.FixedZone("Nowhere/Land", 3600), time.FixedZone("../etc", 0)} {
		quota := &limiter.Limit{Name: "q", Kind: limiter.KindQuota, Count: 1, Calendar: limiter.CalendarDay, Location: zone}
		data, err := limiter.Receipt{Taken: []limiter.Taken{{Limit: quota, Key: []byte("k"), Cost: 1}}}.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		var r limiter.Receipt
		if err := r.UnmarshalBinary(data); err == nil {
			t.Errorf("%s is read as %v", zone, r.Taken[0].Limit.Location)
		}
	}
}

func FuzzReceipt(f *testing.F) {
	for _, l := range []*limiter.Limit{
		hourly(9),
		{Name: "w", Kind: limiter.KindWindow, Count: 1, Period: time.Minute},
		{Name: "q", Kind: limiter.KindQuota, Count: 1, Calendar: limiter.CalendarDay, Location: time.UTC},
		{Name: "c", Kind: limiter.KindConcurrency, Count: 1, Hold: time.Minute},
	} {
		taken := limiter.Taken{Limit: l, Key: []byte("a1:x0:8:limits/q"), Home: 6, Slot: 4, Cost: limiter.Unit, Mark: [2]int64{7, -7}}
		data, err := limiter.Receipt{Taken: []limiter.Taken{taken, taken}}.AppendBinary(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte{})
	f.Add([]byte{1, 255})
	f.Add([]byte{1, 1, 1, 0, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		var r limiter.Receipt
		if err := r.UnmarshalBinary(data); err != nil {
			if !r.Empty() {
				t.Fatalf("an error left %+v", r)
			}
			return
		}
		if err := r.Check(); err != nil {
			t.Fatalf("read what cannot be given back: %v", err)
		}
		again, err := r.AppendBinary(nil)
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		var twice limiter.Receipt
		if err := twice.UnmarshalBinary(again); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(r, twice, sameZone); diff != "" {
			t.Fatalf("(-first +second):\n%s", diff)
		}
	})
}
