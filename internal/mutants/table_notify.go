package main

// notifyMutants are what keeps notifications from calling where they must not, and
// what they are told from being anybody's.
func notifyMutants() []mutant {
	hook := func(file, name, old, changed string) mutant {
		return mutant{name: "notify: " + name, file: "notify/webhook/" + file, old: old, new: changed, tests: []string{"./notify/webhook"}}
	}
	return []mutant{
		hook("dial.go", "the address that is called", "if why := d.refusal(addrs[i]); why != \"\" {", "if why := d.refusal(addrs[i]); why == \"never\" {"),
		hook("dial.go", "IPv4 in IPv6", "	addr = addr.Unmap()\n	switch {", "	switch {"),
		hook("webhook.go", "redirects", "return http.ErrUseLastResponse", "return nil"),
		hook("webhook.go", "the signature is over the body", "s.Sign(id, now, body)", "s.Sign(id, now, nil)"),
		{
			name: "notify: in order", file: "notify/sqliteoutbox/deliveries.go",
			old: "AND e.state = 0 AND e.number < d.number)", new: "AND e.state = 7 AND e.number < d.number)",
			tests: []string{"./notify/sqliteoutbox"},
		},
		{
			name: "notify: what is given up", file: "notify/worker.go",
			old: "case !now.Before(giveUp), refusal.Final", new: "case now.IsZero(), refusal.Final",
			tests: []string{"./notify"},
		},
	}
}
