package app

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kelpie-authz/kelpie/notify"
	"github.com/kelpie-authz/kelpie/notify/slack"
	"github.com/kelpie-authz/kelpie/notify/sqliteoutbox"
	"github.com/kelpie-authz/kelpie/notify/webhook"
	"github.com/kelpie-authz/kelpie/pdp"
)

// notices are the parts that tell others what happens to approvals.
type notices struct {
	outbox     notify.Outbox      // nil: nobody is told
	dispatcher *notify.Dispatcher // nil: nobody is told
	slack      *slack.Channel     // nil: no cards are posted
}

// buildNotices opens the outbox if anybody is to be told of anything.
func (a *App) buildNotices(ctx context.Context) error {
	channels, err := a.channels()
	if err != nil || len(channels) == 0 {
		return err
	}
	outbox, err := sqliteoutbox.Open(context.WithoutCancel(ctx), sqliteoutbox.Config{Dir: a.cfg.State})
	if err != nil {
		return fmt.Errorf("notifications: %w", err)
	}
	a.notices.outbox = outbox
	a.notices.dispatcher, err = notify.NewDispatcher(notify.Config{Outbox: outbox, Channels: channels, Log: a.log, Timer: newTimer, Now: a.deps.Now})
	if err != nil {
		return fmt.Errorf("notifications: %w", err)
	}
	return a.register(noticeMetrics{a.notices.dispatcher})
}

// channels are those that the configuration names.
func (a *App) channels() ([]notify.Channel, error) {
	var out []notify.Channel
	for i := range a.cfg.Webhooks {
		w := &a.cfg.Webhooks[i]
		types := make([]notify.Type, len(w.Events))
		for i, event := range w.Events {
			types[i] = notify.Type(event)
		}
		c, err := webhook.New(webhook.Config{
			Name: w.Name, URL: string(w.URL), Secrets: webhook.SecretFiles(w.SecretFiles...), Types: types, Loopback: w.Loopback, Now: a.deps.Now,
		})
		if err != nil {
			return nil, fmt.Errorf("webhooks (%s): %w", w.Name, err)
		}
		out = append(out, c)
	}
	posts, err := a.slackChannel()
	if err != nil {
		return nil, err
	}
	if posts != nil {
		a.notices.slack = posts
		out = append(out, posts)
	}
	return out, nil
}

// noticeOf are the types of events of approvals that others are told of.
//
//nolint:gochecknoglobals // A constant table; Go has no constant maps.
var noticeOf = map[pdp.ApprovalEventKind]notify.Type{
	pdp.ApprovalOpened:    notify.Requested,
	pdp.ApprovalReopened:  notify.Requested,
	pdp.ApprovalMet:       notify.Approved,
	pdp.ApprovalRefused:   notify.Denied,
	pdp.ApprovalLapsed:    notify.Expired,
	pdp.ApprovalUsed:      notify.Consumed,
	pdp.ApprovalTakenBack: notify.Revoked,
	pdp.ApprovalWithdrawn: notify.Cancelled,
	pdp.ApprovalOutdated:  notify.Superseded,

	pdp.ApprovalBreakGlass: notify.BreakGlass,
}

// noticeWithin bounds how long a call may wait until its event is kept.
const noticeWithin = time.Second

// telling makes what records decisions tell of approvals as well, after they were
// recorded. Nothing that fails there reaches the call.
func (a *App) telling(next pdp.Recorder) pdp.Recorder {
	d := a.notices.dispatcher
	if d == nil {
		return next
	}
	return pdp.Observe(next, func(ctx context.Context, r *pdp.Record, err error) {
		if r.Event == nil || noticeOf[r.Event.Kind] == "" {
			return
		}
		if r.Event.Failed || err != nil && (r.Event.Kind == pdp.ApprovalOpened || r.Event.Kind == pdp.ApprovalBreakGlass) {
			return // The call was denied for it, and will ask anew.
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noticeWithin)
		defer cancel()
		_ = d.Enqueue(ctx, noticeFrom(r)) // It is logged and counted.
	})
}

func noticeFrom(r *pdp.Record) *notify.Event {
	return newNotice(noticeOf[r.Event.Kind], r.ApprovalVersion, r.Time, notify.About{
		ID: r.ApprovalID, Digest: r.ApprovalDigest, Agent: r.Agent, Subject: r.Subject,
		Action: r.Action, Resource: r.Resource, Risk: r.Risk, ExpiresAt: r.ApprovalExpires,
	})
}

// newNotice names an event by what it is, so that the same one told twice has one name.
func newNotice(t notify.Type, version int64, at time.Time, about notify.About) *notify.Event {
	const prefix = len("approval.")
	return &notify.Event{
		ID: about.ID + "_" + string(t)[prefix:] + "_" + strconv.FormatInt(version, 10), Type: t, Time: at, Approval: about,
	}
}

// catchUp tells of approvals that wait and that the outbox knows nothing of: a crash
// came between the question and its event, or there was no outbox then. Of
// approvals that replicas share the others may have told.
func (a *App) catchUp(ctx context.Context) error {
	if a.notices.dispatcher == nil || a.approvals.shared != nil {
		return nil
	}
	for after := ""; ; {
		list, next, err := a.approvals.desk.List(ctx, pdp.ApprovalFilter{State: pdp.ApprovalPending, After: after})
		if err != nil {
			return fmt.Errorf("look for approvals that nobody was told of: %w", err)
		}
		for i := range list {
			r := &list[i]
			known, err := a.notices.outbox.Known(ctx, r.ID)
			if err != nil {
				return fmt.Errorf("look for approvals that nobody was told of: %w", err)
			}
			if known {
				continue
			}
			_ = a.notices.dispatcher.Enqueue(ctx, newNotice(notify.Requested, 1, r.OpenedAt, notify.About{
				ID: r.ID, Digest: r.Digest, Agent: r.Agent, Subject: r.Subject,
				Action: r.Action, Resource: r.Resource, Risk: r.Risk, ExpiresAt: r.ExpiresAt,
			})) // It is logged and counted.
		}
		if next == "" {
			return nil
		}
		after = next
	}
}

// notifyUntil delivers until ctx ends.
func (a *App) notifyUntil(ctx context.Context) {
	if a.notices.dispatcher == nil {
		return
	}
	if err := a.catchUp(ctx); err != nil && ctx.Err() == nil {
		a.log.ErrorContext(ctx, "approvals that wait since before the start may be told to nobody", slog.Any("error", err))
	}
	a.notices.dispatcher.Run(ctx)
}

// faults are what of the notifications does not work now.
func (n *notices) faults() []string {
	if n.dispatcher == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), noticeWithin)
	defer cancel()
	return n.dispatcher.Faults(ctx)
}

func (n *notices) close() error {
	if n.outbox == nil {
		return nil
	}
	if err := n.outbox.Close(); err != nil {
		return fmt.Errorf("close the notifications: %w", err)
	}
	return nil
}

// noticeMetrics are the counters of the notifications.
type noticeMetrics struct{ dispatcher *notify.Dispatcher }

//nolint:gochecknoglobals // A constant table; Go has no constant slices.
var noticeMetricTable = []struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	read func(*notify.Stats) float64
}{
	{noticeMetric("delivered_total", "Events that a channel took."), prometheus.CounterValue, func(s *notify.Stats) float64 { return float64(s.Delivered) }},
	{noticeMetric("failed_total", "Tries in vain to deliver an event."), prometheus.CounterValue, func(s *notify.Stats) float64 { return float64(s.Failed) }},
	{noticeMetric("dropped_total", "Events that were given up, or could not be kept."), prometheus.CounterValue, func(s *notify.Stats) float64 { return float64(s.Dropped) }},
	{noticeMetric("pending", "Events that wait for a channel."), prometheus.GaugeValue, func(s *notify.Stats) float64 { return float64(s.Pending) }},
	{noticeMetric("oldest_seconds", "Age of the oldest event that waits for a channel; 0 if none does."), prometheus.GaugeValue, func(s *notify.Stats) float64 { return s.Oldest.Seconds() }},
}

//nolint:gochecknoglobals // A constant; Go has no constant structs.
var unheardMetric = prometheus.NewDesc("kelpie_notify_unheard_total", "Questions that no channel had taken after a minute.", nil, nil)

func noticeMetric(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("kelpie_notify_"+name, help, []string{"channel"}, nil)
}

// Describe implements prometheus.Collector.
func (noticeMetrics) Describe(out chan<- *prometheus.Desc) {
	out <- unheardMetric
	for _, m := range noticeMetricTable {
		out <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (m noticeMetrics) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), noticeWithin)
	defer cancel()
	all, err := m.dispatcher.Stats(ctx)
	for i := range all {
		for _, one := range noticeMetricTable {
			if err != nil && one.kind == prometheus.GaugeValue {
				continue // A 0 would say that nothing waits; the health detail says why there is none.
			}
			out <- prometheus.MustNewConstMetric(one.desc, one.kind, one.read(&all[i]), all[i].Channel)
		}
	}
	out <- prometheus.MustNewConstMetric(unheardMetric, prometheus.CounterValue, float64(m.dispatcher.Unheard()))
}
