package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSettings: a teardown of a podd that does not run refuses other flags than it ran with. What an older podd has not recorded, what
// cannot be read, and directories that were moved hold nothing up.
func TestSettings(t *testing.T) {
	for _, change := range []struct {
		what    string
		do      func(t *testing.T, had config, given *config)
		refused string // "" is that they are taken
		said    string
	}{
		{"the same", func(*testing.T, config, *config) {}, "", ""},
		{"spelled otherwise", func(_ *testing.T, _ config, given *config) { given.LogDir += "/" }, "", ""},
		{"what matters to no teardown", func(_ *testing.T, _ config, given *config) { given.LogLevel, given.PodCIDR = "debug", "10.1.0.0/16" }, "", ""},
		{"namespace", func(_ *testing.T, _ config, given *config) { given.Namespace = "other" }, "--namespace=podd (here: other)", ""},
		{"two", func(_ *testing.T, _ config, given *config) { given.Bridge, given.NftTable = "br1", "t" }, "--bridge=podd0 (here: br1), --nft-table=podd (here: t)", ""},
		{"containerd", func(_ *testing.T, _ config, given *config) { given.Containerd = "/c.sock" }, "--containerd= (here: /c.sock)", ""},
		{"state", func(t *testing.T, _ config, given *config) { given.State = t.TempDir() }, "--state=", ""},
		{"root, as the state knows", func(t *testing.T, _ config, given *config) { given.Root = t.TempDir() }, "--root=", ""},
		{"root that was moved, after a boot", func(t *testing.T, had config, given *config) {
			given.Root = filepath.Join(t.TempDir(), "moved")
			must(t, os.RemoveAll(had.State))
			must(t, os.Rename(had.Root, given.Root))
		}, "", ""},
		{"of an older podd", func(t *testing.T, had config, given *config) {
			given.Namespace = "other"
			must(t, os.Remove(filepath.Join(had.Root, settingsFile)))
			must(t, os.Remove(filepath.Join(had.State, settingsFile)))
		}, "", ""},
		{"of a podd that knew fewer", func(t *testing.T, had config, given *config) {
			given.Namespace = "other"
			for _, dir := range []string{had.Root, had.State} {
				must(t, os.WriteFile(filepath.Join(dir, settingsFile), []byte(`{"bridge": "podd0", "more": "x"}`), 0o600))
			}
		}, "", ""},
		{"corrupt", func(t *testing.T, had config, given *config) {
			given.Namespace = "other"
			must(t, os.WriteFile(filepath.Join(had.Root, settingsFile), []byte("{\"names"), 0o600))
			must(t, os.RemoveAll(had.State))
		}, "", "whether podd was started with other flags is not known: read "},
		{"corrupt in one place", func(t *testing.T, had config, given *config) {
			given.Namespace = "other"
			must(t, os.WriteFile(filepath.Join(had.Root, settingsFile), []byte{0}, 0o600))
		}, "--namespace=podd", "is not known: read "},
	} {
		t.Run(change.what, func(t *testing.T) {
			had := defaults()
			had.Root, had.State = filepath.Join(t.TempDir(), "root"), filepath.Join(t.TempDir(), "state")
			must(t, os.Mkdir(had.Root, 0o700))
			must(t, os.Mkdir(had.State, 0o700))
			must(t, os.WriteFile(filepath.Join(had.Root, settingsFile), []byte("of an older start"), 0o600))
			must(t, recordSettings(had))
			for _, dir := range []string{had.Root, had.State} {
				if info, err := os.Stat(filepath.Join(dir, settingsFile)); err != nil || info.Mode().Perm() != 0o600 {
					t.Errorf("the record is %v, %v", info, err)
				}
			}
			given := had
			change.do(t, had, &given)
			var out bytes.Buffer
			err := (&teardown{config: &given, out: &out}).fitsRecord()
			switch {
			case change.refused == "" && err != nil:
				t.Errorf("refused: %v", err)
			case change.refused != "" && (err == nil || !strings.Contains(err.Error(), "was started with other flags, and nothing was done; give those that it had: ") ||
				!strings.Contains(err.Error(), change.refused)):
				t.Errorf("the error is %v, want %q", err, change.refused)
			}
			if said := out.String(); said != "" && change.said == "" || !strings.Contains(said, change.said) {
				t.Errorf("said %q, want %q", said, change.said)
			}
		})
	}
}

// TestSettingsOnce: what is recorded already is not written again, for that waits for the disk.
func TestSettingsOnce(t *testing.T) {
	c := defaults()
	c.Root, c.State = t.TempDir(), t.TempDir()
	must(t, recordSettings(c))
	before, err := os.Stat(filepath.Join(c.Root, settingsFile))
	must(t, err)
	must(t, recordSettings(c))
	after, err := os.Stat(filepath.Join(c.Root, settingsFile))
	must(t, err)
	if !os.SameFile(before, after) {
		t.Error("the same was written again")
	}
	c.Bridge = "br1"
	must(t, recordSettings(c))
	if has, err := recordedSettings(c.Root); err != nil || has["bridge"] != "br1" {
		t.Errorf("recorded are %v, %v", has, err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
