package app

import (
	"github.com/kelpie-authz/kelpie/audit"
	"github.com/kelpie-authz/kelpie/pdp"
)

// fillAudit writes what pdp records as a record of the audit. Texts are shared,
// which is fine as long as the record is not kept.
func fillAudit(out *audit.Record, rec *pdp.Record) {
	limits, shadow := out.Limits[:0], out.Shadow[:0]
	*out = audit.Record{
		Time: rec.Time, Kind: audit.KindDecision,
		DecisionID: rec.DecisionID, RequestID: rec.RequestID, SessionID: rec.SessionID, RunID: rec.RunID,
		Gateway: rec.Gateway, Agent: rec.Agent, ClaimedAgent: rec.ClaimedAgent, Subject: rec.Subject,
		Action: rec.Action, Resource: rec.Resource, SourceIP: rec.SourceIP, Risk: rec.Risk,
		Tool: rec.Tool.Name, ToolServer: rec.Tool.Server,
		Route: rec.Origin.Route, HTTPMethod: rec.Origin.Method, HTTPHost: rec.Origin.Host, HTTPPath: rec.Origin.Path,
		Cost: rec.Cost, Message: rec.Message, Matched: rec.Matched, PolicyVersion: rec.PolicyVersion,
		ApprovalID: rec.ApprovalID, ApprovalDigest: rec.ApprovalDigest,
		ParametersDigest: rec.ParametersDigest, Shown: rec.Shown, Latency: rec.Latency, DryRun: rec.DryRun,
		Outage: rec.Outage.String(), Warnings: rec.Warnings,
	}
	for i := range rec.Limits {
		l := &rec.Limits[i]
		limits = append(limits, audit.Limit{Name: l.Name, Limit: l.Limit, Remaining: l.Remaining, Reset: l.Reset})
	}
	switch {
	case rec.Change != nil:
		fillChange(out, rec.Change, &limits)
	case rec.Event != nil:
		fillEvent(out, rec.Event)
	default:
		out.Decision, out.Reason = rec.Verdict.String(), string(rec.Reason)
		out.ParametersState = parametersState(rec.ParametersState)
		for _, s := range rec.Shadow {
			shadow = append(shadow, audit.Shadow{Rule: s.Rule, Decision: s.Verdict.String(), Reason: string(s.Reason)})
		}
	}
	out.Limits, out.Shadow = limits, shadow
}

// parametersState is what the wire calls it.
func parametersState(s pdp.ParametersState) string {
	switch s {
	case pdp.ParametersComplete:
		return "complete"
	case pdp.ParametersTruncated:
		return "truncated"
	case pdp.ParametersNotSeen:
		return "not_seen"
	default:
		return ""
	}
}

// fillEvent writes what happened to an approval.
func fillEvent(out *audit.Record, e *pdp.ApprovalEvent) {
	out.Kind = audit.Kind("approval_" + e.Kind.String())
	out.Actor, out.ActorAuth, out.Why = e.Actor, e.How, e.Why
	out.Failed, out.Cause = e.Failed, e.Cause
	if e.Kind != pdp.ApprovalVoted {
		return
	}
	vote := "no"
	if e.Yes {
		vote = "yes"
	}
	out.Details = append(out.Details, audit.Member{Name: "vote", Value: vote}, audit.Member{Name: "vote_id", Value: e.VoteID})
}

// fillChange writes what was done to charges after their decision.
func fillChange(out *audit.Record, c *pdp.Change, limits *[]audit.Limit) {
	switch c.Kind {
	case pdp.ChangeSettled:
		out.Kind, out.Cost = audit.KindSettle, c.Actual
	case pdp.ChangeReleased:
		out.Kind = audit.KindRelease
	case pdp.ChangeReset:
		out.Kind, out.Actor, out.ActorAuth = audit.KindReset, c.As, pdp.LocalAdmin
	case pdp.ChangeNone:
		out.Kind = audit.KindAdmin // it says nothing, and stays visible
	}
	out.Failed, out.Cause = c.Failed, c.Cause
	for _, l := range c.Limits {
		*limits = append(*limits, audit.Limit{Name: l.Name, GivenBack: l.GivenBack, Charged: l.Charged})
	}
}
