package pdp_test

import (
	"context"
	"os"
	"testing"

	"github.com/kelpie-authz/kelpie/limiter"
	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/policy"
)

// benchService is a service as production has it, but for the recorder, which
// keeps nothing: what is measured is this package with policy and limiter.
func benchService(b *testing.B, docs ...policy.Document) *pdp.Service {
	b.Helper()
	snap, err := policy.Compile(docs)
	if err != nil {
		b.Fatal(err)
	}
	src := &source{}
	src.p.Store(snap)
	lim, err := limiter.NewMemory(limiter.MemoryConfig{})
	if err != nil {
		b.Fatal(err)
	}
	svc, err := pdp.New(pdp.Config{
		Policy: src, Limiter: lim, Recorder: pdp.RecorderFunc(func(context.Context, *pdp.Record) error { return nil }),
	})
	if err != nil {
		b.Fatal(err)
	}
	return svc
}

var widePolicy = policy.Document{Name: "wide.yaml", Data: []byte(limited(
	"  calls: {rate: 900000/second, burst: 900000, per: [agent]}\n"))}

func benchAuthorize(b *testing.B, svc *pdp.Service, req *pdp.Request, want pdp.Verdict) {
	b.Helper()
	ctx := context.Background()
	var dec pdp.Decision
	b.ReportAllocs()
	for b.Loop() {
		if err := svc.Authorize(ctx, req, &dec); err != nil {
			b.Fatal(err)
		}
		if dec.Verdict != want {
			b.Fatalf("%v %s", dec.Verdict, dec.Reason)
		}
	}
}

func BenchmarkAuthorizeAllow(b *testing.B) {
	benchAuthorize(b, benchService(b, widePolicy), readNote, pdp.Allow)
}

func BenchmarkAuthorizeDeny(b *testing.B) {
	benchAuthorize(b, benchService(b, widePolicy), call("reader", "read", "vault/x"), pdp.Deny)
}

func BenchmarkAuthorizeRequireApproval(b *testing.B) {
	benchAuthorize(b, benchService(b, widePolicy), deleteNote, pdp.RequireApproval)
}

func BenchmarkAuthorizeParallel(b *testing.B) {
	svc := benchService(b, widePolicy)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		var dec pdp.Decision
		for pb.Next() {
			if err := svc.Authorize(context.Background(), readNote, &dec); err != nil || dec.Verdict != pdp.Allow {
				b.Fatalf("%v %s %v", dec.Verdict, dec.Reason, err)
			}
		}
	})
}

func BenchmarkBatch100(b *testing.B) {
	svc := benchService(b, widePolicy)
	reqs := make([]pdp.Request, 100)
	for i := range reqs {
		reqs[i] = *readNote
	}
	var decs []pdp.Decision
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if decs, err = svc.Batch(context.Background(), reqs, pdp.ExecuteAll, decs); err != nil || decs[99].Verdict != pdp.Allow {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100, "ns/item")
}

// BenchmarkAuthorizeRevops is the example policy that users start from.
func BenchmarkAuthorizeRevops(b *testing.B) {
	data, err := os.ReadFile("../examples/revops/policy.yaml")
	if err != nil {
		b.Fatal(err)
	}
	svc := benchService(b, policy.Document{Name: "policy.yaml", Data: data})
	benchAuthorize(b, svc, &pdp.Request{
		Agent: "lead-router", Action: "update", Resource: "salesforce/leads/42", SourceIP: "10.8.0.5",
	}, pdp.Deny)
}
