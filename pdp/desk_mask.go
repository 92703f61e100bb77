package pdp

import (
	"regexp"
	"strings"
)

// masked stands for a value that looks like a secret.
const masked = "[masked]"

// maskedText is what approvers see of a member's text. A secret is masked whole;
// of a card or an account the last four characters are left, by which a person
// knows it.
func maskedText(name, text string) (shown string, hidden bool) {
	plain := strings.NewReplacer("_", "", "-", "", " ", "", ".", "").Replace(strings.ToLower(name))
	switch {
	case text == "":
		return text, false
	case namesSecret(plain) || looksSecret(text):
		return masked, true
	case namesAccount(plain) || holdsCard(text) || isIBAN(text):
		return maskedAccount(text), true
	}
	return text, false
}

func maskedAccount(text string) string {
	const least, left, digits = 12, 4, "0123456789"
	plain := strings.NewReplacer(" ", "", "-", "").Replace(text)
	if len(plain) < least || strings.Trim(plain[len(plain)-left:], digits) != "" {
		return masked
	}
	return masked + "..." + plain[len(plain)-left:]
}

func namesSecret(plain string) bool {
	for _, part := range [...]string{
		"password", "passwd", "passphrase", "secret", "token", "apikey", "accesskey", "privatekey", "signingkey", "encryptionkey",
		"authorization", "credential", "cookie", "bearer", "sessionkey", "connectionstring", "kennwort", "mnemonic",
	} {
		if strings.Contains(plain, part) {
			return true
		}
	}
	switch plain {
	case "pwd", "pass", "pin", "otp", "auth", "jwt", "key", "cvv", "cvc", "csc", "dsn", "ssn", "totp", "mfa":
		return true
	}
	return false
}

func namesAccount(plain string) bool {
	for _, part := range [...]string{"iban", "cardnumber", "creditcard", "debitcard", "accountnumber", "taxid", "socialsecurity"} {
		if strings.Contains(plain, part) {
			return true
		}
	}
	return plain == "card" || plain == "pan"
}

// secretForms are what secrets look like by themselves: headers, private keys,
// addresses with a password, and the forms that issuers give their keys.
var secretForms = regexp.MustCompile(`(?i:` +
	`\b(?:bearer|basic)\s+[a-z0-9+/=._~-]{8,}` +
	`|-----begin [a-z0-9 ]*private key` +
	`|[a-z][a-z0-9+.-]*://[^/?#\s]*:[^/?#\s]*@` +
	`|\b(?:access_token|id_token|refresh_token|token|api_?key|sig|signature|password|passwd|pwd|secret|client_secret)\s*[:=]\s*\S)` +
	`|\beyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]*` +
	`|\b(?:sk|pk|rk)[-_](?:[A-Za-z0-9]+[-_])*[A-Za-z0-9]{12,}` +
	`|\bgh[a-z]_[A-Za-z0-9]{16,}|\bgithub_pat_[A-Za-z0-9_]{16,}|\bglpat-[A-Za-z0-9_-]{12,}` +
	`|\bxox[a-z]-[A-Za-z0-9-]{8,}|\b(?:AKIA|ASIA)[A-Z0-9]{12,}|\bAIza[A-Za-z0-9_-]{20,}` +
	`|\bwhsec_[A-Za-z0-9+/=]{8,}|\bya29\.[A-Za-z0-9_-]{12,}`)

// longRun is what random keys without a form of their own look like.
var longRun = regexp.MustCompile(`[A-Za-z0-9+/_-]{24,}`)

var uuidForm = regexp.MustCompile(`^[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`)

// looksSecret errs towards yes: what it hides is bound by the digest all the
// same.
func looksSecret(text string) bool {
	if secretForms.MatchString(text) {
		return true
	}
	for _, run := range longRun.FindAllString(text, -1) {
		if !uuidForm.MatchString(run) && looksRandom(run) {
			return true
		}
	}
	return false
}

// looksRandom tells a random run from a long name or path: it goes to and fro
// between digits, capitals and small letters.
func looksRandom(run string) bool {
	kind := func(c byte) int {
		switch {
		case c >= '0' && c <= '9':
			return 1
		case c >= 'a' && c <= 'z':
			return 2
		case c >= 'A' && c <= 'Z':
			return 3
		default:
			return 0
		}
	}
	turns, digits := 0, 0
	for i := range len(run) {
		is := kind(run[i])
		if is == 1 {
			digits++
		}
		if i > 0 && is != 0 && kind(run[i-1]) != 0 && is != kind(run[i-1]) {
			turns++
		}
	}
	return digits > 0 && turns*5 >= len(run)
}

var cardForm = regexp.MustCompile(`\b[3-6](?:[ -]?\d){12,18}\b`)

// holdsCard tells whether a text holds the number of a payment card: 13 to 19
// digits whose check digit is right (ISO/IEC 7812-1, annex B).
func holdsCard(text string) bool {
	for _, run := range cardForm.FindAllString(text, -1) {
		sum, double := 0, false
		for i := len(run) - 1; i >= 0; i-- {
			if run[i] < '0' {
				continue
			}
			n := int(run[i] - '0')
			if double {
				if n *= 2; n > 9 {
					n -= 9
				}
			}
			sum, double = sum+n, !double
		}
		if sum%10 == 0 {
			return true
		}
	}
	return false
}

var ibanForm = regexp.MustCompile(`^[A-Z]{2}\d{2}[A-Z0-9]{11,30}$`)

// isIBAN tells whether a text is the number of an account whose check digits are
// right (ISO 13616-1).
func isIBAN(text string) bool {
	plain := strings.ToUpper(strings.ReplaceAll(text, " ", ""))
	if !ibanForm.MatchString(plain) {
		return false
	}
	rest := 0
	for _, c := range plain[4:] + plain[:4] {
		if c >= 'A' {
			rest = (rest*100 + int(c-'A') + 10) % 97
		} else {
			rest = (rest*10 + int(c-'0')) % 97
		}
	}
	return rest == 1
}
