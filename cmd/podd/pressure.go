package main

import (
	"context"
	"path/filepath"

	"podd/api/pressure"
	"podd/api/usage"
	"podd/runtime"
	"podd/runtime/stats"
)

// pressure is what the runtime needs to know of the host's room. The API and the measurements are made after the runtime.
func (p *podd) pressure() runtime.Pressure {
	thresholds, _ := pressure.Parse(p.config.EvictionHard) // it was checked
	return runtime.Pressure{
		Thresholds: thresholds, Period: p.config.PressurePeriod.Duration,
		Left:  func() pressure.Observations { return stats.Left(p.config.Root, p.imageDir()) },
		OneFS: func() bool { return stats.SameFS(p.config.Root, p.imageDir()) },
		Usage: func(ctx context.Context, want usage.Want) (*usage.Snapshot, error) { return p.stats.Look(ctx, want) },
		Event: func(eventtype, reason, format string, args ...any) {
			p.api.NodeEvent(eventtype, reason, format, args...)
		},
		Changed: func() { p.api.PressureChanged() },
	}
}

// imageDir is where containerd keeps images and writable layers. Of somebody else's containerd it is the usual place.
func (p *podd) imageDir() string {
	if p.config.Containerd != "" {
		return "/var/lib/containerd"
	}
	return filepath.Join(p.config.Root, "containerd")
}
