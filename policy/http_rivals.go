package policy

import (
	"cmp"
	"slices"
)

// compareRoutes notes routes that share requests with neither being the more
// specific one. It looks only at pairs whose paths meet, since a policy may
// have thousands of routes.
func (c *compiler) compareRoutes(routes []*HTTPRoute) {
	t := rivalTrees{}
	for _, r := range routes {
		for _, method := range r.methods {
			for _, host := range r.hosts {
				t.add(method, host, r)
			}
		}
	}
	type pair struct{ a, b *HTTPRoute }
	told := map[pair]bool{}
	for _, r := range routes {
		if len(c.r.errs) >= 2*maxErrors {
			return // nobody would be told
		}
		for _, other := range t.rivals(r) {
			p := pair{r, other}
			if other.ID < r.ID {
				p = pair{other, r}
			}
			if !told[p] && c.compareTwo(p.a, p.b) {
				told[p] = true
			}
		}
	}
}

// rivalTrees are trees of the paths of routes, by method and host.
type rivalTrees map[rivalKey]*rivalNode

type rivalKey struct {
	method string
	host   hostPattern
}

// rivalNode is a place in a tree of paths.
type rivalNode struct {
	literals map[string]*rivalNode
	named    []rivalEdge
	at       map[pathToken]*rivalNode // named, by token
	// ends are the routes that end here, and rests those that end here in {name...}.
	ends, rests []*HTTPRoute
}

type rivalEdge struct {
	token pathToken // without its name
	node  *rivalNode
}

func (t rivalTrees) add(method string, host hostPattern, r *HTTPRoute) {
	key := rivalKey{method, host}
	if t[key] == nil {
		t[key] = &rivalNode{}
	}
	n := t[key]
	for _, token := range r.tokens {
		if token.kind == restSegments {
			n.rests = append(n.rests, r)
			return
		}
		n = n.child(token)
	}
	n.ends = append(n.ends, r)
}

func (n *rivalNode) child(t pathToken) *rivalNode {
	if t.kind == literalSegment {
		if n.literals == nil {
			n.literals = map[string]*rivalNode{}
		}
		if n.literals[t.prefix] == nil {
			n.literals[t.prefix] = &rivalNode{}
		}
		return n.literals[t.prefix]
	}
	t.name = ""
	if n.at == nil {
		n.at = map[pathToken]*rivalNode{}
	}
	if n.at[t] == nil {
		n.at[t] = &rivalNode{}
		n.named = append(n.named, rivalEdge{t, n.at[t]})
	}
	return n.at[t]
}

// rivals are the routes whose paths meet that of r, sorted by id, for the hosts
// of r and those around them. A host within one of r's finds r by itself.
func (t rivalTrees) rivals(r *HTTPRoute) []*HTTPRoute {
	var found []*HTTPRoute
	for _, method := range r.methods {
		look := func(host hostPattern) {
			if n := t[rivalKey{method, host}]; n != nil {
				found = n.meet(r.tokens, found)
			}
		}
		for _, host := range r.hosts {
			look(host)
			for suffix := parent(cmp.Or(host.exact, host.below)); suffix != ""; suffix = parent(suffix) {
				look(hostPattern{below: suffix})
			}
			if host != (hostPattern{}) {
				look(hostPattern{})
			}
		}
	}
	slices.SortFunc(found, func(a, b *HTTPRoute) int { return cmp.Compare(a.ID, b.ID) })
	found = slices.Compact(found)
	return slices.DeleteFunc(found, func(other *HTTPRoute) bool { return other == r })
}

// meet appends the routes below that may share requests with the rest of a path.
func (n *rivalNode) meet(tokens []pathToken, found []*HTTPRoute) []*HTTPRoute {
	if len(tokens) == 0 {
		return append(found, n.ends...)
	}
	found = append(found, n.rests...)
	t := &tokens[0]
	if t.kind == literalSegment {
		if below := n.literals[t.prefix]; below != nil {
			found = below.meet(tokens[1:], found)
		}
	} else {
		for text, below := range n.literals {
			switch {
			case t.kind == restSegments:
				found = below.all(found)
			case t.matches(text):
				found = below.meet(tokens[1:], found)
			}
		}
	}
	for i := range n.named {
		switch e := &n.named[i]; {
		case t.kind == restSegments:
			found = e.node.all(found)
		case segmentRelation(t, &e.token).meet:
			found = e.node.meet(tokens[1:], found)
		}
	}
	return found
}

// all appends every route from here on.
func (n *rivalNode) all(found []*HTTPRoute) []*HTTPRoute {
	found = append(append(found, n.ends...), n.rests...)
	for _, below := range n.literals {
		found = below.all(found)
	}
	for i := range n.named {
		found = n.named[i].node.all(found)
	}
	return found
}
