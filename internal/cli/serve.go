package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/kelpie-authz/kelpie/internal/app"
	"github.com/kelpie-authz/kelpie/internal/config"
	"github.com/kelpie-authz/kelpie/internal/policydir"
	"github.com/kelpie-authz/kelpie/policy"
)

func newServe(env *Env) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve decisions to gateways",
		Long: "Serve decisions to gateways by gRPC, and to Envoy by ext_authz, on --grpc-addr. Decisions are logged to\n" +
			"standard output, one JSON line each, and what happens to the server itself to standard error.\n\n" +
			"Every flag can be given as a variable, KELPIE_ and its name in capitals (KELPIE_GRPC_ADDR), and as a key\n" +
			"of the file that --config names (grpc_addr). A flag beats the variable, which beats the file.\n\n" +
			"The policy is read again when its files change, and on SIGHUP. SIGTERM or an interrupt drains; a second\n" +
			"one ends the drain.",
		Example: "  kelpie serve --policy examples/revops",
		Args:    flagsOnly,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load(config.Sources{File: file, Lookup: env.Lookup, Flags: givenFlags(cmd.Flags())})
			if err != nil {
				return fmt.Errorf("the configuration does not hold:\n%w", err)
			}
			return serve(cmd.Context(), env, cfg)
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "YAML `file` with the keys of the other flags (KELPIE_CONFIG)")
	for _, key := range config.Keys() {
		addKey(cmd.Flags(), key)
	}
	return cmd
}

// addKey makes the flag of one setting. Its value stays text: config parses it
// as it does variables, so that both are told the same.
func addKey(set *pflag.FlagSet, key config.Key) {
	usage := key.Usage
	if key.Default != "" {
		usage += " (default " + key.Default + ")"
	}
	set.String(key.Flag, "", usage)
	flag := set.Lookup(key.Flag)
	flag.Annotations = map[string][]string{keyAnnotation: {key.Name}}
	flag.Value = &textFlag{kind: kindOf(key)}
	if key.Bool {
		flag.NoOptDefVal = "true"
	}
}

// keyAnnotation marks a flag with the key it sets.
const keyAnnotation = "kelpie_config_key"

// textFlag keeps what was typed, and names in the help what to type.
type textFlag struct{ text, kind string }

func (f *textFlag) String() string        { return f.text }
func (f *textFlag) Set(text string) error { f.text = text; return nil }
func (f *textFlag) Type() string          { return f.kind }
func kindOf(key config.Key) string {
	switch {
	case key.Bool:
		return "bool"
	case strings.HasSuffix(key.Name, "_addr"):
		return "address"
	case key.Name == "audit":
		return "mode"
	case key.Name == "audit_keep_age" || key.Name == "approver_oidc_max_age":
		return "duration"
	case key.Name == "approver_oidc_issuer":
		return "url"
	case key.Name == "approver_client_ca" || key.Name == "approver_oidc_ca":
		return "file"
	case strings.HasPrefix(key.Name, "approver_oidc_"):
		return "text"
	case key.Name == "audit_key_file" || key.Name == "approvals_key_file":
		return "file"
	case key.Name == "policy" || key.Name == "state" || key.Name == "audit_dir":
		return "directory"
	case key.Name == "redis":
		return "url"
	case key.Name == "redis_prefix":
		return "text"
	case key.Name == "redis_coalescing" || key.Name == "redis_deny_cache" || key.Name == "redis_leases":
		return "switch"
	case strings.HasPrefix(key.Name, "tls_") || key.Name == "client_ca" || strings.HasPrefix(key.Name, "redis_") && key.Name != "redis_timeout":
		return "file"
	case strings.HasPrefix(key.Name, "drain_") || key.Name == "redis_timeout":
		return "duration"
	case key.Name == "log_level":
		return "level"
	default:
		return "number"
	}
}

// givenFlags are the settings that were given as flags, by key.
func givenFlags(set *pflag.FlagSet) map[string]string {
	given := map[string]string{}
	set.Visit(func(f *pflag.Flag) {
		if names := f.Annotations[keyAnnotation]; len(names) == 1 {
			given[names[0]] = f.Value.String()
		}
	})
	return given
}

func serve(ctx context.Context, env *Env, cfg *config.Config) error {
	a, err := app.New(ctx, cfg, app.Deps{
		Stdout: env.Stdout, Stderr: env.Stderr, Version: readBuild().Version, Now: env.Now,
	})
	if err != nil {
		return fmt.Errorf("the server does not start:\n%w", err)
	}
	if isTerminal(env.Stderr) {
		// Only for people: where standard error is collected, it holds JSON lines alone.
		_, _ = fmt.Fprint(env.Stderr, hints(cfg, a.Addrs().GRPC))
	}
	stop := watchSignals(ctx, a)
	defer stop()
	if err := a.Run(ctx); err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// watchSignals reloads on SIGHUP and, once a drain is under way, ends it on the
// next interrupt.
func watchSignals(ctx context.Context, a *app.App) (stop func()) {
	hangup, again := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	ended, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		draining := ctx.Done()
		for {
			select {
			case <-hangup:
				// A fault stays in the log, the metric and /readyz.
				_ = a.Reload(ctx)
			case <-draining:
				draining = nil
				signal.Notify(again, os.Interrupt, syscall.SIGTERM)
			case <-again:
				a.Abort()
			case <-ended:
				return
			}
		}
	}()
	return func() {
		signal.Stop(hangup)
		close(ended)
		<-done
		signal.Stop(again)
	}
}

// hints say how to ask the server that has just started.
func hints(cfg *config.Config, addr net.Addr) string {
	target := addr.String()
	curl := "grpcurl -plaintext"
	if addr.Network() == "unix" {
		curl += " -unix"
	}
	check := "kelpie check --server " + target
	if addr.Network() == "unix" {
		check = "kelpie check --server unix://" + target
	}
	if cfg.TLSCert != "" {
		curl = "grpcurl -cacert CA.pem"
		check += " --tls-ca CA.pem"
		if cfg.ClientCA != "" {
			curl += " -cert CERT.pem -key KEY.pem"
			check += " --tls-cert CERT.pem --tls-key KEY.pem"
		}
	}
	q := sampleRequest(cfg.Policy)
	fields := map[string]string{"agent": q.Agent, "action": q.Action, "resource": q.Resource}
	check += " --agent " + quote(q.Agent) + " --action " + quote(q.Action) + " --resource " + quote(q.Resource)
	if q.SourceIP != "" {
		fields["source_ip"] = q.SourceIP
		check += " --ip " + quote(q.SourceIP)
	}
	body, err := json.Marshal(fields)
	if err != nil {
		body = []byte("{}") // Strings always encode.
	}
	return "\nAsk it, from another terminal:\n\n  " + check + "\n  " + curl + " -d " + quote(string(body)) + " " + target +
		" kelpie.authz.v1.AuthorizationService/Authorize\n\n"
}

// sampleRequest is the first request that the policy's own tests expect to be
// allowed, so that the hint works as it stands.
func sampleRequest(dir string) policy.TestRequest {
	sample := policy.TestRequest{Agent: "AGENT", Action: "ACTION", Resource: "RESOURCE"}
	found, err := policydir.Read(dir)
	if err != nil {
		return sample // Told by whoever loads it.
	}
	for _, doc := range found.Tests {
		tests, err := policy.ParseTests(doc)
		if err != nil {
			continue // Told by `kelpie test`.
		}
		for i := range tests {
			t := &tests[i]
			plain := t.Request.Context == nil && t.Request.ParametersJSON == nil && t.Now.IsZero()
			if t.Expect.Decision == "allow" && t.Approval == "" && plain {
				return t.Request
			}
		}
	}
	return sample
}

// quote makes a word safe for a POSIX shell.
func quote(word string) string {
	safe := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:@", r)
	}
	if word != "" && strings.IndexFunc(word, func(r rune) bool { return !safe(r) }) < 0 {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
