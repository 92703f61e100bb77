package policy_test

import (
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/kelpie-authz/kelpie/policy"
)

func TestParseLimitHome(t *testing.T) {
	t.Parallel()
	for key, want := range map[string]policy.LimitHome{
		"a5:plain0:13:limits/common": {Agent: "plain", Home: 10, Slot: 8},
		"a5:plain0:":                 {Agent: "plain", Home: 10, Slot: 8},
		"a3:a:b16:+action+resource4:read2:x/1:l": {
			Agent: "a:b", Home: 35, Slot: 6, Dimensions: []policy.LimitDimension{{Name: "action", Value: "read"}, {Name: "resource", Value: "x/"}},
		},
		"a1:a5:+tool2:sv2:tn1:l": {Agent: "a", Home: 19, Slot: 4, Dimensions: []policy.LimitDimension{{Name: "tool", Value: "sv/tn"}}},
		"a1:a5:+call16:\x01\x02\x03\x04\xff\x06\x07\x08abcdefgh1:l": {
			Agent: "a", Home: 30, Slot: 4, Dimensions: []policy.LimitDimension{{Name: "call", Value: "01020304ff06"}},
		},
	} {
		got, ok := policy.ParseLimitHome(key)
		if !ok {
			t.Errorf("%q is not read", key)
			continue
		}
		if diff := gocmp.Diff(want, got, cmpopts.IgnoreUnexported(policy.LimitHome{})); diff != "" {
			t.Errorf("%q (-want +got):\n%s", key, diff)
		}
	}
	for _, key := range []string{
		"", "a", "*0:13:limits/common", "a5:plai", "a5:plain", "a5:plain0", "a05:plain0:", "a-1:0:", "a+1:a0:", "a99999999999999999999:a0:",
		"a1:a7:+action", "a1:a7:+action4:rea", "a1:a7:+actiom4:read", "a1:a6:+tool+1:a1:b", "a1:a5:+tool1:a", "a1:a12:+tool+action1:a1:b1:c",
		"a1:a6:+agent1:a", "13:limits/common6:+agent5:plain",
	} {
		if got, ok := policy.ParseLimitHome(key); ok {
			t.Errorf("%q is read as %+v", key, got)
		}
	}
}

func FuzzParseLimitHome(f *testing.F) {
	for _, key := range []string{"a5:plain0:13:limits/common", "a1:a5:+tool2:sv2:tn1:l", "a1:a5:+call16:abcdefghijklmnop1:l", "*0:", "a0:0:"} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		home, ok := policy.ParseLimitHome(key)
		if !ok {
			return
		}
		if home.Slot < 1 || home.Home < home.Slot || home.Home > len(key) {
			t.Fatalf("%q is read as %+v", key, home)
		}
		if !strings.HasPrefix(key, string(policy.AppendLimitSlot(nil, home.Agent))) {
			t.Fatalf("%q is read as one of agent %q", key, home.Agent)
		}
		again, ok := policy.ParseLimitHome(key[:home.Home])
		if diff := gocmp.Diff(home, again, cmpopts.IgnoreUnexported(policy.LimitHome{})); !ok || diff != "" {
			t.Fatalf("the home of %q is read otherwise: %s", key, diff)
		}
	})
}

func TestLimitsIn(t *testing.T) {
	t.Parallel()
	s := compile(t, strings.Replace(limitsPolicy, "      sensitive: {match: {actions: [peek]}}\n", "", 1))
	for key, want := range map[string][]string{
		"a5:plain0:": {
			"builtin/default a5:plain0:15:builtin/default", "limits/common a5:plain0:13:limits/common", "limits/dimsagent a5:plain0:16:limits/dimsagent",
			"limits/shaded a5:plain0:14:limits/shaded!",
		},
		"a3:own0:whatever": {
			"builtin/default a3:own0:15:builtin/default", "limits/common a3:own0:13:limits/common", "limits/dimsagent a3:own0:16:limits/dimsagent",
			"limits/extra a3:own0:12:limits/extra", "limits/shaded a3:own0:13:limits/shaded",
		},
		"a6:team/b7:+action4:read":       {"limits/common a6:team/b7:+action4:read13:limits/common"},
		"a6:nobody0:":                    {"builtin/default a6:nobody0:15:builtin/default", "limits/common a6:nobody0:13:limits/common", "limits/dimsagent a6:nobody0:16:limits/dimsagent", "limits/shaded a6:nobody0:14:limits/shaded!"},
		"a5:plain9:+resource1:x":         nil,
		"a5:plain5:+call3:abc1:anything": {"limits/loop a5:plain5:+call3:abc11:limits/loop"},
	} {
		home, ok := policy.ParseLimitHome(key)
		if !ok {
			t.Fatalf("%q is not read", key)
		}
		var got []string
		for _, charge := range s.LimitsIn(home, key) {
			got = append(got, charge.Spec.ID+" "+string(charge.Key))
			if charge.Home != home.Home || charge.Slot != home.Slot || s.LimitSpecs()[charge.Spec.Index] != charge.Spec {
				t.Errorf("%+v in home %+v", charge, home)
			}
		}
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", key, diff)
		}
	}
	if !s.HasAgent("plain") || !s.HasAgent("team/x") || s.HasAgent("nobody") || s.HasAgent("") {
		t.Error("HasAgent does not know who is known")
	}
}
