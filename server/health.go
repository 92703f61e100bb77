package server

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Readiness is how the server stands, as /readyz tells it.
type Readiness struct {
	// Ready is true while the server can answer, also with an older policy.
	Ready bool `json:"ready"`
	// PolicyVersion is the snapshot in force.
	PolicyVersion string `json:"policy_version,omitempty"`
	// PolicyLoadedAt is since when.
	PolicyLoadedAt time.Time `json:"policy_loaded_at,omitzero"`
	// PolicyErrors are of the last reload; not empty means that the policy in
	// force is older than the files.
	PolicyErrors []string `json:"policy_errors,omitempty"`
	// Faults are other things that do not work as they should, in words.
	Faults []string `json:"faults,omitempty"`
}

// HealthHandler serves /metrics, /healthz and /readyz, and nothing else.
// /healthz is 200 while the process can answer at all; /readyz is 200 while
// readiness says ready, else 503. readiness is called for each request.
func HealthHandler(reg *prometheus.Registry, readiness func() Readiness) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{Registry: reg, MaxRequestsInFlight: 4}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		state := readiness()
		code := http.StatusOK
		if !state.Ready {
			code = http.StatusServiceUnavailable
		}
		writeJSON(w, code, state)
	})
	return mux
}

// NewHTTP returns a server of h whose every phase is bounded in time.
func NewHTTP(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, "encode the answer", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = w.Write(append(body, '\n')) // The prober has gone if this fails.
}
