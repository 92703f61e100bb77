package policy

import (
	"fmt"
	"strconv"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"

	policyv1 "github.com/kelpie-authz/kelpie/gen/kelpie/policy/v1"
)

// conditions judges every `when` of the policy.
func (l *linter) conditions() {
	cs, err := newConditions()
	if err != nil {
		return // the compiler built the same ones before
	}
	for _, name := range sortedKeys(l.doc.GetDeny()) {
		l.condition(cs, []string{"deny", name, "match", "when"}, l.doc.GetDeny()[name].GetMatch().GetWhen(), true)
	}
	for _, name := range sortedKeys(l.doc.GetApprovals()) {
		l.condition(cs, []string{"approvals", name, "match", "when"}, l.doc.GetApprovals()[name].GetMatch().GetWhen(), true)
	}
	for _, name := range sortedKeys(l.doc.GetLimits()) {
		l.condition(cs, []string{"limits", name, "match", "when"}, l.doc.GetLimits()[name].GetMatch().GetWhen(), false)
	}
	for _, name := range sortedKeys(l.doc.GetRoles()) {
		l.grantConditions(cs, []string{"roles", name}, l.doc.GetRoles()[name].GetGrants())
	}
	for _, key := range sortedKeys(l.doc.GetAgents()) {
		l.grantConditions(cs, []string{"agents", key}, l.doc.GetAgents()[key].GetGrants())
	}
}

func (l *linter) grantConditions(cs *conditions, path []string, grants []*policyv1.Grant) {
	for i, grant := range grants {
		l.condition(cs, sub(path, "grants", strconv.Itoa(i), "when"), grant.GetWhen(), false)
	}
}

// condition judges one. In a rule that restricts, a test for a member makes the
// rule hold for nobody who leaves the member out.
func (l *linter) condition(cs *conditions, path []string, text string, restricts bool) {
	if text == "" {
		return
	}
	checked, issues := cs.env.Compile(text)
	if issues.Err() != nil {
		return
	}
	root := checked.NativeRep().Expr()
	if root.Kind() == ast.LiteralKind {
		l.add(SeverityWarning, "constant-condition", path, fmt.Sprintf("the condition is always %v", root.AsLiteral().Value()), "remove it, or the rule")
	}
	if restricts && skipsAbsent(root) {
		l.add(SeverityWarning, "has-parameters", path, "a call that leaves the parameter out never meets this rule",
			"drop the test, so that a call without the parameter is denied, or write !has(parameters.x) || ... so that it meets the rule")
	}
}

// skipsAbsent tells whether an expression is false because a parameter is
// absent, and not because of its value. A test alone is not meant: it is about
// the parameter being there.
func skipsAbsent(e ast.Expr) bool {
	if e.Kind() != ast.CallKind {
		return false
	}
	args := e.AsCall().Args()
	switch e.AsCall().FunctionName() {
	case operators.LogicalAnd:
		return isPresenceTest(args[0]) || isPresenceTest(args[1]) || skipsAbsent(args[0]) || skipsAbsent(args[1])
	case operators.LogicalOr:
		return skipsAbsent(args[0]) || skipsAbsent(args[1])
	case operators.Conditional:
		return isPresenceTest(args[0]) && args[2].Kind() == ast.LiteralKind && args[2].AsLiteral() == types.False
	default:
		return false
	}
}

// isPresenceTest recognises has(parameters.x) and "x" in parameters, at any depth.
func isPresenceTest(e ast.Expr) bool {
	switch e.Kind() {
	case ast.SelectKind:
		return e.AsSelect().IsTestOnly() && isOfParameters(e.AsSelect().Operand())
	case ast.CallKind:
		call := e.AsCall()
		return call.FunctionName() == operators.In && call.Args()[0].Kind() == ast.LiteralKind && isOfParameters(call.Args()[1])
	default:
		return false
	}
}

func isOfParameters(e ast.Expr) bool {
	for e.Kind() == ast.SelectKind {
		e = e.AsSelect().Operand()
	}
	return e.Kind() == ast.IdentKind && (e.AsIdent() == "parameters" || e.AsIdent() == ".parameters")
}
