package pdp

import (
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// humanKey is what two names share that could be one human's: a subject and an
// approver, or two members of a group. Who has a key is barred with the others
// that have it, and counts once with them, so that it errs to fewer votes. That a
// name is a member of a group is another matter, and compared byte for byte.
//
// Left out of account are: how Unicode composes or styles it (NFKC), case, white
// space, invisible characters, accents, letters of other alphabets and digits
// that look like a Latin letter, and in an address the tag behind + and a dot at
// the end.
func humanKey(name string) string {
	var key strings.Builder
	for _, r := range norm.NFKD.String(unwrapped(name)) {
		if unicode.In(r, unicode.Cf, unicode.Mn, unicode.Me, unicode.Other_Default_Ignorable_Code_Point, unicode.White_Space, unicode.Cc) {
			continue
		}
		key.WriteRune(latin(unicode.ToLower(unicode.ToUpper(latin(r)))))
	}
	text := key.String()
	at := strings.LastIndexByte(text, '@')
	if at < 0 {
		return text
	}
	local, _, _ := strings.Cut(text[:at], "+")
	return local + "@" + strings.TrimRight(text[at+1:], ".")
}

// unwrapped is an address without what mail programs and URIs put around it.
func unwrapped(name string) string {
	for before := ""; before != name; {
		before = name
		if from, to := strings.LastIndexByte(name, '<'), strings.LastIndexByte(name, '>'); from >= 0 && to > from {
			name = name[from+1 : to]
		}
		name = strings.Trim(strings.TrimSpace(name), `<>"'`)
		for _, scheme := range [...]string{"mailto:", "acct:"} {
			if len(name) > len(scheme) && strings.EqualFold(name[:len(scheme)], scheme) {
				name, _, _ = strings.Cut(name[len(scheme):], "?")
			}
		}
		if at := strings.IndexByte(name, '('); at > 0 && strings.HasSuffix(name, ")") {
			name = name[:at] // A comment, as RFC 5322 has it.
		}
	}
	return strings.NewReplacer("%40", "@", `"`, "", "。", ".", "｡", ".").Replace(name)
}

// latin is the Latin letter that a character looks like, or the character itself.
func latin(r rune) rune {
	if r < unicode.MaxASCII {
		switch r {
		case '0':
			return 'o'
		case '1', 'i', 'I', '|':
			return 'l'
		}
		return r
	}
	const pairs = "АaВbЕeКkМmНhОoРpСcТtУyХxЅsІlЈjӀlԌgԚqԜw" + // capitals of Cyrillic,
		"аaвbеeкkмmнhоoрpсcтtуyхxѕsіlјjӏlԁdһhԛqԝwѵvгrпn" + // its small letters,
		"ΑaΒbΕeΖzΗhΙlΚkΜmΝnΟoΡpΤtΥyΧx" + // capitals of Greek,
		"αaγyεeιlκkνvοoρpτtυuχxωwηn" + // its small letters,
		"ılǃlℓløoØo" + // and what is nearer,
		"ɑaʟlᏞlօo‐-‑-–-" // and far
	found := false
	for _, c := range pairs {
		if found {
			return c
		}
		// A Latin letter is never looked for, so that pairs do not run into each other.
		found = c == r
	}
	return r
}
