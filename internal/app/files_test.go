package app_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kelpie-authz/kelpie/internal/config"
	"github.com/kelpie-authz/kelpie/internal/testkit"
)

// A database that somebody removes or replaces under the server is told: what is
// written to it is lost, and nothing else would say so before the next start.
func TestDatabasesThatAreTaken(t *testing.T) {
	t.Parallel()
	h := newHook(t)
	r := start(t, func(c *config.Config) {
		h.in(c)
		c.Policy = policyDir(t, auditedPolicy)
	})
	told := func(name string, want bool) {
		t.Helper()
		testkit.Eventually(t, "what /readyz says of "+name, func() bool {
			_, body := r.get(t, "/readyz")
			return strings.Contains(body, name+" was removed or replaced") == want
		})
	}
	for _, name := range []string{"kelpie.db", "quotas.db", "notify.db"} {
		path := filepath.Join(r.cfg.State, name)
		if err := os.Rename(path, path+".away"); err != nil {
			t.Fatal(err)
		}
		told(name, true)
		testkit.WriteFile(t, path, []byte("another"))
		told(name, true)
		if err := os.Rename(path+".away", path); err != nil {
			t.Fatal(err)
		}
		told(name, false)
	}
	if !strings.Contains(r.stderr.String(), "restart the server") {
		t.Error("the log says nothing")
	}
}
