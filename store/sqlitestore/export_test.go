package sqlitestore

import (
	"database/sql"
	"fmt"
	"testing"
	"time"

	"github.com/kelpie-authz/kelpie/store"
)

// Fill adds so many approvals in one transaction.
func Fill(t *testing.T, s *Store, n int, approval func(int) *store.Approval) {
	t.Helper()
	err := s.change(t.Context(), func(tx *sql.Tx) error {
		for i := range n {
			a := approval(i)
			raw, err := encode(a)
			if err != nil {
				return err
			}
			if _, err := tx.ExecContext(t.Context(), "INSERT INTO approvals (id, digest, state, version, agent, opened, ended, touched, record) VALUES (?, ?, ?, ?, ?, ?, 0, 0, ?)",
				a.ID, a.Digest, a.State, a.Version, []byte(a.Agent), nanos(a.OpenedAt), raw); err != nil {
				return at("fill", err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// SetSchema makes a database one of another schema.
func SetSchema(t *testing.T, path string, version int) {
	t.Helper()
	db, err := open(path, time.Second, "immediate", 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), fmt.Sprintf("PRAGMA user_version = %d", version)); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}
