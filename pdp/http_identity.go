package pdp

import (
	"net/netip"
	"strings"

	"github.com/kelpie-authz/kelpie/policy"
)

func unidentified(why string) *httpFault {
	return &httpFault{ReasonUnauthenticatedIdentity, "The agent's identity was not established: " + why + "."}
}

// noClaim is what is wrong with a token that does not say who.
const noClaim = "the token has no such claim"

// identityFrom takes the id from the first source that the request has. One
// that is there and holds no id is a fault: a caller that could spoil a source
// would otherwise choose the next one. Where the id is optional, a token without
// the claim says that there is none.
func identityFrom(sources []policy.IdentitySource, in *HTTPRequest, optional bool) (string, *httpFault) {
	for i := range sources {
		s := &sources[i]
		id, found, why := lookUp(s, in)
		switch {
		case !found:
		case optional && why == noClaim:
			return "", nil
		case why != "":
			return "", unidentified(why)
		case id == "":
			return "", unidentified("a source is there and empty")
		default:
			return id, nil
		}
	}
	return "", nil
}

func lookUp(s *policy.IdentitySource, in *HTTPRequest) (id string, found bool, why string) {
	switch s.Kind {
	case policy.SourcePrincipal:
		if in.Principal == "" {
			return "", false, ""
		}
		if !isSPIFFE(in.Principal) {
			return "", true, "the peer's certificate has no SPIFFE id"
		}
		return in.Principal, true, ""
	case policy.SourceForwardedClientCert:
		header, found := in.Headers["x-forwarded-client-cert"]
		if !found {
			return "", false, ""
		}
		id, why = forwardedSPIFFE(header, s.Hops)
		return id, true, why
	case policy.SourceJWT:
		if in.Claims == nil {
			return "", false, ""
		}
		claim, found := in.Claims.Claim(s.Name, s.Claim)
		text, ok := claim.(string)
		switch {
		case !found || ok:
			return text, found, ""
		case claim == nil:
			return "", true, noClaim
		default:
			return "", true, "the token's claim is not a text"
		}
	case policy.SourceHeader:
		value, found := in.Headers[s.Name]
		if strings.ContainsAny(value, ", ") {
			return "", true, "the header " + s.Name + " comes twice, or holds a comma or a blank"
		}
		return value, found, ""
	case policy.SourceContextExtension:
		value, found := in.Extensions[s.Name]
		return value, found, ""
	default:
		return "", true, "the policy names a source that this build does not know"
	}
}

// isSPIFFE tells a SPIFFE id (SPIFFE-ID, section 2) from the other names that
// a certificate has.
func isSPIFFE(id string) bool {
	rest, found := strings.CutPrefix(id, "spiffe://")
	domain, path, _ := strings.Cut(rest, "/")
	return found && domain != "" && path != ""
}

// forwardedSPIFFE is the SPIFFE id of one element of x-forwarded-client-cert,
// as Envoy writes it: elements between commas, the nearest proxy's last;
// key=value pairs between semicolons; values may be in double quotes.
func forwardedSPIFFE(header string, hops int) (id, why string) {
	const bad = "x-forwarded-client-cert is not of the form that Envoy writes"
	var ids []string // of each element; "" for one without
	element, uris := "", 0
	for rest := header; ; {
		key, value, end, tail, ok := certPair(rest)
		if !ok {
			return "", bad
		}
		if strings.EqualFold(key, "URI") {
			element = value
			uris++
		}
		if end != ';' {
			if uris > 1 {
				element = ""
			}
			ids = append(ids, element)
			element, uris = "", 0
		}
		if end == 0 {
			break
		}
		rest = tail
	}
	at := len(ids) - 1 - hops
	if at < 0 {
		return "", "x-forwarded-client-cert has fewer elements than the policy's hops"
	}
	if !isSPIFFE(ids[at]) {
		return "", "x-forwarded-client-cert has not exactly one SPIFFE id where the policy looks for it"
	}
	return ids[at], ""
}

// certPair cuts the first key=value off. end is ';' or ',' or, behind the
// last, 0.
func certPair(s string) (key, value string, end byte, rest string, ok bool) {
	key, s, ok = strings.Cut(s, "=")
	if !ok || key == "" || strings.ContainsAny(key, `;,"`) {
		return "", "", 0, "", false
	}
	key = strings.TrimLeft(key, " ")
	if quoted, is := strings.CutPrefix(s, `"`); is {
		value, s, ok = cutQuoted(quoted)
		if !ok {
			return "", "", 0, "", false
		}
	} else {
		n := strings.IndexAny(s, ";,")
		if n < 0 {
			n = len(s)
		}
		value, s = s[:n], s[n:]
	}
	if s == "" {
		return key, value, 0, "", true
	}
	return key, value, s[0], s[1:], s[0] == ';' || s[0] == ','
}

// cutQuoted cuts a text at the double quote that ends it. A backslash stands
// before what is part of the text.
func cutQuoted(s string) (value, rest string, ok bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:], true
		case '\\':
			i++
			if i == len(s) {
				return "", "", false
			}
		}
		b.WriteByte(s[i])
	}
	return "", "", false
}

// sourceAddress is the caller's address: the peer's, or the one that stands in
// x-forwarded-for in front of what the policy's own proxies added. Where that
// header is shorter than it must be the address is unknown, never a nearer one.
func sourceAddress(h *policy.HTTP, in *HTTPRequest, local func(netip.Addr) bool) (string, *httpFault) {
	if h.TrustedHops == 0 {
		return in.Peer, nil
	}
	chain := in.Headers["x-forwarded-for"]
	if h.PeerAppended {
		last, rest := cutLast(chain)
		if !samePeer(last, in.Peer, local) {
			return "", mismatch("the last address of x-forwarded-for is not the proxy's peer; set use_remote_address, or peer_appended: false")
		}
		chain = rest
	}
	address := ""
	for range h.TrustedHops {
		address, chain = cutLast(chain)
	}
	return address, nil
}

// cutLast cuts the last item off a list between commas.
func cutLast(list string) (last, rest string) {
	i := strings.LastIndexByte(list, ',')
	if i < 0 {
		return strings.Trim(list, " \t"), ""
	}
	return strings.Trim(list[i+1:], " \t"), list[:i]
}

// samePeer tells whether a proxy added its peer. For one on its own machine,
// which is Kelpie's too then, Envoy adds an address of the machine instead of the
// loopback one. Any other address is one that a proxy in front added.
func samePeer(added, peer string, local func(netip.Addr) bool) bool {
	a, err := netip.ParseAddr(added)
	if err != nil {
		return false
	}
	p, err := netip.ParseAddr(peer)
	if err != nil {
		return false
	}
	a, p = a.Unmap(), p.Unmap()
	return a == p || p.IsLoopback() && (a.IsLoopback() || local != nil && local(a))
}
