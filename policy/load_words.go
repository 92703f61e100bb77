package policy

import (
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
)

func kindName(k yaml.Kind) string {
	switch k {
	case yaml.MappingNode:
		return "keys with values"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		return "a single value"
	default:
		return "an alias"
	}
}

func kindFix(k yaml.Kind) string {
	switch k {
	case yaml.MappingNode:
		return "write key: value pairs below it"
	case yaml.SequenceNode:
		return "write [one, two]"
	default:
		return "write one value"
	}
}

func typeName(tag string) string {
	switch tag {
	case "!!int", "!!float":
		return "a number"
	case "!!bool":
		return "true or false"
	case "!!timestamp":
		return "a date"
	case "!!null":
		return "nothing"
	default:
		return "something else"
	}
}

// suggestField says what to write instead of an unknown key: the one field it
// may be meant for, or all there are.
func suggestField(key string, fields protoreflect.FieldDescriptors) string {
	names := make([]string, 0, fields.Len())
	for i := range fields.Len() {
		field := fields.Get(i)
		name := string(field.Name())
		if key == field.JSONName() {
			return "write " + name
		}
		names = append(names, name)
	}
	if name := nearest(key, names); name != "" {
		return "write " + name
	}
	return "write one of " + strings.Join(names, ", ")
}

// nearest returns the one name that is a slip of the finger away from word, or "".
func nearest(word string, names []string) string {
	word = strings.ToLower(strings.ReplaceAll(word, "-", "_"))
	best, found := 3, ""
	if len(word) < 5 {
		best = 2
	}
	for _, name := range names {
		switch d := distance(word, strings.ToLower(name), best+1); {
		case d < best:
			best, found = d, name
		case d == best && found != "":
			found = ""
		}
	}
	return found
}

// distance is the Levenshtein distance of two short words, or most if it is
// not below that.
func distance(a, b string, most int) int {
	if len(a)-len(b) >= most || len(b)-len(a) >= most {
		return most
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return min(row[len(b)], most)
}
