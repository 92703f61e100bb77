package policy

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	policyv1 "github.com/kelpie-authz/kelpie/gen/kelpie/policy/v1"
)

// What an approval rule says where it says nothing.
const (
	defaultExpires   = 15 * time.Minute
	defaultUseWithin = 5 * time.Minute
	guardrailID      = "builtin/destructive"
)

// ruleIndex finds the rules that may be about a call. Each rule is filed once,
// under the patterns of the one field that tells it apart best.
type ruleIndex struct {
	agents, actions, resources *trie
	always                     []uint32
	texts                      []patterns // of each rule, while it is built
}

// find appends the numbers of all rules that may be about a call, sorted.
func (x *ruleIndex) find(c *Call, w *walk, out []uint32) []uint32 {
	out = append(out, x.always...)
	if x.agents != nil {
		out = x.agents.find(c.Agent, w, out)
	}
	if x.actions != nil {
		out = x.actions.find(c.Action, w, out)
	}
	if x.resources != nil {
		out = x.resources.find(c.Resource, w, out)
	}
	if len(out) < 2 {
		return out
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// indexRules files every rule. What tells rules apart is counted, not
// guessed: a field whose patterns many other rules have too is a poor place.
func (c *compiler) indexRules() {
	x := &c.s.index
	uses := map[string]int{}
	for _, texts := range x.texts {
		for _, field := range texts.fields() {
			for _, p := range field.patterns {
				uses[field.kind.String()+p]++
			}
		}
	}
	for i, texts := range x.texts {
		best, cost := placing{}, math.MaxInt
		for _, field := range texts.fields() {
			if own := field.cost(uses); own < cost {
				best, cost = field, own
			}
		}
		x.file(number(i), best)
	}
	x.texts = nil
}

// placing is one field of a match that a rule may be filed under.
type placing struct {
	kind     patternKind
	patterns []string
}

func (p patterns) fields() []placing {
	all := []placing{{agentPattern, p.agents}, {resourcePattern, p.resources}, {actionPattern, p.actions}}
	return slices.DeleteFunc(all, func(f placing) bool { return len(f.patterns) == 0 })
}

// cost is how many rules the worst of the patterns would turn up with this
// one. A pattern without a literal beginning turns up for nearly every call.
func (f placing) cost(uses map[string]int) int {
	worst := 0
	for _, p := range f.patterns {
		own := 2 * uses[f.kind.String()+p]
		switch {
		case literalPrefix(p) == "":
			own += math.MaxInt / 4
		case isPattern(p):
			own++
		}
		worst = max(worst, own)
	}
	return worst
}

func (x *ruleIndex) file(rule uint32, field placing) {
	if len(field.patterns) == 0 {
		x.always = append(x.always, rule)
		return
	}
	into := &x.resources
	switch field.kind {
	case agentPattern:
		into = &x.agents
	case actionPattern:
		into = &x.actions
	case resourcePattern:
	}
	if *into == nil {
		*into = newTrie(field.kind == actionPattern)
	}
	for _, p := range field.patterns {
		(*into).insert(p, rule)
	}
}

// addRule appends a rule; its number is its place among all.
func (c *compiler) addRule(r rule, texts patterns) {
	c.s.rules = append(c.s.rules, r)
	c.s.index.texts = append(c.s.index.texts, texts)
}

func (c *compiler) compileDeny() {
	names := sortedKeys(c.doc.GetDeny())
	c.canon.text("deny")
	c.canon.number(int64(len(names)))
	for _, name := range names {
		doc := c.doc.GetDeny()[name]
		id := "deny/" + name
		c.canon.text(name)
		m, texts := c.match(id, []string{"deny", name, "match"}, doc.GetMatch(), &c.canon)
		c.canon.text(doc.GetMessage())
		c.canon.flag(doc.GetShadow())
		c.show(id, doc.GetAuditParameters())
		c.addRule(rule{id: id, match: m, shadow: doc.GetShadow()}, texts)
		c.s.deny = append(c.s.deny, denial{doc.GetMessage()})
	}
}

func (c *compiler) compileApprovals() {
	groups := sortedKeys(c.doc.GetApprovers())
	c.canon.text("approvers")
	c.canon.number(int64(len(groups)))
	c.s.groups = make(map[string][]string, len(groups))
	for _, name := range groups {
		c.s.groups[name] = c.members([]string{name})
		c.canon.text(name)
		c.canon.list(c.s.groups[name])
	}
	c.checkMembers(groups)
	everyone := c.members(groups)
	form := canonical{}
	form.text(guardrailID)
	form.list(everyone)
	c.s.guardrail = Requirement{
		Rule: guardrailID, Version: form.sum(), Approvers: everyone, Quorum: 1,
		Expires: defaultExpires, UseWithin: defaultUseWithin,
	}
	names := sortedKeys(c.doc.GetApprovals())
	c.canon.text("approvals")
	c.canon.number(int64(len(names)))
	for _, name := range names {
		doc := c.doc.GetApprovals()[name]
		id := "approvals/" + name
		form := canonical{}
		form.text(name)
		m, texts := c.match(id, []string{"approvals", name, "match"}, doc.GetMatch(), &form)
		requirement := c.requirement(id, []string{"approvals", name}, doc, &form)
		c.canon.text(string(form.buf))
		c.show(id, doc.GetAuditParameters()) // What is shown is no part of what was approved.
		c.addRule(rule{id: id, match: m, shadow: doc.GetShadow()}, texts)
		c.s.approvals = append(c.s.approvals, requirement)
	}
}

// checkMembers finds members that stand for a group without a name.
func (c *compiler) checkMembers(groups []string) {
	for _, name := range groups {
		for i, member := range c.doc.GetApprovers()[name].GetMembers() {
			if member == GroupMember {
				c.fault("approvers/"+name, []string{"approvers", name, "members", fmt.Sprint(i)},
					"a group of the identity provider stands without its name", "write "+GroupMember+"security, as the provider names the group")
			}
		}
	}
}

// members are the distinct humans of groups, sorted.
func (c *compiler) members(groups []string) []string {
	var all []string
	for _, name := range groups {
		all = append(all, c.doc.GetApprovers()[name].GetMembers()...)
	}
	return sortedSet(all)
}

// requirement compiles what an approval rule asks for, and writes it to form.
func (c *compiler) requirement(id string, path []string, doc *policyv1.ApprovalRule, form *canonical) Requirement {
	complete := true
	for i, name := range doc.GetApprovers() {
		if _, ok := c.doc.GetApprovers()[name]; !ok {
			complete = false
			undefined(c, id, sub(path, "approvers", fmt.Sprint(i)), "approvers", name, c.doc.GetApprovers())
		}
	}
	q := Requirement{
		Rule: id, Groups: sortedSet(doc.GetApprovers()), Quorum: 1, PathOnly: doc.GetBind() != "",
		Expires:   cmp.Or(doc.GetExpires().AsDuration(), defaultExpires),
		UseWithin: cmp.Or(doc.GetUseWithin().AsDuration(), defaultUseWithin),
	}
	q.Approvers = c.members(q.Groups)
	if doc.Quorum != nil {
		q.Quorum = int(doc.GetQuorum())
	}
	if complete && (q.Quorum < 1 || q.Quorum > len(q.Approvers) && !openEnded(q.Approvers)) {
		c.fault(id, sub(path, "quorum"),
			fmt.Sprintf("quorum %d, and the groups have %d distinct members", q.Quorum, len(q.Approvers)),
			fmt.Sprintf("write 1 to %d, or name more approvers", len(q.Approvers)))
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"expires", q.Expires}, {"use_within", q.UseWithin}} {
		if d.value <= 0 {
			c.fault(id, sub(path, d.name), d.name+" is not more than 0", "write a duration such as 15m, or leave it out")
		}
	}
	switch {
	case doc.GetBind() != "" && doc.GetBindReason() == "":
		c.fault(id, sub(path, "bind"), "bind stands without a reason", "say in bind_reason why the parameters need not be seen, or remove bind")
	case doc.GetBind() == "" && doc.GetBindReason() != "":
		c.fault(id, sub(path, "bind_reason"), "bind_reason stands without bind", "remove it, or write bind: path_only")
	}
	form.list(q.Groups)
	form.list(q.Approvers)
	form.number(int64(q.Quorum))
	form.number(int64(q.Expires))
	form.number(int64(q.UseWithin))
	form.text(doc.GetBindReason())
	form.flag(doc.GetShadow())
	q.Version = form.sum()
	return q
}
