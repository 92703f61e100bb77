package policy

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"buf.build/go/protovalidate"
	"buf.build/go/protoyaml"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"

	policyv1 "github.com/kelpie-authz/kelpie/gen/kelpie/policy/v1"
)

// maxDocumentBytes bounds one document; an entry for each of 100,000 agents
// fits in.
const maxDocumentBytes = 16 << 20

// readMessage fills a message from a document and returns its top-level
// mapping, or nil if there is none. It notes every fault it finds.
func readMessage(doc Document, message proto.Message, r *report) *yaml.Node {
	if r.docs == nil {
		r.docs = map[string][]byte{}
	}
	r.docs[doc.Name] = doc.Data
	if !checkText(doc, r) {
		return nil
	}
	_, requests := message.(*policyv1.TestFile)
	reader := &reader{strict: strict{
		r: r, file: doc.Name, bad: map[spot]bool{}, lame: map[string]bool{}, requests: requests,
	}}
	err := reader.read(doc.Data, message)
	if reader.root == nil {
		if err == nil {
			r.add(position{doc.Name, 1, 1}, "", "the document is empty", "write at least one key, or remove the file")
			return nil
		}
		at, text := syntaxError(doc, err)
		r.add(at, "", text, "correct the YAML")
		return nil
	}
	if reader.root.Kind != yaml.MappingNode {
		return nil // told by strict
	}
	reader.addSchemaErrors(err)
	if err := protovalidate.GlobalValidator.Validate(message); err != nil {
		reader.addViolations(err)
	}
	return reader.root
}

// reader decodes one document. It is protoyaml's custom unmarshaler of the
// outermost message, and so sees the tree that protoyaml parsed, before it is
// decoded: nothing is parsed twice.
type reader struct {
	strict
	root *yaml.Node
}

func (d *reader) read(data []byte, message proto.Message) (err error) {
	defer func() {
		// A parser that is surprised by a document must not take the process
		// down: a policy is reloaded while calls are decided.
		if p := recover(); p != nil {
			err = fmt.Errorf("the document cannot be read: %v", p)
			d.root = nil
		}
	}()
	return protoyaml.UnmarshalOptions{CustomUnmarshaler: d}.Unmarshal(data, message) //nolint:wrapcheck // read by addSchemaErrors and syntaxError, never handed out
}

// Unmarshal takes the document's tree and leaves all decoding to protoyaml.
func (d *reader) Unmarshal(node *yaml.Node, message proto.Message) (bool, error) {
	if d.root != nil {
		return false, nil
	}
	d.root = node
	d.document(node, message.ProtoReflect().Descriptor())
	return false, nil
}

// checkText refuses bytes that would make two readers see two documents.
func checkText(doc Document, r *report) bool {
	refuse := func(at int, message, fix string) bool {
		r.add(placeOf(doc, at), "", message, fix)
		return false
	}
	if len(doc.Data) > maxDocumentBytes {
		return refuse(0, fmt.Sprintf("the document has %d bytes, more than %d", len(doc.Data), maxDocumentBytes),
			"split it into several")
	}
	if bytes.HasPrefix(doc.Data, []byte("\xef\xbb\xbf")) {
		return refuse(0, "the document starts with a byte order mark", "save it as UTF-8 without one")
	}
	for i := 0; i < len(doc.Data); {
		c := doc.Data[i]
		if c < utf8.RuneSelf {
			if c == '\r' && (i+1 == len(doc.Data) || doc.Data[i+1] != '\n') {
				return refuse(i, "a carriage return without a line feed", "end lines with a line feed")
			}
			if (c < ' ' && c != '\n' && c != '\r' && c != '\t') || c == 0x7f {
				return refuse(i, fmt.Sprintf("control character 0x%02x", c), "remove it, or write it as an escape in double quotes")
			}
			i++
			continue
		}
		char, size := utf8.DecodeRune(doc.Data[i:])
		if char == utf8.RuneError && size == 1 {
			return refuse(i, "the document is not UTF-8", "save it as UTF-8")
		}
		if isHidden(char) {
			return refuse(i, fmt.Sprintf("the character U+%04X is invisible or breaks lines", char), "remove it")
		}
		i += size
	}
	return checkMarkers(doc, refuse)
}

// isHidden tells of characters that make a policy read otherwise than it is:
// C1 controls, the line ends that only YAML knows, byte order marks, and what
// turns the direction of writing.
func isHidden(r rune) bool {
	switch {
	case r >= 0x80 && r < 0xa0, r == 0x2028, r == 0x2029, r == 0xfeff:
		return true
	case r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069:
		return true
	default:
		return false
	}
}

// checkMarkers refuses what ends a YAML document or starts another, and
// directives. At the start of a line these are markers whatever surrounds them.
func checkMarkers(doc Document, refuse func(at int, message, fix string) bool) bool {
	content := false
	for at := 0; at < len(doc.Data); {
		line := doc.Data[at:]
		if end := bytes.IndexByte(line, '\n'); end >= 0 {
			line = line[:end]
		}
		next := at + len(line) + 1
		switch {
		case isMarker(line, "---"):
			if content {
				return refuse(at, "a second YAML document starts here", "put it in a file of its own")
			}
			content = true
		case isMarker(line, "..."):
			return refuse(at, "the YAML document ends here", "remove the line")
		case bytes.HasPrefix(line, []byte("%")) && !content:
			return refuse(at, "a YAML directive", "remove the line")
		default:
			trimmed := bytes.TrimSpace(line)
			content = content || (len(trimmed) > 0 && trimmed[0] != '#')
		}
		at = next
	}
	return true
}

func isMarker(line []byte, marker string) bool {
	rest, found := bytes.CutPrefix(line, []byte(marker))
	return found && (len(rest) == 0 || rest[0] == ' ' || rest[0] == '\t' || rest[0] == '\r')
}

func placeOf(doc Document, offset int) position {
	before := doc.Data[:offset]
	line := 1 + bytes.Count(before, []byte("\n"))
	start := bytes.LastIndexByte(before, '\n') + 1
	return position{doc.Name, line, 1 + utf8.RuneCount(before[start:])}
}

// syntaxError takes the line out of what the YAML parser says, "yaml: line 3: …".
func syntaxError(doc Document, err error) (position, string) {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	at := position{doc.Name, 1, 1}
	var anchor string
	if _, err := fmt.Sscanf(text, "unknown anchor '%s", &anchor); err == nil {
		if i := bytes.Index(doc.Data, []byte("*"+strings.TrimSuffix(anchor, "'"))); i >= 0 {
			return placeOf(doc, i), "an alias without anchor"
		}
	}
	if rest, found := strings.CutPrefix(text, "line "); found {
		number, message, _ := strings.Cut(rest, ": ")
		if line, err := strconv.Atoi(number); err == nil && line > 0 {
			at.line, text = line, message
		}
	}
	return at, text
}

// addSchemaErrors notes what protoyaml refused and strict did not: a net below
// it, for a schema that grows a type which strict does not know.
func (d *reader) addSchemaErrors(err error) {
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) {
		if err != nil {
			d.fault(d.root, err.Error(), "")
		}
		return
	}
	for _, one := range joined.Unwrap() {
		text, _, _ := strings.Cut(one.Error(), "\n")
		place, message, _ := strings.Cut(text, " ")
		at := d.root
		var line, column int
		if _, err := fmt.Sscanf(place, ":%d:%d", &line, &column); err == nil {
			at = &yaml.Node{Line: line, Column: column}
		}
		if !d.bad[spot{at.Line, at.Column}] {
			d.fault(at, message, "")
		}
	}
}
