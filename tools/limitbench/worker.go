package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

// workerArg makes this program a worker: a process of its own for the callers,
// so that one side's memory is not another's, and so that there can be several
// replicas. It reads jobs and says what it found, a message per line; between
// being ready and beginning it waits to be told, so that the others, and the
// counters of Redis, start where it does.
const workerArg = "worker"

// message is what a worker and the one who started it say to each other.
type message struct {
	Job     *job     `json:"job,omitempty"`     // to the worker: connect and warm up
	Go      bool     `json:"go,omitempty"`      // to the worker: begin
	Ready   bool     `json:"ready,omitempty"`   // of the worker: warm
	Outcome *outcome `json:"outcome,omitempty"` // of the worker: done
	Error   string   `json:"error,omitempty"`   // of the worker: this job has failed
}

// warmPart of the span is spent on warming up, uncounted.
const warmPart = 4

// work is the worker. It ends with its input.
func work(ctx context.Context, in io.Reader, out io.Writer) error {
	read, write := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var m message
		if err := read.Decode(&m); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read a job: %w", err)
		}
		if m.Job == nil {
			return errors.New("a job is expected")
		}
		found, err := workOn(ctx, m.Job, read, write)
		answer := message{Outcome: found}
		if err != nil {
			answer = message{Error: err.Error()}
		}
		if err := write.Encode(answer); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
	}
}

func workOn(ctx context.Context, j *job, read *json.Decoder, write *json.Encoder) (*outcome, error) {
	callers, err := assemble(ctx, j)
	if err != nil {
		return nil, err
	}
	defer callers.side.close()
	warm, err := callers.ask(ctx, j.Span/warmPart)
	if err != nil {
		return nil, err
	}
	if warm.Admitted+warm.Denied == 0 {
		return nil, fmt.Errorf("warm up: nothing was decided: %s", warm.FirstError)
	}
	if err := write.Encode(message{Ready: true}); err != nil {
		return nil, fmt.Errorf("say ready: %w", err)
	}
	var m message
	if err := read.Decode(&m); err != nil || !m.Go {
		return nil, fmt.Errorf("wait for the start: %w", err)
	}
	found, err := callers.ask(ctx, j.Span)
	return &found, err
}

// worker is a running one.
type worker struct {
	cmd   *exec.Cmd
	input io.Closer
	write *json.Encoder
	read  *json.Decoder
}

func startWorker(ctx context.Context) (*worker, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	cmd := exec.CommandContext(ctx, self, workerArg)
	cmd.Env, cmd.Stderr = collected(), os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start a worker: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start a worker: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a worker: %w", err)
	}
	return &worker{cmd: cmd, input: in, write: json.NewEncoder(in), read: json.NewDecoder(out)}, nil
}

func (w *worker) stop() {
	// It has nothing to lose; it may have ended by itself.
	_ = w.input.Close()
	_ = w.cmd.Process.Kill()
	_ = w.cmd.Wait()
}

func (w *worker) send(m message) error {
	if err := w.write.Encode(m); err != nil {
		return fmt.Errorf("tell a worker: %w", err)
	}
	return nil
}

func (w *worker) receive() (message, error) {
	var m message
	if err := w.read.Decode(&m); err != nil {
		return m, fmt.Errorf("hear from a worker: %w", err)
	}
	if m.Error != "" {
		return m, errors.New(m.Error)
	}
	return m, nil
}

// together has each of the workers do its share of a job at once. begin and end
// are called where all of them are warm, and when all of them are done.
func together(workers []*worker, j job, begin, end func() error) (outcome, error) {
	total := outcome{}
	callers := j.Callers
	for i, w := range workers {
		share := j
		share.Callers = callers*(i+1)/len(workers) - callers*i/len(workers)
		share.Seed += uint64(i) << 32
		if err := w.send(message{Job: &share}); err != nil {
			return total, err
		}
	}
	if err := each(workers, func(w *worker) error { _, err := w.receive(); return err }); err != nil {
		return total, err
	}
	if err := begin(); err != nil {
		return total, err
	}
	if err := each(workers, func(w *worker) error { return w.send(message{Go: true}) }); err != nil {
		return total, err
	}
	err := each(workers, func(w *worker) error {
		m, err := w.receive()
		if err == nil && m.Outcome == nil {
			err = errors.New("a worker has nothing to say")
		}
		if err == nil {
			total.add(m.Outcome)
		}
		return err
	})
	if err != nil {
		return total, err
	}
	return total, end()
}

// each calls f for all workers, and returns the first error.
func each(workers []*worker, f func(*worker) error) error {
	var first error
	for _, w := range workers {
		if err := f(w); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// collected is the environment with the collector set as Kelpie sets its own,
// for both sides, unless the environment says otherwise, which Kelpie obeys too.
func collected(extra ...string) []string {
	env := os.Environ()
	if os.Getenv("GOGC") == "" {
		env = append(env, "GOGC=400")
	}
	return append(env, extra...)
}

// patience is how long something may take to come up.
const patience = 30 * time.Second
