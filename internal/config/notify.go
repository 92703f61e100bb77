package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	configv1 "github.com/kelpie-authz/kelpie/gen/kelpie/config/v1"
)

// Webhook is an endpoint that is told what happens to approvals.
type Webhook struct {
	// Name is what logs and metrics call it.
	Name string
	// URL can hold a secret in its path or query, and is not printed.
	URL Secret
	// SecretFiles hold what signs.
	SecretFiles []string
	// Events are those wanted; empty: all.
	Events []string
	// Loopback calls endpoints on this machine too.
	Loopback bool
}

func webhooksOf(list []*configv1.Webhook) []Webhook {
	var out []Webhook
	for _, w := range list {
		out = append(out, Webhook{
			Name: w.GetName(), URL: Secret(w.GetUrl()), SecretFiles: w.GetSecretFiles(), Events: w.GetEvents(), Loopback: w.GetLoopback(),
		})
	}
	return out
}

var webhookName = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)

// Events are those that webhooks can ask for: all of notify.Types, as a test
// of internal/app sees to.
func Events() []string {
	var out []string
	for _, what := range []string{"requested", "approved", "denied", "expired", "consumed", "revoked", "cancelled", "superseded", "breakglass"} {
		out = append(out, "approval."+what)
	}
	return out
}

// maxWebhooks bounds what is started for them.
const maxWebhooks = 16

// checkWebhooks checks what can be seen without opening a file. The URL is read by
// whoever calls it.
func (c *Config) checkWebhooks() []error {
	var faults []error
	add := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if len(c.Webhooks) > maxWebhooks {
		add("webhooks: there are %d; write at most %d", len(c.Webhooks), maxWebhooks)
	}
	names := map[string]bool{}
	for i := range c.Webhooks {
		w := &c.Webhooks[i]
		at := fmt.Sprintf("webhooks, entry %d", i+1)
		switch {
		case !webhookName.MatchString(w.Name):
			add("%s: name: %q cannot name it; write 1 to 32 of a-z, 0-9 and dashes", at, w.Name)
		case names[w.Name]:
			add("%s: name: another webhook is %s already; give each a name of its own", at, w.Name)
		default:
			at += " (" + w.Name + ")"
		}
		names[w.Name] = true
		if w.URL == "" {
			add("%s: url: is missing; write https://HOST/PATH", at)
		}
		if len(w.SecretFiles) == 0 {
			add("%s: secret_files: is missing; name a file with a whsec_ secret, or the receiver cannot tell who calls", at)
		}
		for _, event := range w.Events {
			if !slices.Contains(Events(), event) {
				add("%s: events: %q is not known; write %s", at, event, strings.Join(Events(), ", "))
			}
		}
	}
	return faults
}
