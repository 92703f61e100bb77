package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
)

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

func medianOf(samples []sample, f func(*sample) float64) float64 {
	values := make([]float64, len(samples))
	for i := range samples {
		values[i] = f(&samples[i])
	}
	return median(values)
}

// ratios are what one side did against another in the same round.
func ratios(ours, theirs []sample, f func(*sample) float64) []float64 {
	var found []float64
	for i := range min(len(ours), len(theirs)) {
		if ours[i].Decided && theirs[i].Decided {
			found = append(found, f(&ours[i])/f(&theirs[i]))
		}
	}
	return found
}

func perSecond(s *sample) float64 { return s.PerSecond }

func printMachine(out io.Writer, redisVersion string, opt options) {
	fmt.Fprintf(out, "Machine: %s, %d cores. Redis %s, %s, %s/%s. %d rounds of %v each; callers, servers and Redis share the machine.\n\n",
		processor(), runtime.NumCPU(), redisVersion, runtime.Version(), runtime.GOOS, runtime.GOARCH, opt.rounds, opt.span)
}

// processor is the name of the CPU.
func processor() string {
	file, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "unknown processor"
	}
	defer func() { _ = file.Close() }() // it was only read
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if name, value, _ := strings.Cut(lines.Text(), ":"); strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown processor"
}

// printRows prints the medians as a table in Markdown.
func printRows(out io.Writer, cells []cell, table map[string][]sample) {
	fmt.Fprintln(out, "| keys, callers, replicas | side | decisions/s | × plain | p50 µs | p99 µs | errors | denied | Redis calls | commands | Redis CPU µs | client CPU µs | server CPU µs |")
	fmt.Fprintln(out, "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
	for i := range cells {
		c := &cells[i]
		reference := table[c.row(c.reference())]
		for _, side := range c.sides {
			samples := table[c.row(side)]
			number := func(format string, f func(*sample) float64) string {
				return fmt.Sprintf(format, medianOf(samples, f))
			}
			server := ""
			if c.group == grpcGroup {
				server = number("%.1f", func(s *sample) float64 { return s.ServerCPU })
			}
			fmt.Fprintf(out, "| %s | %s |\n", conditions(c), strings.Join([]string{
				side,
				number("%.0f", perSecond),
				fmt.Sprintf("%.2f", median(ratios(samples, reference, perSecond))),
				short(medianOf(samples, func(s *sample) float64 { return s.P50 })),
				short(medianOf(samples, func(s *sample) float64 { return s.P99 })),
				share(samples, func(s *sample) float64 { return s.Errors }),
				share(samples, func(s *sample) float64 { return s.Denied }),
				short(medianOf(samples, func(s *sample) float64 { return s.Calls })),
				short(medianOf(samples, func(s *sample) float64 { return s.Commands })),
				number("%.1f", func(s *sample) float64 { return s.RedisCPU }),
				number("%.1f", func(s *sample) float64 { return s.ClientCPU }),
				server,
			}, " | "))
		}
	}
	printSides(out, cells)
	printErrors(out, cells, table)
}

// printSides says what the sides of the table are.
func printSides(out io.Writer, cells []cell) {
	fmt.Fprintln(out)
	for _, s := range allSides() {
		if slices.ContainsFunc(cells, func(c cell) bool { return slices.Contains(c.sides, s.name) }) {
			fmt.Fprintf(out, "* %s: %s\n", s.name, s.about)
		}
	}
}

func share(samples []sample, f func(*sample) float64) string {
	part := medianOf(samples, f)
	if part == 0 {
		return "0"
	}
	return short(100*part) + " %"
}

// short is a number with what matters of it.
func short(n float64) string {
	switch {
	case n >= 10:
		return fmt.Sprintf("%.0f", n)
	case n >= 1:
		return fmt.Sprintf("%.1f", n)
	case n >= 0.005:
		return fmt.Sprintf("%.2f", n)
	}
	return "0"
}

// conditions are a cell's as people read them.
func conditions(c *cell) string {
	what := string(c.keys)
	switch c.group {
	case floodGroup:
		what += ", all denied"
	case grpcGroup:
		what += ", gRPC"
	}
	if c.replicas > 1 {
		return fmt.Sprintf("%s, %d, %d replicas", what, c.callers, c.replicas)
	}
	return fmt.Sprintf("%s, %d", what, c.callers)
}

// printErrors says of each row that has errors what one of them was.
func printErrors(out io.Writer, cells []cell, table map[string][]sample) {
	for i := range cells {
		for _, side := range cells[i].sides {
			for _, s := range table[cells[i].row(side)] {
				if s.firstError != "" {
					fmt.Fprintf(out, "\nErrors of %s: %s\n", cells[i].row(side), s.firstError)
					break
				}
			}
		}
	}
}
