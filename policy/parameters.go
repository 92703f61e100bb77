package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

const (
	// MaxParametersBytes bounds a call's parameters as JSON.
	MaxParametersBytes = 64 << 10
	// maxInteger is the largest integer that every JSON implementation keeps exact (RFC 8259, section 6).
	maxInteger = 1<<53 - 1
	// keptDigits is how many significant digits of any number a double keeps,
	// and mostDigits how many it takes to write any double.
	keptDigits, mostDigits = 15, 17
)

// ParseParameters reads a call's parameters: one JSON object (RFC 8259) in
// UTF-8 with unique names at every depth, of at most 64 KiB, at most 32
// objects and lists inside each other (the outermost object is the first),
// without unpaired surrogates.
//
// A number written without ., e and E is an integer, comes back as int64 and
// must be within ±(2^53-1); every other one is a float64, 1.0 and 1e3 too, and
// must not be beyond its range, below it (1e-400 is not 0) or of more than 17
// significant digits. Beyond ±(2^53-1) it has at most 15, which a double keeps
// apart (DBL_DIG of C11, 5.2.4.2.2). With more, a rule would see another number
// than the tool, and two calls would share an approval's digest, since RFC 8785
// takes numbers for doubles. -0 is the integer 0.
//
// The result is Complete and keeps raw, which must not be changed after. An
// error says what is wrong and where, and repeats nothing of the content. An
// empty raw is an error: a call without parameters has the zero Parameters.
func ParseParameters(raw []byte) (Parameters, error) {
	if len(raw) > MaxParametersBytes {
		return Parameters{}, tooLong("parameters", len(raw), MaxParametersBytes)
	}
	p := parameterParser{raw: raw, dec: jsontext.NewDecoder(bytes.NewReader(raw))}
	if p.dec.PeekKind() != '{' {
		return Parameters{}, p.outermost()
	}
	values, err := p.object(1)
	if err != nil {
		return Parameters{}, err
	}
	if _, err := p.dec.ReadToken(); !errors.Is(err, io.EOF) {
		return Parameters{}, fmt.Errorf("parameters: something follows the object at byte %d; send one JSON object", p.dec.InputOffset())
	}
	return Parameters{State: ParametersComplete, Raw: raw, Values: values}, nil
}

type parameterParser struct {
	raw []byte
	dec *jsontext.Decoder
}

func (p *parameterParser) outermost() error {
	if _, err := p.dec.ReadToken(); err != nil {
		return p.syntax(err)
	}
	return errors.New("parameters are not a JSON object; send one in { and }")
}

// syntax says what the decoder refused, without the bytes it shows.
func (p *parameterParser) syntax(err error) error {
	at := p.dec.InputOffset()
	var syntactic *jsontext.SyntacticError
	switch {
	case errors.Is(err, jsontext.ErrDuplicateName):
		return fmt.Errorf("parameters: a name is given twice at byte %d; give each once", at)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("parameters: the JSON ends early at byte %d; send it whole", len(p.raw))
	case errors.As(err, &syntactic):
		return fmt.Errorf("parameters: not JSON in UTF-8 at byte %d; send one well-formed JSON object", syntactic.ByteOffset)
	default:
		return fmt.Errorf("parameters: read: %w", err)
	}
}

func (p *parameterParser) object(depth int) (map[string]any, error) {
	if err := p.open(depth); err != nil {
		return nil, err
	}
	values := map[string]any{}
	for p.dec.PeekKind() != '}' {
		name, err := p.dec.ReadToken()
		if err != nil {
			return nil, p.syntax(err)
		}
		key := name.String()
		value, err := p.value(depth)
		if err != nil {
			return nil, err
		}
		values[key] = value
	}
	return values, p.end()
}

func (p *parameterParser) list(depth int) ([]any, error) {
	if err := p.open(depth); err != nil {
		return nil, err
	}
	values := []any{}
	for p.dec.PeekKind() != ']' {
		value, err := p.value(depth)
		if err != nil {
			return nil, err
		}
		values = append(values, value)
	}
	return values, p.end()
}

func (p *parameterParser) open(depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("parameters are more than %d deep at byte %d; flatten them", maxDepth, p.dec.InputOffset())
	}
	return p.end()
}

// end reads the token that opens or closes an object or list.
func (p *parameterParser) end() error {
	if _, err := p.dec.ReadToken(); err != nil {
		return p.syntax(err)
	}
	return nil
}

func (p *parameterParser) value(depth int) (any, error) {
	switch p.dec.PeekKind() {
	case '{':
		return p.object(depth + 1)
	case '[':
		return p.list(depth + 1)
	}
	token, err := p.dec.ReadToken()
	if err != nil {
		return nil, p.syntax(err)
	}
	switch token.Kind() {
	case 'n':
		return nil, nil //nolint:nilnil // JSON's null is a value like any other
	case 't', 'f':
		return token.Bool(), nil
	case '"':
		return token.String(), nil
	case '0':
		return p.number(token.String())
	default:
		return nil, fmt.Errorf("parameters: unexpected token at byte %d; send one well-formed JSON object", p.dec.InputOffset())
	}
}

func (p *parameterParser) number(text string) (any, error) {
	for i := range len(text) {
		if c := text[i]; c == '.' || c == 'e' || c == 'E' {
			f, err := strconv.ParseFloat(text, 64)
			if err != nil || math.IsInf(f, 0) {
				return nil, fmt.Errorf("parameters: a number before byte %d is beyond the range of a double; send it as a text", p.dec.InputOffset())
			}
			if digits := significantDigits(text); digits > mostDigits || digits > 0 && f == 0 || digits > keptDigits && math.Abs(f) > maxInteger {
				return nil, fmt.Errorf("parameters: a number before byte %d is not within ±(2^53-1), or more exact than a double; send it as a text",
					p.dec.InputOffset())
			}
			return f, nil
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n > maxInteger || n < -maxInteger {
		return nil, fmt.Errorf("parameters: an integer before byte %d is not within ±(2^53-1); send it as a text", p.dec.InputOffset())
	}
	return n, nil
}

// significantDigits counts the digits of a JSON number from its first that is
// not 0 to its last that is not.
func significantDigits(text string) int {
	digits, zeros := 0, 0
	for i := range len(text) {
		switch c := text[i]; {
		case c == 'e' || c == 'E':
			return digits
		case c == '0':
			zeros++
		case '1' <= c && c <= '9':
			if digits > 0 {
				digits += zeros
			}
			digits++
			zeros = 0
		}
	}
	return digits
}
