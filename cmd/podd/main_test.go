package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"podd/sandbox"
	"podd/store"
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

// TestTypedOn: that a client still sends to a command that has ended is news for podd's developers alone, and any other frame that cannot be
// written is a warning. The library logs by klog.
func TestTypedOn(t *testing.T) {
	for level, want := range map[slog.Level]string{slog.LevelInfo: "WARN", slog.LevelDebug: "DEBUG WARN"} {
		var out bytes.Buffer
		klog.SetSlogLogger(slog.New(libraries{slog.NewTextHandler(&out, &slog.HandlerOptions{Level: level})}))
		for _, err := range []error{io.ErrClosedPipe, errors.New("no space left on device")} {
			klog.FromContext(t.Context()).Error(err, "Unable to write frame", "sendLength", 5, "channel", 0, "err", err)
		}
		var got []string
		for line := range strings.Lines(out.String()) {
			_, after, _ := strings.Cut(line, "level=")
			name, _, _ := strings.Cut(after, " ")
			got = append(got, name)
		}
		if strings.Join(got, " ") != want || strings.Count(out.String(), "no space left") == 0 {
			t.Errorf("at %v there is\n%s", level, out.String())
		}
	}
	klog.SetLogger(logr.Discard())
}

// TestWhatToDo: what people get wrong at podd's start is answered with what helps.
func TestWhatToDo(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--hlep"}, "podd --help"},
		{[]string{"start"}, "podd --help"},
		{[]string{"teardown", "--purg"}, "podd --help"},
		{[]string{"--version"}, ""},
	} {
		cmd := command()
		cmd.SetArgs(c.args)
		cmd.SetOut(io.Discard)
		err := cmd.Execute()
		if (err == nil) != (c.want == "") {
			t.Errorf("podd %s: %v", c.args, err)
		} else if err != nil && !strings.Contains(whatToDo(err), c.want) {
			t.Errorf("podd %s: %v: %q", c.args, err, whatToDo(err))
		}
	}
	for _, err := range []error{fmt.Errorf("open state x: %w", store.ErrInUse), fmt.Errorf("x: %w", sandbox.ErrInUse), errors.New("node bundle: find podd-logd: stat /nope: no such file")} {
		if whatToDo(err) == "" {
			t.Errorf("nothing helps against %v", err)
		}
	}
	for _, err := range []error{unix.EADDRINUSE, unix.EADDRNOTAVAIL} {
		if got := whatToDo(fmt.Errorf("serve TLS (--tls-listen): %w", err)); !strings.Contains(got, "--tls-listen ") {
			t.Errorf("%v: %q", err, got)
		}
	}
	if got := whatToDo(errors.New("write: no space left on device")); got != "" {
		t.Errorf("%q", got)
	}
}
