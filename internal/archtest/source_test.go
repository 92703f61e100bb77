package archtest_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// source is one parsed file of a package of ours.
type source struct {
	pkg    string // path within the module
	name   string // base name
	lines  int
	syntax *ast.File
}

// parse reads one file; content stands for the file if it is not nil.
func parse(pkg, path string, content []byte) (source, error) {
	if content == nil {
		read, err := os.ReadFile(path)
		if err != nil {
			return source{}, fmt.Errorf("read source: %w", err)
		}
		content = read
	}
	syntax, err := parser.ParseFile(token.NewFileSet(), path, content, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return source{}, fmt.Errorf("parse source: %w", err)
	}
	return source{pkg: pkg, name: filepath.Base(path), lines: bytes.Count(content, []byte("\n")), syntax: syntax}, nil
}

// isTest reports whether the file is for `go test` alone.
func (s source) isTest() bool { return strings.HasSuffix(s.name, "_test.go") }

// where names the file for a reader.
func (s source) where() string { return s.pkg + "/" + s.name }

// readsClock are the parts of package time that look at the clock or wait for it.
var readsClock = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}

// clockDefaults are what a clock that is handed in is made of if none was.
var clockDefaults = []string{"Now", "Since"}

// judgeClock lists each reading of the clock in a package that is handed its
// clock. Where the rule allows it, a constructor may name time.Now and time.Since
// as the default of what it is handed.
func judgeClock(s source, rules []rule) []string {
	r, known := find(rules, s.pkg)
	if !known || r.clock == ownClock || s.isTest() {
		return nil
	}
	name := importName(s.syntax, "time")
	if name == "" {
		return nil
	}
	if name == "." {
		return []string{s.where() + " imports time with a dot: its readings of the clock could not be seen"}
	}
	var found []string
	for _, decl := range s.syntax.Decls {
		function, isFunc := decl.(*ast.FuncDecl)
		constructor := isFunc && function.Recv == nil && strings.HasPrefix(function.Name.Name, "New")
		ast.Inspect(decl, func(n ast.Node) bool {
			use, isSelector := n.(*ast.SelectorExpr)
			if !isSelector {
				return true
			}
			x, isIdent := use.X.(*ast.Ident)
			if !isIdent || x.Name != name || !slices.Contains(readsClock, use.Sel.Name) {
				return true
			}
			if r.clock == defaultClock && constructor && slices.Contains(clockDefaults, use.Sel.Name) {
				return true
			}
			found = append(found, fmt.Sprintf("%s uses time.%s: the clock is handed in, so that one call has one time and a test can set it", s.where(), use.Sel.Name))
			return true
		})
	}
	return found
}

// importName is the name under which the file knows an import, or "".
func importName(file *ast.File, path string) string {
	for _, spec := range file.Imports {
		if unquoted, err := strconv.Unquote(spec.Path.Value); err != nil || unquoted != path {
			continue
		}
		if spec.Name != nil {
			return spec.Name.Name
		}
		return path[strings.LastIndex(path, "/")+1:]
	}
	return ""
}

// judgeInit finds functions that run before main.
func judgeInit(s source) []string {
	for _, decl := range s.syntax.Decls {
		if f, isFunc := decl.(*ast.FuncDecl); isFunc && f.Recv == nil && f.Name.Name == "init" {
			return []string{s.where() + " has an init function: nothing registers itself, wiring is read in internal/app"}
		}
	}
	return nil
}

// judgeSize finds files that cannot be read in one sitting.
func judgeSize(s source) []string {
	limit := maxFileLines
	if s.pkg == "cmd/kelpie" && s.name == "main.go" {
		limit = maxMainLines
	}
	if s.lines <= limit {
		return nil
	}
	return []string{fmt.Sprintf("%s has %d lines, more than %d: give a part of it a file or a package of its own", s.where(), s.lines, limit)}
}

// judgeOnlyFrom finds imports that stand in another file than the one they belong to.
func judgeOnlyFrom(s source, module string) []string {
	var found []string
	for _, o := range onlyFrom {
		if s.pkg != o.importer || s.isTest() || strings.HasPrefix(s.name, o.filePrefix) {
			continue
		}
		if importName(s.syntax, module+"/"+o.imported) != "" {
			found = append(found, fmt.Sprintf("%s imports %s, which only %s/%s*.go may: %s", s.where(), o.imported, o.importer, o.filePrefix, o.why))
		}
	}
	return found
}

// judgeSeams finds where a field of pdp.Config is filled in by a package that may not.
func judgeSeams(s source, module string) []string {
	name := importName(s.syntax, module+"/pdp")
	if name == "" || s.isTest() {
		return nil
	}
	var found []string
	for _, seam := range seams {
		if s.pkg == seam.filledBy {
			continue
		}
		ast.Inspect(s.syntax, func(n ast.Node) bool {
			if fills(n, name, seam.field, seam.with[s.pkg]) {
				found = append(found, fmt.Sprintf("%s fills in %s.Config.%s, which only %s may: %s", s.where(), name, seam.field, seam.filledBy, seam.why))
			}
			return true
		})
	}
	return found
}

// fills reports whether a node sets the field of a Config: in a literal, by a
// literal without names, or by an assignment to anything's field of that name. In a
// literal the one expression that is allowed does not count.
func fills(n ast.Node, pdp, field, allowed string) bool {
	switch n := n.(type) {
	case *ast.CompositeLit:
		typ, isSelector := n.Type.(*ast.SelectorExpr)
		if !isSelector || typ.Sel.Name != "Config" {
			return false
		}
		if x, isIdent := typ.X.(*ast.Ident); !isIdent || x.Name != pdp {
			return false
		}
		return slices.ContainsFunc(n.Elts, func(e ast.Expr) bool {
			pair, named := e.(*ast.KeyValueExpr)
			if !named {
				return true
			}
			key, isIdent := pair.Key.(*ast.Ident)
			return isIdent && key.Name == field && (allowed == "" || types.ExprString(pair.Value) != allowed)
		})
	case *ast.AssignStmt:
		return slices.ContainsFunc(n.Lhs, func(e ast.Expr) bool {
			target, isSelector := e.(*ast.SelectorExpr)
			return isSelector && target.Sel.Name == field
		})
	}
	return false
}

// judgeDoc finds packages that do not say what they are for, or whose name does not.
func judgeDoc(n node) []string {
	var found []string
	if n.Doc == "" {
		found = append(found, n.ImportPath+" has no package comment: say what it is for, what it is not for, and show a few lines of use")
	}
	last := n.ImportPath[strings.LastIndex(n.ImportPath, "/")+1:]
	for _, name := range []string{n.Name, last} {
		if slices.Contains(vagueNames, name) {
			found = append(found, fmt.Sprintf("%s is called %s, which says nothing: name it after what it knows", n.ImportPath, name))
			break
		}
	}
	return found
}
