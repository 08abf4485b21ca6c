package logs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// maxName is the longest file name that Linux file systems take.
const maxName = 255

// PodDir names the directory that holds the log files of a pod: <logDir>/pods/<namespace>_<pod>_<uid>. A name that would
// be longer than a file name may be loses the end of the pod's name; the uid keeps it unique.
func PodDir(logDir, namespace, pod, uid string) string {
	if over := len(namespace) + len(pod) + len(uid) + 2 - maxName; over > 0 {
		pod = pod[:max(0, len(pod)-over)]
	}
	return filepath.Join(logDir, "pods", namespace+"_"+pod+"_"+uid)
}

// Path names the log file of one container instance, as upstream does (pkg/kubelet/kuberuntime/helpers.go,
// BuildContainerLogsDirectory): <logDir>/pods/<namespace>_<pod>_<uid>/<container>/<attempt>.log.
func Path(logDir, namespace, pod, uid, container string, attempt int) string {
	return filepath.Join(PodDir(logDir, namespace, pod, uid), container, strconv.Itoa(attempt)+".log")
}

// link names the link that log shippers look for (pkg/kubelet/kuberuntime/legacy.go, logSymlink).
func link(logDir, namespace, pod, container, id string) string {
	name, end := pod+"_"+namespace+"_"+container, "-"+id+".log"
	if over := len(name) + len(end) - maxName; over > 0 {
		name = name[:max(0, len(name)-over)]
	}
	return filepath.Join(logDir, "containers", name+end)
}

// EnsureLink makes <logDir>/containers/<pod>_<namespace>_<container>-<id>.log point to path.
func EnsureLink(logDir, namespace, pod, container, id, path string) error {
	name := link(logDir, namespace, pod, container, id)
	if to, err := os.Readlink(name); err == nil && to == path {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("link log: %w", err)
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("link log: %w", err)
	}
	if err := os.Symlink(path, name); err != nil {
		return fmt.Errorf("link log: %w", err)
	}
	return nil
}

// RemoveLink takes that link away.
func RemoveLink(logDir, namespace, pod, container, id string) error {
	err := os.Remove(link(logDir, namespace, pod, container, id))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unlink log: %w", err)
	}
	return nil
}

// RemovePod removes the log files of a pod and the links to them. Nothing may be written for it any more.
func RemovePod(logDir, namespace, pod, uid string) error {
	dir := PodDir(logDir, namespace, pod, uid)
	links := filepath.Join(logDir, "containers")
	entries, err := os.ReadDir(links)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove logs of pod %s: %w", pod, err)
	}
	for _, e := range entries {
		name := filepath.Join(links, e.Name())
		to, err := os.Readlink(name)
		if err != nil || !strings.HasPrefix(to, dir+"/") {
			continue
		}
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove logs of pod %s: %w", pod, err)
		}
	}
	// A file that is just being packed may appear behind the back of the first try.
	for range 2 {
		if err = os.RemoveAll(dir); err == nil {
			return nil
		}
	}
	return fmt.Errorf("remove logs of pod %s: %w", pod, err)
}

// RemoveContainer removes the log files of one instance, the live one and the rotated ones.
func RemoveContainer(path string) error {
	rotated, err := rotatedFiles(path)
	if err != nil {
		return fmt.Errorf("remove log %s: %w", path, err)
	}
	names := []string{path}
	for _, r := range rotated {
		names = append(names, filepath.Join(filepath.Dir(path), r.name))
	}
	for _, name := range names {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove log %s: %w", path, err)
		}
	}
	return nil
}
