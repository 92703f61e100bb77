package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	policyv1 "github.com/kelpie-authz/kelpie/gen/kelpie/policy/v1"
)

// http judges what the policy says of HTTP requests; h is it, compiled, or nil.
func (l *linter) http(h *HTTP) {
	if h == nil {
		return
	}
	for i, s := range h.AgentFrom {
		if s.Kind == SourceHeader {
			l.add(SeverityNote, "agent-from-header", []string{httpSection, "agent_from", strconv.Itoa(i)},
				fmt.Sprintf("whoever can set %s is any agent", s.Name), "have the proxy set or remove the header on every request, or use what it verified: principal, forwarded_client_cert, jwt")
		}
	}
	source := l.doc.GetHttp().GetSourceIp()
	if source != nil && source.PeerAppended != nil && h.TrustedHops == 0 {
		l.add(SeverityWarning, "idle-peer-appended", []string{httpSection, "source_ip", "peer_appended"},
			"without trusted_hops no header is looked at, and the proxy's peer is the caller", "write trusted_hops, or remove peer_appended")
	}
	calls := make([]routeCalls, 0, len(h.routes))
	for _, r := range h.routes {
		made := routeCalls{variants(r, &r.action, actionPattern), variants(r, &r.resource, resourcePattern)}
		calls = append(calls, made)
		l.route(r, made)
	}
	if !h.BodiesSent {
		l.bodies(calls)
	}
}

// routeCalls are patterns of the actions and resources that come of a route.
type routeCalls struct{ actions, resources []string }

func (r routeCalls) meets(actions, resources []string) bool {
	return meetAny(r.actions, actions, actionPattern) && meetAny(r.resources, resources, resourcePattern)
}

func (l *linter) route(r *HTTPRoute, made routeCalls) {
	path := []string{httpRoutes, strings.TrimPrefix(r.ID, httpSection+"/")}
	covered := false
	for _, scope := range l.doc.GetScopes() {
		if covered = made.meets(scope.GetActions(), scope.GetResources()); covered {
			break
		}
	}
	if !covered {
		l.add(SeverityWarning, "route-without-scope", path, "no scope covers a call that comes of this route: all of them are denied",
			"correct action or resource, or define the scope")
	}
	if !r.isFixed(&r.action) || verbClass(r.action.parts[0].text) != RiskRead {
		return
	}
	for _, method := range r.methods {
		switch method {
		case "POST", "PUT", "PATCH", "DELETE":
			l.add(SeverityNote, "read-by-write-method", sub(path, "methods"), fmt.Sprintf("a %s is judged as %s, an action that only reads", method, r.action.parts[0].text),
				"name the action for what the request does, if it changes anything")
			return
		}
	}
}

// isFixed tells whether every request gives a template the same text.
func (r *HTTPRoute) isFixed(t *template) bool { return len(t.parts) == 1 && t.parts[0].token < 0 }

// maxVariants bounds the patterns of one template.
const maxVariants = 64

// variants are patterns for the texts that come of a template. A name stands
// for a part of a segment or, where its text may hold a separator, for several:
// {path...} in a resource, and any name in an action, which is split at dots.
func variants(r *HTTPRoute, t *template, kind patternKind) []string {
	out := []string{""}
	for _, p := range t.parts {
		stands := []string{p.text}
		if p.token >= 0 {
			stands = []string{"*"}
			if kind == actionPattern || r.tokens[p.token].kind == restSegments {
				stands = []string{"*", "*/**/*"}
			}
		}
		if len(out)*len(stands) > maxVariants {
			return []string{"**"}
		}
		var next []string
		for _, before := range out {
			for _, text := range stands {
				next = append(next, before+text)
			}
		}
		out = next
	}
	for i := range out {
		// Two names side by side make ** no segment of its own, or two stars one.
		if slices.ContainsFunc(strings.Split(out[i], "/"), func(s string) bool { return s != "**" && strings.Contains(s, "**") }) {
			out[i] = "**"
		}
	}
	return out
}

// bodies notes that something needs parameters, and that a request may come
// whose body was not seen. It is no warning, since promising a body that does
// not come would be worse.
func (l *linter) bodies(calls []routeCalls) {
	cs, err := newConditions()
	if err != nil {
		return // the compiler built the same ones before
	}
	n := &parameterNeeds{cs: cs, calls: calls, reading: map[string]bool{}, reached: map[string]bool{}}
	n.rules(l.doc)
	n.grants(l)
	if len(n.ids) == 0 {
		return
	}
	what := n.ids[0]
	if len(n.ids) > 1 {
		what = fmt.Sprintf("%s and %d more", what, len(n.ids)-1)
	}
	l.add(SeverityNote, "bodies-not-sent", []string{httpSection},
		"a request whose body may not have come has no parameters, and is denied for it where they are needed: by "+what,
		"have the proxy send every body, and only then write request_bodies: sent")
}

// parameterNeeds gathers the rules and grants that a call without parameters
// may be denied by, among those that are about calls of some route.
type parameterNeeds struct {
	cs      *conditions
	calls   []routeCalls
	reading map[string]bool // conditions, by whether they read parameters
	reached map[string]bool // scopes, by whether a route makes a call under them
	ids     []string
}

func (n *parameterNeeds) add(id string, actions, resources []string) {
	if n.reaches(actions, resources) && !slices.Contains(n.ids, id) {
		n.ids = append(n.ids, id)
	}
}

func (n *parameterNeeds) reaches(actions, resources []string) bool {
	return slices.ContainsFunc(n.calls, func(made routeCalls) bool { return made.meets(actions, resources) })
}

func (n *parameterNeeds) reads(when string) bool {
	if when == "" {
		return false
	}
	reads, known := n.reading[when]
	if !known {
		c, err := n.cs.compile(when)
		reads = err == nil && c.parameters
		n.reading[when] = reads
	}
	return reads
}

func (n *parameterNeeds) rules(doc *policyv1.Policy) {
	for _, name := range sortedKeys(doc.GetApprovals()) {
		rule := doc.GetApprovals()[name]
		if !rule.GetShadow() && (rule.GetBind() == "" || n.reads(rule.GetMatch().GetWhen())) {
			n.add("approvals/"+name, rule.GetMatch().GetActions(), rule.GetMatch().GetResources())
		}
	}
	for _, name := range sortedKeys(doc.GetDeny()) {
		if rule := doc.GetDeny()[name]; !rule.GetShadow() && n.reads(rule.GetMatch().GetWhen()) {
			n.add("deny/"+name, rule.GetMatch().GetActions(), rule.GetMatch().GetResources())
		}
	}
	for _, name := range sortedKeys(doc.GetLimits()) {
		if limit := doc.GetLimits()[name]; !limit.GetShadow() && n.reads(limit.GetMatch().GetWhen()) {
			n.add("limits/"+name, limit.GetMatch().GetActions(), limit.GetMatch().GetResources())
		}
	}
}

func (n *parameterNeeds) grants(l *linter) {
	for _, h := range l.holdings {
		scope := l.doc.GetScopes()[h.scope]
		if n.reads(h.grant.GetWhen()) && !h.grant.GetShadow() && !l.isOver(h.grant) && n.reachesScope(h.scope, scope) {
			n.add(grantID(h), scope.GetActions(), scope.GetResources())
		}
		if l.isDestructive(h) && h.grant.GetUnattended() == "" && covering(l.gates[h.scope], h.agent) == "" && n.reachesScope(h.scope, scope) {
			n.add("builtin/destructive", destructiveActions(scope), scope.GetResources())
		}
	}
}

func (n *parameterNeeds) reachesScope(name string, scope *policyv1.Scope) bool {
	reached, known := n.reached[name]
	if !known {
		reached = n.reaches(scope.GetActions(), scope.GetResources())
		n.reached[name] = reached
	}
	return reached
}

// grantID is the id of what an agent holds, as answers have it.
func grantID(h holding) string {
	if h.role != "" {
		return "roles/" + h.role + "/" + h.scope
	}
	return ownGrants + h.agent + "/" + h.scope
}

// destructiveActions are the actions of a scope that the guardrail is about:
// those of its own that delete or administer, and patterns that may.
func destructiveActions(scope *policyv1.Scope) []string {
	if parseRisk(scope.GetRisk()) >= RiskDelete {
		return scope.GetActions()
	}
	return slices.DeleteFunc(slices.Clone(scope.GetActions()), func(action string) bool {
		return !isPattern(action) && patternClass(action) < RiskDelete
	})
}
