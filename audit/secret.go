package audit

import (
	"regexp"
	"slices"
	"strings"
)

// NamesSecret tells whether a member of this name holds a secret. Case and what
// separates words do not matter. It is the one list of such names: what a record
// and what an approver is shown are masked alike.
func NamesSecret(name string) bool {
	full := name
	name = strings.NewReplacer("_", "", "-", "", " ", "", ".", "").Replace(strings.ToLower(name))
	for _, part := range [...]string{
		"password", "passwd", "passphrase", "secret", "token", "apikey", "accesskey", "privatekey", "signingkey", "encryptionkey",
		"authorization", "credential", "cookie", "bearer", "sessionkey", "connectionstring", "kennwort", "mnemonic",
	} {
		if strings.Contains(name, part) {
			return true
		}
	}
	switch name {
	case "pwd", "pass", "pin", "otp", "auth", "jwt", "key", "cvv", "cvc", "csc", "dsn", "ssn", "totp", "mfa", "passcode", "pincode", "sid", "sessionid":
		return true
	}
	for _, end := range [...]string{"pwd", "pass", "passcode", "sshkey", "pin"} {
		if words, ok := strings.CutSuffix(plainEnd(full), end); ok && strings.HasSuffix(words, "_") {
			return true
		}
	}
	return false
}

// plainEnd writes what separates words as one character, so that the last word of
// user_pwd and user-pwd is told from that of compass.
func plainEnd(name string) string {
	return strings.NewReplacer("-", "_", " ", "_", ".", "_").Replace(strings.ToLower(name))
}

// secretForms are what secrets look like by themselves: the forms that issuers
// give their keys, JSON Web Tokens, private keys, headers, addresses with a password.
var secretForms = regexp.MustCompile(`(?i:` +
	`\b(?:bearer|basic)\s+[a-z0-9+/=._~-]{8,}` +
	`|-----begin [a-z0-9 ]*private key` +
	`|[a-z][a-z0-9+.-]*://[^/?#\s]*:[^/?#\s]*@` +
	`|[?&;](?:key|x-amz-signature)=` +
	`|\b(?:access_token|id_token|refresh_token|token|api_?key|sig|signature|password|passwd|pwd|secret|client_secret)\s*[:=]\s*\S)` +
	`|\beyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]*` +
	`|\b(?:sk|pk|rk)[-_](?:[A-Za-z0-9]+[-_])*[A-Za-z0-9]{12,}` +
	`|\bgh[a-z]_[A-Za-z0-9]{16,}|\bgithub_pat_[A-Za-z0-9_]{16,}|\bglpat-[A-Za-z0-9_-]{12,}` +
	`|\bxox[a-z]-[A-Za-z0-9-]{8,}|\b(?:AKIA|ASIA)[A-Z0-9]{12,}|\bAIza[A-Za-z0-9_-]{20,}` +
	`|\b(?:kelpie|klp)_[A-Za-z0-9_-]{12,}|\bwhsec_[A-Za-z0-9+/=]{8,}|\bya29\.[A-Za-z0-9_-]{12,}`)

var (
	uuidForm = regexp.MustCompile(`^[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`)
	longRun  = regexp.MustCompile(`[A-Za-z0-9+/_-]{24,}={0,2}`)
)

// LooksSecret tells whether a text looks like a secret, or holds one. It errs
// towards yes: what it hides is still bound by the digest.
func LooksSecret(text string) bool {
	if secretForms.MatchString(text) {
		return true
	}
	for _, run := range longRun.FindAllString(text, -1) {
		if !uuidForm.MatchString(run) && mixed(run) {
			return true
		}
	}
	return false
}

// MaskSecrets writes [Masked] in the place of whatever in a text looks like a secret,
// and leaves the rest to be seen: who has to judge the text is not kept from reading
// it by a word that looks like one. It hides what LooksSecret finds.
func MaskSecrets(text string) string {
	spans := secretForms.FindAllStringIndex(text, -1)
	for _, span := range spans {
		span[1] = secretEnd(text, span[0], span[1])
	}
	for _, span := range longRun.FindAllStringIndex(text, -1) {
		if run := text[span[0]:span[1]]; !uuidForm.MatchString(run) && mixed(run) {
			spans = append(spans, span)
		}
	}
	if len(spans) == 0 {
		return text
	}
	slices.SortFunc(spans, func(a, b []int) int { return a[0] - b[0] })
	var out strings.Builder
	at := 0
	for _, span := range spans {
		if span[0] >= at {
			out.WriteString(text[at:span[0]] + Masked)
		}
		at = max(at, span[1])
	}
	out.WriteString(text[at:])
	return out.String()
}

// secretEnd is where a secret ends that was found by its beginning.
func secretEnd(text string, from, to int) int {
	found, rest := text[from:to], text[to:]
	until := func(set string) int {
		if end := strings.IndexAny(rest, set); end >= 0 {
			return to + end
		}
		return len(text)
	}
	const lineEnds = "\n\r\u2028\u2029\u0085"
	switch last := found[len(found)-1]; {
	case strings.HasPrefix(found, "-----"):
		return len(text) // What follows is the key.
	case last == '@' && strings.Contains(found, "://"):
		return to // The address behind it is no secret.
	case (last == '"' || last == '\'' || last == '`') && strings.ContainsAny(found, ":="):
		return until(string(last)) // To the end of the quotes.
	case phraseForm.MatchString(found):
		return until(";" + lineEnds) // It can have spaces in it.
	default:
		return until(" \t" + lineEnds)
	}
}

// phraseForm is of what names a secret that a human may have chosen.
var phraseForm = regexp.MustCompile(`(?i)^(?:password|passwd|pwd|secret|client_secret)\s*[:=]`)

// mixed tells a run of random characters from a long name or a path: it turns
// between digits and letters often, or is a long number in hex.
func mixed(run string) bool {
	turns, digits, was := 0, 0, byte(0)
	for i := range len(run) {
		class := classOf(run[i])
		if class == 'd' {
			digits++
		}
		if i > 0 && class != was && class != '-' && was != '-' {
			turns++
		}
		was = class
	}
	return digits > 0 && turns*5 >= len(run)
}

func classOf(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return 'd'
	case c >= 'a' && c <= 'z':
		return 'l'
	case c >= 'A' && c <= 'Z':
		return 'u'
	default:
		return '-'
	}
}
