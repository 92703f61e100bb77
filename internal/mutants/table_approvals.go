package main

// approvalMutants are the checks of approvals where they are kept and decided, and
// of the audit, which everything has to be in before it may happen.
func approvalMutants() []mutant {
	desk := func(file, name, old, changed string) mutant {
		return mutant{name: "approvals: " + name, file: "pdp/" + file, old: old, new: changed, tests: []string{"./pdp"}, flags: []string{noFailFile}}
	}
	kept := func(file, name, old, changed string) mutant {
		return mutant{name: "approvals: " + name, file: "store/sqlitestore/" + file, old: old, new: changed, tests: []string{"./store/sqlitestore"}}
	}
	shared := func(file, name, old, changed string) mutant {
		return mutant{name: "approvals in Redis: " + name, file: "store/redisstore/" + file, old: old, new: changed, tests: []string{"./store/redisstore"}}
	}
	known := func(file, name, old, changed, tests, run string) mutant {
		return mutant{name: "approvers: " + name, file: file, old: old, new: changed, tests: []string{tests}, flags: []string{"-test.run=" + run}}
	}
	return []mutant{
		known("identity/oidcid/verifier.go", "the audience", "ClientID: cfg.Audience, SupportedSigningAlgs", "SkipClientIDCheck: true, SupportedSigningAlgs", "./identity/oidcid", "Refused"),
		known("identity/oidcid/verifier.go", "a verified email", "case v.cfg.NameClaim == emailClaim && c.EmailVerified != true", "case false && c.EmailVerified != true", "./identity/oidcid", "Refused"),
		known("identity/oidcid/verifier.go", "no machine", "|| slices.Contains([]string{c.ClientID, c.AuthorizedParty, c.CID}, t.Subject):", "|| false:", "./identity/oidcid", "Refused"),
		known("identity/oidcid/verifier.go", "nobody acts by it", "case len(c.Actor) > 0 &&", "case false &&", "./identity/oidcid", "Refused"),
		known("identity/oidcid/verifier.go", "the age of a log-in", "case now.Sub(since) >= v.cfg.MaxAge:", "case false:", "./identity/oidcid", "Refused"),
		known("identity/oidcid/verifier.go", "whose of several audiences", "case len(t.Audience) > 1 && c.AuthorizedParty != v.cfg.Audience:", "case false:", "./identity/oidcid", "Refused"),
		known("identity/oidcid/verifier.go", "nobody logged in", "case plain(c.GrantType) == \"clientcredentials\" || plain(c.GrantTypeToo) == \"clientcredentials\" || strings.EqualFold(c.TypeOfIdentity, \"app\"):", "case false:", "./identity/oidcid", "Refused"),
		known("server/tls.go", "nothing of the other door", "cfg.VerifyConnection = notBy(certificates(contents[3]), k.files.Others)", "_ = notBy(certificates(contents[3]), k.files.Others)", "./server", "AnotherDoor"),
		known("server/callers.go", "a stream outlives nothing", "		_, err := c.admit(stream.Context(), info.FullMethod)\n		return err", "		return nil", "./server", "Stream"),
		known("server/callers.go", "the end of a certificate", "return now().After(cert.NotAfter) })", "return false && now().After(cert.NotAfter) })", "./server", "CertificateEnds"),
		known("server/callers.go", "the end of a stream", "if err := s.still(); err != nil {", "if err := s.still(); false {", "./server", "StreamOfWho"),
		known("internal/app/approvers.go", "authorities apart", "if err := server.Apart(a.cfg.Approvers.ClientCA, a.cfg.ClientCA); err != nil {", "if err := server.Apart(a.cfg.Approvers.ClientCA, a.cfg.ClientCA); false {", "./internal/app", "AuthoritiesAre"),
		known("server/callers.go", "approvals alone", "if !slices.Contains(c.Humans, service) {", "if slices.Contains(c.Humans, \"no service\"+service) {", "./internal/app", "RouteKnows"),
		known("server/callers.go", "an approver of the policy", "if !c.Approver(p) {", "if false {", "./internal/app", "GroupThat"),
		known("server/callers.go", "one email", "case len(emails) == 1:", "case len(emails) >= 1:", "./internal/app", "ApproversAreKnown"),
		known("internal/app/approvals.go", "the admin token decides nothing", "Timer: newTimer, Verified: a.verified,", "Timer: newTimer,", "./internal/app", "ApproversAreKnown"),
		known("policy/approvers.go", "a group's name is nobody's", "if strings.HasPrefix(name, GroupMember) {", "if false {", "./policy", "Among"),
		desk("breakglass.go", "the glass is for who is known", "case p.How != KnownByMTLS && p.How != KnownByOIDC:", "case false:"),
		desk("breakglass.go", "the glass is for its group", "case !v.snap.InGroup(BreakGlassGroup, p.Name, p.Groups):", "case false:"),
		desk("breakglass.go", "the glass is whole at its end", "!v.now.Before(a.UseBy) ||", "false ||"),
		desk("breakglass.go", "nobody breaks it for himself", "if party != \"\" && humanKey(party) == humanKey(by.Name) {", "if party == \"none\" {"),
		desk("breakglass.go", "the glass of some resources", "if fits, err := policy.MatchResource(a.Grant.Resource, ask.Request.Resource); err != nil || !fits {", "if fits, err := policy.MatchResource(a.Grant.Resource, ask.Request.Resource); err != nil || false && fits {"),
		desk("breakglass.go", "the glass of some actions", "return err == nil && fits", "return err == nil || fits"),
		desk("desk_call.go", "the glass leaves a no as it is", "if err != nil || s.Found != FoundNone && s.Found != FoundPending {", "if err != nil {"),
		desk("grant.go", "a grant's members", "if at < 0 && sum != before ||", "if at < -1 && sum != before ||"),
		desk("grant.go", "a grant's bounds", "at >= 0 && !within(&bounds[at], raw) {", "false {"),
		desk("grant.go", "a grant's base", "now.Base != of.Base ||", "false ||"),
		desk("grant.go", "no grant by a star of the agent's", "if terms.Resource == \"\" && strings.Contains(a.Resource, \"*\") {", "if false {"),
		desk("grant.go", "no secret's name in a shape", "|| strings.Contains(d.Name, audit.Masked))", ")"),
		desk("grant.go", "a grant's cost", "now.Cost > g.MaxCost ||", "false ||"),
		desk("grant.go", "no more cost than was written", "if terms.MaxCost == 0 {", "if terms.MaxCost < what.Shape.Cost {"),
		desk("breakglass.go", "a no in an emergency", "return a.Digest == ask.Digest })", "return false })"),
		desk("breakglass.go", "an emergency once more", "if humanKey(a.Votes[0].Voter) == humanKey(o.Person.Name) {", "if false {"),
		desk("approval.go", "the host is bound", "b.HTTPHost, _ = policy.NormalHost(at.Host)", "_, _ = policy.NormalHost(at.Host)"),
		desk("desk_call.go", "the risk of now", "e.risk = ask.Risk", "e.risk = a.Risk"),
		desk("grant.go", "a grant's resource", "err != nil || !fits && g.Resource != ask.Binding.Resource {", "err != nil || false && fits {"),
		desk("grant.go", "a grant's risk", "if ask.Risk != policy.RiskRead.String() && ask.Risk != policy.RiskWrite.String() {", "if false {"),
		desk("grant.go", "who made a grant", "!met || len(ask.Requirements)", "false && !met || len(ask.Requirements)"),
		desk("grant.go", "no grant of what is deleted", "case a.Risk != policy.RiskRead.String() && a.Risk != policy.RiskWrite.String():", "case false:"),
		desk("grant.go", "no grant of one for several", "case need != 1:", "case need < 1:"),
		shared("seal.go", "the seal", "if !hmac.Equal([]byte(raw[schemaEnd:headSize]), s.mac(name, is, content)) {", "if s.mac(name, is, content) == nil {"),
		shared("seal.go", "the seal is of one name", "[]string{macLabel, name}", "[]string{macLabel, \"\"}"),
		shared("approvals.go", "a yes of before a loss", "if a.State == store.Approved && written != epoch {", "if a.State == store.Approved && written == \"\" {"),
		shared("approvals.go", "a yes that Redis cannot vouch for", "case k.a.Unsure && next.State != store.Pending:", "case false:"),
		shared("link.go", "nothing is sent twice", "func (c *command) NoRetry() bool { return true }", "func (c *command) NoRetry() bool { return false }"),
		shared("script/swap.lua", "one swap of many", "if head(raw) ~= ARGV[2] then", "if false then"),
		shared("script/swap.lua", "what was changed stays so", "if seen and tonumber(seen) > tonumber(ARGV[6]) then", "if false then"),
		shared("script/open.lua", "one for each call", "if (redis.call('GET', KEYS[2]) or '') ~= ARGV[4] then", "if false then"),
		shared("script/open.lua", "so many at once", "if tonumber(ARGV[9]) > 0 and", "if false and"),
		desk("approval.go", "a batch asks in turn", "if j.together && s.cfg.Approvals != nil {", "if false {"),
		kept("approvals.go", "one swap of many", "WHERE id = ? AND version = ?\",", "WHERE id = ? AND version <> ? - 1000000\","),
		kept("approvals.go", "one for each call", "if err == nil && limits.Stands(before) {", "if false {"),
		kept("approvals.go", "so many at once", "if len(waiting) >= limits.Pending {", "if false {"),
		{
			name: "audit: an ALLOW needs its record", file: "internal/app/audit.go",
			old: "	if cause != nil {\n		return r.next.Unaudited(ctx, rec, cause)", new: "	if false {\n		return r.next.Unaudited(ctx, rec, cause)",
			tests: []string{"./internal/app"}, flags: []string{"-test.run=Audit"},
		},
		{
			name: "audit: a batch needs the record that vouches for it", file: "internal/app/audit.go",
			old: "if last >= 0 && errs[last] != nil && errs[i] == nil", new: "if false && errs[i] == nil",
			tests: []string{"./internal/app"}, flags: []string{"-test.run=Vouch"},
		},
		{
			name: "wait: the gateway's standing after it", file: "server/grpcapi/grpcapi.go",
			old: "if now != gateway {", new: "if now == \"\" {",
			tests: []string{"./server/grpcapi"}, flags: []string{"-test.run=Wait"},
		},
	}
}
