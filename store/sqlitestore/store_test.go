package sqlitestore_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/kelpie-authz/kelpie/store"
	"github.com/kelpie-authz/kelpie/store/sqlitestore"
	"github.com/kelpie-authz/kelpie/store/storetest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		if err := child(dir, os.Getenv(childEnv+"_TURN"), os.Stdout); err != nil {
			panic(err)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

func openIn(t *testing.T, dir string) *sqlitestore.Store {
	t.Helper()
	s, err := sqlitestore.Open(t.Context(), sqlitestore.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestConforms(t *testing.T) {
	t.Parallel()
	n := storetest.Run(t, func(t *testing.T) storetest.Opener {
		t.Helper()
		dir := t.TempDir()
		return func(t *testing.T) store.Approvals {
			t.Helper()
			return openIn(t, dir)
		}
	})
	if n != storetest.Cases {
		t.Errorf("%d cases ran, want %d", n, storetest.Cases)
	}
}

// What is not a database of this release is refused, in words.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openIn(t, dir)
	a := &store.Approval{ID: "a", Digest: "d"}
	if _, _, err := s.Open(context.Background(), a, store.OpenLimits{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, sqlitestore.File)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file's mode is %v, %v", info.Mode(), err)
	}
	sqlitestore.SetSchema(t, path, 99)
	if _, err := sqlitestore.Open(t.Context(), sqlitestore.Config{Dir: dir}); !errors.Is(err, store.ErrSchema) || !strings.Contains(err.Error(), path) {
		t.Errorf("of a later release: %v", err)
	}
	for name, content := range map[string]string{"another file": strings.Repeat("no database ", 1000), "half of one": "SQLite format 3\x00" + strings.Repeat("\x01", 8192)} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, sqlitestore.File), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := sqlitestore.Open(t.Context(), sqlitestore.Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), "is damaged") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
