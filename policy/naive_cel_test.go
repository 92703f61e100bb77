package policy_test

import (
	"fmt"
	"net/netip"
	"sync"

	"cel.dev/cel-go/cel"
	celast "cel.dev/cel-go/common/ast"

	"github.com/kelpie-authz/kelpie/policy"
)

// naiveResult is what a condition came to.
type naiveResult int

const (
	naiveFalse naiveResult = iota
	naiveTrue
	naiveLacks // it reads parameters that were not seen
	naiveErrs  // it could not be evaluated
)

type naiveCondition struct {
	program cel.Program
	checked celast.Expr
	reads   bool
}

// naiveConditions keeps what was checked; evaluation itself is fresh each time.
var naiveConditions sync.Map

func naiveCompile(expr string) (*naiveCondition, error) {
	if known, ok := naiveConditions.Load(expr); ok {
		condition, _ := known.(*naiveCondition)
		return condition, nil
	}
	env, err := cel.NewEnv(
		cel.CrossTypeNumericComparisons(true),
		cel.Variable("agent", cel.StringType), cel.Variable("subject", cel.StringType),
		cel.Variable("action", cel.StringType), cel.Variable("resource", cel.StringType),
		cel.Variable("source_ip", cel.StringType), cel.Variable("now", cel.TimestampType),
		cel.Variable("parameters", cel.MapType(cel.StringType, cel.DynType)),
		cel.Variable("context", cel.MapType(cel.StringType, cel.DynType)),
	)
	if err != nil {
		return nil, fmt.Errorf("environment: %w", err)
	}
	checked, issues := env.Compile(expr)
	if issues.Err() != nil {
		return nil, fmt.Errorf("check %q: %w", expr, issues.Err())
	}
	if checked.OutputType() != cel.BoolType {
		return nil, fmt.Errorf("%q is no condition", expr)
	}
	program, err := env.Program(checked)
	if err != nil {
		return nil, fmt.Errorf("program %q: %w", expr, err)
	}
	condition := &naiveCondition{program: program, checked: checked.NativeRep().Expr()}
	celast.PostOrderVisit(condition.checked, celast.NewExprVisitor(func(e celast.Expr) {
		if e.Kind() == celast.IdentKind && e.AsIdent() == "parameters" {
			condition.reads = true
		}
	}))
	naiveConditions.Store(expr, condition)
	return condition, nil
}

func naiveAddress(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.Unmap().String()
}

func naiveWhen(expr string, c *policy.Call) naiveResult {
	if expr == "" {
		return naiveTrue
	}
	condition, err := naiveCompile(expr)
	if err != nil {
		panic(err) // the validity check let it pass
	}
	if condition.reads && c.Parameters.State != policy.ParametersComplete {
		return naiveLacks
	}
	context := c.Context
	if context == nil {
		context = map[string]any{}
	}
	parameters := c.Parameters.Values
	if parameters == nil {
		parameters = map[string]any{}
	}
	value, _, err := condition.program.Eval(map[string]any{
		"agent": c.Agent, "subject": c.Subject, "action": c.Action, "resource": c.Resource,
		"source_ip": naiveAddress(c.SourceIP), "now": c.Now, "parameters": parameters, "context": context,
	})
	if err != nil {
		return naiveErrs
	}
	if held, ok := value.Value().(bool); ok && held {
		return naiveTrue
	}
	return naiveFalse
}

// naiveContextRead is what of the context a condition reads: the members that
// it names, and whether it reads the context as a whole.
func naiveContextRead(expr string) (members []string, whole bool) {
	if expr == "" {
		return nil, false
	}
	condition, err := naiveCompile(expr)
	if err != nil {
		panic(err)
	}
	named := map[int64]bool{}
	celast.PostOrderVisit(condition.checked, celast.NewExprVisitor(func(e celast.Expr) {
		if e.Kind() == celast.SelectKind && naiveIsContext(e.AsSelect().Operand()) {
			named[e.AsSelect().Operand().ID()] = true
			members = append(members, e.AsSelect().FieldName())
		}
		if e.Kind() != celast.CallKind || e.AsCall().FunctionName() != "_[_]" {
			return
		}
		of, key := e.AsCall().Args()[0], e.AsCall().Args()[1]
		if name, ok := naiveLiteral(key); ok && naiveIsContext(of) {
			named[of.ID()] = true
			members = append(members, name)
		}
	}))
	celast.PostOrderVisit(condition.checked, celast.NewExprVisitor(func(e celast.Expr) {
		whole = whole || (naiveIsContext(e) && !named[e.ID()])
	}))
	return members, whole
}

func naiveIsContext(e celast.Expr) bool {
	return e.Kind() == celast.IdentKind && e.AsIdent() == "context"
}

func naiveLiteral(e celast.Expr) (string, bool) {
	if e.Kind() != celast.LiteralKind {
		return "", false
	}
	s, ok := e.AsLiteral().Value().(string)
	return s, ok
}
