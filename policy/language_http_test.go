package policy_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/kelpie-authz/kelpie/policy"
)

// runRoutes asks which call an HTTP request becomes. A line is "METHOD HOST
// PATH => ROUTE ACTION RESOURCE NAME=VALUE...", the path decoded, or
// "METHOD HOST PATH => none".
func (c languageCase) runRoutes(t *testing.T, snapshot *policy.Snapshot) {
	t.Helper()
	for _, line := range c.Routes {
		request, want, _ := strings.Cut(line, " => ")
		method, host, segments := httpRequest(t, request)
		host, err := policy.NormalHost(host)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		got := []string{"none"}
		if r := snapshot.HTTP().Route(method, host, segments); r != nil {
			action, resource := r.Call(segments)
			got = []string{strings.TrimPrefix(r.ID, "http/"), action, resource}
			for name, value := range r.PathParameters(segments) {
				got = append(got, name+"="+value)
			}
		}
		if !slices.Equal(got, strings.Fields(want)) {
			t.Errorf("%s: got %q", line, got)
		}
	}
}
