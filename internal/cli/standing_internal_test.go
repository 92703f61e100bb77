package cli

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	approvalv1 "github.com/kelpie-authz/kelpie/gen/kelpie/approval/v1"
)

func TestBounds(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		texts []string
		want  []*approvalv1.Bound // nil: an error
	}{
		{[]string{"amount<=100"}, []*approvalv1.Bound{{Name: "amount", Max: new(100.0)}}},
		{[]string{" amount >= 1.5 ", "amount<=1e3"}, []*approvalv1.Bound{{Name: "amount", Min: new(1.5), Max: new(1000.0)}}},
		{[]string{"note=any", "a<=b<=3"}, []*approvalv1.Bound{{Name: "note", Any: true}, {Name: "a<=b", Max: new(3.0)}}},
		{[]string{"amount<=-1"}, []*approvalv1.Bound{{Name: "amount", Max: new(-1.0)}}},
		{[]string{"amount<100"}, nil},
		{[]string{"amount=100"}, nil},
		{[]string{"amount"}, nil},
		{[]string{"<=1"}, nil},
		{[]string{""}, nil},
		{[]string{"amount<=x"}, nil},
		{[]string{"amount<=NaN"}, nil},
		{[]string{"amount<=Inf"}, nil},
		{[]string{"amount<=any"}, nil},
		{[]string{" <=1"}, nil},
		{[]string{" =any"}, nil},
	} {
		var out approvalv1.Standing
		var err error
		for _, text := range tt.texts {
			if err = addBound(&out, text); err != nil {
				break
			}
		}
		if (err != nil) != (tt.want == nil) {
			t.Errorf("%q: %v, %v", tt.texts, out.GetBounds(), err)
		} else if diff := cmp.Diff(tt.want, out.GetBounds(), protocmp.Transform()); err == nil && diff != "" {
			t.Errorf("%q (-want +got):\n%s", tt.texts, diff)
		}
	}
}

// Whatever is typed, a bound that is read says something, and only numbers that are some.
func FuzzBound(f *testing.F) {
	for _, seed := range []string{"amount<=100", "a>=1", "note=any", "<=", "a<=b>=1", "a<=1e999", "=any", "a=any=any"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var out approvalv1.Standing
		if addBound(&out, text) != nil {
			return
		}
		b := out.GetBounds()[0]
		finite := func(n float64) bool { return !math.IsNaN(n) && !math.IsInf(n, 0) }
		if len(out.GetBounds()) != 1 || b.GetName() == "" || b.GetAny() == (b.Min != nil || b.Max != nil) || !finite(b.GetMin()) || !finite(b.GetMax()) {
			t.Errorf("%q is %v", text, b)
		}
	})
}
