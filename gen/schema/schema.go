// Package schema carries the JSON Schemas of Kelpie's YAML files, for editors
// and for `kelpie schema`. It does not validate: the policy loader does, and it
// knows rules that a JSON Schema cannot say.
//
//	fmt.Print(schema.Policy())
//
// The .json files are generated from proto/kelpie/policy by `make generate`; this
// file alone in gen/ is kept by hand.
package schema

import _ "embed"

//go:embed policy.schema.json
var policy string

//go:embed policy_test.schema.json
var policyTest string

// Policy is the schema of a policy file, as JSON Schema draft 2020-12 in one
// self-contained document. It ends in a newline.
func Policy() string { return policy }

// PolicyTest is the schema of a file of policy tests (`*_test.yaml`), in the
// same form as [Policy].
func PolicyTest() string { return policyTest }
