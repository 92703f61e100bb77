package main

// mutants are the checks of a decision, in the order in which they are made.
// Each is tried against the package that owns it, not against the whole tree,
// so that a check is tested where it lives. Checks whose data come with later
// work (identity, revocation, kept approvals) are switched off at the seam
// that pdp has for them.
func mutants() []mutant {
	return append(append(policyMutants(), pdpMutants()...), limiterMutants()...)
}

func policyMutants() []mutant {
	decide := func(name, old, changed string) mutant {
		return mutant{name: name, file: "policy/decide.go", old: old, new: changed, tests: []string{"./policy"}}
	}
	approvals := func(name, old, changed string) mutant {
		m := decide(name, old, changed)
		m.file = "policy/decide_approvals.go"
		return m
	}
	return []mutant{
		decide("suspension", "case v.state.agent.suspended:", "case false:"),
		decide("network", "case !s.networks.admits(v.state.agent.networks, c.SourceIP):", "case false:"),
		decide("deny", "if s.judgeDeny(c, v) && s.judgeScopes(v)", "if s.judgeScopes(v)"),
		decide("deny: a condition that errs", "st.failing = append(st.failing, id)\n\tcase isTrue, isFalse:", "case isTrue, isFalse:"),
		decide("deny: a condition without its parameters", "st.lacking = append(st.lacking, id)\n\tcase isFailing:", "case isFailing:"),
		decide("scope", "s.judgeScopes(v) && s.judgeApprovals(c, v)", "(s.judgeScopes(v) || true) && s.judgeApprovals(c, v)"),
		decide("scope: until", "!c.Now.Before(one.until)", "false"),
		decide("scope: a shadow grant grants nothing", "return !h.shadow && h.result == isTrue", "return h.result == isTrue"),
		decide("approval", "s.judgeScopes(v) && s.judgeApprovals(c, v)", "s.judgeScopes(v)"),
		approvals("approval: guardrail", "v.Risk >= RiskDelete && !st.unattended()", "false"),
		approvals("approval: unattended needs a satisfied grant", "return h.unattended && h.satisfied()", "return h.unattended"),
		approvals("approval: parameters seen in part", "p == ParametersTruncated || p == ParametersNotSeen", "p == ParametersTruncated && p == ParametersNotSeen"),
		{
			name: "approval: risk of the action's verbs", file: "policy/risk.go",
			old: "return max(s.risk, verb)", new: "return s.risk", tests: []string{"./policy"},
		},
		{
			name: "network: no address", file: "policy/network.go",
			old: "if !ip.IsValid() {\n\t\treturn false", new: "if !ip.IsValid() {\n\t\treturn true", tests: []string{"./policy"},
		},
	}
}

func pdpMutants() []mutant {
	in := func(file, name, old, changed string) mutant {
		return mutant{name: name, file: "pdp/" + file, old: old, new: changed, tests: []string{"./pdp"}, flags: []string{noFailFile}}
	}
	return []mutant{
		in("validate.go", "syntax: resource", "if err := policy.CheckResource(req.Resource); err != nil {", "if err := policy.CheckResource(req.Resource); err != nil && false {"),
		in("validate.go", "syntax: source_ip", "addr, err := policy.ParseSourceIP(req.SourceIP)\n\tif err != nil {", "addr, err := policy.ParseSourceIP(req.SourceIP)\n\tif err != nil && false {"),
		in("judgment.go", "identity", `case id.Denied != "":`, "case false:"),
		in("judgment.go", "revocation", `r := s.revoked(j); r != "" && known {`, `r := s.revoked(j); r != "" && known && false {`),
		in("judgment.go", "the policy's deny", "s.deny(j, v.Reason, v.Matched)\n", ""),
		in("approval.go", "approval needed", "if !needsApproval(j) {", "if needsApproval(j) || true {"),
		in("limits.go", "limits", "s.checkLimits(j, &call.Result)\n", "_ = call\n"),
		in("limits.go", "limits: unavailable", "mayGo := spec.OnUnavailable == policy.UnavailableAllow && !fault", "mayGo := !fault"),
		in("limits.go", "limits: a dry run spends nothing", "if j.req.DryRun {\n\t\treturn s.cfg.Limiter.Peek", "if false {\n\t\treturn s.cfg.Limiter.Peek"),
		in("approval.go", "consume", "if j.granted == ReasonOK || j.req.DryRun {", "if true {"),
		in("approval.go", "consume: a lost race refunds", "s.refund(ctx, j)\n\t\ts.denyApproval(j, used.Found)", "s.denyApproval(j, used.Found)"),
		in("judgment.go", "audit", "if !s.recorded(ctx, j) && j.reached == Allow {", "if !s.recorded(ctx, j) && false {"),
		in("judgment.go", "audit: what was not recorded is refunded", "s.deny(j, ReasonAuditUnavailable, nil)\n\t\ts.refund(ctx, j)", "s.deny(j, ReasonAuditUnavailable, nil)"),
		in("judgment.go", "a dry run opens no door", "j.dec.WouldBe = j.reached\n\t\treturn", "j.dec.WouldBe = j.reached"),
	}
}

func limiterMutants() []mutant {
	in := func(file, name, old, changed string) mutant {
		return mutant{name: name, file: "limiter/" + file, old: old, new: changed, tests: []string{"./limiter"}, flags: []string{noFailFile}}
	}
	return []mutant{
		in("gcra.go", "rate", "return wait, wait <= 0", "return wait, true"),
		in("window.go", "window", "if lacking <= 0 {\n\t\treturn 0, true", "if lacking <= l.capacity() {\n\t\treturn 0, true"),
		in("quota.go", "quota", "if v.used+pending+cost <= l.capacity() {", "if v.used+pending <= l.capacity() {"),
		in("concurrency.go", "concurrency", "if lacking <= 0 {\n\t\treturn 0, true", "if lacking <= l.capacity() {\n\t\treturn 0, true"),
		in("decision.go", "all or nothing", "if !d.judgeOne(i) {\n\t\t\td.call.Result.Admitted = false", "if !d.judgeOne(i) && i == 0 {\n\t\t\td.call.Result.Admitted = false"),
	}
}
