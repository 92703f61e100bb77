package policy

import (
	"errors"
	"fmt"
	"regexp/syntax"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
)

// The bounds of one condition, which keep an expression from making the
// compiler itself slow.
const (
	conditionBytes     = 16_384
	conditionNodes     = 20_000
	conditionDepth     = 100
	conditionLoops     = 8
	conditionRegexSize = 300 // instructions of a compiled expression
)

// outcome is what one condition came to. The zero value is false.
type outcome uint8

const (
	isFalse outcome = iota
	isTrue
	// isLacking: it reads parameters that were not seen whole.
	isLacking
	// isFailing: it could not be evaluated.
	isFailing
)

func (o outcome) failed() bool { return o == isLacking || o == isFailing }

// condition is a compiled `when`. It is immutable, and shared by every rule
// with the same text. A nil condition holds always.
type condition struct {
	program cel.Program
	// canonical is the expression without its comments and spacing.
	canonical string
	// parameters says that the expression names the variable of that name.
	parameters bool
	// context are the members of the context that it reads, sorted; whole says
	// that it reads the context in another way too.
	context []string
	whole   bool
}

// conditions compiles each distinct text once.
type conditions struct {
	env   *cel.Env
	known map[string]*condition
	errs  map[string]error
}

func newConditions() (*conditions, error) {
	env, err := cel.NewEnv(
		cel.Variable("agent", cel.StringType),
		cel.Variable("subject", cel.StringType),
		cel.Variable("action", cel.StringType),
		cel.Variable("resource", cel.StringType),
		cel.Variable("source_ip", cel.StringType),
		cel.Variable("now", cel.TimestampType),
		cel.Variable("parameters", cel.MapType(cel.StringType, cel.DynType)),
		cel.Variable("context", cel.MapType(cel.StringType, cel.DynType)),
		cel.CrossTypeNumericComparisons(true),
		// The machine's own time zone is no part of a policy.
		cel.DefaultUTCTimeZone(true),
		cel.EnableMacroCallTracking(),
		cel.ParserExpressionSizeLimit(conditionBytes),
		cel.ParserRecursionLimit(conditionDepth),
		cel.ParserErrorRecoveryLimit(4),
		cel.ExpressionNodeLimit(conditionNodes),
		cel.ASTValidators(
			cel.ValidateComprehensionNestingLimit(conditionLoops),
			cel.ValidateDurationLiterals(),
			cel.ValidateTimestampLiterals(),
			cel.ValidateRegexLiterals(),
		),
	)
	if err != nil {
		return nil, fmt.Errorf("build the environment of conditions: %w", err)
	}
	return &conditions{env: env, known: map[string]*condition{}, errs: map[string]error{}}, nil
}

// compile returns the condition of an expression; nil for the empty one.
func (cs *conditions) compile(text string) (*condition, error) {
	if text == "" {
		return nil, nil //nolint:nilnil // no condition is a condition that holds
	}
	if c, ok := cs.known[text]; ok {
		return c, nil
	}
	if err, ok := cs.errs[text]; ok {
		return nil, err
	}
	c, err := cs.build(text)
	if err != nil {
		cs.errs[text] = err
		return nil, err
	}
	cs.known[strings.Clone(text)] = c
	return c, nil
}

// build compiles an expression. A panic of the compiler on a strange one is an
// error of that expression, and no reason to end the process.
func (cs *conditions) build(text string) (c *condition, err error) {
	defer func() {
		if p := recover(); p != nil {
			c, err = nil, fmt.Errorf("the condition cannot be compiled: %v", p)
		}
	}()
	parsed, issues := cs.env.Parse(text)
	if issues.Err() != nil {
		return nil, celError(issues)
	}
	canonical, err := cel.AstToString(parsed)
	if err != nil {
		canonical = text
	}
	if err := checkTexts(parsed.NativeRep().Expr()); err != nil {
		return nil, err
	}
	checked, issues := cs.env.Check(parsed)
	if issues.Err() != nil {
		return nil, celError(issues)
	}
	if t := checked.OutputType(); !t.IsExactType(cel.BoolType) && !t.IsExactType(cel.DynType) {
		return nil, fmt.Errorf("the condition gives %s, not true or false", t)
	}
	program, err := cs.env.Program(checked, cel.EvalOptions(cel.OptOptimize), cel.CostTracking(costs{}), cel.CostLimit(conditionCost))
	if err != nil {
		return nil, fmt.Errorf("prepare the condition: %w", err)
	}
	c = &condition{program: program, canonical: canonical}
	c.findReads(checked.NativeRep().Expr())
	return c, nil
}

// checkTexts refuses regular expressions that are large, and those and time
// zones that are only known when a call is judged: whoever writes the call's fields would choose
// how long its decision takes, and what it matches.
func checkTexts(root ast.Expr) error {
	var fault error
	ast.PreOrderVisit(root, ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() != ast.CallKind || len(e.AsCall().Args()) == 0 {
			return
		}
		args := e.AsCall().Args()
		if e.AsCall().IsMemberFunction() && isZoned(e.AsCall().FunctionName(), len(args)+1) && args[0].Kind() != ast.LiteralKind {
			fault = errors.New("the condition is wrong: the time zone is not a plain text")
			return
		}
		if e.AsCall().FunctionName() != overloads.Matches {
			return
		}
		last := args[len(args)-1]
		if last.Kind() != ast.LiteralKind {
			fault = errors.New("the condition is wrong: the pattern of matches is not a plain text")
			return
		}
		pattern, ok := last.AsLiteral().(types.String)
		if !ok {
			return // told as a wrong type
		}
		parsed, err := syntax.Parse(string(pattern), syntax.Perl)
		if err != nil {
			fault = fmt.Errorf("the condition is wrong: %w", err)
			return
		}
		program, err := syntax.Compile(parsed.Simplify())
		if err != nil || len(program.Inst) > conditionRegexSize {
			fault = errors.New("the condition is wrong: the pattern of matches is too large")
		}
	}))
	return fault
}

// celError says the first fault of an expression in one line.
func celError(issues *cel.Issues) error {
	list := issues.Errors()
	if len(list) == 0 {
		return errors.New("the condition is no expression")
	}
	first := list[0]
	text, _, _ := strings.Cut(first.Message, "\n")
	if first.Location.Line() < 1 {
		return fmt.Errorf("the condition is wrong: %s", text)
	}
	return fmt.Errorf("the condition is wrong at its line %d, column %d: %s", first.Location.Line(), first.Location.Column()+1, text)
}

// findReads notes what of the call's own data an expression names, whatever
// its evaluation would skip: a condition means the same for every call.
func (c *condition) findReads(root ast.Expr) {
	members := map[int64]bool{} // uses of the context that are of one member
	ast.PreOrderVisit(root, ast.NewExprVisitor(func(e ast.Expr) {
		if operand, member := contextMember(e); operand != nil {
			members[operand.ID()] = true
			c.context = append(c.context, member)
		}
		if e.Kind() != ast.IdentKind {
			return
		}
		switch strings.TrimPrefix(e.AsIdent(), ".") {
		case "parameters":
			c.parameters = true
		case "context":
			c.whole = c.whole || !members[e.ID()]
		}
	}))
	slices.Sort(c.context)
	c.context = slices.Compact(c.context)
}

// contextMember recognises context.x, has(context.x) and context["x"], and
// returns the use of the context and the member; nil for any other expression.
func contextMember(e ast.Expr) (ast.Expr, string) {
	var operand ast.Expr
	var member string
	switch e.Kind() {
	case ast.SelectKind:
		operand, member = e.AsSelect().Operand(), e.AsSelect().FieldName()
	case ast.CallKind:
		call := e.AsCall()
		if call.FunctionName() != operators.Index || len(call.Args()) != 2 || call.Args()[1].Kind() != ast.LiteralKind {
			return nil, ""
		}
		key, ok := call.Args()[1].AsLiteral().(types.String)
		if !ok {
			return nil, ""
		}
		operand, member = call.Args()[0], string(key)
	default:
		return nil, ""
	}
	if operand.Kind() != ast.IdentKind || strings.TrimPrefix(operand.AsIdent(), ".") != "context" {
		return nil, ""
	}
	return operand, member
}

// evaluate judges a call. Parameters that were not seen whole are looked at
// first, so that no expression can reason about what it does not know.
func (c *condition) evaluate(call *Call) outcome {
	if c == nil {
		return isTrue
	}
	if c.parameters && call.Parameters.State != ParametersComplete {
		return isLacking
	}
	value, _, err := c.program.Eval(&activation{call})
	if err != nil {
		return isFailing
	}
	switch value {
	case types.True:
		return isTrue
	case types.False:
		return isFalse
	default:
		return isFailing
	}
}

// activation gives an expression the call's fields by their names.
type activation struct{ call *Call }

// ResolveName implements cel.Activation.
func (a *activation) ResolveName(name string) (any, bool) {
	switch name {
	case "agent":
		return a.call.Agent, true
	case "subject":
		return a.call.Subject, true
	case "action":
		return a.call.Action, true
	case "resource":
		return a.call.Resource, true
	case "source_ip":
		if !a.call.SourceIP.IsValid() {
			return "", true
		}
		return a.call.SourceIP.Unmap().String(), true
	case "now":
		return a.call.Now.UTC(), true
	case "parameters":
		return a.call.Parameters.Values, true
	case "context":
		return a.call.Context, true
	default:
		return nil, false
	}
}

// Parent implements cel.Activation; there is none.
func (*activation) Parent() cel.Activation { return nil }
