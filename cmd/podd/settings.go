package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// settingsFile is where below the root, and below the state directory, podd keeps by which flags it has made what is on the host: a
// teardown with other flags would leave that there, or take away what is another's.
const settingsFile = "settings"

// setting is one of those flags.
type setting struct{ name, value string }

func (c config) settings() []setting {
	return []setting{
		{"root", c.Root}, {"state", c.State}, {"config-dir", c.ConfigDir}, {"log-dir", c.LogDir}, {"cgroup-parent", c.CgroupParent},
		{"namespace", c.Namespace}, {"containerd", c.Containerd}, {"bridge", c.Bridge}, {"nft-table", c.NftTable},
	}
}

// others is which of the settings that a podd has are not those of c. One that an older podd did not record is not known.
func (c config) others(has map[string]string) (wrong []string) {
	for _, s := range c.settings() {
		value, known := has[s.name]
		if known && value != s.value && filepath.Clean(value) != filepath.Clean(s.value) {
			wrong = append(wrong, fmt.Sprintf("--%s=%s (here: %s)", s.name, value, s.value))
		}
	}
	return wrong
}

func (c config) byName() map[string]string {
	all := map[string]string{}
	for _, s := range c.settings() {
		all[s.name] = s.value
	}
	return all
}

// recordSettings writes the settings into both directories, durably and at once, where something else is written there.
func recordSettings(c config) error {
	text, err := json.MarshalIndent(c.byName(), "", "  ")
	if err != nil {
		return err
	}
	text = append(text, '\n')
	for _, dir := range []string{c.Root, c.State} {
		file := filepath.Join(dir, settingsFile)
		if known, err := os.ReadFile(file); err == nil && string(known) == string(text) {
			continue
		}
		if err := replaceFile(file, text); err != nil {
			return err
		}
	}
	return nil
}

// replaceFile gives a file a new content that only root reads. After a crash it has the old one or the new.
func replaceFile(file string, text []byte) error {
	next, err := os.OpenFile(file+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = next.Write(text)
	if err == nil {
		err = next.Sync()
	}
	if err = errors.Join(err, next.Close()); err != nil {
		return err
	}
	if err := os.Rename(file+".new", file); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(file))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// recordedSettings is what is written in a directory, by name; nothing where no podd has written any.
func recordedSettings(dir string) (map[string]string, error) {
	text, err := os.ReadFile(filepath.Join(dir, settingsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all map[string]string
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, fmt.Errorf("read %s: %w", filepath.Join(dir, settingsFile), err)
	}
	return all, nil
}
