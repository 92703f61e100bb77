package main

import (
	"context"
	"fmt"
	"time"

	"github.com/go-redis/redis_rate/v10"
	"github.com/throttled/throttled/v2"
	goredisstore "github.com/throttled/throttled/v2/store/goredisstore.v9"
)

func openRedisRate(_ context.Context, j *job) (opened, error) {
	client := newClient(j.Redis)
	limiter := redis_rate.NewLimiter(client)
	count, burst := j.Bounds.hourly()
	limit := redis_rate.Limit{Rate: count, Burst: burst, Period: time.Hour}
	one := func(ctx context.Context, key int) (bool, error) {
		res, err := limiter.Allow(ctx, agentKey("", key), limit)
		if err != nil {
			return false, err
		}
		return res.Allowed > 0, nil
	}
	return opened{caller: func() ask { return one }, close: closer(client)}, nil
}

func openThrottled(_ context.Context, j *job) (opened, error) {
	client := newClient(j.Redis)
	store, err := goredisstore.NewCtx(client, "throttled:")
	if err != nil {
		return opened{}, fmt.Errorf("make the store: %w", err)
	}
	count, burst := j.Bounds.hourly()
	// MaxBurst is what goes beyond the first.
	limiter, err := throttled.NewGCRARateLimiterCtx(store, throttled.RateQuota{MaxRate: throttled.PerHour(count), MaxBurst: burst - 1})
	if err != nil {
		return opened{}, fmt.Errorf("make the limiter: %w", err)
	}
	one := func(ctx context.Context, key int) (bool, error) {
		limited, _, err := limiter.RateLimitCtx(ctx, agentKey("", key), 1)
		return !limited && err == nil, err
	}
	return opened{caller: func() ask { return one }, close: closer(client)}, nil
}
