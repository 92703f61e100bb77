package pdp

import (
	"regexp"
	"strings"

	"github.com/kelpie-authz/kelpie/audit"
)

// maskedText is what approvers see of a member's text. One whose name says that it is
// a secret is masked whole, in any other what looks like one is; of a card or an
// account the last four characters are left, by which a person knows it. whole says
// that none of the text is left.
func maskedText(name, text string) (shown string, whole bool) {
	switch {
	case text == "":
		return text, false
	case audit.NamesSecret(name):
		return audit.Masked, true
	case namesAccount(name) || isIBAN(text):
		return maskedAccount(text), true
	}
	shown = maskedCards(audit.MaskSecrets(text))
	return shown, shown != text && (shown == audit.Masked || shown == maskedAccount(text))
}

// namesHidden tells whether whatever a member of this name holds is masked.
func namesHidden(name string) bool { return audit.NamesSecret(name) || namesAccount(name) }

func maskedAccount(text string) string {
	const least, left, digits = 12, 4, "0123456789"
	plain := strings.NewReplacer(" ", "", "-", "").Replace(text)
	if len(plain) < least || strings.Trim(plain[len(plain)-left:], digits) != "" {
		return audit.Masked
	}
	return audit.Masked + "..." + plain[len(plain)-left:]
}

func namesAccount(name string) bool {
	plain := strings.NewReplacer("_", "", "-", "", " ", "", ".", "").Replace(strings.ToLower(name))
	for _, part := range [...]string{"iban", "cardnumber", "creditcard", "debitcard", "accountnumber", "taxid", "socialsecurity"} {
		if strings.Contains(plain, part) {
			return true
		}
	}
	return plain == "card" || plain == "pan"
}

var cardForm = regexp.MustCompile(`\b[3-6](?:[ -]?\d){12,18}\b`)

// maskedCards masks the numbers of payment cards in a text: 13 to 19 digits whose
// check digit is right (ISO/IEC 7812-1, annex B).
func maskedCards(text string) string {
	return cardForm.ReplaceAllStringFunc(text, func(run string) string {
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
		if sum%10 != 0 {
			return run
		}
		return maskedAccount(run)
	})
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
