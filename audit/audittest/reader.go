package audittest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/audit"
)

func readerCases() []testCase {
	return []testCase{
		{name: "a query by each field", reader: true, run: queryByField},
		{name: "orders and limits", reader: true, run: ordersAndLimits},
		{name: "a query that is wrong", reader: true, run: wrongQuery},
		{name: "a query that is stopped", reader: true, run: stoppedQuery},
		{name: "Tail gives what comes, and nothing else", reader: true, run: tailFollows},
	}
}

// patience is how long a case waits for what must happen.
const patience = 20 * time.Second

func (f *fixture) reader() audit.Reader {
	f.Helper()
	r, is := f.Sink.(audit.Reader)
	if !is {
		f.Fatalf("%T is no audit.Reader", f.Sink)
	}
	return r
}

// ask returns the ids of the decisions that a query gives.
func (f *fixture) ask(q audit.Query) []string {
	f.Helper()
	var ids []string
	seq := uint64(0)
	for line, err := range f.reader().Query(context.Background(), &q) {
		if err != nil {
			f.Fatalf("Query: %v", err)
		}
		if seq != 0 && (q.Order == audit.OldestFirst) != (line.Seq > seq) {
			f.Errorf("line %d comes after %d", line.Seq, seq)
		}
		seq = line.Seq
		ids = append(ids, line.DecisionID)
	}
	return ids
}

func queryByField(t *testing.T, d Driver) {
	f := setup(t, d)
	full := Full()
	full.DecisionID = id(0)
	f.append(&full)
	other := decision(1)
	other.Actor = "local-admin as eve@example.com (unverified)"
	f.append(&other)
	vote := decision(2)
	vote.Kind, vote.Agent, vote.Actor, vote.Resource, vote.Decision, vote.Reason = audit.KindApprovalVote, "", "eve@example.com", "", "", ""
	f.append(&vote)
	for name, c := range map[string]struct {
		q    audit.Query
		want []string
	}{
		"all":              {audit.Query{}, []string{id(0), id(1), id(2)}},
		"agent":            {audit.Query{Agent: "data-cleaner"}, []string{id(0)}},
		"claimed agent":    {audit.Query{Agent: "cleaner"}, []string{id(0)}},
		"part of a name":   {audit.Query{Agent: "read"}, nil},
		"subject":          {audit.Query{Subject: "ann@example.com"}, []string{id(0)}},
		"gateway":          {audit.Query{Gateway: "gateways/crm"}, []string{id(0)}},
		"actor":            {audit.Query{Actor: "eve@example.com"}, []string{id(1), id(2)}},
		"actor, as kept":   {audit.Query{Actor: other.Actor}, []string{id(1)}},
		"part of an actor": {audit.Query{Actor: "eve"}, nil},
		"resource":         {audit.Query{Resource: "salesforce/**"}, []string{id(0)}},
		"one segment":      {audit.Query{Resource: "*/42"}, []string{id(1)}},
		"action":           {audit.Query{Action: "*.delete"}, []string{id(0)}},
		"decision":         {audit.Query{Decision: "allow"}, []string{id(0), id(1)}},
		"reason":           {audit.Query{Reason: "ok"}, []string{id(1)}},
		"kind":             {audit.Query{Kinds: []audit.Kind{audit.KindDecision}}, []string{id(0), id(1)}},
		"family":           {audit.Query{Kinds: []audit.Kind{"approval"}}, []string{id(2)}},
		"two kinds":        {audit.Query{Kinds: []audit.Kind{"approval", "decision"}}, []string{id(0), id(1), id(2)}},
		"decision id":      {audit.Query{DecisionID: id(1)}, []string{id(1)}},
		"approval":         {audit.Query{ApprovalID: "a-1"}, []string{id(0)}},
		"from, included":   {audit.Query{From: other.Time}, []string{id(1), id(2)}},
		"to, not included": {audit.Query{To: other.Time}, []string{id(0)}},
		"between":          {audit.Query{From: other.Time, To: vote.Time}, []string{id(1)}},
		"together":         {audit.Query{Decision: "ALLOW", Agent: "reader", Resource: "leads/*"}, []string{id(1)}},
		"none":             {audit.Query{Agent: "nobody"}, nil},
	} {
		c.q.Order = audit.OldestFirst
		if got := f.ask(c.q); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func ordersAndLimits(t *testing.T, d Driver) {
	const n = 40
	f := setup(t, d)
	var oldest []string
	for i := range n {
		if i%15 == 14 { // Over several runs of the sink.
			f.close()
			f.open()
		}
		r := decision(i)
		f.append(&r)
		oldest = append(oldest, id(i))
	}
	newest := slices.Clone(oldest)
	slices.Reverse(newest)
	for _, limit := range []int{0, 1, 2, 7, n - 1, n, n + 1, math.MaxInt} {
		most := n
		if limit > 0 {
			most = min(limit, n)
		}
		for order, all := range map[audit.Order][]string{audit.NewestFirst: newest, audit.OldestFirst: oldest} {
			if got := f.ask(audit.Query{Limit: limit, Order: order}); !slices.Equal(got, all[:most]) {
				t.Errorf("order %d, limit %d: %v, want %v", order, limit, got, all[:most])
			}
		}
	}
}

func wrongQuery(t *testing.T, d Driver) {
	f := setup(t, d)
	for _, q := range []audit.Query{{Resource: "a/b**"}, {Action: "x.**y"}, {Limit: -1}} {
		n, failed := 0, false
		for _, err := range f.reader().Query(context.Background(), &q) {
			n++
			failed = failed || err != nil
		}
		if n != 1 || !failed {
			t.Errorf("%+v gave %d answers, an error: %v; want the error alone", q, n, failed)
		}
	}
}

func stoppedQuery(t *testing.T, d Driver) {
	f := setup(t, d)
	for i := range 10 {
		r := decision(i)
		f.append(&r)
	}
	for _, order := range []audit.Order{audit.NewestFirst, audit.OldestFirst} {
		n := 0
		for _, err := range f.reader().Query(context.Background(), &audit.Query{Order: order}) {
			if err != nil {
				t.Fatal(err)
			}
			if n++; n == 3 {
				break
			}
		}
		if n != 3 {
			t.Errorf("order %d: %d lines before the consumer had enough", order, n)
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		var last error
		for _, err := range f.reader().Query(ctx, &audit.Query{Order: order}) {
			last = err
		}
		if !errors.Is(last, context.Canceled) {
			t.Errorf("order %d: the last error is %v, want that of the context", order, last)
		}
	}
}

func tailFollows(t *testing.T, d Driver) {
	f := setup(t, d)
	before := decision(0)
	f.append(&before)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	lines := f.reader().Tail(ctx, &audit.Query{Agent: "reader"})
	for i := 1; i <= 5; i++ {
		r := decision(i)
		f.append(&r)
		r.Agent = "somebody"
		f.append(&r)
	}
	var got []string
	var last error
	for line, err := range lines {
		if last = err; err != nil {
			continue
		}
		if got = append(got, line.DecisionID); len(got) == 5 {
			cancel()
		}
	}
	want := fmt.Sprint([]string{id(1), id(2), id(3), id(4), id(5)})
	if fmt.Sprint(got) != want || !errors.Is(last, context.Canceled) {
		t.Errorf("Tail gave %v and then %v; want %s and the context's error", got, last, want)
	}
}
