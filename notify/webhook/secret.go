package webhook

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strings"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// Sizes of a secret's bytes, as Standard Webhooks has them.
const (
	leastSecret = 24
	mostSecret  = 64
	maxFile     = 64 << 10
)

// SecretFiles reads secrets from files at each call, so that they can be changed
// while the server runs: one whsec_ secret in a line; empty lines and lines that
// begin with # are left out.
func SecretFiles(paths ...string) func() ([]string, error) {
	return func() ([]string, error) {
		var out []string
		for _, path := range paths {
			raw, err := os.ReadFile(path)
			if err != nil {
				return nil, fmt.Errorf("read the webhook's secret: %w", err)
			}
			if len(raw) > maxFile {
				return nil, fmt.Errorf("read the webhook's secret: %s is larger than %d bytes", path, maxFile)
			}
			for line := range strings.Lines(string(raw)) {
				if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
					out = append(out, line)
				}
			}
		}
		return out, nil
	}
}

// signers are made of the secrets as they are now. No error holds any of them.
func (c *Channel) signers() ([]*standardwebhooks.Webhook, error) {
	secrets, err := c.cfg.Secrets()
	if err != nil {
		return nil, err
	}
	if len(secrets) == 0 || len(secrets) > maxSecrets {
		return nil, fmt.Errorf("there are %d secrets to sign by; write 1 to %d, one in a line", len(secrets), maxSecrets)
	}
	var out []*standardwebhooks.Webhook
	for i, secret := range secrets {
		digits, ok := strings.CutPrefix(secret, "whsec_")
		raw, err := base64.StdEncoding.DecodeString(digits)
		if !ok || err != nil || len(raw) < leastSecret || len(raw) > mostSecret {
			return nil, fmt.Errorf("secret %d is none; write whsec_ and the base64 of %d to %d random bytes, as `echo whsec_$(openssl rand -base64 32)` does", i+1, leastSecret, mostSecret)
		}
		s, err := standardwebhooks.NewWebhook(secret)
		if err != nil {
			return nil, errors.New("a secret cannot be used")
		}
		out = append(out, s)
	}
	return out, nil
}
