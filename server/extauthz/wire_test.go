package extauthz_test

import (
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/google/go-cmp/cmp"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/server/extauthz"
)

// An allowing answer that is written for the wire is, read back, the message
// that it stands for, whatever the lengths of its parts.
func TestWireIsTheMessage(t *testing.T) {
	t.Parallel()
	text := rapid.Custom(func(t *rapid.T) string {
		return strings.Repeat(rapid.SampledFrom([]string{"a", "é", "/"}).Draw(t, "letter"), rapid.IntRange(0, 700).Draw(t, "length"))
	})
	name := rapid.StringMatching(`[a-z][a-z0-9.-]{0,126}`)
	rapid.Check(t, func(t *rapid.T) {
		d := pdp.HTTPDecision{
			Decision: pdp.Decision{
				Verdict: pdp.Allow, Reason: pdp.ReasonOK, ID: text.Draw(t, "id"), Matched: rapid.SliceOfN(text, 0, 20).Draw(t, "matched"),
			},
			Agent: text.Draw(t, "agent"), Action: name.Draw(t, "action"), Resource: text.Draw(t, "resource"), Route: text.Draw(t, "route"),
		}
		for range rapid.IntRange(0, 4).Draw(t, "limits") {
			d.Limits = append(d.Limits, pdp.LimitStatus{
				Name: name.Draw(t, "limit"), Limit: rapid.Int64().Draw(t, "q"), Remaining: rapid.Int64().Draw(t, "r"),
				Reset: time.Duration(rapid.Int64Range(0, 1<<50).Draw(t, "t")),
			})
		}
		inbound := map[string]string{"host": "x"}
		want := &authv3.OkHttpResponse{}
		if rapid.Bool().Draw(t, "spoofed") {
			spoofed := "x-kelpie-" + name.Draw(t, "spoofed name")
			inbound[spoofed] = "s"
			if spoofed != "x-kelpie-decision-id" {
				want.HeadersToRemove = []string{spoofed}
			}
		}
		got := check(t, newDoor(t, &decider{dec: d}), request(&authv3.AttributeContext_HttpRequest{Headers: inbound}))
		id := &corev3.HeaderValueOption{
			Header:       &corev3.HeaderValue{Key: "x-kelpie-decision-id", Value: d.ID},
			AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		}
		want.Headers = []*corev3.HeaderValueOption{id}
		want.ResponseHeadersToAdd = []*corev3.HeaderValueOption{id}
		if len(d.Limits) > 0 {
			sent := headersOf(got.GetOkResponse().GetResponseHeadersToAdd())
			for _, header := range []string{"ratelimit-policy", "ratelimit"} {
				if n := strings.Count(sent[header], `"`); n != 2*len(d.Limits) {
					t.Fatalf("%s: %s", header, sent[header])
				}
				want.ResponseHeadersToAdd = append(want.ResponseHeadersToAdd, &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: header, Value: sent[header]}})
			}
		}
		whole := &authv3.CheckResponse{
			Status: &rpcstatus.Status{}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: want}, DynamicMetadata: extauthz.MetadataOf(&d),
		}
		if diff := cmp.Diff(whole, got, protocmp.Transform()); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	})
}
