// Package api serves the Kubernetes API of one host.
package api

import (
	"context"
	"errors"
	"log/slog"

	v1 "k8s.io/api/core/v1"

	"podd/store"
)

// Config is what a server needs.
type Config struct {
	Store       *store.Store
	Runtime     Runtime
	NodeName    string
	NodeIPs     []string // primary first, at most one per family
	SocketPath  string
	SocketGroup string // group that may use the socket; "podd" when empty
	Version     string // of podd
	Log         *slog.Logger
}

// Server is the API.
type Server struct{}

// New makes a server; it starts nothing.
func New(c Config) (*Server, error) { return nil, errors.New("api: not built yet") }

// Run serves until ctx is done and everything is down.
func (s *Server) Run(ctx context.Context) error { return nil }

// Event records an event of a pod. It does not block.
func (s *Server) Event(pod *v1.Pod, eventtype, reason, format string, args ...any) {}

// CreatePod admits, defaults and validates pod and stores it durably, as POST does.
func (s *Server) CreatePod(ctx context.Context, pod *v1.Pod) (*v1.Pod, error) {
	return nil, errors.New("api: not built yet")
}

// PutStatic makes the pod of a manifest file be what the store holds: it creates it, or, when another uid or an older
// content of that name is there, replaces it. It goes through the same admission, defaulting and validation as POST.
func (s *Server) PutStatic(ctx context.Context, pod *v1.Pod) (*v1.Pod, error) {
	return nil, errors.New("api: not built yet")
}

// RemoveStatic asks for the graceful deletion of the pod of a manifest file that is gone. None is no error.
func (s *Server) RemoveStatic(ctx context.Context, namespace, name string) error {
	return errors.New("api: not built yet")
}
