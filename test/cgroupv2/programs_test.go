//go:build host

package cgroupv2

import (
	"debug/elf"
	"fmt"
	"os"
	"path"
	"path/filepath"
)

// programs is what a host has to mount disks of iSCSI targets, each a program of its own or another's name.
var programs = []string{"iscsiadm", "iscsid", "blkid", "dd", "mkfs.ext4", "fsck", "fsck.ext4", "mount"}

// addPrograms adds programs of an unpacked distribution as /bin has them, their libraries and what they read in /etc.
func (a *archive) addPrograms(dir string) error {
	for _, d := range []string{"etc/iscsi", "lib64", "lib", "lib/x86_64-linux-gnu"} {
		a.add(d, dirMode, nil)
	}
	for _, file := range []string{"etc/iscsi/iscsid.conf", "etc/mke2fs.conf"} {
		a.copy(file, filepath.Join(dir, file))
	}
	const loader = "lib64/ld-linux-x86-64.so.2"
	a.copy(loader, filepath.Join(dir, loader))
	added := map[string]bool{path.Base(loader): true}
	var needed []string
	for _, name := range programs {
		file, err := unpacked(dir, name, "sbin", "bin", "usr/sbin", "usr/bin")
		if err != nil {
			return err
		}
		a.copy("bin/"+name, file)
		more, err := libraries(file)
		if err != nil {
			return err
		}
		needed = append(needed, more...)
	}
	for len(needed) > 0 {
		name := needed[0]
		needed = needed[1:]
		if added[name] {
			continue
		}
		added[name] = true
		file, err := unpacked(dir, name, "lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")
		if err != nil {
			return err
		}
		a.copy("lib/x86_64-linux-gnu/"+name, file)
		more, err := libraries(file)
		if err != nil {
			return err
		}
		needed = append(needed, more...)
	}
	return nil
}

// unpacked is the file of that name in one of the directories in.
func unpacked(dir, name string, in ...string) (string, error) {
	for _, d := range in {
		file := filepath.Join(dir, d, name)
		if st, err := os.Stat(file); err == nil && st.Mode().IsRegular() {
			return file, nil
		}
	}
	return "", fmt.Errorf("find %s: not in %v of %s", name, in, dir)
}

// libraries are the names of those that a program or a library needs.
func libraries(file string) ([]string, error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	defer f.Close()
	all, err := f.ImportedLibraries()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	return all, nil
}
