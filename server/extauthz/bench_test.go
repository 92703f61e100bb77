package extauthz_test

import (
	"context"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/proto"
)

// BenchmarkCheck is what a Check costs the server: reading the message,
// deciding, and writing the answer.
func BenchmarkCheck(b *testing.B) {
	api := realDoor(b, bypassPolicy)
	wire, err := proto.Marshal(call())
	if err != nil {
		b.Fatal(err)
	}
	b.Run("read", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := proto.Unmarshal(wire, &authv3.CheckRequest{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	in := call()
	out, err := api.Check(context.Background(), in)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("decide", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := api.Check(context.Background(), in); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("write", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := proto.Marshal(out); err != nil {
				b.Fatal(err)
			}
		}
	})
}
