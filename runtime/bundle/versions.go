package bundle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/version"
)

// fixed is, for each line of releases, the first one with the fixes of the holes known when this was written; releases of
// later lines have them from the start, and lines that are not named have never got them. A line is major.minor.
//
// runc: CVE-2024-21626 (leaked descriptor as working directory), CVE-2025-31133, -52565, -52881 (masked paths, console and
// labels through links), CVE-2026-41579 (/dev of an image as a link). containerd: CVE-2024-25621 (open directories),
// CVE-2025-47290 (links while unpacking), CVE-2026-46680, and those of its CRI plugin up to CVE-2026-53488, which podd does
// not use, but others may who share it.
var fixed = map[string][]string{
	"runc":       {"1.3.6", "1.4.3", "1.5.0"},
	"containerd": {"1.7.33", "2.2.5", "2.3.2"},
}

// outdated tells whether a version is from before the fixes. What follows the three numbers does not count: a distribution
// may have put fixes into an older release, and that cannot be seen. An error: it is no version.
func outdated(name, v string) (bool, error) {
	have, err := version.ParseGeneric(v)
	if err != nil {
		return false, fmt.Errorf("version of %s: %w", name, err)
	}
	for _, f := range fixed[name] {
		first := version.MustParseGeneric(f)
		if have.Major() == first.Major() && have.Minor() == first.Minor() {
			return have.LessThan(first), nil
		}
	}
	last := fixed[name][len(fixed[name])-1]
	return have.LessThan(version.MustParseGeneric(last)), nil
}

// CheckVersions says in the log when containerd, whose version the caller has asked for, or the runc that it starts is
// from before the fixes of known holes. podd goes on: the distribution may have its own fixes.
func (b *Bundle) CheckVersions(ctx context.Context, containerd string) {
	b.report("containerd", b.ContainerdSocket(), containerd, nil)
	path, err := b.runc()
	if err != nil {
		b.report("runc", "", "", err)
		return
	}
	v, err := runcVersion(ctx, path)
	b.report("runc", path, v, err)
}

// report writes at most one line.
func (b *Bundle) report(name, where, v string, err error) {
	old := false
	if err == nil {
		old, err = outdated(name, v)
	}
	switch {
	case err != nil:
		b.o.Log.Warn("cannot tell whether "+name+" has the fixes of known holes", "at", where, "version", v, "err", err)
	case old:
		b.o.Log.Warn(name+" is from before the fixes of known holes: containers may be able to reach the host, "+
			"unless the distribution has put the fixes in", "at", where, "version", v, "fixed", strings.Join(fixed[name], ", "))
	default:
		b.o.Log.Debug("version is fine", "of", name, "at", where, "version", v)
	}
}

// runc is the path of the runc that containerd starts: the bundle's, or the one in the PATH of an external containerd.
func (b *Bundle) runc() (string, error) {
	if b.o.ContainerdAddress == "" {
		return filepath.Join(b.o.BinDir, "runc"), nil
	}
	p, err := listener(b.o.ContainerdAddress)
	if err != nil {
		return "", err
	}
	defer p.close()
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.pid))
	if err != nil {
		return "", fmt.Errorf("read environment of containerd: %w", err)
	}
	return lookPath("runc", pathOf(string(env)))
}

// pathOf is the PATH of an environment as /proc shows it. Without one execvp's default is used.
func pathOf(environ string) string {
	for entry := range strings.SplitSeq(environ, "\x00") {
		if path, ok := strings.CutPrefix(entry, "PATH="); ok {
			return path
		}
	}
	return "/bin:/usr/bin"
}

func lookPath(name, path string) (string, error) {
	for _, dir := range filepath.SplitList(path) {
		file := filepath.Join(dir, name)
		if st, err := os.Stat(file); filepath.IsAbs(dir) && err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return file, nil
		}
	}
	return "", fmt.Errorf("find %s in %s: %w", name, path, exec.ErrNotFound)
}

// runcVersion asks the binary. The answer's first line is "runc version 1.5.1".
func runcVersion(ctx context.Context, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.Env, cmd.WaitDelay = []string{"PATH=/usr/bin:/bin"}, time.Second
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	text, err := io.ReadAll(io.LimitReader(out, 4096))
	cancelled := errors.Join(err, cmd.Wait())
	line, _, _ := strings.Cut(string(text), "\n")
	v, ok := strings.CutPrefix(line, "runc version ")
	if !ok {
		return "", errors.Join(fmt.Errorf("%s --version: said %.60q", path, line), cancelled)
	}
	return v, nil
}
