package main

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// ownUsers is a pod with hostUsers: false. A kernel before Linux 6.3 cannot map tmpfs: podd says so, and nothing is left.
func (d *daemon) ownUsers() error {
	s := spec(container("app", `set -e
test "$(awk '{print $1, $3}' /proc/self/uid_map)" = "0 65536"
grep ' /sys/fs/cgroup cgroup2 ro,' /proc/mounts
test "$(cat /proc/self/cgroup)" = 0::/
test "$(stat -c %u:%g /etc/hosts /v / | sort -u)" = 0:0
if (echo max >/sys/fs/cgroup/memory.max); then exit 4; fi
echo x >/v/x
chown 65535 /v/x
`, object{"volumeMounts": []object{{"name": "v", "mountPath": "/v"}}}))
	s["hostUsers"], s["volumes"] = false, []object{{"name": "v", "emptyDir": object{}}}
	old, err := before(6, 3)
	if err != nil {
		return err
	}
	if !old {
		return d.completes("users", s)
	}
	if err := d.create("users", s); err != nil {
		return err
	}
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if err = d.told("users", "FailedCreatePodSandBox", "hostUsers: false takes Linux 6.3"); err == nil {
			break
		}
	}
	return errors.Join(err, d.remove("users"))
}

// before tells whether this kernel is an earlier one.
func before(major, minor int) (bool, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return false, err
	}
	var a, b int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &a, &b); err != nil {
		return false, err
	}
	return a < major || a == major && b < minor, nil
}
