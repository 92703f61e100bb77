//go:build !race

package sqlitestore_test

const slower = 1
