// Command manifests checks Kubernetes manifests against the schemas of what
// they are for: Istio, Envoy Gateway, Gateway API and Kubernetes itself. It is a
// module of its own, so that none of these come into the main one.
//
//	manifests FILE...
//
// Each document must be of a kind that it knows, and hold no key that its schema
// does not. A file without kind is a part of Istio's MeshConfig. It prints what it
// checked, a line each, and ends with 1 if something is wrong. What a cluster
// checks by rules in CEL, or by looking at other objects, it does not check.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	meshv1alpha1 "istio.io/api/mesh/v1alpha1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	kjson "sigs.k8s.io/json"
)

func main() {
	schemas, err := loadSchemas()
	if err != nil {
		fmt.Fprintln(os.Stderr, "manifests:", err)
		os.Exit(1)
	}
	bad := false
	for _, file := range os.Args[1:] {
		if err := schemas.checkFile(file); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", file, err)
			bad = true
		}
	}
	if bad || len(os.Args) < 2 {
		os.Exit(1)
	}
}

// checkFile checks each document of a file.
func (s schemas) checkFile(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var faults []error
	dec := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var doc map[string]any
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return errors.Join(faults...)
		}
		if err != nil {
			return err
		}
		what, err := s.check(doc)
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", what, err))
			continue
		}
		fmt.Printf("%s: %s: ok\n", file, what)
	}
}

// check checks one document, and says what it is.
func (s schemas) check(doc map[string]any) (what string, err error) {
	api, _ := doc["apiVersion"].(string)
	kind, _ := doc["kind"].(string)
	if api == "" && kind == "" {
		return "MeshConfig", checkMesh(doc)
	}
	metadata, _ := doc["metadata"].(map[string]any)
	what = fmt.Sprintf("%s %s %v", api, kind, metadata["name"])
	switch api + " " + kind {
	case "v1 ConfigMap":
		return what, strict(doc, &corev1.ConfigMap{})
	case "v1 Service":
		return what, strict(doc, &corev1.Service{})
	case "apps/v1 Deployment":
		return what, strict(doc, &appsv1.Deployment{})
	}
	schema, known := s[api+" "+kind]
	if !known {
		return what, errors.New("no schema is known of this kind")
	}
	if err := checkPodPatch(doc); err != nil {
		return what, err
	}
	return what, schema.Validate(doc)
}

func checkMesh(doc map[string]any) error {
	asJSON, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	return protojson.Unmarshal(asJSON, &meshv1alpha1.MeshConfig{})
}

// checkPodPatch checks what an EnvoyProxy lays over its Deployment, which its own schema leaves open.
func checkPodPatch(doc map[string]any) error {
	var patch any = doc
	for _, key := range []string{"spec", "provider", "kubernetes", "envoyDeployment", "patch", "value"} {
		m, _ := patch.(map[string]any)
		patch = m[key]
	}
	if patch == nil {
		return nil
	}
	return strict(patch, &appsv1.Deployment{})
}

// strict fails on keys that the type does not have, minding their case as the API server does.
func strict(doc, into any) error {
	asJSON, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	faults, err := kjson.UnmarshalStrict(asJSON, into)
	return errors.Join(append(faults, err)...)
}
