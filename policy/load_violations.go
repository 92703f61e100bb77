package policy

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"buf.build/go/protovalidate"
)

// addViolations notes what protovalidate refused, each where it stands.
func (d *reader) addViolations(err error) {
	var refused *protovalidate.ValidationError
	if !errors.As(err, &refused) {
		d.rule = ""
		d.fault(d.root, err.Error(), "")
		return
	}
	doc := &document{name: d.file, root: d.root}
	index := indexOf(doc)
	for _, v := range refused.Violations {
		path := fieldPath(v.Proto.GetField())
		rule := ""
		if len(path) >= 2 {
			rule = path[0] + "/" + path[1]
		}
		below := path[min(2, len(path)):]
		at, found := index[rule]
		if rule == httpRoutes && len(path) > 2 {
			at, found = index[rule+"/"+path[2]]
			rule, below = httpSection+"/"+path[2], path[3:]
		}
		pos := position{d.file, d.root.Line, d.root.Column}
		switch {
		case found:
			pos = doc.find(at.key, at.value, below)
		case len(path) > 0:
			pos = doc.find(d.root, d.root, path)
		}
		id := v.Proto.GetRuleId()
		// What is lacking may only be what another fault keeps from being read.
		if d.bad[spot{pos.line, pos.column}] || d.lame[rule] && isLack(id) {
			continue
		}
		message, fix := violationText(path, v.Proto)
		d.r.add(pos, rule, message, fix)
	}
}

// indexOf finds the entries of top-level maps, and those of http's routes, so
// that many violations do not mean many searches.
func indexOf(doc *document) map[string]place {
	index := map[string]place{}
	for section, names := range pairs(doc.root) {
		for key, value := range pairs(names) {
			index[section.Value+"/"+key.Value] = place{doc, key, value}
		}
	}
	if routes, written := index[httpRoutes]; written {
		for key, value := range pairs(routes.value) {
			index[httpRoutes+"/"+key.Value] = place{doc, key, value}
		}
	}
	return index
}

func isLack(id string) bool {
	return id == "required" || strings.HasSuffix(id, ".min_items") || strings.HasSuffix(id, ".min_bytes") ||
		strings.HasSuffix(id, ".in")
}

// fieldPath turns agents["x"].grants[0].scope into its steps.
func fieldPath(p *validate.FieldPath) []string {
	var path []string
	for _, e := range p.GetElements() {
		path = append(path, e.GetFieldName())
		switch e.WhichSubscript() {
		case validate.FieldPathElement_Index_case:
			path = append(path, strconv.FormatUint(e.GetIndex(), 10))
		case validate.FieldPathElement_StringKey_case:
			path = append(path, e.GetStringKey())
		}
	}
	return path
}

// violationText says a violation in the words of policies.
func violationText(path []string, v *validate.Violation) (string, string) {
	name := "the document"
	for _, step := range slices.Backward(path) {
		if _, err := strconv.Atoi(step); err != nil {
			name = step
			break
		}
	}
	if v.GetForKey() {
		name = "the name " + quote(name)
	}
	switch id := v.GetRuleId(); {
	case id == "string.pattern" && v.GetForKey():
		return name + " cannot be used", "write at most 128 ASCII letters, digits, _, . and -, the first a letter or digit"
	case id == "required", id == "repeated.min_items", id == "string.min_bytes":
		return name + " is missing", "write " + name
	case id == "string.pattern" && slices.Contains(path, "methods"):
		return name + " holds what is no method", "write each in capitals, such as GET"
	case id == "string.pattern" && slices.Contains(path, "headers"):
		return "the header of the parameter " + quote(name) + " is no header's name", "write it in small letters, such as x-request-id"
	case strings.HasSuffix(id, ".max_bytes"):
		return name + ": " + v.GetMessage(), "shorten it"
	case id == "uint32.lte":
		return name + ": " + v.GetMessage(), "write less"
	case strings.HasSuffix(id, ".in"):
		return name + ": " + v.GetMessage(), "write one of them"
	case id == "duration.gt", id == "uint32.gt":
		return name + " is zero", "write more than 0, or leave it out"
	case id == "repeated.unique":
		return name + " names one twice", "name each once"
	default:
		return name + ": " + v.GetMessage(), ""
	}
}
