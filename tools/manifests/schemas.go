package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// schemas are by "apiVersion kind".
type schemas map[string]*jsonschema.Schema

// source is where CustomResourceDefinitions come from: files of a Go module, whose version and content are pinned here,
// because nothing imports the module and so no go.mod can keep it.
type source struct {
	module, sum string
	files       string // a pattern
}

var sources = []source{
	{"istio.io/api@v1.32.0", "h1:37mJvg9I0biYZAEQF+MATs4FNeCpXEIVO3LFpVb6iNM=", "kubernetes/customresourcedefinitions.gen.yaml"},
	{"github.com/envoyproxy/gateway@v1.9.1", "h1:vAVp6/AlBXJ1aOhp1mxL7fNEzVEfjADUguUhm2wzxQY=", "charts/gateway-helm/charts/crds/crds/generated/*.yaml"},
	{"github.com/envoyproxy/gateway@v1.9.1", "h1:vAVp6/AlBXJ1aOhp1mxL7fNEzVEfjADUguUhm2wzxQY=", "charts/gateway-helm/charts/crds/crds/gatewayapi-crds.yaml"},
}

// definition is a CustomResourceDefinition, as far as it is read.
type definition struct {
	Kind string
	Spec struct {
		Group    string
		Names    struct{ Kind string }
		Versions []struct {
			Name   string
			Served bool
			Schema struct {
				OpenAPIV3Schema map[string]any `yaml:"openAPIV3Schema"`
			}
		}
	}
}

func loadSchemas() (schemas, error) {
	all := schemas{}
	for _, src := range sources {
		dir, err := src.download()
		if err != nil {
			return nil, err
		}
		files, err := filepath.Glob(filepath.Join(dir, src.files))
		if err != nil || len(files) == 0 {
			return nil, fmt.Errorf("%s has no %s", src.module, src.files)
		}
		for _, file := range files {
			if err := all.load(file); err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
		}
	}
	return all, nil
}

// download returns the module's folder in Go's cache.
func (s source) download() (string, error) {
	out, err := exec.Command("go", "mod", "download", "-json", s.module).Output()
	if err != nil {
		return "", fmt.Errorf("download %s: %w\n%s", s.module, err, out)
	}
	var answer struct {
		Dir string `json:"Dir"`
		Sum string `json:"Sum"`
	}
	if err := json.Unmarshal(out, &answer); err != nil {
		return "", err
	}
	if answer.Sum != s.sum {
		return "", fmt.Errorf("%s is not the content pinned here: its sum is %s", s.module, answer.Sum)
	}
	return answer.Dir, nil
}

func (all schemas) load(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var def definition
		err := dec.Decode(&def)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if def.Kind != "CustomResourceDefinition" {
			continue
		}
		for _, v := range def.Spec.Versions {
			if !v.Served {
				continue
			}
			name := def.Spec.Group + "/" + v.Name + " " + def.Spec.Names.Kind
			schema := v.Schema.OpenAPIV3Schema
			closeObjects(schema, true)
			compiler := jsonschema.NewCompiler()
			compiler.DefaultDraft(jsonschema.Draft2020)
			if err := compiler.AddResource(name, plain(schema)); err != nil {
				return err
			}
			if all[name], err = compiler.Compile(name); err != nil {
				return err
			}
		}
	}
}

// closeObjects forbids keys that a schema does not name, as the API server does where asked to be strict. Parts of
// allOf, anyOf and oneOf say only what they add, so they stay open.
func closeObjects(schema map[string]any, root bool) {
	properties, _ := schema["properties"].(map[string]any)
	for name, child := range properties {
		if c, is := child.(map[string]any); is && (!root || name != "metadata") {
			closeObjects(c, false)
		}
	}
	for _, key := range []string{"items", "additionalProperties"} {
		if c, is := schema[key].(map[string]any); is {
			closeObjects(c, false)
		}
	}
	if root {
		// What every object has, whether its schema names it or not.
		properties["apiVersion"], properties["kind"] = map[string]any{"type": "string"}, map[string]any{"type": "string"}
		properties["metadata"] = map[string]any{"type": "object"}
	}
	open, _ := schema["x-kubernetes-preserve-unknown-fields"].(bool)
	if _, has := schema["additionalProperties"]; properties != nil && !has && !open {
		schema["additionalProperties"] = false
	}
}

// plain gives a schema the types that encoding/json would.
func plain(v any) any {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // it came out of YAML with string keys
	}
	out, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		panic(err)
	}
	return out
}
