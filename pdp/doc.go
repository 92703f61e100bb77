// Package pdp is the use-cases of Kelpie's policy decision point: Authorize,
// Batch and Explain. It is the only place that combines the policy with
// limits, approvals and the record of a decision, and it fixes their order:
//
//	identity, suspension, revocation, credential, network, deny rules, scopes,
//	approval rules, limits, approval consumed, audit
//
// The first check that fails gives the reason. A call that is not allowed
// spends nothing.
//
// It is not the place for rules (policy), for the arithmetic of limits
// (limiter), or for anything of the wire: doors translate to [Request] and
// from [Decision], and decide nothing.
//
//	svc, err := pdp.New(pdp.Config{
//		Policy:   source,   // *policy.Snapshot, swapped on reload
//		Limiter:  limits,   // a limiter.Limiter
//		Recorder: recorder, // one record per decision
//	})
//	...
//	var dec pdp.Decision
//	if err := svc.Authorize(ctx, &req, &dec); err != nil {
//		// No decision was made: the call must not go through.
//	}
//	mayPass := dec.Verdict == pdp.Allow
package pdp
