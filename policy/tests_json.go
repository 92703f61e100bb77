package policy

import (
	"errors"
	"fmt"

	"github.com/go-json-experiment/json/jsontext"
	"go.yaml.in/yaml/v3"
)

// appendJSON writes a YAML value as JSON, from its text: 82 stays 82 and 1.50
// keeps its digits, as an agent's own JSON would.
func appendJSON(dst []byte, n *yaml.Node) ([]byte, error) {
	switch n.Kind {
	case yaml.MappingNode:
		return appendObject(dst, n)
	case yaml.SequenceNode:
		dst = append(dst, '[')
		for i, item := range n.Content {
			if i > 0 {
				dst = append(dst, ',')
			}
			var err error
			if dst, err = appendJSON(dst, item); err != nil {
				return nil, err
			}
		}
		return append(dst, ']'), nil
	default:
		return appendScalar(dst, n)
	}
}

func appendObject(dst []byte, n *yaml.Node) ([]byte, error) {
	dst = append(dst, '{')
	comma := false
	for key, value := range pairs(n) {
		if comma {
			dst = append(dst, ',')
		}
		comma = true
		var err error
		if dst, err = jsontext.AppendQuote(dst, key.Value); err != nil {
			return nil, fmt.Errorf("the name %s is not UTF-8", quote(key.Value))
		}
		dst = append(dst, ':')
		if dst, err = appendJSON(dst, value); err != nil {
			return nil, err
		}
	}
	return append(dst, '}'), nil
}

var errNoValue = errors.New("no value; write null if it is meant")

func appendScalar(dst []byte, n *yaml.Node) ([]byte, error) {
	switch n.Tag {
	case "!!null":
		if n.Value != "null" {
			return nil, errNoValue
		}
		return append(dst, "null"...), nil
	case "!!bool":
		if n.Value != "true" && n.Value != "false" {
			return nil, fmt.Errorf("%s is neither true nor false in JSON; write one of them, or put it in quotes", quote(n.Value))
		}
		return append(dst, n.Value...), nil
	case "!!int", "!!float":
		if !isJSONNumber(n.Value) {
			return nil, fmt.Errorf("%s is a number that JSON cannot write; write it in decimal digits, or put it in quotes", quote(n.Value))
		}
		return append(dst, n.Value...), nil
	default:
		if n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0 && isJSONNumber(n.Value) {
			return nil, fmt.Errorf("%s is a number beyond what YAML reads as one; put it in quotes", quote(n.Value))
		}
		out, err := jsontext.AppendQuote(dst, n.Value)
		if err != nil {
			return nil, fmt.Errorf("%s is not UTF-8", quote(n.Value))
		}
		return out, nil
	}
}

// isJSONNumber tells whether a text is a number of RFC 8259, section 6.
func isJSONNumber(s string) bool {
	value := jsontext.Value(s)
	return value.Kind() == '0' && value.IsValid()
}
