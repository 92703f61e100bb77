package main

import (
	"fmt"
	"slices"
)

// cell is a place of the table: sides that are measured in turn under the same
// conditions.
type cell struct {
	group    string
	keys     keySpace
	bounds   bounds
	callers  int
	replicas int
	sides    []string
}

func (c *cell) name() string {
	return fmt.Sprintf("%s/%s/%d/%d", c.group, c.keys, c.callers, c.replicas)
}

// row is the name of a row of the table, which -only picks by.
func (c *cell) row(side string) string { return c.name() + "/" + side }

// reference is the side that the ratios of the table are to.
func (c *cell) reference() string {
	if c.group == grpcGroup {
		return plainServed
	}
	return plain
}

// along are the sides that are measured with any other: those of the budgets.
func (c *cell) along(side string) bool {
	return side == c.reference() || c.group == grpcGroup && (side == empty || side == "ratelimit")
}

// The groups: the driver within the callers' process, the same with a limit of
// ten so that all is denied, and the services.
const (
	driverGroup = "driver"
	floodGroup  = "flood"
	grpcGroup   = "grpc"
)

// allCells is the whole table.
func allCells() []cell {
	spaces := []keySpace{hot, zipf, uniform}
	var cells []cell
	for _, callers := range []int{1, 64, 512} {
		for _, keys := range spaces {
			c := cell{
				group: driverGroup, keys: keys, bounds: ample, callers: callers, replicas: 1,
				sides: []string{plain, "redis_rate", "throttled", "kelpie-1", "kelpie-3"},
			}
			if callers > 1 {
				c.sides = append(c.sides, "kelpie-3, uncoalesced")
			}
			if keys != uniform {
				c.sides = append(c.sides, "kelpie-3, leased")
			}
			cells = append(cells, c)
		}
	}
	for _, callers := range []int{64, 512} {
		for _, keys := range spaces {
			cells = append(cells, cell{
				group: driverGroup, keys: keys, bounds: ample, callers: callers, replicas: 4,
				sides: []string{plain, "kelpie-1", "kelpie-3"},
			})
		}
	}
	cells = append(cells, cell{
		group: floodGroup, keys: hot, bounds: few, callers: 64, replicas: 1,
		sides: []string{plain, "redis_rate", "throttled", "kelpie-3", "kelpie-3, forgetful"},
	})
	for _, callers := range []int{1, 64, 128, 512} {
		for _, keys := range []keySpace{hot, uniform} {
			c := cell{
				group: grpcGroup, keys: keys, bounds: ample, callers: callers, replicas: 1,
				sides: []string{plainServed, empty, "ratelimit", "serve-1", "serve-3"},
			}
			if keys == hot {
				c.sides = append(c.sides, "serve-3, leased")
			}
			cells = append(cells, c)
		}
	}
	return cells
}

// chosen are the cells that have rows which match, with these rows and those
// that they are compared with.
func chosen(cells []cell, opt options) []cell {
	var picked []cell
	for _, c := range cells {
		if c.group == grpcGroup && opt.kelpie == "" {
			continue
		}
		matched := slices.ContainsFunc(c.sides, func(side string) bool { return opt.only.MatchString(c.row(side)) })
		if !matched {
			continue
		}
		c.sides = slices.DeleteFunc(slices.Clone(c.sides), func(side string) bool {
			missing := side == "ratelimit" && opt.ratelimit == ""
			return missing || !opt.only.MatchString(c.row(side)) && !c.along(side)
		})
		picked = append(picked, c)
	}
	return picked
}
