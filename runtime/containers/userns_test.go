package containers

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestFeatures: what a runtime says of itself stays while podd runs; that it could not be asked does not.
func TestFeatures(t *testing.T) {
	const able = `echo '{"linux": {"namespaces": ["user"], "mountExtensions": {"idmap": {"enabled": true}}}}'`
	for name, c := range map[string]struct {
		script  string
		can     bool
		lasting bool
	}{
		"able":          {able, true, true},
		"not able":      {"echo '{}'", false, true},
		"old":           {"echo No help topic for features; exit 3", false, true},
		"killed":        {"kill -9 $$", false, false},
		"not there yet": {"", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "runc")
			if c.script != "" {
				if err := os.WriteFile(path, fmt.Appendf(nil, "#!/bin/sh\n[ \"$*\" = features ] && %s\n", c.script), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			err := (&Client{opts: Options{Runc: path}}).mapsMounts(t.Context(), "")
			if (err == nil) != c.can || lasting(err) != c.lasting {
				t.Errorf("can: %v, which stays: %t", err, lasting(err))
			}
		})
	}
}
