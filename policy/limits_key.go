package policy

import "strconv"

// The key of a bucket begins with whom it belongs to, so that a store can keep
// together what is charged together:
//
//	slot    a + part(agent) where per has agent, else *
//	home    part(names of the other dimensions), then a part for each of their
//	        values (two for a tool: server, name; for a call its digest)
//	limit   part(id of the limit, with ! behind it in shadow)
//
// A part is a text preceded by its length, and the names tell how many parts
// follow, so no two buckets have the same key. A key is made of names only:
// the buckets of a limit are the same ones after a reload.
const (
	keyOfAgent    = 'a'
	keyOfEveryone = '*'
	// keyShadow stands behind the id of a limit in shadow; no name may hold it.
	keyShadow = "!"
)

// keyTexts are the parts of a limit's keys that are the same for every call.
type keyTexts struct {
	// names are those of the dimensions but agent; limit is the limit's.
	names, limit string
}

func newKeyTexts(id string, per dimensions, shadow bool) keyTexts {
	var names []byte
	for d := range (per &^ perAgent).all {
		names = append(append(names, '+'), d.name()...)
	}
	return keyTexts{names: string(appendKeyPart(nil, string(names))), limit: string(AppendLimitRest(nil, id, shadow))}
}

// keySpan says where a key lies in a buffer, and how many of its first bytes
// are its home and its slot.
type keySpan struct{ start, end, home, slot int }

// appendKey appends the name of the call's bucket.
func (l *limitRule) appendKey(key []byte, c *Call, st *verdictState) ([]byte, keySpan) {
	span := keySpan{start: len(key)}
	if l.per&perAgent != 0 {
		key = AppendLimitSlot(key, c.Agent)
		span.slot = len(key) - span.start
	} else {
		key = append(key, keyOfEveryone)
	}
	key = append(key, l.key.names...)
	for d := range (l.per &^ perAgent).all {
		switch d {
		case perAction:
			key = appendKeyPart(key, c.Action)
		case perResource:
			key = appendKeyPart(key, c.Resource)
		case perSubject:
			key = appendKeyPart(key, c.Subject)
		case perSession:
			key = appendKeyPart(key, c.SessionID)
		case perRun:
			key = appendKeyPart(key, c.RunID)
		case perTool:
			key = appendKeyPart(appendKeyPart(key, c.Tool.Server), c.Tool.Name)
		case perCall:
			key = appendKeyPart(key, st.digestOf(c))
		default: // agent is the slot
		}
	}
	span.home = len(key) - span.start
	key = append(key, l.key.limit...)
	span.end = len(key)
	return key, span
}

// appendKeyPart appends a text preceded by its length, so that no two lists of
// texts give the same key.
func appendKeyPart(key []byte, s string) []byte {
	key = strconv.AppendInt(key, int64(len(s)), 10)
	key = append(key, ':')
	return append(key, s...)
}

// AppendLimitSlot appends what the keys of an agent's buckets begin with: those
// of the limits that have agent in their per.
func AppendLimitSlot(key []byte, agent string) []byte {
	return appendKeyPart(append(key, keyOfAgent), agent)
}

// AppendLimitRest appends what the keys of a limit's buckets end in, behind
// their home.
func AppendLimitRest(key []byte, id string, shadow bool) []byte {
	if shadow {
		id += keyShadow
	}
	return appendKeyPart(key, id)
}
