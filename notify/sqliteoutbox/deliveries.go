package sqliteoutbox

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/kelpie-authz/kelpie/notify"
)

// Enqueue implements [notify.Outbox].
func (o *Outbox) Enqueue(ctx context.Context, e *notify.Event, channels []string, now time.Time) error {
	raw, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("write down an event: %w", err)
	}
	return o.in(ctx, func(tx *sql.Tx) error {
		var n int
		if err := tx.QueryRowContext(ctx, "SELECT count(*) FROM deliveries WHERE state = 0").Scan(&n); err != nil {
			return fmt.Errorf("count what waits: %w", err)
		}
		if n+len(channels) > o.max {
			return fmt.Errorf("%d deliveries wait already: %w", n, notify.ErrFull)
		}
		asked := 0
		if e.Type == notify.Requested {
			asked = 1
		}
		for _, channel := range channels {
			_, err := tx.ExecContext(ctx, `INSERT INTO deliveries (channel, event, approval, state, attempts, enqueued, due, ended, asked, record)
				VALUES (?, ?, ?, 0, 0, ?, ?, 0, ?, ?) ON CONFLICT (channel, event) DO NOTHING`,
				channel, e.ID, e.Approval.ID, now.UnixNano(), now.UnixNano(), asked, raw)
			if err != nil {
				return fmt.Errorf("write the outbox: %w", err)
			}
		}
		return nil
	})
}

// Next implements [notify.Outbox].
func (o *Outbox) Next(ctx context.Context, channel string, now time.Time) (*notify.Delivery, time.Time, error) {
	// The first of each approval alone: those behind it wait for it.
	const first = `FROM deliveries d WHERE d.channel = ? AND d.state = 0 AND NOT EXISTS (
		SELECT 1 FROM deliveries e WHERE e.channel = d.channel AND e.approval = d.approval AND e.state = 0 AND e.number < d.number)`
	d := &notify.Delivery{Channel: channel}
	var raw []byte
	var enqueued int64
	err := o.db.QueryRowContext(ctx, `SELECT d.number, d.attempts, d.enqueued, d.record, coalesce(
			(SELECT receipt FROM receipts r WHERE r.channel = d.channel AND r.approval = d.approval), '') `+
		first+` AND d.due <= ? ORDER BY d.due, d.number LIMIT 1`, channel, now.UnixNano()).
		Scan(&d.Number, &d.Attempts, &enqueued, &raw, &d.Receipt)
	if errors.Is(err, sql.ErrNoRows) {
		var due sql.NullInt64
		if err := o.db.QueryRowContext(ctx, `SELECT min(d.due) `+first, channel).Scan(&due); err != nil {
			return nil, time.Time{}, fmt.Errorf("read the outbox: %w", err)
		}
		if !due.Valid {
			return nil, time.Time{}, nil
		}
		return nil, time.Unix(0, due.Int64), nil
	}
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("read the outbox: %w", err)
	}
	d.Enqueued = time.Unix(0, enqueued)
	if err := json.Unmarshal(raw, &d.Event); err != nil {
		return nil, time.Time{}, fmt.Errorf("read delivery %d of the outbox: %w", d.Number, err)
	}
	return d, time.Time{}, nil
}

// Delivered implements [notify.Outbox].
func (o *Outbox) Delivered(ctx context.Context, d *notify.Delivery, receipt string, now time.Time) error {
	return o.in(ctx, func(tx *sql.Tx) error {
		for _, one := range []struct {
			query string
			args  []any
		}{
			{"UPDATE deliveries SET state = ?, ended = ? WHERE number = ? AND state = 0", []any{delivered, now.UnixNano(), d.Number}},
			{"UPDATE deliveries SET asked = 0 WHERE event = ?", []any{d.Event.ID}},
			{
				`INSERT INTO receipts VALUES (?, ?, ?, ?) ON CONFLICT (channel, approval) DO UPDATE SET receipt = excluded.receipt, at = excluded.at`,
				[]any{d.Channel, d.Event.Approval.ID, receipt, now.UnixNano()},
			},
		} {
			if _, err := tx.ExecContext(ctx, one.query, one.args...); err != nil {
				return fmt.Errorf("write the outbox: %w", err)
			}
		}
		return nil
	})
}

// Retry implements [notify.Outbox].
func (o *Outbox) Retry(ctx context.Context, d *notify.Delivery, at time.Time) error {
	return o.exec(ctx, "UPDATE deliveries SET attempts = attempts + 1, due = ? WHERE number = ? AND state = 0", at.UnixNano(), d.Number)
}

// Dead implements [notify.Outbox].
func (o *Outbox) Dead(ctx context.Context, d *notify.Delivery, now time.Time) error {
	return o.exec(ctx, "UPDATE deliveries SET state = ?, attempts = attempts + 1, ended = ? WHERE number = ? AND state = 0", dead, now.UnixNano(), d.Number)
}

// Drop implements [notify.Outbox].
func (o *Outbox) Drop(ctx context.Context, channel string, now time.Time) (int, error) {
	done, err := o.db.ExecContext(ctx, "UPDATE deliveries SET state = ?, ended = ? WHERE channel = ? AND state = 0", dead, now.UnixNano(), channel)
	if err != nil {
		return 0, fmt.Errorf("write the outbox: %w", err)
	}
	n, err := done.RowsAffected()
	if err != nil {
		return 0, fmt.Errorf("write the outbox: %w", err)
	}
	return int(n), nil
}

func (o *Outbox) exec(ctx context.Context, query string, args ...any) error {
	if _, err := o.db.ExecContext(ctx, query, args...); err != nil {
		return fmt.Errorf("write the outbox: %w", err)
	}
	return nil
}

// Known implements [notify.Outbox].
func (o *Outbox) Known(ctx context.Context, approval string) (bool, error) {
	var known bool // Receipts are kept for longer.
	if err := o.db.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM deliveries WHERE approval = ?) OR EXISTS (SELECT 1 FROM receipts WHERE approval = ?)", approval, approval).Scan(&known); err != nil {
		return false, fmt.Errorf("read the outbox: %w", err)
	}
	return known, nil
}

// Pending implements [notify.Outbox].
func (o *Outbox) Pending(ctx context.Context) (map[string]notify.Waiting, error) {
	// The oldest has the lowest number, which an index has: no row but that one is read.
	rows, err := o.db.QueryContext(ctx, `SELECT w.channel, w.n, d.enqueued FROM
		(SELECT channel, count(*) AS n, min(number) AS first FROM deliveries WHERE state = 0 GROUP BY channel) w
		JOIN deliveries d ON d.number = w.first`)
	if err != nil {
		return nil, fmt.Errorf("read the outbox: %w", err)
	}
	defer func() { _ = rows.Close() }() // Err tells.
	out := map[string]notify.Waiting{}
	for rows.Next() {
		var channel string
		var n int
		var since int64
		if err := rows.Scan(&channel, &n, &since); err != nil {
			return nil, fmt.Errorf("read the outbox: %w", err)
		}
		out[channel] = notify.Waiting{Count: n, Since: time.Unix(0, since)}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read the outbox: %w", err)
	}
	return out, nil
}

// Unheard implements [notify.Outbox].
func (o *Outbox) Unheard(ctx context.Context, before time.Time) ([]string, error) {
	rows, err := o.db.QueryContext(ctx, "UPDATE deliveries SET asked = 0 WHERE asked = 1 AND enqueued <= ? RETURNING approval", before.UnixNano())
	if err != nil {
		return nil, fmt.Errorf("read the outbox: %w", err)
	}
	defer func() { _ = rows.Close() }() // Err tells.
	var out []string
	seen := map[string]bool{}
	for rows.Next() {
		var approval string
		if err := rows.Scan(&approval); err != nil {
			return nil, fmt.Errorf("read the outbox: %w", err)
		}
		if !seen[approval] {
			seen[approval] = true
			out = append(out, approval)
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read the outbox: %w", err)
	}
	return out, nil
}

// receiptsKept is how much longer than deliveries receipts are kept.
const receiptsKept = 90 * 24 * time.Hour

// Prune implements [notify.Outbox].
func (o *Outbox) Prune(ctx context.Context, before time.Time) error {
	return o.in(ctx, func(tx *sql.Tx) error {
		for _, one := range []struct {
			query string
			at    time.Time
		}{
			{"DELETE FROM deliveries WHERE state <> 0 AND ended < ?", before},
			// A channel that there is gives up long before.
			{"DELETE FROM deliveries WHERE state = 0 AND enqueued < ?", before},
			// It is renewed by each event; an approval can wait for long.
			{"DELETE FROM receipts WHERE at < ?", before.Add(-receiptsKept)},
		} {
			if _, err := tx.ExecContext(ctx, one.query, one.at.UnixNano()); err != nil {
				return fmt.Errorf("remove what is old from the outbox: %w", err)
			}
		}
		return nil
	})
}
