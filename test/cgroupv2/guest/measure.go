package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// measured is a pod that has worked and holds memory: what podd's metrics say of it is what its cgroup says, and what it
// is known to hold.
func (d *daemon) measured() error {
	const held = 16 << 20
	script := `i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; dd if=/dev/zero of=/dev/shm/x bs=1M count=16; echo done >/done; ` + stay
	p, err := d.run("measured", spec(container("app", script, resources("10m", "64Mi", "500m", "64Mi"))))
	if err != nil {
		return err
	}
	dir := containerDir(d.kubepods("burstable", "pod"+p.Metadata.UID), p, "app")
	if err := holds(dir, held); err != nil {
		return err
	}
	text, err := d.call("GET", "/metrics/cadvisor", nil)
	if err != nil {
		return err
	}
	used, err := keyOf(dir, "cpu.stat", "usage_usec")
	if err != nil {
		return err
	}
	resting, err := keyOf(dir, "memory.stat", "inactive_file")
	if err != nil {
		return err
	}
	current, err := os.ReadFile(filepath.Join(dir, "memory.current"))
	if err != nil {
		return err
	}
	now, _ := strconv.ParseFloat(strings.TrimSpace(string(current)), 64)
	var errs []error
	for name, want := range map[string][2]float64{ // at least and at most
		"container_cpu_usage_seconds_total":            {used/1e6*0.9 - 0.1, used / 1e6},
		"container_memory_working_set_bytes":           {held, now - resting + 4<<20},
		"container_memory_cache":                       {held, held + 16<<20},
		"container_spec_memory_limit_bytes":            {64 << 20, 64 << 20},
		"container_spec_cpu_quota":                     {50000, 50000},
		"container_processes":                          {1, 3},
		"container_pressure_cpu_waiting_seconds_total": {0, 1e6},
		"container_cpu_cfs_periods_total":              {1, 1e9},
	} {
		got, err := series(string(text), name, `container="app"`, `pod="measured"`)
		if err == nil && (got < want[0] || got > want[1]) {
			err = fmt.Errorf("%s is %g, want %g to %g", name, got, want[0], want[1])
		}
		errs = append(errs, err)
	}
	if got, err := series(string(text), "container_cpu_usage_seconds_total", `id="/"`); err != nil || got <= used/1e6 {
		errs = append(errs, fmt.Errorf("the node has used %g s of cpu: %w", got, err))
	}
	var top struct {
		Items []struct {
			Containers []struct{ Usage map[string]string }
		}
	}
	body, err := d.call("GET", "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods", nil)
	if err == nil {
		err = json.Unmarshal(body, &top)
	}
	if err == nil && (len(top.Items) != 1 || len(top.Items[0].Containers) != 1 || top.Items[0].Containers[0].Usage["memory"] == "") {
		err = fmt.Errorf("metrics.k8s.io: %s", body)
	}
	return errors.Join(append(errs, err, d.remove("measured"))...)
}

// holds waits until a cgroup has that much memory of files.
func holds(dir string, bytes float64) error {
	for range 600 {
		if n, err := keyOf(dir, "memory.stat", "shmem"); err != nil {
			return err
		} else if n >= bytes {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("%s never held %g bytes", dir, bytes)
}

// keyOf is a number of a file of "key value" lines.
func keyOf(dir, file, key string) (float64, error) {
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, key+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(v), 64)
		}
	}
	return 0, fmt.Errorf("%s has no %s", filepath.Join(dir, file), key)
}

// series is the value of the one line with that name and these labels.
func series(text, name string, labels ...string) (float64, error) {
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, name+"{")
		for _, l := range labels {
			ok = ok && strings.Contains(rest, l)
		}
		if ok {
			f := strings.Fields(rest[strings.LastIndexByte(rest, '}')+1:])
			return strconv.ParseFloat(f[0], 64)
		}
	}
	return 0, fmt.Errorf("there is no %s with %v", name, labels)
}
