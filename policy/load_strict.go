package policy

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// maxDepth bounds how deep free-form values nest: the outermost map is 1 deep.
const maxDepth = 32

// strict walks the tree of a document beside the schema and notes what
// protoyaml lets pass: keys given twice, other spellings of a field's name,
// nulls, empty strings, a scalar of another type than the field's, anchors,
// aliases and tags.
type strict struct {
	r    *report
	file string
	rule string          // what the walk is in, such as "approvals/large-refunds"
	bad  map[spot]bool   // where faults are noted already
	lame map[string]bool // rules with faults
	// requests says that the document holds requests, which may be malformed on purpose.
	requests bool
}

type spot struct{ line, column int }

// fault notes a fault of the document at a node.
func (s *strict) fault(n *yaml.Node, message, fix string) {
	s.bad[spot{n.Line, n.Column}] = true
	s.lame[s.rule] = true
	s.r.add(position{s.file, n.Line, n.Column}, s.rule, message, fix)
}

// document walks a whole document. The entries of its top-level maps are the
// rules that faults are told with.
func (s *strict) document(root *yaml.Node, schema protoreflect.MessageDescriptor) {
	if s.isRefused(root) || !s.isKind(root, yaml.MappingNode, "the document") {
		return
	}
	s.fields(root, schema)
}

// fields walks a mapping whose keys are the fields of a message.
func (s *strict) fields(n *yaml.Node, schema protoreflect.MessageDescriptor) {
	s.unique(n, "")
	outer := s.rule
	for key, value := range pairs(n) {
		s.rule = outer
		field := s.field(key, schema)
		if field != nil && field.Parent().FullName() == "kelpie.policy.v1.HTTP" && !field.IsMap() {
			s.rule = httpSection + "/" + key.Value
		}
		if field == nil || s.isRefused(value) {
			continue
		}
		switch {
		case field.IsMap():
			s.entries(key, value, field)
		case field.IsList():
			s.items(key, value, field)
		default:
			s.value(key.Value, value, field)
		}
	}
	s.rule = outer
}

// field finds the field that a key names, in its one spelling.
func (s *strict) field(key *yaml.Node, schema protoreflect.MessageDescriptor) protoreflect.FieldDescriptor {
	if s.isRefused(key) || !s.isKind(key, yaml.ScalarNode, "a key") {
		return nil
	}
	fields := schema.Fields()
	if field := fields.ByName(protoreflect.Name(key.Value)); field != nil {
		return field
	}
	s.fault(key, "unknown key "+quote(key.Value), suggestField(key.Value, fields))
	return nil
}

// entries walks a mapping from names to values.
func (s *strict) entries(key, n *yaml.Node, field protoreflect.FieldDescriptor) {
	if !s.isKind(n, yaml.MappingNode, key.Value) {
		return
	}
	outer := s.rule
	section := s.section(key, field)
	s.unique(n, section)
	for name, value := range pairs(n) {
		if section != "" {
			s.rule = section + name.Value
		}
		if !s.isRefused(name) && s.isKind(name, yaml.ScalarNode, "a name in "+key.Value) {
			s.text("a name in "+key.Value, name)
		}
		if !s.isRefused(value) {
			s.value(name.Value, value, field.MapValue())
		}
	}
	s.rule = outer
}

// section is what stands before the names of a mapping whose entries are the
// rules that faults are told with, and "" for any other mapping.
func (s *strict) section(key *yaml.Node, field protoreflect.FieldDescriptor) string {
	switch {
	case s.rule == "":
		return key.Value + "/"
	case field.FullName() == "kelpie.policy.v1.HTTP.routes":
		return httpSection + "/"
	default:
		return ""
	}
}

// items walks a list.
func (s *strict) items(key, n *yaml.Node, field protoreflect.FieldDescriptor) {
	if !s.isKind(n, yaml.SequenceNode, key.Value) {
		return
	}
	if len(n.Content) == 0 && !mayBeEmpty(field) {
		s.fault(n, key.Value+" is an empty list", emptyListFix(field))
		return
	}
	outer := s.rule
	for i, item := range n.Content {
		if outer == "" {
			s.rule = key.Value + "/" + strconv.Itoa(i)
		}
		if !s.isRefused(item) {
			s.value(key.Value, item, field)
		}
	}
	s.rule = outer
}

// mayBeEmpty tells of the lists that say something by being empty: an agent
// without scopes, an answer that must name no scope. Every other list narrows
// or names something, and an empty one would hide a mistake.
func mayBeEmpty(field protoreflect.FieldDescriptor) bool {
	switch field.FullName() {
	case "kelpie.policy.v1.Agent.scopes", "kelpie.policy.v1.Agent.grants", "kelpie.policy.v1.Agent.roles",
		"kelpie.policy.v1.Role.scopes", "kelpie.policy.v1.Role.grants",
		"kelpie.policy.v1.Expect.matched", "kelpie.policy.v1.Expect.required_scopes",
		"kelpie.policy.v1.Test.before", "kelpie.policy.v1.TestRequest.actor_chain":
		return true
	default:
		return false
	}
}

func emptyListFix(field protoreflect.FieldDescriptor) string {
	if field.Parent().Name() == "Match" {
		return "leave it out to match every call, or name at least one"
	}
	return "name at least one"
}

// value walks one value of a field, an item of a list or an entry of a map.
func (s *strict) value(what string, n *yaml.Node, field protoreflect.FieldDescriptor) {
	message := field.Message()
	switch {
	case message == nil:
		if s.isKind(n, yaml.ScalarNode, what) {
			s.scalar(what, n, field.Kind())
		}
	case message.FullName() == "google.protobuf.Duration":
		if s.isKind(n, yaml.ScalarNode, what) {
			s.duration(what, n)
		}
	case message.FullName() == "google.protobuf.Timestamp":
		if s.isKind(n, yaml.ScalarNode, what) {
			s.timestamp(what, n)
		}
	case message.FullName() == "google.protobuf.Struct":
		if s.isKind(n, yaml.MappingNode, what) {
			s.free(what, n, 1)
		}
	default:
		if !s.isKind(n, yaml.MappingNode, what) {
			return
		}
		outer := s.rule
		if outer == "" {
			s.rule = what
		}
		s.fields(n, message)
		s.rule = outer
	}
}

// free walks a value without a schema: it is JSON in YAML's clothes.
func (s *strict) free(what string, n *yaml.Node, depth int) {
	if depth > maxDepth {
		s.fault(n, fmt.Sprintf("%s is more than %d deep", what, maxDepth), "flatten it")
		return
	}
	s.unique(n, "")
	for key, value := range pairs(n) {
		if !s.isRefused(key) && s.isKind(key, yaml.ScalarNode, "a key in "+what) {
			s.isType(key, "a key in "+what, "a text", "!!str")
		}
		s.free(what, value, depth+1)
	}
	if n.Kind == yaml.SequenceNode {
		for _, item := range n.Content {
			s.free(what, item, depth+1)
		}
	}
	if n.Tag != "!!null" || n.Style&yaml.TaggedStyle != 0 || n.Anchor != "" {
		s.isRefused(n)
	}
	if n.Kind == yaml.ScalarNode {
		if _, err := appendScalar(nil, n); err != nil {
			s.fault(n, fmt.Sprintf("%s: %v", what, err), "")
		}
	}
}

func (s *strict) scalar(what string, n *yaml.Node, kind protoreflect.Kind) {
	switch kind {
	case protoreflect.StringKind:
		s.text(what, n)
	case protoreflect.BoolKind:
		if n.Value != "true" && n.Value != "false" || n.Tag != "!!bool" {
			s.fault(n, fmt.Sprintf("%s takes true or false, not %s", what, quote(n.Value)), "write true or false")
		}
	case protoreflect.Uint32Kind:
		if _, err := strconv.ParseUint(n.Value, 10, 32); err != nil || n.Tag != "!!int" || len(n.Value) > 1 && n.Value[0] == '0' {
			s.fault(n, fmt.Sprintf("%s takes a whole number, not %s", what, quote(n.Value)),
				fmt.Sprintf("write digits only, at most %d", uint32(math.MaxUint32)))
		}
	case protoreflect.DoubleKind:
		if s.requests && n.Tag == "!!float" && strings.ContainsAny(n.Value, "nN") && strings.Contains(n.Value, ".") {
			// protoyaml reads what strconv does, and YAML writes these with a point before.
			n.Value = strings.Replace(n.Value, ".", "", 1)
			return
		}
		f, err := strconv.ParseFloat(n.Value, 64)
		if err != nil || n.Tag != "!!int" && n.Tag != "!!float" || math.IsNaN(f) || math.IsInf(f, 0) || strings.ContainsAny(n.Value, "xXpP_") {
			s.fault(n, fmt.Sprintf("%s takes a number, not %s", what, quote(n.Value)), "write a decimal number, such as 1.5")
		}
	default:
		s.fault(n, fmt.Sprintf("%s is of a type that policies do not have", what), "")
	}
}

// isSeen tells whether a character leaves ink. The exceptions are letters and a
// symbol by their class and blank in print: Braille blank and Hangul fillers.
func isSeen(r rune) bool {
	switch r {
	case '\u2800', '\u115f', '\u1160', '\u3164', '\uffa0':
		return false
	default:
		return unicode.In(r, unicode.L, unicode.N, unicode.P, unicode.S)
	}
}

// text refuses what YAML reads as something else than text, so that nobody
// has to know that 1e3, 010 and 2026-01-01 are not.
func (s *strict) text(what string, n *yaml.Node) {
	if n.Value == "" {
		s.fault(n, what+" is an empty text", "leave it out, or write what it is")
		return
	}
	// A reason that nobody can see would waive the guardrail or lower a risk without one.
	if !s.requests && !strings.ContainsFunc(n.Value, isSeen) {
		s.fault(n, what+" is a blank text", "leave it out, or write what it is")
		return
	}
	if !s.isType(n, what, "a text", "!!str") {
		return
	}
	if s.requests {
		return
	}
	for _, r := range n.Value {
		if unicode.IsControl(r) && r != '\n' && r != '\t' || isHidden(r) {
			s.fault(n, fmt.Sprintf("%s holds the invisible character U+%04X", what, r), "remove it")
			return
		}
	}
}

func (s *strict) duration(what string, n *yaml.Node) {
	if _, err := parseSpan(n.Value); err != nil {
		s.fault(n, fmt.Sprintf("%s takes a duration, not %s", what, quote(n.Value)),
			"write a number with h, m or s, such as 15m or 1h30m")
	}
}

func (s *strict) timestamp(what string, n *yaml.Node) {
	if _, err := time.Parse(time.RFC3339Nano, n.Value); err != nil {
		s.fault(n, fmt.Sprintf("%s takes an instant, not %s", what, quote(n.Value)),
			"write date, time and zone, such as 2027-01-31T00:00:00Z")
	}
}

// isRefused notes and tells of YAML that says one thing in two places or by
// other means than its text: a policy is read by people.
func (s *strict) isRefused(n *yaml.Node) bool {
	switch {
	case n.Kind == yaml.AliasNode:
		s.fault(n, "an alias", "write out what it stands for")
	case n.Anchor != "":
		s.fault(n, "an anchor", "remove it")
	case n.Tag == "!!merge":
		s.fault(n, "a merge key", "write out the keys that it stands for")
	case n.Style&yaml.TaggedStyle != 0:
		s.fault(n, "a tag", "remove it; write a text in quotes")
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		s.fault(n, "no value", "leave the key out, or write a value")
	default:
		return false
	}
	return true
}

func (s *strict) isKind(n *yaml.Node, kind yaml.Kind, what string) bool {
	if n.Kind == kind {
		return true
	}
	s.fault(n, fmt.Sprintf("%s takes %s, not %s", what, kindName(kind), kindName(n.Kind)), kindFix(kind))
	return false
}

func (s *strict) isType(n *yaml.Node, what, want, tag string) bool {
	if n.Tag == tag {
		return true
	}
	s.fault(n, fmt.Sprintf("%s takes %s, and YAML reads %s as %s", what, want, quote(n.Value), typeName(n.Tag)),
		"write it in quotes")
	return false
}

// unique notes every key that a mapping has twice. Section is not empty where
// the keys name rules.
func (s *strict) unique(n *yaml.Node, section string) {
	if n.Kind != yaml.MappingNode || len(n.Content) < 4 {
		return
	}
	if len(n.Content) <= 32 {
		for i := 2; i < len(n.Content); i += 2 {
			for j := 0; j < i; j += 2 {
				if n.Content[j].Kind == yaml.ScalarNode && n.Content[j].Value == n.Content[i].Value {
					s.twice(section, n.Content[j], n.Content[i])
					break
				}
			}
		}
		return
	}
	seen := make(map[string]*yaml.Node, len(n.Content)/2)
	for key := range pairs(n) {
		if key.Kind != yaml.ScalarNode {
			continue
		}
		if first := seen[key.Value]; first != nil {
			s.twice(section, first, key)
			continue
		}
		seen[key.Value] = key
	}
}

func (s *strict) twice(section string, first, second *yaml.Node) {
	outer := s.rule
	if section != "" {
		s.rule = section + second.Value
	}
	s.fault(second, fmt.Sprintf("the key %s is given here and at %s:%d:%d", quote(second.Value), s.file, first.Line, first.Column),
		"keep one of them")
	s.rule = outer
}
