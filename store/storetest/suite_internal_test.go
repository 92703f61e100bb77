package storetest

import (
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/store"
)

// Whatever is left out of the approval by which drivers are tried is named, however
// deep it lies: a field that comes later fails the suite until it is filled.
func TestWhatIsLeftOutIsNamed(t *testing.T) {
	t.Parallel()
	for path, leave := range map[string]func(*store.Approval){
		".Digest":                      func(a *store.Approval) { a.Digest = "" },
		".UseWithin":                   func(a *store.Approval) { a.UseWithin = 0 },
		".ExpiresAt":                   func(a *store.Approval) { a.ExpiresAt = time.Time{} },
		".Shown":                       func(a *store.Approval) { a.Shown = []byte{} },
		".Requirements[0].Groups":      func(a *store.Approval) { a.Requirements[0].Groups = []string{} },
		".Votes[0].Groups":             func(a *store.Approval) { a.Votes[0].Groups = nil },
		".Votes[0].Groups[0]":          func(a *store.Approval) { a.Votes[0].Groups[0] = "" },
		".Votes[0].Yes":                func(a *store.Approval) { a.Votes[0].Yes = false },
		".Used":                        func(a *store.Approval) { a.Used = nil },
		".Used.RequestID":              func(a *store.Approval) { a.Used.RequestID = "" },
		".Grant":                       func(a *store.Approval) { a.Grant = nil },
		".Grant.Shape":                 func(a *store.Approval) { a.Grant.Shape = nil },
		".Grant.Bounds[1].Max":         func(a *store.Approval) { a.Grant.Bounds[1].Max = nil },
		".Grant.BreakGlass":            func(a *store.Approval) { a.Grant.BreakGlass = nil },
		".Grant.BreakGlass.ReviewedAt": func(a *store.Approval) { a.Grant.BreakGlass.ReviewedAt = time.Time{} },
		".Grant.BreakGlass.Review":     func(a *store.Approval) { a.Grant.BreakGlass.Review = "" },
		".Requirements[0]":             func(a *store.Approval) { a.Requirements[0] = store.Requirement{} },
		".Requirements[0].Quorum":      func(a *store.Approval) { a.Requirements[0].Quorum = 0 },
	} {
		a := full(t)
		leave(a)
		if got := unfilled(a); !slices.Equal(got, []string{path}) {
			t.Errorf("left out %s, told %q", path, got)
		}
	}
	type inner struct{ N *float64 }
	if got := empties("", reflect.ValueOf(&struct {
		Map   map[string]inner
		Any   any
		Array [2]int
	}{map[string]inner{"a": {}}, inner{}, [2]int{1}})); !slices.Equal(got, []string{".Map[a]", ".Any", ".Array[1]"}) {
		t.Errorf("told %q", got)
	}
}
