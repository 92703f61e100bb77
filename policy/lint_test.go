package policy_test

import (
	"os"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/policy"
)

// lintNow is the instant of every lint test.
var lintNow = time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)

func TestLintIsCleanOnRevops(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../examples/revops/policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	notes := 0
	for _, f := range policy.Lint([]policy.Document{{Name: "policy.yaml", Data: text}}, lintNow) {
		if f.Severity != policy.SeverityNote {
			t.Errorf("%v", f)
		}
		notes++
		t.Log(f)
	}
	if notes == 0 {
		t.Error("no note on grants of delete and admin")
	}
}
