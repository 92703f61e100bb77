package main

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// row is one line of the table.
type row struct {
	what string
	// ours and theirs are the two sides, as people read them; theirs is the
	// budget itself where there is no other side.
	ours, theirs string
	// score is how much of the budget is kept: 1 meets it, more beats it.
	// Rows without a budget have score 0 and are not judged.
	score  float64
	budget string
}

// atLeast scores a ratio that has to be at least limit.
func atLeast(ratio, limit float64) float64 { return ratio / limit }

// atMost scores a value that has to be at most limit.
func atMost(value, limit float64) float64 {
	if value <= 0 {
		return 1
	}
	return limit / value
}

// unjudged are rows for the reader alone.
func unjudged(rows []row) []row {
	for i := range rows {
		rows[i].budget, rows[i].score = "", 0
	}
	return rows
}

// below lists the rows that keep less than part of their budget.
func below(rows []row, part float64) []string {
	var missed []string
	for _, r := range rows {
		if r.score != 0 && r.score < part {
			missed = append(missed, r.what)
		}
	}
	return missed
}

func printTable(out io.Writer, rows []row) {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "what\tKelpie\tbeside\tbudget\t")
	for _, r := range rows {
		verdict := ""
		switch {
		case r.score == 0:
		case r.score >= 1:
			verdict = "kept"
		case r.score >= 0.9:
			verdict = "kept, within a tenth"
		default:
			verdict = "MISSED"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.what, r.ours, r.theirs, r.budget, verdict)
	}
	// A table that cannot be written has no reader to tell.
	_ = w.Flush()
}
