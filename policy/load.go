package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	policyv1 "github.com/kelpie-authz/kelpie/gen/kelpie/policy/v1"
)

// position is a place in a document; the zero position is none.
type position struct {
	file         string
	line, column int
}

// source is what was read of all documents, merged, with the places where it
// stands. It is only worth compiling further while its report has no error,
// but is safe to look at with errors too.
type source struct {
	policy *policyv1.Policy
	docs   []*document
	// places finds the entries of the top-level maps: section, name.
	places map[string]map[string]place
}

type document struct {
	name string
	root *yaml.Node // the top-level mapping; nil if it could not be read
}

type place struct {
	doc        *document
	key, value *yaml.Node
}

// load reads and merges the documents, and notes every fault of each: in YAML,
// in the schema, in the rules of the schema. The order of docs does not matter.
func load(docs []Document, r *report) *source {
	s := &source{policy: &policyv1.Policy{}, places: map[string]map[string]place{}}
	docs = slices.Clone(docs)
	slices.SortStableFunc(docs, func(a, b Document) int { return cmp.Compare(a.Name, b.Name) })
	for i, doc := range docs {
		if i > 0 && docs[i-1].Name == doc.Name {
			r.add(position{doc.Name, 1, 1}, "", "two documents have this name", "give each its own")
			continue
		}
		s.readDocument(doc, r)
	}
	checkLimits(s, r)
	return s
}

func (s *source) readDocument(doc Document, r *report) {
	message := &policyv1.Policy{}
	root := readMessage(doc, message, r)
	d := &document{name: doc.Name, root: root}
	s.docs = append(s.docs, d)
	if root == nil {
		return
	}
	s.merge(d, message, r)
}

// merge adds what a document defines, and notes what another defined before.
func (s *source) merge(d *document, p *policyv1.Policy, r *report) {
	for section, names := range pairs(d.root) {
		s.register(d, section.Value, names, r)
	}
	mergeMap(&s.policy.Scopes, p.GetScopes())
	mergeMap(&s.policy.Networks, p.GetNetworks())
	mergeMap(&s.policy.Roles, p.GetRoles())
	mergeMap(&s.policy.Agents, p.GetAgents())
	mergeMap(&s.policy.Limits, p.GetLimits())
	mergeMap(&s.policy.Approvers, p.GetApprovers())
	mergeMap(&s.policy.Approvals, p.GetApprovals())
	mergeMap(&s.policy.Deny, p.GetDeny())
	s.mergeHTTP(p.GetHttp())
}

// register keeps where the entries of a section stand, and notes those that
// stand somewhere else already.
func (s *source) register(d *document, section string, names *yaml.Node, r *report) {
	if names.Kind != yaml.MappingNode {
		return
	}
	known := s.places[section]
	if known == nil {
		known = make(map[string]place, len(names.Content)/2)
		s.places[section] = known
	}
	for key, value := range pairs(names) {
		if section == httpSection && key.Value == "routes" {
			s.register(d, httpRoutes, value, r)
			continue
		}
		first, twice := known[key.Value]
		if !twice {
			known[key.Value] = place{d, key, value}
			continue
		}
		if first.doc == d {
			continue // told when the document was read
		}
		r.add(d.at(key), strings.TrimSuffix(section, "/routes")+"/"+key.Value,
			fmt.Sprintf("defined here and at %s:%d:%d", first.doc.name, first.key.Line, first.key.Column),
			"keep one of them")
	}
}

// Names of the section that is no map: its own, and that of the routes in it.
const (
	httpSection = "http"
	httpRoutes  = "http/routes"
)

// mergeHTTP adds what another document says of HTTP requests; what is said
// twice was noted by register.
func (s *source) mergeHTTP(from *policyv1.HTTP) {
	into := s.policy.GetHttp()
	if into == nil || from == nil {
		if from != nil {
			s.policy.Http = from
		}
		return
	}
	if len(into.GetAgentFrom()) == 0 {
		into.AgentFrom = from.GetAgentFrom()
	}
	if len(into.GetSubjectFrom()) == 0 {
		into.SubjectFrom = from.GetSubjectFrom()
	}
	if into.GetSourceIp() == nil {
		into.SourceIp = from.GetSourceIp()
	}
	into.RequestBodies = cmp.Or(into.GetRequestBodies(), from.GetRequestBodies())
	mergeMap(&into.Routes, from.GetRoutes())
}

// mergeMap adds what from holds; the first definition of a name stays.
func mergeMap[T any](into *map[string]T, from map[string]T) {
	if len(*into) == 0 {
		*into = from
		return
	}
	for name, value := range from {
		if _, known := (*into)[name]; !known {
			(*into)[name] = value
		}
	}
}

// at finds where something stands: a section, a name in it, then keys, and
// list items by index. What is not written stands at its nearest parent that is.
func (s *source) at(path ...string) position {
	if len(s.docs) == 0 {
		return position{}
	}
	if len(path) == 0 {
		return position{s.docs[0].name, 1, 1}
	}
	if len(path) > 1 {
		if found, ok := s.places[path[0]][path[1]]; ok {
			return found.doc.find(found.key, found.value, path[2:])
		}
	}
	for _, d := range s.docs {
		if d.root == nil {
			continue
		}
		if key, _ := lookup(d.root, path[0]); key != nil {
			return d.at(key)
		}
	}
	return position{s.docs[0].name, 1, 1}
}

// find walks down from an entry. It returns where a scalar stands, and for a
// list or mapping where its key does.
func (d *document) find(key, value *yaml.Node, path []string) position {
	for _, step := range path {
		switch value.Kind {
		case yaml.MappingNode:
			k, v := lookup(value, step)
			if k == nil {
				return d.at(key)
			}
			key, value = k, v
		case yaml.SequenceNode:
			i, err := strconv.Atoi(step)
			if err != nil || i < 0 || i >= len(value.Content) {
				return d.at(key)
			}
			key, value = value.Content[i], value.Content[i]
		default:
			return d.at(value)
		}
	}
	if value.Kind == yaml.ScalarNode && len(path) > 0 {
		return d.at(value)
	}
	return d.at(key)
}

func (d *document) at(n *yaml.Node) position { return position{d.name, n.Line, n.Column} }

// isWritten tells whether exactly this path is in an entry of a document.
func (s *source) isWritten(path ...string) bool {
	found, ok := s.places[path[0]][path[1]]
	value := found.value
	for _, step := range path[2:] {
		if !ok {
			return false
		}
		var key *yaml.Node
		key, value = lookup(value, step)
		ok = key != nil
	}
	return ok
}

// pairs yields the keys and values of a mapping, and nothing for other nodes.
func pairs(n *yaml.Node) func(yield func(key, value *yaml.Node) bool) {
	return func(yield func(key, value *yaml.Node) bool) {
		if n.Kind != yaml.MappingNode {
			return
		}
		for i := 1; i < len(n.Content); i += 2 {
			if !yield(n.Content[i-1], n.Content[i]) {
				return
			}
		}
	}
}

// lookup finds a key of a mapping; nil if it has none such.
func lookup(n *yaml.Node, name string) (*yaml.Node, *yaml.Node) {
	for key, value := range pairs(n) {
		if key.Kind == yaml.ScalarNode && key.Value == name {
			return key, value
		}
	}
	return nil, nil
}
