package pdp_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kelpie-authz/kelpie/pdp"
)

// designReasons is the set that DESIGN fixes; a reason that is added or
// renamed breaks every caller that branches on it.
const designReasons = `ok ok_approved ok_grant agent_unknown agent_suspended unauthenticated_identity identity_mismatch
token_invalid token_audience token_lifetime_exceeded human_credential credential_unknown credential_revoked
credential_age_exceeded credential_agent_mismatch agent_revoked ip_not_allowed action_denied insufficient_scope
no_matching_scope condition_failed rate_limited quota_exhausted loop_detected approval_required approval_pending
approval_denied approval_expired approval_consumed approval_binding_mismatch approval_quota unknown_method
header_mismatch parameters_unavailable parameters_invalid dependency_unavailable audit_unavailable internal_error
ok_breakglass sender_constraint_failed grant_exhausted cost_exceeds_limit`

func TestReasonsAreTheDesignsSet(t *testing.T) {
	t.Parallel()
	want := strings.Fields(designReasons)
	var got []string
	for _, r := range pdp.AllReasons() {
		got = append(got, string(r))
	}
	if diff := cmp.Diff(pdp.AllReasons(), pdp.AllReasons()); diff != "" {
		t.Errorf("the order is not stable:\n%s", diff)
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("reasons (-design +code):\n%s", diff)
	}
}
