package policy

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	policyv1 "github.com/kelpie-authz/kelpie/gen/kelpie/policy/v1"
)

// scopeIndex finds the scopes that cover a call: by its resource what scopes
// are about it, and among these by its action.
type scopeIndex struct {
	resources *trie // values are indices into groups
	groups    []scopeGroup
}

// scopeGroup are the scopes with one resource pattern: either one scope, or
// several with an index of their actions.
type scopeGroup struct {
	scope   uint32
	actions *patternSet
	index   *trie
}

// find appends the numbers of all scopes that cover a call, sorted, each once.
func (x *scopeIndex) find(c *Call, w *walk, out []uint32) []uint32 {
	var buf [32]uint32
	for _, i := range x.resources.find(c.Resource, w, buf[:0]) {
		group := &x.groups[i]
		switch {
		case group.index != nil:
			out = group.index.find(c.Action, w, out)
		case group.actions.match(c.Action, w):
			out = append(out, group.scope)
		}
	}
	if len(out) < 2 {
		return out
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (c *compiler) compileScopes() {
	names := sortedKeys(c.doc.GetScopes())
	c.scopes = make(map[string]uint32, len(names))
	c.s.scopes = make([]scope, len(names))
	actions := make([][]string, len(names))
	resources := newTrie(false)
	ends := map[*node]bool{}
	var order []*node
	c.canon.text("scopes")
	c.canon.number(int64(len(names)))
	for i, name := range names {
		id := number(i)
		doc := c.doc.GetScopes()[name]
		label, path := "scopes/"+name, []string{"scopes", name}
		actions[i] = c.goodPatterns(label, sub(path, "actions"), actionPattern, doc.GetActions())
		paths := c.goodPatterns(label, sub(path, "resources"), resourcePattern, doc.GetResources())
		c.scopes[name] = id
		c.s.scopes[i] = scope{name: name, risk: c.scopeRisk(label, path, doc)}
		for _, p := range paths {
			n := resources.place(p)
			n.values = append(n.values, id)
			if !ends[n] {
				ends[n] = true
				order = append(order, n)
			}
		}
		c.canon.text(name)
		c.canon.list(actions[i])
		c.canon.list(paths)
		c.canon.number(int64(c.s.scopes[i].risk.risk))
		c.canon.text(doc.GetRiskReason())
		c.show(scopePrefix+name, doc.GetAuditParameters())
	}
	c.s.coverage = c.groupScopes(resources, order, actions)
}

// groupScopes gives each node at which resource patterns end the group of its
// scopes. Nodes with the same scopes share one.
func (c *compiler) groupScopes(resources *trie, ends []*node, actions [][]string) scopeIndex {
	x := scopeIndex{resources: resources}
	known := map[string]uint32{}
	var key []byte
	for _, n := range ends {
		key = key[:0]
		for _, id := range n.values {
			key = binary.BigEndian.AppendUint32(key, id)
		}
		group, ok := known[string(key)]
		if !ok {
			group = number(len(x.groups))
			known[string(key)] = group
			x.groups = append(x.groups, c.newGroup(n.values, actions))
		}
		n.values = append(n.values[:0:0], group)
	}
	return x
}

func (c *compiler) newGroup(ids []uint32, actions [][]string) scopeGroup {
	if len(ids) == 1 {
		return scopeGroup{scope: ids[0], actions: c.shared.setOrEmpty(actionPattern, actions[ids[0]])}
	}
	index := newTrie(true)
	for _, id := range ids {
		for _, p := range actions[id] {
			index.insert(p, id)
		}
	}
	return scopeGroup{index: index}
}

// setOrEmpty is set, and matches nothing where there are no patterns.
func (s *shared) setOrEmpty(kind patternKind, patterns []string) *patternSet {
	if set := s.set(kind, patterns); set != nil {
		return set
	}
	return &patternSet{}
}

// scopeRisk is the declared risk of a scope, or the highest verb class of its
// actions. Declaring less needs a reason, and a reason has no other use.
func (c *compiler) scopeRisk(label string, path []string, doc *policyv1.Scope) scopeRisk {
	verbs := RiskNone
	for _, p := range doc.GetActions() {
		verbs = max(verbs, patternClass(p))
	}
	risk := parseRisk(doc.GetRisk())
	reason := doc.GetRiskReason() != ""
	switch {
	case risk == RiskNone || risk >= verbs:
		if reason {
			c.fault(label, sub(path, "risk_reason"), "risk_reason stands beside a risk that is not lower than its actions say",
				fmt.Sprintf("remove risk_reason, or declare a risk below %s", verbs))
		}
		return scopeRisk{risk: max(risk, verbs)}
	case !reason:
		c.fault(label, sub(path, "risk"), fmt.Sprintf("risk %s is lower than its actions say, which is %s", risk, verbs),
			fmt.Sprintf("write risk: %s, or say in risk_reason why it is lower", verbs))
	}
	return scopeRisk{risk: risk, reasoned: true}
}

func (c *compiler) compileNetworks() {
	names := sortedKeys(c.doc.GetNetworks())
	c.networks = make(map[string]uint32, len(names))
	all := make([][]netip.Prefix, len(names))
	c.canon.text("networks")
	c.canon.number(int64(len(names)))
	for i, name := range names {
		c.networks[name] = number(i)
		for j, text := range c.doc.GetNetworks()[name].GetCidrs() {
			prefix, message, fix := parsePrefix(text)
			if message != "" {
				c.fault("networks/"+name, []string{"networks", name, "cidrs", fmt.Sprint(j)}, message, fix)
				continue
			}
			all[i] = append(all[i], prefix)
		}
		texts := make([]string, len(all[i]))
		for j, prefix := range all[i] {
			texts[j] = prefix.String()
		}
		c.canon.text(name)
		c.canon.list(sortedSet(texts))
	}
	c.s.networks = newNetworkTable(all)
}
