package pdp_test

import (
	"fmt"
	"testing"

	"github.com/kelpie-authz/kelpie/pdp"
)

// A page of the list is 100 approvals; what the store takes comes on top.
func BenchmarkDeskList(b *testing.B) {
	o := newOffice(b, 1)
	for i := range 100 {
		if i%10 == 0 {
			o.clock.advance(3600e9) // The agent may ask again.
		}
		o.opened(b, with(payRent, func(r *pdp.Request) { r.Resource = fmt.Sprint("bank/large/", i) }))
	}
	for b.Loop() {
		if _, _, err := o.desk.List(b.Context(), pdp.ApprovalFilter{All: true}); err != nil {
			b.Fatal(err)
		}
	}
}
