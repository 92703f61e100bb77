package policy

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"unicode/utf8"
)

// The longest fields of a request, in bytes. They are the max_bytes of
// authz.proto, for the doors that do not come through it.
const (
	MaxAgentBytes    = 1024
	MaxActionBytes   = 256
	MaxResourceBytes = 2048
	MaxContextBytes  = 64 << 10
	maxAddressBytes  = 64
)

// CheckAgent returns what makes an agent's id malformed, or nil: nothing in
// it, too many bytes, not UTF-8, a control character, %, a trailing slash, a
// segment . or .. between slashes. Empty segments are well-formed: ids are often URIs.
func CheckAgent(id string) error {
	if err := checkBytes("agent", id, MaxAgentBytes); err != nil {
		return err
	}
	start := 0
	for i := 0; i <= len(id); i++ {
		if i < len(id) && id[i] != '/' {
			if id[i] == '%' {
				return errors.New("agent holds %; write the id decoded")
			}
			continue
		}
		if isDots(id[start:i]) {
			return errors.New("agent has a segment . or ..; write the id without")
		}
		start = i + 1
	}
	if id[len(id)-1] == '/' {
		return errors.New("agent ends with a slash; leave it out")
	}
	return nil
}

// CheckAction returns what makes an action malformed, or nil: nothing in it,
// too many bytes, a byte that is not printable ASCII, an empty segment between . and /.
func CheckAction(action string) error {
	if action == "" {
		return errors.New("action is missing; write what the agent wants to do, such as read")
	}
	if len(action) > MaxActionBytes {
		return tooLong("action", len(action), MaxActionBytes)
	}
	separated := true
	for i := range len(action) {
		switch c := action[i]; {
		case c >= utf8.RuneSelf:
			return errors.New("action holds a byte that is not ASCII; write ASCII letters, digits and punctuation")
		case c < ' ' || c == 0x7f:
			return errors.New("action holds a control character; remove it")
		case c == '.' || c == '/':
			if separated {
				return errEmptyActionSegment
			}
			separated = true
		default:
			separated = false
		}
	}
	if separated {
		return errEmptyActionSegment
	}
	return nil
}

var errEmptyActionSegment = errors.New("action has an empty segment; write something before, between and after . and /")

// CheckResource returns what makes a resource malformed, or nil: nothing in
// it, too many bytes, not UTF-8, a control character, a leading or trailing
// slash, an empty, . or .. segment, a backslash, %2e, %2f or %5c in any case.
func CheckResource(resource string) error {
	if err := checkBytes("resource", resource, MaxResourceBytes); err != nil {
		return err
	}
	start := 0
	for i := 0; i <= len(resource); i++ {
		if i < len(resource) && resource[i] != '/' {
			switch resource[i] {
			case '\\':
				return errors.New(`resource holds a backslash; separate segments with /`)
			case '%':
				if isEncodedSeparator(resource[i+1:]) {
					return errors.New("resource holds %2e, %2f or %5c; decode it exactly once before asking")
				}
			}
			continue
		}
		if segment := resource[start:i]; segment == "" || isDots(segment) {
			return segmentError(segment, start, i, len(resource))
		}
		start = i + 1
	}
	return nil
}

func segmentError(segment string, start, end, length int) error {
	switch {
	case segment != "":
		return errors.New("resource has a segment . or ..; resolve it before asking")
	case start == 0:
		return errors.New("resource starts with a slash; leave it out")
	case end == length:
		return errors.New("resource ends with a slash; leave it out")
	default:
		return errors.New("resource has an empty segment; write one slash between segments")
	}
}

func isDots(segment string) bool { return segment == "." || segment == ".." }

// isEncodedSeparator tells whether what follows a % is 2e, 2f or 5c in any case.
func isEncodedSeparator(s string) bool {
	if len(s) < 2 {
		return false
	}
	switch low := s[1] | 0x20; s[0] {
	case '2':
		return low == 'e' || low == 'f'
	case '5':
		return low == 'c'
	default:
		return false
	}
}

// CheckText returns what makes an optional text of a request (subject,
// session_id, run_id, a tool's name or server, request_id) malformed, or nil:
// more than maxBytes bytes, not UTF-8, a control character. Empty is well-formed. The
// error starts with name.
func CheckText(name, value string, maxBytes int) error {
	if value == "" {
		return nil
	}
	return checkBytes(name, value, maxBytes)
}

func checkBytes(name, value string, maxBytes int) error {
	if value == "" {
		return fmt.Errorf("%s is missing; write it", name)
	}
	if len(value) > maxBytes {
		return tooLong(name, len(value), maxBytes)
	}
	for i := range len(value) {
		c := value[i]
		if c < ' ' || c == 0x7f {
			return fmt.Errorf("%s holds a control character; remove it", name)
		}
		if c >= utf8.RuneSelf {
			return checkWide(name, value[i:])
		}
	}
	return nil
}

// checkWide checks a text from its first byte on that is not ASCII.
func checkWide(name, value string) error {
	for i := 0; i < len(value); {
		r, size := utf8.DecodeRuneInString(value[i:])
		if r == utf8.RuneError && size == 1 {
			return fmt.Errorf("%s is not UTF-8; encode it as UTF-8", name)
		}
		if r < ' ' || (r >= 0x7f && r < 0xa0) {
			return fmt.Errorf("%s holds a control character; remove it", name)
		}
		i += size
	}
	return nil
}

func tooLong(name string, length, most int) error {
	return fmt.Errorf("%s has %d bytes; write at most %d", name, length, most)
}

// ParseSourceIP reads a request's source address. Empty is the zero Addr: the
// address is unknown. An IPv4 address in IPv6 form comes back as the IPv4
// address that it is. Ports, zones, brackets, prefixes, leading zeros in IPv4
// and anything else that is no single address are refused.
func ParseSourceIP(s string) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, nil
	}
	if len(s) > maxAddressBytes {
		return netip.Addr{}, tooLong("source_ip", len(s), maxAddressBytes)
	}
	if strings.IndexByte(s, '%') >= 0 {
		return netip.Addr{}, errors.New("source_ip has a zone; leave out % and what follows")
	}
	addr, err := netip.ParseAddr(s)
	if err == nil {
		return addr.Unmap(), nil
	}
	if _, err := netip.ParseAddrPort(s); err == nil {
		return netip.Addr{}, fmt.Errorf("source_ip %s has a port; write the address alone", quote(s))
	}
	return netip.Addr{}, fmt.Errorf("source_ip %s is not an address; write one such as 10.8.0.5 or fd00::5, without zone, leading zeros or brackets", quote(s))
}

// CheckCost returns what makes a cost malformed, or nil: NaN, infinite, negative.
func CheckCost(cost float64) error {
	// One comparison holds for numbers from 0 to the largest, and not for NaN.
	if cost >= 0 && cost <= math.MaxFloat64 {
		return nil
	}
	return errors.New("cost is negative or not a finite number; write 0 or more")
}

// CheckContext returns what makes a request's context malformed, or nil: more
// than 32 maps and lists inside each other (the context itself is the first),
// about 64 KiB (names and texts by their bytes, and 8 for each value), text that is not UTF-8, a
// name with a control character, a number that is not finite, a type that
// google.protobuf.Struct cannot hold.
func CheckContext(context map[string]any) error {
	if len(context) == 0 {
		return nil
	}
	left := MaxContextBytes
	return checkMembers(context, 1, &left)
}

func checkMembers(members map[string]any, depth int, left *int) error {
	if depth > maxDepth {
		return fmt.Errorf("context is more than %d deep; flatten it", maxDepth)
	}
	for name, value := range members {
		if err := CheckText("a name in context", name, MaxContextBytes); err != nil {
			return err
		}
		*left -= len(name)
		if err := checkContextValue(value, depth, left); err != nil {
			return err
		}
	}
	return nil
}

func checkContextValue(value any, depth int, left *int) error {
	*left -= 8
	if text, ok := value.(string); ok {
		*left -= len(text)
	}
	if *left < 0 {
		return fmt.Errorf("context has more than %d bytes; send less", MaxContextBytes)
	}
	switch v := value.(type) {
	case nil, bool:
		return nil
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return errors.New("context holds a number that is not finite; send a finite one")
		}
		return nil
	case string:
		if !utf8.ValidString(v) {
			return errors.New("context holds a text that is not UTF-8; encode it as UTF-8")
		}
		return nil
	case []any:
		if depth+1 > maxDepth {
			return fmt.Errorf("context is more than %d deep; flatten it", maxDepth)
		}
		for _, item := range v {
			if err := checkContextValue(item, depth+1, left); err != nil {
				return err
			}
		}
		return nil
	case map[string]any:
		return checkMembers(v, depth+1, left)
	default:
		return fmt.Errorf("context holds a %T; send what JSON can hold", value)
	}
}
