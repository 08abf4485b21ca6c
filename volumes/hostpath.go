package volumes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"podd/runtime/killpoint"
)

// ensureHostPath checks that the path is what its type says, and makes it where the type says so. Upstream's types and
// modes: pkg/volume/hostpath/host_path.go. Without a type nothing is checked, and a directory is made if nothing is
// there, as containerd's CRI does.
func ensureHostPath(h *v1.HostPathVolumeSource) error {
	if err := checkHostPath(h.Path); err != nil {
		return err
	}
	kind := v1.HostPathUnset
	if h.Type != nil {
		kind = *h.Type
	}
	info, err := os.Stat(h.Path)
	if errors.Is(err, fs.ErrNotExist) {
		if err = createHostPath(h.Path, kind); err == nil {
			info, err = os.Stat(h.Path)
		}
	}
	if err != nil {
		return fmt.Errorf("hostPath %s: %w", h.Path, cause(err))
	}
	return checkKind(h.Path, kind, info.Mode())
}

func createHostPath(path string, kind v1.HostPathType) error {
	switch kind {
	case v1.HostPathUnset, v1.HostPathDirectoryOrCreate:
		killpoint.At("volumes.hostpath.dir")
		return os.MkdirAll(path, 0o755)
	case v1.HostPathFileOrCreate:
		killpoint.At("volumes.hostpath.file")
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		return f.Close()
	default:
		return errors.New("does not exist")
	}
}

func checkKind(path string, kind v1.HostPathType, mode fs.FileMode) error {
	want, ok := "", true
	switch kind {
	case v1.HostPathUnset:
	case v1.HostPathDirectory, v1.HostPathDirectoryOrCreate:
		want, ok = "a directory", mode.IsDir()
	case v1.HostPathFile, v1.HostPathFileOrCreate:
		want, ok = "a file", mode.IsRegular()
	case v1.HostPathSocket:
		want, ok = "a socket", mode&fs.ModeSocket != 0
	case v1.HostPathCharDev:
		want, ok = "a character device", mode&fs.ModeCharDevice != 0
	case v1.HostPathBlockDev:
		want, ok = "a block device", mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0
	default:
		return fmt.Errorf("hostPath %s: unknown type %q", path, kind)
	}
	if !ok {
		return fmt.Errorf("hostPath %s: is not %s", path, want)
	}
	return nil
}

func checkHostPath(path string) error {
	if !filepath.IsAbs(path) || strings.ContainsRune(path, 0) {
		return fmt.Errorf("hostPath %q: is not an absolute path", path)
	}
	if slices.Contains(strings.Split(path, "/"), "..") {
		return fmt.Errorf("hostPath %s: contains \"..\"", path)
	}
	return nil
}

// cause is what is wrong, without the operation and the path, which the caller says.
func cause(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("does not exist")
	}
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
