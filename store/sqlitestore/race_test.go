//go:build race

package sqlitestore_test

// slower is how much more time the race detector takes: the database is Go too. The
// proofs measure without it as well.
const slower = 50
