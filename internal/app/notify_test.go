package app_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	approvalv1 "github.com/kelpie-authz/kelpie/gen/kelpie/approval/v1"
	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
	"github.com/kelpie-authz/kelpie/internal/app"
	"github.com/kelpie-authz/kelpie/internal/config"
	"github.com/kelpie-authz/kelpie/internal/testkit"
	"github.com/kelpie-authz/kelpie/notify"
)

// hook is a real server that takes webhooks, and verifies each as the vendor's
// library does.
type hook struct {
	*httptest.Server
	secretFile string

	mu   sync.Mutex
	down bool
	got  []string // "approval_id type", one per webhook-id
	ids  []string
	body []string
}

func newHook(t *testing.T) *hook {
	t.Helper()
	secret := "whsec_" + base64.StdEncoding.EncodeToString([]byte("a secret of "+testkit.Secret+" bytes, enough of them"))
	h := &hook{secretFile: filepath.Join(t.TempDir(), "secret")}
	testkit.WriteFile(t, h.secretFile, []byte(secret+"\n"))
	verifier, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		body, _ := io.ReadAll(r.Body)
		if h.down {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		if err := verifier.Verify(body, r.Header); err != nil {
			t.Errorf("a webhook that cannot be verified: %v", err)
		}
		var event struct {
			Type string `json:"type"`
			Data struct {
				ID string `json:"approval_id"`
			} `json:"data"`
		}
		if err := json.Unmarshal(body, &event); err != nil {
			t.Error(err)
		}
		if id := r.Header.Get("webhook-id"); !slices.Contains(h.ids, id) {
			h.ids = append(h.ids, id)
			h.got = append(h.got, event.Data.ID+" "+strings.TrimPrefix(event.Type, "approval."))
			h.body = append(h.body, string(body))
		}
	}))
	t.Cleanup(h.Close)
	return h
}

func (h *hook) set(down bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.down = down
}

// told waits until the endpoint was told these of an approval, in this order.
func (h *hook) told(t *testing.T, approval string, want ...string) {
	t.Helper()
	var got []string
	testkit.Eventually(t, fmt.Sprintf("the webhooks %v", want), func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		got = nil
		for _, one := range h.got {
			if what, ok := strings.CutPrefix(one, approval+" "); ok {
				got = append(got, what)
			}
		}
		return len(got) >= len(want)
	})
	if !slices.Equal(got, want) {
		t.Errorf("the endpoint was told %v, want %v", got, want)
	}
}

func (h *hook) in(c *config.Config) {
	c.Webhooks = []config.Webhook{{Name: "tickets", URL: config.Secret(h.URL + "/hook?key=" + testkit.Secret), SecretFiles: []string{h.secretFile}, Loopback: true}}
}

// oldest is the age of what waits, where something does.
var oldest = regexp.MustCompile(`(?m)^kelpie_notify_oldest_seconds\{channel="webhook:tickets"\} (0\.0*[1-9]|[1-9]).*$`)

// What happens to an approval is told, in order, whatever is restarted and
// however long the endpoint is away; no parameter of the call leaves.
func TestWebhooks(t *testing.T) {
	t.Parallel()
	h := newHook(t)
	policy := policyDir(t, auditedPolicy)
	r := start(t, func(c *config.Config) { c.Policy = policy })
	state := r.cfg.State
	again := func(with func(*config.Config)) {
		t.Helper()
		if err := r.end(t); err != nil {
			t.Fatal(err)
		}
		r = start(t, func(c *config.Config) {
			c.Policy, c.State = policy, state
			with(c)
		})
	}
	out, err := r.client(t).Authorize(t.Context(), &authzv1.AuthorizeRequest{
		Agent: "writer", Action: "delete", Resource: "docs/1", SourceIp: "10.1.1.1", ParametersJson: []byte(`{"reason":"parameter-of-the-call"}`),
	})
	if err != nil {
		t.Fatal(err)
	}
	first := out.GetApproval().GetId()
	// It was asked before there was anybody to tell.
	again(h.in)
	h.told(t, first, "requested")
	testkit.Eventually(t, "that nothing waits", func() bool {
		_, body := r.get(t, "/metrics")
		return strings.Contains(body, "kelpie_notify_oldest_seconds{channel=\"webhook:tickets\"} 0\n")
	})
	h.set(true)
	second := erase(t, r, "").GetApproval().GetId()
	if second == first || second == "" {
		t.Fatalf("approvals %q and %q", first, second)
	}
	testkit.Eventually(t, "the endpoint that refuses", func() bool {
		_, body := r.get(t, "/metrics")
		return strings.Contains(body, `kelpie_notify_failed_total{channel="webhook:tickets"} `) &&
			!strings.Contains(body, `kelpie_notify_failed_total{channel="webhook:tickets"} 0`) &&
			strings.Contains(body, `kelpie_notify_pending{channel="webhook:tickets"} 1`) &&
			oldest.MatchString(body)
	})
	ctx, desk := r.desk(t)
	if _, err := desk.Approve(ctx, &approvalv1.ApproveRequest{Id: second, As: "security-oncall@example.com"}); err != nil {
		t.Fatal(err)
	}
	if _, err := desk.Deny(ctx, &approvalv1.DenyRequest{Id: first, As: "security-oncall@example.com", Reason: "no"}); err != nil {
		t.Fatal(err)
	}
	again(h.in)
	h.set(false)
	if out := erase(t, r, ""); out.GetReason() != authzv1.Reason_REASON_OK_APPROVED {
		t.Fatal(out)
	}
	h.told(t, second, "requested", "approved", "consumed")
	h.told(t, first, "requested", "denied")
	h.mu.Lock()
	defer h.mu.Unlock()
	if all := strings.Join(h.body, "\n"); strings.Contains(all, "parameter-of-the-call") {
		t.Errorf("a parameter was told: %s", all)
	}
}

// Whatever is told can be asked for by name, and nothing else.
func TestWebhooksCanNameEveryEvent(t *testing.T) {
	t.Parallel()
	var told []string
	for _, kind := range notify.Types() {
		told = append(told, string(kind))
	}
	named := config.Events()
	slices.Sort(told)
	slices.Sort(named)
	if diff := cmp.Diff(told, named); diff != "" {
		t.Errorf("webhooks are told of (-) and can name (+):\n%s", diff)
	}
}

// An approval that lapses while nobody asks is told too.
func TestWebhookOfAnApprovalThatLapses(t *testing.T) {
	t.Parallel()
	h := newHook(t)
	r := start(t, func(c *config.Config) {
		h.in(c)
		c.Webhooks[0].Events = []string{"approval.expired"}
		c.Policy = policyDir(t, auditedPolicy+"approvals:\n  soon: {match: {risk: [delete]}, approvers: [sec], expires: 1s}\n")
	})
	h.told(t, erase(t, r, "").GetApproval().GetId(), "expired")
}

// No notification that fails holds a call up or ends a start, but for one that
// cannot ever work.
func TestWebhooksThatCannotWork(t *testing.T) {
	t.Parallel()
	h := newHook(t)
	r := start(t, func(c *config.Config) {
		h.in(c)
		c.Policy, c.Webhooks[0].URL = policyDir(t, auditedPolicy), "https://127.0.0.1:1/"
		c.Webhooks[0].Loopback = false
	})
	if out := erase(t, r, ""); out.GetReason() != authzv1.Reason_REASON_APPROVAL_REQUIRED {
		t.Errorf("the call: %v", out)
	}
	testkit.Eventually(t, "the refusal in the log", func() bool {
		return strings.Contains(r.stderr.String(), "which is loopback: it is not called")
	})
	for name, change := range map[string]func(*config.Webhook){
		"no secret":  func(w *config.Webhook) { w.SecretFiles = []string{filepath.Join(t.TempDir(), "none")} },
		"no https":   func(w *config.Webhook) { w.Loopback = false },
		"a password": func(w *config.Webhook) { w.URL = "https://u:hunter2@example.com" },
	} {
		startRefused(t, "webhooks (tickets): ", func(c *config.Config) {
			h.in(c)
			change(&c.Webhooks[0])
		}, name)
	}
}

// startRefused starts an App that must not start, and looks for why.
func startRefused(t *testing.T, want string, change func(*config.Config), name string) {
	t.Helper()
	cfg := config.Default()
	cfg.GRPCAddr, cfg.AdminAddr, cfg.HealthAddr = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.State, cfg.Policy = filepath.Join(t.TempDir(), "state"), policyDir(t, policyA)
	change(cfg)
	_, err := app.New(t.Context(), cfg, app.Deps{Stdout: &testkit.Buffer{}, Stderr: &testkit.Buffer{}})
	if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), testkit.Secret) {
		t.Errorf("%s: %v", name, err)
	}
}
