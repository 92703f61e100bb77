package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// store is the Redis that all sides ask: a process of this run, which keeps
// nothing on disk.
type store struct {
	process
	client  *redis.Client
	version string
}

// process is something that was started for this run.
type process struct {
	cmd  *exec.Cmd
	addr string
	log  *os.File
}

// startLogged starts a process whose output goes to a file.
func startLogged(dir, name string, cmd *exec.Cmd) (process, error) {
	log, err := os.Create(filepath.Join(dir, name+".log"))
	if err != nil {
		return process{}, fmt.Errorf("create the log: %w", err)
	}
	if cmd.Stdout == nil {
		cmd.Stdout = log
	}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		_ = log.Close() // nothing was written
		return process{}, fmt.Errorf("start %s: %w", name, err)
	}
	return process{cmd: cmd, log: log}, nil
}

func (p *process) stop() {
	if p.cmd == nil {
		return
	}
	// It may have ended by itself; there is nothing to do about any error.
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
	_ = p.log.Close()
}

// cpu is the CPU time that the process has used, in steps of 10 ms.
func (p *process) cpu() (time.Duration, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("read the CPU time: %w", err)
	}
	// The name is in parentheses and may hold spaces; utime and stime are the
	// 12th and 13th fields after it (proc(5)), in ticks of 10 ms.
	_, rest, _ := strings.Cut(string(raw), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, fmt.Errorf("read the CPU time: /proc/PID/stat says %q", raw)
	}
	var ticks int64
	for _, field := range fields[11:13] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read the CPU time: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}

// tail is the end of what it has said.
func (p *process) tail() string {
	raw, err := os.ReadFile(p.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(raw[max(0, len(raw)-2000):])
}

func freeAddr() (string, error) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer lis.Close()
	return lis.Addr().String(), nil
}

// until calls done every few milliseconds until it says so.
func until(ctx context.Context, what string, done func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := done(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s did not come up: %w", what, err)
		case <-tick.C:
		}
	}
}

func startStore(ctx context.Context, dir string) (*store, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	_, port, _ := strings.Cut(addr, ":")
	s := new(store)
	s.process, err = startLogged(dir, "redis", exec.CommandContext(ctx, "redis-server",
		"--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no", "--dir", dir))
	if err != nil {
		return nil, err
	}
	s.addr = addr
	s.client = redis.NewClient(&redis.Options{Addr: addr})
	if err := until(ctx, "redis-server", func(ctx context.Context) error { return s.client.Ping(ctx).Err() }); err != nil {
		s.close()
		return nil, err
	}
	info, err := s.info(ctx, "server")
	if err != nil {
		s.close()
		return nil, err
	}
	s.version = info["redis_version"]
	return s, nil
}

func (s *store) close() {
	closer(s.client)()
	s.stop()
}

// clear drops all keys, so that each measurement begins with none.
func (s *store) clear(ctx context.Context) error {
	if err := s.client.FlushAll(ctx).Err(); err != nil {
		return fmt.Errorf("clear Redis: %w", err)
	}
	return nil
}

func (s *store) info(ctx context.Context, section string) (map[string]string, error) {
	text, err := s.client.Info(ctx, section).Result()
	if err != nil {
		return nil, fmt.Errorf("ask Redis for its %s: %w", section, err)
	}
	found := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			found[name] = value
		}
	}
	return found, nil
}

// usage is what Redis has done so far.
type usage struct {
	calls map[string]int64 // by command, those of scripts too
	cpu   time.Duration
}

func (s *store) usage(ctx context.Context) (usage, error) {
	commands, err := s.info(ctx, "commandstats")
	if err != nil {
		return usage{}, err
	}
	used := usage{calls: map[string]int64{}}
	for name, value := range commands {
		_, value, _ = strings.Cut(value, "calls=")
		value, _, _ = strings.Cut(value, ",")
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return used, fmt.Errorf("read the count of %s: %w", name, err)
		}
		used.calls[strings.TrimPrefix(name, "cmdstat_")] = n
	}
	times, err := s.info(ctx, "cpu")
	if err != nil {
		return used, err
	}
	for _, name := range []string{"used_cpu_user", "used_cpu_sys"} {
		seconds, err := strconv.ParseFloat(times[name], 64)
		if err != nil {
			return used, fmt.Errorf("read the %s of Redis: %w", name, err)
		}
		used.cpu += time.Duration(seconds * float64(time.Second))
	}
	return used, nil
}

// since is what Redis did in between: commands that the clients of a side sent,
// commands in all, and CPU time.
func (u usage) since(before usage, sent map[string]int64) (fromClients, all int64, cpu time.Duration) {
	for name, n := range u.calls {
		if name == "info" {
			continue // our own
		}
		n -= before.calls[name]
		all += n
		fromClients += sent[name] * n
	}
	return fromClients, all, u.cpu - before.cpu
}
