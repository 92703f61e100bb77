package cli

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/kelpie-authz/kelpie/internal/testkit"
)

// What a flag names goes before what a variable names, whichever way somebody is known by.
func TestCredential(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		testkit.WriteFile(t, path, []byte(text))
		return path
	}
	admin, human, other := file("admin", "a\n"), file("human", "h\n"), file("other", "o\n")
	empty, none := file("empty", " \n"), filepath.Join(dir, "none")
	byAdmin, byHuman, certVariable := adminVariable+"="+admin, humanVariable+"="+human, "KELPIE_TLS_CERT=cert.pem"
	for _, tt := range []struct {
		name, variables, flags string
		known                  bool
		want, err              string
	}{
		{"the admin token of a flag", "", "--admin-token-file " + other, false, "o", ""},
		{"a token of a flag", "", "--token-file " + other, false, "o", ""},
		{"two flags", "", "--token-file " + human + " --admin-token-file " + admin, false, "", "give --token-file or --admin-token-file"},
		{"a token of a variable", byHuman, "", false, "h", ""},
		{"the admin token of a variable", byAdmin, "", false, "a", ""},
		{"two variables", byHuman + " " + byAdmin, "", false, "", "named, by " + humanVariable + " and " + adminVariable},
		{"a token of a flag beats the admin token", byAdmin, "--token-file " + other, false, "o", ""},
		{"the admin token of a flag beats a token", byHuman, "--admin-token-file " + other, false, "o", ""},
		{"a certificate of flags beats the admin token", byAdmin, "--tls-cert c --tls-key k", false, "", ""},
		{"a certificate of flags beats a token", byHuman, "--tls-cert c --tls-key k", false, "", ""},
		{"a token beside a certificate, both of flags", "", "--tls-cert c --tls-key k --token-file " + other, false, "o", ""},
		{"a token beats a certificate of a variable", byHuman + " " + certVariable, "", false, "h", ""},
		{"a certificate of a variable", certVariable, "", false, "", ""},
		{"an empty admin token", "", "--admin-token-file " + empty, false, "", "the admin token cannot be read: " + empty + " is empty; it is in the server's state directory"},
		{"an empty token", "", "--token-file " + empty, false, "", "--token-file: " + empty + " is empty"},
		{"no token of a flag", "", "--token-file " + none, false, "", "--token-file: open " + none},
		{"no token of a variable", humanVariable + "=" + none, "", false, "", humanVariable + ": open " + none},
		{"nothing, where it will not", "", "", true, "", "nothing says who you are"},
		{"a variable, where it will not", byAdmin, "", true, "", "nothing says who you are"},
		{"two variables, where it will not", byHuman + " " + byAdmin, "", true, "h", ""},
	} {
		f := adminFlags{}
		set := pflag.NewFlagSet("", pflag.ContinueOnError)
		f.registerHuman(set)
		f.known = tt.known
		if err := set.Parse(strings.Fields(tt.flags)); err != nil {
			t.Fatal(err)
		}
		env := &Env{Lookup: func(name string) (string, bool) {
			for variable := range strings.FieldsSeq(tt.variables) {
				if value, is := strings.CutPrefix(variable, name+"="); is {
					return value, true
				}
			}
			return "", false
		}}
		got, err := f.credential(env)
		if got != tt.want || (err != nil) != (tt.err != "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: %q, %v; want %q, %q", tt.name, got, err, tt.want, tt.err)
		}
		if err == nil && f.shown == "" {
			t.Errorf("%s: a server that refuses it leaves open what it was", tt.name)
		}
	}
}

// Who names no token is told of each way to be known.
func TestNoCredential(t *testing.T) {
	t.Parallel()
	none := filepath.Join(t.TempDir(), "none")
	for human, want := range map[bool]string{
		false: "name it with --admin-token-file",
		true:  "name it with --admin-token-file, or say who you are with --token-file or --tls-cert",
	} {
		f := adminFlags{human: human}
		if _, err := f.token(none, ""); err == nil || !strings.HasSuffix(err.Error(), want) || !strings.Contains(err.Error(), "open "+none) {
			t.Errorf("human %v: %v, want %q", human, err, want)
		}
	}
}

// What a server says of a field is told of its flag, and of an argument as it is.
func TestFieldsAreNamedByTheirFlags(t *testing.T) {
	t.Parallel()
	var vote, glass, limits adminFlags
	vote.set = newApprovalsApprove(&Env{}).Flags()
	glass.set = newBreakGlassOpen(&Env{}).Flags()
	limits.set = newLimitsReset(&Env{}).Flags()
	for _, tt := range []struct {
		f          *adminFlags
		said, want string
	}{
		{&vote, "as is missing: the admin token", "--as is missing: the admin token"},
		{&vote, "as is given, and you are known as ann; leave it out", "--as is given, and you are known as ann; leave it out"},
		{&vote, "standing is not possible: x", "--standing is not possible: x"},
		{&vote, "standing.uses is out of range; write 1 to 1000", "--standing is out of range; write 1 to 1000"},
		{&vote, "standing.within is out of range; write at most 720h", "--for is out of range; write at most 720h"},
		{&vote, "standing.resource does not match", "--resource does not match"},
		{&vote, "standing.max_cost: must be finite", "--max-cost: must be finite"},
		{&vote, "standing.bounds names one member twice: a", "--bound names one member twice: a"},
		{&vote, "standing.bounds[0].name is missing; write it", "--bound is missing; write it"},
		{&vote, "reason is longer than 2048 bytes; shorten it", "--reason is longer than 2048 bytes; shorten it"},
		{&vote, "id is not an approval's", "id is not an approval's"},
		{&vote, "malformed", "malformed"},
		{&glass, "within is out of range; write at most 1h", "--for is out of range; write at most 1h"},
		{&glass, "ticket is missing; write it", "--ticket is missing; write it"},
		{&limits, "limit is none of the policy's", "--limit is none of the policy's"},
		{&limits, "agent is not known", "agent is not known"},
	} {
		if got := tt.f.byFlag(tt.said); got != tt.want {
			t.Errorf("%q becomes %q, want %q", tt.said, got, tt.want)
		}
	}
}
