package audit_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/kelpie-authz/kelpie/audit"
	"github.com/kelpie-authz/kelpie/audit/audittest"
)

func TestRecordAsItIsWritten(t *testing.T) {
	t.Parallel()
	r := audit.Record{
		Time: time.Date(2026, 6, 17, 14, 0, 0, 250e6, time.FixedZone("", 2*3600)), Kind: audit.KindDecision,
		Agent: "a", Decision: "DENY", Matched: []string{"x", "y\n"}, Latency: 1500 * time.Nanosecond, Cost: 0.5,
	}
	const want = `{"time":"2026-06-17T12:00:00.25Z","kind":"decision","agent":"a","cost":0.5,"decision":"DENY","matched":["x","y\n"],"latency_us":1}`
	if got := string(audit.AppendRecord(nil, &r)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestNumbersThatJSONHasNot(t *testing.T) {
	t.Parallel()
	for _, f := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		r := audittest.Full()
		r.Cost = f
		got, err := audit.DecodeRecord(audit.AppendRecord(nil, &r))
		if err != nil || got.Cost != 0 {
			t.Errorf("cost %v becomes %v, %v", f, got.Cost, err)
		}
	}
	r := audittest.Full()
	r.Time = time.Date(12026, 1, 1, 0, 0, 0, 0, time.UTC)
	if got, err := audit.DecodeRecord(audit.AppendRecord(nil, &r)); err != nil || got.Time.Year() != 9999 {
		t.Errorf("the year 12026 becomes %v, %v", got.Time, err)
	}
}

func TestEncodingAllocatesNothing(t *testing.T) { //nolint:paralleltest // It counts the allocations of the process.
	r := audittest.Full()
	buf := make([]byte, 0, 8<<10)
	if n := testing.AllocsPerRun(100, func() { buf = audit.AppendRecord(buf[:0], &r) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzEncode: what is written is one line of plain JSON, safe on a terminal,
// and reads back as the same record, for encoding/json too.
func FuzzEncode(f *testing.F) {
	f.Add("agent", "leads/42", "x", int64(0), 1.5, uint8(0))
	f.Add("\u202e\x1b[0m\n", "a\xffb", "\u2028\U000e0001\"\\", int64(-1), math.MaxFloat64, uint8(7))
	f.Add("\xed\xa0\x80", "\x7f\u0085\ufeff", "\ufffd", int64(math.MaxInt64), 5e-324, uint8(255))
	f.Fuzz(func(t *testing.T, agent, resource, text string, n int64, cost float64, kind uint8) {
		r := audittest.Full()
		kinds := audit.Kinds()
		r.Kind = kinds[int(kind)%len(kinds)]
		r.Time = time.Unix(n%253402300799, n&0x3fffffff).UTC()
		if r.Time.Year() < 1 || r.Time.Year() > 9999 {
			return
		}
		r.Agent, r.Resource, r.Message, r.Cost = agent, resource, text, cost
		r.Matched = []string{text, agent}
		r.Shown = []audit.Member{{Name: agent, Value: text}, {Name: agent, Value: resource}}
		r.Limits = []audit.Limit{{Name: text, Limit: n, Remaining: -n, Charged: cost}}
		line := audit.AppendRecord(nil, &r)
		if !json.Valid(line) || !utf8.Valid(line) {
			t.Fatalf("not JSON in UTF-8: %q", line)
		}
		for _, c := range string(line) {
			if !unicode.IsGraphic(c) {
				t.Fatalf("%U stands in the line: %q", c, line)
			}
		}
		if !bytes.Equal(line, audit.AppendRecord([]byte{}, &r)) {
			t.Fatal("the same record gave other bytes")
		}
		got, err := audit.DecodeRecord(line)
		if err != nil {
			t.Fatal(err)
		}
		want := clean(r)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("read back (-want +got):\n%s", diff)
		}
		var plain map[string]any
		if err := json.Unmarshal(line, &plain); err != nil || fmt.Sprint(plain["resource"]) != fmt.Sprint(orNil(want.Resource)) {
			t.Fatalf("encoding/json reads the resource as %q, %v; want %q", plain["resource"], err, want.Resource)
		}
	})
}

func orNil(text string) any {
	if text == "" {
		return nil
	}
	return text
}

// clean is what is kept of a record: its texts as UTF-8.
func clean(r audit.Record) audit.Record {
	utf := func(s string) string { return string([]rune(s)) } // Each byte that is not UTF-8 becomes one U+FFFD.
	r.Agent, r.Resource, r.Message = utf(r.Agent), utf(r.Resource), utf(r.Message)
	r.Matched = []string{utf(r.Matched[0]), utf(r.Matched[1])}
	shown := make([]audit.Member, len(r.Shown))
	for i, m := range r.Shown {
		shown[i] = audit.Member{Name: utf(m.Name), Value: utf(m.Value)}
	}
	r.Shown = shown
	limits := []audit.Limit{r.Limits[0]}
	limits[0].Name = utf(limits[0].Name)
	r.Limits = limits
	if math.IsNaN(r.Cost) || math.IsInf(r.Cost, 0) || r.Cost == 0 {
		r.Cost, r.Limits[0].Charged = 0, 0
	}
	return r
}

// FuzzDecodeLine: no bytes make the reader panic, and a line that it takes has
// one spelling of its frame.
func FuzzDecodeLine(f *testing.F) {
	r := audittest.Full()
	line, hash := audit.AppendLine(nil, 7, audit.Hash{1}, audit.AppendRecord(nil, &r))
	f.Add(line)
	note := audit.Record{Time: r.Time, Kind: audit.KindSegment, Note: &audit.Note{Chain: "c", Segment: 1, Prev: hash, Ended: audit.EndedCrashed, CutBytes: 3}}
	line, _ = audit.AppendLine(nil, 8, hash, audit.AppendRecord(nil, &note))
	f.Add(line)
	f.Add([]byte(`{"seq":1,"hash":"` + strings.Repeat("0", 64) + "\"}\n"))
	f.Add([]byte("\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := audit.DecodeLine(raw)
		sealed, splitErr := audit.SplitLine(raw, nil)
		if err != nil {
			return
		}
		if splitErr != nil || sealed.Seq != got.Seq || sealed.Stated != got.Hash {
			t.Fatalf("taken apart %+v, %v; read %d %v", sealed, splitErr, got.Seq, got.Hash)
		}
		again, _ := audit.AppendLine(nil, sealed.Seq, audit.Hash{}, append([]byte{'{'}, sealed.Body[bytes.IndexByte(sealed.Body, ',')+1:]...))
		if len(again) != len(raw) || !bytes.Equal(again[:len(again)-68], raw[:len(raw)-68]) {
			t.Fatalf("put together again:\n%q\n%q", again, raw)
		}
	})
}

func TestChainOfALine(t *testing.T) {
	t.Parallel()
	r := audittest.Full()
	record := audit.AppendRecord(nil, &r)
	prev := audit.Hash{1, 2, 3}
	line, hash := audit.AppendLine(nil, 42, prev, record)
	sealed, err := audit.SplitLine(line, nil)
	if err != nil || sealed.Seq != 42 || sealed.Stated != hash || !sealed.Follows(prev) {
		t.Fatalf("%+v, %v", sealed, err)
	}
	if read, err := audit.DecodeLine(line); err != nil || string(read.Append(nil))+"\n" != string(line) {
		t.Errorf("read and written again (%v):\n%s\n%s", err, read.Append(nil), line)
	}
	if sealed.Follows(audit.Hash{}) {
		t.Error("it follows another line too")
	}
	for i := range line {
		spoiled := bytes.Clone(line)
		spoiled[i] ^= 4
		if sealed, err := audit.SplitLine(spoiled, nil); err == nil && sealed.Follows(prev) {
			t.Fatalf("byte %d changed, and it follows still", i)
		}
	}
}
