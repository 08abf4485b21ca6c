// Package handler is what stands behind the handler of a RuntimeClass, as --runtime-handler names it: an OCI runtime with
// runc's command line, which runc's shim runs, or another of containerd's shims.
package handler

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Handler makes the containers of pods. The zero one is runc as containerd finds it.
type Handler struct {
	Path   string // of the OCI runtime or of the shim, absolute; "" for a shim that is looked up by its type
	Type   string // containerd's name of a shim, as io.containerd.runsc.v1; "" for an OCI runtime
	Config string // file that the shim reads its options from, or ""
}

// program is what the file name of every shim begins with, by containerd's rule.
const program = "containerd-shim-"

// Parse reads the value of --runtime-handler: PATH of an OCI runtime, or SHIM[:FILE], where SHIM is a shim's type or
// its path, which ends in containerd-shim-NAME-VERSION. It does not look whether they are there.
func Parse(value string) (Handler, error) {
	shim, config, configured := strings.Cut(value, ":")
	h := Handler{Config: config}
	switch base := filepath.Base(shim); {
	case strings.Contains(value, ","):
		return h, fmt.Errorf("%q: must be without commas", value)
	case configured && !filepath.IsAbs(config):
		return h, fmt.Errorf("%q: the shim's file must be an absolute path", value)
	case !filepath.IsAbs(shim):
		h.Type = shim
	case strings.HasPrefix(base, program):
		h.Path = shim
		name, version, ok := cutLast(strings.TrimPrefix(base, program), "-")
		if h.Type = "io.containerd." + name + "." + version; !ok {
			return h, fmt.Errorf("%q: a shim's file must be called %sNAME-VERSION", value, program)
		}
	case configured:
		return h, fmt.Errorf("%q: an OCI runtime has no file of options: a shim's is called %sNAME-VERSION", value, program)
	default:
		h.Path = shim
		return h, nil
	}
	if h.file() == "" {
		return h, fmt.Errorf("%q: must be an absolute path, or a shim's type like io.containerd.runsc.v1", value)
	}
	return h, nil
}

// Shim tells whether it is a shim other than runc's.
func (h Handler) Shim() bool { return h.Type != "" }

// file is the name of the shim's program (containerd pkg/shim/util.go BinaryName); "" if the type is none.
func (h Handler) file() string {
	rest, version, ok := cutLast(h.Type, ".")
	before, name, ok2 := cutLast(rest, ".")
	if !ok || !ok2 || before == "" || strings.ContainsAny(h.Type, "/ ") {
		return ""
	}
	return program + name + "-" + version
}

// Find is the path of the program, looked up in the directories of path as a shell does; an error says what is not there.
func (h Handler) Find(path string) (string, error) {
	if h.Config != "" {
		info, err := os.Stat(h.Config)
		if err == nil && !info.Mode().IsRegular() {
			err = fmt.Errorf("%s: is no file", h.Config)
		}
		if err != nil {
			return "", err
		}
	}
	if h.Path != "" {
		return h.Path, executable(h.Path)
	}
	for _, dir := range filepath.SplitList(path) {
		if file := filepath.Join(dir, h.file()); filepath.IsAbs(file) && executable(file) == nil {
			return file, nil
		}
	}
	return "", fmt.Errorf("%s: is not in %s", h.file(), path)
}

func executable(path string) error {
	info, err := os.Stat(path)
	if err == nil && (!info.Mode().IsRegular() || info.Mode()&0o111 == 0) {
		err = fmt.Errorf("%s: is no program", path)
	}
	return err
}

// cutLast is strings.Cut at the last separator; neither part may be empty.
func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i <= 0 || i+len(sep) == len(s) {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
