//go:build host

// Package cgroupv2 shows podd on a host of cgroup v2, whatever the host of the test has: a virtual machine, emulated in
// software, with a kernel of the distribution and an initramfs that holds podd, its bundle and some of the distribution's
// programs. What is checked is in guest, which runs in there; here the machine is made, and what it writes to its console
// becomes the tests' results.
package cgroupv2

import (
	"bufio"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"podd/test/harness"
	"podd/test/ociimage"
)

// limit is far above what the machine needs, also on a host that does other things.
const limit = 30 * time.Minute

// checks is what the guest has to report, each: a machine that stops early must not pass.
var checks = []string{
	"QoS classes", "what a container sees", "what a privileged container sees", "what metrics say", "OOM kill", "SIGKILL is not an OOM kill",
	"delete kills everything", "in-place resize", "block devices", "users of its own", "nfs", "nfs of a dead server",
	"iscsi", "iscsi by two portals and of others", "iscsi with chap", "iscsi of a killed podd", "iscsi of a dead target", "podd in a pod of podd", "teardown",
	"pods below podd's own cgroup", "teardown below podd's own cgroup",
	"pods in a cgroup namespace",
}

// modules is what podd's pods need and Debian's kernel has as modules, and what serves them; what these depend on is found.
var modules = []string{
	"overlay", "bridge", "br_netfilter", "veth", "nf_tables", "nft_chain_nat", "nft_nat", "nft_masq", "nft_ct", "nft_fib_inet",
	"brd", "nfsd", "nfs", "nfsv4",
	"iscsi_tcp", "sd_mod", "iscsi_target_mod", "target_core_file",
}

func TestCgroupV2(t *testing.T) {
	root, err := harness.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	// `install/packages cgroupv2` unpacks the kernel.
	kernels, err := filepath.Glob(filepath.Join(root, ".build/kernel/boot/vmlinuz-*"))
	if err != nil || len(kernels) != 1 {
		t.Fatalf("want one kernel in .build/kernel, have %v; `make cgroupv2` gets it", kernels)
	}
	initramfs := filepath.Join(t.TempDir(), "initramfs")
	if err := pack(t.Context(), root, harness.Built(t), initramfs); err != nil {
		t.Fatal(err)
	}
	console, said := boot(t, kernels[0], initramfs)
	for _, name := range checks {
		t.Run(name, func(t *testing.T) {
			switch why, ok := said[name]; {
			case !ok:
				t.Errorf("the machine did not come to it; its console:\n%s", console)
			case why != "":
				t.Errorf("%s; the console:\n%s", why, console)
			}
		})
		delete(said, name)
	}
	for name, why := range said {
		t.Errorf("%s: %s; the console:\n%s", name, why, console)
	}
}

// boot runs the machine until it stops, and answers what it wrote and the verdicts in it: "" is good.
func boot(t *testing.T, kernel, initramfs string) (console string, said map[string]string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	// la57 and cx16 are what the emulator does wrong: Linux 6.12 dies of the latter.
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-accel", "tcg,thread=multi", "-cpu", "max,la57=off,cx16=off", "-smp", "2", "-m", "1280",
		"-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio", "-device", "virtio-rng-pci",
		"-kernel", kernel, "-initrd", initramfs, "-append", "console=ttyS0 quiet panic=-1")
	var problems bytes.Buffer
	cmd.Stderr = &problems
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	said = map[string]string{}
	var all strings.Builder
	began, ended := time.Now(), false
	for lines := bufio.NewScanner(out); lines.Scan(); {
		line := strings.TrimRight(lines.Text(), "\r")
		fmt.Fprintf(&all, "%5.1f %s\n", time.Since(began).Seconds(), line)
		if testing.Verbose() {
			fmt.Printf("%5.1f %s\n", time.Since(began).Seconds(), line)
		}
		if name, ok := strings.CutPrefix(line, "PASS "); ok {
			said[name] = ""
		} else if rest, ok := strings.CutPrefix(line, "FAIL "); ok {
			name, why, _ := strings.Cut(rest, ": ")
			said[name] = why
		}
		ended = ended || strings.HasPrefix(line, "END ")
	}
	if err := cmd.Wait(); err != nil || !ended {
		t.Errorf("the machine did not end well: %v %v\n%s%s", err, ctx.Err(), problems.String(), all.String())
	}
	return all.String(), said
}

// pack writes the initramfs: the guest program as init, podd with its bundle, an image, the kernel's modules.
func pack(ctx context.Context, root, bin, name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	buffered := bufio.NewWriterSize(f, 1<<20)
	a := archive{w: buffered}
	for _, d := range []string{
		"newroot", "proc", "sys", "dev", "run", "tmp", "bin", "etc", "etc/podd", "var", "var/lib", "var/lib/podd", "var/log", "modules",
		"opt", "opt/podd", "opt/podd/bin", "opt/podd/libexec", "opt/podd/libexec/podd",
	} {
		a.add(d, dirMode, nil)
	}
	a.add("dev/console", consoleMode, nil)
	for file, content := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\n", "etc/group": "root:x:0:\n",
		"etc/hosts": "127.0.0.1 localhost\n", "etc/resolv.conf": "nameserver 192.0.2.1\n",
	} {
		a.add(file, fileMode, []byte(content))
	}
	guest := filepath.Join(filepath.Dir(name), "guest")
	build := exec.CommandContext(ctx, "go", "build", "-ldflags", "-s -w", "-o", guest, "./test/cgroupv2/guest")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build guest: %w\n%s", err, out)
	}
	a.copy("init", guest)
	a.copy("opt/podd/bin/podd", filepath.Join(bin, "podd"))
	for _, b := range []string{"containerd", "containerd-shim-runc-v2", "runc", "podd-logd", "pause", "bridge", "host-local", "loopback", "portmap"} {
		a.copy("opt/podd/libexec/podd/"+b, filepath.Join(filepath.Dir(bin), "libexec/podd", b))
	}
	image, err := testImage()
	if err != nil {
		return err
	}
	a.add("image.tar", fileMode, image)
	if err := a.addPrograms(filepath.Join(root, ".build/iscsi")); err != nil {
		return err
	}
	sorted, err := inOrder(filepath.Join(root, ".build/kernel/lib/modules"), modules)
	if err != nil {
		return err
	}
	for i, m := range sorted {
		a.copy(fmt.Sprintf("modules/%03d-%s", i, filepath.Base(m)), m)
	}
	return errors.Join(a.end(), buffered.Flush())
}

func testImage() ([]byte, error) {
	img, err := ociimage.Busybox("localhost/busybox:test", "/bin/busybox")
	if err != nil {
		return nil, err
	}
	built, err := img.Build()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = ociimage.WriteOCI(&b, built)
	return b.Bytes(), err
}

// inOrder is the files of kernel modules, each after those it depends on.
func inOrder(dir string, wanted []string) ([]string, error) {
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(filepath.Base(path), ".ko"); ok {
			files[strings.ReplaceAll(name, "-", "_")] = path
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var out []string
	seen := map[string]bool{}
	var visit func(name string) error
	visit = func(name string) error {
		if seen[name] || name == "" {
			return nil
		}
		seen[name] = true
		if files[name] == "" {
			return fmt.Errorf("find kernel module %s: not below %s", name, dir)
		}
		needs, err := dependencies(files[name])
		if err != nil {
			return err
		}
		for _, n := range needs {
			if err := visit(strings.ReplaceAll(n, "-", "_")); err != nil {
				return err
			}
		}
		out = append(out, files[name])
		return nil
	}
	for _, name := range wanted {
		if err := visit(name); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// dependencies reads what a module says of itself: its package is unpacked, not installed, so that no list of all exists.
func dependencies(file string) ([]string, error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("read %s: no .modinfo", file)
	}
	info, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	for entry := range bytes.SplitSeq(info, []byte{0}) {
		if list, ok := bytes.CutPrefix(entry, []byte("depends=")); ok {
			return strings.Split(string(list), ","), nil
		}
	}
	return nil, nil
}

// Modes of files in an initramfs.
const (
	dirMode     = 0o040755
	fileMode    = 0o100644
	programMode = 0o100755
	consoleMode = 0o020600 // a character device; add gives it the number of /dev/console
)

// archive writes cpio in the "newc" format that the kernel unpacks (Documentation/driver-api/early-userspace/buffer-format.rst).
type archive struct {
	w   io.Writer
	ino int
	err error
}

func (a *archive) add(name string, mode int, content []byte) {
	if a.err != nil {
		return
	}
	a.ino++
	major, minor := 0, 0
	if mode == consoleMode {
		major, minor = 5, 1
	}
	head := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.ino, mode, 0, 0, 1, 0, len(content), 0, 0, major, minor, len(name)+1, 0, name)
	for _, part := range [][]byte{[]byte(head), content} {
		_, err := a.w.Write(append(part, make([]byte, -len(part)&3)...))
		a.err = errors.Join(a.err, err)
	}
}

// copy adds a program, or another file for which it does not matter.
func (a *archive) copy(name, file string) {
	content, err := os.ReadFile(file)
	a.err = errors.Join(a.err, err)
	a.add(name, programMode, content)
}

func (a *archive) end() error {
	a.add("TRAILER!!!", 0, nil)
	return a.err
}
