package sqlitestore

import (
	"fmt"
	"testing"
	"time"
)

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
