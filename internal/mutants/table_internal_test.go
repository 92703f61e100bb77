package main

import "testing"

// TestTable: every mutant's text is in its file exactly once, so that a change
// of a check is noticed by the quick tests and not by the next `make mutants`.
func TestTable(t *testing.T) {
	t.Chdir("../..")
	names := map[string]bool{}
	for _, m := range mutants() {
		if _, err := m.write(t.TempDir()); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
		if names[m.name] || len(m.tests) == 0 || m.old == m.new {
			t.Errorf("%s: a name of its own, tests to notice it and a change are needed", m.name)
		}
		names[m.name] = true
	}
}
