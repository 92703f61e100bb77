package pdp

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/kelpie-authz/kelpie/audit"
	"github.com/kelpie-authz/kelpie/policy"
	"github.com/kelpie-authz/kelpie/store"
)

// What an approver can be shown at most of one call. One that is more is not asked
// about: nobody says yes to what he cannot see.
const (
	maxShownMembers = 2000
	maxNameBytes    = 1024
	maxShownTotal   = 256 << 10 // of all names and values of the parameters, and as much of the context
)

// What of it is shown where there are many, and kept of what has ended. What is left
// out is said, so that nobody takes a part for the whole.
const (
	maxBriefMembers = 80
	maxBriefBytes   = 512 // of one value
	maxBriefTotal   = 32 << 10
)

// errUnshowable says that a call cannot be shown whole.
var errUnshowable = errors.New("there are more or longer members than a human can be shown")

// shown is what [store.Approval.Shown] holds.
type shown struct {
	Actors  []string      `json:"actor_chain,omitempty"`
	Details []shownDetail `json:"details,omitempty"`
	// Shape is what a standing grant can be made of; nil: there can be none.
	Shape *shape `json:"shape,omitempty"`
	// Whole says that nothing was cut. What an earlier release wrote does not say so,
	// and counts as cut.
	Whole bool `json:"whole,omitempty"`
	// Masked says that something is hidden since it looks like a secret.
	Masked bool `json:"masked,omitempty"`
	// partial says that something was not seen, and unshowable that it is too much.
	partial, unshowable bool
}

type shownDetail struct {
	Name       string `json:"name"`
	Value      string `json:"value"`
	Unverified bool   `json:"unverified,omitempty"`
}

// shownOf is what a person has to see of a call to judge it, besides what an
// approval has fields for.
// salt is that of its shape.
func shownOf(ask *ApprovalAsk, salt string) ([]byte, error) {
	var s shown
	if b := ask.Binding; b != nil {
		s.Actors = b.ActorChain
		for i, actor := range b.ActorChain {
			s.said("actor_chain["+strconv.Itoa(i)+"]", visible(actor))
		}
	}
	if call := ask.Request; call != nil {
		s.call(call)
	}
	if b := ask.Binding; b != nil {
		if err := s.bound(b); err != nil {
			return nil, err
		}
		if s.unshowable {
			return nil, errUnshowable
		}
		s.Masked = s.holdsSecret("")
		if !s.partial && !s.holdsSecret(parametersShown) {
			var err error
			if s.Shape, err = shapeOf(b, salt); err != nil {
				return nil, err
			}
		}
	}
	s.Whole = ask.Request != nil && ask.Binding != nil && !s.partial
	raw, err := json.Marshal(&s)
	if err != nil {
		return nil, fmt.Errorf("what approvers are shown: %w", err)
	}
	return raw, nil
}

func (s *shown) call(call *Request) {
	for _, d := range [...]shownDetail{
		{"source_ip", call.SourceIP, false},
		{"tool", call.Tool.Name, false},
		{"tool_server", call.Tool.Server, false},
		{"route", call.Origin.Route, false},
		{"http_method", call.Origin.Method, false},
		{"http_host", call.Origin.Host, false},
		{"session_id", call.SessionID, true},
		{"run_id", call.RunID, true},
	} {
		if d.Value != "" {
			d.Value = visible(d.Value)
			s.Details = append(s.Details, d)
		}
	}
	if call.Cost != 0 {
		s.Details = append(s.Details, shownDetail{"cost", number(call.Cost), false})
	}
}

// bound shows parameters and the members of the context that the yes binds.
func (s *shown) bound(b *Binding) error {
	switch b.ParametersState {
	case policy.ParametersTruncated:
		s.partial = true
		s.said(parametersShown, "not seen whole: the rule asks for a yes to action and resource alone")
	case policy.ParametersNotSeen:
		s.partial = true
		s.said(parametersShown, "not seen: the rule asks for a yes to action and resource alone")
	case policy.ParametersComplete:
		p, err := policy.ParseParameters(b.ParametersRaw)
		if err != nil {
			return fmt.Errorf("what approvers are shown: %w", err)
		}
		s.members(parametersShown, p.Values)
	case policy.ParametersAbsent:
	}
	if len(b.Context) > 0 {
		s.members("context", b.Context)
	}
	return nil
}

const parametersShown = "parameters"

func (s *shown) said(name, value string) {
	s.Details = append(s.Details, shownDetail{name, value, true})
}

// members shows the leaves of an object by their paths, sorted.
func (s *shown) members(name string, object map[string]any) {
	w := leaves{shown: s, room: maxShownMembers, bytes: maxShownTotal}
	w.walk(name, "", object)
}

type leaves struct {
	shown *shown
	room  int
	bytes int
}

// walk shows one value. member is the name that it has by itself, which tells a
// secret; elements of a list have the list's, and what lies in an object that is
// a secret is one.
func (w *leaves) walk(path, member string, value any) {
	switch v := value.(type) {
	case map[string]any:
		if len(v) == 0 {
			w.leaf(path, "{}")
		}
		names := make([]string, 0, len(v))
		for name := range v {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			inner := name
			if namesHidden(member) {
				inner = member
			}
			w.walk(pathOf(path, name), inner, v[name])
		}
	case []any:
		if len(v) == 0 {
			w.leaf(path, "[]")
		}
		for i, element := range v {
			w.walk(path+"["+strconv.Itoa(i)+"]", member, element)
		}
	default:
		w.leaf(path, shownValue(member, v))
	}
}

func (w *leaves) leaf(path, value string) {
	if len(path) > maxNameBytes || w.room == 0 || w.bytes < len(path)+len(value) {
		w.shown.unshowable = true
		return
	}
	w.room--
	w.bytes -= len(path) + len(value)
	w.shown.said(path, value)
}

// shownValue writes a leaf as JSON, so that "1" and 1 look as different as they are.
// What is masked whole has no quotes.
func shownValue(member string, value any) string {
	switch v := value.(type) {
	case string:
		text, whole := maskedText(member, v)
		if whole {
			return text
		}
		return `"` + visible(text) + `"`
	case int64:
		return shownNumber(member, strconv.FormatInt(v, 10))
	case float64:
		return shownNumber(member, number(v))
	case bool:
		return strconv.FormatBool(v)
	default:
		return "null"
	}
}

// shownNumber hides what is a secret written as a number.
func shownNumber(member, text string) string {
	out, _ := maskedText(member, text)
	return out
}

func number(f float64) string {
	if f == math.Trunc(f) && math.Abs(f) < 1e15 {
		return strconv.FormatFloat(f, 'f', -1, 64)
	}
	return strconv.FormatFloat(f, 'g', -1, 64)
}

// brief is as much of it as is shown beside others, in the same order.
func (s *shown) brief() *shown {
	out, total := *s, 0
	out.Details = nil
	for i, d := range s.Details {
		if len(d.Value) > maxBriefBytes {
			out.Whole = false
			d.Value = cutShown(d.Value, maxBriefBytes) + fmt.Sprintf("... (the beginning of %d bytes)", len(d.Value))
		}
		if total += len(d.Name) + len(d.Value); i >= maxBriefMembers || total > maxBriefTotal {
			out.Whole = false
			out.said(parametersShown, fmt.Sprintf("%d more members are not shown", len(s.Details)-i))
			break
		}
		out.Details = append(out.Details, d)
	}
	return &out
}

// shortened is what is kept of what was shown once an approval has ended.
func shortened(raw []byte) []byte {
	var s shown
	if len(raw) <= maxBriefTotal || json.Unmarshal(raw, &s) != nil {
		return raw
	}
	s.Shape = nil
	short, err := json.Marshal(s.brief())
	if err != nil {
		return raw
	}
	return short
}

// cutShown cuts between two characters.
func cutShown(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return text[:runeStart(text, most)]
}

// runeStart is the nearest place at or before at where a character begins.
func runeStart(text string, at int) int {
	for at > 0 && !utf8.RuneStart(text[at]) {
		at--
	}
	return at
}

// visible escapes whatever is no visible character or a space, and what would
// end a quoted text: nothing that an agent writes moves or hides what is beside it.
func visible(text string) string {
	var out strings.Builder
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&out, `\x%02x`, text[i])
		case r == '"' || r == '\\':
			out.WriteByte('\\')
			out.WriteRune(r)
		case r == ' ' || unicode.IsGraphic(r) && !unicode.In(r, unicode.White_Space, unicode.Other_Default_Ignorable_Code_Point):
			out.WriteRune(r)
		case r > 0xffff:
			fmt.Fprintf(&out, `\U%08x`, r)
		default:
			fmt.Fprintf(&out, `\u%04x`, r)
		}
		i += size
	}
	return out.String()
}

// pathOf names a member. What could be taken for a path of several is quoted.
func pathOf(path, name string) string {
	if audit.LooksSecret(name) {
		return path + `["` + audit.Masked + `"]`
	}
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"
	if name == "" || strings.Trim(name, plain) != "" {
		return path + `["` + visible(name) + `"]`
	}
	return path + "." + name
}

// readShown reads what was shown.
func readShown(a *store.Approval) (shown, error) {
	var s shown
	if len(a.Shown) == 0 {
		return s, nil
	}
	if err := json.Unmarshal(a.Shown, &s); err != nil {
		return shown{}, fmt.Errorf("what approvers are shown: %w", err)
	}
	return s, nil
}
