package main

import (
	"fmt"
	"io"
	"slices"
)

// budget is a ratio that has to be kept: of one row to another, in the same
// round.
type budget struct {
	what string
	cell string
	// ours and theirs are sides of the cell.
	ours, theirs string
	// least is what the decisions per second have to be of theirs; most, if it
	// is not 0, is what p50 may be of theirs instead.
	least, most float64
}

func budgets() []budget {
	const three, one = "kelpie-3", "serve-3"
	return []budget{
		{what: "spread keys, 64 callers, three limits against plain with one", cell: "driver/uniform/64/1", ours: three, theirs: plain, least: 1.8},
		{what: "spread keys, 512 callers, three limits against plain with one", cell: "driver/uniform/512/1", ours: three, theirs: plain, least: 1.8},
		{what: "one hot key, 64 callers, three limits against plain with one", cell: "driver/hot/64/1", ours: three, theirs: plain, least: 6},
		{what: "one caller, three limits against plain with one: p50", cell: "driver/uniform/1/1", ours: three, theirs: plain, most: 1.15},
		{what: "Authorize, spread keys, three limits, 128 callers, against empty", cell: "grpc/uniform/128/1", ours: one, theirs: empty, least: 0.6},
		{what: "the same with leases, one hot key, against empty", cell: "grpc/hot/128/1", ours: "serve-3, leased", theirs: empty, least: 0.8},
		{what: "spread keys, as above, against plain with one", cell: "grpc/uniform/128/1", ours: one, theirs: plainServed, least: 1.5},
		{what: "spread keys, against envoyproxy/ratelimit with one", cell: "grpc/uniform/128/1", ours: one, theirs: "ratelimit", least: 1.6},
	}
}

// tolerated is the part of a budget that a run may miss it by: runs differ.
const tolerated = 0.9

// printBudgets prints each budget that was measured, and returns those that are
// missed by more than is tolerated.
func printBudgets(out io.Writer, table map[string][]sample) (missed []string) {
	header := "\n| budget | asked for | measured | |\n|---|--:|--:|---|\n"
	for _, b := range budgets() {
		ours, theirs := table[b.cell+"/"+b.ours], table[b.cell+"/"+b.theirs]
		if len(ours) == 0 || len(theirs) == 0 {
			continue
		}
		fmt.Fprint(out, header)
		header = ""
		measured := ratios(ours, theirs, perSecond)
		asked, score := fmt.Sprintf("≥ %.2g ×", b.least), median(measured)/b.least
		if b.most > 0 {
			measured = ratios(ours, theirs, func(s *sample) float64 { return s.P50 })
			asked, score = fmt.Sprintf("≤ %.3g ×", b.most), b.most/median(measured)
		}
		if len(measured) == 0 {
			fmt.Fprintf(out, "| %s | %s | nothing decided | MISSED |\n", b.what, asked)
			missed = append(missed, b.what)
			continue
		}
		verdict := "kept"
		switch {
		case score < tolerated:
			verdict = "MISSED"
			missed = append(missed, b.what)
		case score < 1:
			verdict = "kept, within a tenth"
		}
		fmt.Fprintf(out, "| %s | %s | %.2f × (%.2f to %.2f) | %s |\n",
			b.what, asked, median(measured), slices.Min(measured), slices.Max(measured), verdict)
	}
	return missed
}
