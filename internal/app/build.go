package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminv1 "github.com/kelpie-authz/kelpie/gen/kelpie/admin/v1"
	approvalv1 "github.com/kelpie-authz/kelpie/gen/kelpie/approval/v1"
	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
	"github.com/kelpie-authz/kelpie/internal/config"
	"github.com/kelpie-authz/kelpie/internal/obs"
	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/server"
	"github.com/kelpie-authz/kelpie/server/adminapi"
	"github.com/kelpie-authz/kelpie/server/extauthz"
	"github.com/kelpie-authz/kelpie/server/grpcapi"
)

// build makes the parts in the order in which they need each other.
func (a *App) build(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		a.buildState, a.buildAudit, a.buildPolicy, a.buildLimits, a.buildTraces, a.buildNotices, a.buildDecider, a.buildTLS, a.buildCallers, a.buildListeners, a.buildServers, a.buildSlack,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// buildState makes the state directory, with the token that opens the admin
// listener.
func (a *App) buildState(context.Context) (err error) {
	if a.token, err = server.LoadAdminToken(a.cfg.State); err != nil {
		return fmt.Errorf("make the admin listener: %w", err)
	}
	return nil
}

func (a *App) buildPolicy(ctx context.Context) error {
	metrics, err := newPolicyMetrics(a.reg)
	if err != nil {
		return err
	}
	a.policy, err = openPolicy(ctx, a.cfg.Policy, a.deps.Now, a.log, metrics, a.note)
	return err
}

func (a *App) buildDecider(ctx context.Context) error {
	logFailures := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "kelpie_decision_log_write_failures_total", Help: "Failed attempts to write the decision log.",
	})
	panics := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "kelpie_decision_panics_total", Help: "Panics in a decision, each answered DENY internal_error.",
	})
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "kelpie_build_info", Help: "1 for the version of this build.",
	}, []string{"version"})
	build.WithLabelValues(a.deps.Version).Set(1)
	if err := a.register(logFailures, panics, build, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})); err != nil {
		return err
	}
	var told time.Time
	a.decision = obs.NewWriter(a.deps.Stdout, func(err error) {
		logFailures.Inc()
		// It is tried twenty times a second; one line a minute is enough.
		if now := a.deps.Now(); told.IsZero() || now.Sub(told) >= time.Minute {
			told = now
			a.log.ErrorContext(ctx, "the decision log cannot be written; no call is allowed until it can", slog.Any("error", err))
		}
	})
	recorder, err := obs.NewRecorder(obs.NewLineHandler(a.decision), a.reg)
	if err != nil {
		return fmt.Errorf("make the decision log: %w", err)
	}
	activity := pdp.NewActivity(a.deps.Now)
	kept := a.alarming(activity.Recorder(a.traces.recorder(a.telling(a.audited(recorder)))))
	if err := a.buildApprovals(ctx, kept, activity.Recent); err != nil {
		return err
	}
	a.decider, err = pdp.New(pdp.Config{
		Policy: a.policy, Limiter: a.limits.limiter, Fallback: a.limits.fallback, Replicas: a.limits.replicas, Ledger: a.limits.ledger,
		Recorder: kept, Approvals: a.approvals.desk, Now: a.deps.Now, Local: localAddress,
		Panicked: func(id string, _ any, stack []byte) {
			panics.Inc()
			a.log.ErrorContext(ctx, "panic in a decision", slog.String("decision_id", id), slog.String("stack", string(stack)))
		},
	})
	if err != nil {
		return fmt.Errorf("make the decision core: %w", err)
	}
	return a.buildHolder()
}

// localAddress tells whether an address is one of this machine's. They can
// change, and are asked for only where a proxy on this machine was called from it.
func localAddress(addr netip.Addr) bool {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(all, func(a net.Addr) bool {
		prefix, err := netip.ParsePrefix(a.String())
		return err == nil && prefix.Addr().Unmap() == addr
	})
}

func (a *App) register(list ...prometheus.Collector) error {
	for _, c := range list {
		if err := a.reg.Register(c); err != nil {
			return fmt.Errorf("register metrics: %w", err)
		}
	}
	return nil
}

func (a *App) buildTLS(context.Context) error {
	a.tlsFailures = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "kelpie_tls_reload_failures_total", Help: "Changed TLS files that could not be loaded.",
	})
	if err := a.register(a.tlsFailures); err != nil {
		return err
	}
	if a.cfg.TLSCert == "" {
		return nil
	}
	keeper, err := server.NewTLSKeeper(server.TLSFiles{Cert: a.cfg.TLSCert, Key: a.cfg.TLSKey, ClientCA: a.cfg.ClientCA, Others: a.cfg.Approvers.ClientCA})
	if err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	a.tls = keeper
	a.tlsAdmin, err = a.adminTLS()
	return err
}

func (a *App) buildListeners(ctx context.Context) error {
	var err error
	if a.listeners.data, err = server.Listen(ctx, a.cfg.GRPCAddr); err != nil {
		return fmt.Errorf("grpc_addr: %w", err)
	}
	if a.listeners.admin, err = server.Listen(ctx, a.cfg.AdminAddr); err != nil {
		return fmt.Errorf("admin_addr: %w", err)
	}
	if a.listeners.health, err = server.Listen(ctx, a.cfg.HealthAddr); err != nil {
		return fmt.Errorf("health_addr: %w", err)
	}
	if !a.cfg.Insecure && !config.Local(a.cfg.GRPCAddr) {
		a.log.WarnContext(ctx, "no gateway is admitted on this listener: it can be reached from other machines, and every call on it is refused",
			slog.String("key", "grpc_addr"), slog.String("addr", a.cfg.GRPCAddr))
	}
	for key, addr := range map[string]string{"grpc_addr": a.cfg.GRPCAddr, "admin_addr": a.cfg.AdminAddr} {
		if a.cfg.Insecure && !config.Local(addr) {
			a.log.WarnContext(ctx, "insecure: this listener is reachable from other machines and trusts every caller",
				slog.String("key", key), slog.String("addr", addr), slog.Bool("tls", a.tls != nil))
		}
	}
	return nil
}

// adminMaxReceive bounds what a caller can make the admin listener hold before
// the token is looked at.
const adminMaxReceive = 64 << 10

func (a *App) buildServers(context.Context) error {
	metrics, err := server.NewGRPCMetrics(a.reg)
	if err != nil {
		return fmt.Errorf("make the gRPC servers: %w", err)
	}
	a.data = server.NewGRPC(server.GRPCConfig{
		Logger: a.log, Metrics: metrics, Credentials: credentialsOf(a.tls),
		Counted: append(grpcapi.Counted(), extauthz.Method), MaxInFlight: a.cfg.MaxInFlight,
		Answers: map[string]func(error) any{extauthz.Method: extauthz.Refuse}, Undecodable: extauthz.Undecodable,
	})
	a.admin = server.NewGRPC(server.GRPCConfig{
		Logger: a.log, Metrics: metrics, Credentials: credentialsOf(a.tlsAdmin),
		MaxReceive: adminMaxReceive,
		Unary:      []grpc.UnaryServerInterceptor{a.callers.Unary},
		Stream:     []grpc.StreamServerInterceptor{a.callers.Stream},
	})
	invalid := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "kelpie_invalid_requests_total", Help: "Requests refused as malformed, without a decision.",
	})
	inFlight := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "kelpie_in_flight", Help: "Calls accepted and not yet answered; streams are not among them.",
	}, func() float64 { return float64(a.data.InFlight()) })
	if err := a.register(invalid, inFlight); err != nil {
		return err
	}
	api, err := grpcapi.New(grpcapi.Config{
		Decider: a.traces.decider(a.decider), Holder: a.approvals.holder, Standing: a.standing(), Draining: a.data.Draining(), Invalid: invalid.Inc,
	})
	if err != nil {
		return fmt.Errorf("make the gRPC door: %w", err)
	}
	door, err := extauthz.New(extauthz.Config{Decider: a.decider, Standing: a.standing()})
	if err != nil {
		return fmt.Errorf("make the ext_authz door: %w", err)
	}
	data, admin := a.traces.services(a.data), a.traces.services(a.admin)
	authzv1.RegisterAuthorizationServiceServer(data, api)
	authv3.RegisterAuthorizationServer(data, door)
	adminv1.RegisterAdminServiceServer(admin, adminapi.New(a.policy.Status, a.decider))
	approvals := adminapi.NewApprovals(a.approvals.desk, callerOf)
	approvals.Draining = a.admin.Draining()
	approvalv1.RegisterApprovalServiceServer(admin, approvals)
	a.health = server.NewHTTP(server.HealthHandler(a.reg, a.Readiness))
	a.health.ErrorLog = slog.NewLogLogger(a.log.Handler(), slog.LevelDebug)
	return nil
}

// standing says which gateways may ask. A policy without `gateways` admits
// every caller on a listener that only this machine can reach, and no caller
// elsewhere.
func (a *App) standing() func(context.Context) (string, error) {
	if server.Local(a.listeners.data.Addr()) || a.cfg.Insecure {
		return func(ctx context.Context) (string, error) { return server.Gateway(ctx), nil }
	}
	refusal := status.Error(codes.PermissionDenied,
		"this listener can be reached from other machines, and no gateway is admitted there yet: "+
			"ask over loopback or a unix socket, or start the server with --insecure on a closed network")
	return func(context.Context) (string, error) { return "", refusal }
}

// close gives back what build opened; parts that were not made are skipped.
func (a *App) close(ctx context.Context) error {
	var errs []error
	for _, lis := range []interface{ Close() error }{a.listeners.data, a.listeners.admin, a.listeners.health, a.slack.listener} {
		if lis != nil {
			errs = append(errs, lis.Close())
		}
	}
	if a.decision != nil {
		errs = append(errs, a.decision.Close(ctx))
	}
	errs = append(errs, a.limits.close(), a.approvals.close(), a.notices.close(), a.closeAudit())
	a.traces.close(ctx, a.abort)
	return errors.Join(errs...)
}
