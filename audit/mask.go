package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	// Masked stands for a value that looks like a secret.
	Masked = "[masked]"

	maxShown      = 64  // members of one record
	maxShownBytes = 256 // of one value
	maxPath       = 16  // names of a path
)

// Mask picks the members of parameters that a record may show. What its paths
// do not name is absent; what they name and looks like a secret, by a name on
// its way or by itself, is [Masked]. The zero Mask picks nothing. It is safe for
// concurrent use.
type Mask struct {
	paths [][]string
}

// NewMask reads the paths of an allowlist: names separated by dots, `*` for any
// member or element (`customer.id`, `items.*.sku`). A backslash takes a dot or a
// star for itself.
func NewMask(paths ...string) (*Mask, error) {
	m := &Mask{}
	for _, text := range paths {
		names, err := splitPath(text)
		if err != nil {
			return nil, err
		}
		m.paths = append(m.paths, names)
	}
	return m, nil
}

// anyName stands for a star: no name of JSON holds this byte.
const anyName = "\xff"

func splitPath(text string) ([]string, error) {
	var names []string
	var name []byte
	escaped := false
	for i := range len(text) {
		switch c := text[i]; {
		case !escaped && c == '\\':
			escaped = true
			continue
		case !escaped && c == '.':
			names, name = append(names, string(name)), nil
		case !escaped && c == '*' && len(name) == 0 && (i+1 == len(text) || text[i+1] == '.'):
			name = append(name, anyName...)
		default:
			name = append(name, c)
		}
		escaped = false
	}
	names = append(names, string(name))
	if escaped || slices.Contains(names, "") || len(names) > maxPath {
		return nil, fmt.Errorf("%q is not a path of a member: it has to be 1 to %d names separated by dots", clip(text), maxPath)
	}
	return names, nil
}

// Pick returns the members of a JSON object that may be shown, sorted by name:
// numbers as they are written, of an object or a list only how large it is. Texts are
// cut at 256 bytes, and at most 64 members are picked. What is not JSON has
// none. Parameters are not kept.
func (m *Mask) Pick(parameters []byte) []Member {
	if m == nil || len(m.paths) == 0 || len(parameters) == 0 {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(parameters))
	dec.UseNumber()
	var root any
	if err := dec.Decode(&root); err != nil || dec.More() {
		return nil
	}
	p := picker{}
	for _, path := range m.paths {
		p.walk(root, path, nil)
	}
	slices.SortFunc(p.found, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
	return slices.CompactFunc(p.found, func(a, b Member) bool { return a.Name == b.Name })
}

type picker struct{ found []Member }

func (p *picker) walk(value any, path, way []string) {
	if len(p.found) >= maxShown {
		return
	}
	if len(path) == 0 {
		p.found = append(p.found, Member{Name: strings.Join(way, "."), Value: show(value, way)})
		return
	}
	way = slices.Clip(way)
	switch v := value.(type) {
	case map[string]any:
		if path[0] != anyName {
			if member, is := v[path[0]]; is {
				p.walk(member, path[1:], append(way, path[0]))
			}
			return
		}
		names := make([]string, 0, len(v))
		for name := range v {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			p.walk(v[name], path[1:], append(way, name))
		}
	case []any:
		for i, element := range v {
			if name := strconv.Itoa(i); path[0] == anyName || path[0] == name {
				p.walk(element, path[1:], append(way, name))
			}
		}
	}
}

func show(value any, way []string) string {
	var text string
	switch v := value.(type) {
	case map[string]any:
		return fmt.Sprintf("{%d members}", len(v))
	case []any:
		return fmt.Sprintf("[%d elements]", len(v))
	case nil:
		return "null"
	case bool:
		return strconv.FormatBool(v)
	case json.Number:
		if text = v.String(); slices.ContainsFunc(way, NamesSecret) && !strings.HasSuffix(strings.ToLower(way[len(way)-1]), "tokens") {
			return Masked // A count of tokens is no secret; a number under any other such name is.
		}
	case string:
		if text = v; slices.ContainsFunc(way, NamesSecret) || LooksSecret(text) {
			return Masked
		}
	}
	return cutText(text)
}

// cutText cuts between two characters.
func cutText(text string) string {
	if len(text) <= maxShownBytes {
		return text
	}
	end := maxShownBytes
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "..."
}
