package main

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
)

// TestLibraries: what a library calls an error is a warning in podd's log, and what it calls news is shown to its developers.
func TestLibraries(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(libraries{slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelInfo})})
	log.Error("Unhandled Error", "err", errors.New("unable to parse the selector"))
	log.Warn("careful")
	log.Info("news")
	if s := out.String(); strings.Contains(s, "ERROR") || strings.Count(s, "level=WARN") != 2 || strings.Contains(s, "news") {
		t.Error(s)
	}
}
