package main

// notifyMutants are what keeps notifications from calling where they must not, and
// what they are told from being anybody's.
func notifyMutants() []mutant {
	hook := func(file, name, old, changed string) mutant {
		return mutant{name: "notify: " + name, file: "notify/webhook/" + file, old: old, new: changed, tests: []string{"./notify/webhook"}}
	}
	door := func(file, name, old, changed string) mutant {
		return mutant{name: "notify: Slack's " + name, file: "server/slackapi/" + file, old: old, new: changed, tests: []string{"./server/slackapi"}}
	}
	return []mutant{
		door("verify.go", "signature", "if !hmac.Equal([]byte(want), []byte(header.Get(\"X-Slack-Signature\"))) {", "if want == \"\" {"),
		door("verify.go", "time", "if now.Sub(time.Unix(at, 0)).Abs() > tolerance {", "if at == 0 {"),
		door("slackapi.go", "app", "p.AppID != h.cfg.AppID || p.Team.ID", "p.Team.ID"),
		door("slackapi.go", "team", "p.AppID != h.cfg.AppID || p.Team.ID != h.cfg.TeamID", "p.AppID != h.cfg.AppID"),
		door("slackapi.go", "channel", "if p.Channel.ID != h.cfg.Channel {", "if p.Channel.ID == \"\" {"),
		door("verify.go", "second call", "if _, known := s.at[key]; known {", "if _, known := s.at[key]; known && key == \"\" {"),
		door("work.go", "user", "	if !known || name == \"\" {", "	if known && name == \"\" {"),
		door("work.go", "card", "	if !ours {", "	if !ours && id == \"\" {"),
		{
			name: "notify: Slack's proof of a card", file: "internal/app/slack_answers.go",
			old: "if err != nil || !hmac.Equal(got, want) {", new: "if err != nil || len(got) != len(want) {",
			tests: []string{"./internal/app"}, flags: []string{"-test.run=OverSlack"},
		},
		{
			name: "notify: Slack's risk", file: "pdp/desk_electorate.go",
			old: "if e.risk != policy.RiskRead.String() && e.risk != policy.RiskWrite.String() {", new: "if e.risk == \"\" {",
			tests: []string{"./pdp"}, flags: []string{"-test.run=Slack"},
		},
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
