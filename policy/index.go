package policy

import (
	"slices"
	"strings"
)

// trie finds, for a text, the numbers filed under every pattern that matches
// it. It walks the text once, segment by segment, with the set of all places
// in the trie that the segments so far lead to, so that its cost does not
// grow with patterns that have nothing in common with the text. It is built
// once and then only read.
//
// Separators are `/`, and for actions `.` too, each matching only itself.
type trie struct {
	root *node
	dots bool // also split at dots: the patterns are of actions
	// deeps is how many nodes are of **; they are numbered from 1.
	deeps int
}

// node is one segment of one or more patterns.
type node struct {
	// below holds what may follow, by the separator before it.
	below [2]*branch
	// values are filed under the pattern that ends here.
	values []uint32
	deepID uint32
}

// branch are the segments that may follow a node behind one separator.
type branch struct {
	// few are the literal segments while they are not many, in many when they are.
	few  []edge
	many map[string]*node
	star *node
	deep *node
	glob *globIndex
}

type edge struct {
	text string
	node *node
}

// fewEdges is how many literals are cheaper to compare than to hash.
const fewEdges = 6

// globIndex finds the segments with stars in them by what they begin and end
// with, so that a million siblings `bucket-x*` cost one look-up per distinct
// pair of lengths.
type globIndex struct {
	shapes  []globShape
	entries map[globKey][]globEntry
}

type globShape struct{ prefix, suffix int }

type globKey struct{ prefix, suffix string }

type globEntry struct {
	middle []string
	text   string
	node   *node
}

func newTrie(dots bool) *trie { return &trie{root: &node{}, dots: dots} }

// insert files a value under a pattern, which has no fault.
func (t *trie) insert(pattern string, value uint32) {
	n := t.place(pattern)
	n.values = append(n.values, value)
}

// place returns the node at which a pattern ends.
func (t *trie) place(pattern string) *node {
	kind := resourcePattern
	if t.dots {
		kind = actionPattern
	}
	n := t.root
	for _, tok := range tokenize(pattern, kind) {
		if n.below[tok.sep] == nil {
			n.below[tok.sep] = &branch{}
		}
		n = n.below[tok.sep].child(tok)
		if tok.kind == deepToken && n.deepID == 0 {
			t.deeps++
			n.deepID = uint32(t.deeps) //nolint:gosec // A policy has fewer patterns than that.
		}
	}
	return n
}

// child returns the node of a token and makes it if it is not there.
func (b *branch) child(t token) *node {
	switch t.kind {
	case starToken:
		if b.star == nil {
			b.star = &node{}
		}
		return b.star
	case deepToken:
		if b.deep == nil {
			b.deep = &node{}
		}
		return b.deep
	case globToken:
		if b.glob == nil {
			b.glob = &globIndex{entries: map[globKey][]globEntry{}}
		}
		return b.glob.child(t.text)
	default:
		return b.literalChild(t.text)
	}
}

func (b *branch) literalChild(text string) *node {
	if n := b.literal(text); n != nil {
		return n
	}
	n := &node{}
	switch {
	case b.many != nil:
		b.many[text] = n
	case len(b.few) < fewEdges:
		b.few = append(b.few, edge{text, n})
	default:
		b.many = make(map[string]*node, 2*fewEdges)
		for _, e := range b.few {
			b.many[e.text] = e.node
		}
		b.many[text] = n
		b.few = nil
	}
	return n
}

func (b *branch) literal(text string) *node {
	if b.many != nil {
		return b.many[text]
	}
	for i := range b.few {
		if b.few[i].text == text {
			return b.few[i].node
		}
	}
	return nil
}

func (g *globIndex) child(text string) *node {
	parsed := parseGlob(text)
	key := globKey{parsed.prefix, parsed.suffix}
	for _, e := range g.entries[key] {
		if e.text == text {
			return e.node
		}
	}
	shape := globShape{len(parsed.prefix), len(parsed.suffix)}
	if !slices.Contains(g.shapes, shape) {
		g.shapes = append(g.shapes, shape)
	}
	n := &node{}
	g.entries[key] = append(g.entries[key], globEntry{parsed.middle, text, n})
	return n
}

// walk is the set of places that a text has led to. Its zero value is ready
// for use; keeping one saves the memory of the next look-up.
type walk struct {
	// now are the nodes whose pattern matches the text so far, next those
	// after one more segment.
	now, next []*node
	// deep are the nodes of ** that have taken at least one segment; they take
	// every further one, so a node stays here once it came.
	deep []*node
	// came has, by node.deepID, the walk in which a node came to deep: a list
	// of thousands is not searched for each segment.
	came []uint32
	walk uint32
}

// begin starts a walk through t.
func (w *walk) begin(t *trie) {
	if len(w.came) <= t.deeps {
		w.came = make([]uint32, t.deeps+1)
	}
	if w.walk++; w.walk == 0 {
		clear(w.came)
		w.walk = 1
	}
	w.now, w.deep = append(w.now[:0], t.root), w.deep[:0]
}

func (w *walk) isDeep(n *node) bool { return w.came[n.deepID] == w.walk }

// find appends to out the values of every pattern that matches s. A value is
// appended once for each such pattern it is filed under.
func (t *trie) find(s string, w *walk, out []uint32) []uint32 {
	w.begin(t)
	sep, start := slash, true
	for more := true; more; start = false {
		var segment string
		before := sep
		segment, s, sep, more = nextSegment(s, t.dots)
		w.step(segment, before, start)
		if len(w.now) == 0 && len(w.deep) == 0 {
			return out
		}
	}
	for _, n := range w.now {
		out = append(out, n.values...)
		out = w.zero(n, out)
	}
	for _, n := range w.deep {
		out = append(out, n.values...)
		out = w.zero(n, out)
	}
	return out
}

// zero appends the values of the patterns that go on with nothing but ** that
// stand for no segment.
func (w *walk) zero(n *node, out []uint32) []uint32 {
	for _, b := range &n.below {
		if b == nil || b.deep == nil || w.isDeep(b.deep) {
			continue
		}
		out = append(out, b.deep.values...)
		out = w.zero(b.deep, out)
	}
	return out
}

// step takes one more segment.
func (w *walk) step(segment string, sep separator, start bool) {
	w.next = w.next[:0]
	// Nodes that come to deep now have taken this segment already.
	before := len(w.deep)
	for _, n := range w.now {
		w.follow(n, segment, sep, start)
	}
	for i := range before {
		w.follow(w.deep[i], segment, sep, start)
	}
	w.now, w.next = w.next, w.now
}

// follow finds the nodes that a segment leads to from n.
func (w *walk) follow(n *node, segment string, sep separator, start bool) {
	for s, b := range &n.below {
		if b == nil {
			continue
		}
		// The first segment has no separator before it: a ** at the pattern's
		// start that stands for nothing took the pattern's one with it.
		fits := separator(s) == sep || start
		if fits {
			w.next = b.match(segment, w.next)
		}
		if b.deep == nil || w.isDeep(b.deep) {
			continue
		}
		w.follow(b.deep, segment, sep, start)
		if fits {
			w.deep = append(w.deep, b.deep)
			w.came[b.deep.deepID] = w.walk
		}
	}
}

// match appends the nodes of all tokens but ** that match a segment.
func (b *branch) match(segment string, next []*node) []*node {
	if n := b.literal(segment); n != nil {
		next = append(next, n)
	}
	if b.star != nil && segment != "" {
		next = append(next, b.star)
	}
	if b.glob != nil {
		next = b.glob.match(segment, next)
	}
	return next
}

func (g *globIndex) match(segment string, next []*node) []*node {
	for _, shape := range g.shapes {
		end := len(segment) - shape.suffix
		if shape.prefix > end {
			continue
		}
		for _, e := range g.entries[globKey{segment[:shape.prefix], segment[end:]}] {
			if matchGlob(e.middle, segment[shape.prefix:end]) {
				next = append(next, e.node)
			}
		}
	}
	return next
}

// patternSet is a set of patterns of one kind. The zero value matches nothing.
type patternSet struct {
	exact    map[string]struct{}
	one      string
	patterns *trie
}

func newPatternSet(kind patternKind, patterns []string) *patternSet {
	set := &patternSet{}
	for _, p := range patterns {
		switch {
		case isPattern(p):
			if set.patterns == nil {
				set.patterns = newTrie(kind == actionPattern)
			}
			set.patterns.insert(strings.Clone(p), 0)
		case set.one == "":
			set.one = p
		default:
			if set.exact == nil {
				set.exact = make(map[string]struct{})
			}
			set.exact[p] = struct{}{}
		}
	}
	return set
}

func (p *patternSet) match(s string, w *walk) bool {
	if s == p.one {
		return true
	}
	if p.exact != nil {
		if _, ok := p.exact[s]; ok {
			return true
		}
	}
	if p.patterns == nil {
		return false
	}
	var buf [16]uint32
	return len(p.patterns.find(s, w, buf[:0])) > 0
}
