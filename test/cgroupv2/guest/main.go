// Command guest is the first process of the virtual machine in which podd meets cgroup v2, and everything that runs there
// beside podd. It mounts what a host has, starts podd, checks what podd makes of pods, and writes its findings to the
// console: "PASS name", "FAIL name: why", other lines for the reader, and at last "END". Then the machine stops.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	var err error
	switch {
	case filepath.Base(os.Args[0]) == "mount.nfs" && len(os.Args) > 2:
		err = mountNFS(os.Args[1:])
	case len(os.Args) > 2 && os.Args[1] == "enter":
		err = enter(os.Args[2], os.Args[3:])
	case len(os.Args) > 1 && os.Args[1] == "stay":
		select {}
	case len(os.Args) > 1 && os.Args[1] == "check":
		check()
	default:
		if err = boot(); err == nil {
			err = attend()
		}
		if err != nil {
			fmt.Printf("FAIL boot: %v\n", err)
		}
		unix.Sync()
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART) // the machine is told not to start again
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// boot makes a host of an unpacked initramfs.
func boot() error {
	// The first root cannot be left by pivot_root, as runc has to: another mount of the same files goes over it.
	if err := unix.Mount("/", "/newroot", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind root: %w", err)
	}
	if err := os.Chdir("/newroot"); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("chroot: %w", err)
	}
	for _, m := range []struct{ fs, at, options string }{
		{"proc", "/proc", ""}, {"sysfs", "/sys", ""}, {"devtmpfs", "/dev", ""}, {"devpts", "/dev/pts", ""},
		{"cgroup2", "/sys/fs/cgroup", ""}, {"tmpfs", "/run", "mode=755"}, {"tmpfs", "/tmp", "mode=1777"},
		{"tmpfs", "/var/lib/podd", "mode=700"}, {"mqueue", "/dev/mqueue", ""},
	} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.fs, m.at, m.fs, 0, m.options); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	if err := loadModules("/modules"); err != nil {
		return err
	}
	if err := os.Setenv("PATH", "/bin"); err != nil {
		return err
	}
	if err := loopback(); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	return unix.Sethostname([]byte("guest"))
}

// loadModules loads the files of a directory in the order of their names.
func loadModules(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.ko"))
	if err != nil {
		return err
	}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		_ = f.Close()
		if err != nil {
			return fmt.Errorf("load %s: %w", name, err)
		}
	}
	return nil
}

// loopback brings up the interface by which this machine serves itself.
func loopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}

// attend runs the checks as a process of their own and reaps whatever is left to process 1 meanwhile.
func attend() error {
	pid, err := syscall.ForkExec("/init", []string{"/init", "check"}, &syscall.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return err
	}
	for {
		got, err := syscall.Wait4(-1, nil, 0, nil)
		if err != nil && err != syscall.EINTR {
			return err
		}
		if got == pid {
			return nil
		}
	}
}

const tree = "/sys/fs/cgroup"

// enter makes this process a member of a cgroup and becomes a command. A cgroup that starts with "ns:" is where a cgroup
// namespace begins, as in a container that has one: then the cgroup is the root of the tree that the command sees.
func enter(cgroup string, command []string) error {
	cgroup, namespace := strings.CutPrefix(cgroup, "ns:")
	if err := os.WriteFile(filepath.Join(tree, cgroup, "cgroup.procs"), []byte("0"), 0); err != nil {
		return err
	}
	if namespace {
		if err := unshareCgroup(); err != nil {
			return err
		}
	}
	return syscall.Exec(command[0], command, os.Environ())
}

// startIn starts a command in a cgroup, which is made. The command's output goes to a file.
func startIn(cgroup, log string, command ...string) (*exec.Cmd, error) {
	if err := os.MkdirAll(filepath.Join(tree, strings.TrimPrefix(cgroup, "ns:")), 0o755); err != nil {
		return nil, err
	}
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command("/init", append([]string{"enter", cgroup}, command...)...)
	cmd.Stdout, cmd.Stderr = out, out
	return cmd, cmd.Start()
}

// check runs all checks and reports each.
func check() {
	began := time.Now()
	for _, f := range []func() error{onHost, belowOwn, inNamespace} {
		if err := f(); err != nil {
			fmt.Printf("FAIL start: %v\n", err)
		}
	}
	fmt.Printf("END after %s\n", time.Since(began).Round(time.Second))
}

// report runs one check and says how it went.
func report(name string, d *daemon, f func() error) {
	began := time.Now()
	err := f()
	took := time.Since(began).Round(100 * time.Millisecond)
	if err == nil {
		fmt.Printf("PASS %s\n", name)
		fmt.Printf("%s took %s\n", name, took)
		return
	}
	fmt.Printf("FAIL %s: %s\n", name, strings.ReplaceAll(err.Error(), "\n", "; "))
	d.tell()
}
