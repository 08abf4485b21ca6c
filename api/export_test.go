package api

import (
	"context"
	"time"
)

// UpdateNode writes the node's status, as it is done every few seconds.
func (s *Server) UpdateNode(ctx context.Context) error { return s.updateNode(ctx, nil, true) }

// SetPatience makes a server that does not run yet impatient with slow clients.
func (s *Server) SetPatience(stranger, header, body, stall time.Duration) {
	s.patience = patience{stranger: stranger, header: header, body: body, stall: stall, pause: stall}
}

// SetCommands bounds the commands that clients run at a time.
func (s *Server) SetCommands(limit int64) { s.commands.limit = limit }

// Commands is how many commands of clients run.
func (s *Server) Commands() int64 { return s.commands.now.Load() }

// Orphans is how many of them go on without their client.
func (s *Server) Orphans() int {
	s.orphans.mu.Lock()
	defer s.orphans.mu.Unlock()
	return s.orphans.all.Len()
}

// MaxOrphans is how many there may be.
const MaxOrphans = maxOrphans

// Watched is how many clients the server looks after, to cut them off when they do not read.
func (s *Server) Watched() int {
	n := 0
	s.watched.Range(func(any, any) bool { n++; return true })
	return n
}

// Strangers is how many connections of the TLS port have not proved who they are.
func (s *Server) Strangers() int {
	s.gate.mu.Lock()
	defer s.gate.mu.Unlock()
	return s.gate.strangers.Len()
}

// Known is how many have.
func (s *Server) Known() int {
	s.gate.mu.Lock()
	defer s.gate.mu.Unlock()
	return s.gate.known
}

// The bounds of the TLS port's connections.
const MaxStrangers = maxStrangers
