package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// madeFile is where below the root podd keeps, as lines, which of the directories that its flags name it has made, and which above
// them: a teardown takes those away that are empty, and no other.
const madeFile = "made"

// makeDirectories makes those that podd needs from the beginning, and the ones above them.
func makeDirectories(c config) error {
	dirs := []struct {
		path string
		mode os.FileMode
	}{
		{c.Root, 0o700}, {c.State, 0o711}, {filepath.Join(c.LogDir, "pods"), 0o755}, {filepath.Join(c.LogDir, "containers"), 0o755},
		{filepath.Join(c.ConfigDir, "manifests"), 0o755}, {filepath.Join(c.ConfigDir, "cni", "net.d"), 0o755},
	}
	var made []string
	for _, dir := range dirs {
		made = append(made, missing(dir.path)...)
	}
	for i, dir := range dirs {
		if err := os.MkdirAll(filepath.Dir(dir.path), 0o755); err != nil {
			return err
		}
		if err := os.MkdirAll(dir.path, dir.mode); err != nil {
			return err
		}
		if i == 0 && len(made) > 0 { // the root: what is to be made is written down before it is
			known, err := directoriesMade(c.Root)
			if err == nil {
				err = rememberMade(c.Root, append(known, made...))
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// missing is which of a directory and those above it are not there.
func missing(dir string) (all []string) {
	for dir = filepath.Clean(dir); ; dir = filepath.Dir(dir) {
		if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
			return all
		}
		all = append(all, dir)
	}
}

// directoriesMade is which directories the podds with this root have made.
func directoriesMade(root string) ([]string, error) {
	text, err := os.ReadFile(filepath.Join(root, madeFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return strings.FieldsFunc(string(text), func(r rune) bool { return r == '\n' }), nil
}

func rememberMade(root string, dirs []string) error {
	file := filepath.Join(root, madeFile)
	if len(dirs) == 0 {
		if err := os.Remove(file); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	slices.Sort(dirs)
	text := strings.Join(slices.Compact(dirs), "\n") + "\n"
	if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// removeMade removes the directories of made that are empty. Which others there are is remembered, if the root is still there.
func removeMade(root string, made []string) error {
	slices.SortFunc(made, func(a, b string) int { return strings.Compare(b, a) }) // what is below another comes before it
	var left []string
	var errs []error
	for _, dir := range made {
		err := unix.Rmdir(dir)
		switch {
		case err == nil, errors.Is(err, unix.ENOENT):
			continue
		case !slices.ContainsFunc([]error{unix.ENOTEMPTY, unix.EEXIST, unix.EBUSY, unix.ENOTDIR}, func(used error) bool { return errors.Is(err, used) }):
			errs = append(errs, fmt.Errorf("remove directory %s: %w", dir, err))
		}
		left = append(left, dir)
	}
	if _, err := os.Stat(root); err == nil && len(made) > 0 {
		errs = append(errs, rememberMade(root, left))
	}
	return errors.Join(errs...)
}
