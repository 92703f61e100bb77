package policy

import (
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
)

// LimitDimension is one thing that a limit counts apart, as a key has it.
type LimitDimension struct {
	// Name is that of policies.
	Name string
	// Value is the call's: server/name of a tool, and of a call the beginning of
	// its digest, in hex.
	Value string
}

// LimitHome is what the beginning of the key of an agent's bucket says.
type LimitHome struct {
	Agent string
	// Dimensions are the others than agent.
	Dimensions []LimitDimension
	// Home and Slot are how many bytes they take, as in LimitCharge.
	Home, Slot int

	per dimensions
}

// ParseLimitHome reads a key, or the beginning of one. It is false for whatever
// this build writes no keys like: those of limits without agent in their per
// among them.
func ParseLimitHome(key string) (LimitHome, bool) {
	rest, ok := strings.CutPrefix(key, string(keyOfAgent))
	if !ok {
		return LimitHome{}, false
	}
	var h LimitHome
	if h.Agent, rest, ok = cutKeyPart(rest); !ok {
		return LimitHome{}, false
	}
	h.Slot = len(key) - len(rest)
	names, rest, ok := cutKeyPart(rest)
	if !ok {
		return LimitHome{}, false
	}
	h.per = perAgent
	for d := range (perCall<<1 - 1 - perAgent).all {
		if after, found := strings.CutPrefix(names, "+"+d.name()); found && (after == "" || after[0] == '+') {
			names, h.per = after, h.per|d
		}
	}
	if names != "" {
		return LimitHome{}, false
	}
	for d := range (h.per &^ perAgent).all {
		var value string
		if value, rest, ok = cutDimension(d, rest); !ok {
			return LimitHome{}, false
		}
		h.Dimensions = append(h.Dimensions, LimitDimension{d.name(), value})
	}
	h.Home = len(key) - len(rest)
	return h, true
}

// shownDigest is how many bytes of a call's digest tell it from others.
const shownDigest = 6

func cutDimension(d dimensions, key string) (value, rest string, ok bool) {
	value, rest, ok = cutKeyPart(key)
	switch {
	case !ok:
	case d == perTool:
		var name string
		name, rest, ok = cutKeyPart(rest)
		value += "/" + name
	case d == perCall:
		value = hex.EncodeToString([]byte(value[:min(len(value), shownDigest)]))
	}
	return value, rest, ok
}

// cutKeyPart reads what appendKeyPart wrote.
func cutKeyPart(key string) (part, rest string, ok bool) {
	length, rest, ok := strings.Cut(key, ":")
	if !ok {
		return "", "", false
	}
	n, err := strconv.Atoi(length)
	if err != nil || n < 0 || n > len(rest) || strconv.Itoa(n) != length {
		return "", "", false
	}
	return rest[:n], rest[n:], true
}

// LimitsIn are the limits of an agent that keep a bucket in a home: those over
// its dimensions, in shadow or not, whatever calls they match. key is one that
// home was read from; theirs are appended to it and share no memory with it.
func (s *Snapshot) LimitsIn(home LimitHome, key string) []LimitCharge {
	var out []LimitCharge
	var w walk
	agent := s.findAgent(home.Agent, &w)
	add := func(l *limitRule) {
		if l.per == home.per {
			full := append([]byte(key[:home.Home]), l.key.limit...)
			out = append(out, LimitCharge{Spec: l.spec, Key: full, Home: home.Home, Slot: home.Slot})
		}
	}
	for _, l := range s.limits {
		if agent == nil || !agent.overrides(l.name) {
			add(l)
		}
	}
	if agent != nil {
		for _, l := range agent.limits {
			add(l)
		}
	}
	add(s.fallback)
	slices.SortFunc(out, func(a, b LimitCharge) int { return strings.Compare(a.Spec.ID, b.Spec.ID) })
	return out
}
