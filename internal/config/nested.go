package config

import (
	"errors"
	"fmt"

	yaml "go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"

	configv1 "github.com/kelpie-authz/kelpie/gen/kelpie/config/v1"
)

// FileKeys are the keys that only the file can have: lists, and settings of
// several parts.
func FileKeys() []string {
	fields := (&configv1.Config{}).ProtoReflect().Descriptor().Fields()
	var names []string
	for i := range fields.Len() {
		if f := fields.Get(i); fileOnly(f) {
			names = append(names, string(f.Name()))
		}
	}
	return names
}

const durationName = "google.protobuf.Duration"

// fileOnly tells whether no flag can hold a field.
func fileOnly(f protoreflect.FieldDescriptor) bool {
	return f.IsList() || f.IsMap() || f.Kind() == protoreflect.MessageKind && f.Message().FullName() != durationName
}

// setNested writes a field that is a list, a map of texts or a message from a value
// of the file. Each fault names the line that it is in.
func setNested(m protoreflect.Message, f protoreflect.FieldDescriptor, value *yaml.Node) error {
	switch {
	case f.IsList():
		return setList(m, f, value)
	case f.IsMap():
		return setMap(m, f, value)
	default:
		return setFields(m.Mutable(f).Message(), value)
	}
}

func setList(m protoreflect.Message, f protoreflect.FieldDescriptor, value *yaml.Node) error {
	if value.Kind != yaml.SequenceNode || len(value.Content) == 0 {
		return errors.New("is not a list; write one entry in a line, each behind a dash")
	}
	list := m.Mutable(f).List()
	var faults []error
	for i, item := range value.Content {
		if item.Kind == yaml.AliasNode {
			item = item.Alias
		}
		if f.Kind() == protoreflect.MessageKind {
			one := list.AppendMutable().Message()
			if err := setFields(one, item); err != nil {
				faults = append(faults, fmt.Errorf("entry %d: %w", i+1, err))
			}
			continue
		}
		text, err := plain(item)
		if err != nil {
			faults = append(faults, fmt.Errorf("line %d: entry %d: %w", item.Line, i+1, err))
			continue
		}
		list.Append(protoreflect.ValueOfString(text))
	}
	return errors.Join(faults...)
}

func setMap(m protoreflect.Message, f protoreflect.FieldDescriptor, value *yaml.Node) error {
	out := m.Mutable(f).Map()
	return eachKey(value, func(key string, value *yaml.Node) error {
		text, err := plain(value)
		if err != nil {
			return err
		}
		out.Set(protoreflect.ValueOfString(key).MapKey(), protoreflect.ValueOfString(text))
		return nil
	})
}

// setFields writes the fields of a message from a map of the file.
func setFields(m protoreflect.Message, value *yaml.Node) error {
	return eachKey(value, func(key string, value *yaml.Node) error {
		f := m.Descriptor().Fields().ByName(protoreflect.Name(key))
		switch {
		case f == nil:
			return errors.New("there is no such key")
		case fileOnly(f):
			return setNested(m, f, value)
		case f.Kind() == protoreflect.BoolKind:
			var yes bool
			if value.Kind != yaml.ScalarNode || value.Tag != "!!bool" || value.Decode(&yes) != nil {
				return fmt.Errorf("%q is neither true nor false", value.Value)
			}
			m.Set(f, protoreflect.ValueOfBool(yes))
			return nil
		default:
			text, err := plain(value)
			if err == nil {
				m.Set(f, protoreflect.ValueOfString(text))
			}
			return err
		}
	})
}

// eachKey calls f with each key of a map of the file, none of which may be there
// twice, and says in which line what f found is.
func eachKey(value *yaml.Node, f func(key string, value *yaml.Node) error) error {
	if value.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: is not a map of keys; write key: value lines", value.Line)
	}
	var faults []error
	seen := map[string]bool{}
	for i := 0; i+1 < len(value.Content); i += 2 {
		key, inner := value.Content[i], value.Content[i+1]
		if inner.Kind == yaml.AliasNode {
			inner = inner.Alias
		}
		err := errors.New("is given twice; keep one")
		if !seen[key.Value] {
			err = f(key.Value, inner)
		}
		seen[key.Value] = true
		if err != nil {
			faults = append(faults, fmt.Errorf("line %d: %s: %w", key.Line, key.Value, err))
		}
	}
	return errors.Join(faults...)
}

// plain is a single text.
func plain(value *yaml.Node) (string, error) {
	if value.Kind != yaml.ScalarNode {
		return "", errors.New("is not a single value; write one, without brackets and dashes")
	}
	if value.Tag == "!!null" || value.Value == "" {
		return "", errors.New("has no value; write one or leave the line out")
	}
	return value.Value, nil
}
