package main

// redisMutants are the checks of the limiter in Redis: what its script judges in
// either way, and what keeps it from charging too little when something fails.
func redisMutants() []mutant {
	// The whole suite takes a minute, and one that waits for a denial takes for
	// ever: each is tried against the tests that should notice.
	in := func(file, name, old, changed string) mutant {
		run := "-test.run=TestModel|TestConforms$|TestConformsByTheClockOfRedis|TestDeniedWritesNothing|TestReplicas"
		switch file {
		case "leases.go", "leased.go":
			run = "-test.run=Lease"
		case "link.go":
			run = "-test.run=TestNothingIsSentTwice|TestCutAfterSend|TestWhoGoesAlong"
		case "nodes.go":
			run = "-test.run=TestConformsInACluster|TestCutBetweenNodes"
		case "floors.go":
			run = "-test.run=TestRedisLosesEverything"
		}
		return mutant{
			name: "redis: " + name, file: "limiter/redislimiter/" + file, old: old, new: changed,
			tests: []string{"./limiter/redislimiter"}, flags: []string{noFailFile, run, "-test.timeout=3m"},
		}
	}
	lease := func(file, name, old, changed string) mutant {
		m := in("leases.go", name, old, changed)
		m.file = "limiter/redislimiter/" + file
		return m
	}
	return []mutant{
		in("script/short.lua", "the short way judges", "if room < granted * cost then", "if false then"),
		in("script/short.lua", "the short way counts a quota", "owed = S[s + 2] + taken * cost", "owed = S[s + 2]"),
		in("script/long.lua", "the long way judges all", "      all = all and c.fits\n", ""),
		in("script/long.lua", "a window is judged", "return spent(window(own, others, c.span, at), at) + pend + c.cost <= c.room", "return true"),
		in("script/long.lua", "a hold is judged", "return held(own, at) + pend + c.cost <= c.room", "return true"),
		in("script/state.lua", "a rate's debt counts", "    return f.tat - now\n", "    return 0\n"),
		in("script/refund.lua", "a refund is not above what is owed", "if f.tat <= at or f.since ~= c.mark2 or f.t ~= c.span then", "if false then"),
		in("link.go", "nothing is sent twice", "func (c *command) NoRetry() bool { return true }", "func (c *command) NoRetry() bool { return false }"),
		in("link.go", "who goes along is judged", "case err != nil && len(p.jobs) > 1 && refused(err)", "case err != nil && len(p.jobs) < 0 && refused(err)"),
		in("denials.go", "a denial ends with its wait", "wait = max(wait, st.RetryAfter)", "wait = longestDenial"),
		in("denials.go", "a denial is of these limits", "if e.limits[i] != call.Charges[i].Limit {", "if e.limits[i] != call.Charges[i].Limit && false {"),
		in("nodes.go", "what another slot denied goes back", "			n.giveBack(parts[:taken])\n			return n.denied", "			return n.denied"),
		in("floors.go", "what was lost is put back", "if idle > r.now {", "if false {"),
		lease("script/long.lua", "what is taken ahead comes later", "local lead, share = U('<dd', req, #req - 15)", "local lead, share = 0, 2"),
		in("leases.go", "a lease ends", "until: g.sent + int64(life)", "until: g.sent + 8*int64(life)"),
		in("leases.go", "a lease that came too late is none", "switch late := mine.until <= t.now(); {", "switch late := false; {"),
		in("leases.go", "the clock is read after a unit is taken", "case !by[i].lease.holds(by[i].mark, now):", "case false:"),
		in("leases.go", "a quota's units end with it", "life := min(g.ends, ", "life := min(limiter.MaxLease, "),
		in("leased.go", "units of one lease are not given back", "taken.Mark = stays", "_ = stays"),
		lease("script/long.lua", "a lease is no older charge's to give back", "own.since, own.back, own.at = max(at, own.since + 1), 0, at + lead", "own.at = at + lead"),
		lease("script/long.lua", "a lead is time under another rate too", "own.since, own.back, own.at = max(at, own.since + 1), 0, at + lead", "own.since, own.back = max(at, own.since + 1), 0"),
		in("leased.go", "what was paid for a denied call comes back", "	if !res.Admitted {\n		s.leases.giveBack(call, &k.by, paid)\n", "	if !res.Admitted {\n"),
	}
}
