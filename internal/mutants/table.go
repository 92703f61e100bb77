package main

import "slices"

// mutants are the checks of a decision, in the order in which they are made.
// Each is tried against the package that owns it, not against the whole tree,
// so that a check is tested where it lives. Checks whose data come with later
// work (identity, revocation, kept approvals) are switched off at the seam
// that pdp has for them.
func mutants() []mutant {
	return slices.Concat(policyMutants(), pdpMutants(), limiterMutants(), redisMutants(), httpMutants(), extAuthzMutants(), approvalMutants(), notifyMutants())
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
		{
			name: "limits: a loop is one call's", file: "policy/limits_key.go",
			old: "key = appendKeyPart(key, st.digestOf(c))", new: `key = appendKeyPart(key, "")`, tests: []string{"./policy"},
		},
		{
			name: "limits: a loop bounds no agent", file: "policy/limits.go",
			old: "l.per&(perAgent|perCall) == perAgent", new: "l.per&perAgent != 0", tests: []string{"./policy"},
		},
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
		in("unavailable.go", "limits: unavailable", "if spec.OnUnavailable != policy.UnavailableAllow {\n\t\t\treturn false", "if false {\n\t\t\treturn false"),
		in("unavailable.go", "limits: unavailable, with a stand-in", "case policy.UnavailableDeny:\n\t\treturn nil", "case policy.UnavailableDeny:\n\t\treturn &t.entries[spec.Index].limit"),
		in("unavailable.go", "limits: a share of several replicas", "share.Count /= replicas", "share.Count /= 1"),
		in("judgment.go", "limits: what was charged alone is refunded", "if j.alone != nil {\n\t\ts.refundReceipt", "if false {\n\t\ts.refundReceipt"),
		in("limits.go", "limits: a dry run spends nothing", "if dry {\n\t\treturn lim.Peek", "if false {\n\t\treturn lim.Peek"),
		in("limits.go", "limits: a loop", "e.reason = ReasonLoopDetected", ""),
		in("settle.go", "settle: the gateway that asked", "if k.gateway != gateway {", "if false {"),
		in("settle.go", "settle: once", "return bytes.Equal(set, mine),", "return bytes.Equal(set, mine) || true,"),
		in("settle.go", "settle: to one cost", "case !first && before != math.Float64bits(actual):", "case false:"),
		in("approval.go", "consume", "if j.granted == ReasonOK || j.req.DryRun {", "if true {"),
		in("approval.go", "consume: a lost race refunds", "s.refund(ctx, j)\n\t\ts.denyApproval(j, used.Found)", "s.denyApproval(j, used.Found)"),
		in("judgment.go", "audit", "if !recorded && j.reached == Allow {", "if !recorded && false {"),
		in("batch.go", "audit: each item of a batch needs its record", "kept && b.errs[i] == nil)", "kept)"),
		in("batch.go", "audit: a batch whose recorder broke", "kept && b.errs[i] == nil)", "(kept || true) && b.errs[i] == nil)"),
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

// httpMutants are the checks by which an HTTP request becomes a call.
func httpMutants() []mutant {
	in := func(file, name, old, changed string) mutant {
		return mutant{name: "http: " + name, file: "pdp/" + file, old: old, new: changed, tests: []string{"./pdp"}, flags: []string{noFailFile}}
	}
	return []mutant{
		in("http_ambiguous.go", "headers that contradict the request", "found && value != one.same", "found && value != one.same && false"),
		in("http_map.go", "segments of the path", "if err := policy.CheckPathSegment(segment); err != nil {", "if err := policy.CheckPathSegment(segment); err != nil && false {"),
		in("http_map.go", "empty segments", `if segment == "" && more {`, "if false {"),
		in("http_map.go", "bytes that are not ASCII", "if raw[i] >= utf8.RuneSelf {", "if raw[i] >= utf8.RuneSelf && false {"),
		in("http_map.go", "an agent's id", "if err := policy.CheckAgent(m.req.Agent); err != nil {", "if err := policy.CheckAgent(m.req.Agent); err != nil && false {"),
		in("http_ambiguous.go", "a _method in the parameters", "\tif isMethodField(name) && value != method {", "\tif isMethodField(name) && value != method && false {"),
		in("http_ambiguous.go", "a header in disguise", "countsAlways(other) || h.ReadsHeader(other)", "countsAlways(other) && h.ReadsHeader(other)"),
		in("http_ambiguous.go", "names that differ in capitals", "hasTwins(parameters) || hasMergedTwins(parameters)", "hasMergedTwins(parameters)"),
		in("http.go", "no route", "j.unmapped = unmapped", "j.unmapped = unmapped && false"),
		in("http_identity.go", "a source that is there and bad", "case why != \"\":\n\t\t\treturn \"\", unidentified(why)", `case why != "":`),
		in("http_identity.go", "an id said twice", `if strings.ContainsAny(value, ", ") {`, "if false {"),
		in("http_identity.go", "the last address is the peer", "if !samePeer(last, in.Peer, local) {", "if !samePeer(last, in.Peer, local) && false {"),
		in("http_identity.go", "hops", "for range h.TrustedHops {", "for range 1 {"),
		in("http_identity.go", "SPIFFE ids alone", "if !isSPIFFE(in.Principal) {", "if false {"),
		in("http_params.go", "a body that may be there", "if !h.BodiesSent || route.BodyUnseen {", "if route.BodyUnseen {"),
		in("http_params.go", "a body of a route that has none sent", "if !h.BodiesSent || route.BodyUnseen {", "if !h.BodiesSent {"),
		in("http_params.go", "a body that is cut", "case state == BodyCut:", "case state == BodyCut && false:"),
		in("http_params.go", "a body of another type", "case !isJSON:", "case !isJSON && false:"),
		in("http_params.go", "a body that is one object", "text[0] != '{' || text[len(text)-1] != '}'", "text[0] == 0"),
		in("http_ambiguous.go", "a _method in the query", "case isMethodField(name) && value != method:", "case false:"),
		in("http_ambiguous.go", "parameters that servers merge", "hasTwins(parameters) || hasMergedTwins(parameters)", "hasTwins(parameters)"),
		in("http_ambiguous.go", "a forwarded host", "found && value != in.Host {", "found && value != in.Host && false {"),
		in("http_ambiguous.go", "a body that cannot be searched", "case searched && (isPacked", "case false && (isPacked"),
		in("http_ambiguous.go", "a _method in a form", "found = formOverride(string(in.Body), in.Method)", "found = false"),
		in("http_ambiguous.go", "a _method in a part", "found = partOverride(in.Body)", "found = false"),
		in("http_ambiguous.go", "a _method in JSON that is not read", "found = namedMethod.Match(unescaped(in.Body))", "found = namedMethod.Match(nil)"),
		in("http_params.go", "a header said twice", "case strings.IndexByte(value, ',') >= 0:", "case false:"),
		in("http_params.go", "characters of the query", "case c == ';' || c == '#' || c < ' ' || c >= 0x7f:", "case false:"),
	}
}

// extAuthzMutants are the places where a denial could leave as an ALLOW, or a
// body pass for more than was seen.
func extAuthzMutants() []mutant {
	in := func(file, name, old, changed string) mutant {
		return mutant{name: "ext_authz: " + name, file: "server/extauthz/" + file, old: old, new: changed, tests: []string{"./server/extauthz"}}
	}
	return []mutant{
		in("extauthz.go", "ALLOW alone opens", "if c.out.Verdict == pdp.Allow {", "if c.out.Verdict != pdp.Deny {"),
		in("extauthz.go", "no decision opens nothing", "return refusal(undecided(ctx, err)), nil", "return c.wire.allowed(&c.out, nil), nil"),
		in("extauthz.go", "the gateway's standing", "return refusal(err), nil // An error would open gateways that fail open.", "gateway = \"\""),
		in("denied.go", "a denial has a code", "Code: int32(grpcCode)", "Code: int32(grpcCode) * 0"),
		in("wire.go", "headers of ours are removed", "if isOwn(name) && name != decisionIDHeader || repeats(name) {", "if repeats(name) {"),
		in("response.go", "headers of ours in disguise", "case c == '_' || c == '.':", "case false:"),
		in("request.go", "a body cut by Envoy", `case strings.Contains(partial, "true"), http.GetSize() > int64(len(raw)):`, "case http.GetSize() > int64(len(raw)):"),
		in("request.go", "a body shorter than it says", "case hasLength && (err != nil || length != uint64(len(raw))), !hasLength", "case !hasLength"),
		in("request.go", "a body that was not passed on", "return nil, pdp.BodyUnseen\n\tcase len(raw) == 0 && http.GetSize() > 0:", "return nil, pdp.BodyNone\n\tcase len(raw) == 0 && http.GetSize() > 0:"),
		in("request.go", "a text that may be changed", "case text && bytes.IndexByte(raw, '!') >= 0:", "case text && bytes.IndexByte(raw, '!') >= 0 && false:"),
		in("request.go", "headers listed twice", `value = before + "," + value`, "_ = before"),
		{
			name: "ext_authz: what no handler saw is denied", file: "server/calls.go",
			old: "return answer(err), nil", new: "return nil, err", tests: []string{"./server"},
		},
		{
			name: "ext_authz: shed as a denial", file: "server/inflight.go",
			old: "if f.answers[info.FullMethodName] {", new: "if false {", tests: []string{"./internal/app"},
		},
	}
}
