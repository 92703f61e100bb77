// Package app wires Kelpie together: it is the one place that knows every
// driver, and chooses among them. The command line and end-to-end tests make
// the same App from the same configuration.
//
// It is not for rules of any kind: what is decided belongs to pdp, what is
// translated to the doors.
//
//	a, err := app.New(ctx, cfg, app.Deps{Stdout: os.Stdout, Stderr: os.Stderr})
//	if err != nil {
//		return err
//	}
//	fmt.Println("serving on", a.Addrs().GRPC)
//	return a.Run(ctx) // until ctx ends, then drains
package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kelpie-authz/kelpie/audit/fileaudit"
	"github.com/kelpie-authz/kelpie/internal/config"
	"github.com/kelpie-authz/kelpie/internal/obs"
	"github.com/kelpie-authz/kelpie/pdp"
	"github.com/kelpie-authz/kelpie/server"
)

// Deps are what an App takes from its surroundings. The zero value is usable.
type Deps struct {
	// Stdout gets the decision log, one JSON line per decision. Nil: os.Stdout.
	Stdout io.Writer
	// Stderr gets the server's own log. Nil: os.Stderr.
	Stderr io.Writer
	// Version is the build's, for the metric kelpie_build_info. Empty: unknown.
	Version string
	// Now is the clock of decisions. Nil: time.Now.
	Now func() time.Time
	// Embedded says that the process is not the server's own: Run then leaves
	// the garbage collector, the memory limit and SIGPIPE alone.
	Embedded bool
}

// Addrs are where an App listens.
type Addrs struct {
	GRPC   net.Addr
	Admin  net.Addr
	Health net.Addr
	// Slack is nil if nothing is decided over Slack.
	Slack net.Addr
}

// App is one server. Make it with New, and run it once.
type App struct {
	cfg  *config.Config
	deps Deps
	log  *slog.Logger
	reg  *prometheus.Registry

	policy    *policyStore
	limits    limits
	approvals approvals
	notices   notices
	slack     slackAnswers
	traces    *traces        // nil: none
	audit     *fileaudit.Log // nil: none
	decision  *obs.Writer
	decider   *pdp.Service
	token     *server.AdminToken
	callers   *server.Callers
	tls       *server.TLSKeeper // nil: none
	files     stateFiles
	tlsAdmin  *server.TLSKeeper // that of the admin listener, which may be tls
	tlsFault  atomic.Pointer[string]
	// tlsFailures counts bad TLS files, each once.
	tlsFailures prometheus.Counter

	data   *server.GRPC
	admin  *server.GRPC
	health *http.Server

	listeners struct{ data, admin, health net.Listener }
	serving   atomic.Bool
	abort     chan struct{}
	aborted   sync.Once
}

// New loads everything and opens the listeners. Any fault in the policy, TLS
// files, state directory or an address is an error, and nothing stays open.
// Callers that get an App must Run it, which closes everything.
func New(ctx context.Context, cfg *config.Config, deps Deps) (*App, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if deps.Stdout == nil {
		deps.Stdout = os.Stdout
	}
	if deps.Stderr == nil {
		deps.Stderr = os.Stderr
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	a := &App{
		cfg: cfg, deps: deps,
		log:   slog.New(slog.NewJSONHandler(deps.Stderr, &slog.HandlerOptions{Level: cfg.LogLevel})),
		reg:   prometheus.NewRegistry(),
		abort: make(chan struct{}),
	}
	if err := a.build(ctx); err != nil {
		return nil, errors.Join(err, a.close(context.WithoutCancel(ctx)))
	}
	a.noteFiles()
	return a, nil
}

// Addrs tells where it listens; port 0 has become the real one.
func (a *App) Addrs() Addrs {
	out := Addrs{GRPC: a.listeners.data.Addr(), Admin: a.listeners.admin.Addr(), Health: a.listeners.health.Addr()}
	if a.slack.listener != nil {
		out.Slack = a.slack.listener.Addr()
	}
	return out
}

// Reload looks at the policy directory and the TLS files now, and loads the
// policy even if it did not change. A fault leaves what is in force as it is.
func (a *App) Reload(ctx context.Context) error {
	return errors.Join(a.policy.reload(ctx, true), a.reloadTLS())
}

// Abort ends a drain at once, and Run with it, with an error that says so. It may
// be called at any time, more than once.
func (a *App) Abort() {
	a.aborted.Do(func() {
		if !a.serving.Load() {
			a.log.Warn("a second signal: the drain is cut short, and calls under way get no answer")
		}
		close(a.abort)
	})
}

// Readiness tells how the server stands, as /readyz does.
func (a *App) Readiness() server.Readiness {
	status := a.policy.Status()
	r := server.Readiness{
		Ready:          a.serving.Load(),
		PolicyVersion:  status.Version,
		PolicyLoadedAt: status.LoadedAt,
		PolicyErrors:   status.LastErrors,
	}
	if err := a.decision.Err(); err != nil {
		// Every call is denied then, so a load balancer should look elsewhere.
		r.Ready = false
		r.Faults = append(r.Faults, "the decision log cannot be written, so no call is allowed: "+err.Error())
	}
	if fault, denies := a.auditFault(); fault != "" {
		r.Ready = r.Ready && !denies
		r.Faults = append(r.Faults, fault)
	}
	if a.audit != nil {
		if err := a.audit.Worry(); err != nil {
			// Records are kept, so calls go on; somebody has to look all the same.
			r.Faults = append(r.Faults, "old segments of the audit are not kept as they should: "+err.Error())
		}
	}
	if fault := a.limits.fault(); fault != "" {
		r.Faults = append(r.Faults, fault)
	}
	if fault := a.approvals.fault(); fault != "" {
		r.Faults = append(r.Faults, fault)
	}
	r.Faults = append(r.Faults, a.notices.faults()...)
	if fault := a.files.fault.Load(); fault != nil {
		r.Faults = append(r.Faults, *fault)
	}
	if fault := a.tlsFault.Load(); fault != nil {
		r.Faults = append(r.Faults, *fault)
	}
	return r
}
