package policy_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/kelpie-authz/kelpie/policy"
)

// languageCaseCount is how many cases testdata/language holds, so that none is lost unseen.
const languageCaseCount = 175

// languageCase is one named case. Its name begins with the id of the sentence
// of docs/language.md that it shows: "Section/number: what".
type languageCase struct {
	Case string `yaml:"case"`
	// Policy is the text of policy.yaml; Files are several documents instead.
	Policy string            `yaml:"policy"`
	Files  map[string]string `yaml:"files"`
	Asks   []languageAsk     `yaml:"asks"`
	// Errors are "file:line: words": each must be among the compile errors, and ErrorCount is how many there are.
	Errors       []string            `yaml:"errors"`
	ErrorCount   int                 `yaml:"error_count"`
	SameVersion  []map[string]string `yaml:"same_version"`
	OtherVersion []map[string]string `yaml:"other_version"`
	RuleIDs      []string            `yaml:"rule_ids"`
	// Verbs are actions by the class that a policy with a deny rule per class finds.
	Verbs map[string][]string `yaml:"verbs"`
	// Routes are HTTP requests and the calls that they become.
	Routes []string `yaml:"routes"`
	// Refused and Accepted are values of request fields by field.
	Refused  map[string][]string `yaml:"refused"`
	Accepted map[string][]string `yaml:"accepted"`
}

func languageCases(t *testing.T) []languageCase {
	t.Helper()
	files, err := filepath.Glob("testdata/language/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no case files: %v", err)
	}
	var all []languageCase
	for _, name := range files {
		file, err := os.Open(name)
		if err != nil {
			t.Fatalf("open cases: %v", err)
		}
		decoder := yaml.NewDecoder(file)
		decoder.KnownFields(true)
		var cases []languageCase
		if err := decoder.Decode(&cases); err != nil {
			t.Fatalf("read %s: %v", name, err)
		}
		if err := file.Close(); err != nil {
			t.Fatalf("close %s: %v", name, err)
		}
		all = append(all, cases...)
	}
	return all
}

// TestLanguage runs the named cases of the page.
func TestLanguage(t *testing.T) {
	t.Parallel()
	cases := languageCases(t)
	names := map[string]bool{}
	for _, c := range cases {
		if names[c.Case] {
			t.Errorf("two cases are called %q", c.Case)
		}
		names[c.Case] = true
		t.Run(c.Case, func(t *testing.T) {
			t.Parallel()
			c.run(t)
		})
	}
	if len(cases) != languageCaseCount {
		t.Errorf("%d cases, want %d: correct languageCaseCount if that is meant", len(cases), languageCaseCount)
	}
}

func languageDocuments(files map[string]string) []policy.Document {
	var documents []policy.Document
	for _, name := range slices.Sorted(maps.Keys(files)) {
		documents = append(documents, policy.Document{Name: name, Data: []byte(files[name])})
	}
	return documents
}

func (c languageCase) run(t *testing.T) {
	t.Helper()
	c.runFields(t)
	files := c.Files
	if c.Policy != "" {
		files = map[string]string{"policy.yaml": c.Policy}
	}
	if files == nil {
		if len(c.Refused)+len(c.Accepted) == 0 {
			t.Fatal("a case without a policy")
		}
		return
	}
	snapshot, err := policy.Compile(languageDocuments(files))
	if len(c.Errors) > 0 {
		c.checkErrors(t, err)
		return
	}
	if err != nil {
		t.Fatalf("compile: %v", err)
	}
	if len(c.Asks)+len(c.SameVersion)+len(c.OtherVersion)+len(c.Verbs)+len(c.Routes) == 0 {
		t.Fatal("a case that looks at nothing")
	}
	buckets := languageBuckets{keys: map[string]string{}, labels: map[string]string{}}
	for _, ask := range c.Asks {
		ask.run(t, snapshot, buckets)
	}
	c.runVersions(t, snapshot.Version())
	c.runVerbs(t, snapshot)
	c.runRoutes(t, snapshot)
	if c.RuleIDs != nil && !slices.Equal(snapshot.RuleIDs(), c.RuleIDs) {
		t.Errorf("rule ids %q, want %q", snapshot.RuleIDs(), c.RuleIDs)
	}
}

// checkErrors looks for each wanted error: its place, and words of its text.
func (c languageCase) checkErrors(t *testing.T, err error) {
	t.Helper()
	var list policy.Errors
	if !errors.As(err, &list) {
		t.Fatalf("compile gave %v, want errors at %q", err, c.Errors)
	}
	for _, want := range c.Errors {
		place, words, _ := strings.Cut(want, ": ")
		found := slices.ContainsFunc(list, func(e *policy.Error) bool {
			at := fmt.Sprintf("%s:%d", e.File, e.Line)
			return (at == place || e.File == place) && strings.Contains(e.Error()+" "+e.Fix, words)
		})
		if !found {
			t.Errorf("no error at %q, but:\n%v", want, err)
		}
	}
	if c.ErrorCount > 0 && len(list) != c.ErrorCount {
		t.Errorf("%d errors, want %d:\n%v", len(list), c.ErrorCount, err)
	}
	for _, e := range list {
		prefix := fmt.Sprintf("%s:%d:%d:", e.File, e.Line, e.Column)
		if !strings.HasPrefix(e.Error(), prefix) || e.Line < 1 || e.Column < 1 {
			t.Errorf("an error does not start with its place %s: %v", prefix, e)
		}
		if e.Fix == "" {
			t.Errorf("an error does not say what to write instead: %v", e)
		}
	}
}

func (c languageCase) runVersions(t *testing.T, version string) {
	t.Helper()
	for _, same := range []bool{true, false} {
		variants := c.OtherVersion
		if same {
			variants = c.SameVersion
		}
		for _, files := range variants {
			other, err := policy.Compile(languageDocuments(files))
			if err != nil {
				t.Fatalf("compile: %v", err)
			}
			if (other.Version() == version) != same {
				t.Errorf("version %q beside %q, want equal: %v, of\n%v", other.Version(), version, same, files)
			}
		}
	}
}

// runVerbs asks each action of a policy whose deny rules are named after the classes.
func (c languageCase) runVerbs(t *testing.T, snapshot *policy.Snapshot) {
	t.Helper()
	ask := func(action, class string) {
		var v policy.Verdict
		snapshot.Decide(&policy.Call{Agent: "bot", Action: action, Resource: "a"}, &v)
		got := "read"
		if v.Outcome == policy.OutcomeDeny {
			got = v.Message
		}
		if got != class {
			t.Errorf("the verb class of %q is %q (%s), want %q", action, got, v.Reason, class)
		}
	}
	for class, actions := range c.Verbs {
		for _, action := range actions {
			if class == "not_read" {
				ask(action, "write")
				ask("get_"+action, "write")
				ask(action+".list", "write")
				continue
			}
			ask(action, class)
		}
	}
}

func (c languageCase) runFields(t *testing.T) {
	t.Helper()
	checks := map[string]func(string) error{
		"agent": policy.CheckAgent, "action": policy.CheckAction, "resource": policy.CheckResource,
		"text":       func(s string) error { return policy.CheckText("subject", s, 1024) },
		"source_ip":  func(s string) error { _, err := policy.ParseSourceIP(s); return err },
		"parameters": func(s string) error { _, err := policy.ParseParameters([]byte(s)); return err },
		"cost":       languageCost,
		"segment":    policy.CheckPathSegment,
		"host":       func(s string) error { _, err := policy.NormalHost(s); return err },
	}
	for field, values := range c.Refused {
		for _, value := range values {
			if checks[field](value) == nil {
				t.Errorf("%s %q is not refused", field, value)
			}
		}
	}
	for field, values := range c.Accepted {
		for _, value := range values {
			if err := checks[field](value); err != nil {
				t.Errorf("%s %q is refused: %v", field, value, err)
			}
		}
	}
}
