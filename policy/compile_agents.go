package policy

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	policyv1 "github.com/kelpie-authz/kelpie/gen/kelpie/policy/v1"
)

func (c *compiler) compileRoles() {
	names := sortedKeys(c.doc.GetRoles())
	c.roles = make(map[string]*role, len(names))
	c.canon.text("roles")
	c.canon.number(int64(len(names)))
	for _, name := range names {
		doc := c.doc.GetRoles()[name]
		c.canon.text(name)
		r := &role{name: name, grants: c.grants("roles/"+name, []string{"roles", name}, doc.GetScopes(), doc.GetGrants())}
		for _, scope := range r.grants.plain {
			r.ids = append(r.ids, "roles/"+name+"/"+c.s.scopes[scope].name)
		}
		for i := range r.grants.special {
			r.ids = append(r.ids, "roles/"+name+"/"+c.s.scopes[r.grants.special[i].scope].name)
		}
		c.roles[name] = r
		c.s.roles = append(c.s.roles, r)
	}
}

// grants compiles what an agent or a role holds. A grant that says nothing
// but its scope is the same as the scope in the list of scopes.
func (c *compiler) grants(label string, path, scopes []string, docs []*policyv1.Grant) grants {
	plain := make([]uint32, 0, len(scopes))
	for i, name := range scopes {
		if id, ok := c.scope(label, sub(path, "scopes", fmt.Sprint(i)), name); ok {
			plain = append(plain, id)
		}
	}
	type encoded struct {
		grant grant
		form  string
	}
	var special []encoded
	for i, doc := range docs {
		at := sub(path, "grants", fmt.Sprint(i))
		g := grant{unattended: doc.GetUnattended() != "", shadow: doc.GetShadow()}
		g.when = c.when(label, sub(at, "when"), doc.GetWhen())
		if doc.GetUntil() != nil {
			g.until = doc.GetUntil().AsTime()
		}
		id, ok := c.scope(label, sub(at, "scope"), doc.GetScope())
		if !ok {
			continue
		}
		g.scope = id
		if g == (grant{scope: id}) {
			plain = append(plain, id)
			continue
		}
		special = append(special, encoded{g, encodeGrant(doc, &g)})
	}
	slices.SortFunc(special, func(a, b encoded) int {
		return cmp.Or(cmp.Compare(a.grant.scope, b.grant.scope), strings.Compare(a.form, b.form))
	})
	special = slices.CompactFunc(special, func(a, b encoded) bool { return a.grant.scope == b.grant.scope && a.form == b.form })
	slices.Sort(plain)
	out := grants{plain: c.shared.ids(slices.Compact(plain))}
	c.canon.number(int64(len(out.plain)))
	for _, id := range out.plain {
		c.canon.text(c.s.scopes[id].name)
	}
	c.canon.number(int64(len(special)))
	for _, e := range special {
		out.special = append(out.special, e.grant)
		c.canon.text(c.s.scopes[e.grant.scope].name)
		c.canon.text(e.form)
	}
	out.special = slices.Clip(out.special)
	return out
}

// encodeGrant is the canonical form of a grant, its scope apart.
func encodeGrant(doc *policyv1.Grant, g *grant) string {
	form := canonical{}
	form.condition(g.when)
	form.flag(!g.until.IsZero())
	if !g.until.IsZero() {
		form.number(g.until.Unix())
		form.number(int64(g.until.Nanosecond()))
	}
	form.text(doc.GetUnattended())
	form.flag(g.shadow)
	return string(form.buf)
}

func (c *compiler) scope(label string, path []string, name string) (uint32, bool) {
	id, ok := c.scopes[name]
	if !ok {
		undefined(c, label, path, "scopes", name, c.scopes)
	}
	return id, ok
}

func (s *shared) ids(ids []uint32) []uint32 {
	if len(ids) == 0 {
		return nil
	}
	key := make([]byte, 0, 4*len(ids))
	for _, id := range ids {
		key = binary.BigEndian.AppendUint32(key, id)
	}
	if known, ok := s.plain[string(key)]; ok {
		return known
	}
	if s.plain == nil {
		s.plain = map[string][]uint32{}
	}
	ids = slices.Clip(ids)
	s.plain[string(key)] = ids
	return ids
}

// owner keeps one copy of a name that many agents have.
func (s *shared) owner(name string) string {
	if known, ok := s.owners[name]; ok {
		return known
	}
	if s.owners == nil {
		s.owners = map[string]string{}
	}
	name = strings.Clone(name)
	s.owners[name] = name
	return name
}

func (c *compiler) compileAgents() {
	keys := sortedKeys(c.doc.GetAgents())
	c.s.exact = make(map[string]*agent, len(keys))
	c.s.patterns = newTrie(false)
	c.canon.text("agents")
	c.canon.number(int64(len(keys)))
	var starred []string
	for _, key := range keys {
		doc := c.doc.GetAgents()[key]
		label, path := "agents/"+key, []string{"agents", key}
		message, fix := patternFault(key, agentPattern)
		if message != "" {
			c.fault(label, path, message, fix)
		}
		c.canon.text(key)
		c.canon.flag(doc.GetSuspended())
		a := &agent{key: strings.Clone(key), owner: c.shared.owner(doc.GetOwner()), suspended: doc.GetSuspended()}
		a.grants = c.grants(label, path, doc.GetScopes(), doc.GetGrants())
		a.roles = c.agentRoles(label, path, doc.GetRoles())
		a.networks = c.agentNetworks(label, path, doc.GetNetworks())
		a.limits = c.ownLimits(label, path, doc.GetLimits())
		switch {
		case !isPattern(key):
			c.s.exact[a.key] = a
		case message == "":
			c.s.patterns.insert(a.key, number(len(c.s.keyed)))
			c.s.keyed = append(c.s.keyed, a)
			starred = append(starred, key)
		}
	}
	c.ambiguousAgents(starred)
}

func (c *compiler) agentRoles(label string, path, names []string) []*role {
	var roles []*role
	for i, name := range names {
		r, ok := c.roles[name]
		if !ok {
			undefined(c, label, sub(path, "roles", fmt.Sprint(i)), "roles", name, c.roles)
			continue
		}
		roles = append(roles, r)
	}
	slices.SortFunc(roles, func(a, b *role) int { return strings.Compare(a.name, b.name) })
	roles = slices.Compact(roles)
	c.canon.number(int64(len(roles)))
	if len(roles) == 0 {
		return nil
	}
	var joined strings.Builder
	for _, r := range roles {
		c.canon.text(r.name)
		joined.WriteString(r.name)
		joined.WriteByte('/')
	}
	key := joined.String()
	if c.shared.roles == nil {
		c.shared.roles = map[string][]*role{}
	}
	if known, ok := c.shared.roles[key]; ok {
		return known
	}
	roles = slices.Clip(roles)
	c.shared.roles[key] = roles
	return roles
}

func (c *compiler) agentNetworks(label string, path, names []string) *networkSet {
	sorted := sortedSet(names)
	c.canon.list(sorted)
	key := strings.Join(sorted, "/")
	if known, ok := c.shared.networks[key]; ok {
		return known
	}
	set := &networkSet{}
	complete := true
	for i, name := range names {
		if name == "any" {
			set.any = true
			continue
		}
		id, ok := c.networks[name]
		if !ok {
			complete = false
			undefined(c, label, sub(path, "networks", fmt.Sprint(i)), "networks", name, c.networks)
			continue
		}
		set.ids = append(set.ids, id)
	}
	slices.Sort(set.ids)
	set.ids = slices.Compact(set.ids)
	if complete { // a fault is told of each agent
		if c.shared.networks == nil {
			c.shared.networks = map[string]*networkSet{}
		}
		c.shared.networks[key] = set
	}
	return set
}

// starredAgent is an agent key with a star, as ambiguousAgents compares them.
type starredAgent struct {
	key, prefix string
	// ending is what stands behind the last star of the last segment,
	// reversed: an id that matches two patterns ends with both.
	ending string
}

// ambiguousAgents notes pairs of pattern keys between which the longest
// literal prefix does not decide.
func (c *compiler) ambiguousAgents(keys []string) {
	all := make([]starredAgent, len(keys))
	for i, key := range keys {
		end := key[max(strings.LastIndexByte(key, '*'), strings.LastIndexByte(key, '/'))+1:]
		reversed := []byte(end)
		slices.Reverse(reversed)
		all[i] = starredAgent{key, literalPrefix(key), string(reversed)}
	}
	slices.SortFunc(all, func(a, b starredAgent) int {
		return cmp.Or(strings.Compare(a.prefix, b.prefix), strings.Compare(a.ending, b.ending), strings.Compare(a.key, b.key))
	})
	for i := range all {
		for j := i + 1; j < len(all); j++ {
			a, b := &all[i], &all[j]
			if a.prefix != b.prefix || !strings.HasPrefix(b.ending, a.ending) {
				break
			}
			if !patternsMeet(a.key, b.key) {
				continue
			}
			c.ambiguous(a.key, b.key)
			break
		}
	}
}

// ambiguous notes a pair, at both keys: either may be the one to change.
func (c *compiler) ambiguous(first, second string) {
	for range 2 {
		at, other := c.src.at("agents", first), c.src.at("agents", second)
		c.r.add(at, "agents/"+first,
			fmt.Sprintf("an id can match both this key and %s at %s:%d:%d, and neither has the longer text before its first *",
				quote(second), other.file, other.line, other.column),
			"make one of them longer before its first *, or merge them")
		first, second = second, first
	}
}

// checkMatchAgents notes patterns of match.agents that no agent can meet.
func (c *compiler) checkMatchAgents() {
	exact := make([]string, 0, len(c.s.exact))
	for key := range c.s.exact {
		exact = append(exact, key)
	}
	slices.Sort(exact)
	for _, m := range c.matches {
		for i, p := range m.agents {
			if message, _ := patternFault(p, agentPattern); message != "" {
				continue
			}
			met, known := c.met[p]
			if !known {
				met = c.isMet(p, exact)
				c.met[p] = met
			}
			if met {
				continue
			}
			fix := "remove it, or define the agent under agents"
			if near := nearest(p, exact); near != "" {
				fix = fmt.Sprintf("write %s, or %s", near, fix)
			}
			c.fault(m.rule, sub(m.path, fmt.Sprint(i)), fmt.Sprintf("no agent can match %s", quote(p)), fix)
		}
	}
}

func (c *compiler) isMet(p string, exact []string) bool {
	if !isPattern(p) {
		_, found := slices.BinarySearch(exact, p)
		return found || len(c.s.patterns.find(p, &walk{}, nil)) > 0
	}
	prefix := literalPrefix(p)
	w := &walk{}
	set := newPatternSet(agentPattern, []string{p})
	from, _ := slices.BinarySearch(exact, strings.TrimSuffix(prefix, "/"))
	for _, key := range exact[from:] {
		if set.match(key, w) {
			return true
		}
		if !strings.HasPrefix(key, strings.TrimSuffix(prefix, "/")) {
			break
		}
	}
	return slices.ContainsFunc(c.s.keyed, func(a *agent) bool { return patternsMeet(p, a.key) })
}
