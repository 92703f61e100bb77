package config

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	configv1 "github.com/kelpie-authz/kelpie/gen/kelpie/config/v1"
)

// checkRules holds a message of which one field was written, as text, to the
// rules of the schema, and says what to write instead.
func checkRules(msg *configv1.Config, text string) error {
	err := protovalidate.Validate(msg)
	var refused *protovalidate.ValidationError
	if err == nil || !errors.As(err, &refused) {
		return err //nolint:wrapcheck // Nil, or a fault of the schema, which a test would find.
	}
	for _, v := range refused.Violations {
		return ruleWords(v.FieldDescriptor, v.Proto.GetRuleId(), v.Proto.GetMessage(), text)
	}
	return err //nolint:wrapcheck // As above.
}

// ruleWords says in plain words which rule a text breaks.
func ruleWords(field protoreflect.FieldDescriptor, rule, message, text string) error {
	rules, _ := proto.GetExtension(field.Options(), validate.E_Field).(*validate.FieldRules)
	switch {
	case rule == "string.in":
		return fmt.Errorf("%q is not known; write %s", text, oneOf(rules.GetString().GetIn()))
	case rule == "string.pattern" && field.Name() == "redis_prefix":
		return fmt.Errorf("%q cannot begin a key; write 1 to 32 letters (A to Z, a to z), digits, dots, dashes or underscores", text)
	case rule == "string.max_bytes": // a text that long may be anything, so it is not repeated
		return fmt.Errorf("is longer than %d bytes; shorten it", rules.GetString().GetMaxBytes())
	case strings.HasPrefix(rule, "duration."):
		d := rules.GetDuration()
		if d.HasGt() {
			return fmt.Errorf("%s is out of bounds; write more than %s and at most %s", text, short(d.GetGt()), short(d.GetLte()))
		}
		return fmt.Errorf("%s is out of bounds; write %s to %s", text, short(d.GetGte()), short(d.GetLte()))
	case rule == "uint32.lte":
		return fmt.Errorf("%s is too much; write at most %d", text, rules.GetUint32().GetLte())
	default:
		return fmt.Errorf("%q: %s", text, message)
	}
}

// short is a duration as operators write it.
func short(d *durationpb.Duration) string {
	switch span := d.AsDuration(); {
	case span != 0 && span < time.Second:
		return span.String()
	default:
		return fmt.Sprintf("%ds", int64(span.Seconds()))
	}
}

// oneOf joins words by commas, and the last by "or".
func oneOf(words []string) string {
	last := len(words) - 1
	if last < 1 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:last], ", ") + " or " + words[last]
}
