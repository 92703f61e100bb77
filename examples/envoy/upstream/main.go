// Command upstream is the service behind Envoy in this example. It does nothing
// but tell what reached it: as the answer, and as one JSON line on standard
// output. It speaks HTTP/1 and HTTP/2 without TLS.
//
//	go run ./examples/envoy/upstream -addr 127.0.0.1:8081
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// seen is what reached the upstream.
type seen struct {
	Protocol string      `json:"protocol"`
	Method   string      `json:"method"`
	Host     string      `json:"host"`
	Path     string      `json:"path"` // as it stood in the request, query and all
	Headers  http.Header `json:"headers"`
	Body     string      `json:"body,omitempty"`
}

const maxBody = 1 << 20

func main() {
	addr := flag.String("addr", "127.0.0.1:8081", "listen on `host:port`")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := serve(ctx, *addr, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// serve answers until ctx is done.
func serve(ctx context.Context, addr string, out io.Writer) error {
	lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	srv := &http.Server{Handler: echo(out), Protocols: &protocols, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		<-ctx.Done()
		_ = srv.Close() // Nothing that it answers is worth waiting for.
	}()
	if err := srv.Serve(lis); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// echo tells each request to out before it answers.
func echo(out io.Writer) http.Handler {
	var mu sync.Mutex
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		line, err := json.Marshal(seen{r.Proto, r.Method, r.Host, r.RequestURI, r.Header, string(body)})
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		line = append(line, '\n')
		mu.Lock()
		_, err = out.Write(line)
		mu.Unlock()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(line) // The caller has gone if this fails.
	})
}
