package policy

import (
	"strings"
	"testing"
)

// The lists as docs/language.md has them.
const (
	pageAdmin  = "admin owner grant impersonate sudo"
	pageDelete = "delete del destroy purge drop remove rm revoke wipe erase truncate terminate kill nuke flush uninstall unlink clear"
	pageRead   = "get list read search find head watch describe query count"
	pageChange = "create update upsert modify write set put post patch add insert edit replace send merge move store save apply " +
		"reset lock ack run execute deploy pay transfer refund export import"
)

func TestVerbLists(t *testing.T) {
	t.Parallel()
	for list, class := range map[string]Risk{pageAdmin: RiskAdmin, pageDelete: RiskDelete, pageRead: RiskRead, pageChange: RiskWrite} {
		for word := range strings.FieldsSeq(list) {
			if len(word) > longestVerb {
				t.Errorf("longestVerb is %d, and %q longer", longestVerb, word)
			}
			inPlaces := map[string]Risk{
				word: class, strings.ToUpper(word): class, "x." + word: class, "x/" + word + "_2": class, word + "Lead": class,
				"xy" + word: RiskWrite, word + "xy": RiskWrite,
			}
			switch class {
			case RiskRead: // reads only as the first word of the last segment
				inPlaces["x_"+word] = RiskWrite
				inPlaces[word+".x"] = RiskWrite
			default: // counts wherever it stands, also before a reading verb
				inPlaces[word+".get"] = class
				inPlaces["get_x_"+word] = class
				inPlaces["getX"+strings.ToUpper(word[:1])+word[1:]] = class
			}
			for action, want := range inPlaces {
				if got := verbClass(action); got != want {
					t.Errorf("%s: %v, want %v", action, got, want)
				}
			}
		}
	}
}

func TestVerbClass(t *testing.T) {
	t.Parallel()
	tests := map[string]Risk{
		"deleteLead": RiskDelete, "bulk_delete": RiskDelete, "wipe": RiskDelete, "HTTPDelete": RiskDelete, "Delete": RiskDelete,
		"DELETE": RiskDelete, "leadDelete": RiskDelete, "delete2": RiskDelete, "v2delete": RiskDelete, "pulls.delete": RiskDelete,
		"DELETELead": RiskDelete, "undelete": RiskWrite, "deleted": RiskWrite, "deLete": RiskDelete, "DELete": RiskDelete, "leads.ReMove": RiskDelete, "aDMin": RiskAdmin, "gEt": RiskWrite,
		"get": RiskRead, "getLead": RiskRead, "leads.list": RiskRead, "tools/call": RiskWrite, "list.leads": RiskWrite,
		"get_and_set": RiskWrite, "getOrCreate": RiskWrite, "read.1": RiskWrite, "1.read": RiskRead, "1read": RiskRead, "_get": RiskRead,
		"set.get": RiskWrite, "owner.read": RiskAdmin, "grantDelete": RiskAdmin, "delete.admin": RiskAdmin, "administrate": RiskWrite,
		"getHTTPDelete": RiskDelete, "getHTTPAdmin": RiskAdmin, "readHead": RiskRead, "42": RiskWrite, "x": RiskWrite, "counters": RiskWrite,
	}
	for action, want := range tests {
		if got := verbClass(action); got != want {
			t.Errorf("%s: %v, want %v", action, got, want)
		}
	}
	patterns := map[string]Risk{
		"*": RiskAdmin, "**": RiskAdmin, "*.*": RiskAdmin, "1.*": RiskAdmin, "pulls.*": RiskWrite, "get*": RiskRead, "*get": RiskRead,
		"get.*": RiskWrite, "*delete*": RiskDelete, "**.read": RiskRead, "read": RiskRead, "de*lete": RiskWrite,
	}
	for pattern, want := range patterns {
		if got := patternClass(pattern); got != want {
			t.Errorf("pattern %s: %v, want %v", pattern, got, want)
		}
	}
}
