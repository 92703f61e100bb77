package pdp

import (
	"regexp"
	"strings"

	"github.com/kelpie-authz/kelpie/audit"
)

// maskedText is what approvers see of a member's text. A secret is masked whole;
// of a card or an account the last four characters are left, by which a person
// knows it.
func maskedText(name, text string) (shown string, hidden bool) {
	plain := strings.NewReplacer("_", "", "-", "", " ", "", ".", "").Replace(strings.ToLower(name))
	switch {
	case text == "":
		return text, false
	case audit.NamesSecret(name) || audit.LooksSecret(text):
		return audit.Masked, true
	case namesAccount(plain) || holdsCard(text) || isIBAN(text):
		return maskedAccount(text), true
	}
	return text, false
}

func maskedAccount(text string) string {
	const least, left, digits = 12, 4, "0123456789"
	plain := strings.NewReplacer(" ", "", "-", "").Replace(text)
	if len(plain) < least || strings.Trim(plain[len(plain)-left:], digits) != "" {
		return audit.Masked
	}
	return audit.Masked + "..." + plain[len(plain)-left:]
}

func namesAccount(plain string) bool {
	for _, part := range [...]string{"iban", "cardnumber", "creditcard", "debitcard", "accountnumber", "taxid", "socialsecurity"} {
		if strings.Contains(plain, part) {
			return true
		}
	}
	return plain == "card" || plain == "pan"
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
