package pdp

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kelpie-authz/kelpie/limiter"
)

func FuzzLedgerRecord(f *testing.F) {
	slots := &limiter.Limit{Name: "slots", Kind: limiter.KindConcurrency, Count: 4, Hold: time.Minute}
	for _, k := range []kept{
		{},
		{gateway: "loopback", agent: "a", estimated: 1.5},
		{agent: "a", estimated: 3, receipt: limiter.Receipt{Taken: []limiter.Taken{
			{Limit: slots, Key: []byte("a1:a0:12:limits/slots"), Home: 6, Slot: 4, Cost: limiter.Unit, Mark: [2]int64{1, 2}},
		}}},
	} {
		record, err := k.encode()
		if err != nil {
			f.Fatal(err)
		}
		got, err := readKept(record)
		if err != nil {
			f.Fatal(err)
		}
		if diff := cmp.Diff(k, *got, cmp.AllowUnexported(kept{})); diff != "" {
			f.Fatalf("(-kept +read):\n%s", diff)
		}
		f.Add(record)
	}
	f.Add([]byte{})
	f.Add([]byte{1, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		k, err := readKept(data)
		if err != nil {
			return
		}
		again, err := k.encode()
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if k, err = readKept(again); err != nil {
			t.Fatal(err)
		}
		if third, err := k.encode(); err != nil || !bytes.Equal(again, third) {
			t.Fatalf("written %x, then %x, %v", again, third, err)
		}
	})
}
