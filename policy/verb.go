package policy

// The words that say what an action does. They are this one list; verb_test.go
// holds every word of it to its class.
//
// wordClass gives the class that a word alone decides: admin, then delete. A
// word that only counts where it stands gives verbRead or verbChange.
func wordClass(word []byte) verbWord {
	switch string(word) {
	case "admin", "owner", "grant", "impersonate", "sudo":
		return verbAdmin
	case "delete", "del", "destroy", "purge", "drop", "remove", "rm", "revoke", "wipe", "erase", "truncate",
		"terminate", "kill", "nuke", "flush", "uninstall", "unlink", "clear":
		return verbDelete
	case "get", "list", "read", "search", "find", "head", "watch", "describe", "query", "count":
		return verbRead
	case "create", "update", "upsert", "modify", "write", "set", "put", "post", "patch", "add", "insert", "edit",
		"replace", "send", "merge", "move", "store", "save", "apply", "reset", "lock", "ack", "run", "execute",
		"deploy", "pay", "transfer", "refund", "export", "import":
		return verbChange
	default:
		return verbOther
	}
}

type verbWord uint8

// In the order in which they outdo each other.
const (
	verbOther  verbWord = iota
	verbRead            // makes an action read where it is the first word of the last segment
	verbChange          // keeps an action from being read, wherever it stands
	verbDelete
	verbAdmin
)

// longestVerb is the length of the longest word in the lists; a longer one is in none.
const longestVerb = len("impersonate")

// verbClass is the risk that the words of an action say: admin if one word
// is of administration, else delete if one is of deletion, else read if the
// last segment begins with a word of reading and no word changes anything,
// else write.
func verbClass(action string) Risk {
	var word [longestVerb]byte
	deletes, changes, reads := false, false, false
	first := true // no word of this segment came yet
	for i := 0; i < len(action); {
		if !isLetter(action[i]) {
			if action[i] == '.' || action[i] == '/' {
				first, reads = true, false
			}
			i++
			continue
		}
		end := wordEnd(action, i)
		class := verbOther
		if end-i <= longestVerb {
			for j := i; j < end; j++ {
				word[j-i] = action[j] | 0x20 // ASCII letters only: lower case
			}
			class = wordClass(word[:end-i])
		}
		switch class = max(class, runClass(action, i, end)); class {
		case verbAdmin:
			return RiskAdmin
		case verbDelete:
			deletes = true
		case verbChange:
			changes = true
		case verbRead, verbOther:
		}
		if first {
			reads = class == verbRead
		}
		first, i = false, end
	}
	switch {
	case deletes:
		return RiskDelete
	case reads && !changes:
		return RiskRead
	default:
		return RiskWrite
	}
}

// runClass is the class of the letters from i on as one word, where its capitals
// split it (its first word ends at end): deLete is delete for every tool that
// does not mind case, and whoever writes the action chooses its capitals.
func runClass(action string, i, end int) verbWord {
	if end == len(action) || !isLetter(action[end]) || i > 0 && isLetter(action[i-1]) {
		return verbOther // one word, which is judged as such, or not the first of its run
	}
	var run [longestVerb]byte
	n := 0
	for ; i < len(action) && isLetter(action[i]); i++ {
		if n == longestVerb {
			return verbOther
		}
		run[n] = action[i] | 0x20
		n++
	}
	if class := wordClass(run[:n]); class >= verbDelete {
		return class
	}
	return verbOther
}

// wordEnd is where the word that starts at i ends: before what is no letter,
// between a lower and an upper case letter, and before the last capital of a
// run that a lower-case letter follows.
func wordEnd(s string, i int) int {
	for i++; i < len(s) && isLetter(s[i]); i++ {
		if !isUpper(s[i]) {
			continue
		}
		if !isUpper(s[i-1]) || i+1 < len(s) && isLetter(s[i+1]) && !isUpper(s[i+1]) {
			return i
		}
	}
	return i
}

func isUpper(c byte) bool { return 'A' <= c && c <= 'Z' }

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

// patternClass is the verb class of an action pattern. One without a letter
// outside its stars may be any action, and counts as admin.
func patternClass(pattern string) Risk {
	for i := range len(pattern) {
		if isLetter(pattern[i]) {
			return verbClass(pattern)
		}
	}
	return RiskAdmin
}
