package bundle

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestOutdated(t *testing.T) {
	for _, c := range []struct {
		name, version string
		want          bool
	}{
		{"runc", "1.5.1", false},
		{"runc", "1.5.0", false},
		{"runc", "1.4.3", false},
		{"runc", "1.4.2", true},
		{"runc", "1.3.6+dfsg", false},
		{"runc", "1.3.5", true},
		{"runc", "1.2.99", true}, // a line that never got the last fix
		{"runc", "1.1.5+ds1", true},
		{"runc", "1.0.0-rc95", true},
		{"runc", "1.10.0", false},
		{"runc", "2.0.0", false},
		{"containerd", "2.4.2+unknown", false},
		{"containerd", "v2.3.2", false},
		{"containerd", "2.3.1", true},
		{"containerd", "2.2.5", false},
		{"containerd", "2.1.9", true},
		{"containerd", "1.7.33", false},
		{"containerd", "1.6.20~ds1", true},
	} {
		if got, err := outdated(c.name, c.version); got != c.want || err != nil {
			t.Errorf("%s %s: %v, %v; want %v", c.name, c.version, got, err, c.want)
		}
	}
	for _, v := range []string{"", "unknown", "main", "1"} {
		if got, err := outdated("runc", v); err == nil {
			t.Errorf("runc %q: %v, want an error", v, got)
		}
	}
}

// One line tells of an old runc, one of a runc that cannot be asked, none of a good one.
func TestCheckVersions(t *testing.T) {
	for _, c := range []struct {
		script, containerd string
		want               []string
	}{
		{"echo runc version 1.5.1", "2.4.2+unknown", nil},
		{"echo runc version 1.1.5+ds1; echo more", "2.4.2", []string{"runc is from before", "version=1.1.5+ds1", `fixed="1.3.6, 1.4.3, 1.5.0"`}},
		{"echo runc version 1.5.1", "1.6.20~ds1", []string{"containerd is from before", "version=1.6.20~ds1"}},
		{"echo crun version 1.5.1", "2.4.2", []string{"cannot tell whether runc", "crun version"}},
		{"exit 1", "2.4.2", []string{"cannot tell whether runc", "exit status 1"}},
		{"echo runc version 1.5.1", "", []string{"cannot tell whether containerd"}},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "runc"), []byte("#!/bin/sh\n"+c.script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		New(Options{BinDir: dir, RunDir: dir, Log: slog.New(slog.NewTextHandler(&log, nil))}).CheckVersions(t.Context(), c.containerd)
		if lines := strings.Count(log.String(), "\n"); lines != min(len(c.want), 1) {
			t.Errorf("%s, containerd %q: %d lines:\n%s", c.script, c.containerd, lines, &log)
		}
		for _, part := range c.want {
			if !strings.Contains(log.String(), part) {
				t.Errorf("%s, containerd %q: no %q in\n%s", c.script, c.containerd, part, &log)
			}
		}
	}
}

func TestPathOf(t *testing.T) {
	if got := pathOf("A=1\x00PATH=/x:/y\x00B=2\x00"); got != "/x:/y" {
		t.Errorf("PATH = %q", got)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "runc"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := lookPath("runc", dir); err == nil {
		t.Errorf("found %s, which cannot be executed", got)
	}
}
