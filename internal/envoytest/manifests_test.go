package envoytest_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/kelpie-authz/kelpie/internal/testkit"
)

// The manifests for Istio and Envoy Gateway are run by no test; they have the form that those releases want, and the
// policies in them lint clean.
func TestManifests(t *testing.T) {
	t.Parallel()
	root := testkit.Root(t)
	checker := filepath.Join(t.TempDir(), "manifests")
	build := exec.Command("go", "build", "-o", checker, ".")
	build.Dir = filepath.Join(root, "tools", "manifests")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", build.Dir, err, out)
	}
	check := func(files ...string) (string, error) {
		cmd := exec.Command(checker, files...)
		cmd.Dir = build.Dir
		var out, problems bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &problems
		if err := cmd.Run(); err != nil {
			return out.String(), errors.New(problems.String())
		}
		return out.String(), nil
	}
	examples := filepath.Join(root, "examples")
	istio, mesh := filepath.Join(examples, "istio", "kelpie.yaml"), filepath.Join(examples, "istio", "mesh.yaml")
	gateway := filepath.Join(examples, "envoy-gateway", "gateway.yaml")

	out, err := check(istio, mesh, gateway)
	if err != nil {
		t.Error(err)
	}
	if n := strings.Count(out, ": ok\n"); n != 15 {
		t.Errorf("%d documents were checked, want 15:\n%s", n, out)
	}
	for _, file := range []string{istio, gateway} {
		lintPolicies(t, file)
	}

	// A checker that finds nothing would find nothing in these either.
	for _, tt := range []struct{ file, old, broken, says string }{
		{mesh, "failOpen: false", "failopen: false", "failopen"},
		{mesh, "timeout: 1s", "timeout: soon", "Duration"},
		{istio, "action: CUSTOM", "action: ASK", "action"},
		{istio, "resolution: STATIC", "resolutions: STATIC", "resolutions"},
		{istio, "kind: PeerAuthentication", "kind: PeerAuthentification", "no schema"},
		{istio, "readOnlyRootFilesystem: true", "readOnlyRootFileSystem: true", "readOnlyRootFileSystem"},
		{gateway, "statusOnError: 503", "statusOnError: often", "statusOnError"},
		{gateway, "bodyToExtAuth: {maxRequestBytes: 65536}", "bodyToExtAuth: {}", "maxRequestBytes"},
		{gateway, "escapedSlashesAction: RejectRequest", "escapedSlashesAction: Reject", "escapedSlashesAction"},
		{gateway, "image: kelpie", "picture: kelpie", "picture"},
		{gateway, "gatewayClassName: kelpie", "gatewayClass: kelpie", "gatewayClass"},
	} {
		text, err := os.ReadFile(tt.file)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), filepath.Base(tt.file))
		testkit.WriteFile(t, file, []byte(testkit.Replace(t, string(text), testkit.Edit{Old: tt.old, New: tt.broken})))
		if _, err := check(file); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s in the place of %s: %v", tt.broken, tt.old, err)
		}
	}
}

// lintPolicies lints the policies that stand in ConfigMaps of a file.
func lintPolicies(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(text, []byte("# NOT RUN BY OUR TESTS")) {
		t.Errorf("%s does not say that it is not run", file)
	}
	found := 0
	dec := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var doc struct{ Data map[string]string }
		if dec.Decode(&doc) != nil {
			break // what is no YAML was told by the checker
		}
		policy, is := doc.Data["policy.yaml"]
		if !is {
			continue
		}
		found++
		dir := t.TempDir()
		testkit.WriteFile(t, filepath.Join(dir, "policy.yaml"), []byte(policy))
		if out, err := exec.Command(programs.kelpie, "lint", dir).CombinedOutput(); err != nil {
			t.Errorf("%s: the policy: %v\n%s", file, err, out)
		}
	}
	if found != 1 {
		t.Errorf("%s has %d policies, want 1", file, found)
	}
}
