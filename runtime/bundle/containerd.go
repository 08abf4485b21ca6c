package bundle

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// socketDirLimit is the longest directory that containerd accepts for the sockets of its shims: a socket's path has
// 108 bytes, and the name takes most of them (containerd core/runtime/v2/socket_linux.go).
const socketDirLimit = 42

// unused are the plugins that podd has no work for; each costs memory, and some make directories outside podd's own.
var unused = []string{
	"io.containerd.differ.v1.erofs",
	"io.containerd.image-verifier.v1.bindir",
	"io.containerd.internal.v1.opt",
	"io.containerd.metrics.v1.grpc-otel",
	"io.containerd.metrics.v1.grpc-prometheus",
	"io.containerd.monitor.container.v1.restart",
	"io.containerd.mount-handler.v1.erofs",
	"io.containerd.nri.v1.nri",
	"io.containerd.http.v1.pprof",
	"io.containerd.server.v1.debug",
	"io.containerd.server.v1.grpc-tcp",
	"io.containerd.server.v1.metrics",
	"io.containerd.snapshotter.v1.blockfile",
	"io.containerd.snapshotter.v1.erofs",
	"io.containerd.snapshotter.v1.native",
}

// containerd describes podd's own containerd.
func (o Options) containerd() *service {
	dir := o.containerdDir()
	config := filepath.Join(dir, "config.toml")
	return &service{
		name:   "containerd",
		binary: filepath.Join(o.BinDir, "containerd"),
		args:   []string{"--config", config},
		socket: o.containerdSocket(),
		record: filepath.Join(dir, "process.json"),
		output: filepath.Join(o.StateDir, "containerd.log"),
		files:  map[string]string{config: o.containerdConfig()},
		path:   o.BinDir,
		dirs:   []string{o.StateDir, o.RunDir, dir, filepath.Join(o.StateDir, "containerd")},
		log:    o.Log,
		before: o.BeforeContainerd,

		running: make(chan struct{}),
	}
}

// logd describes the log writer.
func (o Options) logd() *service {
	return &service{
		name:   "podd-logd",
		binary: o.logdBinary(),
		args:   []string{"--socket", o.logdSocket()},
		socket: o.logdSocket(),
		record: filepath.Join(o.RunDir, "logd.json"),
		output: filepath.Join(o.StateDir, "logd.log"),
		path:   o.BinDir,
		dirs:   []string{o.StateDir, o.RunDir},
		log:    o.Log,

		running: make(chan struct{}),
	}
}

// logdBinary is beside containerd, or beside podd itself.
func (o Options) logdBinary() string {
	inBundle := filepath.Join(o.BinDir, "podd-logd")
	if _, err := os.Stat(inBundle); err == nil {
		return inBundle
	}
	if exe, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(exe), "podd-logd")
		if _, err := os.Stat(beside); err == nil {
			return beside
		}
	}
	return inBundle
}

// containerdConfig is containerd's configuration file. volatile spares the syncfs at each unmount, which waits for the
// whole disk; in return a snapshot cannot be mounted again after a crash of the host, so every attempt of a container
// gets a new one. gc waits a second, so that many deletes make one collection.
func (o Options) containerdConfig() string {
	dir := o.containerdDir()
	var b strings.Builder
	fmt.Fprintf(&b, "# Written by podd at each start; changes are lost.\nversion = 4\nroot = %q\nstate = %q\n",
		filepath.Join(o.StateDir, "containerd"), filepath.Join(dir, "state"))
	b.WriteString("disabled_plugins = [\n")
	for _, p := range unused {
		fmt.Fprintf(&b, "  %q,\n", p)
	}
	b.WriteString("]\n\n[debug]\n  level = \"warn\"\n\n")
	fmt.Fprintf(&b, "[plugins.\"io.containerd.server.v1.grpc\"]\n  address = %q\n\n", o.containerdSocket())
	fmt.Fprintf(&b, "[plugins.\"io.containerd.server.v1.ttrpc\"]\n  address = %q\n\n", o.containerdSocket()+".ttrpc")
	b.WriteString("[plugins.\"io.containerd.snapshotter.v1.overlayfs\"]\n  mount_options = [\"volatile\"]\n\n")
	b.WriteString("[plugins.\"io.containerd.gc.v1.scheduler\"]\n  schedule_delay = \"1s\"\n")
	if sockets := filepath.Join(dir, "s"); len(sockets) <= socketDirLimit {
		fmt.Fprintf(&b, "\n[plugins.\"io.containerd.shim.v1.manager\"]\n  socket_dir = %q\n", sockets)
	}
	return b.String()
}
