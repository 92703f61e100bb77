package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	authzv1 "github.com/kelpie-authz/kelpie/gen/kelpie/authz/v1"
	"github.com/kelpie-authz/kelpie/internal/policydir"
	"github.com/kelpie-authz/kelpie/server"
)

// flushTimeout is how long the last lines of the decision log may take.
const flushTimeout = 5 * time.Second

// Run serves until ctx ends or a listener dies, then drains: it reports
// NOT_SERVING, goes on for the drain delay, finishes what is under way within
// the drain timeout, writes the last of the decision log, and closes. A clean
// drain is a nil error. Run an App once.
func (a *App) Run(ctx context.Context) error {
	if !a.deps.Embedded {
		a.ownProcess()
	}
	group, groupCtx := errgroup.WithContext(ctx)
	watchCtx, stopWatching := context.WithCancel(groupCtx)
	group.Go(func() error { return a.serveGRPC("grpc_addr", a.data, a.listeners.data) })
	group.Go(func() error { return a.serveGRPC("admin_addr", a.admin, a.listeners.admin) })
	group.Go(func() error { return a.serveHTTP(a.listeners.health) })
	group.Go(a.slack.serve)
	group.Go(func() error { a.slack.work(watchCtx); return nil })
	group.Go(func() error { a.watch(watchCtx); return nil })
	group.Go(func() error { a.tellHealth(watchCtx); return nil })
	group.Go(func() error { a.sweep(watchCtx); return nil })
	group.Go(func() error { a.watchFiles(watchCtx); return nil })
	group.Go(func() error { a.notifyUntil(watchCtx); return nil })
	group.Go(func() error { a.editShared(watchCtx); return nil })
	holding, letGo := context.WithCancel(context.WithoutCancel(ctx))
	defer letGo()
	group.Go(func() error { return a.approvals.holder.Run(holding) })
	group.Go(func() error {
		<-groupCtx.Done()
		stopWatching()
		return a.drain(context.WithoutCancel(ctx), letGo)
	})
	a.serving.Store(true)
	a.log.LogAttrs(ctx, slog.LevelInfo, "serving", slog.String("grpc_addr", a.Addrs().GRPC.String()),
		slog.String("admin_addr", a.Addrs().Admin.String()), slog.String("health_addr", a.Addrs().Health.String()),
		slog.String("policy_version", a.policy.Snapshot().Version()), slog.Bool("tls", a.tls != nil), slog.String("limits", a.limits.where()))
	err := group.Wait()
	stopWatching()
	flushCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
	defer cancel()
	err = errors.Join(err, a.decision.Close(flushCtx), within(closeTimeout, a.closeState), a.closeAudit())
	a.traces.close(ctx, a.abort)
	return err
}

// closeTimeout is how long the files of the state directory may take to close: a
// disk that does not answer must not keep the process.
const closeTimeout = 5 * time.Second

var errNotClosed = errors.New("the files of the state directory could not be closed: its disk does not answer, see to it")

func (a *App) closeState() error {
	return errors.Join(a.limits.close(), a.approvals.close(), a.notices.close())
}

// within waits for do, but not for ever.
func within(most time.Duration, do func() error) error {
	done := make(chan error, 1)
	go func() { done <- do() }()
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
		return errNotClosed
	}
}

// healthEvery is how soon gRPC health follows the decision log.
const healthEvery = 100 * time.Millisecond

// tellHealth keeps gRPC health true: while the decision log cannot be written
// every call is denied, and whoever balances load should look elsewhere.
func (a *App) tellHealth(ctx context.Context) {
	tick := time.NewTicker(healthEvery)
	defer tick.Stop()
	serving := true
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		_, denied := a.auditFault()
		if now := a.decision.Err() == nil && !denied; now != serving {
			serving = now
			for _, service := range []string{authzv1.AuthorizationService_ServiceDesc.ServiceName, authv3.Authorization_ServiceDesc.ServiceName} {
				a.data.SetServing(serving, service)
			}
		}
	}
}

func (a *App) serveGRPC(key string, srv *server.GRPC, lis net.Listener) error {
	if err := srv.Serve(lis); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}

func (a *App) serveHTTP(lis net.Listener) error {
	if err := a.health.Serve(lis); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("health_addr: %w", err)
	}
	return nil
}

var errCutShort = errors.New("a second signal cut the drain short: calls that were still under way got no answer")

// drain stops the servers in the order in which their callers can do without
// them: the health listener goes last, so that probes see what happens. Calls
// that are held are let go once no more are taken.
func (a *App) drain(ctx context.Context, letGo func()) error {
	a.serving.Store(false)
	a.data.NotServing()
	a.admin.NotServing()
	a.log.InfoContext(ctx, "shutting down", slog.String("drain_delay", a.cfg.DrainDelay.String()),
		slog.String("drain_timeout", a.cfg.DrainTimeout.String()))
	pause := time.NewTimer(a.cfg.DrainDelay)
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-a.abort:
	}
	letGo()
	ctx, cancel := context.WithTimeout(ctx, a.cfg.DrainTimeout)
	defer cancel()
	go func() {
		select {
		case <-a.abort:
			cancel()
		case <-ctx.Done():
		}
	}()
	var both errgroup.Group
	both.Go(func() error { return a.data.Drain(ctx) })
	both.Go(func() error { return a.admin.Drain(ctx) })
	both.Go(func() error { return a.slack.drain(ctx) })
	err := both.Wait()
	select {
	case <-a.abort:
		err = errCutShort
	default:
	}
	if shutErr := a.health.Shutdown(ctx); shutErr != nil {
		err = errors.Join(err, a.health.Close())
	}
	return err
}

// watch reloads policy and TLS files when they change, until ctx ends.
func (a *App) watch(ctx context.Context) {
	failed := func(err error) {
		a.log.WarnContext(ctx, "file changes are found by polling only", slog.Any("error", err))
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		policydir.Watch{
			Dirs:    []string{a.cfg.Policy},
			Changed: func(ctx context.Context) { _ = a.policy.reload(ctx, false) }, // It logs and keeps its faults.
			Failed:  failed,
		}.Run(ctx)
		return nil
	})
	if keepers := a.keepers(); len(keepers) > 0 {
		var files []string
		for _, k := range keepers {
			files = append(files, k.Files()...)
		}
		group.Go(func() error {
			policydir.Watch{
				Dirs:    folders(files),
				Changed: func(context.Context) { _ = a.reloadTLS() }, // It logs and keeps its faults.
				Failed:  failed,
			}.Run(ctx)
			return nil
		})
	}
	_ = group.Wait() // Neither function returns an error.
}

func folders(files []string) []string {
	var dirs []string
	seen := map[string]bool{}
	for _, f := range files {
		dir := filepath.Dir(f)
		if !seen[dir] {
			seen[dir] = true
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

func (a *App) reloadTLS() error {
	errs := []error{a.authoritiesApart()}
	keepers := a.keepers()
	if errs[0] != nil {
		keepers = nil
	}
	changed := false
	for _, k := range keepers {
		one, err := k.Reload()
		changed, errs = changed || one, append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		text := "the TLS files cannot be loaded, the ones in force stay: " + err.Error()
		if before := a.tlsFault.Swap(&text); before == nil || *before != text {
			a.tlsFailures.Inc()
			a.log.Error("TLS files could not be loaded; the ones in force stay", slog.Any("error", err))
		}
		return fmt.Errorf("reload TLS: %w", err)
	}
	a.tlsFault.Store(nil)
	if changed {
		a.log.Info("TLS files loaded")
	}
	return nil
}

func credentialsOf(keeper *server.TLSKeeper) credentials.TransportCredentials {
	if keeper == nil {
		return server.Credentials(nil)
	}
	return server.Credentials(keeper.Config())
}
