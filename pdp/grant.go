package pdp

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/kelpie-authz/kelpie/audit"
	"github.com/kelpie-authz/kelpie/policy"
	"github.com/kelpie-authz/kelpie/store"
)

// What a standing grant may be at most.
const (
	maxGrantUses   = 1000
	maxGrantTime   = 30 * 24 * time.Hour
	grantTime      = 8 * time.Hour // also the most by one who is known by a group only
	maxGrantBounds = 32
	// grantDomain keeps what a shape is made of apart from every other SHA-256.
	grantDomain = "kelpie-grant-v1\x00"
	// grantDigest begins the digest of a standing grant, which is that of no call.
	grantDigest = "grant "
)

// StandingTerms is what somebody who approves one call allows in future: calls like
// it, so many, for so long. The zero value of a field is said with it.
type StandingTerms struct {
	// Uses is how many calls may use it, 1 to 1,000.
	Uses int
	// Within is for how long; 0: 8 hours, at most 30 days.
	Within time.Duration
	// Resource is a pattern that matches the call's resource; "": this resource alone,
	// which must have no star in it then: the agent wrote that, and it is no pattern.
	Resource string
	// MaxCost bounds the cost, also below that of the call; 0: that of the call.
	MaxCost float64
	// Bounds free members of the parameters; all others have to be as they are.
	Bounds []GrantBound
	// Made is the id of the grant that Approve made of it.
	Made string
}

// GrantBound frees one member of the parameters, at their top.
type GrantBound struct {
	Name string
	// Any frees it; else it is a number within Min and Max, one of which is there.
	Any      bool
	Min, Max *float64
}

// GrantState is how a standing grant stands, for approvers.
type GrantState struct {
	From     string
	Resource string
	MaxCost  float64
	Bounds   []GrantBound
	MaxUses  int
	Uses     int
	// BreakGlass is not nil for an emergency, which has no bounds.
	BreakGlass *BreakGlassState
}

// shape is what is kept of a call so that a grant can be made of its approval: no
// value of a parameter, but what tells whether it is the same.
type shape struct {
	// Salt goes into every hash.
	Salt string `json:"salt"`
	// Base is of everything that is bound but the resource, the cost and the parameters.
	Base string `json:"base"`
	// Members are of the parameters, by name; nil: there were none.
	Members map[string]string `json:"members"`
	Cost    float64           `json:"cost"`
}

// shapeOf is the shape of a call; nil if no grant can be made of it: parameters
// that were not seen whole, or that hold what looks like a secret.
func shapeOf(b *Binding, salt string) (*shape, error) {
	if b == nil || b.ParametersState != policy.ParametersComplete && b.ParametersState != policy.ParametersAbsent {
		return nil, nil //nolint:nilnil // There is none.
	}
	base := *b
	base.Resource, base.Cost = "", 0
	if base.ParametersState == policy.ParametersComplete {
		base.ParametersRaw = []byte("{}")
	}
	sum, err := base.Digest()
	if err != nil {
		return nil, err
	}
	s := &shape{Salt: salt, Base: sum, Cost: costOf(b)}
	if b.ParametersState == policy.ParametersAbsent {
		return s, nil
	}
	var members map[string]jsontext.Value
	if err := json.Unmarshal(b.ParametersRaw, &members); err != nil {
		return nil, fmt.Errorf("the parameters' members: %w", err)
	}
	s.Members = make(map[string]string, len(members))
	for name, value := range members {
		if err := value.Canonicalize(); err != nil {
			return nil, fmt.Errorf("the parameters' members: %w", err)
		}
		h := sha256.New()
		_, _ = fmt.Fprintf(h, "%s%q %q ", grantDomain, salt, name) // A hash never fails.
		_, _ = h.Write(value)
		s.Members[name] = hex.EncodeToString(h.Sum(nil))
	}
	return s, nil
}

// costOf is what a call costs: 1 unless it says something else.
func costOf(b *Binding) float64 {
	if b.Cost > 0 {
		return b.Cost
	}
	return 1
}

// holdsSecret tells whether an approver is not shown all of what a name begins, the
// parameters or everything, since a part looks like a secret.
func (s *shown) holdsSecret(of string) bool {
	return slices.ContainsFunc(s.Details, func(d shownDetail) bool {
		return strings.HasPrefix(d.Name, of) && (strings.Contains(d.Value, audit.Masked) || strings.Contains(d.Name, audit.Masked))
	})
}

// covers tells whether a grant allows a call.
func covers(g *store.Grant, ask *ApprovalAsk) bool {
	var of shape
	if json.Unmarshal(g.Shape, &of) != nil || ask.Request == nil || ask.Binding == nil {
		return false
	}
	if ask.Risk != policy.RiskRead.String() && ask.Risk != policy.RiskWrite.String() {
		return false
	}
	if fits, err := policy.MatchResource(g.Resource, ask.Binding.Resource); err != nil || !fits && g.Resource != ask.Binding.Resource {
		return false
	}
	now, err := shapeOf(ask.Binding, of.Salt)
	if err != nil || now == nil || now.Base != of.Base || now.Cost > g.MaxCost || (now.Members == nil) != (of.Members == nil) {
		return false
	}
	return sameMembers(g.Bounds, &of, now, ask.Binding.ParametersRaw)
}

// sameMembers tells whether every member is there, and as it was or within its bound.
func sameMembers(bounds []store.Bound, of, now *shape, raw []byte) bool {
	if len(now.Members) != len(of.Members) {
		return false
	}
	for name, before := range of.Members {
		sum, there := now.Members[name]
		if !there {
			return false
		}
		at := slices.IndexFunc(bounds, func(b store.Bound) bool { return b.Name == name })
		if at < 0 && sum != before || at >= 0 && !within(&bounds[at], raw) {
			return false
		}
	}
	return true
}

// within tells whether a member is within its bound.
func within(b *store.Bound, raw []byte) bool {
	if b.Any {
		return true
	}
	p, err := policy.ParseParameters(raw)
	if err != nil {
		return false
	}
	var n float64
	switch v := p.Values[b.Name].(type) {
	case int64:
		n = float64(v) // exact: integers are within 2^53
	case float64:
		n = v
	default:
		return false
	}
	return (b.Min == nil || n >= *b.Min) && (b.Max == nil || n <= *b.Max)
}

// grantOf makes the grant that somebody wants beside his yes to an approval. An
// [*InvalidError] says why there cannot be one.
func (v *view) grantOf(a *store.Approval, terms *StandingTerms) (*store.Approval, error) {
	what, err := readShown(a)
	need := 0
	for i := range a.Requirements {
		need += a.Requirements[i].Quorum
	}
	refuse := func(field, why string) error { return &InvalidError{Field: field, Why: field + " " + why} }
	switch {
	case a.Risk != policy.RiskRead.String() && a.Risk != policy.RiskWrite.String():
		return nil, refuse("standing", "is not possible: a call of risk "+a.Risk+" has a yes of its own each time")
	case need != 1:
		return nil, refuse("standing", fmt.Sprintf("is not possible: this call needs %d yeses, and one person cannot allow others in future", need))
	case err != nil || what.Shape == nil:
		return nil, refuse("standing", "is not possible: the parameters were not seen whole, or hold a secret")
	case terms.Uses < 1 || terms.Uses > maxGrantUses:
		return nil, refuse("standing.uses", fmt.Sprintf("is out of range; write 1 to %d", maxGrantUses))
	case terms.Within < 0 || terms.Within > maxGrantTime:
		return nil, refuse("standing.within", "is out of range; write at most 720h, or leave it out for 8h")
	case len(terms.Bounds) > maxGrantBounds:
		return nil, refuse("standing.bounds", fmt.Sprintf("has more than %d entries", maxGrantBounds))
	case !(terms.MaxCost >= 0) || math.IsInf(terms.MaxCost, 1):
		return nil, refuse("standing.max_cost", "is not a positive number")
	}
	if terms.Resource == "" && strings.Contains(a.Resource, "*") {
		// It would be read as a pattern at each use, and be one that the agent made.
		return nil, refuse("standing.resource", "is missing: the call's own resource has a star in it, as a pattern has; write the pattern that you mean")
	}
	g := &store.Grant{From: a.ID, Resource: terms.Resource, MaxCost: terms.MaxCost, MaxUses: terms.Uses}
	if terms.MaxCost == 0 {
		g.MaxCost = what.Shape.Cost
	}
	if g.Resource == "" {
		g.Resource = a.Resource
	} else if fits, err := policy.MatchResource(g.Resource, a.Resource); err != nil || !fits {
		return nil, refuse("standing.resource", "does not match the call's resource, or is no pattern; write one that does, such as "+a.Resource)
	}
	if g.Bounds, err = boundsOf(terms.Bounds, what.Shape); err != nil {
		return nil, err
	}
	if g.Shape, err = json.Marshal(what.Shape); err != nil {
		return nil, fmt.Errorf("the shape of the call: %w", err)
	}
	within := terms.Within
	if within == 0 {
		within = grantTime
	}
	return &store.Approval{
		State: store.Pending, Agent: a.Agent, Subject: a.Subject, Action: a.Action, Resource: g.Resource, Risk: a.Risk, Gateway: a.Gateway,
		DecisionID: a.DecisionID, PolicyVersion: a.PolicyVersion, Requirements: slices.Clone(a.Requirements), Shown: actorsOnly(what),
		OpenedAt: v.now, ExpiresAt: v.now.Add(within), UseWithin: within, Grant: g,
	}, nil
}

// longGrant refuses a long grant by somebody whom the policy does not name: of a
// group only the provider knows who is in it, and it tells nothing once he has left.
func (v *view) longGrant(a, g *store.Approval, p Person) error {
	named := Person{Name: p.Name, How: p.How}
	e := v.electorate(a)
	if g.UseWithin <= grantTime || e.refusal(p) != "" || e.refusal(named) == "" {
		return nil // Who may not decide at all is told so by his vote.
	}
	return &InvalidError{Field: "standing.within", Why: "standing.within is out of range: " + p.Name +
		" may decide as one of a group of the identity provider, and nobody tells when that ends; write at most 8h, or have the policy name " + p.Name}
}

// actorsOnly keeps of what was shown who may not decide.
func actorsOnly(what shown) []byte {
	raw, err := json.Marshal(&shown{Actors: what.Actors})
	if err != nil {
		return nil // Nobody can decide by it then.
	}
	return raw
}

func boundsOf(bounds []GrantBound, of *shape) ([]store.Bound, error) {
	var out []store.Bound
	for _, b := range bounds {
		field := "standing.bounds"
		switch _, there := of.Members[b.Name]; {
		case !there:
			return nil, &InvalidError{Field: field, Why: field + " names a member that the call's parameters do not have at their top: " + visible(b.Name)}
		case slices.ContainsFunc(out, func(o store.Bound) bool { return o.Name == b.Name }):
			return nil, &InvalidError{Field: field, Why: field + " names one member twice: " + visible(b.Name)}
		case b.Any == (b.Min != nil || b.Max != nil):
			return nil, &InvalidError{Field: field, Why: field + " needs any, or min or max, for each member: " + visible(b.Name)}
		case !finite(b.Min) || !finite(b.Max):
			return nil, &InvalidError{Field: field, Why: field + " has a min or max that is no number: " + visible(b.Name)}
		}
		out = append(out, store.Bound(b))
	}
	return out, nil
}

// finite tells whether a bound can be compared with, and be stored.
func finite(n *float64) bool { return n == nil || !math.IsNaN(*n) && !math.IsInf(*n, 0) }

// stand keeps a grant that was made, with the yes that it is by.
func (d *Desk) stand(ctx context.Context, g *store.Approval, vote store.Vote, p Person, v *view) (*store.Approval, error) {
	g.ID = d.cfg.NewID()
	g.Digest = grantDigest + g.ID
	kept, opened, err := d.cfg.Store.Open(ctx, g, store.OpenLimits{Now: v.now})
	if err != nil {
		return nil, err
	}
	if !opened {
		return nil, errBusy // The id is taken, which cannot be.
	}
	vote.Rule = kept.Requirements[0].Rule
	if kept.UseWithin > grantTime {
		vote.Groups = nil // It counts for as long as the policy names him; see longGrant.
	}
	kept.State, kept.Votes, kept.UseBy = store.Approved, []store.Vote{vote}, kept.ExpiresAt
	// It is recorded before it counts, as every vote is.
	e := &ApprovalEvent{Kind: ApprovalStanding, Actor: p.String(), How: p.How, Yes: true, VoteID: vote.ID, Why: grantText(kept)}
	if err := d.recorded(ctx, kept, v.now, e); err != nil {
		return nil, err
	}
	if err := d.cfg.Store.Swap(ctx, kept); err != nil {
		return nil, err
	}
	return kept, d.standsStill(ctx, kept)
}

// standsStill takes a grant back whose yes was taken back while it was made: whoever
// did that found no grant yet.
func (d *Desk) standsStill(ctx context.Context, g *store.Approval) error {
	from, err := d.cfg.Store.Get(ctx, g.Grant.From)
	if err == nil && (from.State == store.Approved || from.State == store.Consumed) {
		return nil
	}
	for range swapTries {
		v, viewErr := d.view()
		if viewErr != nil {
			return viewErr
		}
		now, loadErr := d.load(ctx, g.ID, &v)
		if loadErr != nil || now.State.Final() {
			return errors.Join(err, loadErr, ErrApprovalDecided)
		}
		next := v.ended(now, store.Revoked, "", "the yes that it was made with does not stand any more")
		if swapErr := d.swap(ctx, next, v.now, eventOf(next)); !again(swapErr) {
			return errors.Join(err, swapErr, fmt.Errorf("%w: the yes was taken back meanwhile", ErrApprovalDecided))
		}
	}
	return errors.Join(err, errBusy)
}

// grantText says what a grant allows, for the record.
func grantText(a *store.Approval) string {
	g := a.Grant
	var text strings.Builder
	fmt.Fprintf(&text, "made from %s: %d uses until %s, resource %s, cost at most %s",
		g.From, g.MaxUses, a.UseBy.UTC().Format(time.RFC3339), g.Resource, number(g.MaxCost))
	for _, b := range g.Bounds {
		text.WriteString(", " + visible(b.Name))
		switch {
		case b.Any:
			text.WriteString(" any")
		case b.Min != nil && b.Max != nil:
			fmt.Fprintf(&text, " from %v to %v", *b.Min, *b.Max)
		case b.Min != nil:
			fmt.Fprintf(&text, " >= %v", *b.Min)
		default:
			fmt.Fprintf(&text, " <= %v", *b.Max)
		}
	}
	return text.String()
}

// granted finds a standing grant that allows a call, or else an emergency; nil:
// there is neither.
func (d *Desk) granted(ctx context.Context, ask *ApprovalAsk, v *view) (*store.Approval, error) {
	found, _, err := d.cfg.Store.List(ctx, store.Filter{States: []store.State{store.Approved}, Agent: ask.Agent, Limit: maxListed})
	if err != nil {
		return nil, err
	}
	var glass *store.Approval
	for _, a := range found {
		switch {
		case a.Grant == nil:
		case a.Grant.BreakGlass != nil:
			if v.broken(a, ask) {
				glass = a
			}
		case v.usable(a, ask):
			return a, nil
		}
	}
	if glass == nil {
		return nil, nil //nolint:nilnil // There is neither.
	}
	if no, err := d.denied(ctx, ask); no || err != nil {
		return nil, err
	}
	return glass, nil
}

// usable tells whether a call may use a standing grant now: it has uses and time
// left, the rules are those that it was made under, who made it may still do so,
// and it allows this call.
func (v *view) usable(a *store.Approval, ask *ApprovalAsk) bool {
	if a.State != store.Approved || a.Unsure || a.Grant.Uses >= a.Grant.MaxUses || v.due(a) != nil || a.Agent != ask.Agent || a.Subject != ask.Subject {
		return false
	}
	e := electorateOf(a, ask.Requirements, v.verified)
	if _, met := e.count(a.Votes); !met || len(ask.Requirements) != len(a.Requirements) {
		return false
	}
	return covers(a.Grant, ask)
}

// consumeGrant uses a standing grant once.
func (d *Desk) consumeGrant(ctx context.Context, ask *ApprovalAsk, id string) (ApprovalStatus, error) {
	for range swapTries {
		v, err := d.view()
		if err != nil {
			return ApprovalStatus{}, err
		}
		a, err := d.cfg.Store.Get(ctx, id)
		if errors.Is(err, store.ErrNotFound) {
			return ApprovalStatus{Found: FoundGrantExhausted}, nil
		}
		if err != nil {
			return ApprovalStatus{}, err
		}
		found, e := FoundGranted, &ApprovalEvent{Kind: ApprovalGrantUsed}
		switch {
		case a.Grant != nil && a.Grant.BreakGlass != nil && v.broken(a, ask):
			found, e.Kind = FoundBreakGlass, ApprovalBreakGlassUsed
		case a.Grant == nil || a.Grant.BreakGlass != nil || !v.usable(a, ask):
			return ApprovalStatus{Found: FoundGrantExhausted, ID: id}, nil
		}
		next := a.Clone()
		next.Grant.Uses++
		if found == FoundGranted && next.Grant.Uses == next.Grant.MaxUses {
			next = v.ended(next, store.Consumed, "", "every use of it was used")
		}
		next.Used = &store.Use{Gateway: ask.Request.Gateway, RequestID: ask.Request.RequestID, DecisionID: ask.DecisionID, At: v.now}
		if e.Why = fmt.Sprintf("use %d of %d", next.Grant.Uses, next.Grant.MaxUses); found == FoundBreakGlass {
			e.Why = fmt.Sprintf("use %d", next.Grant.Uses)
		}
		err = d.swap(ctx, next, v.now, e)
		if err == nil {
			return ApprovalStatus{Found: found, ID: id, ExpiresAt: a.UseBy}, nil
		}
		if !again(err) {
			return ApprovalStatus{}, err
		}
	}
	return ApprovalStatus{}, errBusy
}
