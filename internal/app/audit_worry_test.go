package app_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/audit"
	"github.com/kelpie-authz/kelpie/audit/fileaudit"
	"github.com/kelpie-authz/kelpie/internal/config"
	"github.com/kelpie-authz/kelpie/internal/testkit"
)

// A segment that retention does not dare to remove is told by /readyz, and keeps no
// call from being answered.
func TestRetentionThatRefusesIsTold(t *testing.T) {
	t.Parallel()
	dir, key := filepath.Join(t.TempDir(), "audit"), filepath.Join(t.TempDir(), "audit.key")
	past := time.Now().AddDate(-1, 0, 0)
	for range 2 {
		log, err := fileaudit.Open(fileaudit.Config{Dir: dir, KeyFile: key, Now: func() time.Time { return past }})
		if err != nil {
			t.Fatal(err)
		}
		if err := log.Append(t.Context(), &audit.Record{Time: past, Kind: audit.KindPolicyLoaded}, audit.Sync); err != nil {
			t.Fatal(err)
		}
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
	}
	first, err := filepath.Glob(filepath.Join(dir, "audit-00000001.*"))
	if err != nil || len(first) != 1 {
		t.Fatalf("%v, %v", first, err)
	}
	if err := os.WriteFile(first[0], []byte("spoiled\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := start(t, func(c *config.Config) {
		c.Policy = policyDir(t, auditedPolicy)
		c.Audit.Dir, c.Audit.KeyFile, c.Audit.KeepAge = dir, key, time.Hour
	})
	testkit.Eventually(t, "the fault in /readyz", func() bool {
		code, body := r.get(t, "/readyz")
		return code == 200 && strings.Contains(body, "retention of the audit removes nothing")
	})
	if err := r.end(t); err != nil {
		t.Fatal(err)
	}
}
