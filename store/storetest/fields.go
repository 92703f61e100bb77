package storetest

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kelpie-authz/kelpie/store"
)

// full has something in every field, those of what it holds among them.
func full(t *testing.T) *store.Approval {
	t.Helper()
	a := approval("full", "digest")
	a.Agent, a.Subject, a.Action, a.Resource, a.Gateway = "a\xff\x00", "s\u202e", "x.y", strings.Repeat("r/", 1000)+"é", "g\xfe"
	a.Shown = []byte(strings.Repeat("x", 64<<10))
	a.Votes = []store.Vote{{ID: "v1", Voter: "ann", How: "oidc", Groups: []string{"security"}, Rule: "approvals/r", Yes: true, Reason: "because\n\u202e", At: start.Add(1)}}
	a.UseBy, a.EndedAt, a.EndedBy, a.Why = start.Add(2), start.Add(3), "bob", "why"
	a.Used = &store.Use{Gateway: "gw", RequestID: "r", DecisionID: "d", At: start.Add(4)}
	a.Grant = &store.Grant{
		From: "apr_1", Shape: []byte(`{"base":"x"}`), Resource: "r/*", MaxCost: 2.5, MaxUses: 10, Uses: 3,
		Bounds: []store.Bound{{Name: "amount\u202e", Any: true, Min: new(1.5), Max: new(1e300)}, {Name: "to", Any: true, Min: new(-1.5), Max: new(2.5)}},
		BreakGlass: &store.BreakGlass{
			Action: "records.*", Reason: "a fire\u202e", Ticket: "T-1", ReviewedBy: "ann", Review: "as it says", ReviewedAt: start.Add(5),
		},
	}
	if left := unfilled(a); len(left) > 0 {
		t.Fatalf("the suite leaves out %s, so that nobody knows whether a driver keeps it", strings.Join(left, ", "))
	}
	return a
}

// unfilled names what is zero in a value, however deep, but for what is not stored.
func unfilled(a *store.Approval) []string {
	return slices.DeleteFunc(empties("", reflect.ValueOf(a)), func(name string) bool { return name == ".Unsure" })
}

// empties are the paths of what is zero or empty in a value. A field that a caller
// cannot set is its type's own affair, as those of a time are.
func empties(path string, v reflect.Value) (names []string) {
	if v.IsZero() {
		return []string{path}
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		return empties(path, v.Elem())
	case reflect.Slice, reflect.Array:
		if v.Len() == 0 {
			return []string{path}
		}
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return nil // a text
		}
		for i := range v.Len() {
			names = append(names, empties(fmt.Sprintf("%s[%d]", path, i), v.Index(i))...)
		}
	case reflect.Map:
		if v.Len() == 0 {
			return []string{path}
		}
		for _, key := range v.MapKeys() {
			names = append(names, empties(fmt.Sprintf("%s[%v]", path, key), v.MapIndex(key))...)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() {
				names = append(names, empties(path+"."+f.Name, v.Field(i))...)
			}
		}
	default: // It is not zero.
	}
	return names
}

func everyField(t *testing.T, open Opener) {
	s := open(t)
	for _, a := range []*store.Approval{full(t), {ID: "empty", Digest: "other", State: store.Pending, Version: 1, OpenedAt: start}} {
		opened := mustOpen(t, s, a, plenty)
		opened.State, opened.Votes, opened.Used, opened.UseBy, opened.EndedAt = store.Consumed, a.Votes, a.Used, a.UseBy, a.EndedAt
		mustSwap(t, s, opened)
		got, err := open(t).Get(t.Context(), a.ID)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(opened, got, cmp.Comparer(time.Time.Equal)); diff != "" && a.ID != "empty" {
			t.Errorf("%s (-want +got):\n%s", a.ID, diff)
		}
		if a.ID == "empty" && (len(got.Votes)+len(got.Requirements)+len(got.Shown) > 0 || got.Used != nil || !got.UseBy.IsZero() || !got.EndedAt.IsZero()) {
			t.Errorf("what is empty came back as %+v", got)
		}
	}
}
